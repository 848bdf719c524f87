# SPDX-License-Identifier: Apache-2.0
"""Gateway endpoints: private addresses leave by a link of their own, and only answers come back.

To the scene of `gateways` comes interface 8, that of the VPC's gateway endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import Action, DropReason, Policy, Rule, Side, Verdict
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine import gateways
from tests.engine.gateways import (
    ENVIRONMENT,
    FIRST,
    HOST,
    LAMBDA,
    OUTSIDE,
    ROUTER,
    SECOND,
    VPC,
    Scene,
    ends,
    macs,
)
from tests.reference import packet
from tests.reference.reading import checked_ipv4

BY_ENDPOINT, OWN = 8, "192.0.2.11"
SERVICE = ("192.0.2.90", 53)
TO_SERVICE = (f"{SERVICE[0]}/32", RouteTarget.GATEWAY_ENDPOINT, BY_ENDPOINT)


class EndpointScene(Scene):
    def serve(self) -> None:
        super().serve()
        self.set_endpoint()
        for address in (SERVICE[0], ROUTER):
            self.engine.set_neighbour(BY_ENDPOINT, address, macs(OUTSIDE, BY_ENDPOINT)[1])
        self.lead(True)

    def set_endpoint(self, mtu: int = 1500) -> None:
        self.engine.set_interface(
            BY_ENDPOINT,
            address=OWN,
            mac=macs(OUTSIDE, BY_ENDPOINT)[0],
            subnet="192.0.2.0/24",
            router=ROUTER,
            destinations=("0.0.0.0/0",),
            vpc=VPC,
            mtu=mtu,
            gateway_endpoint=True,
        )

    def lead(self, there: bool) -> None:
        """Routes to the service, beside those of the scene, or not."""
        further = [TO_SERVICE] if there else []
        for table, route in (
            (gateways.ENVIRONMENTS_TABLE, gateways.TO_NAT),
            (gateways.HOSTS_TABLE, gateways.TO_INTERNET),
            (gateways.GATEWAY_TABLE, gateways.TO_INTERNET),
        ):
            self.engine.set_route_table(table, [route, *further])

    def from_service(
        self, destination: tuple[str, int], source: tuple[str, int] = SERVICE
    ) -> Verdict:
        return self.udp((OUTSIDE, BY_ENDPOINT), source, destination)


@pytest.fixture
def scene() -> Iterator[EndpointScene]:
    result = EndpointScene()
    yield result
    assert result.engine.verify() == []
    result.close()


def test_a_host_keeps_its_private_address(scene: EndpointScene) -> None:
    """With a public one, and with none."""
    for number, address in ((0, FIRST), (1, SECOND)):
        out = scene.from_host(number, far=SERVICE)
        assert (out.action, out.side, out.port) == (Action.FORWARD, Side.OUTSIDE, BY_ENDPOINT)
        assert ends(out) == ((address, 5000), SERVICE)
        back = scene.from_service((address, 5000))
        assert (back.action, back.side, back.port) == (Action.FORWARD, Side.HOST, number)
        assert ends(back) == (SERVICE, (address, 5000))
    assert scene.engine.counters()["flows_active_udp"] == 2


def test_an_environment_has_the_address_of_its_interface(scene: EndpointScene) -> None:
    out = scene.from_environment(far=SERVICE)
    assert (out.side, out.port) == (Side.OUTSIDE, BY_ENDPOINT)
    source, destination = ends(out)
    assert (source[0], destination) == (LAMBDA, SERVICE)
    back = scene.from_service(source)
    assert (back.side, back.port) == (Side.INSIDE, 1)
    assert ends(back) == (SERVICE, (ENVIRONMENT, 5000))
    (flow,) = scene.engine.flows()
    assert (flow.nat_address, flow.nat_port) == source


def test_a_connection_from_its_first_segment_to_its_last(scene: EndpointScene) -> None:
    near = (SECOND, 5000)
    syn, ack, fin = packet.SYN, packet.ACK, packet.FIN
    there, back = (HOST, 1), (OUTSIDE, BY_ENDPOINT)
    assert scene.tcp(there, near, SERVICE, syn, (100, 0)).port == BY_ENDPOINT
    assert scene.tcp(back, SERVICE, near, syn | ack, (500, 101)).side is Side.HOST
    assert scene.tcp(there, near, SERVICE, ack, (101, 501)).port == BY_ENDPOINT
    assert scene.tcp(back, SERVICE, near, fin | ack, (501, 101)).side is Side.HOST
    assert scene.tcp(there, near, SERVICE, fin | ack, (101, 502)).port == BY_ENDPOINT
    assert scene.tcp(back, SERVICE, near, ack, (502, 102)).side is Side.HOST
    assert scene.engine.counters()["flows_established_tcp"] == 1
    assert scene.engine.counters()["flows_ended_tcp_fin"] == 1


def test_the_service_opens_nothing(scene: EndpointScene) -> None:
    """Neither to a host, whoever may come there, nor to an address that others of it have."""
    for address in (FIRST, SECOND, LAMBDA, OWN):
        assert scene.from_service((address, 80)).reason is DropReason.NO_FLOW
    # What is no address of hosts and functions, and what is nobody's.
    for address in (gateways.NAT, "10.0.1.99", gateways.PUBLIC):
        assert scene.from_service((address, 80)).reason is DropReason.NOT_OURS
    ping = packet.icmp(packet.ECHO_REQUEST, 0, bytes(4), b"")
    body = packet.ipv4(SERVICE[0], FIRST, packet.ICMP, ping)
    assert scene.arrives(OUTSIDE, BY_ENDPOINT, body).reason is DropReason.ICMP_TYPE
    syn = scene.tcp((OUTSIDE, BY_ENDPOINT), SERVICE, (FIRST, 80), packet.SYN)
    assert syn.reason is DropReason.NO_FLOW
    # Nor from an address of the VPC.
    forged = scene.from_service((SECOND, 80), (FIRST, 53))
    assert forged.reason is DropReason.SOURCE_INVALID
    assert scene.engine.counters()["flows_entries_used"] == 0


def test_security_groups_decide_who_leaves(scene: EndpointScene) -> None:
    policy = Policy(FIRST, egress=[Rule("udp", f"{SERVICE[0]}/32", 443, 443)])
    scene.set_host(0, FIRST, policy=policy)
    assert scene.from_host(far=SERVICE).reason is DropReason.SECURITY_GROUP_EGRESS
    assert scene.from_host(far=(SERVICE[0], 443)).action is Action.FORWARD


def test_flows_end_where_a_route_leads_elsewhere(scene: EndpointScene) -> None:
    """When an endpoint comes, and when it goes: sources are others then."""
    scene.lead(False)
    assert ends(scene.from_host(far=SERVICE))[0] == (gateways.PUBLIC, 5000)
    assert ends(scene.from_environment(far=SERVICE))[0][0] == gateways.ELASTIC
    scene.lead(True)
    assert ends(scene.from_host(far=SERVICE))[0] == (FIRST, 5000)
    assert ends(scene.from_environment(far=SERVICE))[0][0] == LAMBDA
    # A late answer is the first packet of a flow, for which the host has its ends no more.
    late = scene.from_internet((gateways.PUBLIC, 5000), SERVICE)
    assert late.reason is DropReason.FLOW_COLLISION
    scene.lead(False)
    assert ends(scene.from_host(far=SERVICE))[0] == (gateways.PUBLIC, 5000)
    assert ends(scene.from_environment(far=SERVICE))[0][0] == gateways.ELASTIC
    assert scene.from_service((FIRST, 5000)).reason is DropReason.NO_FLOW


def test_a_connection_is_cut_when_an_endpoint_comes(scene: EndpointScene) -> None:
    scene.lead(False)
    near = (FIRST, 5000)
    scene.tcp((HOST, 0), near, SERVICE, packet.SYN, (100, 0))
    scene.tcp((OUTSIDE, 2), SERVICE, (gateways.PUBLIC, 5000), packet.SYN | packet.ACK, (500, 101))
    assert scene.tcp((HOST, 0), near, SERVICE, packet.ACK, (101, 501)).port == 2
    scene.lead(True)
    late = scene.tcp((HOST, 0), near, SERVICE, packet.ACK, (101, 501))
    assert late.reason is DropReason.TCP_NO_FLOW
    assert scene.tcp((HOST, 0), near, SERVICE, packet.SYN, (900, 0)).port == BY_ENDPOINT


def test_a_host_s_flow_follows_its_route_to_another_host(scene: EndpointScene) -> None:
    assert scene.from_host(far=SERVICE).port == BY_ENDPOINT
    to_host = (f"{SERVICE[0]}/32", RouteTarget.HOST, 1)
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [to_host])
    moved = scene.from_host(far=SERVICE)
    assert (moved.side, moved.port) == (Side.HOST, 1)
    scene.lead(True)
    assert scene.from_host(far=SERVICE).port == BY_ENDPOINT
    assert scene.engine.counters()["flows_entries_used"] == 1


@pytest.mark.requirement("PL-gateway-nat", profile="both")
def test_a_nat_gateway_goes_by_no_endpoint(scene: EndpointScene) -> None:
    for table in (gateways.ENVIRONMENTS_TABLE, gateways.HOSTS_TABLE):
        scene.engine.set_route_table(table, [gateways.TO_NAT])
    assert ends(scene.from_environment(far=SERVICE))[0][0] == gateways.ELASTIC
    assert ends(scene.from_host(far=SERVICE))[0][0] == gateways.ELASTIC
    scene.engine.set_route_table(gateways.GATEWAY_TABLE, [TO_SERVICE])
    assert scene.from_host(far=SERVICE).reason is DropReason.NO_ROUTE


def test_the_longest_prefix_decides(scene: EndpointScene) -> None:
    black = ("192.0.2.88/29", RouteTarget.BLACKHOLE, 0)
    wide = ("192.0.2.0/24", RouteTarget.GATEWAY_ENDPOINT, BY_ENDPOINT)
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [black, wide])
    assert scene.from_host(far=SERVICE).reason is DropReason.ROUTE_BLACKHOLE
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [black, wide, TO_SERVICE])
    assert scene.from_host(far=SERVICE).port == BY_ENDPOINT


def test_its_interface_goes_with_its_flows(scene: EndpointScene) -> None:
    scene.from_host(far=SERVICE)
    scene.from_environment(far=SERVICE)
    scene.removed(interfaces=[BY_ENDPOINT])
    assert scene.from_host(far=SERVICE).reason is DropReason.ROUTE_BLACKHOLE
    assert scene.from_environment(far=SERVICE).reason is DropReason.ROUTE_BLACKHOLE
    assert scene.engine.host_flows() == []


def test_another_forwarder_goes_on_with_flows(scene: EndpointScene) -> None:
    scene.from_host(far=SERVICE)
    source, _ = ends(scene.from_environment(far=SERVICE))
    scene.starts_again()
    assert ends(scene.from_service((FIRST, 5000)))[1] == (FIRST, 5000)
    assert scene.from_service(source).side is Side.INSIDE
    assert ends(scene.from_environment(far=SERVICE))[0] == source


def test_errors_from_the_service_reach_who_has_sent(scene: EndpointScene) -> None:
    scene.from_host(far=SERVICE)
    source, _ = ends(scene.from_environment(far=SERVICE))
    for address, port, side in ((FIRST, 5000, Side.HOST), (*source, Side.INSIDE)):
        quoted = packet.ipv4(
            address, SERVICE[0], packet.UDP, packet.udp(address, SERVICE[0], port, SERVICE[1], b"")
        )
        content = packet.icmp(3, 3, bytes(4), quoted)
        body = packet.ipv4(SERVICE[0], address, packet.ICMP, content)
        told = scene.arrives(OUTSIDE, BY_ENDPOINT, body)
        assert (told.action, told.side) == (Action.FORWARD, side)
    strange = packet.ipv4(
        SECOND, SERVICE[0], packet.UDP, packet.udp(SECOND, SERVICE[0], 5000, 53, b"")
    )
    body = packet.ipv4(SERVICE[0], FIRST, packet.ICMP, packet.icmp(3, 3, bytes(4), strange))
    refused = scene.arrives(OUTSIDE, BY_ENDPOINT, body)
    assert refused.reason is DropReason.ICMP_ERROR_MISMATCH


def test_its_link_says_how_large_a_packet_may_be(scene: EndpointScene) -> None:
    """And whoever sends more is told, unlike by an interface endpoint."""
    scene.set_endpoint(mtu=1000)
    content = packet.udp(FIRST, SERVICE[0], 5000, SERVICE[1], bytes(1200))
    body = packet.ipv4(FIRST, SERVICE[0], packet.UDP, content, fragment=0x4000)
    told = scene.arrives(HOST, 0, body)
    assert told.action is Action.REPLY
    error = checked_ipv4(told.frame[14:]).payload
    assert (error[0], error[1], int.from_bytes(error[6:8])) == (3, 4, 1000)
    scene.set_endpoint(mtu=9001)
    large = packet.udp(FIRST, SERVICE[0], 5000, SERVICE[1], bytes(8900))
    body = packet.ipv4(FIRST, SERVICE[0], packet.UDP, large, fragment=0x4000)
    assert scene.arrives(HOST, 0, body).port == BY_ENDPOINT


def test_an_answer_in_pieces(scene: EndpointScene) -> None:
    scene.from_host(far=SERVICE)
    source, _ = ends(scene.from_environment(far=SERVICE))
    for address, port, side in ((FIRST, 5000, Side.HOST), (*source, Side.INSIDE)):
        content = packet.udp(SERVICE[0], address, SERVICE[1], port, bytes(1000))
        for start, end, field in ((0, 800, 0x2000), (800, len(content), 100)):
            piece = packet.ipv4(
                SERVICE[0],
                address,
                packet.UDP,
                content[start:end],
                fragment=field,
                identification=9,
            )
            came = scene.arrives(OUTSIDE, BY_ENDPOINT, piece)
            assert (came.action, came.side) == (Action.FORWARD, side)
