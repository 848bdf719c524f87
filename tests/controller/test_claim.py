# SPDX-License-Identifier: Apache-2.0
"""Two labs of one name, in two runtime directories."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from hyperplane_nat import private_files
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import cleanup
from hyperplane_nat.controller.claim import Claim
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import LabLock, LabPaths
from tests.controller.support import (
    ControllerProcess,
    FakeNetns,
    RunningDaemon,
    config_in,
    eventually,
    gone,
    paths_of,
    pid_in,
    run,
)

pytestmark = pytest.mark.races

OTHER = "other"


def lab_in(directory: Path, where: str) -> LabPaths:
    return LabPaths.of("test", directory / where, directory)


def claim(directory: Path, where: str) -> Claim:
    return Claim(lab_in(directory, where), directory / "run")


def elsewhere(directory: Path) -> Config:
    return config_in(directory, lab={"runtime_directory": str(directory / OTHER)})


def test_the_directory_of_claims_lets_others_pass(directory: Path) -> None:
    """Members of a socket group have a lab in it, whoever has made it."""
    umask = os.umask(private_files.UMASK)
    try:
        claim(directory, OTHER).take()
    finally:
        os.umask(umask)
    assert stat.S_IMODE((directory / "run").stat().st_mode) == 0o755


@pytest.mark.parametrize(("first", "second"), [("run", OTHER), (OTHER, "run"), (OTHER, "third")])
def test_only_one_of_them_lives(directory: Path, first: str, second: str) -> None:
    lock = LabLock(lab_in(directory, first))
    lock.acquire()
    claim(directory, first).take()
    claim(directory, first).check()
    with pytest.raises(ControllerError) as failure:
        claim(directory, second).take()
    assert str(failure.value) == (
        f"a lab 'test' lives in {directory / first} (pid {os.getpid()}) and has the namespaces of "
        f"that name (act on it with --runtime-directory {directory / first}, or choose another "
        "name)"
    )
    lock.release()
    # Nobody lives there any more.
    claim(directory, second).take()
    claim(directory, second).drop()
    assert not list(directory.glob("run/*.claim"))


def test_labs_of_other_names_do_not_meet(directory: Path) -> None:
    lock = LabLock(lab_in(directory, OTHER))
    lock.acquire()
    claim(directory, OTHER).take()
    Claim(LabPaths.of("test-2", directory / "run", directory), directory / "run").take()
    lock.release()


def test_another_spelling_is_the_same_directory(directory: Path) -> None:
    (directory / "link").symlink_to(directory / "run")
    lock = LabLock(lab_in(directory, "run"))
    lock.acquire()
    claim(directory, "run").take()
    claim(directory, "link").check()
    lock.release()


def test_a_second_lab_of_the_name_breaks_nothing(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        async with RunningDaemon(elsewhere(directory), netns.parts()) as running:
            names = netns.names()
            second = RunningDaemon(config_in(directory), netns.parts())
            assert await second.task == 2
            assert f"lives in {directory / OTHER}" in second.reports()[-1]["error"]
            os.close(second._read)
            with pytest.raises(ControllerError, match=f"lives in {directory / OTHER}"):
                cleanup.clean(
                    "test",
                    str(directory / "run"),
                    str(directory),
                    namespaces=netns.namespaces(),
                )
            assert netns.names() == names
            assert running.paths.state_file.exists()
            assert not (directory / "run" / "test").exists()

    run(work())
    assert [path.name for path in directory.iterdir()] == ["fake"]


def test_a_forwarder_that_goes_on_keeps_the_name(directory: Path, netns: FakeNetns) -> None:
    """Until its lab is taken over where it is, or removed."""
    config = elsewhere(directory)
    controller = ControllerProcess.on_fakes(config, directory)
    assert controller.ready
    forwarder = pid_in(paths_of(config).forwarder_pid)
    controller.end(signal.SIGKILL)

    async def work() -> None:
        refused = RunningDaemon(config_in(directory), netns.parts(), replace=True)
        assert await refused.task == 2
        assert f"(pid {forwarder})" in refused.reports()[-1]["error"]
        os.close(refused._read)
        async with RunningDaemon(config, netns.parts()) as running:
            assert pid_in(running.paths.forwarder_pid) == forwarder
            os.kill(forwarder, 0)
        await eventually(lambda: gone(forwarder))
        async with RunningDaemon(config_in(directory), netns.parts()):
            pass

    run(work())
    assert [path.name for path in directory.iterdir()] == ["fake"]
