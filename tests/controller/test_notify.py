# SPDX-License-Identifier: Apache-2.0
"""Who started a lab is told how it goes, and may go away."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from hyperplane_nat.controller.notify import ReadyPipe, keep_alive, sd_notify, watchdog_seconds


def test_lines_in_order_and_end_of_file() -> None:
    read, write = os.pipe()
    pipe = ReadyPipe(write)
    pipe.progress("creating environments", 3, 10)
    pipe.ready({"environments": 10})
    pipe.progress("too late", 1, 1)
    with os.fdopen(read) as lines:
        reports = [json.loads(line) for line in lines]
    assert reports == [
        {"progress": "creating environments", "done": 3, "total": 10},
        {"ready": True, "status": {"environments": 10}},
    ]


@pytest.mark.races
def test_a_reader_that_went_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    pipe = ReadyPipe(write)
    pipe.progress("creating environments", 1, 2)
    pipe.error("no room", 2)


@pytest.mark.races
def test_a_reader_that_does_not_read_does_not_block() -> None:
    read, write = os.pipe()
    pipe = ReadyPipe(write)
    for count in range(5000):
        pipe.progress("x" * 100, count, 5000)
    pipe.close()
    os.close(read)


def test_nobody_waits() -> None:
    ReadyPipe(None).ready({})


@pytest.mark.stand_in("systemd", "a datagram socket of the test as NOTIFY_SOCKET")
@pytest.mark.parametrize("abstract", [False, True])
def test_sd_notify(abstract: bool, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{path}" if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
        assert sd_notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/notify"])
def test_sd_notify_without_a_manager(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sd_notify("READY=1")


@pytest.mark.races
@pytest.mark.stand_in("systemd", "a datagram socket of the test as NOTIFY_SOCKET")
def test_watchdog(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "3000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        async def work() -> None:
            task = asyncio.create_task(keep_alive())
            for _ in range(3):
                assert await asyncio.to_thread(manager.recv, 100) == b"WATCHDOG=1"
            task.cancel()

        asyncio.run(work())


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("30000000", str(os.getpid()), 30.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_watchdog_that_is_not_ours(
    usec: str, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is None:
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_seconds() == seconds
