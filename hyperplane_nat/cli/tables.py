# SPDX-License-Identifier: Apache-2.0
"""Tables: boxes on a terminal, tab-separated rows in a pipe.

On a terminal a table keeps to its width: columns go, the highest rank first, until the rest fits,
and a line below names them. A cell is never broken, since half an address is none.

A compact table is for a screen of a fixed size: a heading, and a line for each row, without boxes,
title and remarks; what does not fit its line ends in an ellipsis.

Characters that are not printable, such as the beginnings of a terminal's escape sequences, are
shown in Python's notation, whoever wrote them.

In a pipe every row is a line, its cells are separated by tabs, and a cell of several lines has them
separated by semicolons. The first line of a table has the headings. What is no row, the title of a
table before its headings and a remark, is a line that begins with `# `: an output of several tables
is taken apart by these lines, and one is rows alone without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

_FRAME = 1
_PADDING = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, whether numbers stand below it, and its rank: 0 is a column that always stays."""

    heading: str
    numeric: bool = False
    rank: int = 0


def visible(text: str) -> str:
    """The text on one line, with an escape for each character that is not printable."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


@dataclass(frozen=True, slots=True)
class Remark:
    """A line about a table. Its text is never taken for markup."""

    text: str

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        yield Text(self.text if console.is_terminal else f"# {self.text}")


def _text(cell: str | Text) -> Text:
    if isinstance(cell, Text):
        return cell
    return Text("\n".join(map(visible, cell.split("\n"))))


class Table:
    """Rows under columns; for rich's consoles to print. Text in cells is never taken for markup."""

    def __init__(
        self, title: str | None, columns: Iterable[Column], *, compact: bool = False
    ) -> None:
        self._title = title
        self._compact = compact
        self._columns = list(columns)
        self._rows: list[tuple[Text, ...]] = []
        self._section_ends: set[int] = set()
        self._headed = any(column.heading for column in self._columns)

    def add_row(self, *cells: str | Text, end_section: bool = False) -> None:
        """A cell for each column."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        self._rows.append(tuple(map(_text, cells)))
        if end_section:
            self._section_ends.add(len(self._rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_terminal:
            yield self._boxed(options.max_width)
            return
        if self._title is not None:
            yield Remark(self._title)
        headings = [[column.heading for column in self._columns]] if self._headed else []
        for cells in (*headings, *self._rows):
            yield Segment("\t".join("; ".join(str(cell).splitlines()) for cell in cells))
            yield Segment.line()

    def _boxed(self, width: int) -> RichTable:
        shown = self._shown(width)
        hidden = [
            column.heading for index, column in enumerate(self._columns) if index not in shown
        ]
        result = RichTable(
            show_header=self._headed,
            title=None if self._compact else self._title,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            caption=f"not shown: {', '.join(hidden)}" if hidden and not self._compact else None,
            caption_justify="left",
        )
        if self._compact:
            result.box, result.padding = None, (0, _PADDING, 0, 0)
        for index in shown:
            column = self._columns[index]
            result.add_column(
                column.heading,
                justify="right" if column.numeric else "left",
                overflow="ellipsis" if self._compact else "fold",
                no_wrap=self._compact,
                # What is to stay whole has its width; only a terminal too narrow for the columns
                # that always stay makes cells fold.
                min_width=None if self._needed(shown) > width else self._width(index),
            )
        for number, row in enumerate(self._rows):
            result.add_row(
                *(row[index] for index in shown), end_section=number in self._section_ends
            )
        return result

    def _shown(self, width: int) -> list[int]:
        """The columns that fit, in their order."""
        shown = list(range(len(self._columns)))
        while self._needed(shown) > width:
            last = max(shown, key=lambda index: (self._columns[index].rank, index))
            if self._columns[last].rank == 0:
                break
            shown.remove(last)
        return shown

    def _needed(self, shown: Sequence[int]) -> int:
        frame = 0 if self._compact else _FRAME
        return frame + sum(self._width(index) + _PADDING + frame for index in shown)

    def _width(self, index: int) -> int:
        lines = [self._columns[index].heading]
        for row in self._rows:
            lines += str(row[index]).splitlines()
        return max(map(cell_len, lines))
