# SPDX-License-Identifier: Apache-2.0
"""Endpoints: who gets by which to a load balancer of another VPC, as whom, and what comes back.

The consumer's VPC has the addresses of the provider's (`endpoints`).
"""

from collections.abc import Callable, Iterator

import pytest

from hyperplane_nat.engine import (
    Action,
    DropReason,
    NetworkAclEntry,
    Policy,
    Rule,
    Side,
    SubnetAcl,
    Target,
    Verdict,
)
from tests.engine import balancers, gateways
from tests.engine.balancers import (
    ACK,
    LISTENS,
    NODE,
    RST,
    SYN,
    SYNACK,
    WEB,
    listener,
)
from tests.engine.endpoints import (
    BACK_AT,
    CLIENTS,
    CONSUMER,
    ENDPOINT,
    ID,
    LAMBDA,
    NEIGHBOUR,
    OF_LAMBDA,
    ROUTER_LINK,
    SEEN_AS,
    Scene,
)
from tests.engine.gateways import FIRST, HOST, SECOND, ends
from tests.reference import packet


@pytest.fixture
def scene() -> Iterator[Scene]:
    it = Scene(listener(WEB), listener(WEB, protocol="udp", port=53))
    yield it
    assert it.engine.verify() == []
    it.close()


@pytest.mark.requirement("PL-source", profile="both")
@pytest.mark.requirement("PL-overlap", profile="both")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("preserve", [True, False])
def test_there_and_back(client: str, preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    out = scene.consumer_sends(client, SYN, (100, 0))
    assert (out.action, out.side, out.port) == (Action.FORWARD, Side.HOST, 0)
    source, destination = ends(out)
    assert destination == WEB
    # Whatever the group says of the client's address.
    assert source[0] == NODE
    back = scene.target_sends(WEB, source, SYNACK, (500, 101))
    assert (back.side, back.port) == BACK_AT[client]
    assert ends(back) == (LISTENS, (CLIENTS[client][1], 5000))
    assert scene.consumer_sends(client, ACK, (101, 501)).action is Action.FORWARD
    for number in (8, ENDPOINT):
        counted = scene.counted(number)
        assert (counted["active_flows"], counted["new_flows_tcp"]) == (1, 1)
        assert (counted["processed_packets"], counted["processed_bytes"]) == (3, 120)
    assert scene.engine.verify() == []
    scene.close()


def test_clients_of_both_vpcs(scene: Scene) -> None:
    own = scene.client_sends("host", SYN, (100, 0))
    other = scene.consumer_sends("host", SYN, (100, 0))
    assert ends(own)[0][0] == balancers.CLIENT
    assert ends(other)[0][0] == NODE
    assert scene.engine.counters()["flows_entries_used"] == 2


@pytest.mark.parametrize("client", CLIENTS)
def test_flows_outlive_the_forwarder(client: str) -> None:
    scene = Scene(listener(WEB))
    source = scene.opens(client)
    scene.starts_again()
    assert scene.engine.verify() == []
    back = scene.target_sends(WEB, source, ACK, (501, 101))
    assert (back.side, back.port) == BACK_AT[client]
    assert scene.consumer_sends(client, ACK, (101, 501)).action is Action.FORWARD
    assert scene.counted(ENDPOINT)["active_flows"] == 1
    scene.close()


@pytest.mark.requirement("PL-protocols", profile="both")
def test_datagrams(scene: Scene) -> None:
    place, address = CLIENTS["host"]
    out = scene.udp(place, (address, 5000), (NODE, 53), b"?")
    source, destination = ends(out)
    assert (source[0], destination) == (NODE, WEB)
    back = scene.udp((HOST, 0), destination, source, b"!")
    assert (back.side, back.port) == (Side.HOST, 3)
    assert ends(back) == ((NODE, 53), (address, 5000))
    assert scene.counted(ENDPOINT)["new_flows_udp"] == 1


@pytest.mark.requirement("PL-before-acceptance", profile="both")
@pytest.mark.parametrize("client", CLIENTS)
def test_what_leads_nowhere_drops_in_silence(scene: Scene, client: str) -> None:
    scene.leads_to = None
    scene.lead()
    for flags in (SYN, ACK, RST):
        out = scene.consumer_sends(client, flags)
        assert (out.action, out.reason) == (Action.DROP, DropReason.ENDPOINT_UNAVAILABLE)
    assert scene.counted(ENDPOINT) == {"drops": 3}


def test_what_was_open_stops_when_it_leads_nowhere(scene: Scene) -> None:
    source = scene.opens("host")
    scene.leads_to = None
    scene.lead()
    out = scene.consumer_sends("host", ACK, (101, 501))
    assert out.reason is DropReason.ENDPOINT_UNAVAILABLE
    back = scene.target_sends(WEB, source, ACK, (501, 101))
    assert back.reason is DropReason.ENDPOINT_UNAVAILABLE
    assert scene.counted(ENDPOINT)["drops"] == 2
    scene.leads_to = 8
    scene.lead()
    assert scene.consumer_sends("host", ACK, (101, 501)).action is Action.FORWARD


def test_without_a_listener(scene: Scene) -> None:
    out = scene.consumer_sends("host", SYN, to=(NODE, 81))
    assert out.reason is DropReason.LOAD_BALANCER_NO_LISTENER
    assert scene.counted(ENDPOINT) == {"drops": 1}


def test_a_stray_segment_is_answered(scene: Scene) -> None:
    out = scene.consumer_sends("host", ACK, (7, 9))
    assert out.action is Action.REPLY
    assert ends(out) == (LISTENS, (FIRST, 5000))
    assert (out.side, out.port) == (Side.HOST, 3)


@pytest.mark.requirement("PL-groups", profile="both")
@pytest.mark.requirement("NLB-privatelink", profile="both")
@pytest.mark.parametrize("which", ["own", "admission"])
def test_security_groups_are_asked_for_the_client(scene: Scene, which: str) -> None:
    admitted = {"host": f"{FIRST}/32", "environment": f"{LAMBDA}/32", "router": f"{NEIGHBOUR}/32"}
    for client, cidr in admitted.items():
        setattr(scene, which, Policy(NODE, ingress=[Rule("tcp", cidr, 80, 80)]))
        scene.lead()
        for other in CLIENTS:
            out = scene.consumer_sends(other, SYN, (100, 0), port=6000)
            if other == client:
                assert out.action is Action.FORWARD
            else:
                assert out.reason is DropReason.SECURITY_GROUP_INGRESS
        scene.engine.end_flows(8, "tcp", 80, Target(*WEB), scene.now)


def test_groups_of_the_node_are_not_asked_about_who_comes_by_an_endpoint(scene: Scene) -> None:
    scene.policy = Policy(NODE, ingress=[])
    scene.listen(*scene.listeners)
    assert scene.client_sends("host", SYN).reason is DropReason.SECURITY_GROUP_INGRESS
    assert scene.consumer_sends("host", SYN).action is Action.FORWARD


def test_a_target_admits_the_node(scene: Scene) -> None:
    scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=[Rule("tcp", f"{NODE}/32", 8080, 8080)]))
    assert scene.consumer_sends("host", SYN).action is Action.FORWARD
    scene.set_host(
        0, FIRST, policy=Policy(FIRST, ingress=[Rule("tcp", f"{SECOND}/32", 8080, 8080)])
    )
    out = scene.consumer_sends("host", SYN, port=5001)
    assert out.reason is DropReason.SECURITY_GROUP_INGRESS


@pytest.mark.requirement("PL-mtu", profile="both")
def test_what_is_too_large_is_dropped_and_nobody_told() -> None:
    scene = Scene(listener(WEB))
    scene.opens("host")
    place, address = CLIENTS["host"]
    for length, expected in ((8460, DropReason.NONE), (8461, DropReason.ENDPOINT_MTU)):
        segment = packet.tcp(
            address, NODE, 5000, 80, packet.ACK, seq=101, ack=501, payload=bytes(length)
        )
        out = scene.arrives(
            *place, packet.ipv4(address, NODE, packet.TCP, segment, fragment=0x4000)
        )
        assert (out.reason or DropReason.NONE) is expected
        assert out.action is (Action.DROP if expected else Action.FORWARD)
    assert scene.engine.counters()["replies_icmp"] == 0
    assert scene.counted(ENDPOINT)["drops"] == 1
    scene.close()


@pytest.mark.requirement("PL-mtu", profile="both")
def test_the_largest_segment_is_lowered() -> None:
    scene = Scene(listener(WEB))
    place, address = CLIENTS["host"]
    options = b"\x02\x04" + (9000).to_bytes(2)
    segment = packet.tcp(address, NODE, 5000, 80, packet.SYN, seq=1, options=options)
    out = scene.arrives(*place, packet.ipv4(address, NODE, packet.TCP, segment))
    assert int.from_bytes(out.frame[56:58]) == 8460
    scene.close()


@pytest.mark.requirement("PL-idle", profile="both")
def test_an_idle_connection_is_reset_on_both_sides(scene: Scene) -> None:
    source = scene.opens("host")
    scene.now += 350_001
    scene.engine.expire(scene.now)
    for _ in range(2):
        out = scene.consumer_sends("host", ACK, (101, 501))
        assert out.action is Action.REPLY
        back = scene.target_sends(WEB, source, ACK, (501, 101))
        assert back.action is Action.REPLY
        scene.now += 70_000
        scene.engine.expire(scene.now)


def test_what_is_taken_away_takes_its_flows(scene: Scene) -> None:
    scene.opens("host")
    scene.opens("environment")
    scene.engine.remove_interface(ENDPOINT)
    scene.engine.sweep(scene.now)
    assert scene.engine.counters()["flows_entries_used"] == 0
    assert not scene.engine.retiring()[1]
    scene.lead()
    scene.opens("host")
    scene.engine.remove_interface(8)
    out = scene.consumer_sends("host", SYN, port=5001)
    assert out.reason is DropReason.ENDPOINT_UNAVAILABLE
    scene.engine.sweep(scene.now)
    assert scene.engine.counters()["flows_entries_used"] == 0


def test_a_target_that_is_an_endpoint_gets_nothing(scene: Scene) -> None:
    scene.engine.set_endpoint(
        13, address="10.0.1.30", vpc=gateways.VPC, interface=0, endpoint_id=ID, node=8
    )
    scene.listen(listener(("10.0.1.30", 80), preserve=False))
    out = scene.consumer_sends("host", SYN)
    assert out.reason is DropReason.LOAD_BALANCER_TARGET


def test_an_endpoint_in_the_vpc_of_its_service(scene: Scene) -> None:
    scene.engine.set_endpoint(
        13, address="10.0.1.30", vpc=gateways.VPC, interface=0, endpoint_id=ID, node=8
    )
    # Even for a target that is its own client.
    out = scene.tcp((HOST, 0), (FIRST, 5000), ("10.0.1.30", 80), SYN, (1, 0))
    assert (out.side, out.port, ends(out)[0][0]) == (Side.HOST, 0, NODE)


@pytest.mark.requirement("PL-direction", profile="both")
def test_the_service_opens_nothing_back(scene: Scene) -> None:
    for source, to in ((WEB, (NODE, 5000)), (WEB, (NEIGHBOUR, 5000))):
        assert scene.tcp((HOST, 0), source, to, SYN).port != 3
    source = scene.opens("host")
    assert scene.target_sends((FIRST, 8081), source, SYN).action is not Action.FORWARD


def test_pings_are_not_answered_and_errors_find_their_flow(scene: Scene) -> None:
    source = scene.opens("host")
    place, address = CLIENTS["host"]
    echo = packet.icmp(8, 0, bytes(4), b"")
    out = scene.arrives(*place, packet.ipv4(address, NODE, packet.ICMP, echo))
    assert out.reason is DropReason.LOAD_BALANCER_ICMP
    quoted = packet.tcp(*(source[0], FIRST), source[1], 8080, packet.ACK, seq=101)
    error = packet.icmp(3, 1, bytes(4), packet.ipv4(source[0], FIRST, packet.TCP, quoted)[:28])
    out = scene.arrives(HOST, 0, packet.ipv4(FIRST, source[0], packet.ICMP, error))
    assert (out.action, out.side, out.port) == (Action.FORWARD, Side.HOST, 3)
    assert out.frame[26:34] == bytes((10, 0, 1, 20, 10, 0, 1, 50))


@pytest.mark.parametrize("client", CLIENTS)
def test_what_leads_nowhere_does_not_act_on_its_flow(scene: Scene, client: str) -> None:
    """A reset that the target never gets ends nothing, and no packet keeps the flow."""

    def states() -> list[str]:
        here, there = scene.engine.flows(), scene.engine.host_flows()
        return [each.state for each in here] + [each.state for each in there]

    scene.opens(client)
    scene.leads_to = None
    scene.lead()
    out = scene.consumer_sends(client, RST, (101, 501))
    assert out.reason is DropReason.ENDPOINT_UNAVAILABLE
    assert states() == ["ESTABLISHED"]
    scene.now += 200_000
    scene.consumer_sends(client, ACK, (101, 501))
    scene.now += 200_000
    scene.engine.expire(scene.now)
    assert states() == ["HELD"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [("rejected", DropReason.ENDPOINT_UNAVAILABLE), ("node gone", DropReason.UNKNOWN_LINK)],
)
def test_errors_stop_with_their_flow(scene: Scene, change: str, reason: DropReason) -> None:
    """Of either end: they are as much of the one VPC in the other as any packet."""
    source = scene.opens("host")
    place, address = CLIENTS["host"]
    quoted = packet.tcp(NODE, address, 80, 5000, packet.ACK, seq=501)
    answer = packet.icmp(3, 1, bytes(4), packet.ipv4(NODE, address, packet.TCP, quoted)[:28])
    out = scene.arrives(*place, packet.ipv4(address, NODE, packet.ICMP, answer))
    assert (out.action, out.side, out.port) == (Action.FORWARD, Side.HOST, 0)
    quoted = packet.tcp(source[0], FIRST, source[1], 8080, packet.ACK, seq=101)
    error = packet.icmp(3, 1, bytes(4), packet.ipv4(source[0], FIRST, packet.TCP, quoted)[:28])
    if change == "rejected":
        scene.leads_to = None
        scene.lead()
    else:
        scene.engine.remove_interface(8)
    out = scene.arrives(*place, packet.ipv4(address, NODE, packet.ICMP, answer))
    assert out.reason is reason
    out = scene.arrives(HOST, 0, packet.ipv4(FIRST, source[0], packet.ICMP, error))
    assert out.action is Action.DROP or out.port != 3


def test_what_is_told_of_a_flow(scene: Scene) -> None:
    source = scene.opens("host")
    scene.opens("environment")
    [flow] = [each for each in scene.engine.host_flows() if each.originator == 3]
    assert [(hop.interface, hop.port) for hop in flow.hops] == [(ENDPOINT, 0), (8, source[1])]
    assert flow.target == WEB
    [other] = scene.engine.flows()
    assert [hop.interface for hop in other.hops] == [OF_LAMBDA, ENDPOINT, 8]


@pytest.mark.parametrize("text", ["", "vpce-" + "0" * 19])
def test_an_id_that_is_none(scene: Scene, text: str) -> None:
    with pytest.raises(ValueError, match="no id of an endpoint"):
        scene.engine.set_endpoint(
            13, address="10.0.1.30", vpc=gateways.VPC, interface=0, endpoint_id=text, node=8
        )


def rules(client: str, source: tuple[str, int]) -> dict[tuple[str, str, bool], NetworkAclEntry]:
    """What the borders of both VPCs are to let pass of a connection, and no more.

    By whose subnet it is, whether it leaves or enters that, and whether it goes to the target.
    """
    seen, port = SEEN_AS[client], source[1] if client == "environment" else 5000

    def entry(address: str, to: int) -> NetworkAclEntry:
        return NetworkAclEntry(True, "tcp", f"{address}/32", to, to)

    return {
        ("client", "egress", True): entry(NODE, 80),
        ("endpoint", "ingress", True): entry(seen, 80),
        ("node", "egress", True): entry(WEB[0], WEB[1]),
        ("target", "ingress", True): entry(NODE, WEB[1]),
        ("target", "egress", False): entry(NODE, source[1]),
        ("node", "ingress", False): entry(WEB[0], source[1]),
        ("endpoint", "egress", False): entry(seen, port),
        ("client", "ingress", False): entry(NODE, port),
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_network_acls_of_both_vpcs(scene: Scene, client: str) -> None:
    """Each packet is asked about at four borders, with its addresses and ports there."""
    source = scene.opens(client)
    wanted = rules(client, source)

    def told(missing: tuple[str, str, bool] | None) -> None:
        places = {
            CONSUMER: {"client": SEEN_AS[client], "endpoint": NODE},
            gateways.VPC: {"node": NODE, "target": WEB[0]},
        }
        for vpc, subnets in places.items():
            scene.engine.set_network_acls(
                vpc,
                [
                    SubnetAcl(
                        f"{address}/32",
                        *(
                            tuple(
                                entry
                                for key, entry in wanted.items()
                                if key[:2] == (who, direction) and key != missing
                            )
                            for direction in ("ingress", "egress")
                        ),
                    )
                    for who, address in subnets.items()
                ],
            )

    def there() -> Verdict:
        return scene.consumer_sends(client, ACK, (101, 501))

    def back() -> Verdict:
        return scene.target_sends(WEB, source, ACK, (501, 101))

    told(None)
    assert [there().action, back().action] == [Action.FORWARD] * 2
    for missing in wanted:
        told(missing)
        _, direction, forth = missing
        none = DropReason.NONE
        expected = (
            DropReason.NETWORK_ACL_EGRESS
            if direction == "egress"
            else DropReason.NETWORK_ACL_INGRESS
        )
        reasons = [there().reason, back().reason]
        assert reasons == ([expected, none] if forth else [none, expected]), missing
        # What begins is asked the same.
        used = scene.engine.counters()["flows_entries_used"]
        begins = scene.consumer_sends(client, SYN, (100, 0), port=5001)
        if forth:
            assert begins.reason is expected
            assert scene.engine.counters()["flows_entries_used"] == used
    scene.starts_again()
    told(("target", "ingress", True))
    assert there().reason is DropReason.NETWORK_ACL_INGRESS
    told(None)
    assert [there().action, back().action] == [Action.FORWARD] * 2


def rejected(scene: Scene) -> None:
    scene.leads_to = None
    scene.lead()


def endpoint_removed(scene: Scene) -> None:
    scene.engine.remove_interface(ENDPOINT)


def node_removed(scene: Scene) -> None:
    scene.engine.remove_interface(8)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("change", [rejected, endpoint_removed, node_removed])
@pytest.mark.parametrize("swept", [False, True], ids=["at once", "swept"])
def test_a_successor_after_a_change(
    scene: Scene, client: str, change: Callable[[Scene], None], swept: bool
) -> None:
    """It finds what its predecessor has left at any moment, and nothing goes on that may not."""
    source = scene.opens(client)
    scene.opens(client, port=5001)
    change(scene)
    if swept:
        scene.engine.sweep(scene.now)
    for out in (
        scene.consumer_sends(client, ACK, (101, 501)),
        scene.target_sends(WEB, source, ACK, (501, 101)),
    ):
        assert out.action is not Action.FORWARD or out.port not in (0, 3, ROUTER_LINK)
    assert scene.engine.verify() == []
    scene.starts_again()
    assert scene.engine.verify() == []
    scene.engine.sweep(scene.now)
    assert scene.engine.verify() == []
    scene.leads_to = 8
    scene.lead()
    scene.opens(client, port=5002)
