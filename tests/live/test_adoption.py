# SPDX-License-Identifier: Apache-2.0
"""A controller is killed and another one comes: what stands is taken over, and never destroyed."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperplane_nat.config.lab import load
from hyperplane_nat.controller.forwarder.heartbeat import HUNG_SECONDS
from hyperplane_nat.controller.processes import Process
from hyperplane_nat.engine import StateMap
from netns import namespace
from tests.engine import former_map
from tests.live.configurations import functions
from tests.live.conftest import Launch
from tests.live.lab import (
    COMMAND,
    ECHO,
    WEB,
    Lab,
    live_connection,
    run,
    stopped,
    udp_socket,
    wait_until,
)
from tests.live.test_crash import connected, exchange, forwarder_pid, kill_controller, tcp_echo

pytestmark = pytest.mark.live


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


def leave_former_version(
    lab: Lab, write: Callable[[Path], None] = former_map.write_layout_3
) -> None:
    """Kill controller and forwarder and leave what a version before this one would have left."""
    pid = forwarder_pid(lab)
    kill_controller(lab)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the forwarder")
    write(lab.state_file)
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


MANY_FLOWS = 100_000
PORTS_OF_A_SOCKET = 25_000
BURST = 1_000
"""Datagrams for which the ring has room."""


def many_flows(lab: Lab) -> None:
    """Let an environment begin 100,000 UDP flows; what is lost on the way is sent again."""
    wanted = 0

    def burst(sender: socket.socket, first: int) -> bool:
        for port in range(first, first + BURST):
            sender.sendto(b"", (ECHO[0], port))
        return lab.counters()["flows_active_udp"] >= wanted

    for port in range(6_000, 6_000 + MANY_FLOWS // PORTS_OF_A_SOCKET):
        with udp_socket(lab.environment(1), port=port) as sender:
            for first in range(20_000, 20_000 + PORTS_OF_A_SOCKET, BURST):
                wanted += BURST
                wait_until(functools.partial(burst, sender, first), f"{wanted} flows")


def flows_in(path: Path) -> set[tuple[object, ...]]:
    """What each flow that has not ended is, without its state and figures."""
    state = StateMap.open(path)
    try:
        return {
            (flow.protocol, *flow[3:11], flow.created_ms)
            for flow in state.flows()
            if flow.state in ("UDP", "UDP_REPLIED", "ESTABLISHED")
        }
    finally:
        state.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_map_of_the_former_layout_is_taken_over_under_traffic(launch: Launch) -> None:
    toml = "[flows]\nmax = 131072\n[ports]\nlimit_per_interface = 0\n"
    lab = launch(environments=2, toml=toml)
    with tcp_echo(lab), connected(lab, 1) as idle, connected(lab, 2) as busy:
        busy.settimeout(60)
        exchange(idle, b"before")
        exchange(busy, b"before")
        many_flows(lab)
        before, flows = lab.counters(), flows_in(lab.state_file)
        assert len(flows) >= MANY_FLOWS + 2
        leave_former_version(lab, former_map.write_layout_5)
        sending = threading.Thread(target=exchange, args=(busy, b"meanwhile"))
        sending.start()
        lab.up()
        sending.join(60)
        assert not sending.is_alive()
        assert flows_in(lab.state_file) == flows
        exchange(busy, b"after")
        exchange(idle, b"after")
        after = lab.counters()
        assert after["flows_created_tcp"] == before["flows_created_tcp"]
        assert after["flows_created_udp"] == before["flows_created_udp"]
        assert after["rebuild_discarded"] == 0
        assert lab.verify() == []


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


@pytest.mark.parametrize("toml", ["", functions("hook", pool=2)], ids=["static", "functions"])
def test_tampering_is_mended_or_left_and_no_other_tenant_notices(launch: Launch, toml: str) -> None:
    """Environments that have changed their own network, and an operator's address in the VPC."""
    lab = launch(environments=7, toml=toml)

    def ip(where: str, *arguments: str) -> None:
        run(where, "ip", *arguments)

    with live_connection(lab, 7, 7007) as exchange_more:
        pid = forwarder_pid(lab)
        kill_controller(lab)
        ip(lab.environment(1), "link", "set", "eth0", "mtu", "1400")
        ip(lab.environment(2), "address", "add", "192.0.2.2/32", "dev", "eth0")
        ip(lab.environment(3), "address", "flush", "dev", "eth0")
        ip(lab.environment(4), "link", "set", "eth0", "down")
        ip(lab.environment(4), "link", "set", "eth0", "name", "lan", "up")
        ip(lab.environment(5), "link", "delete", "eth0")
        namespace.delete([lab.environment(6)])
        ip(lab.vpc, "address", "add", "10.0.1.99/32", "dev", "lo")
        ip(lab.vpc, "address", "delete", f"{WEB[0]}/32", "dev", "lo")
        lab.cli("up")
        exchange_more()
        assert forwarder_pid(lab) == pid
        assert lab.counters()["flows_ended_tcp_rst"] == 0
        # Whoever only added something, or lost what can be given back, is served.
        for number in (1, 2, 5, 6, 7):
            run(lab.environment(number), "ping", "-c", "1", "-W", "5", WEB[0])
        run(lab.environment(7), "ping", "-c", "1", "-W", "5", "10.0.1.99")
        log = (lab.runtime_directory / "controller.log").read_text()
        for number in (1, 2, 3, 4):
            assert f"environment {number} has changed its own network: left as it is" in log
        assert "environment 5 had lost its link: it has a new one" in log
        assert "environment 6 was missing: it is made anew" in log
        assert f"VPC customer had lost {WEB[0]}: added" in log
        kill_controller(lab)
        lab.cli("up")
        exchange_more()
        assert forwarder_pid(lab) == pid


def kinds_of(lab: Lab) -> list[str]:
    """Kinds of the lab's events, in their order."""
    return [row["kind"] for row in lab.rows("events")]


def test_a_forwarder_that_hangs_is_replaced(launch: Launch) -> None:
    lab = launch()
    with live_connection(lab, 1, 7007) as exchange_more:
        hung = forwarder_pid(lab)
        os.kill(hung, signal.SIGSTOP)

        def replaced() -> bool:
            return forwarder_pid(lab) not in (0, hung)

        # The status tells of it for a second: who looks too late finds its successor.
        told = wait_until(
            lambda: lab.status()["forwarder"].get("problem") or replaced(), "the status tells"
        )
        assert told is True or "no sign of life" in str(told)
        wait_until(replaced, "its successor")
        exchange_more()
        assert not Path(f"/proc/{hung}").exists()
        forwarder = lab.status()["forwarder"]
        assert (forwarder["hangs"], forwarder["restarts"], forwarder["up"]) == (1, 1, True)
        told_of = ["forwarder-hung", "forwarder-restarted"]
        wait_until(lambda: kinds_of(lab)[-2:] == told_of, lambda: f"events: {kinds_of(lab)}")
        assert lab.verify() == []


def test_a_forwarder_that_hangs_when_the_next_controller_comes_is_replaced(launch: Launch) -> None:
    lab = launch()
    with live_connection(lab, 1, 7007) as exchange_more:
        hung = forwarder_pid(lab)
        kill_controller(lab)
        os.kill(hung, signal.SIGSTOP)
        lab.cli("up")
        exchange_more()
        wait_until(lambda: not Path(f"/proc/{hung}").exists(), "its end")
        forwarder = lab.status()["forwarder"]
        assert (forwarder["hangs"], forwarder["restarts"], forwarder["up"]) == (1, 1, True)
        told_of = ["forwarder-hung", "forwarder-restarted"]
        wait_until(lambda: kinds_of(lab)[:2] == told_of, lambda: f"events: {kinds_of(lab)}")
        assert lab.verify() == []


def heartbeat(lab: Lab) -> float:
    """When the forwarder was last at work, CLOCK_MONOTONIC in seconds."""
    state = StateMap.open(lab.state_file)
    try:
        return state.heartbeat / 1000
    finally:
        state.close()


def test_a_controller_that_was_stopped_kills_no_healthy_forwarder(launch: Launch) -> None:
    """Both were, as when a machine is suspended: the forwarder gets its time to show life."""
    lab = launch()
    healthy = forwarder_pid(lab)
    with stopped(int(lab.status()["pid"])), stopped(healthy):
        noted = heartbeat(lab)
        wait_until(
            lambda: time.monotonic() - noted > HUNG_SECONDS + 1,
            "the time after which it would be hung",
        )
    wait_until(lambda: heartbeat(lab) > noted, "it is at work again")
    assert forwarder_pid(lab) == healthy
    assert lab.status()["forwarder"]["hangs"] == 0


def test_a_damaged_map_is_discarded_once(launch: Launch) -> None:
    lab = launch()
    run(lab.environment(1), "ping", "-c", "1", "-W", "5", WEB[0])
    killed = forwarder_pid(lab)
    with lab.state_file.open("r+b") as file:
        file.seek(60)
        file.write(b"\xff")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: forwarder_pid(lab) not in (0, killed), "its successor")
    run(lab.environment(1), "ping", "-c", "1", "-W", "5", WEB[0])
    [event] = [row for row in lab.rows("events") if row["kind"] == "state-map-discarded"]
    assert "damaged header" in event["message"]
    assert lab.status()["forwarder"]["restarts"] == 1
    assert lab.counters()["forwarder_starts"] == 1
    # What the API reads is the new map.
    assert [flow["protocol"] for flow in lab.rows("flows")] == ["icmp"]
    assert lab.status()["flows"]["icmp"] == 1


def start_up(lab: Lab) -> subprocess.Popen[bytes]:
    """`up` of many environments, on its way: its controller has begun to make them."""
    command = [str(COMMAND), "--lab", lab.name, "up", "-c", str(lab.config_file), "-n", "6000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: namespace.names(f"hp-{lab.name}-env-"), "the first environments")
    return process


def test_down_ends_an_up_that_is_on_its_way(launch: Launch) -> None:
    lab = launch(environments=1)
    lab.down()
    with start_up(lab) as starting:
        assert lab.cli("down").stdout == f"lab {lab.name} is down\n"
        assert namespace.names(f"hp-{lab.name}-") == []
        assert starting.stderr is not None
        assert b"stopped before it was ready" in starting.stderr.read()
        assert starting.wait(30) == 2
    assert not lab.runtime_directory.exists()


def test_down_ends_an_up_that_has_just_begun(launch: Launch) -> None:
    """Its controller loads its libraries, and has no lock yet."""
    lab = launch(environments=1)
    lab.down()
    command = [str(COMMAND), "--lab", lab.name, "up", "-c", str(lab.config_file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as up:
        begun = functools.partial(Process.controllers, lab.runtime_directory)
        (controller,) = wait_until(begun, "the controller's process")
        controller.signal(signal.SIGSTOP)
        controller.close()
        assert lab.cli("down").stdout == f"lab {lab.name} is down\n"
        assert up.stderr is not None
        assert b"stopped before it was ready" in up.stderr.read()
        assert up.wait(30) == 2
    assert not lab.runtime_directory.exists()


def test_an_up_whose_client_was_killed_does_not_come_up(launch: Launch) -> None:
    lab = launch(environments=1)
    lab.down()
    with start_up(lab) as starting:
        starting.kill()
    wait_until(lambda: not namespace.names(f"hp-{lab.name}-"), "the end of what was begun")
    wait_until(lambda: not lab.runtime_directory.exists(), "the end of the controller")
    assert not lab.state_file.exists()
