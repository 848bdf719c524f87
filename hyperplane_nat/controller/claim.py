# SPDX-License-Identifier: Apache-2.0
"""Whose the namespaces of a lab's name are.

Theory of operation
-------------------
The namespaces of a lab, and its state map, are named after it and are there once on a host, but its
files are wherever its runtime directory is. A lab in the default directory has its name by being
there; one elsewhere leaves `LAB.claim` in the default directory, a symbolic link to where it is.
Such a claim holds for as long as somebody lives there: a controller, or the forwarder that a dead
one left. The default directory is root's, so nobody else can claim a name.

Who starts takes the lock of his own lab first, and then the claim, under a flock(2) of the default
directory: of two that start at once, the second sees that the first lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hyperplane_nat import private_files
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.standing import standing


class Claim:
    """A lab's claim to its name."""

    def __init__(self, paths: LabPaths, default: Path) -> None:
        """`default` is the directory of the labs that say nothing else."""
        self._lab = paths.lab
        self._mine = paths.directory.parent
        self._default = default
        self._link = default / f"{paths.lab}.claim"

    def check(self) -> None:
        """ControllerError when a lab of that name lives in another directory."""
        for where in (self._default, self._claimed()):
            if where is None or where.resolve() == self._mine.resolve():
                continue
            stands = standing(self._lab, where)
            pid = stands.controller() or stands.forwarder
            if pid is not None:
                raise ControllerError(
                    f"a lab {self._lab!r} lives in {where} (pid {pid}) and has the namespaces of "
                    f"that name (act on it with --runtime-directory {where}, or choose another "
                    "name)"
                )

    def take(self) -> None:
        """Have the name from now on; ControllerError as `check`. To be called with the lab's lock.

        ControllerError too when the default directory cannot be used.
        """
        elsewhere = self._mine.resolve() != self._default.resolve()
        try:
            with _locked(self._default):
                self.check()
                self._link.unlink(missing_ok=True)
                if elsewhere:
                    self._link.symlink_to(self._mine)
        except OSError as error:
            raise ControllerError(
                f"cannot use {self._default}: {error.strerror} (labs elsewhere are noted there)"
            ) from None

    def drop(self) -> None:
        """Give the name up, with nobody else alive who claims it."""
        self._link.unlink(missing_ok=True)
        # Other labs may be in it.
        with contextlib.suppress(OSError):
            self._default.rmdir()

    def _claimed(self) -> Path | None:
        try:
            return self._link.readlink()
        except OSError:
            return None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Alone in a directory, which is made if need be."""
    while True:
        private_files.make_passable(directory)
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            # The last lab that was in it has removed it in between.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                yield
                return
        finally:
            os.close(descriptor)
