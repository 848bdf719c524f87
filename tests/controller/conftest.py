# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the controller's tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.controller.processes import Process, terminate
from tests.controller.support import FakeNetns


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory with a path short enough for unix sockets; no process of it may
    survive.
    """
    path = Path(tempfile.mkdtemp(prefix="hp", dir="/dev/shm"))
    (path / "fake").mkdir()
    yield path
    left = Process.strays(path / "run" / "test")
    pids = [process.pid for process in left]
    terminate(left)
    shutil.rmtree(path)
    assert not pids, f"processes were left: {pids}"


@pytest.fixture
def netns(directory: Path) -> FakeNetns:
    return FakeNetns(directory)
