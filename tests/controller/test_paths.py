# SPDX-License-Identifier: Apache-2.0
"""The files of a lab, and the lock that keeps a second controller out."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import LabLock, LabPaths, lock_holder


def test_second_controller_is_told_the_pid_of_the_first(directory: Path) -> None:
    paths = LabPaths.of("test", directory / "run", directory)
    first = LabLock(paths)
    first.acquire()
    with pytest.raises(ControllerError) as failure:
        LabLock(paths).acquire()
    assert str(failure.value) == (
        f"lab 'test' is already running (pid {os.getpid()}): hyperplane-nat down first"
    )
    first.release()
    again = LabLock(paths)
    again.acquire()
    again.release()


def test_labs_do_not_exclude_each_other(directory: Path) -> None:
    locks = [LabLock(LabPaths.of(name, directory / "run", directory)) for name in ("a", "b")]
    for lock in locks:
        lock.acquire()
    for lock in locks:
        lock.release()


def test_a_lock_file_that_was_unlinked_does_not_count(directory: Path) -> None:
    paths = LabPaths.of("test", directory / "run", directory)
    first = LabLock(paths)
    first.acquire()
    paths.pid_file.unlink()
    second = LabLock(paths)
    second.acquire()
    assert paths.pid_file.read_text().strip() == str(os.getpid())
    with pytest.raises(ControllerError):
        LabLock(paths).acquire()
    first.release()
    second.release()


def test_the_holder_of_a_lock_is_who_wrote_his_pid(directory: Path) -> None:
    """A lock of another file system's file has the same inode in /proc/locks."""
    paths = LabPaths.of("test", directory / "run", directory)
    assert lock_holder(paths) is None
    lock = LabLock(paths)
    lock.acquire()
    assert lock_holder(paths) == os.getpid()
    paths.pid_file.write_text("1\n")
    assert lock_holder(paths) is None
    lock.release()


def test_directory_that_cannot_be_made(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(ControllerError, match=r"choose another lab\.runtime_directory"):
        LabLock(LabPaths.of("test", directory / "file", directory)).acquire()


def test_nobody_else_can_read_or_lock_what_is_there(directory: Path) -> None:
    """A former version let others read the lock, and so take it."""
    paths = LabPaths.of("test", directory / "run", directory)
    paths.directory.mkdir(mode=0o755, parents=True)
    paths.pid_file.write_text("")
    paths.pid_file.chmod(0o644)
    lock = LabLock(paths)
    lock.acquire()
    assert stat.S_IMODE(paths.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(paths.pid_file.stat().st_mode) == 0o600
    lock.release()


def test_a_directory_in_which_others_write_is_refused(directory: Path) -> None:
    paths = LabPaths.of("test", directory / "run", directory)
    paths.directory.mkdir(parents=True)
    paths.directory.chmod(0o777)
    with pytest.raises(ControllerError, match=r"others can write in .*choose another directory"):
        LabLock(paths).acquire()
    assert not paths.pid_file.exists()


def test_a_child_that_a_killed_controller_was_forking_is_waited_for(directory: Path) -> None:
    paths = LabPaths.of("test", directory / "run", directory)
    first = LabLock(paths)
    first.acquire()
    ended = subprocess.Popen(["true"])
    ended.wait()
    paths.pid_file.write_text(f"{ended.pid}\n")
    child = threading.Timer(0.3, first.release)
    child.start()
    second = LabLock(paths)
    second.acquire()
    assert paths.pid_file.read_text() == f"{os.getpid()}\n"
    child.join()
    second.release()
