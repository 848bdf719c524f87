# SPDX-License-Identifier: Apache-2.0
"""Which part of the processors a session gets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hyperplane_nat.scheduling import AUTOGROUP

# What init started without a session of its own is in no autogroup: the file is there, and empty.
TELL = """
import os, signal, sys
from pathlib import Path
from hyperplane_nat.scheduling import AUTOGROUP, in_own_session, make_room, set_session_nice
def told():
    text = AUTOGROUP.read_text() if AUTOGROUP.exists() else ""
    return text.partition("nice ")[2].strip() or "none"
"""
EXPECTED = "15" if AUTOGROUP.exists() else "none"


def python(script: str, *, leader: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TELL + script],
        start_new_session=leader,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", TELL + script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


POLICY = "os.sched_getscheduler(0) == os.SCHED_IDLE"


def test_the_leader_of_a_session_speaks_for_it() -> None:
    assert python("make_room(15); print(os.nice(0), told())") == f"15 {EXPECTED}"


def test_with_a_session_s_part_its_processor_counts_as_idle() -> None:
    assert python(f"make_room(15); print({POLICY})") == str(AUTOGROUP.exists())


def test_without_one_it_keeps_the_policy_that_has_a_part() -> None:
    assert python(f"make_room(15); print({POLICY})", leader=False) == "False"


def test_who_leads_no_session_leaves_it_alone() -> None:
    script = "before = told(); make_room(15); print(os.nice(0), told() == before)"
    # The leader is the shell of whoever runs the tests.
    assert python(script, leader=False) == "15 True"


def test_a_higher_priority_needs_permission() -> None:
    script = """
os.setresuid(65534, 65534, 65534)
try:
    print(set_session_nice(-5))
except PermissionError:
    print("refused")
"""
    assert python(script) == ("refused" if AUTOGROUP.exists() else "False")


def test_without_autogroups_there_is_nothing_to_set() -> None:
    script = """
import hyperplane_nat.scheduling as scheduling
scheduling.AUTOGROUP = Path("/nonexistent/autogroup")
print(set_session_nice(15))
"""
    assert python(script) == "False"


def test_the_child_goes_on_in_a_session_of_its_own() -> None:
    script = """
in_own_session(sys.exit)
print(os.getsid(0) == os.getpid(), os.nice(0), told() in ("10", "none"))
"""
    assert python(script) == "True 10 True"


@pytest.mark.parametrize(
    ("ending", "status"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 137)]
)
def test_the_parent_leaves_as_the_child_does(ending: str, status: int) -> None:
    with started(f"in_own_session(sys.exit)\n{ending}") as process:
        assert process.wait(120) == status


WAITING = """
in_own_session(sys.exit)
signal.signal(signal.SIGINT, lambda *_: (print("interrupted", flush=True), sys.exit(3)))
signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), sys.exit(4)))
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize(
    ("number", "word", "status"),
    [(signal.SIGINT, "interrupted", 3), (signal.SIGTERM, "terminated", 4)],
)
def test_signals_are_passed_on(number: int, word: str, status: int) -> None:
    with started(WAITING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.stdout.readline() == f"{word}\n"
        assert process.wait(120) == status


def test_the_child_ends_with_a_killed_parent() -> None:
    with started(WAITING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == "terminated\n"
