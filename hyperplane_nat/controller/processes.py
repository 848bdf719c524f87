# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive their controller: started, recognised again, watched and ended.

A process is held by a pidfd, so a signal can never reach a stranger that got the same pid. To be
recognised after the controller was killed, a process leaves three marks: a pid file with its pid,
start time and a word of its command line; that word in /proc/<pid>/cmdline; and the lab's directory
in its environment under `MARK`. A pid file is believed only when all agree. The last mark alone
finds a process whose pid file was never written. That one does nothing yet: until its pid file is
there a process waits for its controller's word, and ends when its controller has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperplane_nat.controller import logs
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.io.handover import Handover

if TYPE_CHECKING:
    import asyncio

MARK = "HYPERPLANE_NAT_LAB_DIRECTORY"
"""Environment variable of a controller and of everything that it starts."""

CONTROLLER = "hyperplane_nat.controller"
"""The module that `up` starts: the word by which a controller is told from what it starts."""

WITHOUT_CERTIFICATES = {"SSL_CERT_FILE": os.devnull}
"""Environment of processes that import aiohttp and ask nobody by TLS: aiohttp reads the host's
certificates when it is imported, which takes a third of the start of a server."""

_WITHOUT_PLUGINS = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""Pydantic looks for its plugins among all that is installed, which takes as long as a fifth of the
configuration's models; those of nobody else are to have a say in a lab."""

_INHERITED = ("PATH", "LANG", "LC_", "TZ", "TMPDIR", "PYTHON", "LD_")
"""How variables begin that say where programs and their libraries are, and how to speak; nothing
else of whoever calls `up` is the business of a lab's processes."""

_WAITING = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh")
"""Becomes the program behind it when it is given a line, and ends when nobody can give it one."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_KILL_WAIT_SECONDS = 20.0
"""After SIGKILL; only a process stuck in the kernel takes longer."""

_OUTPUT_BYTES = 1 << 20
"""Of a log, more than is looked at in any case."""

_EXITING = 0x4
"""PF_EXITING of proc_pid_stat(5), field 9."""


def start_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot (proc(5)); None when it is gone or a zombie."""
    fields = _stat(pid)
    return None if not fields or fields[0] in (b"Z", b"X") else int(fields[19])


def cpu_seconds(pid: int) -> float:
    """Processor time of `pid`, user and system; 0 when it is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND if fields else 0.0


def _stat(pid: int) -> list[bytes]:
    """The fields of proc_pid_stat(5) from the state on; [] when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    # The command in parentheses may itself contain spaces and parentheses.
    return text.rpartition(b")")[2].split()


def _dying(pid: int) -> bool:
    """Whether `pid` is being killed or ends: it holds what it had and does nothing any more."""
    fields = _stat(pid)
    if not fields or fields[0] in (b"Z", b"X") or int(fields[6]) & _EXITING:
        return True
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    pending = 0
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in ("SigPnd", "ShdPnd"):
            pending |= int(value, 16)
    return bool(pending & 1 << (signal.SIGKILL - 1))


def resident_bytes(pid: int) -> int:
    """Resident memory of `pid`, shared pages included; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _strings(pid: int, what: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().split(b"\0")
    except OSError:
        return []


def _marked(pid: int, directory: Path) -> bool:
    return os.fsencode(f"{MARK}={directory}") in _strings(pid, "environ")


def environment(directory: Path) -> dict[str, str]:
    """The environment of the lab in `directory`: of a controller that `up` starts, and of what any
    controller starts.
    """
    marks = {MARK: str(directory), "PYTHONUNBUFFERED": "1"}
    kept = {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)}
    return {**kept, **WITHOUT_CERTIFICATES, **_WITHOUT_PLUGINS, **marks}


def living(pid_file: Path, directory: Path) -> int | None:
    """The pid of the process that `pid_file` names, if it lives and is this lab's."""
    process = Process.adopt(pid_file, directory)
    if process is None:
        return None
    process.close()
    return process.pid


class Process:
    """A process that a controller of this lab started, be it this one or one before."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        *,
        child: subprocess.Popen[bytes] | None = None,
        held: socket.socket | None = None,
        log: Path | None = None,
        log_offset: int = 0,
    ) -> None:
        self.pid = pid
        self.started = time.monotonic()
        """When it was started or adopted; CLOCK_MONOTONIC, seconds."""
        self._pidfd = pidfd
        self._child = child
        self._held = held
        self._log = log
        self._log_offset = log_offset
        self._exited: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def spawn(
        cls,
        command: Sequence[str],
        word: str,
        *,
        directory: Path,
        pid_file: Path,
        log: Path,
        held: bool = False,
    ) -> Process:
        """Start `command` with its output appended to `log`, and write `pid_file`.

        `word` is the argument by which the command line is recognised. With `held` the process has
        a socket for stdin, by which `go` hands it what it waits for; otherwise it begins as soon as
        the file is there, and has /dev/null. Blocks for milliseconds.
        """
        kind = socket.SOCK_SEQPACKET if held else socket.SOCK_STREAM
        ours, theirs = None, None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            logs.bound(log)
            with log.open("ab") as output:
                offset = output.tell()
                child = subprocess.Popen(
                    command if held else (*_WAITING, *command),
                    stdin=theirs.fileno(),
                    stdout=output,
                    stderr=output,
                    env=environment(directory),
                    cwd="/",
                    # A terminal's Ctrl-C is the controller's to handle.
                    start_new_session=True,
                    bufsize=0,
                )
        except OSError as error:
            if ours is not None:
                ours.close()
            raise ControllerError(
                f"cannot start {word}: {error.strerror or error} (see {log})"
            ) from None
        finally:
            if theirs is not None:
                theirs.close()
        pidfd = os.pidfd_open(child.pid)
        process = cls(child.pid, pidfd, child=child, held=ours, log=log, log_offset=offset)
        process.note(pid_file, word)
        if not held:
            process._release(b"\n")
        return process

    def note(self, pid_file: Path, word: str) -> None:
        """Write the file by which it is adopted; ControllerError, and then it has ended."""
        ticks = start_ticks(self.pid)
        temporary = pid_file.with_suffix(".new")
        try:
            temporary.write_text(f"{self.pid} {ticks or 0} {word}\n", encoding="utf-8")
            temporary.replace(pid_file)
        except OSError as error:
            terminate([self], 0.0)
            raise ControllerError(
                f"cannot write {pid_file}: {error.strerror} (hyperplane-nat down, then up)"
            ) from None

    @classmethod
    def adopt(cls, pid_file: Path, directory: Path) -> Process | None:
        """The living process that `pid_file` names, or None.

        One that is dying is waited for: what it has, others cannot have yet.
        """
        try:
            pid, ticks, word = pid_file.read_text(encoding="utf-8").split()
            number, started = int(pid), int(ticks)
            pidfd = os.pidfd_open(number)
        except (OSError, ValueError):
            return None
        # Checked with the pidfd open: from here on the pid cannot come to mean another process.
        process = cls(number, pidfd)
        fields = _stat(number)
        if not fields or int(fields[19]) != started:
            process.close()
            return None
        ours = os.fsencode(word) in _strings(number, "cmdline") and _marked(number, directory)
        # In this order: who begins to die loses the marks first.
        if _dying(number):
            _wait([process], _KILL_WAIT_SECONDS)
        elif ours:
            return process
        process.close()
        return None

    @classmethod
    def strays(cls, directory: Path) -> list[Process]:
        """Every process that a controller of the lab in `directory` has started, no matter whether
        it has a pid file.
        """
        return cls._of_lab(directory, controllers=False)

    @classmethod
    def controllers(cls, directory: Path) -> list[Process]:
        """What `up` has started as controllers of the lab, also before they have its lock."""
        return cls._of_lab(directory, controllers=True)

    @classmethod
    def _of_lab(cls, directory: Path, *, controllers: bool) -> list[Process]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            if pid == os.getpid() or not _marked(pid, directory):
                continue
            with contextlib.suppress(OSError):
                process = cls(pid, os.pidfd_open(pid))
                is_one = (CONTROLLER in process.command) == controllers
                if is_one and _marked(pid, directory) and start_ticks(pid) is not None:
                    found.append(process)
                else:
                    process.close()
        return found

    @property
    def alive(self) -> bool:
        """Whether it has not exited."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    @property
    def command(self) -> list[str]:
        """Its command line; [] when it has ended."""
        # What was forked has empty words behind the last (`netns.syscalls.set_command_line`).
        text = b"\0".join(_strings(self.pid, "cmdline")).rstrip(b"\0")
        return [os.fsdecode(each) for each in text.split(b"\0")] if text else []

    @property
    def adopted(self) -> bool:
        """Whether something else than this controller started it."""
        return self._child is None

    @property
    def exit_status(self) -> int | None:
        """As `subprocess` tells it; None while it runs and for what is not our child."""
        return self._child.poll() if self._child else None

    def describe_exit(self) -> str:
        """How it ended, for a log line."""
        status = self.exit_status
        if status is None:
            return "ended"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"

    def output(self) -> list[str]:
        """The last lines in its log since it was started or the log was emptied; none for what was
        adopted.
        """
        if self._log is None:
            return []
        try:
            with self._log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                start = self._log_offset if self._log_offset <= size else 0
                log.seek(max(start, size - _OUTPUT_BYTES))
                text = log.read(_OUTPUT_BYTES)
        except OSError:
            return []
        return text.decode(errors="replace").splitlines()

    def says(self, event: str) -> bool:
        """Whether it has written that event, a line of JSON."""
        return any(f'"event": "{event}"' in line for line in self.output())

    def last_words(self) -> str:
        """The last line it wrote that is not an event; empty if there is none."""
        lines = (line.strip() for line in reversed(self.output()))
        return next((line for line in lines if line and not line.startswith("{")), "")

    def go(self, handover: Handover) -> None:
        """Hand what it waits for to a process spawned with `held`; it is closed here.

        One that died meanwhile is no error.
        """
        if self._held is None:
            raise RuntimeError(f"process {self.pid} does not wait for anything")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            handover.send(self._held)
        handover.close()
        self._held.close()
        self._held = None
        self.started = time.monotonic()

    def _release(self, word: bytes) -> None:
        assert self._held is not None
        with self._held, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._held.sendall(word)
        self._held = None

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process is gone."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> None:
        """Return when it has exited; any number of tasks may wait."""
        # Imported here: `up` has no loop, and looks for processes.
        import asyncio

        if self._exited is None:
            self._loop = asyncio.get_running_loop()
            self._exited = self._loop.create_future()
            self._loop.add_reader(self._pidfd, self._on_exit)
        await asyncio.shield(self._exited)

    def _on_exit(self) -> None:
        assert self._loop is not None
        assert self._exited is not None
        self._loop.remove_reader(self._pidfd)
        if self._child is not None:
            self._child.poll()
        if not self._exited.done():
            self._exited.set_result(None)

    def fileno(self) -> int:
        """The pidfd."""
        return self._pidfd

    def unwatch(self) -> None:
        """Leave the event loop, which no thread may touch; whoever still waits is cancelled."""
        if self._loop is None or self._exited is None or self._exited.done():
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._pidfd)
        self._exited.cancel()
        self._exited = self._loop = None

    def close(self) -> None:
        """Let go of the process without ending it. In a thread only what is not watched."""
        self.unwatch()
        if self._held is not None:
            self._held.close()
            self._held = None
        if self._child is not None:
            self._child.poll()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def terminate(processes: Iterable[Process], grace_seconds: float = 1.0) -> list[Process]:
    """End processes: SIGTERM to all, SIGKILL to those still there after `grace_seconds`.

    Blocks until they are gone and closes the handles; returns those that even SIGKILL did not end.
    What an event loop watches is ended by `end`.
    """
    remaining = list(processes)
    for number, wait in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, _KILL_WAIT_SECONDS)):
        for process in remaining:
            process.signal(number)
        remaining = _wait(remaining, wait)
    return remaining


async def end(processes: Iterable[Process]) -> list[Process]:
    """`terminate` without blocking the event loop, which stops watching them first."""
    processes = list(processes)
    for process in processes:
        process.unwatch()
    # As in `Process.wait`.
    from hyperplane_nat.controller.threads import in_thread

    return await in_thread(terminate, processes)


def _wait(processes: list[Process], seconds: float) -> list[Process]:
    """Close the handles of those that exit within `seconds`; the others."""
    by_descriptor = {process.fileno(): process for process in processes}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    while by_descriptor:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            break
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            by_descriptor.pop(descriptor).close()
    return list(by_descriptor.values())
