# SPDX-License-Identifier: Apache-2.0
"""Connections that nobody uses for 350 seconds, or what else the configuration says, of real
sockets.

Time runs faster by `timeouts.time_scale`. A test that waits for a flow's end asks the gateway for
the flow's state; it sends nothing meanwhile. Ends are checked from both sides of the timer: not
before it, as the flow's clock cannot have been set before the test looked at its own, and soon
after.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INTERFACE,
    WEB,
    Lab,
    difference,
    receive,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

AWS_SCALE = 100
IDLE_SECONDS = 350 / AWS_SCALE
RFC_SCALE = 1000
LATE_SECONDS = 10.0
"""How long after its time a flow may be seen as it was, on a loaded machine."""

TCP_ESTABLISHED = 1
FIN_OR_RST = 0x05
PORT = 7100


def lab_of(launch: Launch, hold_seconds: int, more: str = "") -> Lab:
    """A lab whose clock runs a hundred times faster; `hold_seconds` are on that clock."""
    return launch(
        environments=2,
        toml=f"[timeouts]\ntime_scale = {AWS_SCALE}\n\n"
        f"[ports]\nhold_seconds = {hold_seconds}\n\n[nat]\n{more}\n",
    )


@contextlib.contextmanager
def connection(lab: Lab, number: int, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An open connection of an environment: its client's and its server's socket."""
    with tcp_socket(lab.vpc) as listener, tcp_socket(lab.environment(number)) as client:
        listener.bind((WEB[0], port))
        listener.listen()
        client.connect((WEB[0], port))
        server, _peer = listener.accept()
        with server:
            server.settimeout(30)
            yield client, server


def exchange(client: socket.socket, server: socket.socket) -> None:
    for sender, receiver in ((client, server), (server, client)):
        sender.sendall(b"data")
        assert receive(receiver, 4) == b"data"


def state_of(lab: Lab, port: int, protocol: str = "tcp") -> str:
    """The state of the only flow to a remote port; FREE when there is none."""
    rows = [row for row in lab.rows("flows", protocol=protocol) if row["remote_port"] == port]
    assert len(rows) <= 1
    return str(rows[0]["state"]) if rows else "FREE"


def tcp_state(endpoint: socket.socket) -> int:
    """What the end itself thinks of its connection: `tcpi_state` of struct tcp_info."""
    return endpoint.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def ends_of(lab: Lab) -> tuple[tuple[str, str], tuple[str, str]]:
    """The links of environment 1 and of the VPC's services."""
    return (lab.environment(1), "eth0"), (lab.vpc, INTERFACE)


def flags_of(capture: wire.Capture, port: int) -> list[int]:
    """The flags of the TCP segments of a connection to `port` that have arrived."""
    wanted = port.to_bytes(2)
    return [
        frame[47]
        for frame in capture.take()
        if frame[23:24] == b"\x06" and wanted in (frame[34:36], frame[36:38])
    ]


def wait_ended(lab: Lab, port: int, seconds: float, since: float, protocol: str = "tcp") -> None:
    """Wait until a flow is in use no more, and check that this took `seconds`, and no less."""
    wait_until(
        lambda: state_of(lab, port, protocol) in ("HELD", "FREE"),
        f"the end of the flow to port {port}",
        seconds + LATE_SECONDS,
    )
    assert time.monotonic() - since >= seconds


@pytest.mark.requirement("AWS-idle-350", profile="aws")
@pytest.mark.requirement("AWS-idle-reset", profile="aws")
@pytest.mark.requirement("AWS-idle-no-fin", profile="aws")
@pytest.mark.parametrize(
    ("hold_seconds", "state"), [(60_000, "HELD"), (0, "FREE")], ids=["held", "free"]
)
def test_the_next_send_is_reset(launch: Launch, hold_seconds: int, state: str) -> None:
    """350 seconds of silence end a connection without a word; the client's next send is reset."""
    lab = lab_of(launch, hold_seconds)
    with connection(lab, 1, PORT) as (client, server), connection(lab, 2, PORT + 1) as busy:
        exchange(client, server)
        with wire.capturing(*ends_of(lab)) as captures:
            since = time.monotonic()
            exchange(client, server)

            def ended() -> bool:
                # Its neighbour is used all the time and lives.
                exchange(*busy)
                return state_of(lab, PORT) == state

            wait_until(ended, "the end of the idle connection", IDLE_SECONDS + LATE_SECONDS)
            assert time.monotonic() - since >= IDLE_SECONDS
            for capture in captures:
                flags = flags_of(capture, PORT)
                assert flags, f"the capture in {capture.where} sees nothing"
                # Nobody was told.
                assert not any(each & FIN_OR_RST for each in flags)
        assert tcp_state(client) == tcp_state(server) == TCP_ESTABLISHED
        before = lab.counters()
        client.sendall(b"too late")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        change = difference(before, lab.counters())
        assert change["replies_tcp"] == change["drop_tcp_idle_timeout"] == 1
        # The server has seen nothing of it, and what it sends meets nobody.
        assert tcp_state(server) == TCP_ESTABLISHED
        reason = "drop_flow_held" if state == "HELD" else "drop_no_flow"
        server.sendall(b"is anybody there?")
        wait_until(lambda: difference(before, lab.counters()).get(reason), reason)
        exchange(*busy)
        # The environment's next connection is none of the old one's business.
        client.close()
    with connection(lab, 1, PORT) as pair:
        exchange(*pair)
    assert lab.verify() == []


def test_silent_drop_is_an_option(launch: Launch) -> None:
    """With nat.idle = "drop" the client hears nothing, as of most NATs: it keeps trying."""
    lab = lab_of(launch, 60, 'idle = "drop"')
    with connection(lab, 1, PORT) as (client, server):
        since = time.monotonic()
        exchange(client, server)
        wait_ended(lab, PORT, IDLE_SECONDS, since)
        before = lab.counters()
        client.sendall(b"too late")
        wait_until(
            lambda: difference(before, lab.counters()).get("drop_tcp_idle_timeout", 0) > 1,
            "a retransmission",
        )
        assert "replies_tcp" not in difference(before, lab.counters())
        assert tcp_state(client) == TCP_ESTABLISHED


@pytest.mark.requirement("RFC4787-5", profile="rfc")
@pytest.mark.requirement("RFC5382-5", profile="rfc")
@pytest.mark.requirement("RFC5508-2", profile="rfc")
@pytest.mark.requirement("RFC7857-2.1", profile="rfc")
@pytest.mark.requirement("AWS-idle-350", profile="rfc")
@pytest.mark.requirement("AWS-idle-no-fin", profile="rfc")
@pytest.mark.requirement("AWS-idle-reset", profile="rfc")
def test_timers_of_the_rfc_profile(launch: Launch) -> None:
    """Established 2 h 4 min, half-open 4 min, UDP 5 min, ICMP 60 s; a thousand times faster."""
    lab = launch(
        environments=2, toml=f'[timeouts]\ntime_scale = {RFC_SCALE}\n\n[nat]\nprofile = "rfc"\n'
    )
    where, ping = lab.environment(1), require_program("ping", "iputils-ping")
    with udp_socket(where, seconds=1) as endpoint:
        # On a loaded machine an answer may come when its flow has ended: the next one is in time.
        def answered() -> float:
            asked = time.monotonic()
            endpoint.sendto(b"question", ECHO)
            with contextlib.suppress(TimeoutError):
                return asked if endpoint.recv(64) == b"question" else 0.0
            return 0.0

        wait_ended(lab, ECHO[1], 300 / RFC_SCALE, wait_until(answered, "an answer"), "udp")

    def pinged() -> float:
        asked = time.monotonic()
        done = run(where, ping, "-n", "-c", "1", "-W", "1", ECHO[0], check=False)
        return 0.0 if done.returncode else asked

    wait_ended(lab, 0, 60 / RFC_SCALE, wait_until(pinged, "a reply"), "icmp")
    # Nobody has this address, so that the SYN stays without an answer.
    with tcp_socket(where) as nobody:
        nobody.setblocking(False)
        asked = time.monotonic()
        nobody.connect_ex(("10.0.1.99", PORT + 1))
        wait_ended(lab, PORT + 1, 240 / RFC_SCALE, asked)
    with connection(lab, 1, PORT) as (client, server):
        since = time.monotonic()
        exchange(client, server)
        assert state_of(lab, PORT) == "ESTABLISHED"
        with wire.capturing(*ends_of(lab)) as captures:
            wait_ended(lab, PORT, 7440 / RFC_SCALE, since)
            assert not any(flags_of(capture, PORT) for capture in captures)
        # Nor does the next segment get an answer.
        before = lab.counters()
        client.sendall(b"too late")
        wait_until(
            lambda: "drop_tcp_idle_timeout" in difference(before, lab.counters()),
            "the drop of a late segment",
        )
        assert "replies_tcp" not in difference(before, lab.counters())
        assert tcp_state(client) == tcp_state(server) == TCP_ESTABLISHED


@pytest.mark.requirement("AWS-idle-350", profile="aws")
def test_udp_is_idle_after_as_long(launch: Launch) -> None:
    """An answer from outside keeps a flow as a packet from inside does, in `aws`."""
    lab = lab_of(launch, 60)
    with udp_socket(lab.environment(1)) as endpoint:
        since = time.monotonic()
        endpoint.sendto(b"question", ECHO)
        assert endpoint.recv(64) == b"question"
        wait_ended(lab, ECHO[1], IDLE_SECONDS, since, "udp")
        # A datagram begins anew what a TCP segment could not.
        endpoint.sendto(b"again", ECHO)
        assert endpoint.recv(64) == b"again"
    assert lab.counters()["flows_ended_udp_timeout"] == 1
