# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar with the time left on a terminal, a line per step elsewhere.

Every step says beforehand how long it should take. What is left is scaled by how the steps so far
compared with their estimates, so that a slower machine gets an honest answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


def clock_text(seconds: float) -> str:
    """Minutes and seconds: 1:05."""
    whole = max(round(seconds), 0)
    return f"{whole // 60}:{whole % 60:02d}"


class Pace:
    """Time taken and time left."""

    def __init__(self, total_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self.total = max(total_seconds, 1.0)
        self.done = 0.0

    def advance(self, estimated_seconds: float) -> None:
        """A step is over that was estimated so."""
        self.done = min(self.done + estimated_seconds, self.total)

    def skip(self, estimated_seconds: float) -> None:
        """A step that was estimated so will not be made."""
        self.total = max(self.total - estimated_seconds, self.done, 1.0)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds that the rest should take."""
        # A tenth of the whole says more than the first step alone.
        trust = min(self.done / (0.1 * self.total), 1.0)
        measured = self.elapsed / self.done if self.done else 1.0
        return (self.total - self.done) * (1 + trust * (measured - 1))


class Display:
    """Shows a `Pace`; a context."""

    def __init__(self, console: Console, total_seconds: float) -> None:
        self.pace = Pace(total_seconds)
        self._console = console
        self._said: set[str] = set()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        left = clock_text(self.pace.left)
        self._task = self._bar.add_task("starting", total=self.pace.total, left=left)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, what: str, detail: str = "") -> None:
        """What is being done; only the first part gets a line where there is no terminal."""
        left = clock_text(self.pace.left)
        text = f"{what} ({detail})" if detail else what
        self._bar.update(self._task, description=text, completed=self.pace.done, left=left)
        if what not in self._said and not self._console.is_terminal:
            self._console.print(f"[{clock_text(self.pace.elapsed)}, {left} left] {what}")
        self._said.add(what)

    def advance(self, estimated_seconds: float) -> None:
        """A step is over."""
        self.pace.advance(estimated_seconds)
        left = clock_text(self.pace.left)
        self._bar.update(self._task, completed=self.pace.done, total=self.pace.total, left=left)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text)
