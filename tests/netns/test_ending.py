# SPDX-License-Identifier: Apache-2.0
"""A process that ends at once leaves what it has printed, and threads that have work their time."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from netns.ending import leave\n{code}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("status", [0, 3])
def test_status_and_output(status: int) -> None:
    done = _run(f"import sys; print('out'); print('err', file=sys.stderr); leave({status})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "out\n", "err\n")


def test_nothing_is_taken_apart() -> None:
    assert _run("import atexit; atexit.register(print, 'late'); leave(0)").stdout == ""


def test_a_thread_with_work_is_waited_for() -> None:
    code = (
        "import threading, sys; go = threading.Event()\n"
        "threading.Thread(target=lambda: (go.wait(), print('done'))).start()\n"
        "threading.Timer(0.05, go.set).start()\n"
        "leave(4)"
    )
    done = _run(code)
    assert (done.returncode, done.stdout) == (4, "done\n")


def test_output_that_nobody_takes_keeps_no_process() -> None:
    full = "import sys; sys.stdout = open('/dev/full', 'w'); print('x'); leave(5)"
    assert _run(full).returncode == 5
    assert _run("import sys; sys.stdout.close(); leave(6)").returncode == 6
