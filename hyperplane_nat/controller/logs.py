# SPDX-License-Identifier: Apache-2.0
"""Logs of a lab: how lines look, how many there may be, and how large files may become.

Theory of operation
-------------------
A log is held open by whoever writes it, as standard output, for as long as it lives, and processes
outlive their controller: a file that was renamed would be written on, and a pipe to the controller
would break with it. So the controller copies a log that is full to a numbered one and empties it
(`bound`); everybody appends (O_APPEND), and goes on at the beginning. A line that comes between
copy and emptying is lost. Nobody but the lab's controller does this; it looks now and then
(`log_keeper`), and before it starts a process, but not while it waits for what the process says
there.

Lines of one kind, which is one place in the program, have a burst and then a rate (`RateLimit`);
the next one that passes says how many did not. Where standard error is the journal's, a line begins
with its priority (sd-daemon(3)) and has no time of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

BYTES_MAX = 4 << 20
"""Size at which a log is emptied; it is in memory, where the runtime directory is a tmpfs."""

KEPT = 2
"""Numbered logs beside each, of `BYTES_MAX` at most; 1 is the newest."""

BURST = 100
"""Lines of one kind that pass at once."""

RATE = 5.0
"""Lines of one kind that pass in a second from then on."""

_PIECE_BYTES = 1 << 20

_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""Of syslog(3)."""

log = logging.getLogger(__name__)


def configure(
    stream: TextIO | None = None, environment: Mapping[str, str] | None = None
) -> logging.Handler:
    """Send the log of this process to `stream`, standard error unless told otherwise."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if is_journal(stream, os.environ if environment is None else environment):
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        text = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(text))
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler


def restore(path: Path) -> None:
    """Make the log of this process anew if that is `path` and somebody has removed it.

    Whoever takes a lab away takes its log, also that of a controller which has only been started.
    By who has the lab's lock; OSError.
    """
    if Path("/proc/self/fd/2").readlink() != Path(f"{path} (deleted)"):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream goes to the journal: JOURNAL_STREAM of systemd.exec(5) names its file."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def error_line(text: str) -> str:
    """A line for standard error beside the log."""
    if not is_journal(sys.stderr, os.environ):
        return text
    return f"<{_PRIORITIES[logging.ERROR]}>{text}"


class JournalFormatter(logging.Formatter):
    """Lines with the priority that the journal takes from their beginning."""

    def format(self, record: logging.LogRecord) -> str:
        """Each line of a traceback has it."""
        mark = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


class _Bucket:
    def __init__(self, now: float) -> None:
        self.lines = float(BURST)
        self.filled = now
        self.refused = 0


class RateLimit(logging.Filter):
    """Lets `BURST` lines of a kind pass at once, and `RATE` in a second from then on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # One for each place in the program that logs.
        self._buckets: dict[tuple[str, int], _Bucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it passes; it is told then how many did not."""
        now = self._clock()
        bucket = self._buckets.setdefault((record.pathname, record.lineno), _Bucket(now))
        bucket.lines = min(bucket.lines + (now - bucket.filled) * RATE, BURST)
        bucket.filled = now
        if bucket.lines < 1:
            bucket.refused += 1
            return False
        bucket.lines -= 1
        if bucket.refused:
            record.msg = f"{record.getMessage()} ({bucket.refused} like it were left out)"
            record.args = ()
            bucket.refused = 0
        return True


def numbered(path: Path, number: int) -> Path:
    """An older part of a log."""
    return path.with_name(f"{path.name}.{number}")


def bound(path: Path, bytes_max: int = BYTES_MAX) -> bool:
    """Keep a log of more than `bytes_max` as a numbered one and empty it; whether it was so.

    Of one that is far larger its end is kept. Raises OSError when there is no room; the log is
    emptied all the same.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= bytes_max:
        return False
    for number in range(KEPT, 1, -1):
        with contextlib.suppress(FileNotFoundError):
            numbered(path, number - 1).replace(numbered(path, number))
    try:
        _copy_end(path, numbered(path, 1), size - bytes_max)
    finally:
        os.truncate(path, 0)
    return True


def _copy_end(source: Path, target: Path, start: int) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        old.seek(start)
        # Begin with a whole line.
        if start:
            old.readline(_PIECE_BYTES)
        while piece := old.read(_PIECE_BYTES):
            new.write(piece)
