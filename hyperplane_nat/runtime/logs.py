# SPDX-License-Identifier: Apache-2.0
"""What functions write: a file per function, and the end of it for `LogType: Tail`.

A line of the file is the time, the environment and what was written; the lines of one environment
keep their order. A file of more than `FILE_BYTES_MAX` becomes `….log.1`, and the former one goes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

FILE_BYTES_MAX = 4 << 20

TAIL_BYTES = 4096
"""What `LogType: Tail` answers with (Lambda API, Invoke: the last 4 KB)."""

LINE_BYTES_MAX = 256 << 10
"""A line that is longer is written as several (CloudWatch Logs: 256 KB for an event)."""

TURN_BYTES = 16 << 10
"""What is read before others have their turn. Each of the bytes may be a line, which is written
with time and environment; so what floods a log delays others by about a millisecond a turn."""

PIPE_BYTES = 64 << 10
"""What may have been written and not read yet (pipe(7))."""

log = logging.getLogger(__name__)


def log_path(directory: Path, function: str) -> Path:
    """The log of a function in a lab's directory."""
    return directory / f"function-{function}.log"


class LogFile(Protocol):
    """What is written to."""

    def append(self, text: bytes) -> None:
        """OSError."""


def open_log(path: Path) -> int:
    """A descriptor to append to the log at `path`. OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def turn_over(path: Path) -> None:
    """Let the log at `path` be the former one. OSError."""
    path.replace(path.with_name(f"{path.name}.1"))


class FunctionLog:
    """What one function writes."""

    def __init__(self, file: LogFile, now: Callable[[], float]) -> None:
        """`now` is the time in seconds since the epoch."""
        self._file = file
        self._now = now

    def write(self, source: str, lines: bytes) -> None:
        """Append lines, the last without its end; what cannot be written is lost and said once
        more.
        """
        time = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        prefix = f"{time}Z {source} ".encode()
        text = prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n"
        try:
            self._file.append(text)
        except OSError as error:
            log.error("cannot write the log of %s: %s", source, error.strerror)


class Output:
    """What one environment writes: cut into lines, for its function's log and for the tail."""

    def __init__(self, function_log: FunctionLog, source: str) -> None:
        self._log = function_log
        self._source = source
        self._rest = b""
        self._tail = bytearray()

    def begin(self) -> None:
        """From here on is the tail of an invocation."""
        self._tail.clear()

    @property
    def tail(self) -> bytes:
        """The last of what was written since `begin`, as much as Lambda answers with."""
        return bytes(self._tail[-TAIL_BYTES:])

    def line(self, text: str) -> None:
        """A line of the service's own; what was begun before it ends."""
        self.flush()
        self._put(text.encode())

    def add(self, data: bytes) -> None:
        """Something that the runtime has written."""
        text = self._rest + data
        end = text.find(b"\n")
        # The others are no longer than what is new.
        first = len(text) if end < 0 else end
        cut = 0
        while first - cut > LINE_BYTES_MAX:
            self._put(text[cut : cut + LINE_BYTES_MAX])
            cut += LINE_BYTES_MAX
        lines, ended, self._rest = text[cut:].rpartition(b"\n")
        if ended:
            self._put(lines)

    def flush(self) -> None:
        """Write a line that has no end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._put(rest)

    def _put(self, lines: bytes) -> None:
        self._log.write(self._source, lines)
        self._tail += lines[-TAIL_BYTES:] + b"\n"
        del self._tail[:-TAIL_BYTES]


def drain(descriptor: int, output: Output, count: int) -> bool:
    """Read what there is, up to `count` bytes; False when nobody can write any more."""
    with contextlib.suppress(BlockingIOError):
        while count > 0:
            data = os.read(descriptor, min(count, TURN_BYTES))
            if not data:
                return False
            output.add(data)
            count -= len(data)
    return True
