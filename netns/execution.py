# SPDX-License-Identifier: Apache-2.0
"""Run a program inside a namespace, from a process that stays outside.

Theory of operation
-------------------
Each run has a thread of its own. It enters the namespace, and the program it starts inherits
that; `subprocess` uses vfork(2) here, so nothing is copied however big this process is, and the
interpreter is held only until the exec. The thread then waits for the end, feeds and reads the
pipes, and cleans up; the event loop waits for nothing but the outcome.

A run ends when the program does, at the timeout, or when it is cancelled. Whatever is left of it
is then killed: its session's process group, and every process in the namespace that started since
(see `processes`), for one environment serves one invocation at a time. A shell that somebody
opened in the namespace before the run survives. Only after that are the pipes read to their end:
a grandchild that kept them open is gone, and one that got away is not waited for.

The program sees the host's /sys: a mount namespace of its own would copy the mounts of all other
namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from netns import namespace, processes
from netns.errors import NetnsError, from_errno

OUTPUT_BYTES_MAX = 1 << 20

_READ_BYTES = 1 << 16
_ENDING_SECONDS = 5.0
_UMASK = 0o022
# execve(2): what these say is about the program, the rest about this host.
_ABOUT_THE_PROGRAM = {
    errno.ENOENT: "check the name, or give the whole path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a program, not a directory",
    errno.EACCES: "make it executable",
    errno.ENOEXEC: "give it a #! line, or run it with its interpreter",
    errno.ELOOP: "check its symbolic links",
    errno.ENAMETOOLONG: "check the name",
    errno.E2BIG: "pass less in arguments and environment",
    errno.ETXTBSY: "close it for writing first",
}


class ProgramError(NetnsError):
    """The program cannot be run; `code` is the errno of execve(2): ENOENT when there is none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    status: int
    """Exit status; the negative number of the signal that killed it."""
    stdout: bytes
    stderr: bytes
    truncated: bool
    """Whether there was more output than was kept."""
    timed_out: bool
    started_seconds: float
    """From the call until the program was running."""
    elapsed_seconds: float
    """From then until it ended, clean-up not included."""


async def run(
    name: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout_seconds: float | None = None,
    output_bytes_max: int = OUTPUT_BYTES_MAX,
) -> Outcome:
    """Run a program inside namespace `name` and wait for its end.

    `env` is its whole environment, this process's when None; a name without a slash is looked for
    in its PATH. `stdin` is what it reads, nothing when None. `timeout_seconds` counts from its
    start. Of each of stdout and stderr the first `output_bytes_max` bytes are kept; the rest is
    read and forgotten.

    When this returns, raises or is cancelled, nothing of it runs any more in the namespace.
    Raises `ProgramError` when the program cannot be run, else `NetnsError`.
    """
    program = _Program(command, env, stdin or b"", timeout_seconds, output_bytes_max)
    begin = time.perf_counter()
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []
    cancelled = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def work() -> None:
        try:
            outcomes.append(_run(name, program, begin, cancelled))
        except BaseException as error:
            failures.append(error)
        # RuntimeError: the loop is closed, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set_result, None)

    try:
        threading.Thread(target=work, name=f"run {name}", daemon=True).start()
        await _wait(ended, cancelled)
    finally:
        os.close(cancelled)
    if failures:
        try:
            raise failures[0]
        finally:
            # The traceback refers to this frame: without this, a cycle keeps both.
            failures.clear()
    return outcomes[0]


@dataclass(frozen=True, slots=True)
class _Program:
    """What to run, as `run` has it."""

    command: Sequence[str]
    env: Mapping[str, str] | None
    stdin: bytes
    timeout_seconds: float | None
    output_bytes_max: int


async def _wait(ended: asyncio.Future[None], cancelled: int) -> None:
    """Wait until the thread is through, also when cancelled; raises `CancelledError` then."""
    interrupt: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            interrupt = error
            os.eventfd_write(cancelled, 1)
    if interrupt is not None:
        raise interrupt


def _run(name: str, program: _Program, begin: float, cancelled: int) -> Outcome:
    with namespace.opened(name) as descriptor, contextlib.ExitStack() as stack:
        namespace.join(descriptor, name)
        since = processes.now()
        process = _start(program)
        started = time.perf_counter()
        pipes = stack.enter_context(_Pipes(process, program.stdin, program.output_bytes_max))
        deadline = None
        if program.timeout_seconds is not None:
            deadline = started + program.timeout_seconds
        try:
            in_time = pipes.serve(process.pid, cancelled, deadline)
            elapsed = time.perf_counter() - started
        finally:
            _end(process)
            processes.kill([processes.identity(descriptor)], since)
        pipes.drain()
        return Outcome(
            status=process.returncode,
            stdout=bytes(pipes.stdout.kept),
            stderr=bytes(pipes.stderr.kept),
            truncated=pipes.stdout.truncated or pipes.stderr.truncated,
            timed_out=not in_time,
            started_seconds=started - begin,
            elapsed_seconds=elapsed,
        )


def _start(program: _Program) -> subprocess.Popen[bytes]:
    command = program.command
    if not command or not command[0]:
        raise ProgramError("no program is given", "name one", code=errno.ENOENT)
    try:
        return subprocess.Popen(
            list(command),
            env=program.env,
            stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            # Ours may keep files to ourselves; what a program writes is its own affair.
            umask=_UMASK,
        )
    except OSError as error:
        code = error.errno or 0
        what = f"cannot run {command[0]!r}"
        if code in _ABOUT_THE_PROGRAM:
            reason = f"{what}: {os.strerror(code)}"
            raise ProgramError(reason, _ABOUT_THE_PROGRAM[code], code=code) from None
        raise from_errno(what, code) from None
    except ValueError as error:
        # A null byte, or a variable with an equals sign in its name.
        raise ProgramError(
            f"cannot run {command[0]!r}: {error}",
            "check its arguments and environment",
            code=errno.EINVAL,
        ) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a program's process group and wait for the program."""
    # Until it is waited for, its number is its own, and that of its process group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        raise NetnsError(
            f"process {process.pid} does not end",
            f"see what state it is in: ps -o pid,stat,wchan,cmd {process.pid}",
        ) from None


class _Output:
    """What a program wrote, as far as it is kept."""

    def __init__(self, limit: int) -> None:
        self.kept = bytearray()
        self.truncated = False
        self._limit = limit

    def add(self, data: bytes) -> None:
        room = self._limit - len(self.kept)
        self.kept += data[:room]
        self.truncated = self.truncated or len(data) > room


class _Pipes:
    """The ends of a program's pipes that are ours, closed at the end."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, limit: int) -> None:
        self.stdout, self.stderr = _Output(limit), _Output(limit)
        self._poll = select.poll()
        self._files = {
            file.fileno(): file
            for file in (process.stdin, process.stdout, process.stderr)
            if file is not None
        }
        self._outputs: dict[int, _Output] = {}
        self._input = memoryview(stdin)
        for descriptor in self._files:
            os.set_blocking(descriptor, False)
        for file, output in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            if file is not None:
                self._outputs[file.fileno()] = output
                self._poll.register(file.fileno(), select.POLLIN)
        if process.stdin is not None:
            self._poll.register(process.stdin.fileno(), select.POLLOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in list(self._files):
            self._close(descriptor)

    def serve(self, pid: int, cancelled: int, deadline: float | None) -> bool:
        """Move data until process `pid` has ended; False when it was cancelled or out of time."""
        try:
            watched = os.pidfd_open(pid)
        except OSError as error:
            raise from_errno("cannot watch a process", error.errno or 0) from None
        try:
            return self._serve(watched, cancelled, deadline)
        finally:
            os.close(watched)

    def _serve(self, watched: int, cancelled: int, deadline: float | None) -> bool:
        self._poll.register(watched, select.POLLIN)
        self._poll.register(cancelled, select.POLLIN)
        while True:
            left = None
            if deadline is not None:
                left = max(0.0, deadline - time.perf_counter()) * 1000
            ready = {descriptor for descriptor, _ in self._poll.poll(left)}
            if watched in ready:
                return True
            if cancelled in ready or (deadline is not None and time.perf_counter() >= deadline):
                return False
            for descriptor in ready:
                self._move(descriptor)

    def drain(self) -> None:
        """Read what is left in the pipes, without waiting for more."""
        for descriptor in list(self._outputs):
            while self._move(descriptor):
                pass

    def _move(self, descriptor: int) -> bool:
        """One read or write; whether there may be more to do at once."""
        try:
            if (output := self._outputs.get(descriptor)) is not None:
                data = os.read(descriptor, _READ_BYTES)
                output.add(data)
                more = bool(data)
            else:
                self._input = self._input[os.write(descriptor, self._input[:_READ_BYTES]) :]
                more = bool(self._input)
        except BlockingIOError:
            return False
        except BrokenPipeError:
            more = False
        if not more:
            self._close(descriptor)
        return more

    def _close(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._outputs.pop(descriptor, None)
        self._files.pop(descriptor).close()
