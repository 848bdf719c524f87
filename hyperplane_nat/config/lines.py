# SPDX-License-Identifier: Apache-2.0
"""Where things are in a TOML file.

tomllib says what a file holds and not where; the grammar of tree-sitter keeps the positions. It is
asked only when something is wrong with the file, about a text that tomllib has read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

Path = tuple[str | int, ...]
"""Keys, and places in lists from 0."""


class Lines:
    """The lines of a TOML text by what is on them."""

    def __init__(self, text: str) -> None:
        language = Language(tree_sitter_toml.language())
        root = Parser(language).parse(text.encode()).root_node
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        for node in root.named_children:
            if node.type == "pair":
                self._pair((), node)
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def of(self, path: Path) -> int | None:
        """The line, from 1, of the nearest thing around `path` that is in the text."""
        for length in range(len(path), 0, -1):
            if (line := self._lines.get(path[:length])) is not None:
                return line
        return None

    def _table(self, node: Node) -> None:
        head, *pairs = node.named_children
        *above, last = _keys(head)
        path: Path = ()
        for key in above:
            path = self._newest((*path, key))
        path = (*path, last)
        if node.type == "table_array_element":
            self._lines.setdefault(path, _line(node))
            count = self._counts.get(path, 0)
            self._counts[path] = count + 1
            path = (*path, count)
        self._lines[path] = _line(node)
        for pair in pairs:
            if pair.type == "pair":
                self._pair(path, pair)

    def _newest(self, path: Path) -> Path:
        """What a header refers to by a key: of a list, its last table (TOML, "Array of Tables")."""
        count = self._counts.get(path)
        return path if count is None else (*path, count - 1)

    def _pair(self, path: Path, node: Node) -> None:
        key, value = (each for each in node.named_children if each.type != "comment")
        for part in _keys(key):
            path = (*path, part)
            self._lines.setdefault(path, _line(node))
        self._value(path, value)

    def _value(self, path: Path, node: Node) -> None:
        children = [each for each in node.named_children if each.type != "comment"]
        if node.type == "inline_table":
            for child in children:
                self._pair(path, child)
        elif node.type == "array":
            for number, child in enumerate(children):
                self._lines[*path, number] = _line(child)
                self._value((*path, number), child)


def _line(node: Node) -> int:
    return node.start_point.row + 1


def _keys(node: Node) -> list[str]:
    assert node.text is not None
    return list(_nested(tomllib.loads(f"{node.text.decode()} = 0")))


def _nested(document: Mapping[str, object]) -> Iterator[str]:
    """The keys of a document that has one at each depth."""
    for key, value in document.items():
        yield key
        if isinstance(value, Mapping):
            yield from _nested(value)
