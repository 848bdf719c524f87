# SPDX-License-Identifier: Apache-2.0
"""SIGHUP, and what a service manager is told meanwhile."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.text import toml
from hyperplane_nat.controller import record
from hyperplane_nat.controller.source import Source
from tests.controller.support import FakeNetns, RunningDaemon, config_in, eventually, run

pytestmark = pytest.mark.races

ACCOUNTS = [{"name": "first", "id": "111122223333"}, {"name": "second", "id": "444455556666"}]


@contextmanager
def service_manager(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The notifications that a manager has got so far, when the context has ended."""
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(directory / "fake" / "notify")
        manager.bind(path)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield told
        while True:
            try:
                told.append(manager.recv(4096).decode())
            except BlockingIOError:
                return


def write(file: Path, config: Config) -> Config:
    file.write_text(toml(config, comments=False))
    return config


def reloads(running: RunningDaemon) -> list[dict[str, Any]]:
    return [row for row in running.service.events.rows() if row["kind"].startswith("reload")]


@pytest.mark.stand_in("systemd", "a datagram socket of the test as NOTIFY_SOCKET")
def test_the_file_is_read_again_and_applied(
    directory: Path, netns: FakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = directory / "fake" / "lab.toml"
    config = write(file, config_in(directory, account=ACCOUNTS[:1]))

    async def work() -> None:
        source = Source.decode(Source(file, {"lab.environments": 5}).encode())
        async with RunningDaemon(config, netns.parts(), source=source) as running:
            wanted = write(file, config_in(directory, account=ACCOUNTS, lab={"environments": 9}))
            os.kill(os.getpid(), signal.SIGHUP)
            [event] = await eventually(lambda: reloads(running))
            assert event["kind"] == "reloaded"
            assert event["message"] == f"{file} was read again, 1 changes"
            kept = record.read(running.paths.config_file)
            assert kept is not None
            assert kept.account == wanted.account
            # What the command line said goes on to count.
            assert kept.lab.environments == 5

    with service_manager(directory, monkeypatch) as told:
        run(work())
    assert [line.partition("\n")[0] for line in told] == [
        "READY=1",
        "RELOADING=1",
        "READY=1",
        "STOPPING=1",
    ]
    assert told[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert "was read again" in told[2]


@pytest.mark.parametrize("wrong", ["not TOML", "something else"])
def test_a_file_that_cannot_be_applied_changes_nothing(
    directory: Path, netns: FakeNetns, wrong: str
) -> None:
    file = directory / "fake" / "lab.toml"
    config = write(file, config_in(directory))

    async def work() -> None:
        async with RunningDaemon(config, netns.parts(), source=Source(file)) as running:
            if wrong == "not TOML":
                file.write_text("[lab")
            else:
                write(file, config_in(directory, flows={"max": 20_000}))
            os.kill(os.getpid(), signal.SIGHUP)
            [event] = await eventually(lambda: reloads(running))
            assert event["kind"] == "reload-refused"
            assert event["message"].startswith("nothing was changed: ")
            reason = "not valid TOML" if wrong == "not TOML" else "flows.max: cannot change"
            assert reason in event["message"]
            assert running.service.config()["flows"]["max"] == 10_000

    run(work())


def test_without_a_file_it_is_ignored(
    directory: Path, netns: FakeNetns, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            with caplog.at_level("INFO"):
                os.kill(os.getpid(), signal.SIGHUP)
                await eventually(lambda: "without a file" in caplog.text)
            assert not running.task.done()
            assert reloads(running) == []

    run(work())


def test_during_the_start_it_is_heeded_afterwards(directory: Path, netns: FakeNetns) -> None:
    file = directory / "fake" / "lab.toml"
    config = write(file, config_in(directory))
    netns.pause = lambda: os.kill(os.getpid(), signal.SIGHUP)

    async def work() -> None:
        async with RunningDaemon(config, netns.parts(), source=Source(file)) as running:
            [event] = await eventually(lambda: reloads(running))
            assert event["kind"] == "reloaded"

    run(work())
