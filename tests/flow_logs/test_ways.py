# SPDX-License-Identifier: Apache-2.0
"""Rows behind a client's interface, of what an engine has passed and refused, judged by its legs.

A packet that goes from one interface of a VPC to another makes a row on each that it passes: egress
where it leaves, ingress where it arrives, with the addresses and the port that it has in between.
So the legs of a way, as `tests.engine.border` tells them of each conversation, say which rows there
are, and the network ACLs how far it comes and who has the REJECT.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplane_nat.engine import Policy
from hyperplane_nat.engine.readers.flow_deltas import FlowDeltas, read_lost
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.state.settings import FlowDelta, HostDelta
from hyperplane_nat.flow_logs.aggregation import Row, at_host, rows_of
from hyperplane_nat.flow_logs.fields import LineFormat, Place, View, dotted
from tests.engine import endpoints as endpoint
from tests.engine.balancers import CLIENT, NODE, PLACES, SYN, WEB, Scene, listener
from tests.engine.border import APART, CONVERSATIONS, TOGETHER, Sent, told
from tests.engine.gateways import ELASTIC, FAR, FIRST, LAMBDA, NAT, PUBLIC, SECOND
from tests.engine.test_network_acls import OPEN, SHUT, networks
from tests.flow_logs.records import Record, parse
from tests.reference.network_acl import Acl, Leg, refusal

INTERFACES = {LAMBDA: 1, NAT: 6, NODE: 8}
HOSTS = {FIRST: 16, SECOND: 17, CLIENT: 18}
AT = {place: address for address, place in (INTERFACES | HOSTS).items()}
"""Who has rows, by the number of the place: in the map are 16 interfaces before the hosts."""

FIELDS = ("pkt-srcaddr", "pkt-dstaddr", "dstport", "flow-direction", "action", "packets", "bytes")
PORT = 53


class Told(NamedTuple):
    """A row: on whose interface it is, and what it says of a packet."""

    at: str
    direction: str
    source: str
    destination: str
    port: str
    action: str


class Recorded:
    """The scene of the network ACLs, recorded."""

    def __init__(self, capacity: int = 64) -> None:
        self.scene = Scene()
        path = self.scene.path.parent / "records"
        self.ring = FlowRecordRing.create(path, capacity=capacity, places_max=20)
        self.scene.engine.record_flows(self.ring.memory)
        self.deltas = FlowDeltas(256, 8, 16)

    def took(self) -> list[FlowDelta | HostDelta]:
        """What flows did and what was refused since the last time."""
        live = self.deltas.live(self.scene.map.memory, 0, 256, self.scene.now)
        ended, unknown = self.deltas.ended(self.ring.memory, 64)
        assert unknown == set()
        return [*live, *ended]

    def close(self) -> None:
        self.scene.engine.record_flows(None)
        self.ring.close()
        assert self.scene.engine.verify() == []
        self.scene.close()


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with contextlib.closing(Recorded()) as result:
        yield result


def rows(deltas: Iterable[FlowDelta | HostDelta]) -> Iterator[Row]:
    """As the writer has them: those of hosts that an interface's own row tells of too."""
    for delta in deltas:
        for key, sums in rows_of(delta):
            if key.view != View.UNSENT:
                yield key, sums
            host = HOSTS.get(dotted(key.remote_address))
            row = None if host is None else at_host(key, host)
            if row is not None:
                yield row, sums


def lines(deltas: Iterable[FlowDelta | HostDelta]) -> Iterator[tuple[str, Record]]:
    """Those on the interfaces of the VPC, but for the rows that face an environment."""
    form = LineFormat(FIELDS)
    for key, sums in rows(deltas):
        facing = key.view in (View.FROM_ENVIRONMENT, View.TO_ENVIRONMENT)
        if key.place in AT and not facing:
            line = form.line(Place("eni-a"), key, sums, 1, 2)
            yield AT[key.place], parse(line, FIELDS)


def found(deltas: Iterable[FlowDelta | HostDelta]) -> list[Told]:
    return sorted(
        Told(
            at,
            row["flow-direction"],
            row["pkt-srcaddr"],
            row["pkt-dstaddr"],
            row["dstport"],
            row["action"],
        )
        for at, row in lines(deltas)
    )


def expected(subnets: Mapping[IPv4Network, Acl], legs: Iterable[Leg]) -> list[Told]:
    """What the legs of a packet's way tell, as far as it comes."""
    made = []
    for leg in legs:
        leaves, enters, asked = leg
        why = refusal(dict(subnets), [leg])
        ends = (str(asked.source), str(asked.destination), str(asked.port))
        egress = "REJECT" if why == "network_acl_egress" else "ACCEPT"
        made.append(Told(str(leaves), "egress", *ends, egress))
        if why == "network_acl_egress":
            break
        made.append(Told(str(enters), "ingress", *ends, "REJECT" if why else "ACCEPT"))
        if why:
            break
    return sorted(row for row in made if row.at in AT.values())


def judge(sent: Sent, recorded: Recorded, subnets: Mapping[IPv4Network, Acl]) -> None:
    assert sent.reason == refusal(dict(subnets), sent.legs)
    assert _plainly(found(recorded.took())) == _plainly(expected(subnets, sent.legs))


def _plainly(told_rows: list[Told]) -> list[Told]:
    """Without the source of what an interface of a function sends.

    While it has given no port to a flow, that is told with the environment's.
    """
    return [
        row._replace(source="-") if (row.at, row.direction) == (LAMBDA, "egress") else row
        for row in told_rows
    ]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_each_interface_has_what_it_sends_and_is_sent(recorded: Recorded, name: str) -> None:
    conversation = CONVERSATIONS[name](recorded.scene, PORT)
    judge(conversation.begins(), recorded, {})
    judge(conversation.answers(), recorded, {})
    judge(conversation.begins(), recorded, {})


@pytest.mark.requirement("AWS-flow-logs-nat-rows", profile="both")
@pytest.mark.parametrize("way", ["ingress", "egress"])
@pytest.mark.parametrize("subnet", APART, ids=str)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_who_refuses_has_the_reject_and_those_before_it_the_packet(
    recorded: Recorded, name: str, subnet: IPv4Network, way: str
) -> None:
    """Before there is a flow, and of one that there is."""
    opened = dict.fromkeys(APART, OPEN)
    shut = {**opened, subnet: Acl(**({"ingress": OPEN.ingress, "egress": OPEN.egress} | {way: ()}))}
    told(recorded.scene, shut)
    conversation = CONVERSATIONS[name](recorded.scene, PORT)
    judge(conversation.begins(), recorded, shut)
    told(recorded.scene, opened)
    judge(conversation.begins(), recorded, opened)
    told(recorded.scene, shut)
    judge(conversation.answers(), recorded, shut)
    judge(conversation.begins(), recorded, shut)


@given(st.sampled_from(sorted(CONVERSATIONS)), st.sampled_from((APART, TOGETHER)), networks)
@settings(max_examples=150, deadline=None)
def test_whatever_network_acls_say(
    name: str, opened: tuple[IPv4Network, ...], subnets: dict[IPv4Network, Acl]
) -> None:
    with contextlib.closing(Recorded()) as recorded:
        conversation = CONVERSATIONS[name](recorded.scene, PORT)
        told(recorded.scene, dict.fromkeys(opened, OPEN))
        judge(conversation.begins(), recorded, {})
        told(recorded.scene, subnets)
        judge(conversation.answers(), recorded, subnets)
        judge(conversation.begins(), recorded, subnets)


def test_counts_are_those_of_what_passed(recorded: Recorded) -> None:
    conversation = CONVERSATIONS["NAT gateway"](recorded.scene, PORT)
    for _ in range(3):
        conversation.begins()
    conversation.answers()
    counts = {
        (at, row["flow-direction"], row["pkt-dstaddr"]): (row["packets"], row["bytes"])
        for at, row in lines(recorded.took())
    }
    assert counts == {
        (LAMBDA, "egress", FAR): ("3", "84"),
        (LAMBDA, "ingress", LAMBDA): ("1", "28"),
        (NAT, "ingress", FAR): ("3", "84"),
        (NAT, "egress", FAR): ("3", "84"),
        (NAT, "ingress", NAT): ("1", "28"),
        (NAT, "egress", LAMBDA): ("1", "28"),
    }


def test_clients_of_a_node_are_those_of_the_table(recorded: Recorded) -> None:
    """What is judged above is not about nobody."""
    assert set(PLACES) == {"environment", "host", "router"}
    told(recorded.scene, dict.fromkeys(APART, SHUT))
    conversation = CONVERSATIONS["host by node"](recorded.scene, PORT)
    conversation.begins()
    assert [row.action for row in found(recorded.took())] == ["REJECT"]


def actions(recorded: Recorded) -> list[str]:
    return sorted(f"{row.at} {row.direction} {row.action}" for row in found(recorded.took()))


@pytest.mark.requirement("NLB-flow-logs", profile="both")
@pytest.mark.parametrize("client", ["host", "environment"])
@pytest.mark.parametrize("preserve", [False, True])
def test_groups_reject_on_the_interface_that_has_them(client: str, preserve: bool) -> None:
    """Those of a client, of a node about it and about the target, of the target."""
    with contextlib.closing(Recorded()) as recorded:
        scene, name = recorded.scene, f"{client} by node{' with its source' if preserve else ''}"
        own = LAMBDA if client == "environment" else CLIENT
        passed = [f"{own} egress ACCEPT", f"{NODE} ingress ACCEPT", f"{NODE} egress ACCEPT"]
        for policy, before, last in (
            (Policy(NODE, ingress=[]), passed[:1], f"{NODE} ingress REJECT"),
            (Policy(NODE, egress=[]), passed[:2], f"{NODE} egress REJECT"),
        ):
            scene.policy = policy
            CONVERSATIONS[name](scene, PORT).begins()
            assert actions(recorded) == sorted([*before, last])
        scene.policy = None
        scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=[]))
        CONVERSATIONS[name](scene, PORT).begins()
        assert actions(recorded) == sorted([*passed, f"{FIRST} ingress REJECT"])


@pytest.mark.requirement("PL-flow-logs", profile="both")
@pytest.mark.parametrize("client", ["host", "environment"])
def test_an_endpoint_has_rows_of_its_clients_and_of_its_groups(client: str) -> None:
    """Its consumer's VPC has the addresses of the provider's, so places are told by number."""
    scene = endpoint.Scene(listener(WEB))
    own = {"host": 19, "environment": endpoint.OF_LAMBDA}[client]
    node, target, at = 8, 16, endpoint.ENDPOINT
    path = scene.path.parent / "records"
    with contextlib.closing(FlowRecordRing.create(path, capacity=64, places_max=20)) as ring:
        scene.engine.record_flows(ring.memory)
        deltas = FlowDeltas(256, 8, 16)
        form = LineFormat(("flow-direction", "action"))

        def told_rows() -> list[str]:
            taken = [
                *deltas.live(scene.map.memory, 0, 256, 0),
                *deltas.ended(ring.memory, 64)[0],
            ]
            return sorted(
                f"{key.place} {form.line(Place('eni-a'), key, sums, 1, 2)}"
                for delta in taken
                for key, sums in rows_of(delta)
                if key.view != View.FROM_ENVIRONMENT
            )

        accepted = [f"{own} egress ACCEPT", f"{at} ingress ACCEPT", f"{node} ingress ACCEPT"]
        scene.own = Policy(NODE, ingress=[])
        scene.lead()
        scene.consumer_sends(client, SYN)
        assert told_rows() == sorted([accepted[0], f"{at} ingress REJECT"])
        scene.own, scene.admission = None, Policy(NODE, ingress=[])
        scene.lead()
        scene.consumer_sends(client, SYN)
        assert told_rows() == sorted([*accepted[:2], f"{node} ingress REJECT"])
        scene.admission = None
        scene.lead()
        scene.consumer_sends(client, SYN)
        onward = [f"{node} egress ACCEPT", f"{target} ingress ACCEPT"]
        assert told_rows() == sorted([*accepted, *onward])
        scene.engine.record_flows(None)
    scene.close()


def test_a_lost_record_is_counted_at_each_interface_of_its_way() -> None:
    with contextlib.closing(Recorded(capacity=1)) as recorded:
        for port in (5000, 5001):
            recorded.scene.from_environment(port=port)
        recorded.scene.removed([4])
        assert recorded.scene.engine.counters()["flow_records_lost"] == 1
        assert read_lost(recorded.ring.memory) == {INTERFACES[LAMBDA]: 1, INTERFACES[NAT]: 1}


def test_who_comes_late_knows_whose_flows_it_missed(recorded: Recorded) -> None:
    CONVERSATIONS["host by node"](recorded.scene, PORT).begins()
    recorded.scene.removed([8])
    late = FlowDeltas(256, 8, 16)
    late.begin_late(5000)
    assert late.ended(recorded.ring.memory, 10) == ([], {8, HOSTS[CLIENT], HOSTS[FIRST]})


def test_what_comes_without_a_flow_has_reached_the_gateway(recorded: Recorded) -> None:
    """Of a public address of a host it has reached the host, whose groups may refuse it."""
    scene = recorded.scene
    scene.from_internet((ELASTIC, 2222), (FAR, 6000))
    assert found(recorded.took()) == [Told(NAT, "ingress", FAR, NAT, "2222", "ACCEPT")]
    scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=[]))
    scene.from_internet((PUBLIC, 80), (FAR, 6000))
    assert found(recorded.took()) == [Told(FIRST, "ingress", FAR, FIRST, "80", "REJECT")]
