# SPDX-License-Identifier: Apache-2.0
"""Run a program inside a namespace, from a process that stays outside.

Theory of operation
-------------------
Each run has a thread of its own. It enters the network namespace, and the program that it starts
inherits that (see `launch`). The thread then waits for the end, feeds and reads the pipes, and
cleans up; the event loop waits for nothing but the outcome.

A run ends when the program does, at the timeout, or when it is cancelled. Whatever is left of it
ends with its process namespace; a shell that somebody has opened in the network namespace
survives. Only after that are the pipes read to their end, which nobody can keep open any more.

Output is kept for the outcome, or an `Output` has it as it comes: the event loop then reads the
pipes, whenever whoever takes it is ready for more. They are all that is between the two, so the
program waits for a reader that is slow, and what it left in them is still there after its end.

The program has mounts of its own, so that its /proc shows its processes and its /etc the names of
its network (`files`); all else is the host's, what is mounted there meanwhile included, and so is
/sys.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netns import files, launch, namespace, syscalls
from netns.errors import NetnsError, from_errno

OUTPUT_BYTES_MAX = 1 << 20

STDOUT, STDERR = 1, 2
"""Their descriptors: stdout(3)."""

_READ_BYTES = 1 << 16
# More than this would not be started sooner, and keep the event loop from its work.
_STARTS = threading.BoundedSemaphore(2)
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


class Output:
    """What one program writes, as it comes; a context, whose end closes the pipes.

    Belongs to the running event loop, but for `theirs`.
    """

    def __init__(self) -> None:
        """Raises `NetnsError` when there are no pipes left."""
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the program runs."""
        self._ours: dict[int, int] = {}
        self._theirs: list[int] = []
        self._asking = threading.Lock()
        try:
            for number in (STDOUT, STDERR):
                ours, theirs = os.pipe2(os.O_CLOEXEC)
                self._ours[ours] = number
                self._theirs.append(theirs)
                os.set_blocking(ours, False)
        except OSError as error:
            self._close()
            raise from_errno("cannot make a pipe", error.errno or 0) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for descriptor in (*self._ours, *self.theirs()):
            os.close(descriptor)
        self._ours.clear()

    def theirs(self) -> list[int]:
        """The ends that are the program's, STDOUT's first: whoever asks first closes them."""
        # The thread of a run may ask while the context ends.
        with self._asking:
            theirs, self._theirs = self._theirs, []
        return theirs

    async def read(self, running: asyncio.Future[Any]) -> list[tuple[int, bytes]]:
        """What has come: STDOUT or STDERR and at most 64 KiB, of each at most once.

        Waits until there is something. Nothing when both are closed, or when `running` is done,
        whoever else still has the pipes, and all that was written until then has been read.
        """
        while True:
            over = running.done()
            if pieces := self._read():
                return pieces
            if over or not self._ours:
                return []
            await self._wait(running)

    def _read(self) -> list[tuple[int, bytes]]:
        pieces = []
        for descriptor, number in list(self._ours.items()):
            try:
                data = os.read(descriptor, _READ_BYTES)
            except BlockingIOError:
                continue
            if data:
                pieces.append((number, data))
            else:
                del self._ours[descriptor]
                os.close(descriptor)
        return pieces

    async def _wait(self, running: asyncio.Future[Any]) -> None:
        loop = asyncio.get_running_loop()
        come = loop.create_future()

        def wake() -> None:
            if not come.done():
                come.set_result(None)

        watched = list(self._ours)
        for descriptor in watched:
            loop.add_reader(descriptor, wake)
        try:
            await asyncio.wait({come, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for descriptor in watched:
                loop.remove_reader(descriptor)


async def run(
    name: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout_seconds: float | None = None,
    output_bytes_max: int = OUTPUT_BYTES_MAX,
    etc: Path | None = None,
    output: Output | None = None,
) -> Outcome:
    """Run a program inside namespace `name` and wait for its end.

    `env` is its whole environment, this process's when None; a name without a slash is looked for
    in its PATH. `stdin` is what it reads, nothing when None. `timeout_seconds` counts from its
    start. Of each of stdout and stderr the first `output_bytes_max` bytes are kept; the rest is
    read and forgotten. With `output` all of it goes there, and none is kept. `etc` has the files of
    /etc that it sees (`netns.files`); those of the host when None.

    When this returns, raises or is cancelled, nothing of it runs any more anywhere.
    Raises `ProgramError` when the program cannot be run, else `NetnsError`.
    """
    loop = asyncio.get_running_loop()

    def started() -> None:
        if output is not None:
            loop.call_soon_threadsafe(output.started.set_result, None)

    program = _Program(
        command, env, stdin or b"", timeout_seconds, output_bytes_max, etc, output, started
    )
    begin = time.perf_counter()
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
    etc: Path | None
    output: Output | None
    started: Callable[[], None]


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
    with contextlib.ExitStack() as stack:
        pipes = stack.enter_context(_Pipes(program))
        with _STARTS:
            _enter(name, program.etc)
            process = _start(program, pipes)
        started = time.perf_counter()
        deadline = None
        if program.timeout_seconds is not None:
            deadline = started + program.timeout_seconds
        try:
            program.started()
            in_time = pipes.serve(process.pid, cancelled, deadline)
            elapsed = time.perf_counter() - started
        finally:
            status = process.end()
        pipes.drain()
        return Outcome(
            status=status,
            stdout=bytes(pipes.stdout.kept),
            stderr=bytes(pipes.stderr.kept),
            truncated=pipes.stdout.truncated or pipes.stderr.truncated,
            timed_out=not in_time,
            started_seconds=started - begin,
            elapsed_seconds=elapsed,
        )


def _enter(name: str, etc: Path | None) -> None:
    """Take the calling thread into a network namespace, and into mounts of its own."""
    namespace.enter(name)
    try:
        syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
        # What is mounted on the host is seen here, and not the other way round.
        syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        raise from_errno(f"cannot make mounts for {name}", error.errno or 0) from None
    if etc is not None:
        files.show(etc, name=name)
        files.be_called(etc)


def _start(program: _Program, pipes: _Pipes) -> launch.Program:
    command = program.command
    if not command or not command[0]:
        raise ProgramError("no program is given", "name one", code=errno.ENOENT)
    try:
        with pipes.theirs() as (stdin, stdout, stderr):
            return launch.start(
                command,
                env=program.env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                mount_proc=True,
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


class _Kept:
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
    """A program's pipes; the ends that are ours are closed at the end."""

    def __init__(self, program: _Program) -> None:
        limit = program.output_bytes_max
        self.stdout, self.stderr = _Kept(limit), _Kept(limit)
        self._poll = select.poll()
        self._outputs: dict[int, _Kept] = {}
        self._input = memoryview(program.stdin)
        self._open: set[int] = set()
        self._theirs: list[int] = []
        if program.stdin:
            theirs, ours = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(theirs)
            self._add(ours, select.POLLOUT)
        else:
            self._theirs.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        if program.output is not None:
            self._theirs += program.output.theirs()
            return
        for output in (self.stdout, self.stderr):
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(theirs)
            self._add(ours, select.POLLIN)
            self._outputs[ours] = output

    def _add(self, descriptor: int, events: int) -> None:
        os.set_blocking(descriptor, False)
        self._open.add(descriptor)
        self._poll.register(descriptor, events)

    @contextlib.contextmanager
    def theirs(self) -> Iterator[list[int]]:
        """The ends that are the program's: standard input, output, error; closed here after."""
        try:
            yield self._theirs
        finally:
            while self._theirs:
                os.close(self._theirs.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in [*self._open, *self._theirs]:
            os.close(descriptor)

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
        self._open.discard(descriptor)
        os.close(descriptor)
