# SPDX-License-Identifier: Apache-2.0
"""Servers that are forked are like those that are started by themselves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network.services import ServiceSpec, ServiceSupervisor
from hyperplane_nat.controller.nursery import Nursery, bears
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import Process, start_ticks, terminate
from tests.conftest import free_port
from tests.controller.support import DEADLINE_SECONDS, gone, run

pytestmark = pytest.mark.races

WORD = "netns.services"


def server(port: int, kind: str = "http") -> tuple[str, ...]:
    where = ("--address", "127.0.0.1", "--port", str(port))
    return (sys.executable, "-P", "-m", WORD, kind, *where)


@pytest.fixture
def lab(directory: Path) -> Path:
    made = directory / "run" / "test"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def nursery(lab: Path) -> Iterator[Nursery]:
    with closing(Nursery(lab, [server(65535, "udp-echo")])) as made:
        yield made


def forked(nursery: Nursery, lab: Path, command: tuple[str, ...], name: str = "x") -> Process:
    process = nursery.spawn(command, WORD, pid_file=lab / f"{name}.pid", log=lab / f"{name}.log")
    assert process is not None
    return process


def until_ready(process: Process) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while "ready" not in process.output():
        assert process.alive, process.output()
        assert time.monotonic() < deadline


def test_it_serves_and_outlives_the_nursery(nursery: Nursery, lab: Path) -> None:
    ports = [free_port(), free_port()]
    processes = [forked(nursery, lab, server(port), str(port)) for port in ports]
    nursery.close()
    try:
        for process, port in zip(processes, ports, strict=True):
            until_ready(process)
            assert process.alive
            with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as client:
                client.sendall(b"GET /file?bytes=3 HTTP/1.0\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.0 200")
    finally:
        assert terminate(processes) == []
    assert all(gone(process.pid) for process in processes)


def test_it_is_recognised_like_one_that_was_started_by_itself(nursery: Nursery, lab: Path) -> None:
    # The former one's words are longer, and none of them is left.
    other = forked(nursery, lab, server(free_port(), "udp-echo"), "other")
    command = server(free_port())
    process = forked(nursery, lab, command)
    try:
        until_ready(process)
        assert process.command == list(command)
        assert (lab / "x.pid").read_text().split() == [
            str(process.pid),
            str(start_ticks(process.pid)),
            WORD,
        ]
        adopted = Process.adopt(lab / "x.pid", lab)
        assert adopted is not None
        assert adopted.command == list(command)
        adopted.close()
        found = Process.strays(lab)
        assert {process.pid, other.pid} <= {each.pid for each in found}
        for each in found:
            each.close()
        assert os.getsid(process.pid) == process.pid
        assert Path(f"/proc/{process.pid}/fd/0").readlink() == Path(os.devnull)
        files = {each.readlink() for each in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert lab / "other.log" not in files
    finally:
        terminate([process, other])


def test_one_that_cannot_serve_says_why_and_ends(nursery: Nursery, lab: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = forked(nursery, lab, server(port))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while process.alive:
            assert time.monotonic() < deadline
        assert f"cannot serve http on 127.0.0.1:{port}" in process.last_words()
        process.close()
        # The next one does not mind.
        other = forked(nursery, lab, server(free_port()), "other")
        until_ready(other)
        terminate([other])


def test_what_it_cannot_do_is_left_to_others(nursery: Nursery, lab: Path) -> None:
    long = (*server(free_port()), "--size-bytes", "0" * 200)
    assert nursery.spawn(long, WORD, pid_file=lab / "x.pid", log=lab / "x.log") is None
    nursery._process.send_signal(signal.SIGKILL)
    nursery._process.wait()
    short = server(free_port())
    assert nursery.spawn(short, WORD, pid_file=lab / "x.pid", log=lab / "x.log") is None
    assert not (lab / "x.pid").exists()


def test_one_of_whom_nobody_has_a_note_ends(
    nursery: Nursery, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller was killed before the pid file was written: no other would find the server."""

    def killed(process: Process, _pid_file: Path, _word: str) -> None:
        pids.append(process.pid)
        raise KeyboardInterrupt

    pids: list[int] = []
    monkeypatch.setattr(Process, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        forked(nursery, lab, server(free_port()))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while start_ticks(pids[0]) is not None:
        assert time.monotonic() < deadline


def test_what_was_asked_for_by_a_dead_controller_ends(lab: Path) -> None:
    """The request is read when everything is loaded, and whoever sent it may be gone by then."""
    command = server(free_port())
    made = Nursery(lab, [command])
    with (lab / "x.log").open("ab") as output:
        socket.send_fds(made._socket, [json.dumps(command).encode()], [output.fileno()])
    made._socket.close()
    try:
        assert made._process.wait(DEADLINE_SECONDS) == 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        while left := Process.strays(lab):
            for each in left:
                each.close()
            assert time.monotonic() < deadline
        assert (lab / "x.log").read_text() == ""
    finally:
        made.close()


def test_a_late_answer_is_not_taken_for_another_ones(
    nursery: Nursery, lab: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nursery._process.send_signal(signal.SIGSTOP)
    nursery._socket.settimeout(0.01)
    late, next_one = server(free_port()), server(free_port())
    assert nursery.spawn(late, WORD, pid_file=lab / "x.pid", log=lab / "x.log") is None
    nursery._process.send_signal(signal.SIGCONT)
    assert nursery.spawn(next_one, WORD, pid_file=lab / "y.pid", log=lab / "y.log") is None
    nursery._process.wait(DEADLINE_SECONDS)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left := Process.strays(lab):
        for each in left:
            each.close()
        assert time.monotonic() < deadline
    assert not list(lab.glob("*.pid"))
    (record,) = caplog.records
    assert "their nursery does not answer: timed out" in record.getMessage()


@pytest.mark.parametrize(
    ("command", "borne"),
    [
        (server(1), True),
        ((sys.executable, "-P", "-m", "hyperplane_nat.resolver", "--uid", "1"), True),
        ((sys.executable, "-P", "-m", "hyperplane_nat.flow_logs"), False),
        ((sys.executable, "-P", "tests/fake_service.py", "netns.services"), False),
        ((sys.executable,), False),
    ],
)
def test_whose_processes_are_forked(command: tuple[str, ...], borne: bool) -> None:
    assert bears(command) == borne


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def spec(name: str, port: int) -> ServiceSpec:
    return ServiceSpec("vpc", name, server(port), WORD)


def test_services_that_begin_together_are_forked(directory: Path) -> None:
    paths = LabPaths.of("test", str(directory / "run"), str(directory))
    paths.directory.mkdir(parents=True)
    specs = [spec(name, free_port()) for name in ("a", "b", "c")]

    async def work() -> None:
        services = ServiceSupervisor(paths, [])
        services.prepare(specs)
        await services.follow(specs)
        assert {label: up for label, (up, _) in services.states().items()} == {
            "vpc/a": True,
            "vpc/b": True,
            "vpc/c": True,
        }
        assert os.getpid() not in {parent(pid) for pid in services.pids().values()}
        processes = await services.stop()
        assert terminate(processes, 5.0) == []

    run(work())
    left = Process.strays(paths.directory)
    assert left == []


def test_one_that_cannot_start_is_told_of_as_ever(directory: Path) -> None:
    paths = LabPaths.of("test", str(directory / "run"), str(directory))
    paths.directory.mkdir(parents=True)

    said = []

    async def work(port: int) -> None:
        specs = [spec("a", free_port()), spec("b", port)]
        services = ServiceSupervisor(paths, [])
        services.prepare(specs)
        try:
            with pytest.raises(ExceptionGroup) as failure:
                await services.follow(specs)
        finally:
            await asyncio.to_thread(terminate, await services.stop())
        (error,) = failure.value.exceptions
        assert isinstance(error, ControllerError)
        said.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run(work(port))
    (text,) = said
    assert text.startswith("service vpc/b exited with status 2: ")
    assert f"cannot serve http on 127.0.0.1:{port}" in text
    assert Process.strays(paths.directory) == []
