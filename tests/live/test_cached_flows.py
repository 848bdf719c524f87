# SPDX-License-Identifier: Apache-2.0
"""Established flows in a lab with `forwarder.flow_cache`: what the kernel forwards is as without.

Frames of cached flows do not come by the punt link. What is read from the state map of them is at
most one sweep late, so conditions are waited for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    COMMAND,
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE,
    INTERFACE_ADDRESS,
    Lab,
    receive,
    run,
    udp_socket,
    wait_until,
)
from tests.live.test_crash import connected, kill_controller, kill_forwarder, tcp_echo
from tests.live.test_flow_cache import ON, punted

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("flow_cache")]

EARNING = 40
"""Exchanges that earn any flow its records, each with a packet in both directions."""

ROUNDS, NUMBERED = 10, 3000
ARP_FRAMES = 6
"""More than next hops are asked for, and ask, while a test looks."""


def exchange(client: socket.socket, token: bytes) -> None:
    """One datagram to the echo service and its answer."""
    client.sendto(token, ECHO)
    assert client.recv(2048) == token


def cached(lab: Lab) -> int:
    """How many flows are cached."""
    return lab.counters()["flow_cache_flows"]


@contextlib.contextmanager
def cached_udp(lab: Lab, number: int = 1) -> Iterator[socket.socket]:
    """A socket whose flow to the echo service is forwarded by the kernel, both ways."""
    before = cached(lab)
    with udp_socket(lab.environment(number)) as client:

        def is_hit() -> bool:
            for _ in range(EARNING):
                exchange(client, b"earning it")
            if cached(lab) == before:
                return False
            frames = punted(lab)
            for _ in range(EARNING):
                exchange(client, b"by the kernel")
            return punted(lab) == frames

        wait_until(is_hit, "a cached flow")
        yield client


@contextlib.contextmanager
def cached_tcp(lab: Lab, number: int = 1) -> Iterator[socket.socket]:
    """A connection to an echo server that is forwarded by the kernel, both ways."""
    before = cached(lab)
    with connected(lab, number) as client:

        def is_hit() -> bool:
            talk(client, EARNING)
            if cached(lab) == before:
                return False
            frames = punted(lab)
            talk(client, EARNING)
            return punted(lab) == frames

        wait_until(is_hit, "a cached connection")
        yield client


def talk(client: socket.socket, times: int = 1) -> None:
    """Send something to an echo server and get it back, so many times."""
    for _ in range(times):
        client.sendall(b"a word over a connection")
        assert receive(client, 24) == b"a word over a connection"


def flow_of(lab: Lab, client: socket.socket) -> dict[str, Any] | None:
    """The flow of a socket, as the control API tells it."""
    port = client.getsockname()[1]
    return next((row for row in lab.rows("flows") if row["inside_port"] == port), None)


def told(lab: Lab, client: socket.socket) -> tuple[int, int, int, int]:
    """Packets and bytes out and in that are told of a socket's flow."""
    row = flow_of(lab, client)
    assert row is not None
    return row["packets_out"], row["bytes_out"], row["packets_in"], row["bytes_in"]


def test_hits_do_not_come_here_and_all_are_counted(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    with cached_udp(lab) as client:
        before, frames, sums = told(lab, client), punted(lab), lab.counters()
        wait_until(lambda: told(lab, client) == told(lab, client), "a still flow")
        for _ in range(500):
            exchange(client, b"x" * 100)
        # But next hops are asked for, and ask, when some seconds have gone by.
        assert punted(lab) - frames <= ARP_FRAMES
        wait_until(lambda: told(lab, client)[0] >= before[0] + 500, "the sweep")

        def all_told() -> bool:
            packets_out, bytes_out, packets_in, bytes_in = told(lab, client)
            return packets_out == packets_in and bytes_out == bytes_in

        wait_until(all_told, "both directions")
        after = lab.counters()
        for name in (
            "packets_in_from_source",
            "packets_out_to_destination",
            "packets_in_from_destination",
            "packets_out_to_source",
        ):
            assert after[name] - sums[name] >= 500
        assert after["flow_cache_packets"] - sums["flow_cache_packets"] >= 1000
        assert lab.verify() == []


def test_a_connection_is_cached_and_ends_as_ever(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    with tcp_echo(lab):
        with cached_tcp(lab) as client:
            row = flow_of(lab, client)
            assert row is not None
            assert row["state"] == "ESTABLISHED"
            port = client.getsockname()[1]

        def ended() -> bool:
            (row,) = [each for each in lab.rows("flows") if each["inside_port"] == port]
            return bool(row["state"] == "TIME_WAIT")

        wait_until(ended, "the end of the connection")
        assert cached(lab) == 0
    assert lab.verify() == []


def test_a_reset_is_believed_by_what_hits_have_carried(launch: Launch) -> None:
    """Its sequence number is far from those that the forwarder has seen itself."""
    lab = launch(environments=1, toml=ON)
    with tcp_echo(lab), cached_tcp(lab) as client:
        talk(client, 5000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        before = lab.counters()["flows_ended_tcp_rst"]
        client.close()
        wait_until(lambda: lab.counters()["flows_ended_tcp_rst"] == before + 1, "the reset")
        assert cached(lab) == 0
        assert lab.drops() == {}


def test_a_used_flow_goes_on_and_an_idle_one_ends(launch: Launch) -> None:
    """Hits alone keep a flow alive beyond its timeout; without them it ends in time."""
    toml = ON + "\n[timeouts]\nudp_seconds = 6\n"
    lab = launch(environments=1, toml=toml)
    with cached_udp(lab) as client:
        frames = punted(lab)

        def beyond() -> bool:
            exchange(client, b"still there")
            row = flow_of(lab, client)
            assert row is not None
            return bool(row["age_seconds"] > 13)

        wait_until(beyond, "thirteen seconds")
        assert punted(lab) - frames <= ARP_FRAMES
        wait_until(lambda: cached(lab) == 0, "the end of an idle flow")
        assert lab.counters()["flows_ended_udp_timeout"] == 1
    assert lab.verify() == []


def test_a_killed_forwarder_s_flows_go_on_and_are_taken_over(launch: Launch) -> None:
    lab = launch(environments=2, toml=ON)
    with tcp_echo(lab), cached_tcp(lab) as client, cached_udp(lab, 2) as other:
        for _ in range(3):
            kill_forwarder(lab)
            frames = punted(lab)
            for _ in range(50):
                talk(client)
                exchange(other, b"meanwhile")
            assert punted(lab) - frames <= ARP_FRAMES
            assert cached(lab) == 2
            assert lab.verify() == []
        kill_controller(lab)
        talk(client, 50)
        lab.cli("up")
        frames = punted(lab)
        talk(client, 50)
        assert punted(lab) - frames <= ARP_FRAMES
        assert cached(lab) == 2
        assert lab.verify() == []


def test_nothing_is_overtaken_when_flows_are_promoted(launch: Launch) -> None:
    """Numbered datagrams of a new flow each time, as fast as they go: none comes before another."""
    lab = launch(environments=1, toml=ON)
    hits, rounds = lab.counters()["flow_cache_packets"], 0

    def in_order() -> None:
        with udp_socket(lab.vpc) as server, udp_socket(lab.environment(1)) as client:
            server.bind(("10.0.1.80", 7100))
            server.setsockopt(socket.SOL_SOCKET, wire.SO_RCVBUFFORCE, 8 << 20)
            client.connect(("10.0.1.80", 7100))
            client.send(bytes(8))
            _, peer = server.recvfrom(64)
            server.sendto(b"answered", peer)
            assert client.recv(64) == b"answered"
            for number in range(1, NUMBERED + 1):
                client.send(number.to_bytes(8, "big"))
            found: list[int] = []
            server.settimeout(3)
            with contextlib.suppress(TimeoutError):
                while not found or found[-1] < NUMBERED:
                    found.append(int.from_bytes(server.recv(64), "big"))
            assert found == sorted(found)
            assert len(found) > NUMBERED // 2

    def enough() -> bool:
        # A forwarder that does not get the processor in time promotes a flow when all is sent.
        nonlocal rounds
        in_order()
        rounds += 1
        passed = lab.counters()["flow_cache_packets"] - hits
        return rounds >= ROUNDS and passed > ROUNDS * NUMBERED // 4

    wait_until(enough, "rounds with hits", 180)
    assert lab.verify() == []


def test_a_capture_has_both_sides_of_hits(launch: Launch, tmp_path: Path) -> None:
    lab = launch(environments=1, toml=ON)
    file = tmp_path / "cached.pcapng"
    with cached_udp(lab) as client:
        frames = punted(lab)
        arguments = ("capture", "--environment", "env-1", "-w", str(file), "-c", "40")
        with subprocess.Popen(
            [str(COMMAND), "--lab", lab.name, *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            # Nothing is exchanged before it looks at both links, or one side has more of it.
            assert process.stderr is not None
            assert process.stderr.readline().startswith(b"capturing on ")

            def ended() -> bool:
                exchange(client, b"seen on both sides")
                return process.poll() is not None

            wait_until(ended, "forty frames")
            assert process.returncode == 0
        assert punted(lab) - frames <= ARP_FRAMES
    content = file.read_bytes()
    # Source and destination as the environment knows them, and as the VPC does.
    inside, outside, echo = (
        socket.inet_aton(each) for each in (INSIDE_ADDRESS, INTERFACE_ADDRESS, ECHO[0])
    )
    for source, destination in (
        (inside, echo),
        (outside, echo),
        (echo, outside),
        (echo, inside),
    ):
        assert content.count(source + destination) >= 8


def left_by(lab: Lab, link: str) -> int:
    """Frames that have left by the near end of a link."""
    text = run(lab.gateway, "cat", "/proc/net/dev").stdout
    found = re.search(rf"{re.escape(link)}:((?:\s+\d+){{10}})", text)
    assert found is not None
    return int(found[1].split()[9])


def test_hits_leave_by_a_near_end_while_somebody_looks_there(launch: Launch) -> None:
    """Else right to the far end: for good, whatever comes and goes there."""
    lab = launch(environments=1, toml=ON)
    with cached_udp(lab) as client:

        def by_near_ends() -> list[bool]:
            before = [left_by(lab, link) for link in ("env1", INTERFACE)]
            for _ in range(EARNING):
                exchange(client, b"which way")
            after = [left_by(lab, link) for link in ("env1", INTERFACE)]
            return [now - then >= EARNING for now, then in zip(after, before, strict=True)]

        for _ in range(2):
            wait_until(lambda: by_near_ends() == [False, False], "shortcuts")
            with wire.capturing((lab.gateway, INTERFACE)) as (capture,):
                wait_until(lambda: by_near_ends() == [False, True], "out by the tapped near end")
                assert any(b"which way" in frame for frame in capture.take())
        wait_until(lambda: by_near_ends() == [False, False], "shortcuts")
        run(lab.gateway, "tc", "qdisc", "add", "dev", "env1", "root", "pfifo")
        wait_until(lambda: by_near_ends() == [True, False], "out by the near end with a queue")
    assert lab.verify() == []


def test_time_that_is_advanced_ends_an_idle_flow(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    with cached_udp(lab) as client:
        lab.cli("advance", "300")
        exchange(client, b"in time")
        lab.cli("advance", "300")
        row = flow_of(lab, client)
        assert row is not None
        assert row["state"] == "UDP_REPLIED"
        lab.cli("advance", "360")
        row = flow_of(lab, client)
        assert row is None or row["state"] == "HELD"
        assert cached(lab) == 0
    assert lab.verify() == []


def test_a_cache_that_is_full_costs_nothing_but_hits(launch: Launch) -> None:
    lab = launch(environments=2, toml=ON + "flow_cache_flows = 1\n")
    with cached_udp(lab) as client, udp_socket(lab.environment(2)) as other:

        def refused() -> bool:
            for _ in range(EARNING):
                exchange(other, b"no room")
            return lab.counters()["flow_cache_full"] > 0

        wait_until(refused, "a flow is refused")
        frames = punted(lab)
        for _ in range(EARNING):
            exchange(client, b"as before")
        assert punted(lab) - frames <= ARP_FRAMES
        assert cached(lab) == 1
    assert lab.verify() == []
