# SPDX-License-Identifier: Apache-2.0
"""Where a handler runs: its environment's network namespace, mounts of its own, an unprivileged
user.

Theory of operation
-------------------
One mount namespace is made ahead, the *template*, which shows the host as it is but for what Lambda
has elsewhere: `/var/task`, `/var/runtime` with the runtime client and `/var/lang` with the
interpreter, where that is not the host's own, and the files of `/etc` that are about names
(`netns.files`). The directories of labs and the names of network
namespaces are not in it; the latter because each copy of the template copies every mount, and a lab
has thousands. `/var` is a tmpfs with what the host has in `/var` mounted into it, so that nothing
is made on the host.

A start takes a thread of its own, as in `netns.execution`. It enters the network namespace and the
template, takes a copy of that, puts the code into it, makes all of it read only but for a new
`/tmp`, and starts the runtime, which
inherits all of this, in a process namespace of its own (`netns.launch`). The thread then ends.

Each environment has a control group (`netns.cgroups`), by which it is limited and stands still. A
kill is one of its process namespace, which takes all that a handler has started, wherever it is.

This holds accidents in, not an attacker: all handlers are the same user of one kernel.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hyperplane_nat.runtime import layers as layering
from hyperplane_nat.runtime.code import OWN_RUNTIME, CodeError, program_of
from hyperplane_nat.runtime.settings import Settings
from hyperplane_nat.runtime.unpacked import Unpacked
from hyperplane_nat.runtime.variables import (
    LANGUAGE_DIRECTORY,
    RUNTIME_API,
    RUNTIME_DIRECTORY,
    TASK_ROOT,
)
from netns import files, launch, namespace, syscalls
from netns.cgroups import Family, Membership
from netns.errors import NetnsError, from_errno

CLIENT = "awslambdaric"
"""Distribution of the runtime client for Python, which is put into `/var/runtime`."""

BOOTSTRAP = Path(__file__).with_name("bootstrap.mjs")
"""The runtime of handlers in Node.js, which is put there too."""

PROCESSES_MAX = 1024
"""Of an environment, threads counted ("Lambda quotas": 1,024); its `init` comes on top."""

_CODE = Path("/var/.code")
_UPLOADS = Path("/var/.uploads")
_INIT = Path("/var/.init")
_BACKLOG = 16
_ENDING_SECONDS = 20.0
_SYSTEM_PREFIX = "/usr"


class EntrypointError(Exception):
    """The runtime cannot be started; the text says why, as Lambda does where it has a text."""


class Process(Protocol):
    """The process whose end is that of a runtime and of all that it has started."""

    @property
    def pid(self) -> int:
        """Its number."""

    def kill(self) -> None:
        """Kill all of it; nothing when it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """How the runtime has ended: its exit status, or the negative number of a signal."""


class Standing(Protocol):
    """The control group of a runtime; see `netns.cgroups.Group`."""

    @property
    def freezes(self) -> bool:
        """Whether it can stand still."""

    def freeze(self) -> None:
        """Let it stand still."""

    def thaw(self) -> None:
        """Let it go on."""

    def out_of_memory(self) -> int:
        """How many processes were killed for want of memory."""

    def opened(self) -> dict[str, int]:
        """What another process needs for all but `remove`: descriptors, to be closed."""

    def remove(self) -> None:
        """There is no more use for it."""


@dataclass(slots=True)
class Started:
    """A runtime that was started."""

    process: Process
    output: int
    """Where what it writes is read from; not blocking."""
    runs: int
    """The number of the runtime's own process; 0 when it is not known."""
    group: Standing | None = None
    """Its control group."""
    unpacked: list[Path] = field(default_factory=list)
    """What it uses of `Unpacked`."""

    end: int = -1
    """A descriptor that can be read when it has ended, where there is one already."""
    listener: socket.socket | None = None
    """Where it speaks to the Runtime API, of the first of an environment; not blocking."""

    def watched(self) -> int:
        """A descriptor that can be read when it has ended, to be closed; to be asked once."""
        return self.end if self.end >= 0 else os.pidfd_open(self.process.pid)

    @property
    def freezes(self) -> bool:
        """Whether it can stand still."""
        return self.group is not None and self.group.freezes

    def freeze(self) -> None:
        """Let it stand still. NetnsError."""
        if self.group is not None:
            self.group.freeze()

    def thaw(self) -> None:
        """Let it go on. NetnsError."""
        if self.group is not None:
            self.group.thaw()

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed something of it for want of memory."""
        return self.group is not None and self.group.out_of_memory() > 0


class Sandbox:
    """The template, and what is started in copies of it. Its methods block."""

    def __init__(
        self,
        *,
        uid: int,
        hidden: Sequence[Path],
        groups: Family,
        uploads: Path,
        etc: Path,
    ) -> None:
        """`uid` is the user and group of handlers; `hidden` are directories that they do not see;
        in `groups`, which are made, are those of environments; `uploads` has archives, `etc` the
        files of /etc (`netns.files`), and both may be hidden.

        NetnsError when the template cannot be made.
        """
        self._uid = uid
        self._groups = groups
        self._uploads = uploads
        self._etc = etc
        self._unpacked = Unpacked(_CODE)
        self.missing: list[str] = []
        """What the host does not offer, a line each."""
        if not syscalls.mounts_read_only():
            self.missing.append("a host that cannot be written to: that takes Linux 5.12")
        try:
            self._template = namespace.run_in_thread(lambda: _template(hidden, uploads, etc))
        except OSError as error:
            raise from_errno("cannot make the mounts of handlers", error.errno or 0) from None

    def start(
        self,
        name: str,
        code: Path,
        runtime: str,
        variables: Mapping[str, str],
        *,
        memory_mb: int,
        ephemeral_storage_mb: int,
        layers: Sequence[Path] = (),
        listen: bool = False,
    ) -> Started:
        """
        Start a runtime in network namespace `name`; its whole environment is `variables`, with the
        paths of its Python. It has so much memory, so much room in `/tmp`, and `layers` as `/opt`.
        With `listen` the Runtime API listens there before that.

        EntrypointError when there is nothing that can be started; NetnsError.
        """
        group = self._groups.group(name)
        # Of the same name, before.
        group.remove()
        group.make(memory_bytes=memory_mb << 20, processes=PROCESSES_MAX)
        # Closed at once where the start fails.
        output, theirs = os.pipe2(os.O_CLOEXEC)
        used: list[Path] = []
        listeners: list[socket.socket] = []
        try:
            with group.members() as groups:
                program = namespace.run_in_thread(
                    lambda: self._start(
                        name,
                        code,
                        runtime,
                        dict(variables),
                        output=theirs,
                        groups=groups,
                        tmp_bytes=ephemeral_storage_mb << 20,
                        layers=layers,
                        used=used,
                        listeners=listeners if listen else None,
                    )
                )
        except BaseException as error:
            self._unpacked.leave(used)
            for each in listeners:
                each.close()
            os.close(output)
            group.remove()
            if isinstance(error, OSError):
                raise from_errno(f"cannot start in {name}", error.errno or 0) from None
            raise
        finally:
            os.close(theirs)
        os.set_blocking(output, False)
        listener = listeners[0] if listeners else None
        return Started(program, output, program.own_pid(), group, used, listener=listener)

    def begin(self, name: str, number: int, settings: Settings, *, listen: bool) -> Started:
        """Start the runtime of environment `number` as `start` does, with what it is to have."""
        return self.start(
            name,
            settings.code,
            settings.runtime,
            settings.variables(number),
            memory_mb=settings.identity.memory_mb,
            ephemeral_storage_mb=settings.ephemeral_storage_mb,
            layers=settings.layers,
            listen=listen,
        )

    def kill(self, started: Started) -> None:
        """Kill a runtime with whatever it has started, wherever that is; NetnsError."""
        started.process.kill()
        started.process.wait(_ENDING_SECONDS)
        self._unpacked.leave(started.unpacked)
        if started.group is not None:
            started.group.remove()

    def tidy(self) -> None:
        """Give back what was unpacked of code that is no function's any more; NetnsError."""

        def work() -> None:
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(self._template, syscalls.CLONE_NEWNS)
            self._unpacked.give_back()

        if not self._unpacked.unused:
            return
        try:
            namespace.run_in_thread(work)
        except OSError as error:
            raise from_errno("cannot give code back", error.errno or 0) from None

    def _start(
        self,
        name: str,
        code: Path,
        runtime: str,
        variables: dict[str, str],
        *,
        output: int,
        groups: Membership,
        tmp_bytes: int,
        layers: Sequence[Path],
        used: list[Path],
        listeners: list[socket.socket] | None,
    ) -> launch.Program:
        with namespace.opened(name) as descriptor:
            syscalls.unshare(syscalls.CLONE_FS)
            namespace.join(descriptor, name)
        if listeners is not None:
            listeners.append(_listener(name))
        files.be_called(self._etc)
        syscalls.setns(self._template, syscalls.CLONE_NEWNS)
        try:
            found = _UPLOADS / code.name if code.parent == self._uploads else code
            shown = self._unpacked.use(found, layers, used)
        except CodeError as error:
            raise EntrypointError(str(error)) from None
        for directory, said in zip(shown.values(), (code, *layers), strict=False):
            self._refuse_unreadable(directory, said)
        if not all(map(os.path.isdir, shown)):
            raise EntrypointError(f"layers are put into {layering.OPT}, which this host has not")
        syscalls.unshare(syscalls.CLONE_NEWNS)
        bind = syscalls.MS_BIND | syscalls.MS_REC
        shut = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
        for place, directory in shown.items():
            syscalls.mount(directory, place, None, bind)
            syscalls.mount("", place, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | shut)
        if not self.missing:
            syscalls.mount_read_only("/")
        plain = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("tmpfs", "/tmp", "tmpfs", plain, f"size={tmp_bytes},mode=1777")
        command = _command(runtime, variables, layered=bool(layers))
        try:
            return launch.start(
                command,
                env=variables,
                cwd=TASK_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                uid=self._uid,
                mount_proc=True,
                groups=groups,
                init=_INIT,
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


def _listener(name: str) -> socket.socket:
    host, _, port = RUNTIME_API.partition(":")
    try:
        listener = socket.create_server((host, int(port)), backlog=_BACKLOG)
    except OSError as error:
        raise from_errno(f"cannot listen in {name}", error.errno or 0) from None
    listener.setblocking(False)
    return listener


def _command(runtime: str, variables: dict[str, str], *, layered: bool) -> list[str]:
    """What is run, of what is there now; completes the variables."""
    if runtime.startswith("nodejs"):
        return _node(runtime, variables)
    if not runtime.startswith("python"):
        programs = [Path(root, "bootstrap") for root in (TASK_ROOT, layering.OPT)]
        for program in programs if layered else programs[:1]:
            if program.exists():
                return [str(program)]
        looked = " ".join(map(str, programs))
        raise EntrypointError(f"Couldn't find valid bootstrap(s): [{looked}]")
    paths = [variables["PYTHONPATH"]] if variables.get("PYTHONPATH") else []
    if layered:
        beneath = f"{layering.OPT}/python"
        paths += [f"{beneath}/lib/{runtime}/site-packages", beneath]
    if runtime == OWN_RUNTIME:
        paths.append(RUNTIME_DIRECTORY)
        prefix = _SYSTEM_PREFIX if sys.base_prefix == _SYSTEM_PREFIX else LANGUAGE_DIRECTORY
        program = Path(prefix, "bin", runtime)
    else:
        program = Path(_program(runtime, variables))
    if paths:
        variables["PYTHONPATH"] = ":".join(paths)
    return [str(program), "-m", CLIENT, variables["_HANDLER"]]


def _node(runtime: str, variables: dict[str, str]) -> list[str]:
    found = _program(runtime, variables)
    own = [variables["NODE_PATH"]] if variables.get("NODE_PATH") else []
    beneath = f"{layering.OPT}/nodejs"
    own += [f"{beneath}/{runtime.removesuffix('.x').replace('nodejs', 'node')}/node_modules"]
    variables["NODE_PATH"] = ":".join([*own, f"{beneath}/node_modules"])
    return [found, str(Path(RUNTIME_DIRECTORY, BOOTSTRAP.name))]


def _program(runtime: str, variables: Mapping[str, str]) -> str:
    try:
        return program_of(runtime, variables["PATH"])
    except CodeError as error:
        raise EntrypointError(str(error)) from None


def _template(hidden: Sequence[Path], uploads: Path, etc: Path) -> int:
    """A descriptor of the template; in a thread that ends after it."""
    syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _detach_network_namespaces()
    files.show(etc)
    before = os.open("/var", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.mount("tmpfs", "/var", "tmpfs", syscalls.MS_NOSUID, "mode=755")
        _show_again(Path(f"/proc/thread-self/fd/{before}"), Path("/var"))
    finally:
        os.close(before)
    for path in (TASK_ROOT, RUNTIME_DIRECTORY, LANGUAGE_DIRECTORY):
        _make(Path(path))
    _CODE.mkdir(mode=0o700)
    _UPLOADS.mkdir(mode=0o700)
    if launch.INIT.exists():
        shutil.copyfile(launch.INIT, _INIT)
        _INIT.chmod(0o700)
    syscalls.mount(uploads, _UPLOADS, None, syscalls.MS_BIND)
    if sys.base_prefix != _SYSTEM_PREFIX:
        bind = syscalls.MS_BIND | syscalls.MS_REC
        syscalls.mount(sys.base_prefix, LANGUAGE_DIRECTORY, None, bind)
    _install_client(Path(RUNTIME_DIRECTORY))
    shutil.copyfile(BOOTSTRAP, Path(RUNTIME_DIRECTORY, BOOTSTRAP.name))
    Path(RUNTIME_DIRECTORY, BOOTSTRAP.name).chmod(0o644)
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
    for parent, _, entries in os.walk(directory):
        Path(parent).chmod(0o755)
        for file in entries:
            Path(parent, file).chmod(0o644)
