# SPDX-License-Identifier: Apache-2.0
"""The error of whoever writes a configuration: apart from it, for who only has to recognize it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    source: str
    """The file, or where else it came from; empty where there is nothing else."""
    line: int | None
    """In the file, from 1."""
    entry: str
    """The entry of a list that it is in, `[[vpc]] "customer", subnet "a"`; empty in a section."""
    field: str
    """The field within the entry, or `section.field`; empty when it is the entry itself."""
    what: str
    remedy: str

    def __str__(self) -> str:
        source = self.source if self.line is None else f"{self.source}:{self.line}"
        where = ": ".join(filter(None, (source, self.entry, self.field)))
        return f"{where}: {self.what} ({self.remedy})"

    def document(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)


class ConfigError(Exception):
    """A configuration that cannot be used; the text is a line, with the remedy, for each problem.

    `problems` has them apart; none when it is not a field that is wrong, but the whole file.
    """

    def __init__(self, text: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)

    @property
    def line(self) -> str:
        """The text as one line."""
        return "; ".join(str(self).splitlines())

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """The error of so many problems."""
        return cls("\n".join(map(str, problems)), problems)
