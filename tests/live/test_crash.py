# SPDX-License-Identifier: Apache-2.0
"""Killing the processes loses no flow, resets no connection and leaves no broken table.

SIGKILL can strike between any two instructions: the forwarder is killed many times at moments that
depend on how far random traffic has got, and after each kill its successor's walk over the table
must find entries, index and port map in agreement.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import ECHO, WEB, Lab, receive, run, tcp_socket, udp_socket, wait_until

pytestmark = [pytest.mark.live, pytest.mark.alone]

SLOW_BYTES = 8 << 20
SLOW_SECONDS = 4


def forwarder_pid(lab: Lab) -> int:
    """The pid of the forwarder in service, 0 while there is none."""
    forwarder = lab.status()["forwarder"]
    return int(forwarder["pid"] or 0) if forwarder["uptime_seconds"] is not None else 0


def kill_forwarder(lab: Lab) -> None:
    """SIGKILL the forwarder and wait until another one serves the lab."""
    before = wait_until(lambda: forwarder_pid(lab), "a forwarder to kill")
    restarts = lab.status()["forwarder"]["restarts"]
    os.kill(before, signal.SIGKILL)
    wait_until(
        lambda: (
            lab.status()["forwarder"]["restarts"] > restarts
            and forwarder_pid(lab) not in (0, before)
        ),
        "the forwarder's successor",
    )


def kill_controller(lab: Lab) -> None:
    """SIGKILL the controller and wait until it is gone."""
    pid = int(lab.status()["pid"])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the controller")


def connected(lab: Lab, number: int = 1) -> socket.socket:
    """A TCP connection from an environment to an echo server in the VPC."""
    connection = tcp_socket(lab.environment(number))
    connection.connect((WEB[0], 7007))
    return connection


def exchange(connection: socket.socket, token: bytes) -> None:
    """Send a token over a connection and expect it back."""
    connection.sendall(token)
    assert receive(connection, len(token)) == token


@contextlib.contextmanager
def echo_server(where: str, address: tuple[str, int]) -> Iterator[None]:
    """A TCP echo server in a namespace, for as long as the context lasts."""
    server = namespace.call(where, socket.create_server, address)

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def tcp_echo(lab: Lab) -> contextlib.AbstractContextManager[None]:
    """One on the web service's address."""
    return echo_server(lab.vpc, (WEB[0], 7007))


class NewFlows:
    """Makes some ten thousand new UDP flows a second from an environment, until stopped."""

    def __init__(self, lab: Lab, number: int) -> None:
        self._namespace = lab.environment(number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            # Each round over the destination ports has a source port of its own: coming round
            # again sooner than flows time out would only refresh them.
            with udp_socket(self._namespace) as sender:
                for port in range(1024, 65536):
                    # Paced, so that the processes under test get the processors too.
                    if port % 50 == 0 and self._stop.wait(0.005):
                        return
                    with contextlib.suppress(OSError):
                        sender.sendto(b"x", (ECHO[0], port))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)


@pytest.mark.requirement("AWS-flows-survive-node-loss", profile="both")
def test_a_paced_download_survives_the_forwarder(launch: Launch) -> None:
    lab = launch()
    want = http_get(lab, f"/sha256?bytes={SLOW_BYTES}").decode().strip()
    outcome: list[bytes | BaseException] = []

    def download() -> None:
        try:
            outcome.append(http_get(lab, f"/slow?bytes={SLOW_BYTES}&seconds={SLOW_SECONDS}"))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=download)
    thread.start()

    def moved() -> int:
        return lab.counters()["bytes_in_from_destination"]

    for part in (1, 2, 3):
        wait_until(lambda part=part: moved() > SLOW_BYTES * part // 5, f"part {part}")  # type: ignore[misc]
        kill_forwarder(lab)
    thread.join(60)
    assert len(outcome) == 1
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    assert hashlib.sha256(outcome[0]).hexdigest() == want
    assert lab.counters()["flows_ended_tcp_rst"] == 0
    assert lab.counters()["forwarder_starts"] == 4


def http_get(lab: Lab, path: str) -> bytes:
    """Fetch from the lab's web service from environment 1."""
    connection = http.client.HTTPConnection(*WEB, timeout=60)
    connection.sock = tcp_socket(lab.environment(1), seconds=60)
    connection.sock.connect(WEB)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


@pytest.mark.timeout(480)
@pytest.mark.parametrize("kills", [25, pytest.param(100, marks=pytest.mark.long)])
def test_kills_under_traffic_leave_a_sound_table(launch: Launch, kills: int) -> None:
    lab = launch(
        environments=3,
        toml="[flows]\nmax = 65536\n[timeouts]\nudp_seconds = 2\n[ports]\nhold_seconds = 1\n",
    )
    chance = random.Random(350)
    with tcp_echo(lab), connected(lab) as connection, NewFlows(lab, 2):
        for number in range(kills):
            exchange(connection, f"before kill {number}".encode())
            created = lab.counters()["flows_created_udp"]
            more = chance.randrange(1, 1000)
            wait_until(
                lambda created=created, more=more: (  # type: ignore[misc]
                    lab.counters()["flows_created_udp"] >= created + more
                ),
                "new flows",
            )
            kill_forwarder(lab)
            assert lab.verify() == [], f"after kill {number}"
        exchange(connection, b"after them all")
    counters = lab.counters()
    assert counters["forwarder_starts"] == kills + 1
    assert counters["rebuild_discarded"] == 0
    assert counters["flows_ended_tcp_rst"] == 0
    # What comes while the next one is told whose the links are waits.
    assert counters["drop_unknown_link"] == 0
    assert lab.status()["forwarder"]["restarts"] == kills


@pytest.mark.requirement("AWS-flows-survive-node-loss", profile="both")
def test_a_killed_controller_is_replaced_without_touching_flows(launch: Launch) -> None:
    lab = launch()
    with tcp_echo(lab), connected(lab) as connection:
        exchange(connection, b"one")
        pid = forwarder_pid(lab)
        kill_controller(lab)
        exchange(connection, b"two")
        lab.up()
        assert forwarder_pid(lab) == pid
        exchange(connection, b"three")
        [flow] = [flow for flow in lab.rows("flows") if flow["protocol"] == "tcp"]
        assert flow["state"] == "ESTABLISHED"


@pytest.mark.requirement("AWS-flows-survive-node-loss", profile="both")
def test_both_killed_flows_come_back_from_the_map(launch: Launch) -> None:
    lab = launch()
    with tcp_echo(lab), connected(lab) as connection:
        exchange(connection, b"one")
        pid = forwarder_pid(lab)
        kill_controller(lab)
        os.kill(pid, signal.SIGKILL)
        lab.up()
        assert forwarder_pid(lab) != pid
        exchange(connection, b"two")
        assert lab.counters()["flows_created_tcp"] == 1


def test_down_after_everything_was_killed_leaves_nothing(launch: Launch) -> None:
    lab = launch()
    pid = forwarder_pid(lab)
    kill_controller(lab)
    os.kill(pid, signal.SIGKILL)
    lab.down()
    assert namespace.names(f"hp-{lab.name}-") == []
    assert not lab.runtime_directory.exists()
    assert not lab.state_file.exists()


def test_down_of_a_stopped_controller_leaves_nothing(launch: Launch) -> None:
    lab = launch()
    pid = int(lab.status()["pid"])
    os.kill(pid, signal.SIGSTOP)
    assert f"(pid {pid}) has not answered for 10 seconds and is killed" in lab.cli("down").stderr
    assert namespace.names(f"hp-{lab.name}-") == []
    assert not lab.runtime_directory.exists()
    assert not lab.state_file.exists()


def test_a_changed_lab_replaces_the_strays_of_the_old_one(launch: Launch) -> None:
    lab = launch(environments=4)
    other = launch(environments=1)
    kill_controller(lab)
    lab.cli("up", "-c", str(lab.config_file), "--environments", "2", "--replace")
    assert len(lab.rows("environments")) == 2
    assert len(namespace.names(f"hp-{lab.name}-env-")) == 2
    assert len(other.rows("environments")) == 1
    run(other.environment(1), "ping", "-c", "1", "-W", "30", WEB[0])


def test_sigterm_ends_a_lab_of_a_hundred(launch: Launch) -> None:
    lab = launch(environments=100)
    pid = int(lab.status()["pid"])
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the controller")
    print(f"SIGTERM to the end: {time.monotonic() - started:.2f} s")
    assert namespace.names(f"hp-{lab.name}-") == []
