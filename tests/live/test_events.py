# SPDX-License-Identifier: Apache-2.0
"""Events of a lab that has too few ports, loses its forwarder, and gets a function."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import COMMAND, ECHO, INTERFACE, Lab, udp_socket, wait_until

pytestmark = pytest.mark.live

PORTS = 20
REFUSED = 50

TOML = f"""
[ports]
limit_per_remote = {PORTS}
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=2, toml=TOML)


def events(lab: Lab, kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [row for row in lab.rows("events") if row["kind"] == kind]


def exhaust(lab: Lab, number: int) -> None:
    """Let environment `number` open more flows to one remote endpoint than there are ports."""
    with contextlib.ExitStack() as open_sockets:
        # All at once: a closed one's port may be given again, and that would be its flow.
        for _ in range(PORTS + REFUSED):
            endpoint = open_sockets.enter_context(udp_socket(lab.environment(number)))
            endpoint.sendto(b"one flow", ECHO)


def test_interfaces_are_told(lab: Lab) -> None:
    wait_until(lambda: events(lab, "interface-added"), "the interface")
    assert [row["interface"] for row in events(lab, "interface-added")] == [INTERFACE]


def test_exhausted_ports_are_told_once_with_their_culprit(lab: Lab) -> None:
    with subprocess.Popen(
        [str(COMMAND), "--lab", lab.name, "events", "--follow", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as follower:
        try:
            assert follower.stdout is not None
            # The interface: whoever follows has begun with what there was.
            assert json.loads(follower.stdout.readline())["kind"] == "interface-added"
            exhaust(lab, 2)
            row = json.loads(follower.stdout.readline())
        finally:
            follower.terminate()
    assert row["kind"] == "port-exhaustion"
    assert row["interface"] == INTERFACE
    assert row["remote"] == f"udp {ECHO[0]}:{ECHO[1]}"
    assert row["environment"] == "env-2"

    def counted() -> bool:
        told = sum(1 + int(row["suppressed"]) for row in events(lab, "port-exhaustion"))
        refused = lab.counters()["port_allocation_errors"]
        return 1 < told == refused == lab.drops()["port_allocation"]

    wait_until(counted, "all that were refused, shown or counted")
    assert len(events(lab, "port-exhaustion")) <= 3
    log = (lab.runtime_directory / "controller.log").read_text()
    lines = [line for line in log.splitlines() if '"port-exhaustion"' in line]
    assert [json.loads(line.partition(": ")[2]) for line in lines] == [
        {name: value for name, value in row.items() if value is not None}
        for row in events(lab, "port-exhaustion")
    ]


def test_a_killed_forwarder_is_told(lab: Lab) -> None:
    before = lab.status()["forwarder"]["pid"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: events(lab, "forwarder-restarted"), "the restart")
    (row,) = events(lab, "forwarder-restarted")
    assert str(lab.status()["forwarder"]["pid"]) in row["message"]
    assert "took over" in lab.cli("events").stdout
