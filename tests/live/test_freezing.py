# SPDX-License-Identifier: Apache-2.0
"""Environments that stand still between invocations, and what is left of handlers that run away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns import topology
from netns.cgroups import ROOT, Mounts, group_of
from tests.live.conftest import Launch
from tests.live.lab import Lab, difference, receive, tcp_socket, udp_socket, wait_until
from tests.live.test_handlers import error, invoke

pytestmark = [pytest.mark.live, pytest.mark.slow]

SERVER = ("10.0.1.80", 5432)

HANDLER = """
import ctypes, os, socket, sys, threading, time
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.001)

threading.Thread(target=tick, daemon=True).start()
pool = None

def leave(*steps):
    if os.fork() == 0:
        for step in steps:
            step()
        time.sleep(600)
        os._exit(0)

def setsid():
    os.setsid()

def fork():
    if os.fork():
        os._exit(0)

def unshare():
    # A user namespace gives the privilege for the other.
    assert ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0

def handler(event, context):
    global pool
    match event.get("do"):
        case "connect":
            pool = socket.create_connection(("10.0.1.80", 5432), timeout=15)
            pool.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            pool.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
            pool.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        case "ask":
            try:
                pool.sendall(b"ping")
                return pool.recv(4).decode()
            except OSError as error:
                return type(error).__name__
        case "escape":
            leave(setsid, fork)
            leave(unshare)
            leave(setsid, fork, unshare)
            time.sleep(600)
        case "forks":
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
        case "bomb":
            try:
                while os.fork():
                    pass
            except OSError:
                sys.stdout.flush()
                os._exit(7)
            time.sleep(600)
        case "hog":
            kept = []
            while True:
                kept.append(b"x" * (1 << 20))
    return {"ticks": ticks, "pid": os.getpid()}
"""
TOML = """
[lifecycle]
time_scale = 100
warm_idle_seconds = 60000

[pool]
size = 4

[timeouts]
time_scale = 35

[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"

[[vpc.subnet]]
name = "a"
cidr = "10.0.1.0/24"

[[vpc.security_group]]
name = "functions"

[[vpc.service]]
name = "web"
kind = "http"
address = "10.0.1.80"
port = 80

"""
FUNCTION = """
[[function]]
name = "{name}"
subnets = ["a"]
security_groups = ["functions"]
code = "{code}"
handler = "app.handler"
memory_mb = 1024
timeout_seconds = {seconds}
"""
OTHERS = """
[[function]]
name = "small"
networking = "none"
code = "{code}"
handler = "app.handler"
timeout_seconds = 50

[[function]]
name = "large"
networking = "none"
code = "{code}"
handler = "app.handler"
memory_mb = 2048
timeout_seconds = 50

[[function]]
name = "awake"
networking = "none"
code = "{code}"
handler = "app.handler"
freeze = false
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return started(launch_shared, tmp_path_factory.mktemp("code"))


def started(launch: Launch, directory: Path) -> Lab:
    directory.chmod(0o755)
    (directory / "app.py").write_text(HANDLER, encoding="utf-8")
    (directory / "app.py").chmod(0o644)
    functions = [
        FUNCTION.format(name=name, seconds=seconds, code=directory)
        for name, seconds in (("orders", 20), ("brief", 1))
    ]
    text = "".join([TOML, *functions, OTHERS.format(code=directory)])
    lab = launch(environments=0, toml=text)
    lab.cli("wait")
    return lab


def number_of(answer: dict[str, Any]) -> int:
    """The environment that has answered."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return int(headers["x-hyperplane-environment"].removeprefix("env-"))


def frozen(lab: Lab, number: int) -> bool:
    group = group_of(lab.name, topology.environment_namespace(lab.name, number))
    assert group.freezes
    unified = Mounts.find().unified
    assert unified is not None
    name = topology.environment_namespace(lab.name, number)
    events = unified / ROOT / lab.name / name / "cgroup.events"
    return "frozen 1" in events.read_text()


def stands_still(lab: Lab, answer: dict[str, Any]) -> int:
    """The environment that has answered, once it does."""
    number = number_of(answer)
    wait_until(lambda: frozen(lab, number), "the environment stands still")
    return number


@contextlib.contextmanager
def connected(lab: Lab) -> Iterator[tuple[socket.socket, int]]:
    """The server's end of a connection that a handler keeps, which stands still."""
    with tcp_socket(lab.vpc) as listener:
        listener.bind(SERVER)
        listener.listen()
        number = stands_still(lab, invoke(lab, do="connect"))
        connection, _peer = listener.accept()
        with connection:
            connection.settimeout(30)
            # It ends with a reset: nothing is repeated in the next test, whose drops are counted.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            yield connection, number


def asked(lab: Lab, connection: socket.socket) -> Any:
    """What the handler's own question is answered with."""
    connection.sendall(b"pong")
    answer = invoke(lab, do="ask")
    return answer["payload"]


def in_groups(lab: Lab) -> list[str]:
    """Which of the lab's control groups are there."""
    unified = Mounts.find().unified
    assert unified is not None
    try:
        return sorted(each.name for each in (unified / ROOT / lab.name).iterdir() if each.is_dir())
    except FileNotFoundError:
        return []


def test_processes_stand_still_between_invocations(lab: Lab) -> None:
    first = invoke(lab)
    stands_still(lab, first)
    time.sleep(2)
    second = invoke(lab)
    assert second["payload"]["pid"] == first["payload"]["pid"]
    # It would have been more than a thousand; some come before it is frozen and when it is not.
    assert second["payload"]["ticks"] - first["payload"]["ticks"] < 400


def test_a_function_that_is_not_frozen(lab: Lab) -> None:
    before = invoke(lab, "awake")
    wait_until(
        lambda: invoke(lab, "awake")["payload"]["ticks"] > before["payload"]["ticks"] + 200,
        "it goes on",
    )
    assert not frozen(lab, number_of(before))


def test_its_link_is_silent_meanwhile(lab: Lab) -> None:
    with connected(lab) as (connection, _number):
        before = lab.drops()
        # The server's segment and its repetitions, and the environment's keep-alives.
        connection.sendall(b"pong")
        wait_until(
            lambda: difference(before, lab.drops()).get("environment_frozen", 0) >= 4,
            lambda: f"only {difference(before, lab.drops())}",
        )
        assert difference(before, lab.drops()).keys() == {"environment_frozen"}
        # Not for long enough: all of it is repeated.
        assert invoke(lab, do="ask")["payload"] == "pong"
        assert receive(connection, 4) == b"ping"


def test_a_pool_is_dead_after_longer_than_the_idle_time(lab: Lab) -> None:
    with connected(lab):
        before = lab.counters()["drop_tcp_idle_timeout"]
        wait_until(
            lambda: not [row for row in lab.rows("flows") if row["state"] == "ESTABLISHED"],
            "the flow ends",
        )
        assert invoke(lab, do="ask")["payload"] in ("ConnectionResetError", "BrokenPipeError")
        assert lab.counters()["drop_tcp_idle_timeout"] > before


def test_it_is_silent_for_the_next_forwarder_and_controller_too(lab: Lab) -> None:
    number = stands_still(lab, invoke(lab))
    pid = lab.status()["pid"]
    os.kill(lab.status()["forwarder"]["pid"], signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the controller is gone")
    lab.up()
    assert frozen(lab, number)
    before = lab.drops()
    with udp_socket(lab.environment(number)) as sender:

        def dropped() -> bool:
            sender.sendto(b"anything", ("10.0.1.80", 7))
            return difference(before, lab.drops()).get("environment_frozen", 0) >= 2

        wait_until(dropped, lambda: f"only {difference(before, lab.drops())}")
    assert difference(before, lab.drops()).keys() == {"environment_frozen"}
    assert number_of(invoke(lab)) == number


def test_a_program_is_not_run_in_a_silence(lab: Lab) -> None:
    number = stands_still(lab, invoke(lab))
    url = "http://10.0.1.80/file"
    done = lab.cli("invoke", "orders", "--", "curl", "-sS", "-o", "/dev/null", "-m", "5", url)
    assert f"warm start in env-{number}" in done.stderr
    wait_until(lambda: frozen(lab, number), "it stands still again")


def test_exec_goes_on_for_its_time(lab: Lab) -> None:
    number = stands_still(lab, invoke(lab))
    url = "http://10.0.1.80/file"
    lab.cli("exec", str(number), "--", "curl", "-sS", "-o", "/dev/null", "-m", "5", url)
    wait_until(lambda: frozen(lab, number), "it stands still again")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("do", ["escape", "forks"])
def test_a_timeout_leaves_nothing(lab: Lab, do: str, rounds: int) -> None:
    for _ in range(rounds):
        answer = invoke(lab, "brief", do=do)
        assert error(answer)[0] == "Sandbox.Timedout"
        assert topology.environment_namespace(lab.name, number_of(answer)) not in in_groups(lab)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and is_stray(pid)]
    assert "ticks" in invoke(lab, "brief")["payload"]


def is_stray(pid: str) -> bool:
    """Whether a process has the code of a function, and is in no lab's groups."""
    try:
        directory = os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
    return directory == "/var/task" and f"/{ROOT}/" not in groups


@pytest.mark.parametrize(
    ("name", "do", "kind", "text"),
    [
        ("small", "hog", "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"),
        ("large", "bomb", "Runtime.ExitError", "Runtime exited with error: exit status 7"),
    ],
)
def test_limits(lab: Lab, name: str, do: str, kind: str, text: str) -> None:
    before = invoke(lab, name)
    told = error(invoke(lab, name, do=do))
    assert (told[0], text in told[1]) == (kind, True), told
    after = invoke(lab, name)
    assert number_of(after) != number_of(before)


def test_nothing_is_left(launch: Launch, tmp_path: Path) -> None:
    lab = started(launch, tmp_path)
    stands_still(lab, invoke(lab))
    assert in_groups(lab)
    status = lab.status()
    for pid in (status["pid"], service_pid(lab)):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "it is gone")  # type: ignore[misc]
    lab.down()
    assert in_groups(lab) == []
    left = [path for path in Mounts.find().legacy.values() if (path / ROOT / lab.name).exists()]
    assert left == []


def service_pid(lab: Lab) -> int:
    return int((lab.runtime_directory / "service-Lambda.runtime.pid").read_text().split()[0])
