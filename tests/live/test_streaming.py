# SPDX-License-Identifier: Apache-2.0
"""`invoke FUNCTION -- CMD` passes on what the program writes, as it comes and all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns import processes
from tests.live.conftest import Launch
from tests.live.lab import COMMAND, Lab, wait_until
from tests.live.test_functions import invoke, started

pytestmark = [pytest.mark.live, pytest.mark.slow]

MEBIBYTES = 50
MEMORY_MAX_KIB = 16 << 10
"""What the controller may grow by while that many MiB go through it, or would."""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return started(launch_shared)


@contextlib.contextmanager
def invoking(lab: Lab, script: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, which runs a shell script in an environment of refund."""
    command = [str(COMMAND), "--lab", lab.name, "invoke", "refund", *options]
    with subprocess.Popen(
        [*command, "--", "/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def bounded(lab: Lab) -> Iterator[None]:
    """The controller never has much more memory meanwhile than before."""
    process = Path(f"/proc/{lab.status()['pid']}")

    def peak_kib() -> int:
        (line,) = (
            line
            for line in (process / "status").read_text(encoding="ascii").splitlines()
            if line.startswith("VmHWM:")
        )
        return int(line.split()[1])

    # proc(5): the peak begins anew with what there is now.
    (process / "clear_refs").write_text("5")
    before = peak_kib()
    yield
    assert peak_kib() - before < MEMORY_MAX_KIB


def busy(lab: Lab) -> list[str]:
    """The namespaces of environments that are in use."""
    return [row["namespace"] for row in lab.rows("environments") if row["state"] == "busy"]


def left(lab: Lab) -> int:
    """How many processes there still are in environments."""
    return processes.kill_all(*(row["namespace"] for row in lab.rows("environments")))


def test_the_first_line_is_there_while_the_program_runs(lab: Lab, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    with invoking(lab, f"echo first; read word < {go}; echo $word >&2; exit 3") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        go.write_text("second\n")
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (3, b"")
    assert errors.startswith(b"second\nhyperplane-nat: ")


def test_much_output_comes_through_whole(lab: Lab) -> None:
    invoke(lab, "refund", "/bin/true")
    with bounded(lab), invoking(lab, f"exec head -c {MEBIBYTES << 20} /dev/zero") as process:
        assert process.stdout is not None
        found = 0
        while piece := process.stdout.read(1 << 16):
            found += len(piece)
        assert process.wait(60) == 0
    assert found == MEBIBYTES << 20


def test_who_does_not_read_makes_the_program_wait_and_nobody_else(lab: Lab) -> None:
    invoke(lab, "refund", "/bin/true")
    with bounded(lab), invoking(lab, "exec cat /dev/zero", "--timeout", "5") as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\0"
        assert invoke(lab, "refund", "/bin/echo", "x")["status"] == 0
        wait_until(lambda: not busy(lab), "its timeout has ended the program")
        # What was in the pipes by then comes, and how it ended.
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 124
    assert b"timed out" in errors
    assert left(lab) == 0


@pytest.mark.parametrize("how", ["interrupt", "closed output", "kill"])
def test_who_leaves_ends_the_program(lab: Lab, how: str) -> None:
    with invoking(lab, "sleep 1000 & exec cat /dev/zero") as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\0"
        assert busy(lab)
        if how == "interrupt":
            process.send_signal(signal.SIGINT)
        elif how == "kill":
            process.kill()
        else:
            process.stdout.close()
        # Also while nobody has read what it had to write before it ends.
        wait_until(lambda: not busy(lab), "the environment is free again")
        assert left(lab) == 0
        if how == "interrupt":
            process.stdout.read()
        assert process.wait(60) == {"interrupt": 130, "kill": -9, "closed output": 2}[how]
