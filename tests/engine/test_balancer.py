# SPDX-License-Identifier: Apache-2.0
"""Load balancers' nodes: who gets to which target, and how the answers come back."""

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import (
    Action,
    Behaviour,
    DropReason,
    Filtering,
    Mapping,
    Policy,
    Ports,
    Rule,
    Side,
    Target,
)
from tests.engine.balancers import (
    ACK,
    CLIENT,
    FIN,
    LISTENS,
    NEIGHBOUR,
    NODE,
    PLACES,
    RST,
    SECONDARY,
    SERVICE,
    SYN,
    SYNACK,
    WEB,
    Scene,
    listener,
)
from tests.engine.gateways import ENVIRONMENT, FIRST, HOST, LAMBDA, OUTSIDE, SECOND, ends, macs
from tests.reference import packet

SERVED = (SERVICE, 8080)
CLIENTS = tuple(PLACES)
SEEN_AS = {"environment": LAMBDA, "host": CLIENT, "router": NEIGHBOUR}
BACK_AT = {
    "environment": (Side.INSIDE, 1),
    "host": (Side.HOST, 2),
    "router": (Side.OUTSIDE, 0),
}


@pytest.fixture
def scene() -> Iterator[Scene]:
    it = Scene(listener(WEB))
    yield it
    assert it.engine.verify() == []
    it.close()


@pytest.fixture
def translating() -> Iterator[Scene]:
    it = Scene(listener(WEB, preserve=False))
    yield it
    assert it.engine.verify() == []
    it.close()


def is_reset(frame: bytes) -> bool:
    return bool(packet.parse_segment(frame[34:]).flags & packet.RST)


# The path


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("target", [WEB, SERVED], ids=["host", "service"])
@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_there_and_back(client: str, target: tuple[str, int], preserve: bool) -> None:
    scene = Scene(listener(target, preserve=preserve))
    _, address = PLACES[client]
    out = scene.client_sends(client, SYN, (100, 0))
    if (client, target, preserve) == ("router", SERVED, True):
        assert out.reason is DropReason.LOAD_BALANCER_RETURN_PATH
        scene.close()
        return
    assert out.action is Action.FORWARD
    assert (out.side, out.port) == ((Side.HOST, 0) if target == WEB else (Side.OUTSIDE, out.port))
    source, destination = ends(out)
    assert destination == target
    assert source[0] == (SEEN_AS[client] if preserve else NODE)
    if not preserve:
        assert 40_000 <= source[1] <= 40_063
    elif client != "environment":
        assert source[1] == 5000
    back = scene.target_sends(target, source, SYNACK, (500, 101))
    assert (back.side, back.port) == BACK_AT[client]
    assert ends(back) == (LISTENS, (address, 5000))
    assert scene.client_sends(client, ACK, (101, 501)).action is Action.FORWARD
    counted = scene.node()
    assert (counted["active_flows"], counted["new_flows_tcp"]) == (1, 1)
    assert counted["processed_packets"] == 3
    assert counted["processed_bytes"] == 3 * 40
    assert scene.engine.verify() == []
    scene.close()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_flows_outlive_the_forwarder(client: str, preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    source = scene.connect(client)
    scene.starts_again()
    assert scene.engine.verify() == []
    back = scene.target_sends(WEB, source, ACK, (501, 101))
    assert (back.side, back.port) == BACK_AT[client]
    assert scene.client_sends(client, ACK, (101, 501)).action is Action.FORWARD
    assert scene.engine.counters()["flows_entries_used"] == 1
    scene.close()


@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_a_flow_keeps_its_target(preserve: bool) -> None:
    scene = Scene(listener(WEB, (SECOND, 8080), preserve=preserve))
    source = scene.connect("host")
    targets = {ends(scene.client_sends("host", ACK, (101, 501)))[1] for _ in range(8)}
    [target] = targets
    other = (SECOND, 8080) if target == WEB else WEB
    scene.listen(listener(other, preserve=preserve))
    assert ends(scene.client_sends("host", ACK, (101, 501)))[1] == target
    assert scene.target_sends(target, source, ACK, (501, 101)).port == 2
    scene.listen()
    assert ends(scene.client_sends("host", ACK, (101, 501)))[1] == target
    scene.close()


def test_who_chooses(scene: Scene) -> None:
    targets = [(FIRST, 8080 + i) for i in range(8)]
    scene.listen(listener(*targets))

    def chosen(port: int, number: int) -> tuple[str, int]:
        return ends(scene.client_sends("host", SYN, (number, 0), port=port))[1]

    by_port = {chosen(6000 + i, 0) for i in range(40)}
    assert by_port == set(targets)
    by_number = set()
    for number in range(40):
        by_number.add(chosen(7000, number * 1000))
        scene.engine.end_flows(8, "tcp", 80, target_of(scene, 7000), scene.now)
    assert by_number == set(targets)


def target_of(scene: Scene, port: int) -> Target:
    [flow] = [each for each in scene.engine.host_flows() if each.source_port == port]
    assert flow.target is not None
    return flow.target


def test_sticky_is_by_address() -> None:
    targets = [(FIRST, 8080 + i) for i in range(8)]
    scene = Scene(listener(*targets, sticky=True))
    seen = {
        client: {
            ends(scene.client_sends(client, SYN, (i * 77, 0), port=6000 + i))[1] for i in range(20)
        }
        for client in CLIENTS
    }
    assert all(len(each) == 1 for each in seen.values())
    scene.close()


@pytest.mark.requirement("NLB-choice-udp", profile="both")
def test_datagrams() -> None:
    scene = Scene(listener(WEB, (SECOND, 8080), protocol="udp", idle_ms=120_000))
    targets = {ends(scene.datagram("host"))[1] for _ in range(4)}
    [target] = targets
    back = scene.udp(scene.place_of(target[0]), target, (CLIENT, 5000))
    assert ends(back) == (LISTENS, (CLIENT, 5000))
    assert scene.node()["new_flows_udp"] == 1
    scene.now = 119_999
    scene.datagram("host")
    assert scene.node()["new_flows_udp"] == 1
    scene.now += 120_000
    scene.datagram("host")
    node = scene.node()
    assert (node["new_flows_udp"], node["active_flows_udp"], node["active_flows"]) == (2, 1, 1)
    assert "active_flows_tcp" not in node
    scene.close()


def test_a_client_that_is_its_own_target() -> None:
    scene = Scene(listener((CLIENT, 8080)))
    assert scene.client_sends("host", SYN).reason is DropReason.LOAD_BALANCER_HAIRPIN
    scene.listen(listener((CLIENT, 8080), preserve=False))
    out = scene.client_sends("host", SYN, (100, 0))
    source, _ = ends(out)
    assert (out.port, source[0]) == (2, NODE)
    back = scene.tcp((HOST, 2), (CLIENT, 8080), source, SYNACK, (500, 101))
    assert ends(back) == (LISTENS, (CLIENT, 5000))
    assert scene.engine.verify() == []
    scene.close()


@pytest.mark.requirement("NLB-same-tuple", profile="both")
def test_the_same_tuple_twice(scene: Scene) -> None:
    """What a client says to a target itself, and by the balancer, would have the same answers."""
    scene.connect("host")
    direct = scene.tcp((HOST, 2), (CLIENT, 5000), WEB, SYN, (900, 0))
    assert direct.reason is DropReason.FLOW_COLLISION
    assert scene.tcp((HOST, 2), (CLIENT, 5001), WEB, SYN, (900, 0)).action is Action.FORWARD
    by_node = scene.client_sends("host", SYN, (900, 0), port=5001)
    assert by_node.reason is DropReason.FLOW_COLLISION


def test_ports_of_listeners_are_nobody_s() -> None:
    scene = Scene(
        *(listener(WEB, port=40_000 + i, preserve=False) for i in range(3)),
        listener(WEB, preserve=False),
        ports=Ports(first=40_000, last=40_003),
    )
    out = scene.client_sends("host", SYN)
    assert ends(out)[0] == (NODE, 40_003)
    refused = scene.client_sends("host", SYN, port=5001)
    assert refused.reason is DropReason.LOAD_BALANCER_PORT_ALLOCATION
    scene.close()


@pytest.mark.requirement("NLB-ports", profile="both")
@pytest.mark.parametrize("client", CLIENTS)
def test_ports_run_out(client: str) -> None:
    scene = Scene(listener(WEB, preserve=False), ports=Ports(first=40_000, last=40_003))
    for port in range(4):
        assert scene.client_sends(client, SYN, port=5000 + port).action is Action.FORWARD
    again = scene.client_sends(client, SYN, port=5009)
    expected = "PORT_ALLOCATION" if client == "environment" else "LOAD_BALANCER_PORT_ALLOCATION"
    assert again.reason is DropReason[expected]
    if client != "environment":
        assert scene.node()["port_allocation_errors"] == 1
        [exhaustion] = scene.map.exhaustions()
        assert (exhaustion.interface, exhaustion.remote_address) == (8, FIRST)
    # Another target has ports of its own.
    scene.listen(listener((SECOND, 8080), preserve=False))
    if client != "environment":
        assert scene.client_sends(client, SYN, port=5009).action is Action.FORWARD
    scene.now = 2_000_000
    scene.engine.expire(scene.now)
    scene.now += 2_000_000
    scene.engine.expire(scene.now)
    assert scene.engine.verify() == []
    assert scene.engine.counters()["flows_entries_used"] == 0
    scene.close()


@pytest.mark.requirement("NLB-more-ports", profile="both")
def test_secondary_addresses_have_ports() -> None:
    scene = Scene(
        listener(WEB, preserve=False), ports=Ports(first=40_000, last=40_003), secondary=True
    )
    sources = [ends(scene.client_sends("host", SYN, (100, 0), port=5000 + i))[0] for i in range(8)]
    assert {address for address, _ in sources} == {NODE, SECONDARY}
    refused = scene.client_sends("host", SYN, port=5009)
    assert refused.reason is DropReason.LOAD_BALANCER_PORT_ALLOCATION
    assert scene.node()["active_flows"] == 8
    for source in sources:
        assert scene.target_sends(WEB, source, SYNACK, (500, 101)).port == 2
    at_secondary = scene.client_sends("host", SYN, to=(SECONDARY, 80))
    assert at_secondary.reason is DropReason.LOAD_BALANCER_NO_LISTENER
    assert scene.engine.verify() == []
    scene.close()


def test_what_no_listener_takes(scene: Scene) -> None:
    for client in CLIENTS:
        other = scene.client_sends(client, SYN, to=(NODE, 81))
        assert other.reason is DropReason.LOAD_BALANCER_NO_LISTENER
        assert scene.datagram(client).reason is DropReason.LOAD_BALANCER_NO_LISTENER
        stray = scene.client_sends(client, ACK, (7, 9), port=5555)
        assert (stray.action, is_reset(stray.frame)) == (Action.REPLY, True)
        assert (stray.side, stray.port) == BACK_AT[client]
        assert scene.client_sends(client, RST, port=5555).reason is DropReason.LOAD_BALANCER_STRAY
        place, address = PLACES[client]
        echo = packet.icmp(packet.ECHO_REQUEST, 0, bytes(4), b"")
        ping = scene.arrives(*place, packet.ipv4(address, NODE, packet.ICMP, echo))
        assert ping.reason is DropReason.LOAD_BALANCER_ICMP
    assert scene.node()["tcp_elb_resets"] == 3
    assert scene.engine.counters()["flows_entries_used"] == 0


def test_a_listener_without_targets(scene: Scene) -> None:
    scene.listen(listener())
    assert scene.client_sends("host", SYN).reason is DropReason.LOAD_BALANCER_NO_TARGET
    scene.listen(listener((LAMBDA, 80)))
    assert scene.client_sends("host", SYN).reason is DropReason.LOAD_BALANCER_TARGET
    scene.listen(listener((NODE, 80)))
    assert scene.client_sends("host", SYN).reason is DropReason.LOAD_BALANCER_TARGET


# Ends


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
@pytest.mark.parametrize("late", [0, 30_000])
def test_idle_connections_are_reset(client: str, preserve: bool, late: int) -> None:
    scene = Scene(listener(WEB, idle_ms=60_000, preserve=preserve))
    source = scene.connect(client)
    scene.now = 59_999
    assert scene.target_sends(WEB, source, ACK, (501, 101)).action is Action.FORWARD
    scene.now += 60_000 + late
    reset = scene.target_sends(WEB, source, ACK, (501, 101))
    assert (reset.action, is_reset(reset.frame)) == (Action.REPLY, True)
    assert (reset.side, reset.port) == (Side.HOST, 0)
    reset = scene.client_sends(client, ACK, (101, 501))
    assert (reset.action, is_reset(reset.frame)) == (Action.REPLY, True)
    assert (reset.side, reset.port) == BACK_AT[client]
    assert scene.node()["tcp_elb_resets"] == 2
    assert scene.engine.verify() == []
    scene.close()


@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_a_target_is_told_as_long_as_it_is_remembered(preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    source = scene.connect("host")
    scene.now = 350_000 + 60_000
    scene.engine.expire(scene.now)
    assert scene.engine.counters()["flows_entries_used"] == 0
    reset = scene.target_sends(WEB, source, ACK, (501, 101))
    assert (reset.action, is_reset(reset.frame)) == (Action.REPLY, True)
    reset = scene.client_sends("host", ACK, (101, 501))
    assert (reset.action, is_reset(reset.frame)) == (Action.REPLY, True)
    scene.close()


def test_a_long_idle_time(scene: Scene) -> None:
    scene.listen(listener(WEB, idle_ms=6_000_000))
    source = scene.connect("host")
    scene.now = 5_999_999
    scene.engine.expire(scene.now)
    assert scene.target_sends(WEB, source, ACK, (501, 101)).action is Action.FORWARD


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_flows_of_a_target_end(client: str, preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    source = scene.connect(client)
    assert scene.engine.end_flows(8, "tcp", 81, target_named(WEB), 0) == 0
    assert scene.engine.end_flows(8, "udp", 80, target_named(WEB), 0) == 0
    assert scene.engine.end_flows(8, "tcp", 80, target_named((FIRST, 1)), 0) == 0
    assert scene.engine.end_flows(8, "tcp", 80, target_named(WEB), 0) == 1
    assert scene.node().get("active_flows", 0) == 0
    assert is_reset(scene.target_sends(WEB, source, ACK, (501, 101)).frame)
    assert is_reset(scene.client_sends(client, ACK, (101, 501)).frame)
    assert scene.engine.verify() == []
    # Who opens another one is served.
    assert scene.client_sends(client, SYN, (900, 0)).action is Action.FORWARD
    assert scene.engine.verify() == []
    scene.close()


def target_named(at: tuple[str, int]) -> Target:
    return listener(at).targets[0]


def test_datagrams_of_a_target_are_forgotten() -> None:
    scene = Scene(listener(WEB, protocol="udp"))
    scene.datagram("host")
    assert scene.engine.end_flows(8, "udp", 80, target_named(WEB), 0) == 1
    assert scene.engine.counters()["flows_entries_used"] == 0
    scene.close()


@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_another_connection_on_the_same_ports_chooses_again(preserve: bool) -> None:
    targets = [(FIRST, 8080 + i) for i in range(8)]
    scene = Scene(listener(*targets, preserve=preserve))
    chosen = set()
    for turn in range(24):
        number = 1000 + turn * 5000
        out = scene.client_sends("host", SYN, (number, 0))
        source, target = ends(out)
        chosen.add(target)
        scene.target_sends(target, source, SYNACK, (500, number + 1))
        scene.client_sends("host", FIN, (number + 1, 501))
        scene.target_sends(target, source, FIN, (501, number + 2))
        scene.client_sends("host", ACK, (number + 2, 502))
        assert scene.engine.verify() == []
    assert chosen == set(targets)
    assert scene.node()["new_flows_tcp"] == 24
    scene.close()


def test_resets_are_counted_at_who_sends_them(scene: Scene) -> None:
    source = scene.connect("host")
    scene.target_sends(WEB, source, RST, (501, 0))
    scene.client_sends("host", SYN, (100, 0), port=5001)
    scene.client_sends("host", RST, (101, 0), port=5001)
    counted = scene.node()
    assert (counted["tcp_target_resets"], counted["tcp_client_resets"]) == (1, 1)


@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_what_goes_takes_its_flows_along(preserve: bool) -> None:
    for gone in ("node", "target", "client"):
        scene = Scene(listener(WEB, preserve=preserve))
        source = scene.connect("host")
        if gone == "node":
            scene.engine.remove_interface(8)
            late = scene.target_sends(WEB, source, ACK, (501, 101))
            if preserve:
                assert late.reason is DropReason.UNKNOWN_LINK
            else:
                # Nobody of ours has that address.
                assert late.reason is DropReason.TCP_NO_FLOW
        else:
            scene.engine.remove_host(0 if gone == "target" else 2)
        scene.engine.sweep(0)
        scene.now = 100_000
        scene.engine.expire(scene.now)
        assert scene.engine.verify() == []
        assert scene.engine.counters()["flows_entries_used"] == 0
        scene.close()


# Security groups


def rules(cidr: str) -> list[Rule]:
    return [Rule("tcp", cidr)]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_node_s_groups_are_about_the_client(scene: Scene, client: str) -> None:
    scene.policy = Policy(NODE, ingress=rules("10.0.1.200/32"))
    scene.listen(listener(WEB))
    assert scene.client_sends(client, SYN).reason is DropReason.SECURITY_GROUP_INGRESS
    assert scene.node()["security_group_blocked"] == 1
    scene.policy = Policy(NODE, ingress=rules(f"{SEEN_AS[client]}/32"))
    scene.listen(listener(WEB))
    assert scene.client_sends(client, SYN).action is Action.FORWARD
    scene.policy = Policy(NODE, egress=rules(f"{SECOND}/32"))
    scene.listen(listener(WEB))
    out = scene.client_sends(client, SYN, port=5001)
    assert out.reason is DropReason.SECURITY_GROUP_EGRESS


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_a_target_admits_the_balancer(client: str, preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=rules(f"{NODE}/32")))
    assert scene.client_sends(client, SYN).action is Action.FORWARD
    scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=rules(f"{SEEN_AS[client]}/32")))
    out = scene.client_sends(client, SYN, port=5001)
    assert (out.action is Action.FORWARD) is preserve
    scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=rules("192.0.2.0/24")))
    out = scene.client_sends(client, SYN, port=5002)
    assert out.reason is DropReason.SECURITY_GROUP_INGRESS
    assert scene.engine.verify() == []
    scene.close()


def test_the_client_s_groups_are_about_the_node(scene: Scene) -> None:
    scene.set_host(2, CLIENT, policy=Policy(CLIENT, egress=rules(f"{FIRST}/32")))
    assert scene.client_sends("host", SYN).reason is DropReason.SECURITY_GROUP_EGRESS
    scene.set_host(2, CLIENT, policy=Policy(CLIENT, egress=rules(f"{NODE}/32")))
    assert scene.client_sends("host", SYN).action is Action.FORWARD


# What else is there


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("preserve", [True, False], ids=["preserved", "translated"])
def test_icmp_errors_are_translated_both_ways(client: str, preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    source = scene.connect(client)
    place, address = PLACES[client]
    sent = scene.client_sends(client, ACK, (101, 501))
    message = packet.icmp(3, 3, bytes(4), sent.frame[14:])
    told = scene.arrives(HOST, 0, packet.ipv4(FIRST, source[0], packet.ICMP, message))
    assert (told.side, told.port) == BACK_AT[client]
    quoted = told.frame[14 + 28 :]
    assert quoted[12:20] == packet.octets(address) + packet.octets(NODE)
    assert (packet.word(quoted, 20), packet.word(quoted, 22)) == (5000, 80)
    answer = scene.target_sends(WEB, source, ACK, (501, 101))
    message = packet.icmp(3, 1, bytes(4), answer.frame[14:])
    told = scene.arrives(*place, packet.ipv4(address, NODE, packet.ICMP, message))
    assert (told.side, told.port) == (Side.HOST, 0)
    quoted = told.frame[14 + 28 :]
    assert quoted[12:20] == packet.octets(FIRST) + packet.octets(source[0])
    assert (packet.word(quoted, 20), packet.word(quoted, 22)) == (8080, source[1])
    scene.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_fragments_go_where_the_first_went(client: str) -> None:
    scene = Scene(listener(WEB, protocol="udp"))
    place, address = PLACES[client]
    content = packet.udp(address, NODE, 5000, 80, bytes(56))

    def piece(field: int, data: bytes) -> bytes:
        return packet.ipv4(address, NODE, packet.UDP, data, fragment=field, identification=7)

    first = scene.arrives(*place, piece(0x2000, content[:32]))
    later = scene.arrives(*place, piece(4, content[32:]))
    assert (first.side, first.port) == (later.side, later.port) == (Side.HOST, 0)
    assert later.frame[30:34] == packet.octets(FIRST)
    counts = [flow.packets_out for flow in scene.engine.flows()]
    assert counts + [flow.packets_out for flow in scene.engine.host_flows()] == [2]
    scene.close()


@pytest.mark.parametrize("client", ["environment", "host"])
def test_a_node_where_somebody_else_was(scene: Scene, client: str) -> None:
    """Flows to who had the address before do not go on to the node's targets, nor elsewhere."""
    scene.removed([8])
    scene.engine.set_neighbour(0, NODE, macs(OUTSIDE, 0)[1])
    scene.engine.set_neighbour(1, NODE, macs(OUTSIDE, 0)[1])
    before = scene.client_sends(client, SYN, (100, 0))
    assert before.side is Side.OUTSIDE
    scene.listen(listener(WEB))
    place, address = PLACES[client]
    about = packet.tcp(NODE, address, 80, 5000, ACK)
    message = packet.icmp(3, 1, bytes(4), packet.ipv4(NODE, address, packet.TCP, about))
    told = scene.arrives(*place, packet.ipv4(address, NODE, packet.ICMP, message))
    assert told.side is not Side.HOST or told.action is Action.DROP
    stray = scene.client_sends(client, ACK, (101, 501))
    assert (stray.action, is_reset(stray.frame)) == (Action.REPLY, True)
    assert ends(scene.client_sends(client, SYN, (900, 0)))[1] == WEB


def test_a_mapping_carries_no_error_to_a_node(scene: Scene) -> None:
    scene.engine.configure(
        behaviour=Behaviour(
            mapping=Mapping.ENDPOINT_INDEPENDENT, filtering=Filtering.ENDPOINT_INDEPENDENT
        )
    )
    scene.udp(PLACES["environment"][0], (ENVIRONMENT, 5000), (SERVICE, 53))
    about = packet.udp(NODE, ENVIRONMENT, 7, 5000)
    message = packet.icmp(3, 1, bytes(4), packet.ipv4(NODE, ENVIRONMENT, packet.UDP, about))
    body = packet.ipv4(ENVIRONMENT, NODE, packet.ICMP, message)
    told = scene.arrives(*PLACES["environment"][0], body)
    assert told.reason is DropReason.ICMP_ERROR_NO_FLOW


def test_who_answers_for_a_node(scene: Scene) -> None:
    ours, theirs = (bytes.fromhex(f"02000000{each}00") for each in ("0a", "0b"))
    request = packet.arp(
        operation=1, sender_mac="02:00:00:00:0b:00", sender="10.0.1.1", target=NODE
    )
    frame = b"\xff" * 6 + theirs + b"\x08\x06" + request
    answer = scene.engine.translate(frame, OUTSIDE, 0, 0)
    assert (answer.action, answer.frame[6:12]) == (Action.REPLY, ours)
    forged = scene.udp((OUTSIDE, 0), (NODE, 53), (CLIENT, 53))
    assert forged.reason is DropReason.SOURCE_INVALID


def test_a_checker_sends_from_the_node_s_address(scene: Scene) -> None:
    scene.set_host(3, "10.0.1.60", source_check=False)
    out = scene.tcp((HOST, 3), (NODE, 600), WEB, SYN, (100, 0))
    assert (out.port, ends(out)) == (0, ((NODE, 600), WEB))
    back = scene.tcp((HOST, 0), WEB, (NODE, 600), SYNACK, (500, 101))
    assert (back.side, back.port) == (Side.HOST, 3)


def test_what_cannot_be_a_listener(scene: Scene) -> None:
    with pytest.raises(ValueError, match="has two listeners"):
        scene.listen(listener(WEB), listener(WEB))
    for bad in (
        listener(WEB, protocol="icmp"),
        listener(WEB, port=0),
        listener(WEB, idle_ms=0),
        listener((FIRST, 0)),
    ):
        with pytest.raises(ValueError, match=r"listener|port"):
            scene.listen(bad)
    # What there was still is.
    assert scene.client_sends("host", SYN).action is Action.FORWARD


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("client", PLACES)
def test_a_target_that_answers_from_another_port_answers_nobody(
    client: str, preserve: bool
) -> None:
    """What it says there is no answer to the client's, which the listener still waits for."""
    scene = Scene(listener(WEB, preserve=preserve))
    syn = scene.client_sends(client, SYN, (100, 0))
    source, _ = ends(syn)
    elsewhere = (WEB[0], WEB[1] + 1)
    wrong = scene.target_sends(elsewhere, source, SYNACK, (500, 101))
    assert wrong.action is not Action.FORWARD
    right = scene.target_sends(WEB, source, SYNACK, (500, 101))
    assert ends(right)[0] == LISTENS
