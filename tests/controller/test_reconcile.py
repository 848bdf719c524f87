# SPDX-License-Identifier: Apache-2.0
"""What a configuration asks of the network and of the forwarder."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.network.network import Network
from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.controller.network.punt import Punt
from hyperplane_nat.controller.resources import resources_of
from hyperplane_nat.controller.views.lab import interface_names
from hyperplane_nat.engine.readers.state_map import SLOTS_MAX
from hyperplane_nat.model.identifiers import environment_name, environment_number
from hyperplane_nat.model.region import Region
from netns import NetnsError, topology
from netns.topology import InterfaceSpec, Slot, Topology, VpcSpec, check
from tests.controller.support import OFF, FakeNetns, config_in, paths_of

VPCS: list[dict[str, Any]] = [
    {
        "name": "one",
        "cidr": "10.0.0.0/16",
        "subnet": [
            {"name": "a", "cidr": "10.0.1.0/24"},
            {"name": "b", "cidr": "10.0.2.0/24"},
        ],
        "service": [
            {"name": "web", "kind": "http", "address": "10.0.1.80", "port": 80},
            {"name": "too", "kind": "http", "address": "10.0.1.80", "port": 81, "size_bytes": 9},
        ],
    },
    {
        "name": "two",
        "cidr": "10.0.0.0/16",
        "subnet": [{"name": "c", "cidr": "10.0.1.0/24"}],
        "service": [{"name": "echo", "kind": "udp-echo", "address": "10.0.1.81", "port": 7}],
    },
]
INTERFACES = [
    {"name": "eni-c", "subnet": "c", "address": "10.0.1.10"},
    {"name": "eni-a", "subnet": "a", "address": "10.0.1.10"},
    {"name": "eni-b", "subnet": "b", "address": "10.0.2.10"},
]


def config(directory: Path, **sections: Any) -> Config:
    return config_in(directory, vpc=VPCS, network_interface=INTERFACES, **sections)


def region_of(config: Config) -> Region:
    region = Region()
    region.apply(region.plan(resources_of(config)))
    return region


def network_of(
    config: Config,
    topology: Topology | None = None,
    *,
    punt: Punt = OFF,
    pool: EnvironmentPool | None = None,
) -> Network:
    """A network that stands as its region wants it, or with these links."""
    nobody: Any = None
    standing = pool or EnvironmentPool(size=0, batch=1)
    network = Network(config, region_of(config), standing, nobody, nobody, (), punt)
    spec = network.spec()
    fakes = FakeNetns(Path(config.lab.state_directory))
    network.built(spec, topology or fakes.topology(spec))
    return network


def test_environments_are_spread_over_interfaces(directory: Path) -> None:
    tables = region_of(config(directory)).tables
    assert {number: each.interface_id for number, each in tables.environments.items()} == {
        1: "eni-c",
        2: "eni-a",
        3: "eni-b",
        4: "eni-c",
        5: "eni-a",
    }
    assert [each.number for each in tables.interfaces.values()] == [0, 1, 2]
    assert tables.vpcs[tables.interfaces["eni-c"].vpc_id].name == "two"


def test_lab_spec(directory: Path) -> None:
    wanted = config(directory)
    spec = reconcile.lab_spec(wanted, region_of(wanted).wanted())
    check(spec)
    assert spec.environments == 5
    resolver = ("10.0.0.2", "169.254.169.253")
    assert spec.vpcs == (
        VpcSpec(
            "one",
            1500,
            ("10.0.1.1", "10.0.2.1", *resolver, "10.0.1.80"),
            (InterfaceSpec("eni-a", "10.0.1.10"), InterfaceSpec("eni-b", "10.0.2.10")),
        ),
        VpcSpec(
            "two",
            1500,
            ("10.0.1.1", *resolver, "10.0.1.81"),
            (InterfaceSpec("eni-c", "10.0.1.10"),),
        ),
    )
    assert (spec.inside_address, spec.inside_prefix_length) == ("169.254.100.2", 30)


def test_one_that_stands_still_is_silent_for_every_forwarder(directory: Path) -> None:
    network = network_of(config(directory))
    network.stand_still([2])
    silent = [each["number"] for each in network.everything()["slots"] if each.get("silent")]
    assert silent == [2]


def test_forwarder_state(directory: Path) -> None:
    wanted = config(directory, timeouts={"time_scale": 10.0})
    state = network_of(wanted).everything()
    vpcs = {vpc.name: vpc.number for vpc in region_of(wanted).wanted().vpcs}
    # The topology lists interfaces by VPC; numbers follow the configuration.
    assert [(each["number"], each["name"]) for each in state["interfaces"]] == [
        (0, "eni-c"),
        (1, "eni-a"),
        (2, "eni-b"),
    ]
    assert state["interfaces"][2] == {
        "number": 2,
        "name": "eni-b",
        "ifindex": 51,
        "address": "10.0.2.10",
        "mac": "02:00:00:00:02:01",
        "subnet": "10.0.2.0/24",
        "router": "10.0.2.1",
        "destinations": ["10.0.0.0/16", "169.254.169.253/32"],
        "vpc": vpcs["one"],
        "mtu": 1500,
        "secondary": [],
        "egress": None,
        "guarded": [],
    }
    assert state["slots"][1] == {
        "number": 2,
        "ifindex": 102,
        "address": "169.254.100.2",
        "gateway": "169.254.100.1",
        "subnet": "169.254.100.0/30",
        "environment_mac": "02:00:00:00:01:02",
        "gateway_mac": "02::1",
        "interface": 1,
        "mtu": 1500,
    }
    assert state["timeouts_ms"]["tcp_established"] == 35_000
    assert state["timeouts_ms"]["hold"] == 6_000
    assert state["ports"] == {
        "first": 1024,
        "last": 65535,
        "limit_per_remote": 55000,
        "limit_per_interface": 65000,
        "limit_per_environment": 0,
    }
    assert state["neighbours"]["reachable_ms"] == 30_000


def test_a_link_that_is_not_there_yet_is_not_told(directory: Path) -> None:
    """It is made when the network follows, and told then."""
    wanted = config(directory)
    spec = reconcile.lab_spec(wanted, region_of(wanted).wanted())
    whole = FakeNetns(directory).topology(spec)
    without = [each for each in whole.interfaces if each.name != "eni-c"]
    state = network_of(wanted, replace(whole, interfaces=tuple(without))).everything()
    assert [each["name"] for each in state["interfaces"]] == ["eni-a", "eni-b"]
    assert [each["interface"] for each in state["slots"]] == [None, 1, 2, None, 1]


def test_commands(directory: Path) -> None:
    wanted = config(directory)
    wanted = wanted.model_copy(update={"lab": wanted.lab.model_copy(update={"process_uid": 7})})
    program = reconcile.module_command("netns.services")
    vpcs = region_of(wanted).wanted().vpcs
    web, too, echo = reconcile.service_specs(wanted, vpcs, program)
    assert web.command[:5] == (sys.executable, "-P", "-m", "netns.services", "http")
    assert too.command[-2:] == ("--size-bytes", "9")
    assert "--size-bytes" not in echo.command

    assert echo.command[echo.command.index("--uid") + 1] == "7"
    assert echo.command[echo.command.index("--namespace") + 1] == "hp-test-vpc-two"
    command = reconcile.forwarder_command(wanted, paths_of(wanted), ("forwarder",))
    options = dict(pairwise(command))
    assert options["--uid"] == "7"
    assert options["--state-file"] == f"{directory}/hyperplane-nat-test.map"


@pytest.mark.parametrize(
    ("wish", "option"), [(True, "--coalesce-udp"), (False, "--no-coalesce-udp")]
)
def test_the_forwarder_is_told_whether_to_coalesce(
    directory: Path, wish: bool, option: str
) -> None:
    wanted = config_in(directory, forwarder={"coalesce_udp": wish})
    command = reconcile.forwarder_command(wanted, paths_of(wanted), ("forwarder",))
    assert [word for word in command if "coalesce" in word] == [option]


@pytest.mark.parametrize("text", ["env-7", "env7", "7"])
def test_environment_names(text: str) -> None:
    assert environment_number(text) == 7
    assert environment_name(7) == "env-7"


@pytest.mark.parametrize("text", ["", "env-", "env-0", "07", "env-x", "-7", "7.0", "9" * 50])
def test_what_is_no_environment(text: str) -> None:
    assert environment_number(text) is None


def test_secondary_addresses_have_numbers_behind_the_interfaces(directory: Path) -> None:
    first, *others = INTERFACES
    more = [
        {**first, "secondary_addresses": ["10.0.1.11", "10.0.1.12"]},
        *others[:1],
        {**others[1], "secondary_addresses": ["10.0.2.11"]},
    ]
    wanted = config_in(directory, vpc=VPCS, network_interface=more)
    region = region_of(wanted)
    assert interface_names(region) == {
        0: "eni-c",
        1: "eni-a",
        2: "eni-b",
        3: "eni-c",
        4: "eni-c",
        5: "eni-b",
    }
    state = network_of(wanted).everything()
    assert [each["secondary"] for each in state["interfaces"]] == [
        [{"number": 3, "address": "10.0.1.11"}, {"number": 4, "address": "10.0.1.12"}],
        [],
        [{"number": 5, "address": "10.0.2.11"}],
    ]
    # Functions must not be given the addresses.
    (two,) = (vpc for vpc in region.tables.vpcs.values() if vpc.name == "two")
    taken = {str(IPv4Address(each)) for each in region.tables.addresses(two.id)}
    assert taken == {"10.0.1.10", "10.0.1.11", "10.0.1.12", "10.0.1.81"}


class Noted(Punt):
    """Attaches nothing, and notes what it should."""

    def __init__(self) -> None:
        super().__init__("test", wanted=False)
        self.numbers: dict[int, int] = {}
        self.refuses = False

    def attach(self, numbers: Mapping[int, int]) -> None:
        if self.refuses:
            raise NetnsError("cannot attach the flow cache: No such device", "again")
        self.numbers |= numbers


def test_what_stands_leads_to_the_punt_link(directory: Path) -> None:
    punt = Noted()
    network_of(config(directory), punt=punt)
    slots = {100 + number: number for number in range(1, 6)}
    assert {index: punt.numbers[index] for index in slots} == slots
    others = {index: number for index, number in punt.numbers.items() if index not in slots}
    assert sorted(others) == [50, 51]
    assert all(number >= SLOTS_MAX for number in others.values())


def test_environments_that_lead_nowhere_are_taken_back(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    punt, pool, removed = Noted(), EnvironmentPool(size=1, batch=1), list[int]()
    network = network_of(config(directory), punt=punt, pool=pool)
    punt.refuses = True
    made = (Slot(9, 109, "hp-test-env-9", "02::9", "02::8"),)
    monkeypatch.setattr(topology, "add_environments", lambda _spec, _numbers: made)
    monkeypatch.setattr(
        topology, "remove_environments", lambda _lab, numbers: removed.extend(numbers)
    )
    with pytest.raises(NetnsError, match="cannot attach"):
        asyncio.run(network.fill([9]))
    assert removed == [9]
    assert 9 not in pool.slots


def test_a_mailbox_is_read_in_the_labs_directory(directory: Path) -> None:
    box = {"name": "box", "kind": "mailbox", "address": "198.51.100.80", "port": 80}
    wanted = config(directory, internet=[box])
    vpcs = region_of(wanted).wanted().vpcs
    specs = reconcile.service_specs(wanted, vpcs, reconcile.module_command("netns.services"))
    (found,) = [each for each in specs if each.name == "box"]
    reader = Path(wanted.lab.runtime_directory) / wanted.lab.name / "service-internet.box.sock"
    assert found.command[-2:] == ("--reader", str(reader))
