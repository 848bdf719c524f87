# SPDX-License-Identifier: Apache-2.0
"""What stands of a lab, and whether it may be taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperplane_nat.client import Client, NotRunningError
from hyperplane_nat.controller import cleanup, record
from hyperplane_nat.controller.cleanup import absence
from hyperplane_nat.controller.paths import LabLock, LabPaths
from hyperplane_nat.controller.processes import CONTROLLER, Process, environment, terminate
from hyperplane_nat.controller.standing import Standing, standing
from tests.controller.support import DEADLINE_SECONDS, config_in, paths_of

SLEEP = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"]


def forwarder_in(paths: LabPaths) -> Process:
    """A process in a forwarder's place."""
    return begun(paths, paths.forwarder_pid, paths.forwarder_log)


def begun(paths: LabPaths, pid_file: Path, log: Path) -> Process:
    """A process of the lab that has begun: before, it has no command line."""
    process = Process.spawn(SLEEP, "-c", directory=paths.directory, pid_file=pid_file, log=log)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not process.output():
        assert time.monotonic() < deadline
    return process


def found(directory: Path) -> Standing:
    return standing("test", directory / "run")


def words(directory: Path) -> str:
    """What a client says that finds no controller."""
    with pytest.raises(NotRunningError) as error:
        Client("test", runtime_directory=directory / "run").get("/v1/status")
    assert str(error.value) == absence("test", directory / "run")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_stands(directory: Path) -> None:
    assert found(directory) == Standing(
        LabPaths.of("test", directory / "run", ""), None, None, None
    )
    text = "lab 'test' is not running (start it with: hyperplane-nat up --lab test)"
    assert words(directory) == text


def test_a_controller_that_has_no_lock_yet(directory: Path) -> None:
    assert found(directory).controller() is None
    paths = paths_of(config_in(directory))
    command = [*SLEEP, CONTROLLER]
    with subprocess.Popen(command, env=environment(paths.directory), stdout=subprocess.PIPE) as up:
        assert up.stdout is not None
        up.stdout.readline()
        try:
            assert found(directory).controller() == up.pid
            assert Process.strays(paths.directory) == []
            assert f"(pid {up.pid}) does not answer yet" in words(directory)
        finally:
            up.kill()


def test_a_lab_that_changes_while_it_is_told_of(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanishes(*_: object) -> dict[str, int]:
        raise FileNotFoundError

    monkeypatch.setattr(cleanup, "left", vanishes)
    error = NotRunningError("test", directory / "run")
    assert str(error) == "no controller of lab 'test' answers, and it changes (try again)"


def test_a_lab_that_is_half_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left is told of by kind, with the command that removes it."""
    config = config_in(directory)
    paths = paths_of(config)
    paths.directory.mkdir(parents=True)
    assert "left" not in words(directory)
    record.write(paths.config_file, config)
    paths.state_file.write_bytes(b"")
    assert "not running, but of it are left: 2 files (" in words(directory)
    service = begun(
        paths, paths.service_pid("customer", "web"), paths.service_log("customer", "web")
    )
    try:
        monkeypatch.setattr("netns.survey.namespace.names", lambda _prefix: ["hp-test-gw"])
        text = words(directory)
        assert "are left: 1 namespace, 1 process, 4 files (start it with: " in text
        assert "remove what is left with: hyperplane-nat down --lab test)" in text
    finally:
        terminate([service], 0.0)


@pytest.mark.races
def test_a_forwarder_without_a_controller(directory: Path) -> None:
    config = config_in(directory)
    paths = paths_of(config)
    paths.directory.mkdir(parents=True)
    record.write(paths.config_file, config)
    forwarder = forwarder_in(paths)
    try:
        stands = found(directory)
        assert stands == Standing(stands.paths, config, None, forwarder.pid)
        assert stands.differences(config) == []
        assert stands.differences(config_in(directory, flows={"max": 20_000})) == ["flows.max"]
        assert stands.differences(config_in(directory, metrics={"port": 1})) == []
        text = words(directory)
        assert f"its forwarder (pid {forwarder.pid}) goes on" in text
        assert "hyperplane-nat up --lab test;" in text
        assert "hyperplane-nat down --lab test)" in text
    finally:
        terminate([forwarder], 0.0)
    assert found(directory).forwarder is None


def test_a_controller_that_starts(directory: Path) -> None:
    lock = LabLock(paths_of(config_in(directory)))
    lock.acquire()
    try:
        assert found(directory).controller() == os.getpid()
        assert f"(pid {os.getpid()}) does not answer yet" in words(directory)
    finally:
        lock.release()
    assert found(directory).controller() is None


def test_a_record_that_cannot_be_read(directory: Path) -> None:
    config = config_in(directory)
    paths_of(config).directory.mkdir(parents=True)
    paths_of(config).config_file.write_text("{")
    [problem] = found(directory).differences(config)
    assert "lab.json cannot be read" in problem


@pytest.mark.races
def test_a_dying_forwarder_is_none(directory: Path) -> None:
    config = config_in(directory)
    paths = paths_of(config)
    paths.directory.mkdir(parents=True)
    forwarder = forwarder_in(paths)
    os.kill(forwarder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, forwarder.pid, os.WEXITED | os.WNOWAIT)
    # A zombie: nobody has asked for its exit status.
    assert found(directory).forwarder is None
    terminate([forwarder], 0.0)
