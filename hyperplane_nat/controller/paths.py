# SPDX-License-Identifier: Apache-2.0
"""Where the files of a lab are, and the lock that says whose they are.

`controller.pid` is both: whoever holds its flock(2) is the lab's controller, and its text is that
controller's pid. The kernel drops the lock with the process, however that ends, so a lock that can
be taken means that whatever else lies here is a stray.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from hyperplane_nat import private_files, unix_socket
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.private_files import NotPrivateError

NOTES = "aws.json"
"""What AWS's endpoint keeps of resources of the region: a file in the lab's directory."""

STACKS = "aws.stacks.json"
"""Its stacks, beside that."""

JOURNAL = "aws.journal"
"""The requests to it that moved nothing; files whose names begin so have what belongs to them."""

_LOCKS = Path("/proc/locks")

FORKING_SECONDS, FORKING_PAUSE = 5.0, 0.01
"""How long, and how often, the lock of a controller that has been killed is tried for."""


@dataclass(frozen=True, slots=True)
class LabPaths:
    """The files of one lab."""

    lab: str
    directory: Path
    state_file: Path

    @classmethod
    def of(cls, lab: str, runtime_directory: str | Path, state_directory: str | Path) -> LabPaths:
        """The files of lab `lab` below the two configured directories."""
        return cls(
            lab,
            Path(runtime_directory) / lab,
            Path(state_directory) / f"hyperplane-nat-{lab}.map",
        )

    @property
    def records_file(self) -> Path:
        """What the forwarder tells the writer of flow logs, beside the state file."""
        return self.state_file.with_suffix(".records")

    @property
    def control_socket(self) -> Path:
        """Where the control API listens."""
        return self.directory / unix_socket.CONTROL

    @property
    def forwarder_socket(self) -> Path:
        """Where the forwarder takes commands."""
        return self.directory / unix_socket.FORWARDER

    @property
    def metrics_port_file(self) -> Path:
        """The port of the metrics, for a controller that takes over."""
        return self.directory / "metrics.port"

    @property
    def pid_file(self) -> Path:
        """The controller's pid, and the lock."""
        return self.directory / "controller.pid"

    @property
    def config_file(self) -> Path:
        """The configuration as it was applied, see `record`."""
        return self.directory / "lab.json"

    @property
    def region_file(self) -> Path:
        """The region, for a controller that takes over."""
        return self.directory / "region.sqlite"

    @property
    def log(self) -> Path:
        """The controller's own log."""
        return self.directory / "controller.log"

    @property
    def forwarder_log(self) -> Path:
        """What forwarders write to stdout and stderr."""
        return self.directory / "forwarder.log"

    @property
    def forwarder_pid(self) -> Path:
        """The forwarder that moves packets."""
        return self.directory / "forwarder.pid"

    @property
    def standby_pid(self) -> Path:
        """The forwarder that waits to take over."""
        return self.directory / "standby.pid"

    def service_pid(self, vpc: str, service: str) -> Path:
        """The pid file of a service."""
        return self.directory / f"service-{vpc}.{service}.pid"

    def service_log(self, vpc: str, service: str) -> Path:
        """The log of a service."""
        return self.directory / f"service-{vpc}.{service}.log"

    def resolver_names(self, vpc: str) -> Path:
        """What the resolver of a VPC knows."""
        return self.directory / f"resolver-{vpc}.names"

    def resolver_figures(self, vpc: str) -> Path:
        """What the resolver of a VPC has counted."""
        return self.directory / f"resolver-{vpc}.figures"

    def resolvers(self) -> list[str]:
        """The VPCs whose resolvers were told what they know."""
        found = self.directory.glob("resolver-*.names")
        return sorted(path.stem.removeprefix("resolver-") for path in found)

    def health_checks(self, vpc: str) -> Path:
        """What the health checker of a VPC checks."""
        return self.directory / f"health-{vpc}.checks"

    def health_verdicts(self, vpc: str) -> Path:
        """What the health checker of a VPC has found."""
        return self.directory / f"health-{vpc}.verdicts"

    def health_checkers(self) -> list[str]:
        """The VPCs whose health checkers were told what they check."""
        found = self.directory.glob("health-*.checks")
        return sorted(path.stem.removeprefix("health-") for path in found)

    def logs(self) -> dict[Path, Path | None]:
        """The logs there can be, each with the pid file of who was started last to write it."""
        services = self.directory.glob("service-*.log")
        return {
            self.log: None,
            self.forwarder_log: self.standby_pid,
            **{path: path.with_suffix(".pid") for path in services},
        }

    def pid_files(self) -> list[Path]:
        """The pid files of everything a controller started."""
        services = sorted(self.directory.glob("service-*.pid"))
        return [self.forwarder_pid, self.standby_pid, *services]


class LabLock:
    """The right to be the controller of a lab."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the lab's directory and take the lock; ControllerError when it is taken."""
        paths = self._paths
        try:
            self._descriptor = self._open_and_lock()
        except NotPrivateError as error:
            raise ControllerError(
                f"lab.runtime_directory: {error} (remove it, or choose another directory)"
            ) from None
        except PermissionError as error:
            raise ControllerError(
                f"cannot use {paths.directory}: {error.strerror} (run as root)"
            ) from None
        except OSError as error:
            raise ControllerError(
                f"cannot use {paths.directory}: {error.strerror} "
                "(choose another lab.runtime_directory)"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _open_and_lock(self) -> int:
        paths, deadline = self._paths, time.monotonic() + FORKING_SECONDS
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                private_files.make_private(paths.directory)
                descriptor = os.open(paths.pid_file, flags, 0o600)
            except FileNotFoundError:
                # The previous controller removed the directory in between.
                continue
            try:
                # flock(2) asks for no more than a file that can be read, as a former version's can.
                os.fchmod(descriptor, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.fstat(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    there = paths.pid_file.stat()
                    if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                        return descriptor
                # What was locked is a file that the previous controller has unlinked.
                os.close(descriptor)
            except BlockingIOError:
                pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                os.close(descriptor)
                # A child that a killed controller was just forking has the lock until it is run.
                if _is_dead(pid) and time.monotonic() < deadline:
                    time.sleep(FORKING_PAUSE)
                    continue
                raise ControllerError(
                    f"lab {paths.lab!r} is already running (pid {pid or 'not written yet'}): "
                    "hyperplane-nat down first"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise

    def release(self) -> None:
        """Give the lock up. Remove the files before: after this they are somebody else's."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_dead(pid: str) -> bool:
    """Whether a lock's file names a process that there is no more."""
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def lock_holder(paths: LabPaths) -> int | None:
    """The pid of who holds the lock of a lab, without touching it; None when nobody does."""
    try:
        inode = paths.pid_file.stat().st_ino
        written = paths.pid_file.read_text(encoding="ascii", errors="replace").strip()
        locks = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in locks:
        # proc_locks(5): number, FLOCK, ADVISORY, WRITE, pid, major:minor:inode, range. Who waits
        # for a lock has an arrow before the kind. Files of other file systems have the same inodes,
        # and device numbers are not those of stat(2) everywhere: the holder's pid is in the file.
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}") and fields[4] == written:
            return int(written)
    return None


def json_beside(path: Path, document: object) -> Path:
    """A file beside `path`, to be renamed to it, that holds all of the document; OSError."""
    temporary = path.with_suffix(".new")
    try:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
