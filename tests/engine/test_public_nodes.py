# SPDX-License-Identifier: Apache-2.0
"""Clients in the internet of a load balancer's node, which has a public address there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import (
    Action,
    DropReason,
    Listener,
    Policy,
    Rule,
    Side,
    Timeouts,
    Verdict,
)
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine.balancers import NODE, SERVICE, Scene, listener
from tests.engine.gateways import (
    ELASTIC,
    ENVIRONMENT,
    FAR,
    FIRST,
    GATEWAY_TABLE,
    HOST,
    HOSTS_TABLE,
    INSIDE,
    NOWHERE,
    OUTSIDE,
    PUBLIC,
    TO_INTERNET,
    TO_NAT,
    VPC,
    ends,
    macs,
)
from tests.reference import packet

FACE, NUMBER = "203.0.113.20", 10
"""The public address of the node, and its interface number."""
CLIENT = (FAR, 6000)
SYN, ACK, SYNACK = packet.SYN, packet.ACK, packet.SYN | packet.ACK


class Facing(Scene):
    """The node faces the internet."""

    def listen(self, *listeners: Listener) -> None:
        super().listen(*listeners)
        self.engine.set_load_balancer_node(
            8,
            address=NODE,
            vpc=VPC,
            interface=0,
            policy=self.policy,
            listeners=self.listeners,
            route_table=GATEWAY_TABLE,
        )
        self.face(8)

    def face(self, node: int | None) -> None:
        self.engine.set_interface(
            NUMBER,
            address=FACE,
            mac=macs(OUTSIDE, 2)[0],
            subnet="192.0.2.0/24",
            router="192.0.2.1",
            destinations=("0.0.0.0/0",),
            vpc=9,
            primary=2,
            mtu=1500,
            internet_gateway=True,
            node=node,
        )

    def sends(self, flags: int, sequences: tuple[int, int] = (0, 0), port: int = 80) -> Verdict:
        """A segment of the client to the public address."""
        return self.tcp((OUTSIDE, 2), CLIENT, (FACE, port), flags, sequences)

    def opened(self) -> None:
        """The engine has its map: its neighbours are the scene's."""


@pytest.fixture(params=[True, False], ids=["preserved", "translated"])
def scene(request: pytest.FixtureRequest) -> Iterator[Facing]:
    it = Facing(listener((FIRST, 8080), preserve=request.param))
    yield it
    assert it.engine.verify() == []
    it.close()


@pytest.fixture
def preserving() -> Iterator[Facing]:
    it = Facing(listener((FIRST, 8080)), listener((FIRST, 8080), protocol="udp"))
    yield it
    assert it.engine.verify() == []
    it.close()


def begun(scene: Facing) -> tuple[str, int]:
    """A connection is opened; its source as the target sees it."""
    syn = scene.sends(SYN, (100, 0))
    source, target = ends(syn)
    assert (syn.side, syn.port, target) == (Side.HOST, 0, (FIRST, 8080))
    answer = scene.tcp((HOST, 0), target, source, SYNACK, (500, 101))
    assert (answer.side, answer.port) == (Side.OUTSIDE, 2)
    assert ends(answer) == ((FACE, 80), CLIENT)
    assert scene.sends(ACK, (101, 501)).side is Side.HOST
    return source


@pytest.mark.parametrize("routes", [[TO_INTERNET], [TO_NAT], [NOWHERE], []])
def test_there_and_back_whatever_the_target_s_routes(
    scene: Facing, routes: list[tuple[str, RouteTarget, int]]
) -> None:
    scene.engine.set_route_table(HOSTS_TABLE, routes)
    source = begun(scene)
    assert source == CLIENT or source[0] == NODE
    counters = scene.engine.counters()
    assert counters["flows_established_tcp"] == counters["flows_active_tcp"] == 1
    assert scene.node()["new_flows_tcp"] == 1
    assert scene.drops() == {}


def test_the_client_is_seen_as_who_it_is(preserving: Facing) -> None:
    assert begun(preserving) == CLIENT


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ([], DropReason.NO_ROUTE),
        ([NOWHERE], DropReason.ROUTE_BLACKHOLE),
        ([TO_NAT], DropReason.NO_ROUTE),
    ],
)
def test_a_node_without_a_way_back_takes_nothing(
    scene: Facing, route: list[tuple[str, RouteTarget, int]], reason: DropReason
) -> None:
    source = begun(scene)
    scene.engine.set_route_table(GATEWAY_TABLE, route)
    assert scene.sends(ACK, (101, 501)).reason is reason
    answer = scene.tcp((HOST, 0), (FIRST, 8080), source, ACK, (501, 101))
    assert answer.reason is reason
    fresh = scene.tcp((OUTSIDE, 2), (FAR, 6001), (FACE, 80), SYN)
    assert fresh.reason is reason
    scene.engine.set_route_table(GATEWAY_TABLE, [TO_INTERNET])
    assert scene.sends(ACK, (101, 501)).action is Action.FORWARD


def test_what_a_host_has_no_route_for_is_dropped_where_it_answers_nobody(
    preserving: Facing,
) -> None:
    preserving.engine.set_route_table(HOSTS_TABLE, [])
    begun(preserving)
    other = preserving.tcp((HOST, 0), (FIRST, 8081), CLIENT, SYN)
    assert other.reason is DropReason.NO_ROUTE
    assert preserving.udp((HOST, 0), (FIRST, 8080), (FAR, 53)).reason is DropReason.NO_ROUTE
    assert preserving.drops() == {"no_route": 2}


def test_security_groups_are_about_the_client(scene: Facing) -> None:
    scene.policy = Policy(NODE, ingress=[Rule("tcp", f"{FAR}/32", 80, 80)], egress=[Rule("all")])
    scene.listen(*scene.listeners)
    begun(scene)
    stranger = scene.tcp((OUTSIDE, 2), ("198.51.100.7", 6000), (FACE, 80), SYN)
    assert stranger.reason is DropReason.SECURITY_GROUP_INGRESS


@pytest.mark.parametrize("admitted", [f"{FAR}/32", f"{NODE}/32", "10.9.0.0/16"])
def test_a_target_admits_client_or_node(preserving: Facing, admitted: str) -> None:
    preserving.set_host(0, FIRST, policy=Policy(FIRST, ingress=[Rule("tcp", admitted)]))
    verdict = preserving.sends(SYN, (100, 0))
    if admitted == "10.9.0.0/16":
        assert verdict.reason is DropReason.SECURITY_GROUP_INGRESS
    else:
        assert verdict.side is Side.HOST


def test_what_no_listener_is_for(scene: Facing) -> None:
    assert scene.sends(SYN, port=81).reason is DropReason.LOAD_BALANCER_NO_LISTENER
    stray = scene.sends(ACK, (7, 8))
    assert stray.action is Action.REPLY
    assert scene.drops() == {"load_balancer_no_listener": 1, "load_balancer_stray": 1}
    assert (stray.side, stray.port) == (Side.OUTSIDE, 2)
    assert ends(stray) == ((FACE, 80), CLIENT)
    echo = packet.icmp(packet.ECHO_REQUEST, 0, bytes(4), b"x")
    ping = scene.arrives(OUTSIDE, 2, packet.ipv4(FAR, FACE, packet.ICMP, echo))
    assert ping.reason is DropReason.LOAD_BALANCER_ICMP


def test_who_is_idle_too_long_is_told(preserving: Facing) -> None:
    preserving.engine.set_route_table(HOSTS_TABLE, [])
    begun(preserving)
    preserving.now += 351_000
    late = preserving.tcp((HOST, 0), (FIRST, 8080), CLIENT, ACK, (501, 101))
    assert late.action is Action.REPLY
    preserving.now += Timeouts().hold + 1
    preserving.engine.expire(preserving.now)
    late = preserving.tcp((HOST, 0), (FIRST, 8080), CLIENT, ACK, (501, 101))
    assert late.action is Action.REPLY
    assert preserving.drops() == {"tcp_idle_timeout": 2}
    assert preserving.sends(ACK, (101, 501)).action is Action.REPLY
    assert preserving.drops()["load_balancer_stray"] == 1


def test_a_target_behind_the_router_answers_by_the_node() -> None:
    scene = Facing(listener((SERVICE, 80), preserve=False), listener((SERVICE, 80), port=81))
    syn = scene.sends(SYN, (100, 0))
    source, target = ends(syn)
    assert (syn.side, source[0], target) == (Side.OUTSIDE, NODE, (SERVICE, 80))
    answer = scene.tcp((OUTSIDE, 0), target, source, SYNACK, (500, 101))
    assert (answer.port, ends(answer)) == (2, ((FACE, 80), CLIENT))
    # Its answers to the client itself would go another way.
    lost = scene.sends(SYN, port=81)
    assert lost.reason is DropReason.LOAD_BALANCER_RETURN_PATH
    assert scene.engine.verify() == []
    scene.close()


def test_datagrams_and_their_fragments(preserving: Facing) -> None:
    assert preserving.udp((OUTSIDE, 2), CLIENT, (FACE, 80), b"x").side is Side.HOST
    preserving.engine.set_route_table(HOSTS_TABLE, [])
    content = packet.udp(FIRST, FAR, 8080, 6000, bytes(24))

    def piece(field: int, data: bytes) -> Verdict:
        body = packet.ipv4(FIRST, FAR, packet.UDP, data, identification=9, fragment=field)
        return preserving.arrives(HOST, 0, body)

    assert piece(0x2000, content[:16]).side is Side.OUTSIDE
    last = piece(0x0002, content[16:])
    assert (last.side, last.frame[26:30]) == (Side.OUTSIDE, packet.octets(FACE))


def test_errors_cross_both_ways(preserving: Facing) -> None:
    preserving.engine.set_route_table(HOSTS_TABLE, [])
    came = preserving.udp((OUTSIDE, 2), CLIENT, (FACE, 80), b"x")
    closed = packet.icmp(3, 3, bytes(4), came.frame[14:42])
    told = preserving.arrives(HOST, 0, packet.ipv4(FIRST, FAR, packet.ICMP, closed))
    assert (told.side, told.port) == (Side.OUTSIDE, 2)
    assert told.frame[26:30] == packet.octets(FACE)
    answer = preserving.udp((HOST, 0), (FIRST, 8080), CLIENT, b"y")
    small = packet.icmp(3, 4, b"\0\0\x05\0", answer.frame[14:42])
    told = preserving.arrives(OUTSIDE, 2, packet.ipv4("192.0.2.1", FACE, packet.ICMP, small))
    assert (told.side, told.port) == (Side.HOST, 0)
    assert preserving.engine.counters()["icmp_errors_translated"] == 2
    # About what nobody has sent, a host without a route tells nobody.
    stranger = packet.udp(FAR, FIRST, 7, 8, b"z")
    wrong = packet.icmp(3, 3, bytes(4), packet.ipv4(FAR, FIRST, packet.UDP, stranger)[:28])
    told = preserving.arrives(HOST, 0, packet.ipv4(FIRST, FAR, packet.ICMP, wrong))
    assert told.reason is DropReason.NO_ROUTE


def test_others_reach_it_by_the_internet(preserving: Facing) -> None:
    """A host with a public address, and an environment by the NAT gateway."""
    left = preserving.tcp((HOST, 0), (FIRST, 7000), (FACE, 80), SYN)
    assert ends(left) == ((PUBLIC, 7000), (FACE, 80))
    came = preserving.tcp((OUTSIDE, 2), *ends(left), SYN)
    assert (came.side, ends(came)) == (Side.HOST, ((PUBLIC, 7000), (FIRST, 8080)))
    answer = preserving.tcp((HOST, 0), (FIRST, 8080), (PUBLIC, 7000), SYNACK, (500, 1))
    assert ends(answer) == ((FACE, 80), (PUBLIC, 7000))
    back = preserving.tcp((OUTSIDE, 2), *ends(answer), SYNACK, (500, 1))
    assert (back.side, ends(back)) == (Side.HOST, ((FACE, 80), (FIRST, 7000)))
    left = preserving.tcp((INSIDE, 1), (ENVIRONMENT, 7000), (FACE, 80), SYN)
    assert ends(left)[0][0] == ELASTIC
    assert preserving.tcp((OUTSIDE, 2), *ends(left), SYN).side is Side.HOST


def test_what_goes_takes_its_flows_along(scene: Facing) -> None:
    begun(scene)
    scene.removed([NUMBER])
    assert scene.engine.counters()["flows_active_tcp"] == 0
    assert scene.sends(SYN).reason is DropReason.NOT_OURS
    scene.face(8)
    begun(scene)
    scene.removed([8])
    assert scene.engine.counters()["flows_active_tcp"] == 0
    assert scene.sends(SYN).reason is DropReason.UNKNOWN_LINK


def test_flows_outlive_the_forwarder(scene: Facing) -> None:
    source = begun(scene)
    scene.starts_again()
    answer = scene.tcp((HOST, 0), (FIRST, 8080), source, ACK, (501, 101))
    assert (answer.port, ends(answer)) == (2, ((FACE, 80), CLIENT))
    assert scene.sends(ACK, (101, 501)).action is Action.FORWARD
    [flow] = scene.map.host_flows()
    assert flow.target is not None
    assert (flow.protocol, flow.target.address) == ("tcp", FIRST)


def test_an_address_that_stands_for_another_has_none_of_its_flows(scene: Facing) -> None:
    begun(scene)
    with pytest.raises(ValueError, match="still has flows of another"):
        scene.face(None)
