# SPDX-License-Identifier: Apache-2.0
"""Answers in XML, written at once.

moto's serializers make a tree of dicts of an answer, looking for each value under several names,
and xmltodict hands the tree to SAX element by element: most of the time that a long list takes.
Answers of the region have each value under its own name, and the tree is written in one walk, to
the same text; it has elements, text and attributes ("@name") alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from botocore.model import Shape
from moto.core.serialize import (
    BaseXMLSerializer,
    EC2Serializer,
    QuerySerializer,
    ResponseSerializer,
    get_serializer_class,
)

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'
"""What the answers of EC2 begin with."""


_NO_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no document may have, not even by its number (XML 1.0, section 2.2)."""


def written(tree: Mapping[str, Any]) -> str:
    """A tree of dicts, lists and values as XML, without a declaration.

    Clients may name what XML has no characters for, and are told it with U+FFFD in their place.
    """
    parts: list[str] = []
    for name, value in tree.items():
        _write(parts, name, value)
    return _NO_CHARACTER.sub("\ufffd", "".join(parts))


def _write(parts: list[str], name: str, value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _write(parts, name, each)
    elif isinstance(value, Mapping):
        said = "".join(
            f" {key[1:]}={quoteattr(str(each))}" for key, each in value.items() if key[0] == "@"
        )
        inner: list[str] = []
        for key, each in value.items():
            if key[0] != "@":
                _write(inner, key, each)
        _element(parts, f"{name}{said}", name, "".join(inner))
    else:
        _element(parts, name, name, "" if value is None else escape(_text(value)))


def _element(parts: list[str], opening: str, name: str, content: str) -> None:
    parts.append(f"<{opening}>{content}</{name}>" if content else f"<{opening}/>")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Quick(BaseXMLSerializer):
    """What is done otherwise than by moto."""

    def get_value(self, value: Any, key: str, shape: Shape) -> Any:
        return value.get(key) if isinstance(value, dict) else super().get_value(value, key, shape)

    def _serialize_body(self, body: Mapping[str, Any]) -> str:
        return f"{DECLARATION if isinstance(self, EC2Serializer) else ''}{written(body)}"


@cache
def serializer_class(service: str, protocol: str) -> type[ResponseSerializer]:
    """moto's class for a service, in which XML is written as here."""
    found: type[ResponseSerializer] = get_serializer_class(service, protocol)
    if not issubclass(found, QuerySerializer):
        return found
    return type(found.__name__, (_Quick, found), {})
