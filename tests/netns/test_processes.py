# SPDX-License-Identifier: Apache-2.0
"""Whoever is inside a namespace is found and killed, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netns import namespace, processes
from netns.processes import Moment

pytestmark = pytest.mark.races

# Each process ends as soon as its child runs; the last one stays. No more than that, because it is
# for the host's init to bury them.
MOVER = """
import os, sys, time
os.setsid()
sys.stdout.write("go\\n"); sys.stdout.flush()
for _ in range(200):
    if os.fork():
        os._exit(0)
time.sleep(1000)
"""
# Its first thread ends, the other goes on.
HEADLESS = """
import ctypes, platform, sys, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
sys.stdout.write("go\\n"); sys.stdout.flush()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""


@pytest.fixture
def room(lab_name: str) -> Iterator[str]:
    """A namespace; whatever runs in it at the end is killed."""
    namespace.create([lab_name], lambda _name: None)
    yield lab_name
    processes.kill_all(lab_name)
    namespace.delete([lab_name])


def start(name: str, *command: str) -> subprocess.Popen[str]:
    """A program in the namespace that has written its first line."""
    child = namespace.call(
        name, lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "go\n"
    return child


def inside(name: str) -> list[int]:
    """The processes of a namespace, zombies left out."""
    with namespace.opened(name) as descriptor:
        wanted = [processes.identity(descriptor)]
        return [pid for pid in processes._in_use() if processes._is_inside(pid, wanted)]


def finish(child: subprocess.Popen[str]) -> int:
    status = child.wait(60)
    assert child.stdout is not None
    child.stdout.close()
    return status


@pytest.mark.live
def test_whoever_is_inside_is_killed_and_nobody_else(room: str, lab_name: str) -> None:
    other = f"{lab_name}-2"
    namespace.create([other], lambda _name: None)
    shell = "setsid sleep 1000 >/dev/null & sleep 1000 & echo go; exec sleep 1000"
    try:
        first, second = start(room, "sh", "-c", shell), start(other, "sh", "-c", shell)
        assert processes.kill_all(room) == 3
        assert inside(room) == []
        assert len(inside(other)) == 3
        assert finish(first) == -9
        assert processes.kill_all(room, other) == 3
        assert finish(second) == -9
        assert processes.kill_all(room, other) == 0
    finally:
        namespace.delete([other])


@pytest.mark.live
def test_a_process_whose_first_thread_has_ended(room: str) -> None:
    child = start(room, sys.executable, "-c", HEADLESS)
    until = time.monotonic() + 60
    while Path(f"/proc/{child.pid}/status").read_text().split("State:\t")[1][0] != "Z":
        assert time.monotonic() < until
    assert child.poll() is None
    assert processes.kill_all(room) == 1
    assert finish(child) == -9


@pytest.mark.live
@pytest.mark.parametrize("gone", [FileNotFoundError, ProcessLookupError, PermissionError])
def test_a_process_that_goes_while_it_is_looked_at_is_nowhere(
    room: str, monkeypatch: pytest.MonkeyPatch, gone: type[OSError]
) -> None:
    """Linux says EACCES of a thread that is gone since its directory was opened."""
    child = start(room, "sh", "-c", "echo go; exec sleep 1000")
    assert inside(room) == [child.pid]

    def readlink(path: str) -> str:
        raise gone if "/task/" in path else FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", readlink)
        assert inside(room) == []
    assert processes.kill_all(room) == 1
    assert finish(child) == -9


@pytest.mark.live
def test_a_process_that_moves_by_forking(room: str) -> None:
    child = start(room, sys.executable, "-c", MOVER)
    processes.kill_all(room)
    assert inside(room) == []
    finish(child)


@pytest.mark.live
def test_a_namespace_that_is_not_there_has_no_processes(lab_name: str) -> None:
    assert processes.kill_all(lab_name) == 0
    namespace.path(lab_name).touch()
    try:
        assert processes.kill_all(lab_name) == 0
    finally:
        namespace.delete([lab_name])


@pytest.mark.live
def test_the_caller_is_spared(room: str) -> None:
    code = (
        "import sys; from netns import namespace, processes\n"
        "namespace.enter(sys.argv[1])\n"
        "print('go', flush=True)\n"
        "sys.exit(7 + processes.kill_all(sys.argv[1]))\n"
    )
    assert finish(start(room, sys.executable, "-c", code, room)) == 7


# From the shortest look to the longest: by number, by list, by list after the numbers started
# again from the bottom, at everything.
MOMENTS: dict[str, Callable[[Moment], Moment]] = {
    "a few numbers ago": lambda moment: moment,
    "many numbers ago": lambda moment: replace(moment, last=max(1, moment.last - 1000)),
    "before the numbers began again": lambda moment: replace(moment, last=1 << 22),
    "long ago": lambda moment: replace(moment, seconds=moment.seconds - 1e6),
}


@pytest.mark.live
@pytest.mark.parametrize("ago", MOMENTS)
def test_only_what_started_since_is_killed(room: str, ago: str) -> None:
    shell = start(room, "sh", "-c", "echo go; exec sleep 1000")
    # A start time is counted in hundredths of a second.
    while (moment := processes.now()).ticks <= processes.start_time(shell.pid):
        pass
    young = start(room, "sh", "-c", "setsid sleep 1000 >/dev/null & echo go; exec sleep 1000")
    with namespace.opened(room) as descriptor:
        wanted = [processes.identity(descriptor)]
        assert processes.kill(wanted, MOMENTS[ago](moment)) == 2
        assert inside(room) == [shell.pid]
        assert processes.kill(wanted, MOMENTS[ago](moment)) == 0
    assert finish(young) == -9
    assert processes.kill_all(room) == 1
    assert finish(shell) == -9


def test_start_times_are_in_order() -> None:
    before = processes.now().ticks
    child = subprocess.Popen(["sleep", "1000"])
    try:
        assert before <= processes.start_time(child.pid) <= processes.now().ticks
        assert processes.start_time(os.getpid()) <= processes.start_time(child.pid)
    finally:
        child.kill()
        child.wait()
