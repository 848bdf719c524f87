# SPDX-License-Identifier: Apache-2.0
"""`ui` as a process: what it prints, what it gives up, how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hyperplane_nat.ui.server import listen
from netns import privileges
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi


@contextlib.contextmanager
def started(runtime: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it prints."""
    command = [sys.executable, "-m", "hyperplane_nat.cli"]
    with subprocess.Popen(
        [*command, "--runtime-directory", str(runtime), "ui"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_where_the_page_is_and_ends_when_told(
    runtime: Path, api: FakeApi, number: signal.Signals
) -> None:
    with started(runtime) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        page = requests.get(url, timeout=60)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert requests.get(url.partition("?")[0], timeout=60).status_code == 403
        if os.geteuid() == 0:
            has = privileges.of(process.pid)
            assert has is not None
            assert has.dropped
        process.send_signal(number)
        assert process.wait(60) == 0
    assert api.requests


def test_another_run_has_another_token(runtime: Path) -> None:
    with started(runtime) as (_, one), started(runtime) as (_, other):
        assert one.partition("token=")[2] != other.partition("token=")[2]


def test_a_port_in_use_is_an_error(run: Run) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        result = run("ui", "--port", str(port))
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.stderr
