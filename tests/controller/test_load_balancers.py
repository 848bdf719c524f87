# SPDX-License-Identifier: Apache-2.0
"""Load balancers through the control API, in what the forwarder and the health checkers are told,
in events and figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import aiohttp
import pytest

from hyperplane_nat import whole_file
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.controller.health import HealthWatch
from hyperplane_nat.controller.network import health_checks, network
from hyperplane_nat.controller.network.health_checks import Place, Verdicts
from hyperplane_nat.controller.network.hosts import reached
from hyperplane_nat.controller.network.network import Network
from hyperplane_nat.controller.network.ways_out import WaysOut
from hyperplane_nat.controller.observer import Observer
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.controller.views.balancing import (
    TargetStates,
    load_balancer_states,
    target_counts,
)
from hyperplane_nat.health.checks import FAILED, TIMEOUT, decode_checks, encode_verdicts
from hyperplane_nat.metrics.cloudwatch import TargetCount
from hyperplane_nat.model.balancer_resources import HealthCheck, TargetResource
from hyperplane_nat.model.region import Region
from netns.errors import NetnsError
from netns.topology import Host
from tests.controller.region_lab import RegionLab, talk
from tests.controller.support import config_in, run
from tests.controller.test_api_commands import ask, done, refused
from tests.model.support import Clock

GROUP: dict[str, Any] = {
    "name": "web",
    "port": 80,
    "cross_zone": True,
    "target": [{"host": "one"}, {"host": "two", "port": 8080}],
    "deregistration_terminates": True,
    "health_check": {"protocol": "HTTP", "path": "/ok"},
}
VPC: dict[str, Any] = {
    "name": "shop",
    "cidr": "10.0.0.0/16",
    "subnet": [
        {"name": "a", "cidr": "10.0.1.0/24", "availability_zone": "a"},
        {"name": "b", "cidr": "10.0.2.0/24", "availability_zone": "b"},
    ],
    "security_group": [
        {"name": "front", "ingress": [{"protocol": "tcp", "ports": "80", "cidr": "10.0.0.0/16"}]}
    ],
    "host": [{"name": "one", "subnet": "a"}, {"name": "two", "subnet": "b"}],
    "target_group": [GROUP],
    "load_balancer": [
        {
            "name": "front",
            "security_groups": ["front"],
            "secondary_addresses": 1,
            "node": [{"subnet": "a", "address": "10.0.1.100"}, {"subnet": "b"}],
            "listener": [{"port": 80, "target_group": "web"}],
        }
    ],
}


def config(directory: Path, **sections: Any) -> Config:
    return config_in(
        directory, lab={"environments": 0}, network_interface=[], **{"vpc": [VPC], **sections}
    )


class Scene:
    """A region with an active load balancer."""

    def __init__(self, directory: Path) -> None:
        self.config = config(directory)
        self.clock = Clock()
        self.region = Region(clock=self.clock, settings=lifecycle_of(self.config))
        self.region.apply(self.region.plan(resources_of(self.config)))
        self.clock.pass_seconds(120)
        self.region.advance()
        self.paths = LabPaths(self.config.lab.name, directory, directory / "state.map")
        (self.group,) = self.region.tables.target_groups.values()
        self.one, self.two = (each.place for each in self.group.targets)

    def tell(self, verdicts: Mapping[Place, Mapping[str, str]]) -> None:
        """What the checker has found of targets, by node."""
        found = {
            f"{self.group.id} {id_} {port} {node}": reason
            for (id_, port), reasons in verdicts.items()
            for node, reason in reasons.items()
        }
        whole_file.write(self.paths.health_verdicts("shop"), encode_verdicts(found))

    async def note(self, found: Mapping[str, Mapping[Place, str]]) -> None:
        with self.region.commands() as commands:
            commands.note_health(found)


A, B = "10.0.1.100", "10.0.2.5"


@pytest.fixture
def scene(directory: Path) -> Scene:
    directory.mkdir(parents=True, exist_ok=True)
    return Scene(directory)


def test_the_forwarder_is_told_of_nodes(scene: Scene) -> None:
    wanted = scene.region.wanted()
    ways = WaysOut(time_scale=10)
    first, second = ways.everything(wanted)["load_balancer_nodes"]
    (router,) = wanted.interfaces
    ((number, address),) = wanted.load_balancer_nodes[0].secondary
    assert first == {
        "number": first["number"],
        "name": first["name"],
        "address": A,
        "vpc": wanted.hosts[0].vpc_number,
        "interface": router.number,
        "mtu": 8500,
        "secondary": [{"number": number, "address": address}],
        "ingress": [{"protocol": "tcp", "cidr": "10.0.0.0/16", "first": 80, "last": 80}],
        "egress": [{"protocol": "all", "cidr": "0.0.0.0/0", "first": 0, "last": 65535}],
        "listeners": [
            {
                "protocol": "tcp",
                "port": 80,
                "idle_ms": 35_000,
                "sticky": False,
                "preserve_client_ip": True,
                "proxy_protocol": False,
                "target_group": 0,
            }
        ],
        "target_groups": [
            [{"address": "10.0.1.4", "port": 80}, {"address": "10.0.2.4", "port": 8080}]
        ],
    }
    assert second["address"] == B
    assert {first["number"], second["number"], number} < ways.numbers
    # The VPC's router finds all its addresses behind the fabric, and no checker.
    assert {A, B, address, "10.0.1.4"} < reached(wanted)["shop", router.link]
    assert not any(each.startswith("169.254") for each in reached(wanted)["shop", router.link])
    assert not any(ways.changes(wanted).values())
    with scene.region.commands() as commands:
        commands.delete_load_balancer("front")
    gone = ways.changes(scene.region.wanted())
    assert gone["remove_load_balancer_nodes"] == sorted((first["number"], second["number"]))


def test_who_checks_may_have_other_addresses_than_its_own(scene: Scene) -> None:
    (checker,) = health_checks.checkers(scene.region.wanted())
    assert checker.checks_from == (A, B)
    item = desired.host(checker, Host(checker.number, 8, "02:0", "02:1"))
    assert (item["source_check"], item["address"]) == (False, "169.254.169.252")


def test_flows_are_ended_once_and_again_when_it_is_so_again(scene: Scene) -> None:
    ways = WaysOut()

    def ended() -> list[str]:
        found = ways.to_end(scene.region.wanted())
        for node, end in found:
            ways.ended(node, end)
        return [desired.end_flows(node, end)["target"]["address"] for node, end in found]

    run(scene.note({scene.group.id: {scene.one: "", scene.two: FAILED}}))
    assert ended() == ["10.0.2.4", "10.0.2.4"]
    assert ended() == []
    run(scene.note({scene.group.id: {scene.two: ""}}))
    assert ended() == []
    run(scene.note({scene.group.id: {scene.two: FAILED}}))
    assert ended() == ["10.0.2.4", "10.0.2.4"]


def test_what_is_checked_is_written_down(scene: Scene) -> None:
    wanted = scene.region.wanted()
    orders = health_checks.Orders(scene.paths)
    orders.tell(wanted)
    path = scene.paths.health_checks("shop")
    checks = decode_checks(path.read_bytes().partition(b"\n")[2])
    assert {(each.source, each.address, each.port) for each in checks} == {
        (node, *target) for node in (A, B) for target in (("10.0.1.4", 80), ("10.0.2.4", 8080))
    }
    assert {(each.protocol, each.path) for each in checks} == {("HTTP", "/ok")}
    with scene.region.commands() as commands:
        commands.modify_target_group(scene.group.id, HealthCheck(path="/other"))
    orders.tell(scene.region.wanted())
    checks = decode_checks(path.read_bytes().partition(b"\n")[2])
    assert {(each.protocol, each.path) for each in checks} == {("TCP", "/other")}
    (checker,) = health_checks.checkers(wanted)
    assert health_checks.checker_specs(scene.config, wanted, []) == []
    (spec,) = health_checks.checker_specs(scene.config, wanted, [checker.number])
    assert spec.label == "HealthChecks/shop"
    health_checks.forget(scene.paths, wanted)
    assert path.exists()
    with scene.region.commands() as commands:
        commands.delete_load_balancer("front")
    health_checks.forget(scene.paths, scene.region.wanted())
    assert not path.exists()


def test_what_could_not_be_written_down_is_the_next_time(scene: Scene) -> None:
    wanted, orders = scene.region.wanted(), health_checks.Orders(scene.paths)
    path = scene.paths.health_checks("shop")
    path.mkdir()
    with pytest.raises(NetnsError, match="cannot write"):
        orders.tell(wanted)
    path.rmdir()
    orders.tell(wanted)
    assert len(decode_checks(path.read_bytes().partition(b"\n")[2])) == 4


def test_checkers_are_told_of_changes_in_a_row_together(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "TELLING_SECONDS", 3600.0)
    parts: Any = Mock(follow=AsyncMock(), standing=())
    lab = Network(scene.config, scene.region, parts, parts, parts, (), parts)
    paths = LabPaths.of(
        scene.config.lab.name,
        scene.config.lab.runtime_directory,
        scene.config.lab.state_directory,
    )
    paths.directory.mkdir(parents=True, exist_ok=True)
    path = paths.health_checks("shop")

    def ports() -> set[int]:
        return {each.port for each in decode_checks(path.read_bytes().partition(b"\n")[2])}

    async def change(port: int) -> None:
        with scene.region.commands() as commands:
            commands.register_targets(scene.group.id, [TargetResource("one", None, port)])
        await lab.follow_services(scene.region.wanted())

    async def go() -> None:
        await lab.follow_services(scene.region.wanted())
        assert ports() == {80, 8080}
        monkeypatch.setattr(network, "TELLING_SECONDS", 0.0)
        for port in (81, 82, 83):
            await change(port)
        assert ports() == {80, 8080}
        async with asyncio.timeout(120):
            await lab.poked.wait()
        lab._next_telling = 0.0
        await lab.follow_services(scene.region.wanted())
        assert ports() == {80, 81, 82, 83, 8080}

    run(go())


@pytest.mark.requirement("NLB-checks", profile="both")
def test_more_than_half_of_the_nodes_agree(scene: Scene) -> None:
    verdicts, wanted = Verdicts(scene.paths), scene.region.wanted()
    assert not verdicts.changed(["shop"])
    groups = {scene.group.id}
    assert verdicts.agreed(wanted, groups) == {}
    for found, agreed in (
        ({A: ""}, {}),
        ({A: "", B: TIMEOUT}, {}),
        ({A: "", B: ""}, {scene.one: ""}),
        ({A: TIMEOUT, B: FAILED}, {scene.one: TIMEOUT}),
        ({A: FAILED, B: FAILED}, {scene.one: FAILED}),
    ):
        scene.tell({scene.one: found})
        assert verdicts.changed(["shop"]) == groups
        assert not verdicts.changed(["shop"])
        assert verdicts.agreed(wanted, groups).get(scene.group.id, {}) == agreed
    assert verdicts.agreed(wanted, ()) == {}


def test_what_is_found_becomes_the_health_of_targets(scene: Scene) -> None:
    watch = HealthWatch(scene.paths, scene.region, scene.note)
    states = TargetStates(scene.region)
    run(watch.look())
    assert set(states().values()) == {"initial: Elb.InitialHealthChecking"}
    scene.tell({scene.one: {A: "", B: ""}, scene.two: {A: TIMEOUT, B: TIMEOUT}})
    run(watch.look())
    assert states() == {
        ("shop/web", "10.0.1.4:80"): "healthy",
        ("shop/web", "10.0.2.4:8080"): "unhealthy: Target.Timeout",
    }
    assert target_counts(scene.region) == [
        TargetCount("shop/front", "shop/web", zone, 1, 1) for zone in ("a", "b")
    ]
    # One that is registered anew is what the checks say, though they say nothing new.
    with scene.region.commands() as commands:
        commands.delete_listener("front:80")
        group = commands.target_group("web")
        assert {each.state.value for each in group.targets} == {"initial"}
    run(watch.look())
    with scene.region.commands() as commands:
        commands.create_listener("front", group.protocol, 80, "web")
    run(watch.look())
    assert states()["shop/web", "10.0.1.4:80"] == "healthy"


def test_events_tell_of_balancers_and_targets(scene: Scene) -> None:
    events = EventLog()
    observer = Observer(
        events,
        interfaces=dict,
        nat_gateways=dict,
        load_balancers=lambda: load_balancer_states(scene.region),
        targets=TargetStates(scene.region),
        function_of=lambda _slot: None,
        host_of=lambda _number: None,
        counters=dict,
    )
    observer.look()
    (balancer,) = scene.region.tables.load_balancers
    told = [row["message"] for row in events.rows()]
    assert told == [
        f"load balancer shop/front ({balancer}) is active",
        *(
            f"target {place} of target group shop/web is initial: Elb.InitialHealthChecking"
            for place in ("10.0.1.4:80", "10.0.2.4:8080")
        ),
    ]
    observer.look()
    assert len(events.rows()) == 3
    with scene.region.commands() as commands:
        commands.delete_host("two")
    observer.look()
    # Of one target what follows within seconds is counted.
    assert events.counts["target-health"] == 3


def test_load_balancers_by_command(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"vpc": "customer", "name": "front", "nodes": [{"subnet": "a"}]}
        made = await done(client, "POST", "/v1/load-balancers", asked)
        assert (made["State"], made["Scheme"], made["Type"]) == (
            "provisioning",
            "internal",
            "network",
        )
        assert (await done(client, "POST", "/v1/load-balancers", asked)) == made
        group = {
            "vpc": "customer",
            "name": "web",
            "port": 80,
            "type": "ip",
            "targets": [{"address": "10.0.1.80"}],
            "attributes": {"stickiness": True},
        }
        made = await done(client, "POST", "/v1/target-groups", group)
        assert made["Attributes"]["stickiness.enabled"] == "true"
        assert made["Attributes"]["preserve_client_ip.enabled"] == "false"
        assert [each["State"] for each in made["Targets"]] == ["unused"]
        listener = {"load_balancer": "front", "port": 80, "target_group": "web"}
        heard = await done(client, "POST", "/v1/listeners", listener)
        assert heard["Attributes"] == {"tcp.idle_timeout.seconds": "350"}
        changed = await done(
            client, "PATCH", "/v1/listeners/front:80", {"port": 81, "tcp_idle_seconds": 60}
        )
        assert (changed["ListenerId"], changed["Port"]) == (heard["ListenerId"], 81)
        path = "/v1/target-groups/web"
        change = {
            "attributes": {"cross_zone": True, "deregistration_delay_seconds": 5},
            "health_check": {"protocol": "HTTPS", "port": 443},
            "register_targets": [{"address": "10.0.1.81", "port": 8080}],
            "deregister_targets": [{"address": "10.0.1.80"}],
        }
        changed = await done(client, "PATCH", path, change)
        assert changed["Attributes"]["load_balancing.cross_zone.enabled"] == "true"
        assert changed["Attributes"]["stickiness.enabled"] == "true"
        assert (changed["HealthCheckProtocol"], changed["HealthCheckPort"]) == ("HTTPS", "443")
        back = {"attributes": {"cross_zone": "use_load_balancer_configuration"}}
        changed = await done(client, "PATCH", path, back)
        key = "load_balancing.cross_zone.enabled"
        assert changed["Attributes"][key] == "use_load_balancer_configuration"
        rows = (await ask(client, "GET", "/v1/target-health"))[1]
        assert [(row["Address"], row["Port"], row["State"]) for row in rows] == [
            ("10.0.1.80", 80, "draining"),
            ("10.0.1.81", 8080, "initial"),
        ]
        assert await refused(client, "DELETE", path) == (400, "ResourceInUse")
        outside = {**asked, "name": "out", "scheme": "internet-facing"}
        found = await refused(client, "POST", "/v1/load-balancers", outside)
        assert found == (400, "InvalidSubnet")
        await done(client, "DELETE", "/v1/load-balancers/front")
        assert (await ask(client, "GET", "/v1/listeners"))[1] == []
        await done(client, "DELETE", path)

    talk(directory, RegionLab(), work)
