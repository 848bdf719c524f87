# SPDX-License-Identifier: Apache-2.0
"""Where a handler runs: its environment's network namespace, mounts of its own, an unprivileged
user.

Theory of operation
-------------------
One mount namespace is made ahead, the *template*, which shows the host as it is but for what Lambda
has elsewhere: `/var/task`, `/var/runtime` with the runtime client and `/var/lang` with the
interpreter, where that is not the host's own. The directories of labs and the names of network
namespaces are not in it; the latter because each copy of the template copies every mount, and a lab
has thousands. `/var` is a tmpfs with what the host has in `/var` mounted into it, so that nothing
is made on the host.

A start takes a thread of its own, as in `netns.execution`. It enters the network namespace and the
template, takes a copy of that, puts code and a `/tmp` into it, gives up what a program could gain
by execve(2), and starts the runtime, which inherits all of this. The thread then ends.

This holds accidents in, not an attacker: processes of the host and of other environments, which are
the same user, are to be seen.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperplane_nat.runtime.code import OWN_RUNTIME, CodeError, directory_of
from hyperplane_nat.runtime.variables import (
    LANGUAGE_DIRECTORY,
    RUNTIME_API,
    RUNTIME_DIRECTORY,
    TASK_ROOT,
)
from netns import namespace, processes, syscalls
from netns.errors import NetnsError, from_errno

CLIENT = "awslambdaric"
"""Distribution of the runtime client for Python, which is put into `/var/runtime`."""

TMP_BYTES = 512 << 20
"""Size of an environment's /tmp (Lambda: EphemeralStorage, 512 MB)."""

_CODE = Path("/var/.code")
_UMASK = 0o022
_BACKLOG = 16
_SYSTEM_PREFIX = "/usr"


class EntrypointError(Exception):
    """The runtime cannot be started; the text says why, as Lambda does where it has a text."""


@dataclass(slots=True)
class Started:
    """A runtime that was started."""

    process: subprocess.Popen[bytes]
    output: int
    """Where what it writes is read from; not blocking."""
    since: processes.Moment
    """When, for `Sandbox.kill`."""


class Sandbox:
    """The template, and what is started in copies of it. Its methods block."""

    def __init__(self, *, uid: int, hidden: Sequence[Path]) -> None:
        """`uid` is the user and group of handlers; `hidden` are directories that they do not see.

        NetnsError when the template cannot be made.
        """
        self._uid = uid
        self._unpacking = threading.Lock()
        try:
            self._template = namespace.run_in_thread(lambda: _template(hidden))
        except OSError as error:
            raise from_errno("cannot make the mounts of handlers", error.errno or 0) from None

    def listen(self, name: str) -> socket.socket:
        """The socket of the Runtime API in network namespace `name`; NetnsError."""
        host, _, port = RUNTIME_API.partition(":")
        try:
            listener = namespace.call(
                name, lambda: socket.create_server((host, int(port)), backlog=_BACKLOG)
            )
        except OSError as error:
            raise from_errno(f"cannot listen in {name}", error.errno or 0) from None
        listener.setblocking(False)
        return listener

    def start(self, name: str, code: Path, runtime: str, variables: Mapping[str, str]) -> Started:
        """
        Start a runtime in network namespace `name`; its whole environment is `variables`, with the
        paths of its Python.

        EntrypointError when there is nothing that can be started; NetnsError.
        """
        since = processes.now()
        # Closed at once where the start fails.
        output, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            process = namespace.run_in_thread(
                lambda: self._start(name, code, runtime, dict(variables), theirs)
            )
        except BaseException as error:
            os.close(output)
            if isinstance(error, OSError):
                raise from_errno(f"cannot start in {name}", error.errno or 0) from None
            raise
        finally:
            os.close(theirs)
        os.set_blocking(output, False)
        return Started(process, output, since)

    def kill(self, name: str, started: Started) -> None:
        """Kill a runtime and whatever has started in its network namespace since; NetnsError."""
        # Once it is waited for, its number may be another's.
        if started.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.process.pid, signal.SIGKILL)
        if namespace.is_complete(name):
            with namespace.opened(name) as descriptor:
                processes.kill([processes.identity(descriptor)], started.since)

    def _start(
        self, name: str, code: Path, runtime: str, variables: dict[str, str], output: int
    ) -> subprocess.Popen[bytes]:
        with namespace.opened(name) as descriptor:
            syscalls.unshare(syscalls.CLONE_FS)
            namespace.join(descriptor, name)
        syscalls.setns(self._template, syscalls.CLONE_NEWNS)
        try:
            with self._unpacking:
                directory = directory_of(code, _CODE)
        except CodeError as error:
            raise EntrypointError(str(error)) from None
        self._refuse_unreadable(directory, code)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        bind = syscalls.MS_BIND | syscalls.MS_REC
        syscalls.mount(directory, TASK_ROOT, None, bind)
        shut = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("", TASK_ROOT, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | shut)
        syscalls.mount(
            "tmpfs",
            "/tmp",
            "tmpfs",
            syscalls.MS_NOSUID | syscalls.MS_NODEV,
            f"size={TMP_BYTES},mode=1777",
        )
        command = _command(runtime, variables)
        syscalls.drop_bounding_set()
        syscalls.set_no_new_privs()
        try:
            return subprocess.Popen(
                command,
                env=variables,
                cwd=TASK_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=_UMASK,
                user=self._uid,
                group=self._uid,
                extra_groups=[],
            )
        except OSError as error:
            what = os.strerror(error.errno or 0).lower()
            remedy = ""
            if error.errno == errno.EACCES:
                remedy = f"; user {self._uid} must be able to read the code and to run the program"
            raise EntrypointError(f"fork/exec {command[0]}: {what}{remedy}") from None

    def _refuse_unreadable(self, directory: Path, code: Path) -> None:
        # The interpreter would only say that there is no such module.
        status = directory.stat()
        others = status.st_mode & (stat.S_IROTH | stat.S_IXOTH)
        readable = others == stat.S_IROTH | stat.S_IXOTH
        if not readable and self._uid not in (0, status.st_uid):
            raise EntrypointError(f"{code}: user {self._uid} cannot read it (chmod -R o+rX {code})")


def _command(runtime: str, variables: dict[str, str]) -> list[str]:
    """What is run, of what is there now; completes the variables."""
    if not runtime.startswith("python"):
        program = Path(TASK_ROOT, "bootstrap")
        if not program.exists():
            raise EntrypointError(f"Couldn't find valid bootstrap(s): [{program} /opt/bootstrap]")
        return [str(program)]
    paths = [variables["PYTHONPATH"]] if variables.get("PYTHONPATH") else []
    if runtime == OWN_RUNTIME:
        paths.append(RUNTIME_DIRECTORY)
        prefix = _SYSTEM_PREFIX if sys.base_prefix == _SYSTEM_PREFIX else LANGUAGE_DIRECTORY
        program = Path(prefix, "bin", runtime)
    else:
        found = shutil.which(runtime, path=variables["PATH"])
        if found is None:
            raise EntrypointError(f"this host has no {runtime}: it has {OWN_RUNTIME} for sure")
        program = Path(found)
    if paths:
        variables["PYTHONPATH"] = ":".join(paths)
    return [str(program), "-m", CLIENT, variables["_HANDLER"]]


def _template(hidden: Sequence[Path]) -> int:
    """A descriptor of the template; in a thread that ends after it."""
    syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _detach_network_namespaces()
    before = os.open("/var", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.mount("tmpfs", "/var", "tmpfs", syscalls.MS_NOSUID, "mode=755")
        _show_again(Path(f"/proc/thread-self/fd/{before}"), Path("/var"))
    finally:
        os.close(before)
    for path in (TASK_ROOT, RUNTIME_DIRECTORY, LANGUAGE_DIRECTORY):
        _make(Path(path))
    _CODE.mkdir(mode=0o700)
    if sys.base_prefix != _SYSTEM_PREFIX:
        bind = syscalls.MS_BIND | syscalls.MS_REC
        syscalls.mount(sys.base_prefix, LANGUAGE_DIRECTORY, None, bind)
    _install_client(Path(RUNTIME_DIRECTORY))
    for directory in (*hidden, namespace.DIRECTORY):
        syscalls.mount("tmpfs", directory, "tmpfs", syscalls.MS_RDONLY, "mode=755")
    return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _detach_network_namespaces() -> None:
    lines = Path("/proc/thread-self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [Path(line.split()[4]) for line in lines]
    for point in points:
        if point == namespace.DIRECTORY or namespace.DIRECTORY in point.parents:
            try:
                syscalls.umount2(point)
            except OSError as error:
                # It went with the one above it.
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise


def _show_again(before: Path, now: Path) -> None:
    for entry in sorted(before.iterdir()):
        place = now / entry.name
        if str(place) in (TASK_ROOT, RUNTIME_DIRECTORY, LANGUAGE_DIRECTORY):
            continue
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
            continue
        if entry.is_dir():
            place.mkdir()
        elif entry.is_file():
            place.touch()
        else:
            continue
        syscalls.mount(entry, place, None, syscalls.MS_BIND | syscalls.MS_REC)


def _make(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def _install_client(directory: Path) -> None:
    """The runtime client and what it needs, in `directory`; NetnsError when it is not installed."""
    wanted, names = [CLIENT], set[str]()
    while wanted:
        name = wanted.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise NetnsError(
                f"{name} is not installed, which handlers in Python need",
                f"install it beside hyperplane-nat: pip install {CLIENT}",
            ) from None
        tops = {file.parts[0] for file in distribution.files or ()}
        names.update(tops - {"..", "__pycache__"})
        wanted += [
            re.split(r"[^A-Za-z0-9._-]", requirement)[0]
            for requirement in distribution.requires or ()
            if ";" not in requirement
        ]
        root = Path(str(distribution.locate_file("")))
        for entry in sorted(names):
            source = root / entry
            if source.is_dir():
                shutil.copytree(source, directory / entry, dirs_exist_ok=True)
            elif source.is_file():
                shutil.copy(source, directory / entry)
        names.clear()
    for parent, _, files in os.walk(directory):
        Path(parent).chmod(0o755)
        for file in files:
            Path(parent, file).chmod(0o644)
