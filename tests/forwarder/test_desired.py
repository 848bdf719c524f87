# SPDX-License-Identifier: Apache-2.0
"""What the forwarder accepts as its desired state."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hyperplane_nat.engine import DropReason, NeighbourSettings, Ports, Timeouts
from hyperplane_nat.engine.state.constants import RouteTarget
from hyperplane_nat.forwarder import desired
from hyperplane_nat.forwarder.attachments import (
    HostState,
    InterfaceState,
    NatGatewayState,
    SlotState,
)
from hyperplane_nat.forwarder.desired import Desired
from tests.forwarder.work import finish


def parse(arguments: dict[str, Any]) -> Desired:
    return finish(desired.parse(arguments))


GOOD: dict[str, Any] = {
    "everything": True,
    "interfaces": [
        {
            "number": 0,
            "name": "eni-a",
            "ifindex": 5,
            "address": "10.0.1.10",
            "mac": "02:00:00:00:01:01",
            "subnet": "10.0.1.0/24",
            "router": "10.0.1.1",
            "destinations": ["10.0.0.0/16"],
        }
    ],
    "slots": [
        {
            "number": 1,
            "ifindex": 7,
            "address": "169.254.100.2",
            "gateway": "169.254.100.1",
            "subnet": "169.254.100.0/30",
            "environment_mac": "02:00:00:00:00:02",
            "gateway_mac": "02:00:00:00:00:01",
            "interface": 0,
        }
    ],
}


def test_defaults_are_the_engine_s() -> None:
    wanted = parse(GOOD)
    assert wanted.settings["timeouts_ms"] == Timeouts()
    assert wanted.settings["ports"] == Ports()
    assert wanted.settings["neighbours"] == NeighbourSettings()
    interface, slot = wanted.attachments["interface", 0], wanted.attachments["slot", 1]
    assert isinstance(interface, InterfaceState)
    assert isinstance(slot, SlotState)
    assert interface.destinations == ("10.0.0.0/16",)
    assert slot.interface == 0


def test_values_are_taken() -> None:
    wanted = parse(
        {
            **GOOD,
            "timeouts_ms": {"udp": 1},
            "ports": {"first": 2000},
            "neighbours": {"attempts": 9},
        }
    )
    assert wanted.settings["timeouts_ms"].udp == 1
    assert wanted.settings["ports"].first == 2000
    assert wanted.settings["neighbours"].attempts == 9


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("interfaces", "subnet", "10.0.1.0/33", "not a valid netmask"),
        ("interfaces", "subnet", "10.0.1.7/24", "has host bits set"),
        ("interfaces", "address", "ten", "Expected 4 octets"),
        ("interfaces", "destinations", ["10.0.0.0/99"], "not a valid netmask"),
        ("slots", "subnet", "", "Address cannot be empty"),
    ],
)
def test_wrong_values_are_refused(kind: str, field: str, value: object, message: str) -> None:
    broken = copy.deepcopy(GOOD)
    broken[kind][0][field] = value
    with pytest.raises(ValueError, match=message):
        parse(broken)


@pytest.mark.parametrize("kind", ["interfaces", "slots"])
def test_a_number_given_twice_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        parse({**GOOD, kind: GOOD[kind] * 2})


def test_missing_and_unknown_fields_are_refused() -> None:
    with pytest.raises(KeyError):
        parse({"everything": True, "slots": []})
    broken = copy.deepcopy(GOOD)
    broken["slots"][0]["colour"] = "red"
    with pytest.raises(TypeError, match="colour"):
        parse(broken)


HOST: dict[str, Any] = {
    "number": 0,
    "name": "web-1",
    "ifindex": 9,
    "address": "10.0.1.50",
    "host_mac": "02:00:00:00:00:04",
    "gateway_mac": "02:00:00:00:00:03",
    "router": "10.0.1.1",
    "subnet": "10.0.1.0/24",
    "interface": 0,
    "vpc": 0,
    "mtu": 1500,
    "egress": [{"protocol": "tcp", "cidr": "10.0.0.0/16", "first": 443, "last": 443}],
    "ingress": [{"protocol": "udp", "cidr": "10.0.1.10/32", "first": 7, "last": 7}],
}


def test_a_host_is_read() -> None:
    host = parse({**GOOD, "hosts": [HOST]}).attachments["host", 0]
    assert isinstance(host, HostState)
    assert (host.name, host.address, host.interface) == ("web-1", "10.0.1.50", 0)
    assert host.claims == {("host", 0): (0, 9, "10.0.1.50"), ("link", 9): ("host", 0)}
    policy = host.policy
    assert policy is not None
    assert policy.verdict("tcp", "10.0.3.3", 443) is DropReason.NONE
    assert policy.verdict("tcp", "10.1.3.3", 443) is DropReason.SECURITY_GROUP_EGRESS
    assert policy.admits("udp", "10.0.1.10", 7) is DropReason.NONE
    assert policy.admits("udp", "10.0.1.11", 7) is DropReason.SECURITY_GROUP_INGRESS


def test_a_host_without_groups_has_no_policy() -> None:
    wanted = parse({**GOOD, "hosts": [{**HOST, "egress": None, "ingress": None}]})
    host = wanted.attachments["host", 0]
    assert isinstance(host, HostState)
    assert host.policy is None
    wanted = parse({"hosts": [{**HOST, "egress": None, "ingress": []}]})
    host = wanted.attachments["host", 0]
    assert isinstance(host, HostState)
    assert host.policy is not None
    assert host.policy.verdict("tcp", "10.1.3.3", 443) is DropReason.NONE
    assert host.policy.admits("tcp", "10.1.3.3", 443) is DropReason.SECURITY_GROUP_INGRESS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("number", -1, "out of range"),
        ("number", "0", "is not a number"),
        ("ifindex", 0, "no link has index 0"),
        ("ifindex", 5, "link 5 is given twice"),
        ("address", "10.0.1", "Expected 4 octets"),
        ("router", 7, "an address is text"),
        ("host_mac", "02:00", "is not a MAC address"),
        ("gateway_mac", "x", "is not a MAC address"),
        ("subnet", "10.0.1.7/24", "has host bits set"),
        ("interface", None, "is not a number"),
        ("vpc", 1 << 32, "out of range"),
        ("mtu", 67, "out of range"),
        ("colour", "red", "unexpected keyword"),
        ("ingress", [{"protocol": 6, "cidr": "0.0.0.0/0"}], "are text"),
    ],
)
def test_bad_hosts_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        parse({**GOOD, "hosts": [{**HOST, field: value}]})


GATEWAY: dict[str, Any] = {
    "number": 12,
    "name": "igw-a",
    "ifindex": 40,
    "address": "192.0.2.10",
    "mac": "02:00:00:00:0c:01",
    "subnet": "192.0.2.0/24",
    "router": "192.0.2.1",
    "destinations": ["0.0.0.0/0"],
    "vpc": 9,
    "gateway_of": 7,
    "secondary": [
        {"number": 13, "address": "203.0.113.9", "host": 5},
        {"number": 14, "address": "203.0.113.10", "nat_gateway": 20},
    ],
}
NAT: dict[str, Any] = {
    "number": 20,
    "name": "nat-a",
    "address": "10.0.9.5",
    "vpc": 7,
    "route_table": 4,
    "mtu": 8500,
    "secondary": [{"number": 21, "address": "10.0.9.6"}],
    "draining": [21],
}


def test_gateways_are_read() -> None:
    wanted = parse({"interfaces": [GATEWAY], "nat_gateways": [NAT]})
    gateway, nat = wanted.attachments["interface", 12], wanted.attachments["nat_gateway", 20]
    assert isinstance(gateway, InterfaceState)
    assert isinstance(nat, NatGatewayState)
    assert [each.serves for each in gateway.addresses] == [None, ("host", 5), ("nat_gateway", 20)]
    assert nat.draining == {21}
    assert nat.route_table == 4
    assert {claim for claim in wanted.claims if claim[0] == "interface"} == {
        ("interface", number) for number in (12, 13, 14, 20, 21)
    }
    many = [{"number": 100 + i, "address": f"203.0.113.{i}"} for i in range(255)]
    parse({"interfaces": [{**GATEWAY, "secondary": many}]})


def test_addresses_of_gateways_come_and_go() -> None:
    def read(**fields: Any) -> Any:
        return parse({"interfaces": [{**GATEWAY, **fields}]}).attachments["interface", 12]

    known = read()
    assert read(secondary=[]).continues(known)
    assert not read(address="192.0.2.11").continues(known)
    assert not read(gateway_of=None, secondary=[]).continues(known)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("interfaces", {"gateway_of": None}, "only an address of an internet gateway"),
        ("interfaces", {"gateway_of": "a"}, "is not a number"),
        ("interfaces", {"route_table": -1}, "out of range"),
        (
            "interfaces",
            {"secondary": [{"number": i, "address": "203.0.113.9", "host": 5} for i in (1, 2)]},
            "host 5 has two public addresses",
        ),
        (
            "interfaces",
            {"secondary": [{"number": 1, "address": "203.0.113.9", "host": 5, "nat_gateway": 2}]},
            "for one host, NAT gateway or load balancer node",
        ),
        ("interfaces", {"secondary": [{"number": 1, "address": "x"}] * 256}, "Expected 4 octets"),
        (
            "interfaces",
            {
                "secondary": [
                    {"number": 1, "address": "203.0.113.9", "host": 5, "load_balancer_node": 2}
                ]
            },
            "for one host, NAT gateway or load balancer node",
        ),
        ("nat_gateways", {"draining": [22]}, "draining names 22, which it does not have"),
        ("nat_gateways", {"mtu": 67}, "out of range"),
        ("nat_gateways", {"address": "10.0.9"}, "Expected 4 octets"),
        (
            "nat_gateways",
            {"secondary": [{"number": 21, "address": "10.0.9.6", "host": 1}]},
            "its addresses stand for nobody",
        ),
        (
            "nat_gateways",
            {"secondary": [{"number": 30 + i, "address": "10.0.9.6"} for i in range(8)]},
            "more than 7 secondary addresses",
        ),
        ("nat_gateways", {"colour": "red"}, "colour"),
    ],
)
def test_bad_gateways_are_refused(kind: str, fields: dict[str, Any], message: str) -> None:
    item = GATEWAY if kind == "interfaces" else NAT
    with pytest.raises((ValueError, TypeError), match=message):
        parse({kind: [{**item, **fields}]})


def test_route_tables_are_read() -> None:
    routes = [
        {"destination": "0.0.0.0/0", "nat_gateway": 20},
        {"destination": "192.0.2.0/24", "host": 5},
        {"destination": "198.51.100.0/24", "blackhole": True},
        {"destination": "203.0.113.0/24", "internet_gateway": 12},
    ]
    tables = [{"number": 3, "vpc": 7, "routes": routes}]
    wanted = parse({"route_tables": tables, "remove_route_tables": [4]})
    assert wanted.route_tables[3].routes == (
        ("0.0.0.0/0", RouteTarget.NAT_GATEWAY, 20),
        ("192.0.2.0/24", RouteTarget.HOST, 5),
        ("198.51.100.0/24", RouteTarget.BLACKHOLE, 0),
        ("203.0.113.0/24", RouteTarget.INTERNET_GATEWAY, 12),
    )
    assert wanted.gone_tables == {4}
    with pytest.raises(ValueError, match="given twice"):
        parse({"route_tables": tables * 2})
    with pytest.raises(ValueError, match="both given and removed"):
        parse({"route_tables": tables, "remove_route_tables": [3]})


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ([{"destination": "10.0.0.1/8", "host": 1}], "has host bits set"),
        ([{"destination": "0.0.0.0/0"}], "a destination and one target"),
        ([{"host": 1}], "a destination and one target"),
        ([{"destination": "0.0.0.0/0", "host": 1, "blackhole": True}], "and one target"),
        ([{"destination": "0.0.0.0/0", "blackhole": False}], "leads to no blackhole = False"),
        ([{"destination": "0.0.0.0/0", "tunnel": 1}], "leads to no tunnel = 1"),
        ([{"destination": "0.0.0.0/0", "host": "a"}], "is not a number"),
        ([{"destination": "0.0.0.0/0", "nat_gateway": 1 << 16}], "out of range"),
        ([{"destination": "0.0.0.0/0", "host": each} for each in (1, 2)], "two routes to"),
        ([{"destination": "0.0.0.0/0", "host": 1}] * 1001, "more than 1000 routes"),
    ],
)
def test_bad_routes_are_refused(routes: list[dict[str, Any]], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        parse({"route_tables": [{"number": 3, "vpc": 7, "routes": routes}]})
