# SPDX-License-Identifier: Apache-2.0
"""The plugin with a lab: the example project, and what is left when the tests are killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from netns import namespace

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "examples" / "pytest"
SECONDS = 120
TEST = """
import sys, time

def test_it(hyperplane_lab):
    print("lab", hyperplane_lab.name, flush=True)
    time.sleep(600)
"""


def left_of(lab: str) -> list[object]:
    directories = Path(tempfile.gettempdir()).glob("hyperplane-pytest-*/lab")
    return [
        *namespace.names(f"hp-{lab}-"),
        *Path("/dev/shm").glob(f"*{lab}*"),
        *(path for path in directories if path.read_text() == lab),
    ]


def test_example(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--hyperplane-captures={tmp_path / 'captures'}"],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"lab (pt-\w+)", line) for line in process.stdout)))
        assert left_of(found[1])
        process.send_signal(number)
    deadline = time.monotonic() + SECONDS
    while left_of(found[1]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
