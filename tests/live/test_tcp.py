# SPDX-License-Identifier: Apache-2.0
"""What TCP allows and seldom does: an environment's kernel with a peer that the test writes by
hand.

Both profiles track connections alike; timers apart, see test_idle.py.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from tests.live import peer
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    WEB,
    Lab,
    all_acknowledged,
    difference,
    receive,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.live.peer import Peer, speaking
from tests.live.test_idle import exchange, state_of, tcp_state

pytestmark = pytest.mark.live

SCALE = 100
RESET_SECONDS = 240 / SCALE
TOML = f"""
[timeouts]
time_scale = {SCALE}
tcp_opening_seconds = 2000
tcp_established_seconds = 35000

[ports]
hold_seconds = 120

[nat]
profile = "rfc"
"""
SOURCE_PORT = 40000

# Of linux/tcp.h; a socket in repair mode may be given the number of its SYN and closes silently.
TCP_REPAIR = 19
TCP_REPAIR_QUEUE = 20
TCP_QUEUE_SEQ = 21
TCP_SEND_QUEUE = 2
HIGH, LOW = 3_000_000_000, 1_000_000_000
"""Numbers of two SYNs, of which the second is 2,000,000,000 below the first."""

TCP_CLOSE = 7


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The profile `rfc`, a hundred times faster, but with room for a test to think."""
    return launch_shared(environments=2, toml=TOML)


@pytest.fixture
def far(lab: Lab) -> Iterator[Peer]:
    with speaking(lab) as found:
        yield found
    assert lab.verify() == []


class Dialogue:
    """One connection between a client in environment 1 and the peer, as the peer keeps it."""

    def __init__(self, far: Peer, client: socket.socket, port: int) -> None:
        self.far = far
        self.port = far.port = port
        client.setblocking(False)
        assert client.connect_ex((peer.ADDRESS, port)) == errno.EINPROGRESS
        self.syn = far.segment("S", "the client's SYN")
        self.next = 9000
        self.expected = self.syn.seq + 1

    def say(self, flags: str, text: bytes = b"", **fields: Any) -> None:
        """A segment to the client; sequence numbers follow what was said, unless given."""
        header = {
            "sport": self.port,
            "dport": self.syn.sport,
            "seq": self.next,
            "ack": self.expected if "A" in flags else 0,
            "flags": flags,
            "window": 8192,
        }
        self.far.send(TCP(**{**header, **fields}) / Raw(text))
        if not fields:
            self.next += len(text) + ("S" in flags) + ("F" in flags)

    def accept(self) -> None:
        self.say("SA")
        self.far.segment("A", "the handshake's last segment")


def wait_connected(client: socket.socket) -> None:
    wait_until(lambda: tcp_state(client) == 1, "the connection")
    client.setblocking(True)
    client.settimeout(30)


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_simultaneous_open(lab: Lab, far: Peer) -> None:
    """Both sides send a SYN; each answers the other's, and data passes."""
    with tcp_socket(lab.environment(1)) as client:
        talk = Dialogue(far, client, 7200)
        talk.say("S", seq=talk.next)
        answer = far.segment("SA", "the client's answer to the SYN")
        assert (answer.ack, answer.seq) == (talk.next + 1, talk.syn.seq)
        assert state_of(lab, 7200) == "SYN_RECEIVED"
        talk.next += 1
        talk.say("SA", seq=talk.next - 1)
        talk.say("A", b"hello")
        wait_connected(client)
        assert receive(client, 5) == b"hello"
        client.sendall(b"world")
        heard = far.receive(lambda each: TCP in each and bytes(each[TCP].payload), "the data")
        assert bytes(heard[TCP].payload) == b"world"
        assert state_of(lab, 7200) == "ESTABLISHED"


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_half_closed_from_outside(lab: Lab, far: Peer) -> None:
    """The far end closes its direction; what the environment says still arrives."""
    with tcp_socket(lab.environment(1)) as client:
        talk = Dialogue(far, client, 7201)
        talk.accept()
        wait_connected(client)
        talk.say("FA")
        assert client.recv(1) == b""
        assert state_of(lab, 7201) == "FIN_OUTSIDE"
        client.sendall(b"still here")
        heard = far.receive(lambda each: TCP in each and bytes(each[TCP].payload), "the data")
        assert bytes(heard[TCP].payload) == b"still here"
        talk.expected += 10
        client.shutdown(socket.SHUT_WR)
        far.segment("FA", "the client's FIN")
        talk.expected += 1
        talk.say("A")
        wait_until(lambda: state_of(lab, 7201) == "TIME_WAIT", "TIME_WAIT")


def dropped(lab: Lab, before: dict[str, int], reason: str) -> None:
    wait_until(lambda: difference(before, lab.drops()).get(reason), f"a drop: {reason}")


@pytest.mark.requirement("RFC7857-2.2", profile="rfc")
def test_reset_in_window_only(lab: Lab, far: Peer) -> None:
    """
    A reset out of window is dropped. One in it passes and is not the end: its receiver may not
    believe it (RFC 5961) and goes on; so the mapping stays for four minutes, and as long as it is
    used. The exact one ends the connection.
    """
    with tcp_socket(lab.environment(1)) as client:
        talk = Dialogue(far, client, 7202)
        talk.accept()
        wait_connected(client)
        before = lab.drops()
        talk.say("R", seq=(talk.next - 1) & 0xFFFFFFFF)
        dropped(lab, before, "tcp_rst_window")
        assert state_of(lab, 7202) == "ESTABLISHED"
        talk.say("R", seq=talk.next + 1)
        # The client's kernel asks whether that was meant (RFC 5961, section 3.2).
        assert far.segment("A", "the challenge").ack == talk.next
        assert state_of(lab, 7202) == "RESET"
        talk.say("A", b"not meant")
        assert receive(client, 9) == b"not meant"
        since = time.monotonic()
        client.sendall(b"good")
        far.receive(lambda each: TCP in each and bytes(each[TCP].payload), "the data")
        talk.expected += 4
        talk.say("R", seq=talk.next)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        wait_until(lambda: state_of(lab, 7202) == "FREE", "the end of the mapping")
        assert time.monotonic() - since >= RESET_SECONDS


@pytest.mark.requirement("RFC7857-2.1", profile="both")
def test_late_segments_are_counted_by_reason(lab: Lab, far: Peer) -> None:
    """In TIME_WAIT they pass; while only the mapping is held they are dropped, by that reason."""
    with tcp_socket(lab.environment(1)) as client:
        talk = Dialogue(far, client, 7203)
        talk.accept()
        wait_connected(client)
        client.shutdown(socket.SHUT_WR)
        far.segment("FA", "the client's FIN")
        talk.expected += 1
        talk.say("FA")
        wait_until(lambda: state_of(lab, 7203) == "TIME_WAIT", "TIME_WAIT")
        far.segment("A", "the last acknowledgement")
        # A repeated FIN is answered by the client's kernel, through the gateway.
        talk.say("FA", seq=talk.next - 1)
        far.segment("A", "the last acknowledgement again")
        before = lab.drops()
        wait_until(lambda: state_of(lab, 7203) == "FREE", "the flow's end")
        talk.say("FA", seq=talk.next - 1)
        dropped(lab, before, "flow_held")
        assert difference(before, lab.drops()) == {"flow_held": 1}


def test_a_port_is_used_again_in_time_wait(lab: Lab) -> None:
    """
    The same four addresses and ports again, right after the server closed: the new SYN is beyond
    the old numbers (RFC 6191), so gateway and server take it, behind the same port.
    """
    peers = []
    before = lab.counters()
    with tcp_socket(lab.vpc) as listener:
        listener.bind((WEB[0], 7204))
        listener.listen()
        for _ in range(3):
            with tcp_socket(lab.environment(1), port=SOURCE_PORT) as client:
                client.connect((WEB[0], 7204))
                server, address = listener.accept()
                peers.append(address)
                with server:
                    server.settimeout(30)
                    exchange(client, server)
                assert client.recv(1) == b""
            wait_until(lambda: state_of(lab, 7204) == "TIME_WAIT", "TIME_WAIT")
    assert len(set(peers)) == 1
    assert difference(before, lab.counters())["flows_created_tcp"] == 3


def numbered(endpoint: socket.socket, number: int) -> socket.socket:
    """A socket whose next SYN has this sequence number."""
    endpoint.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    endpoint.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    endpoint.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", number))
    endpoint.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    return endpoint


def forget(endpoint: socket.socket) -> None:
    """The kernel loses a connection: nothing is sent, and nobody is there any more."""
    endpoint.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    endpoint.close()


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_a_port_is_used_again_below_the_old_numbers(lab: Lab) -> None:
    """
    As after an upload of 2 GB: the server, which closed, takes the SYN by its timestamps (RFC
    6191). The connection is one in the gateway's eyes, too, and not what is left of the old.
    """
    before = lab.counters()
    with tcp_socket(lab.vpc) as listener:
        listener.bind((WEB[0], 7206))
        listener.listen()
        for number in (HIGH, LOW):
            with numbered(tcp_socket(lab.environment(1), port=SOURCE_PORT + 1), number) as client:
                client.connect((WEB[0], 7206))
                server, _address = listener.accept()
                with server:
                    server.settimeout(30)
                    exchange(client, server)
                    assert state_of(lab, 7206) == "ESTABLISHED"
                assert client.recv(1) == b""
            wait_until(lambda: state_of(lab, 7206) == "TIME_WAIT", "TIME_WAIT")
    change = difference(before, lab.counters())
    assert (change["flows_created_tcp"], change["flows_established_tcp"]) == (2, 2)


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_a_connection_that_both_ends_lost_is_made_again(lab: Lab) -> None:
    """On the same addresses and ports; the reset with which the server ends the other arrives."""
    with tcp_socket(lab.vpc) as listener:
        listener.bind((WEB[0], 7207))
        listener.listen()
        client = numbered(tcp_socket(lab.environment(1), port=SOURCE_PORT + 2), HIGH)
        client.connect((WEB[0], 7207))
        server, address = listener.accept()
        server.settimeout(30)
        exchange(client, server)
        # What is sent again meanwhile would be answered with a reset.
        for endpoint in (client, server):
            wait_until(partial(all_acknowledged, endpoint), "the acknowledgement")
        forget(client)
        forget(server)
        assert state_of(lab, 7207) == "ESTABLISHED"
        with numbered(tcp_socket(lab.environment(1), port=SOURCE_PORT + 2), LOW) as client:
            client.connect((WEB[0], 7207))
            server, again = listener.accept()
            assert again == address
            with server:
                server.settimeout(30)
                exchange(client, server)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert state_of(lab, 7207) == "RESET"


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_a_challenged_connection_is_made(lab: Lab, far: Peer) -> None:
    """
    The far end still holds an old connection on the port that the gateway gave out again, and
    challenges the SYN (RFC 5961). The client resets that, and tries again.
    """
    with tcp_socket(lab.environment(1)) as client:
        talk = Dialogue(far, client, 7208)
        talk.say("A", seq=777, ack=talk.syn.seq + 100_000 & 0xFFFFFFFF)
        reset = far.segment("R", "the reset that answers the challenge")
        assert reset.seq == talk.syn.seq + 100_000 & 0xFFFFFFFF
        assert far.segment("S", "the SYN again").seq == talk.syn.seq
        talk.accept()
        wait_connected(client)
        assert state_of(lab, 7208) == "ESTABLISHED"
        talk.say("R", seq=talk.next)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_a_second_syn_is_refused(lab: Lab, far: Peer) -> None:
    """The first had no answer; the second, below it, gets a reset, which arrives."""
    with numbered(tcp_socket(lab.environment(1), port=SOURCE_PORT + 3), HIGH) as client:
        assert Dialogue(far, client, 7209).syn.seq == HIGH
    with numbered(tcp_socket(lab.environment(1), port=SOURCE_PORT + 3), LOW) as client:
        talk = Dialogue(far, client, 7209)
        assert talk.syn.seq == LOW
        talk.say("RA", seq=0)
        wait_until(lambda: tcp_state(client) == TCP_CLOSE, "the refusal")
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.requirement("AWS-cloudwatch-metrics", profile="both")
def test_attempts_and_connections_are_counted(lab: Lab) -> None:
    """An attempt is a SYN, a connection a finished handshake (CloudWatch has both)."""
    before = lab.counters()
    with tcp_socket(lab.environment(1)) as client:
        assert client.connect_ex((WEB[0], 9)) == errno.ECONNREFUSED
    change = difference(before, lab.counters())
    assert change["tcp_syns_from_source"] == 1
    assert "flows_established_tcp" not in change
    with tcp_socket(lab.environment(1)) as client:
        client.connect(WEB)
        # The handshake's last segment is on its way when the client's part of it is done.
        wait_until(
            lambda: difference(before, lab.counters()).get("flows_established_tcp") == 1,
            "the count of the handshake",
        )
    assert difference(before, lab.counters())["tcp_syns_from_source"] == 2


@pytest.mark.requirement("RFC4787-10", profile="both")
@pytest.mark.requirement("RFC5382-6", profile="both")
def test_addresses_in_payloads_stay(lab: Lab) -> None:
    """FTP's and SIP's own ports, where some NATs rewrite what is said: here nobody reads it."""
    port = f"PORT {INSIDE_ADDRESS.replace('.', ',')},10,1\r\n".encode()
    with tcp_socket(lab.vpc) as listener, tcp_socket(lab.environment(1)) as client:
        listener.bind((WEB[0], 21))
        listener.listen()
        client.connect((WEB[0], 21))
        server, _peer = listener.accept()
        with server:
            server.settimeout(30)
            client.sendall(port)
            assert receive(server, len(port)) == port
    invite = f"INVITE sip:a@b SIP/2.0\r\nContact: <sip:a@{INSIDE_ADDRESS}:5060>\r\n\r\n".encode()
    with udp_socket(lab.vpc) as server, udp_socket(lab.environment(1), port=5060) as client:
        server.bind((WEB[0], 5060))
        client.sendto(invite, (WEB[0], 5060))
        assert server.recv(512) == invite


@pytest.mark.requirement("RFC5382-4", profile="both")
def test_nobody_is_told_of_an_unsolicited_syn(lab: Lab, far: Peer) -> None:
    """Neither a reset nor an ICMP error answers it: to say nothing is the policy (REQ-4a)."""

    def settle() -> None:
        with udp_socket(lab.environment(1)) as endpoint:
            endpoint.sendto(b"settled", ECHO)
            assert endpoint.recv(64) == b"settled"

    far.port = 7205
    before = lab.drops()
    for port in (1024, 40000, 65535):
        far.send(TCP(sport=far.port, dport=port, flags="S", seq=1))
    dropped(lab, before, "no_flow")
    assert far.silent(settle)
    assert difference(before, lab.drops()) == {"no_flow": 3}
