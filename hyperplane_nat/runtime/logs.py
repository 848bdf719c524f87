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

FILE_BYTES_MAX = 4 << 20

TAIL_BYTES = 4096
"""What `LogType: Tail` answers with (Lambda API, Invoke: the last 4 KB)."""

LINE_BYTES_MAX = 256 << 10
"""A line that is longer is written as several (CloudWatch Logs: 256 KB for an event)."""

_READS = 8
"""Of 64 KiB each, before others have their turn: what floods a log delays nobody."""

log = logging.getLogger(__name__)


def log_path(directory: Path, function: str) -> Path:
    """The log of a function in a lab's directory."""
    return directory / f"function-{function}.log"


class FunctionLog:
    """The file of one function."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """`now` is the time in seconds since the epoch."""
        self._path = path
        self._now = now

    def write(self, source: str, lines: list[bytes]) -> None:
        """Append lines, each without its end; what cannot be written is lost and said once more."""
        time = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        prefix = f"{time}Z {source} ".encode()
        text = b"".join(prefix + line + b"\n" for line in lines)
        try:
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                os.write(descriptor, text)
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            if size > FILE_BYTES_MAX:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError as error:
            log.error("cannot write %s: %s", self._path, error.strerror)


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
        self._put([text.encode()])

    def add(self, data: bytes) -> None:
        """Something that the runtime has written."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]
        if lines:
            self._put(lines)

    def flush(self) -> None:
        """Write a line that has no end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._put([rest])

    def _put(self, lines: list[bytes]) -> None:
        self._log.write(self._source, lines)
        self._tail += b"".join(line + b"\n" for line in lines)
        del self._tail[:-TAIL_BYTES]


def drain(descriptor: int, output: Output) -> bool:
    """Read what there is, up to a budget; False when nobody can write any more."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_READS):
            data = os.read(descriptor, 1 << 16)
            if not data:
                return False
            output.add(data)
    return True
