# SPDX-License-Identifier: Apache-2.0
"""A controller is killed and another one comes: what stands is taken over, and never destroyed."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from hyperplane_nat.config import load
from netns import namespace
from tests.engine import former_map
from tests.live.conftest import Launch
from tests.live.lab import Lab, live_connection, wait_until
from tests.live.test_crash import connected, exchange, forwarder_pid, kill_controller, tcp_echo

pytestmark = [pytest.mark.live, pytest.mark.alone]


def test_another_configuration_is_refused_and_none_takes_over(launch: Launch) -> None:
    lab = launch(environments=3, toml="[flows]\nmax = 4096\n")
    with live_connection(lab, 1, 7007) as exchange_more:
        pid = forwarder_pid(lab)
        kill_controller(lab)
        for verb in ("status", "flows", "events"):
            told = lab.cli(verb, check=False)
            assert told.returncode == 2
            assert f"its forwarder (pid {pid}) goes on" in told.stderr
            assert f"hyperplane-nat up --lab {lab.name};" in told.stderr
        refused = lab.cli("up", "-c", str(lab.config_file), "--set", "flows.max=8192", check=False)
        assert refused.returncode == 2
        assert "asked for: flows.max (" in refused.stderr
        exchange_more()
        lab.cli("up")
        assert forwarder_pid(lab) == pid
        assert len(lab.rows("environments")) == 3
        assert lab.status()["flows"]["max"] == 4096
        exchange_more()


def test_replace_removes_what_stands(launch: Launch) -> None:
    lab = launch(environments=2, toml="[flows]\nmax = 4096\n")
    pid = forwarder_pid(lab)
    kill_controller(lab)
    lab.cli("up", "-c", str(lab.config_file), "-n", "1", "--replace")
    assert forwarder_pid(lab) != pid
    assert len(namespace.names(f"hp-{lab.name}-env-")) == 1


def leave_former_version(lab: Lab) -> None:
    """Kill controller and forwarder and leave what the version before this one would have left."""
    pid = forwarder_pid(lab)
    kill_controller(lab)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the forwarder")
    former_map.write_layout_3(lab.state_file)
    whole = load(lab.config_file).model_dump(mode="json")
    (lab.runtime_directory / "lab.json").write_text(json.dumps(whole))


def test_what_the_former_version_left_is_taken_over_under_traffic(launch: Launch) -> None:
    lab = launch(environments=2, toml="[flows]\nmax = 4096\n")
    with tcp_echo(lab), connected(lab, 1) as idle, connected(lab, 2) as busy:
        # What is lost meanwhile is sent again, after ever longer pauses.
        busy.settimeout(60)
        exchange(idle, b"before")
        exchange(busy, b"before")
        before = lab.counters()
        leave_former_version(lab)
        sending = threading.Thread(target=exchange, args=(busy, b"meanwhile"))
        sending.start()
        lab.up()
        sending.join(60)
        assert not sending.is_alive()
        exchange(busy, b"after")
        exchange(idle, b"after")
        after = lab.counters()
        assert after["flows_created_tcp"] == before["flows_created_tcp"]
        assert after["forwarder_starts"] == before["forwarder_starts"] + 1
        assert after["rebuild_discarded"] == 0
        assert lab.verify() == []
        flows = [flow for flow in lab.rows("flows") if flow["remote_port"] == 7007]
        assert {flow["state"] for flow in flows} == {"ESTABLISHED"}


def test_a_forwarder_started_otherwise_is_replaced_under_traffic(launch: Launch) -> None:
    """As one of another version is: its successor stands by before it is ended."""
    lab = launch(environments=2)
    with live_connection(lab, 1, 7007) as exchange_more:
        pid, starts = forwarder_pid(lab), lab.counters()["forwarder_starts"]
        kill_controller(lab)
        ended = threading.Event()

        def send() -> None:
            while not ended.is_set():
                exchange_more()

        sending = threading.Thread(target=send)
        sending.start()
        try:
            lab.cli("up", "-c", str(lab.config_file), "--set", "forwarder.batch_frames=64")
        finally:
            ended.set()
            sending.join(60)
        assert not sending.is_alive()
        assert forwarder_pid(lab) != pid
        assert lab.counters()["forwarder_starts"] == starts + 1
        assert lab.verify() == []
