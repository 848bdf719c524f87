# SPDX-License-Identifier: Apache-2.0
"""Processes are started, adopted, described and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.controller import logs
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.processes import (
    MARK,
    Process,
    end,
    resident_bytes,
    terminate,
)
from hyperplane_nat.io.handover import Handover
from tests.controller.support import DEADLINE_SECONDS, gone, run

pytestmark = pytest.mark.races

SLEEP = (sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); "
    "[signal.pause() for _ in range(99)]",
)


def spawn(directory: Path, command: tuple[str, ...] = SLEEP, *, held: bool = False) -> Process:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True, exist_ok=True)
    process = Process.spawn(
        command,
        command[-1] if " " not in command[-1] else command[1],
        directory=lab,
        pid_file=lab / "x.pid",
        log=lab / "x.log",
        held=held,
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not process.output() and process.alive:
        assert time.monotonic() < deadline
    return process


def test_adopted_by_pid_file(directory: Path) -> None:
    lab = directory / "run" / "test"
    process = spawn(directory)
    adopted = Process.adopt(lab / "x.pid", lab)
    assert adopted is not None
    assert adopted.pid == process.pid
    assert adopted.adopted
    assert resident_bytes(adopted.pid) > 1 << 20
    adopted.close()
    assert terminate([process]) == []
    assert Process.adopt(lab / "x.pid", lab) is None


def test_what_is_being_killed_is_waited_for_and_not_adopted(directory: Path) -> None:
    """SIGKILL takes the kernel a while: until then everything still looks alive."""
    lab = directory / "run" / "test"
    much = "x = bytearray(150 << 20); x[::4096] = bytes(len(x[::4096])); print('ready', flush=True)"
    for _ in range(5):
        process = spawn(directory, (sys.executable, "-c", f"import signal; {much}; signal.pause()"))
        process.signal(signal.SIGKILL)
        assert Process.adopt(lab / "x.pid", lab) is None
        assert gone(process.pid)
        terminate([process])


def test_the_command_line(directory: Path) -> None:
    lab = directory / "run" / "test"
    process = spawn(directory)
    adopted = Process.adopt(lab / "x.pid", lab)
    assert adopted is not None
    assert adopted.command == list(SLEEP)
    adopted.close()
    terminate([process])
    assert process.command == []


@pytest.mark.parametrize("text", ["", "1", "garbage here now", "{pid} 1 -c", "{pid} {ticks} other"])
def test_pid_file_that_is_not_believed(directory: Path, text: str) -> None:
    lab = directory / "run" / "test"
    process = spawn(directory)
    _, ticks, _ = (lab / "x.pid").read_text().split()
    (lab / "x.pid").write_text(text.format(pid=process.pid, ticks=ticks))
    assert Process.adopt(lab / "x.pid", lab) is None
    terminate([process])


def test_process_of_another_lab_is_not_believed(directory: Path) -> None:
    lab = directory / "run" / "test"
    process = spawn(directory)
    assert Process.adopt(lab / "x.pid", directory / "run" / "other") is None
    assert Process.strays(directory / "run" / "other") == []
    terminate([process])


def test_a_stranger_with_the_right_pid_file_survives(directory: Path) -> None:
    lab = directory / "run" / "test"
    process = spawn(directory)
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
    assert stranger.stdout is not None
    stranger.stdout.readline()
    ticks = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19]
    (lab / "x.pid").write_text(f"{stranger.pid} {ticks} -c\n")
    # Everything agrees but the mark.
    assert Process.adopt(lab / "x.pid", lab) is None
    strays = Process.strays(lab)
    assert [each.pid for each in strays] == [process.pid]
    terminate(strays)
    assert stranger.poll() is None
    stranger.kill()
    stranger.communicate()
    process.close()


def test_terminate_kills_what_does_not_listen(directory: Path) -> None:
    process = spawn(directory, STUBBORN)
    begun = time.monotonic()
    assert terminate([process], 0.2) == []
    assert 0.2 <= time.monotonic() - begun < 5
    assert gone(process.pid)


def test_exit_is_seen_by_all_who_wait(directory: Path) -> None:
    async def work() -> None:
        process = spawn(directory)
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert process.alive
        process.signal(signal.SIGKILL)
        await asyncio.gather(*waiting)
        await process.wait()
        assert gone(process.pid)
        assert process.describe_exit() == "was killed by SIGKILL"
        process.close()

    run(work())


class OneThreadLoop(asyncio.SelectorEventLoop):
    """Refuses what asyncio does not allow and does not check: watching from another thread."""

    owner = 0

    def remove_reader(self, fd: Any) -> bool:
        assert threading.get_ident() == self.owner
        return super().remove_reader(fd)


def test_what_is_watched_ends_without_a_thread_in_the_loop(directory: Path) -> None:
    async def work() -> None:
        process, left = spawn(directory), spawn(directory)
        waiting = [asyncio.create_task(each.wait()) for each in (process, left)]
        waiting[1].cancel()
        await asyncio.wait(waiting, timeout=0.01)
        assert await end([process, left]) == []
        assert gone(process.pid)
        assert gone(left.pid)
        with contextlib.suppress(asyncio.CancelledError):
            await waiting[0]
        assert waiting[0].cancelled()

    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        OneThreadLoop.owner = threading.get_ident()
        runner.run(work())


def test_held_process_goes_or_ends_with_its_controller(directory: Path) -> None:
    script = """
import os, socket, sys
from hyperplane_nat.io.handover import Handover
print("ready", flush=True)
given = Handover.receive(socket.socket(fileno=sys.stdin.fileno()))
print(given and os.read(given.state_map, 9))
"""
    echo = (sys.executable, "-c", script)
    first, second = spawn(directory, echo, held=True), spawn(directory, echo, held=True)
    given = [os.memfd_create("given") for _ in range(4)]
    os.pwrite(given[1], b"a map", 0)
    first.go(Handover(*given))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given[1])
    terminate_quietly(first)
    assert first.output()[-1] == "b'a map'"
    second.close()
    third = spawn(directory, echo, held=True)
    third.signal(signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while third.alive:
        assert time.monotonic() < deadline
    third.go(Handover(*(os.memfd_create("given") for _ in range(4))))
    third.close()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not gone(second.pid):
        assert time.monotonic() < deadline


def terminate_quietly(process: Process) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while process.alive:
        assert time.monotonic() < deadline
    process.close()


def test_last_words_skip_events_and_former_lives(directory: Path) -> None:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True)
    (lab / "x.log").write_text("old\n")
    script = "print('ready'); print('no such map (remove it)'); print('{}'); exit(2)"
    process = spawn(directory, (sys.executable, "-c", script))
    terminate_quietly(process)
    assert process.last_words() == "no such map (remove it)"
    assert process.describe_exit() == "exited with status 2"


def test_program_that_is_not_there(directory: Path) -> None:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True)
    with pytest.raises(ControllerError, match="No such file"):
        Process.spawn(
            ["/nonexistent/program"],
            "program",
            directory=lab,
            pid_file=lab / "x.pid",
            log=lab / "x.log",
            held=True,
        )
    process = spawn(directory, ("/nonexistent/program", "program"))
    asyncio.run(process.wait())
    assert process.describe_exit() == "exited with status 127"
    assert "/nonexistent/program" in process.last_words()


@pytest.mark.usefixtures("collected")
def test_no_descriptor_is_left(directory: Path) -> None:
    terminate([spawn(directory)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        terminate([spawn(directory, held=True)])
        for stray in Process.strays(directory / "run" / "test"):
            stray.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_nothing_is_inherited_from_a_shell_or_a_service_manager(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nowhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "leaked")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    process = spawn(directory)
    environment = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
    assert f"{MARK}={directory}/run/test" in environment
    assert "LC_ALL=C.UTF-8" in environment
    assert not [line for line in environment if line.startswith(("NOTIFY_", "AWS_", "HOME="))]
    terminate([process])


KILLED = """
import os, pathlib, signal, sys
from hyperplane_nat.controller.processes import Process
lab = pathlib.Path(sys.argv[1])
Process.note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Process.spawn(["/bin/sh", "-c", "touch begun"], "-c",
    directory=lab, pid_file=lab / "x.pid", log=lab / "x.log")
"""


def test_what_nobody_could_find_again_does_not_begin(directory: Path) -> None:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True)
    killed = KILLED.replace("touch begun", f"touch {lab}/begun")
    command = [sys.executable, "-c", killed, str(lab)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    deadline = time.monotonic() + DEADLINE_SECONDS
    while found := Process.strays(lab):
        assert time.monotonic() < deadline
        for process in found:
            process.close()
    assert not (lab / "begun").exists()


def test_the_host_s_certificates_are_not_read(directory: Path) -> None:
    code = (
        "import ssl, signal; print(ssl.create_default_context().cert_store_stats(), flush=True); "
        "signal.pause()"
    )
    process = spawn(directory, (sys.executable, "-c", code))
    output = process.output()
    terminate([process])
    assert output == ["{'x509': 0, 'crl': 0, 'x509_ca': 0}"]


def test_pid_file_that_cannot_be_written(directory: Path) -> None:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True)
    with pytest.raises(ControllerError, match="cannot write"):
        Process.spawn(
            SLEEP,
            "-c",
            directory=lab,
            pid_file=lab / "missing" / "x.pid",
            log=lab / "x.log",
        )
    assert Process.strays(lab) == []


def test_its_last_words_are_found_in_a_log_that_was_emptied(directory: Path) -> None:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True)
    (lab / "x.log").write_text("of one before\n" * 100)
    script = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit('no room')); "
        "print('ready', flush=True); signal.pause()"
    )
    process = spawn(directory, (sys.executable, "-c", script))
    assert process.output() == ["ready"]
    assert logs.bound(lab / "x.log", bytes_max=100)
    assert process.output() == []
    # It is to end by itself, however late it comes to that.
    terminate([process], DEADLINE_SECONDS)
    assert process.last_words() == "no room"


def test_a_log_that_is_full_is_emptied_before_a_process_begins(directory: Path) -> None:
    lab = directory / "run" / "test"
    lab.mkdir(parents=True)
    (lab / "x.log").write_bytes(bytes(logs.BYTES_MAX + 1))
    process = spawn(directory)
    assert process.output() == ["ready"]
    assert (lab / "x.log").stat().st_size < 100
    terminate([process])
