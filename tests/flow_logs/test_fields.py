# SPDX-License-Identifier: Apache-2.0
"""Lines: the default format, every other field, and the four rows of a conversation."""

import socket
from typing import Any

import pytest

from hyperplane_nat.engine import DropReason
from hyperplane_nat.engine.state.constants import Position
from hyperplane_nat.engine.state.settings import FlowDelta, HostDelta, Way
from hyperplane_nat.flow_logs.aggregation import rows_of
from hyperplane_nat.flow_logs.fields import FIELDS, LineFormat, Place, View
from tests.flow_logs.records import DEFAULT, TABLE, Record, parse

PLACE = Place("eni-0123", "111122223333", "customer", "private-a")


def number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


def delta(**changes: Any) -> FlowDelta:
    """A TCP conversation of environment 7, whole."""
    return FlowDelta(
        slot=7,
        interface=0,
        protocol=6,
        inside_address=number("169.254.100.2"),
        inside_port=5000,
        remote_address=number("10.0.1.80"),
        remote_port=80,
        nat_address=number("10.0.1.10"),
        nat_port=31000,
        packets_out=5,
        bytes_out=500,
        packets_in=4,
        bytes_in=4000,
        created_ms=0,
        last_seen_ms=10,
        flags_out=3,
        flags_in=19,
        reason=0,
    )._replace(**changes)


def records(what: FlowDelta, *fields: str) -> list[Record]:
    form = LineFormat(fields or DEFAULT)
    return [
        parse(form.line(PLACE, key, sums, 100, 160), form.fields) for key, sums in rows_of(what)
    ]


def test_a_conversation_makes_the_four_rows_of_a_nat_interface() -> None:
    # AWS, "Traffic through a NAT gateway": srcaddr dstaddr pkt-srcaddr pkt-dstaddr.
    ends = ("srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr")
    ports = ("srcport", "dstport")
    found = records(delta(), *ends, *ports, "flow-direction")
    assert [tuple(record.values()) for record in found] == [
        ("169.254.100.2", "10.0.1.10", "169.254.100.2", "10.0.1.80", "5000", "80", "ingress"),
        ("10.0.1.10", "10.0.1.80", "10.0.1.10", "10.0.1.80", "31000", "80", "egress"),
        ("10.0.1.80", "10.0.1.10", "10.0.1.80", "10.0.1.10", "80", "31000", "ingress"),
        ("10.0.1.10", "169.254.100.2", "10.0.1.80", "169.254.100.2", "80", "5000", "egress"),
    ]


def test_the_default_line() -> None:
    form = LineFormat()
    lines = [form.line(PLACE, key, sums, 100, 160) for key, sums in rows_of(delta())]
    assert form.header == " ".join(DEFAULT)
    assert lines[1] == (
        "2 111122223333 eni-0123 10.0.1.10 10.0.1.80 31000 80 6 5 500 100 160 ACCEPT OK"
    )
    assert parse(lines[2])["bytes"] == "4000"


def test_a_direction_without_packets_has_no_row() -> None:
    assert len(records(delta(packets_in=0, bytes_in=0))) == 2


def test_icmp_has_no_ports() -> None:
    for record in records(delta(protocol=1, remote_port=0)):
        assert (record["srcport"], record["dstport"]) == ("0", "0")


def test_a_refused_packet_is_one_row() -> None:
    outside = delta(
        slot=65535,
        packets_out=0,
        bytes_out=0,
        packets_in=1,
        bytes_in=60,
        inside_address=0,
        reason=25,
    )
    (record,) = records(outside, *DEFAULT, "environment")
    assert record["action"] == "REJECT"
    assert (record["srcaddr"], record["dstaddr"]) == ("10.0.1.80", "10.0.1.10")
    assert record["environment"] == "-"


FIRST = delta(
    nat_port=0, packets_out=1, bytes_out=60, packets_in=0, bytes_in=0, flags_out=2, flags_in=0
)
"""A SYN that did not become a connection."""


def test_a_packet_refused_on_its_way_out_is_one_row_with_its_remote() -> None:
    line = LineFormat().line(PLACE, *next(rows_of(FIRST._replace(reason=45))), 100, 160)
    # Without a port of the interface it is the environment's that stands there.
    assert line == ("2 111122223333 eni-0123 10.0.1.10 10.0.1.80 5000 80 6 1 60 100 160 REJECT OK")
    more = ("flow-direction", "environment", "pkt-srcaddr", "pkt-dstaddr", "tcp-flags")
    (record,) = records(FIRST._replace(reason=45), *more)
    assert tuple(record.values()) == ("egress", "env-7", "169.254.100.2", "10.0.1.80", "2")


def test_what_the_group_of_its_destination_refuses_has_passed_the_interface() -> None:
    ends = ("srcaddr", "dstaddr", "srcport", "dstport", "pkt-srcaddr", "pkt-dstaddr")
    found = records(FIRST._replace(reason=46), *ends, "action", "tcp-flags", "flow-direction")
    here, between, there = "169.254.100.2", "10.0.1.10", "10.0.1.80"
    assert [tuple(record.values()) for record in found] == [
        (here, between, "5000", "80", here, there, "ACCEPT", "2", "ingress"),
        (between, there, "5000", "80", here, there, "ACCEPT", "2", "egress"),
    ]


def test_every_field_can_be_asked_for() -> None:
    assert set(FIELDS) == set(TABLE)
    for record in records(delta(), *FIELDS):
        assert record["version"] == "5"
        assert record["vpc-id"] == "customer"
        assert record["subnet-id"] == "private-a"
        assert record["type"] == "IPv4"
        assert record["tcp-flags"] in ("3", "19")


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_by_itself(field: str) -> None:
    assert len(records(delta(), field)) == 4


@pytest.mark.parametrize(("fields", "version"), [(("version",), "2"), (("version", "type"), "3")])
def test_the_version_is_the_highest_of_the_fields(fields: tuple[str, ...], version: str) -> None:
    assert records(delta(), *fields)[0]["version"] == version


@pytest.mark.parametrize("status", ["NODATA", "SKIPDATA"])
def test_an_interval_without_data(status: str) -> None:
    line = LineFormat().without_data(PLACE, 100, 160, status)
    assert line == f"2 111122223333 eni-0123 - - - - - - - 100 160 - {status}"
    parse(line)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="'sourceaddr' is no field"):
        LineFormat(["sourceaddr"])


def host_delta(**changes: Any) -> HostDelta:
    """A TCP conversation of two hosts, whole."""
    return HostDelta(
        originator=100,
        responder=101,
        protocol=6,
        source_address=number("10.0.1.20"),
        source_port=5000,
        destination_address=number("10.0.1.54"),
        destination_port=5432,
        packets_out=5,
        bytes_out=500,
        packets_in=4,
        bytes_in=4000,
        created_ms=0,
        last_seen_ms=10,
        flags_out=3,
        flags_in=19,
        reason=0,
    )._replace(**changes)


def test_a_host_s_rows_have_its_ends_and_its_instance() -> None:
    form = LineFormat((*DEFAULT, *("pkt-srcaddr", "pkt-dstaddr", "flow-direction", "tcp-flags")))
    found = [
        (key.place, *form.line(PLACE, key, sums, 100, 160).split(" ")[3:])
        for key, sums in rows_of(host_delta())
    ]
    out = ("10.0.1.20", "10.0.1.54", "5000", "5432", "6", "5", "500", "100", "160", "ACCEPT", "OK")
    back = ("10.0.1.54", "10.0.1.20", "5432", "5000", "6", "4", "4000", *out[7:])
    assert found == [
        (100, *out, *out[:2], "egress", "3"),
        (101, *out, *out[:2], "ingress", "3"),
        (101, *back, *back[:2], "egress", "19"),
        (100, *back, *back[:2], "ingress", "19"),
    ]
    host = Place("eni-0a1b", "111122223333", "customer", "private-a", "i-0a1b")
    line = LineFormat(("instance-id", "environment", "traffic-path")).line(
        host, *next(rows_of(host_delta())), 100, 160
    )
    assert line == "i-0a1b - 1"


def test_by_a_gateway_endpoint_the_path_is_another() -> None:
    key, sums = next(rows_of(host_delta()))
    form = LineFormat(("traffic-path",))
    by_endpoint = Place("eni-0a1b", by_endpoint=frozenset({key.remote_address}))
    assert form.line(by_endpoint, key, sums, 100, 160) == "7"
    assert form.line(by_endpoint, key._replace(remote_address=1), sums, 100, 160) == "1"
    assert form.line(by_endpoint, key._replace(view=View.TO_HOST), sums, 100, 160) == "-"


@pytest.mark.parametrize(
    ("ends", "reason", "told"),
    [
        ((100, 101), DropReason.SECURITY_GROUP_EGRESS, [(100, True)]),
        ((100, 101), DropReason.SECURITY_GROUP_INGRESS, [(100, False), (101, True)]),
        ((100, None), DropReason.SECURITY_GROUP_INGRESS, [(100, False)]),
        ((None, 101), DropReason.SECURITY_GROUP_INGRESS, [(101, True)]),
        ((None, 101), DropReason.TCP_NO_FLOW, [(101, True)]),
        ((100, 101), DropReason.NETWORK_ACL_EGRESS, [(100, True)]),
        ((100, 101), DropReason.NETWORK_ACL_INGRESS, [(100, False), (101, True)]),
    ],
)
def test_the_interface_that_refused_a_host_s_packet_has_the_reject(
    ends: tuple[int | None, int | None], reason: DropReason, told: list[tuple[int, bool]]
) -> None:
    originator, responder = ends
    what = host_delta(
        originator=originator, responder=responder, packets_in=0, bytes_in=0, reason=reason
    )
    assert [(key.place, key.refused) for key, _ in rows_of(what)] == told


def way(**changes: object) -> Way:
    """Of AWS's example: by a NAT gateway to a host in the internet."""
    return Way(
        hop=6,
        address=number("10.0.0.220"),
        source_address=number("10.0.0.220"),
        source_port=31000,
        far_address=number("203.0.113.5"),
        far_port=443,
        internet=True,
    )._replace(**changes)  # type: ignore[arg-type]


def by_nat_gateway(**changes: Any) -> HostDelta:
    return host_delta(
        responder=None,
        source_address=number("10.0.1.5"),
        destination_address=number("203.0.113.5"),
        destination_port=443,
    )._replace(**({"way": way()} | changes))


WAY_FIELDS = (
    *("srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr", "srcport", "dstport"),
    *("flow-direction", "traffic-path", "action"),
)


def way_rows(what: FlowDelta | HostDelta, place: int) -> list[tuple[str, ...]]:
    form = LineFormat(WAY_FIELDS)
    return [
        tuple(form.line(PLACE, key, sums, 100, 160).split(" "))
        for key, sums in rows_of(what)
        if key.place == place
    ]


def test_a_nat_gateway_has_the_four_rows_of_aws() -> None:
    """AWS, "Flow log record examples: Traffic through a NAT gateway"."""
    client, gateway, far = "10.0.1.5", "10.0.0.220", "203.0.113.5"
    assert sorted(way_rows(by_nat_gateway(), 6)) == sorted(
        [
            (client, gateway, client, far, "5000", "443", "ingress", "-", "ACCEPT"),
            (gateway, far, gateway, far, "31000", "443", "egress", "2", "ACCEPT"),
            (far, gateway, far, gateway, "443", "31000", "ingress", "-", "ACCEPT"),
            (gateway, client, far, client, "443", "5000", "egress", "1", "ACCEPT"),
        ]
    )
    assert way_rows(by_nat_gateway(), 100) == [
        (client, far, client, far, "5000", "443", "egress", "1", "ACCEPT"),
        (far, client, far, client, "443", "5000", "ingress", "-", "ACCEPT"),
    ]


def test_a_public_address_is_a_path_and_no_hop() -> None:
    what = by_nat_gateway(way=None, internet=True)
    assert [row[6:] for row in way_rows(what, 100)] == [
        ("egress", "8", "ACCEPT"),
        ("ingress", "-", "ACCEPT"),
    ]


BACK = {"packets_out": 0, "bytes_out": 0}
OUT = {"packets_in": 0, "bytes_in": 0}
ALL_WAY = {"endpoint": 12, "target": 101, "internet": False}


@pytest.mark.parametrize(
    ("side", "position", "told"),
    [
        (OUT, Position.ENDPOINT, ["100 egress", "12 ingress!"]),
        (OUT, Position.NEAR, ["100 egress", "12 ingress", "6 ingress!"]),
        (OUT, Position.FAR, ["100 egress", "12 ingress", "6 ingress", "6 egress!"]),
        (
            OUT,
            Position.TARGET,
            ["100 egress", "12 ingress", "6 ingress", "6 egress", "101 ingress!"],
        ),
        (BACK, Position.TARGET, ["101 egress!"]),
        (BACK, Position.FAR, ["6 ingress!", "101 egress"]),
        (BACK, Position.NEAR, ["6 egress!", "6 ingress", "101 egress"]),
        (BACK, Position.ENDPOINT, ["12 egress!", "6 egress", "6 ingress", "101 egress"]),
        (
            BACK,
            Position.CLIENT,
            ["100 ingress!", "12 egress", "6 egress", "6 ingress", "101 egress"],
        ),
    ],
)
def test_what_is_refused_on_the_way_has_passed_who_is_before(
    side: dict[str, int], position: Position, told: list[str]
) -> None:
    reason = DropReason.NETWORK_ACL_EGRESS
    if told[-1 if side is OUT else 0].endswith("ingress!"):
        reason = DropReason.NETWORK_ACL_INGRESS
    refused = by_nat_gateway(**side, reason=reason, way=way(**ALL_WAY, position=position))
    form = LineFormat(("flow-direction",))
    assert [
        f"{key.place} {form.line(PLACE, key, sums, 1, 2)}{'!' if key.refused else ''}"
        for key, sums in rows_of(refused)
    ] == told


def test_what_a_gateway_drops_by_itself_it_has_let_in() -> None:
    stray = delta(**OUT, slot=65535, interface=2, reason=DropReason.NO_FLOW)
    stray = stray._replace(packets_out=0, packets_in=1, way=way(position=Position.FAR))
    far, gateway = "203.0.113.5", "10.0.0.220"
    assert way_rows(stray, 6) == [
        (far, gateway, far, gateway, "443", "31000", "ingress", "-", "ACCEPT")
    ]


def test_a_preserved_client_is_in_the_packets_of_a_node_alone() -> None:
    """AWS: srcaddr and dstaddr of what an interface sends and is sent are its own."""
    client, node, target = "10.0.1.5", "203.0.113.5", "10.0.1.54"
    balanced = way(
        address=number(node),
        source_address=number(client),
        source_port=5000,
        far_address=number(target),
        far_port=8080,
        internet=False,
        target=101,
    )
    found = by_nat_gateway(way=balanced)
    assert way_rows(found, 6)[2:] == [
        (node, target, client, target, "5000", "8080", "egress", "1", "ACCEPT"),
        (target, node, target, client, "8080", "5000", "ingress", "-", "ACCEPT"),
    ]
    assert way_rows(found, 101) == [
        (client, target, client, target, "5000", "8080", "ingress", "-", "ACCEPT"),
        (target, client, target, client, "8080", "5000", "egress", "1", "ACCEPT"),
    ]
