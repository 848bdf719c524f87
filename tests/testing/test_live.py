# SPDX-License-Identifier: Apache-2.0
"""The plugin with a lab: the example project, and what is left when the tests are killed."""

from __future__ import annotations

import os
import re
import shutil
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
SECONDS = 240
TEST = """
import sys, time

def test_it(hyperplane_lab):
    print("lab", hyperplane_lab.name, flush=True)
    time.sleep(600)
"""

PROJECT = {
    "shop.py": """
def checkout(event, context):
    if event == "break":
        raise RuntimeError("broken")
    return {"function": context.function_name, "item": event["item"]}
""",
    "conftest.py": """
import pytest, shop
from hyperplane_nat.testing import Lab

@pytest.fixture(scope="session")
def hyperplane_config():
    return (
        Lab().vpc("10.0.0.0/16").subnet("10.0.1.0/24").security_group("app")
        .function("checkout", handler=shop.checkout)
    )
""",
    "test_shop.py": """
import pytest

def test_handler(hyperplane_lab):
    answer = hyperplane_lab.handle("checkout", {"item": 7})
    assert answer == {"function": "checkout", "item": 7}
    with pytest.raises(Exception, match="broken"):
        hyperplane_lab.handle("checkout", "break")

def test_it_ages(hyperplane_lab):
    def state():
        return hyperplane_lab.client.get("/v1/functions")[0]["State"]

    hyperplane_lab.advance(13 * 86400)
    assert state() == "Active"
    hyperplane_lab.advance(86400)
    assert state() == "Inactive"
    assert {event["kind"] for event in hyperplane_lab.events()} == {"clock-advanced"}

def test_that_fails(hyperplane_lab, capture_on_failure):
    assert False
""",
}


def left_of(lab: str) -> list[object]:
    directories = Path(tempfile.gettempdir()).glob("hyperplane-pytest-*/lab")
    return [
        *namespace.names(f"hp-{lab}-"),
        *Path("/dev/shm").glob(f"*{lab}*"),
        *(path for path in directories if path.read_text() == lab),
    ]


def test_example_in_parallel(tmp_path: Path) -> None:
    """Two workers of pytest-xdist, each with a lab of its own."""
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [project / "ci.sh"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert "7 passed" in done.stdout, done.stdout + done.stderr
    assert "2 workers" in done.stdout
    assert (project / "report.xml").exists()
    assert not (project / "captures").exists()


def test_a_lab_in_python(tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    (capture,) = (tmp_path / "hyperplane-captures").iterdir()
    assert str(capture) in done.stdout
    assert capture.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"


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
