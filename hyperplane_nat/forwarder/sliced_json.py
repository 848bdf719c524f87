# SPDX-License-Identifier: Apache-2.0
"""JSON (RFC 8259) read in slices.

Theory of operation
-------------------
The library reads a text at one go: tens of milliseconds for the thousands of slots of a
`configure`. Here the outermost levels of a text are read by hand, and what lies below them, an
item of a list of them, by the library: steps of microseconds.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from hyperplane_nat.forwarder.slices import Work

__all__ = ["discard", "read"]

LEVELS: Final = 3
"""Request, arguments, list of items."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


def read(text: str) -> Work[Any]:
    """The value of a text; json.JSONDecodeError as the library's."""
    value, at = yield from _value(text, _skip(text, 0), LEVELS)
    if (end := _skip(text, at)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def discard(value: Any, levels: int = LEVELS) -> Work[None]:
    """Empty a value that nobody else needs: to let go of it at one go takes time as well."""
    while levels and isinstance(value, dict | list) and value:
        item = value.pop() if isinstance(value, list) else value.popitem()[1]
        yield from discard(item, levels - 1)
    yield


def _value(text: str, at: int, levels: int) -> Work[tuple[Any, int]]:
    """The value that begins at an offset, and where it ends."""
    opening = text[at : at + 1]
    if levels and opening == "{":
        return (yield from _object(text, at, levels - 1))
    if levels and opening == "[":
        return (yield from _array(text, at, levels - 1))
    yield
    return _DECODER.raw_decode(text, at)


def _object(text: str, at: int, levels: int) -> Work[tuple[dict[str, Any], int]]:
    result: dict[str, Any] = {}
    at = _skip(text, at + 1)
    if text.startswith("}", at):
        return result, at + 1
    while True:
        if not text.startswith('"', at):
            raise json.JSONDecodeError("Expecting property name in double quotes", text, at)
        name, at = _DECODER.raw_decode(text, at)
        at = _expect(text, at, ":")
        result[name], at = yield from _value(text, at, levels)
        at = _skip(text, at)
        if text.startswith("}", at):
            return result, at + 1
        at = _expect(text, at, ",")


def _array(text: str, at: int, levels: int) -> Work[tuple[list[Any], int]]:
    result: list[Any] = []
    at = _skip(text, at + 1)
    if text.startswith("]", at):
        return result, at + 1
    while True:
        value, at = yield from _value(text, at, levels)
        result.append(value)
        at = _skip(text, at)
        if text.startswith("]", at):
            return result, at + 1
        at = _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    """Where the white space that may begin at an offset ends."""
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _expect(text: str, at: int, sign: str) -> int:
    """Where the value after a sign begins."""
    at = _skip(text, at)
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"Expecting '{sign}' delimiter", text, at)
    return _skip(text, at + 1)
