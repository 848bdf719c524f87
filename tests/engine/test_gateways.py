# SPDX-License-Identifier: Apache-2.0
"""Internet and NAT gateways: where packets leave, as what, and what ends their flows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import Action, DropReason, Policy, Ports, Rule, Side
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine import gateways
from tests.engine.gateways import (
    ELASTIC,
    ENVIRONMENT,
    FAR,
    FARTHER,
    FIRST,
    HOST,
    INSIDE,
    LAMBDA,
    NAT,
    OTHER_ELASTIC,
    OUTSIDE,
    PUBLIC,
    SECOND,
    Scene,
    ends,
)
from tests.reference import packet

REMOTE = (FAR, 53)


@pytest.fixture
def scene() -> Iterator[Scene]:
    result = Scene()
    yield result
    assert result.engine.verify() == []
    result.close()


@pytest.fixture
def two() -> Iterator[Scene]:
    """With two addresses of the NAT gateway."""
    result = Scene(addresses=2)
    yield result
    assert result.engine.verify() == []
    result.close()


# Public addresses of hosts


def test_a_host_leaves_with_its_public_address(scene: Scene) -> None:
    out = scene.from_host()
    assert (out.action, out.side, out.port) == (Action.FORWARD, Side.OUTSIDE, 2)
    assert ends(out) == ((PUBLIC, 5000), REMOTE)
    back = scene.from_internet((PUBLIC, 5000))
    assert (back.action, back.side, back.port) == (Action.FORWARD, Side.HOST, 0)
    assert ends(back) == (REMOTE, (FIRST, 5000))
    assert scene.engine.counters()["flows_active_udp"] == 1


def test_from_the_internet_a_flow_begins_at_a_public_address(scene: Scene) -> None:
    came = scene.from_internet((PUBLIC, 80), (FAR, 6000))
    assert (came.action, came.side, came.port) == (Action.FORWARD, Side.HOST, 0)
    assert ends(came) == ((FAR, 6000), (FIRST, 80))
    answer = scene.from_host(port=80, far=(FAR, 6000))
    assert (answer.side, answer.port) == (Side.OUTSIDE, 2)
    assert ends(answer) == ((PUBLIC, 80), (FAR, 6000))
    assert scene.engine.counters()["flows_active_udp"] == 1


def test_security_groups_of_a_host_decide_who_comes_in(scene: Scene) -> None:
    closed = Policy(FIRST, ingress=[Rule("udp", f"{FAR}/32", 80, 80)])
    scene.set_host(0, FIRST, policy=closed)
    assert scene.from_internet((PUBLIC, 80), (FAR, 6000)).action is Action.FORWARD
    refused = scene.from_internet((PUBLIC, 81), (FAR, 6000))
    assert refused.reason is DropReason.SECURITY_GROUP_INGRESS
    assert scene.from_host().action is Action.FORWARD
    assert scene.from_internet((PUBLIC, 5000)).action is Action.FORWARD


def test_pings_both_ways(scene: Scene) -> None:
    def echo(kind: int, source: str, destination: str) -> bytes:
        content = packet.icmp(kind, 0, (77).to_bytes(2) + bytes(2), b"x")
        return packet.ipv4(source, destination, packet.ICMP, content)

    request, reply = packet.ECHO_REQUEST, packet.ECHO_REPLY
    came = scene.arrives(OUTSIDE, 2, echo(request, FAR, PUBLIC))
    assert (came.side, came.port) == (Side.HOST, 0)
    answer = scene.arrives(HOST, 0, echo(reply, FIRST, FAR))
    assert (answer.side, answer.port) == (Side.OUTSIDE, 2)
    assert answer.frame[26:30] == packet.octets(PUBLIC)
    assert scene.arrives(HOST, 0, echo(request, FIRST, FAR)).side is Side.OUTSIDE
    assert scene.arrives(OUTSIDE, 2, echo(reply, FAR, PUBLIC)).side is Side.HOST


def test_a_tcp_connection_to_a_public_address(scene: Scene) -> None:
    far, near = (FAR, 6000), (FIRST, 80)
    came = scene.tcp((OUTSIDE, 2), far, (PUBLIC, 80), packet.SYN, (100, 0))
    assert came.side is Side.HOST
    answer = scene.tcp((HOST, 0), near, far, packet.SYN | packet.ACK, (500, 101))
    assert ends(answer) == ((PUBLIC, 80), far)
    assert scene.tcp((OUTSIDE, 2), far, (PUBLIC, 80), packet.ACK, (101, 501)).side is Side.HOST
    counters = scene.engine.counters()
    assert counters["flows_established_tcp"] == counters["flows_active_tcp"] == 1


def test_without_a_public_address_a_host_stays_in(scene: Scene) -> None:
    assert scene.from_host(1).reason is DropReason.NO_PUBLIC_ADDRESS
    scene.engine.set_route_table(gateways.ENVIRONMENTS_TABLE, [gateways.TO_INTERNET])
    assert scene.from_environment().reason is DropReason.NO_PUBLIC_ADDRESS
    assert scene.engine.flows() == []


def test_a_flow_ends_with_the_public_address(scene: Scene) -> None:
    scene.from_host()
    scene.from_internet((PUBLIC, 80), (FAR, 6000))
    scene.engine.remove_interface(3)
    assert scene.from_host().reason is DropReason.NO_PUBLIC_ADDRESS
    assert scene.from_internet((PUBLIC, 5000)).reason is DropReason.NOT_OURS
    with pytest.raises(ValueError, match="still has flows of another"):
        scene.set_gateway(3, PUBLIC, host=1)
    scene.engine.sweep(0)
    assert scene.engine.counters()["flows_entries_used"] == 0
    scene.set_gateway(3, PUBLIC, host=1)
    assert ends(scene.from_internet((PUBLIC, 5000)))[1] == (SECOND, 5000)


def test_an_address_that_stands_for_nobody(scene: Scene) -> None:
    scene.from_host()
    scene.engine.remove_host(0)
    assert scene.from_internet((PUBLIC, 5000)).reason is DropReason.UNKNOWN_LINK
    scene.engine.sweep(0)
    assert scene.engine.counters()["flows_entries_used"] == 0
    assert scene.from_internet(("192.0.2.10", 5000)).reason is DropReason.NO_FLOW


def test_hosts_reach_each_other_by_their_public_addresses(scene: Scene) -> None:
    scene.set_gateway(8, "203.0.113.12", host=1)
    out = scene.from_host(0, far=("203.0.113.12", 80))
    assert (out.side, out.port) == (Side.OUTSIDE, 2)
    # The internet's router sends it back on the same link.
    came = scene.from_internet(("203.0.113.12", 80), (PUBLIC, 5000))
    assert (came.side, came.port) == (Side.HOST, 1)
    assert ends(came) == ((PUBLIC, 5000), (SECOND, 80))


def test_nothing_is_held_for_a_host_s_own_flow(scene: Scene) -> None:
    scene.from_host()
    scene.now = 400_000
    scene.engine.expire(scene.now)
    assert scene.engine.counters()["flows_entries_used"] == 0


# Routes


def test_the_longest_prefix_decides(scene: Scene) -> None:
    scene.engine.set_route_table(
        gateways.HOSTS_TABLE,
        [
            gateways.TO_INTERNET,
            ("198.51.100.0/24", RouteTarget.BLACKHOLE, 0),
            (f"{FARTHER}/32", RouteTarget.HOST, 1),
        ],
    )
    assert scene.from_host().side is Side.OUTSIDE
    assert scene.from_host(far=("198.51.100.8", 53)).reason is DropReason.ROUTE_BLACKHOLE
    hosts = scene.from_host(far=(FARTHER, 53))
    assert (hosts.side, hosts.port) == (Side.HOST, 1)
    assert ends(hosts) == ((FIRST, 5000), (FARTHER, 53))


def test_a_host_that_routes_may_answer_for_others(scene: Scene) -> None:
    to_host = (f"{FARTHER}/32", RouteTarget.HOST, 1)
    for table in (gateways.HOSTS_TABLE, gateways.ENVIRONMENTS_TABLE):
        scene.engine.set_route_table(table, [to_host])
    came = scene.from_environment(far=(FARTHER, 53))
    assert came.side is Side.HOST
    source, port = ends(came)[0]
    assert source == LAMBDA
    answer = ((HOST, 1), (FARTHER, 53), (LAMBDA, port))
    assert scene.udp(*answer).reason is DropReason.SOURCE_SPOOFED
    scene.set_host(1, SECOND, source_check=False)
    assert scene.udp(*answer).side is Side.INSIDE
    scene.from_host(0, far=(FARTHER, 53))
    back = scene.udp((HOST, 1), (FARTHER, 53), (FIRST, 5000))
    assert (back.side, back.port) == (Side.HOST, 0)


@pytest.mark.parametrize("table", [gateways.ENVIRONMENTS_TABLE, gateways.GATEWAY_TABLE])
def test_a_route_that_turns_black_stops_flows(scene: Scene, table: int) -> None:
    assert scene.from_environment().action is Action.FORWARD
    scene.engine.set_route_table(table, [gateways.NOWHERE])
    assert scene.from_environment().reason is DropReason.ROUTE_BLACKHOLE
    scene.engine.set_route_table(table, [])
    assert scene.from_environment().reason is DropReason.NO_ROUTE
    scene.engine.set_route_table(table, None)
    assert scene.from_environment().reason is DropReason.NO_ROUTE
    assert scene.drops() == {"route_blackhole": 1, "no_route": 2}


def test_a_target_that_is_not_there_is_a_black_hole(scene: Scene) -> None:
    scene.engine.remove_interface(6)
    assert scene.from_environment().reason is DropReason.ROUTE_BLACKHOLE
    scene.engine.remove_interface(2)
    assert scene.from_host().reason is DropReason.ROUTE_BLACKHOLE
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [("0.0.0.0/0", RouteTarget.HOST, 3)])
    assert scene.from_host().reason is DropReason.ROUTE_BLACKHOLE


def test_what_is_in_the_vpc_meets_no_route(scene: Scene) -> None:
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [("10.0.0.0/8", RouteTarget.BLACKHOLE, 0)])
    assert scene.from_host(far=(SECOND, 53)).port == 1
    assert scene.from_host(far=("10.0.7.7", 53)).action is Action.FORWARD
    assert scene.from_host(far=("10.1.0.1", 53)).reason is DropReason.ROUTE_BLACKHOLE


@pytest.mark.requirement("VPC-reserved-destinations", profile="both")
@pytest.mark.parametrize("address", ["169.254.168.0", "169.254.169.254", "169.254.171.255"])
def test_nothing_is_forwarded_to_what_aws_reserves(scene: Scene, address: str) -> None:
    """By no route that covers it: to the internet gateway, a NAT gateway, a host."""
    for table in (gateways.HOSTS_TABLE, gateways.ENVIRONMENTS_TABLE):
        scene.engine.set_route_table(table, [gateways.TO_NAT])
    to_host = ("169.254.0.0/16", RouteTarget.HOST, 1)
    assert scene.from_environment(far=(address, 80)).reason is DropReason.DESTINATION_INVALID
    assert scene.from_host(far=(address, 80)).reason is DropReason.DESTINATION_INVALID
    for routes in ([gateways.TO_INTERNET], [to_host]):
        scene.engine.set_route_table(gateways.HOSTS_TABLE, routes)
        assert scene.from_host(far=(address, 80)).reason is DropReason.DESTINATION_INVALID
    for beside in ("169.254.167.255", "169.254.172.0"):
        assert scene.from_host(far=(beside, 80)).port == 1
    assert scene.drops() == {"destination_invalid": 4}


def test_another_route_is_another_flow(scene: Scene) -> None:
    assert ends(scene.from_host())[0] == (PUBLIC, 5000)
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [gateways.TO_NAT])
    source, _ = ends(scene.from_host())
    assert source[0] == ELASTIC
    assert scene.engine.counters()["flows_ended_udp_removed"] == 1
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [gateways.TO_INTERNET])
    assert ends(scene.from_host())[0] == (PUBLIC, 5000)
    # The port at the NAT gateway is held, and nobody's.
    assert scene.from_internet(source).reason is DropReason.FLOW_HELD


# NAT gateways


def test_a_host_by_a_nat_gateway(scene: Scene) -> None:
    scene.set_host(0, FIRST, route_table=gateways.ENVIRONMENTS_TABLE)
    out = scene.from_host()
    assert (out.action, out.side, out.port) == (Action.FORWARD, Side.OUTSIDE, 2)
    source, destination = ends(out)
    assert (source[0], destination) == (ELASTIC, REMOTE)
    assert 40_000 <= source[1] <= 40_063
    back = scene.from_internet(source)
    assert (back.side, back.port) == (Side.HOST, 0)
    assert ends(back) == (REMOTE, (FIRST, 5000))


def test_from_the_internet_no_flow_begins_at_a_nat_gateway(scene: Scene) -> None:
    assert scene.from_internet((ELASTIC, 40_000)).reason is DropReason.NO_FLOW
    echo = packet.icmp(packet.ECHO_REQUEST, 0, bytes(4), b"")
    asked = scene.arrives(OUTSIDE, 2, packet.ipv4(FAR, ELASTIC, packet.ICMP, echo))
    assert asked.reason is DropReason.ICMP_TYPE
    inside = scene.from_host(far=(NAT, 53))
    assert inside.reason is DropReason.NO_FLOW
    assert scene.from_environment(far=(NAT, 53)).action is Action.DROP


def test_a_private_nat_gateway_has_no_way_out(scene: Scene) -> None:
    scene.removed([4])
    assert scene.from_environment().reason is DropReason.NAT_GATEWAY_PRIVATE


def test_a_draining_address_takes_no_new_flow(two: Scene) -> None:
    sources = {ends(two.from_environment(port=5000 + i))[0] for i in range(16)}
    assert {address for address, _ in sources} == {ELASTIC, OTHER_ELASTIC}
    two.set_nat(7, gateways.OTHER_NAT, draining=True)
    later = {ends(two.from_environment(port=6000 + i))[0][0] for i in range(16)}
    assert later == {ELASTIC}
    for source in sources:
        assert two.from_internet(source).action is Action.FORWARD
    two.set_nat(6, NAT, draining=True)
    assert two.from_environment(port=7000).reason is DropReason.PORT_ALLOCATION


def test_a_flow_ends_with_its_nat_gateway(scene: Scene) -> None:
    source, _ = ends(scene.from_environment())
    scene.engine.remove_interface(6)
    assert scene.from_internet(source).reason is DropReason.UNKNOWN_LINK
    assert scene.engine.retiring() == ([], [6])
    with pytest.raises(ValueError, match="still has flows of another"):
        scene.set_nat(6, NAT)
    scene.engine.sweep(0)
    assert scene.engine.counters()["flows_entries_used"] == 0
    scene.set_nat(6, NAT)
    assert scene.from_environment().action is Action.FORWARD


# Environments by a NAT gateway


def test_an_environment_by_a_nat_gateway(scene: Scene) -> None:
    out = scene.from_environment()
    assert (out.action, out.side, out.port) == (Action.FORWARD, Side.OUTSIDE, 2)
    source, destination = ends(out)
    assert (source[0], destination) == (ELASTIC, REMOTE)
    back = scene.from_internet(source)
    assert (back.side, back.port) == (Side.INSIDE, 1)
    assert ends(back) == (REMOTE, (ENVIRONMENT, 5000))


def test_the_port_of_its_interface_finds_nothing(scene: Scene) -> None:
    source, _ = ends(scene.from_environment())
    came = scene.udp((OUTSIDE, 1), REMOTE, (LAMBDA, source[1]))
    assert came.reason is DropReason.NO_FLOW


def test_what_passes_is_counted_at_each_hop(scene: Scene) -> None:
    source, _ = ends(scene.from_environment())
    scene.from_internet(source)
    for number in (1, 4):
        counters = scene.map.interface_counters(number)
        assert counters["packets_out_to_destination"] == 1, number
        assert counters["packets_in_from_destination"] == 1, number
    for number in (1, 4):
        counters = scene.map.interface_counters(number)
        assert counters["packets_in_from_source"] == 1, number
        assert counters["packets_out_to_source"] == 1, number
        for way, back in (
            ("in_from_source", "out_to_destination"),
            ("out_to_source", "in_from_destination"),
        ):
            assert counters[f"bytes_{way}"] == counters[f"bytes_{back}"], number


@pytest.mark.requirement("NATGW-metrics", profile="both")
def test_flows_of_environments_and_hosts_are_counted_at_the_nat_gateway(scene: Scene) -> None:
    scene.set_host(1, SECOND, route_table=gateways.ENVIRONMENTS_TABLE)
    scene.from_environment()
    scene.from_host(1)
    # By the internet gateway: the NAT gateway has nothing of it.
    scene.from_host()
    counters = scene.map.interface_counters(6)
    assert (counters["flows"], counters["tcp_flows"]) == (2, 0)
    assert counters["packets_in_from_source"] == 2
    scene.now = 10**7
    scene.engine.expire(scene.now)
    assert scene.map.interface_counters(6)["flows"] == 0


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after another forwarder"])
def test_ports_run_out_at_the_nat_gateway(again: bool) -> None:
    scene = Scene(ports=Ports(first=40_000, last=40_007))
    for port in range(8):
        assert scene.from_environment(1 + port % 2, 5000 + port).action is Action.FORWARD
    if again:
        scene.starts_again()
        assert scene.engine.verify() == []
    assert scene.from_environment(1, 6000).reason is DropReason.PORT_ALLOCATION
    assert scene.from_environment(1, 6000, (FAR, 54)).action is Action.FORWARD
    scene.now = 2_000_000
    scene.engine.expire(scene.now)
    scene.now += 2_000_000
    scene.engine.expire(scene.now)
    assert scene.engine.verify() == []
    assert scene.engine.counters()["flows_entries_used"] == 0
    assert scene.from_environment(1, 6000).action is Action.FORWARD
    scene.close()


def test_ports_run_out_at_the_interface() -> None:
    scene = Scene(ports=Ports(first=40_000, last=40_063, limit_per_remote=4), addresses=2)
    for port in range(4):
        assert scene.from_environment(1, 5000 + port).action is Action.FORWARD
    assert scene.from_environment(1, 6000).reason is DropReason.PORT_ALLOCATION
    [exhaustion] = scene.map.exhaustions()
    assert exhaustion.interface == 1
    # The NAT gateway has ports left for others.
    scene.set_host(0, FIRST, route_table=gateways.ENVIRONMENTS_TABLE)
    assert scene.from_host().action is Action.FORWARD
    assert scene.engine.verify() == []
    scene.close()


def test_no_port_is_an_interface_s_twice() -> None:
    scene = Scene(ports=Ports(first=40_000, last=40_015), addresses=2)
    ports = [ends(scene.from_environment(1, 5000 + port))[0][1] for port in range(12)]
    assert len(set(ports)) == len(ports)
    assert scene.engine.verify() == []
    scene.close()


def test_flows_outlive_the_forwarder(scene: Scene) -> None:
    scene.set_host(1, SECOND, route_table=gateways.ENVIRONMENTS_TABLE)
    sources = [ends(scene.from_environment(port=5000 + i))[0] for i in range(4)]
    sources += [ends(scene.from_host(1))[0], ends(scene.from_host(0))[0]]
    scene.from_internet((PUBLIC, 80), (FAR, 6000))
    scene.starts_again()
    scene.set_host(1, SECOND, route_table=gateways.ENVIRONMENTS_TABLE)
    assert scene.engine.verify() == []
    places = [(back.side, back.port) for back in map(scene.from_internet, sources)]
    assert places == [(Side.INSIDE, 1)] * 4 + [(Side.HOST, 1), (Side.HOST, 0)]
    assert ends(scene.from_host(0, 80, (FAR, 6000)))[0] == (PUBLIC, 80)
    assert scene.engine.counters()["flows_entries_used"] == 7


@pytest.mark.parametrize("gone", [1, 4])
def test_a_flow_ends_with_either_hop(scene: Scene, gone: int) -> None:
    scene.from_environment()
    scene.removed([gone])
    assert scene.engine.counters()["flows_entries_used"] == 0
    assert scene.engine.retiring() == ([], [])


def test_a_slot_that_goes_leaves_both_ports_held(scene: Scene) -> None:
    source, _ = ends(scene.from_environment())
    scene.engine.remove_slot(1)
    scene.engine.sweep(0)
    assert scene.engine.verify() == []
    assert scene.from_internet(source).reason is DropReason.FLOW_HELD
    scene.now = 1_000_000
    scene.engine.expire(scene.now)
    assert scene.engine.counters()["flows_entries_used"] == 0


def test_an_idle_connection_is_reset(scene: Scene) -> None:
    far, near = (FAR, 80), (ENVIRONMENT, 5000)
    source, _ = ends(scene.tcp((INSIDE, 1), near, far, packet.SYN, (100, 0)))
    scene.tcp((OUTSIDE, 2), far, source, packet.SYN | packet.ACK, (500, 101))
    scene.tcp((INSIDE, 1), near, far, packet.ACK, (101, 501))
    for later in (351_000, 5_000_000):
        scene.now = later
        scene.engine.expire(scene.now)
        reset = scene.tcp((INSIDE, 1), near, far, packet.ACK, (101, 501))
        assert reset.action is Action.REPLY
        assert packet.parse_segment(reset.frame[34:]).flags & packet.RST
    assert scene.engine.counters()["flows_entries_used"] == 0


def test_a_slot_in_the_way_of_icmp_errors(scene: Scene) -> None:
    out = scene.from_environment()
    message = packet.icmp(3, 3, bytes(4), out.frame[14:])
    back = scene.arrives(OUTSIDE, 2, packet.ipv4("192.0.2.99", ELASTIC, packet.ICMP, message))
    assert (back.side, back.port) == (Side.INSIDE, 1)
    quoted = back.frame[14 + 28 :]
    assert quoted[12:16] == packet.octets(ENVIRONMENT)
    assert packet.word(quoted, 20) == 5000
    scene.from_host()
    about = packet.ipv4(PUBLIC, FAR, packet.UDP, packet.udp(PUBLIC, FAR, 5000, 53))
    message = packet.icmp(3, 4, bytes(2) + (1400).to_bytes(2), about)
    to_host = scene.arrives(OUTSIDE, 2, packet.ipv4("192.0.2.99", PUBLIC, packet.ICMP, message))
    assert (to_host.side, to_host.port) == (Side.HOST, 0)
    assert to_host.frame[14 + 28 + 12 : 14 + 28 + 16] == packet.octets(FIRST)


def test_what_is_too_large_for_the_internet(scene: Scene) -> None:
    content = packet.udp(ENVIRONMENT, FAR, 5000, 53, bytes(2000))
    whole = packet.ipv4(ENVIRONMENT, FAR, packet.UDP, content, fragment=0x4000)
    told = scene.arrives(INSIDE, 1, whole)
    assert (told.action, told.side) == (Action.REPLY, Side.INSIDE)
    assert told.frame[34:36] == bytes((3, 4))
    assert packet.word(told.frame, 34 + 6) == 1500
    cut = scene.arrives(INSIDE, 1, packet.ipv4(ENVIRONMENT, FAR, packet.UDP, content, fragment=0))
    assert (cut.action, cut.port) == (Action.FORWARD, 2)
    [rest] = scene.engine.take_extra()
    assert (rest.side, rest.port) == (Side.OUTSIDE, 2)
    assert rest.frame[26:30] == cut.frame[26:30] == packet.octets(ELASTIC)


def test_fragments_go_where_the_first_went(scene: Scene) -> None:
    content = packet.udp(ENVIRONMENT, FAR, 5000, 53, bytes(56))

    def piece(field: int, data: bytes) -> bytes:
        return packet.ipv4(ENVIRONMENT, FAR, packet.UDP, data, fragment=field, identification=7)

    first = scene.arrives(INSIDE, 1, piece(0x2000, content[:32]))
    later = scene.arrives(INSIDE, 1, piece(4, content[32:]))
    assert (later.action, later.port) == (Action.FORWARD, 2)
    assert first.frame[26:30] == later.frame[26:30] == packet.octets(ELASTIC)
    assert first.frame[18:20] == later.frame[18:20]
