# SPDX-License-Identifier: Apache-2.0
"""The PROXY protocol's header reaches the target, whatever becomes of segments on the way.

Two ends with just enough of TCP, each with bytes to send, on an engine whose links lose, repeat and
reorder. The target has the header and then what the client has sent; the client has what the target
has sent, and is told of nothing that it has not sent itself.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.engine import Action, Behaviour, DropReason
from tests.engine import gateways
from tests.engine.balancers import (
    ACK,
    LISTENS,
    NODE,
    PLACES,
    SYN,
    SYNACK,
    WEB,
    Scene,
    listener,
)
from tests.engine.endpoints import CLIENTS, CONSUMER, ENDPOINT, ID, ROUTER_LINK, SEEN_AS
from tests.engine.endpoints import Scene as EndpointScene
from tests.engine.gateways import ENVIRONMENT, FIRST, HOST, LAMBDA
from tests.reference import packet
from tests.reference.packet import parse_segment
from tests.reference.proxying import header
from tests.reference.tracker import signed

ROUND = 1 << 32
ROUNDS = 60
MAXIMUM, WINDOW = 100, 400

Place = tuple[int, int]
End = tuple[str, int]


def proxied(*, preserve: bool = True, target: End = WEB) -> Scene:
    return Scene(listener(target, preserve=preserve)._replace(proxy_protocol=True))


class Peer:
    """One end of a connection; places in its stream count from its SYN."""

    def __init__(self, place: Place, own: End, far: End, number: int, data: bytes) -> None:
        self.place, self.own, self.far = place, own, far
        self.number, self.data = number, data
        self.acknowledged = self.sent = 0
        self.peer: int | None = None
        self.expected = 0
        self.early: dict[int, int] = {}
        self.finished = False
        self.received = b""
        self.may_send = True
        self.out: list[bytes] = []

    @property
    def ends(self) -> int:
        return len(self.data) + 2

    @property
    def done(self) -> bool:
        return self.finished and self.acknowledged == self.ends

    def begin(self) -> None:
        """The SYN, or what answers one."""
        self.sent = max(self.sent, 1)
        self._emit(SYN if self.peer is None else SYNACK, 0)

    def resend(self) -> None:
        """What its timer does."""
        if self.acknowledged == 0 and self.sent:
            self.begin()
        elif self.acknowledged < self.sent:
            self._transmit(self.acknowledged, self.sent)

    def send(self) -> None:
        """What is new, as far as the other's window goes."""
        limit = min(self.ends, self.acknowledged + WINDOW)
        while self.may_send and self.acknowledged and self.sent < limit:
            self.sent = self._transmit(self.sent, limit)

    def take(self, body: bytes) -> None:
        """A packet of the other's."""
        segment, data = parse_segment(body[20:]), body[20 + (body[32] >> 4) * 4 :]
        assert not segment.flags & packet.RST
        if segment.flags & SYN:
            opened = self.peer is not None
            self.peer, self.expected = segment.seq, max(self.expected, 1)
            if segment.flags & ACK:
                self._told(segment.ack)
                self._emit(ACK, self.sent)
            elif not opened or not self.acknowledged:
                self.begin()
            return
        assert self.peer is not None
        self._told(segment.ack)
        self._sacks(body[40 : 20 + (body[32] >> 4) * 4])
        self._accept(signed(segment.seq - self.peer), data, bool(segment.flags & packet.FIN))
        if data or segment.flags & packet.FIN:
            self._emit(ACK, self.sent)

    def _told(self, number: int) -> None:
        place = signed(number - self.number)
        assert 0 <= place <= self.sent, "what was never sent is acknowledged"
        self.acknowledged = max(self.acknowledged, place)

    def _sacks(self, options: bytes) -> None:
        for at, length in packet.options_in(options):
            if options[at] == 5:
                for edge in struct.unpack(f"!{(length - 2) // 4}I", options[at + 2 : at + length]):
                    assert 0 < signed(edge - self.number) <= self.sent

    def _accept(self, place: int, data: bytes, last: bool) -> None:
        if last:
            self.early[place + len(data)] = -1
        for offset, octet in enumerate(data):
            assert self.early.setdefault(place + offset, octet) == octet, "another octet there"
        while self.expected in self.early:
            octet = self.early[self.expected]
            self.expected += 1
            if octet < 0:
                self.finished = True
                break
            self.received += bytes([octet])

    def _transmit(self, start: int, limit: int) -> int:
        end = min(start + MAXIMUM, limit)
        data = self.data[start - 1 : end - 1]
        self._emit(packet.FIN | ACK if end == self.ends else ACK, start, data)
        return end

    def _emit(self, flags: int, start: int, data: bytes = b"") -> None:
        options = b""
        if beyond := [place for place in self.early if place > self.expected]:
            assert self.peer is not None
            edges = (self.peer + min(beyond)) % ROUND, (self.peer + min(beyond) + 1) % ROUND
            options = b"\x01\x01\x05\x0a" + struct.pack("!II", *edges)
        content = packet.tcp(
            self.own[0],
            self.far[0],
            self.own[1],
            self.far[1],
            flags,
            seq=self.number + start,
            ack=0 if self.peer is None else self.peer + self.expected,
            window=WINDOW + 28,
            options=options,
            payload=data,
        )
        self.out.append(packet.ipv4(self.own[0], self.far[0], packet.TCP, content))


class Connection:
    """A client and its target, and what is on its way between them."""

    def __init__(self, scene: Scene, client: str, asks: bytes, answers: bytes, number: int) -> None:
        self.scene = scene
        place, address = PLACES[client]
        self.client = Peer(place, (address, 5000), LISTENS, number, asks)
        self.target: Peer | None = None
        self.answers = answers
        self.air: list[tuple[Peer | None, Place, bytes]] = []
        self.header = b""
        self.client.begin()
        self.leave()

    def peers(self) -> list[Peer]:
        return [self.client] if self.target is None else [self.client, self.target]

    def leave(self) -> None:
        """What the ends have made is on its way to the engine."""
        for peer in self.peers():
            # A server with the PROXY protocol says nothing before it knows of whom.
            peer.may_send = peer is self.client or len(peer.received) >= len(self.header)
            peer.send()
            self.air += [(None, peer.place, body) for body in peer.out]
            peer.out.clear()

    def arrives(self, index: int, *, kept: bool = False) -> None:
        receiver, place, body = self.air[index] if kept else self.air.pop(index)
        if receiver is not None:
            receiver.take(body)
        else:
            verdict = self.scene.arrives(*place, body)
            assert verdict.action is Action.FORWARD
            self.air.append(
                (self._receiver(verdict.side, verdict.frame[14:]), place, verdict.frame[14:])
            )
        self.leave()

    def _receiver(self, side: int, body: bytes) -> Peer:
        source, destination = (str(IPv4Address(body[at : at + 4])) for at in (12, 16))
        ports = packet.word(body, 20), packet.word(body, 22)
        if (
            source == LISTENS[0]
            and ports == (LISTENS[1], 5000)
            and destination
            in (
                ENVIRONMENT,
                self.client.own[0],
            )
        ):
            return self.client
        if self.target is None:
            there = self.scene.place_of(destination, source)
            ends = (destination, ports[1]), (source, ports[0])
            self.target = Peer(there, *ends, ROUND - 5, self.answers)
            known = LAMBDA, ports[0]
            if self.client.own[0] != ENVIRONMENT:
                known = self.client.own
            client, own = ((IPv4Address(each[0]), each[1]) for each in (known, LISTENS))
            self.header = header(client, own)
        return self.target

    def finish(self) -> None:
        """From here on nothing is lost; timers run where something is not acknowledged."""
        for _ in range(ROUNDS):
            while self.air:
                self.arrives(0)
            if all(peer.done for peer in self.peers()):
                return
            for peer in self.peers():
                peer.resend()
            self.leave()
        raise AssertionError("the connection stands still")


ACTIONS = st.tuples(
    st.sampled_from(["arrives", "arrives", "is lost", "twice", "client", "target"]),
    st.integers(0, 5),
)


@pytest.mark.requirement("NLB-proxy-protocol", profile="both")
@given(
    client=st.sampled_from(sorted(PLACES)),
    preserve=st.booleans(),
    asks=st.integers(0, 350),
    answers=st.integers(0, 350),
    number=st.sampled_from([1000, ROUND - 1, ROUND - 2, ROUND - 30, ROUND - 130, (1 << 31) - 40]),
    actions=st.lists(ACTIONS, max_size=40),
)
def test_the_stream_is_header_and_data_whatever_is_lost(
    client: str,
    preserve: bool,
    asks: int,
    answers: int,
    number: int,
    actions: list[tuple[str, int]],
) -> None:
    scene = proxied(preserve=preserve)
    sent, said = (bytes(range(1, 251)) * 2)[:asks], (bytes(range(250, 0, -1)) * 2)[:answers]
    connection = Connection(scene, client, sent, said, number)
    for action, index in actions:
        if action in ("client", "target"):
            peer = connection.client if action == "client" else connection.target
            if peer is not None:
                peer.resend()
                connection.leave()
        elif index < len(connection.air):
            if action == "is lost":
                del connection.air[index]
            else:
                connection.arrives(index, kept=action == "twice")
    connection.finish()
    assert connection.target is not None
    assert connection.target.received == connection.header + sent
    assert connection.client.received == said
    assert scene.engine.verify() == []


def opened(scene: Scene, client: str = "host") -> End:
    """A SYN and its answer have passed; the client's end as the target has it."""
    syn = scene.client_sends(client, SYN, (100, 0))
    source, target = gateways.ends(syn)
    scene.target_sends(target, source, SYNACK, (500, 101))
    return source


@pytest.mark.requirement("NLB-proxy-placement", profile="both")
def test_the_header_is_in_what_ends_the_handshake_and_again_until_it_is_acknowledged() -> None:
    scene = proxied()
    source = opened(scene)
    begins = header((IPv4Address(source[0]), source[1]), (IPv4Address(LISTENS[0]), 80))
    for _ in range(2):
        first = scene.client_sends("host", ACK, (101, 501))
        assert first.frame[54:] == begins
    scene.target_sends(WEB, source, ACK, (501, 101 + 28))
    assert scene.client_sends("host", ACK, (101, 501)).frame[54:] == b""


def test_a_restarted_forwarder_goes_on_with_the_numbers() -> None:
    scene = proxied()
    source = opened(scene)
    scene.client_sends("host", ACK, (101, 501))
    scene.target_sends(WEB, source, ACK, (501, 129))
    scene.starts_again()
    there = parse_segment(scene.client_sends("host", ACK, (101, 501)).frame[34:])
    back = parse_segment(scene.target_sends(WEB, source, ACK, (501, 129)).frame[34:])
    assert (there.seq, back.ack) == (129, 101)


@pytest.mark.parametrize("number", [101, 129, 200])
def test_a_reset_is_believed_where_the_other_expects_it(number: int) -> None:
    """The client's is shifted; what would be outside of the target's window stays outside."""
    scene = proxied()
    source = opened(scene)
    scene.client_sends("host", ACK, (101, 501))
    scene.target_sends(WEB, source, ACK, (501, 129))
    reset = scene.client_sends("host", packet.RST, (number, 0))
    assert parse_segment(reset.frame[34:]).seq == number + 28
    (flow,) = scene.engine.flows() or scene.engine.host_flows()
    assert flow.state == "RESET"


def test_an_idle_connection_s_ends_are_reset_by_their_own_numbers() -> None:
    scene = proxied()
    source = opened(scene)
    scene.client_sends("host", ACK, (101, 501))
    scene.target_sends(WEB, source, ACK, (501, 129))
    scene.now += 351_000
    answer = scene.target_sends(WEB, source, ACK, (501, 129))
    assert answer.action is Action.REPLY
    assert parse_segment(answer.frame[34:]).seq == 129
    answer = scene.client_sends("host", ACK, (101, 501))
    assert answer.action is Action.REPLY
    assert parse_segment(answer.frame[34:]).seq == 501


def test_of_a_group_without_it_nothing_is_changed() -> None:
    scene = Scene(listener(WEB))
    opened(scene)
    assert scene.client_sends("host", ACK, (101, 501)).frame[54:] == b""


def test_the_pieces_of_a_segment_are_refused() -> None:
    """A header would be in one of them, and the places of the others wrong."""
    scene = proxied()
    scene.engine.configure(behaviour=Behaviour(tcp_fragments=True), now_ms=scene.now)
    opened(scene)
    content = packet.tcp(PLACES["host"][1], LISTENS[0], 5000, 80, ACK, seq=101, ack=501)
    body = packet.ipv4(
        PLACES["host"][1], LISTENS[0], packet.TCP, content + bytes(4), fragment=0x2000
    )
    verdict = scene.arrives(HOST, 2, body)
    assert verdict.reason is DropReason.FRAGMENT_REFUSED


def test_a_listener_of_udp_has_none() -> None:
    with pytest.raises(ValueError, match="PROXY"):
        Scene(listener((FIRST, 53), protocol="udp")._replace(proxy_protocol=True))


def by_endpoint() -> EndpointScene:
    return EndpointScene(listener(WEB)._replace(proxy_protocol=True))


def named(begins: bytes, name: str) -> bytes:
    """A header that has the id of an endpoint besides."""
    value = b"\x01" + name.encode()
    length = len(begins) - 16 + 3 + len(value)
    tlv = b"\xea" + len(value).to_bytes(2) + value
    return begins[:14] + length.to_bytes(2) + begins[16:] + tlv


@pytest.mark.requirement("NLB-proxy-endpoint", profile="both")
@pytest.mark.parametrize("client", CLIENTS)
def test_the_header_names_the_endpoint(client: str) -> None:
    scene = by_endpoint()
    source = scene.opens(client)
    first = scene.consumer_sends(client, ACK, (101, 501))
    known = (SEEN_AS[client], source[1] if client == "environment" else 5000)
    plain = header(*((IPv4Address(each[0]), each[1]) for each in (known, LISTENS)))
    expected = named(plain, ID)
    assert len(expected) == 54
    assert first.frame[54:] == expected
    scene.target_sends(WEB, source, ACK, (501, 101 + len(expected)))
    assert scene.consumer_sends(client, ACK, (101, 501)).frame[54:] == b""
    assert scene.engine.verify() == []
    scene.close()


@pytest.mark.parametrize("other", ["vpce-1", "vpce-0123456789abcdef01"])
def test_a_header_has_its_length_whatever_the_endpoint_is_called_later(other: str) -> None:
    """Its flow's numbers are shifted by that."""
    scene = by_endpoint()
    scene.opens("host")
    length = len(scene.consumer_sends("host", ACK, (101, 501)).frame)
    scene.engine.set_endpoint(
        ENDPOINT,
        address=NODE,
        vpc=CONSUMER,
        interface=ROUTER_LINK,
        endpoint_id=other,
        node=8,
    )
    again = scene.consumer_sends("host", ACK, (101, 501)).frame
    assert len(again) == length
    assert again[86:] == other.encode()[:22].ljust(22, b"\0")
    scene.close()
