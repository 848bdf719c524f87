# SPDX-License-Identifier: Apache-2.0
"""What a lab that does not run has left: told of, and removed after a crash at any point.

Processes go first, those of handlers with their control groups, then namespaces, then files; the
directory with the lock goes last, so as long as anything is left, its lab's directory is there and
a later `down` or `up` finds it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.claim import Claim
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import JOURNAL, NOTES, STACKS, LabLock, LabPaths
from hyperplane_nat.controller.processes import Process, terminate
from hyperplane_nat.controller.standing import standing
from hyperplane_nat.engine.readers.migration import new_path
from hyperplane_nat.runtime.places import uploads_path
from hyperplane_nat.unix_socket import RUNTIME_DIRECTORY
from netns import topology
from netns.cgroups import Family, Mounts
from netns.errors import NetnsError


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What of netns is needed to remove a lab; tests put something else here."""

    strays: Callable[[str], list[str]] = topology.strays
    destroy: Callable[[str], None] = topology.destroy
    claims: Path = RUNTIME_DIRECTORY
    """Where labs in other runtime directories note that the namespaces are theirs."""
    remove_groups: Callable[[str], list[str]] = lambda lab: Family(Mounts.find(), lab).remove()


def clean(
    lab: str,
    runtime_directory: str,
    state_directory: str,
    *,
    namespaces: Namespaces | None = None,
) -> list[str]:
    """Remove everything that a dead controller of `lab` left; what was removed, a line each.

    ControllerError when the lab's controller is alive, or a lab of that name in another directory,
    or when something cannot be removed.
    Blocks for as long as it takes.
    """
    paths = LabPaths.of(lab, runtime_directory, state_directory)
    namespaces = namespaces or Namespaces()
    claim = Claim(paths, namespaces.claims)
    claim.check()
    existed = paths.directory.exists()
    lock = LabLock(paths)
    # A lock file of the dead one is a stray; one that only we need is not worth a word.
    had_lock_file = paths.pid_file.exists()
    lock.acquire()
    try:
        removed = sweep(paths, namespaces)
        names = {str(path) for path in _files(paths)}
        claim.drop()
        remove_directory(paths)
    finally:
        lock.release()
    if existed:
        leftovers = names if had_lock_file else names - {str(paths.pid_file)}
        removed += [f"file {name}" for name in sorted(leftovers)]
        removed.append(f"directory {paths.directory}")
    return removed


def left(paths: LabPaths, namespaces: Namespaces) -> dict[str, int]:
    """How many namespaces, processes and files `clean` would find; looking changes nothing."""
    processes = Process.strays(paths.directory)
    for process in processes:
        process.close()
    # The lock's file is what a `down` or `up` leaves that has just looked.
    files = [path for path in _files(paths) if path != paths.pid_file]
    return {
        "namespace": len(namespaces.strays(paths.lab)),
        "process": len(processes),
        "file": len(files) + sum(path.exists() for path in _state_files(paths)),
    }


def absence(lab: str, runtime_directory: Path) -> str:
    """One line for whoever finds no controller of lab `lab`: what there is, and what to do."""
    try:
        found = standing(lab, runtime_directory)
        state_directory = (found.config or Config()).lab.state_directory
        paths = LabPaths.of(lab, runtime_directory, state_directory)
        return found.describe(left(paths, Namespaces()))
    except (OSError, NetnsError):
        # What is looked at may be made or removed at that moment.
        return f"no controller of lab {lab!r} answers, and it changes (try again)"


def sweep(paths: LabPaths, namespaces: Namespaces) -> list[str]:
    """Remove processes, namespaces and files of a lab, but not its lock and its log.

    To be called with the lab's lock held.
    """
    removed = end_processes(paths)
    removed += remove_groups(paths.lab, namespaces)
    removed += remove_namespaces(paths.lab, namespaces)
    for path in [*_state_files(paths), *_files(paths)]:
        # The region and what is kept of it are another matter: `remove_region`.
        kept = (paths.log.name, paths.region_file.name, NOTES, STACKS, JOURNAL)
        if path == paths.pid_file or path.name.startswith(kept):
            continue
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed.append(f"file {path}")
    return removed


def end_processes(paths: LabPaths) -> list[str]:
    """End every process of the lab, whatever its pid file says or whether it has one."""
    found: dict[int, Process] = {}
    for process in (
        *(Process.adopt(path, paths.directory) for path in paths.pid_files()),
        *Process.strays(paths.directory),
    ):
        if process is None:
            continue
        if process.pid in found:
            process.close()
        else:
            found[process.pid] = process
    pids = sorted(found)
    stuck = terminate(found.values())
    if stuck:
        raise ControllerError(
            f"process {stuck[0].pid} does not end even by SIGKILL "
            "(it waits in the kernel: see dmesg, then hyperplane-nat down again)"
        )
    return [f"process {pid}" for pid in pids]


def remove_groups(lab: str, namespaces: Namespaces) -> list[str]:
    """Kill what is left in the control groups of the lab's handlers, and remove these."""
    try:
        return [f"control group {name}" for name in namespaces.remove_groups(lab)]
    except NetnsError as error:
        raise ControllerError(str(error)) from None


def remove_namespaces(lab: str, namespaces: Namespaces) -> list[str]:
    """Remove the lab's namespaces with all links."""
    names = namespaces.strays(lab)
    if names:
        try:
            namespaces.destroy(lab)
        except NetnsError as error:
            raise ControllerError(str(error)) from None
    return [f"namespace {name}" for name in names]


def remove_directory(paths: LabPaths) -> None:
    """Remove the lab's directory, the lock last, and the directory of all labs if it is empty."""
    _remove_code(paths)
    files = _files(paths)
    for path in sorted(files, key=lambda path: path == paths.pid_file):
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        try:
            paths.directory.rmdir()
        except OSError as error:
            raise ControllerError(
                f"cannot remove {paths.directory}: {error.strerror} (look what is in it)"
            ) from None
    # Other labs may be in it, or it is not ours at all.
    with contextlib.suppress(OSError):
        paths.directory.parent.rmdir()


def remove_region(paths: LabPaths) -> list[str]:
    """Forget what functions there were; what else was removed, a line each. ControllerError.

    Processes end first: handlers begin with archives that go, and whoever comes after a kill in
    between must not adopt a process for handlers whose directory of archives is gone.
    """
    removed = end_processes(paths)
    _remove_code(paths)
    for path in paths.directory.glob(f"{paths.region_file.name}*"):
        path.unlink()
    for name in (NOTES, STACKS):
        (paths.directory / name).unlink(missing_ok=True)
    for path in paths.directory.glob(f"{JOURNAL}*"):
        path.unlink()
    return removed


def _remove_code(paths: LabPaths) -> None:
    uploads = uploads_path(paths.directory)
    for pattern in ("*.zip", "*.new"):
        for path in uploads.glob(pattern):
            path.unlink()
    # What is left is nothing that a controller makes: whoever removes the lab's directory tells.
    with contextlib.suppress(OSError):
        uploads.rmdir()


def _state_files(paths: LabPaths) -> list[Path]:
    return [paths.state_file, new_path(paths.state_file), paths.records_file]


def _files(paths: LabPaths) -> list[Path]:
    """The files in the lab's directory: only names that a controller or an endpoint makes."""
    patterns = (
        NOTES,
        STACKS,
        "aws.new",
        "aws.stacks.new",
        f"{JOURNAL}*",
        "control.sock",
        "control.sock.new",
        "controller.*",
        "etc.*",
        "forwarder.*",
        "function-*.log",
        "function-*.log.1",
        "standby.*",
        "service-*.pid",
        "service-*.new",
        "service-*.log",
        "service-*.log.*",
        "service-*.sock",
        "lab.json",
        "lab.new",
        "lambda.*",
        "metrics.port",
        "region.sqlite*",
        "resolver-*.figures",
        "resolver-*.names",
        "health-*.checks",
        "health-*.verdicts",
        "runtime.sock",
    )
    return sorted({path for pattern in patterns for path in paths.directory.glob(pattern)})
