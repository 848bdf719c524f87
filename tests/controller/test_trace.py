# SPDX-License-Identifier: Apache-2.0
"""What a trace tells: which step fails, and by which rule. The packets are tests/live's."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import aiohttp
import pytest

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.trace.question import Question
from hyperplane_nat.controller.trace.verdict import traced_in
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.network_acl_entities import NetworkAclEntry
from netns.errors import NetnsError
from tests.controller.region_lab import RegionLab, talk
from tests.controller.trace_scene import GUARDED, OPEN, OTHER, SITE, STORE, VPC, Scene, scene_of


@pytest.fixture
def scene(directory: Path) -> Scene:
    return scene_of(directory)


def test_a_function_reaches_the_internet_by_a_nat_gateway(scene: Scene) -> None:
    answer = scene.trace("f", "site", 80)
    assert answer["verdict"] == "function f reaches site:80 by tcp"
    assert (answer["address"], answer["port"], answer["protocol"]) == (SITE, 80, "tcp")
    steps = {row["step"]: row for row in answer["steps"]}
    assert list(steps) == [
        *("name", "source", "egress", "route", "NAT gateway", "internet gateway"),
        *("limits", "target", "listener"),
    ]
    assert steps["egress"]["rule"].startswith("app (sg-")
    assert steps["egress"]["rule"].endswith("all 0.0.0.0/0")
    # The longest prefix.
    assert ": 198.51.100.0/25 nat-" in steps["route"]["rule"]
    assert "203.0.113.10" in steps["NAT gateway"]["text"]
    assert steps["internet gateway"]["text"].endswith("seen as 203.0.113.10")
    assert steps["target"]["text"] == "internet: service site"
    assert scene.asked == ["hp-test-vpc-shop", "hp-test-vpc-internet"]


def test_a_host_with_a_public_address_is_seen_by_it(scene: Scene) -> None:
    answer = scene.trace("bastion", SITE)
    assert answer["reachable"]
    (step,) = (row for row in answer["steps"] if row["step"] == "internet gateway")
    assert step["text"].endswith("seen as 203.0.113.9")


def test_a_public_address_whose_host_has_no_way_back(scene: Scene) -> None:
    assert scene.trace("client", "203.0.113.9")["reachable"]
    with scene.region.commands() as commands:
        address = commands.allocate_address()
        commands.associate_address(address.id, "shop/lonely")
    found = scene.failing("client", str(address.address))
    assert list(found) == ["public address"]
    assert (
        "whose subnet's route table has no way back to 203.0.113.10" in found["public address"][1]
    )


def test_a_public_address_whose_host_answers_by_a_nat_gateway(scene: Scene) -> None:
    with scene.region.commands() as commands:
        address = commands.allocate_address()
        commands.associate_address(address.id, "shop/open")
    for protocol in ("udp", "tcp", None):
        port = protocol and 8080
        found = scene.failing("bastion", str(address.address), port, protocol)
        assert list(found) == ["public address"], found
        (gateway,) = (
            each for each in scene.region.tables.nat_gateways.values() if each.name == "out"
        )
        words = f"answers leave by out ({gateway.id}), not as {address.address}"
        assert words in found["public address"][1]


@pytest.mark.parametrize(
    ("source", "step", "words", "reason"),
    [
        ("lonely", "route", "no route to 198.51.100.80, subnet isolated", "no_route"),
        ("audit", "NAT gateway", "it is private", "nat_gateway_private"),
        ("astray", "NAT gateway", "no route to 198.51.100.80, main", "no_route"),
        ("plain", "internet gateway", "host plain has no public address", "no_public_address"),
        ("p", "internet gateway", "it needs a NAT gateway", "no_public_address"),
    ],
)
def test_ways_out_that_lead_nowhere(
    scene: Scene, source: str, step: str, words: str, reason: str
) -> None:
    assert scene.trace(source, SITE, 80)["drop_reason"] == reason
    found = scene.failing(source, SITE, 80)
    assert list(found) == [step]
    assert words in found[step][1]


def test_a_route_to_a_nat_gateway_that_is_not_there_yet_is_a_blackhole(directory: Path) -> None:
    scene = scene_of(directory, settled=False)
    answer = scene.trace("client", SITE, 80)
    assert answer["drop_reason"] == "route_blackhole"
    assert "blackhole: NAT gateway out is pending" in scene.failing("client", SITE, 80)["route"][1]


def acl_on(
    scene: Scene, subnet: str, *, ingress: list[NetworkAclEntry], egress: list[NetworkAclEntry]
) -> None:
    """Give a subnet of `shop` a network ACL, `edge`, with these entries."""
    with scene.region.commands() as commands:
        commands.create_network_acl("shop", "edge")
        commands.associate_network_acl("edge", [subnet])
        for outward, entries in ((False, ingress), (True, egress)):
            for entry in entries:
                commands.create_network_acl_entry("edge", entry, egress=outward)


ALL = NetworkAclEntry(100, True, -1, IPv4Network("0.0.0.0/0"))
WEB = NetworkAclEntry(50, True, 6, IPv4Network("10.0.0.0/16"), 80, 80)
HIGH = NetworkAclEntry(60, True, 6, IPv4Network("0.0.0.0/0"), 1024, 65535)


def test_the_network_acl_that_refuses_it_is_named(scene: Scene) -> None:
    acl_on(scene, "private", ingress=[WEB], egress=[ALL])
    assert scene.trace("plain", OPEN, 81)["drop_reason"] == "network_acl_ingress"
    ((name, (rule, text)),) = scene.failing("plain", OPEN, 81).items()
    assert (name, text) == (
        "network ACL",
        "it enters subnet private, whose network ACL refuses it",
    )
    assert rule.startswith("edge (acl-")
    assert rule.endswith("): *")
    steps = {row["step"]: row for row in scene.trace("plain", OPEN, 80)["steps"]}
    assert steps["network ACL"]["text"] == "enters subnet private"
    assert steps["network ACL"]["rule"].endswith("): rule 50 allow tcp 80 10.0.0.0/16")
    assert steps["answer"]["rule"].endswith("): rule 100 allow all 0.0.0.0/0")
    # Within the subnet nothing is asked.
    assert "network ACL" not in {row["step"] for row in scene.trace("client", OPEN, 81)["steps"]}


def test_an_answer_that_a_network_acl_refuses(scene: Scene) -> None:
    """By the NAT gateway, whose subnet's ACL lets everything out and only requests in."""
    low = NetworkAclEntry(50, True, 6, IPv4Network("0.0.0.0/0"), 1, 1023)
    acl_on(scene, "public", ingress=[low], egress=[ALL])
    answer = scene.trace("client", SITE, 80)
    assert (answer["reachable"], answer["drop_reason"]) == (False, None)
    ((name, (rule, text)),) = scene.failing("client", SITE, 80).items()
    assert (name, text) == ("answer", "it enters subnet public, whose network ACL refuses it")
    assert rule.endswith("): *")
    with scene.region.commands() as commands:
        commands.create_network_acl_entry("edge", HIGH, egress=False)
    steps = {row["step"]: row for row in scene.trace("client", SITE, 80)["steps"]}
    assert steps["network ACL"]["text"] == "enters subnet public, leaves subnet public"
    assert steps["answer"]["text"] == "enters subnet public, leaves subnet public"
    assert steps["answer"]["rule"].startswith("edge (acl-")


def test_pings_are_asked_for_by_their_types(scene: Scene) -> None:
    ping = NetworkAclEntry(9, True, 1, IPv4Network("0.0.0.0/0"), icmp_type=8)
    acl_on(scene, "public", ingress=[ping], egress=[ping])
    assert list(scene.failing("plain", OPEN)) == ["answer"]
    pong = NetworkAclEntry(8, True, 1, IPv4Network("0.0.0.0/0"), icmp_type=0)
    with scene.region.commands() as commands:
        commands.create_network_acl_entry("edge", pong, egress=False)
    assert scene.trace("plain", OPEN)["reachable"]


def test_a_route_whose_target_is_gone_is_told(scene: Scene) -> None:
    with scene.region.commands() as commands:
        commands.delete_nat_gateway("out")
    scene.clock.pass_seconds(600)
    scene.region.advance()
    assert "NAT gateway out is deleted" in scene.failing("client", SITE, 80)["route"][1]
    scene.clock.pass_seconds(3601)
    scene.region.advance()
    assert "does not exist" in scene.failing("client", SITE, 80)["route"][1]


def test_groups_of_both_ends_are_named_with_the_rule(scene: Scene) -> None:
    rules = scene.rules("client", "store.shop.internal", 5432)
    assert rules["egress"].startswith("app (sg-")
    assert rules["ingress"].startswith("db (sg-")
    assert rules["ingress"].endswith(": tcp 5432 group app")
    # A function by its interface, which has the group.
    assert scene.rules("f", STORE, 5432)["ingress"] == rules["ingress"]
    assert "no security groups" in str(scene.trace("open", OPEN.replace("60", "1")))


def test_groups_that_admit_nobody_are_named(scene: Scene) -> None:
    found = scene.failing("open", STORE, 5432)
    assert list(found) == ["ingress"]
    assert found["ingress"][0].startswith("db (sg-")
    assert found["ingress"][1] == f"no rule of these groups admits {OPEN}"
    assert scene.trace("open", STORE, 5432)["drop_reason"] == "security_group_ingress"
    assert list(scene.failing("client", STORE, 5433)) == ["ingress"]
    # Egress comes first, and what is behind is not looked at.
    answer = scene.trace("store", OPEN, 80)
    assert answer["drop_reason"] == "security_group_egress"
    assert [row["step"] for row in answer["steps"]] == ["source", "egress", "route"]
    assert list(scene.failing("store", OPEN, 80)) == ["egress"]


def test_ranges_and_protocols_of_rules(scene: Scene) -> None:
    assert scene.rules("n", OPEN, 1000, "udp")["egress"].endswith(": udp 1000-2000 10.0.1.0/24")
    assert list(scene.failing("n", OPEN, 999, "udp")) == ["egress"]
    assert list(scene.failing("n", OPEN, 1000, "tcp")) == ["egress"]
    assert list(scene.failing("n", "10.0.3.9", 1000, "udp")) == ["egress"]


def test_a_server_on_the_router_with_groups_of_its_own(scene: Scene) -> None:
    assert scene.rules("f", "guarded.shop.internal", 80)["ingress"].endswith(": tcp 80 group app")
    assert scene.rules("client", GUARDED, 80)["ingress"].startswith("guard (sg-")
    assert list(scene.failing("open", GUARDED, 80)) == ["ingress"]
    assert list(scene.failing("client", GUARDED, 81)) == ["ingress"]


def test_what_lambda_carries_for_nobody(scene: Scene) -> None:
    found = scene.failing("f", SITE, 25)
    assert found == {
        "Lambda": ("lambda.blocked_tcp_ports 25", "functions do not connect to TCP port 25")
    }
    assert scene.trace("f", SITE, 25)["drop_reason"] == "lambda_port"
    assert list(scene.failing("f", SITE)) == ["Lambda"]
    # A rule of a group allows port 25, and does not help.
    assert list(scene.failing("n", SITE, 25)) == ["Lambda"]
    # Nor is it about hosts.
    assert scene.rules("client", SITE, 25)


def test_several_obstacles_are_all_told(scene: Scene) -> None:
    answer = scene.trace("store", SITE, 80)
    assert list(scene.failing("store", SITE, 80)) == ["egress"]
    assert "egress: no rule of these groups allows it" in answer["verdict"]
    assert list(scene.failing("n", SITE)) == ["egress", "Lambda"]


def test_names_are_the_resolvers(scene: Scene) -> None:
    assert scene.trace("client", "SITE.internet.internal.", 80)["address"] == SITE
    found = scene.failing("client", "nobody.shop.internal", 80)
    assert list(found) == ["name"]
    assert scene.trace("client", "nobody.shop.internal", 80)["address"] is None
    # Of another VPC, in one without a resolver, and outside of all.
    assert list(scene.failing("client", "twin.other.internal")) == ["name"]
    assert "enableDnsSupport" in scene.failing("other/twin", "site", 80)["name"][1]
    assert scene.rules("hook", "site", 80)["name"] == "resolver of VPC internet"


def test_a_resolver_that_does_not_run_tells_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene, "listening", lambda *_place: False)
    found = scene.failing("client", "site")
    words = "the resolver does not run: no socket takes udp 169.254.169.253:53"
    assert found == {"name": ("resolver of VPC shop", words)}


def test_a_namespace_that_is_gone_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_place: object) -> bool:
        raise NetnsError("cannot open namespace x", "make it")

    monkeypatch.setattr(scene, "listening", gone)
    assert scene.failing("client", STORE, 5432) == {
        "listener": ("hp-test-host-4", "cannot open namespace x (make it)")
    }


def test_a_name_that_somebody_else_knows_is_not_asked_for(directory: Path) -> None:
    scene = scene_of(directory, dns={"upstream": "1.1.1.1"})
    with pytest.raises(ModelError, match=r"the resolver asks 1\.1\.1\.1:53"):
        scene.trace("client", "example.com", 80)
    assert list(scene.failing("client", "x.internal", 80)) == ["name"]


@pytest.mark.parametrize(
    "target", ["10.0.1.999", "10.0.1", "10.0.1.054", "0xA000136", "1.2.3.4.5."]
)
def test_what_looks_like_an_address_is_not_taken_for_a_name(scene: Scene, target: str) -> None:
    with pytest.raises(ModelError, match="is no IPv4 address"):
        scene.trace("client", target, 80)


def test_queries_to_the_resolver_leave_whatever_the_groups_say(scene: Scene) -> None:
    for address in ("10.0.0.2", "169.254.169.253"):
        answer = scene.trace("store", address, 53, "udp")
        assert answer["reachable"], answer["verdict"]
        (step,) = (row for row in answer["steps"] if row["step"] == "egress")
        assert "resolver" in step["text"]
        (step,) = (row for row in answer["steps"] if row["step"] == "route")
        # The local route does not lead to the other one.
        assert ("10.0.0.0/16 local" in step["rule"]) == (address == "10.0.0.2")
    assert list(scene.failing("store", "10.0.0.2", 54, "udp")) == ["egress"]
    found = scene.failing("twin", "169.254.169.253", 53, "udp")
    assert list(found) == ["route"]
    assert found["route"][1] == "VPC other has no resolver: enableDnsSupport is false"


def test_addresses_that_are_nobodys(scene: Scene) -> None:
    assert scene.failing("client", "10.0.1.77", 80)["target"][1] == (
        "nobody in VPC shop has 10.0.1.77"
    )
    assert scene.failing("f", "198.51.100.99", 80)["target"][1] == (
        "nobody in the internet has 198.51.100.99"
    )
    found = scene.failing("bastion", "203.0.113.10", 80)
    assert list(found) == ["gateway"]
    assert "only answers reach who is behind one" in found["gateway"][1]
    assert "has another address" in scene.failing("client", "192.0.2.200", 80)["target"][1]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("f", "169.254.100.1", "destination_gateway"),
        ("f", "224.0.0.9", "destination_invalid"),
        ("client", "224.0.0.9", "destination_invalid"),
        ("lonely", "224.0.0.9", "destination_invalid"),
        ("client", "169.254.169.254", "destination_invalid"),
        ("lonely", "169.254.169.254", "destination_invalid"),
    ],
)
def test_what_only_the_gateway_tells(scene: Scene, source: str, target: str, reason: str) -> None:
    answer = scene.trace(source, target, 80)
    assert answer["drop_reason"] == reason
    assert scene.failing(source, target, 80)["gateway"][0] == reason
    routes = [row["text"] for row in answer["steps"] if row["step"] == "route"]
    assert not any("internet gateway" in text for text in routes)


def test_nobody_opens_a_flow_to_who_is_behind_an_interface(scene: Scene) -> None:
    row = scene.trace("f", SITE, 80)["steps"][0]
    interface = scene.region.tables.interfaces[row["rule"]]
    address = str(interface.address)
    assert scene.failing("n", address, 1000, "udp")["gateway"][0] == "destination_hairpin"
    assert scene.failing("open", address, 1000, "udp")["gateway"][0] == "no_flow"
    assert scene.trace("open", address, 1000)["reachable"] is False


def test_a_port_where_nobody_listens(scene: Scene) -> None:
    scene.sockets = {("tcp", STORE, 5432)}
    assert scene.rules("client", STORE, 5432)["listener"] == "hp-test-host-4"
    assert scene.failing("client", OPEN, 80) == {
        "listener": ("hp-test-host-5", f"no socket takes tcp {OPEN}:80")
    }
    assert list(scene.failing("client", SITE, 80)) == ["listener"]
    assert scene.rules("client", OPEN)["listener"] == "hp-test-host-5"


def test_without_a_forwarder_nobody_is_reached(scene: Scene) -> None:
    scene.forwards = False
    assert list(scene.failing("client", SITE, 80)) == ["gateway"]
    assert list(scene.failing("lonely", SITE, 80)) == ["route", "gateway"]
    assert list(scene.failing("env-30", SITE, 80)) == ["source", "gateway"]


def test_who_cannot_send(scene: Scene) -> None:
    assert scene.failing("env-30", SITE, 80)["source"][1] == (
        "env-30 sends nothing: it is in the pool and has no interface"
    )
    assert "each gets an interface of its own" in scene.failing("each", SITE, 80)["source"][1]
    placement = scene.region.begin("each")
    scene.region.ready(placement.environment)
    answer = scene.trace("each", SITE, 80)
    assert answer["reachable"], answer["verdict"]
    assert answer["source"].startswith("function each, env-")
    number = placement.environment
    assert scene.trace(f"env-{number}", SITE, 80)["source"] == f"env-{number} of function each"


def test_a_function_that_is_pending_sends_nothing(directory: Path) -> None:
    found = scene_of(directory, settled=False).failing("f", SITE, 80)
    assert found["source"][1].startswith("function f sends nothing: it is Pending")


def test_who_is_meant_is_told_or_refused(scene: Scene, directory: Path) -> None:
    with pytest.raises(ModelError) as caught:
        scene.trace("nobody", SITE, 80)
    assert caught.value.code == "ResourceNotFoundException"
    for own in (OPEN, "127.0.0.1", "0.0.0.0"):
        with pytest.raises(ModelError, match="no packet leaves it"):
            scene.trace("open", own, 80)
    hosts = [{"name": "open", "subnet": "o"}, {"name": "f", "subnet": "o"}]
    several = scene_of(directory, vpc=[VPC, OTHER | {"host": hosts}])
    with pytest.raises(ModelError, match="host shop/open, host other/open"):
        several.trace("open", SITE)
    with pytest.raises(ModelError, match="host other/f, function f"):
        several.trace("f", SITE, 80)
    assert several.trace("f:$LATEST", SITE, 80)["source"] == "function f"
    assert several.trace("shop/open", SITE, 80)["source"] == "host shop/open"


# -- the API


def test_the_api_answers(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        query = {"source": "env-1", "target": "10.0.1.80", "port": "80"}
        async with client.get("/v1/trace", params=query) as answer:
            assert answer.status == 200
            found = await answer.json()
        assert found["steps"][0]["step"] == "source"
        assert "nobody in VPC customer has 10.0.1.80" in found["verdict"]
        for change, status in (
            ({"source": "nobody"}, 404),
            ({"port": "0"}, 400),
            ({"port": "65536"}, 400),
            ({"protocol": "icmp"}, 400),
            ({"protocol": "sctp"}, 400),
            ({"target": "a b"}, 400),
            ({"target": "127.0.0.1"}, 400),
        ):
            async with client.get("/v1/trace", params=query | change) as answer:
                assert answer.status == status, change
        without = {"source": "env-1", "target": "10.0.1.80", "protocol": "udp"}
        async with client.get("/v1/trace", params=without) as answer:
            assert (await answer.json())["message"].startswith("udp needs a port")

    talk(directory, lab, work)


def test_without_a_state_map_it_is_one_line(scene: Scene, directory: Path) -> None:
    question = Question("open", STORE, 5432, "tcp")
    tables = scene.region.tables.copy()
    with pytest.raises(ControllerError, match="cannot trace in"):
        traced_in(directory / "missing" / "map", question, scene.config, tables, (), forwards=True)
