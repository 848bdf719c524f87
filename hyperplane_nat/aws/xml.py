# SPDX-License-Identifier: Apache-2.0
"""Answers in XML, written at once.

moto's serializers make a tree of dicts of an answer, looking for each value under several names,
and xmltodict hands the tree to SAX element by element: most of the time that a long list takes.
Answers of the region have each value under its own name, and the tree is written in one walk, to
the same text; it has elements, text and attributes ("@name") alone. What a structure may have is
looked up once for each shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from functools import cache, lru_cache
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from botocore.model import Shape, StructureShape
from moto.core.serialize import (
    BaseXMLSerializer,
    EC2Serializer,
    QuerySerializer,
    ResponseSerializer,
    get_serializer_class,
)

from hyperplane_nat.aws.call import text_of

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'
"""What the answers of EC2 begin with."""


_NO_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no document may have, not even by its number (XML 1.0, section 2.2)."""


_MARKS = frozenset({"xmlAttribute", "xmlNamespace"})
"""By which something is no element, or one with more."""


def written(tree: Mapping[str, Any]) -> str:
    """A tree of dicts, lists and values as XML, without a declaration.

    Clients may name what XML has no characters for, and are told it with U+FFFD in their place.
    """
    parts: list[str] = []
    for name, value in tree.items():
        _write(parts, name, value)
    return _NO_CHARACTER.sub("\ufffd", "".join(parts))


def _write(parts: list[str], name: str, value: Any) -> None:
    if isinstance(value, str):
        parts.append(f"<{name}>{escape(value)}</{name}>" if value else f"<{name}/>")
    elif isinstance(value, list):
        for each in value:
            _write(parts, name, each)
    elif isinstance(value, dict):
        said = name
        place = len(parts)
        parts.append("")
        for key, each in value.items():
            if key[0] == "@":
                said += f" {key[1:]}={quoteattr(str(each))}"
            else:
                _write(parts, key, each)
        if len(parts) == place + 1:
            parts[place] = f"<{said}/>"
        else:
            parts[place] = f"<{said}>"
            parts.append(f"</{name}>")
    else:
        _write(parts, name, "" if value is None else text_of(value))


def _plain(shape: Shape) -> bool:
    """Whether it is an element without more."""
    return not _MARKS & shape.serialization.keys()


@lru_cache(maxsize=4096)
def _members(shape: StructureShape) -> list[tuple[str, Shape, str]]:
    """The members of a structure, and the element's name of those that are but text."""
    found = []
    for name, member in shape.members.items():
        text = member.type_name == "string" and _plain(member)
        found.append((name, member, member.serialization.get("name", name) if text else ""))
    return found


class _Quick(BaseXMLSerializer):
    """What is done otherwise than by moto."""

    def get_value(self, value: Any, key: str, shape: Shape) -> Any:
        return value.get(key) if isinstance(value, dict) else super().get_value(value, key, shape)

    def _serialize_type_structure(
        self, serialized: MutableMapping[str, Any], value: Any, shape: StructureShape, key: str
    ) -> None:
        if not isinstance(value, dict):
            super()._serialize_type_structure(serialized, value, shape, key)
            return
        members: MutableMapping[str, Any] = {} if key else serialized
        for name, member, text_under in _members(shape):
            found = value.get(name)
            if found is None:
                continue
            if text_under:
                members[text_under] = str(found)
            else:
                self._serialize(members, found, member, name)
        if key:
            self._default_serialize(serialized, members, shape, key)

    def _serialize_body(self, body: Mapping[str, Any]) -> str:
        return f"{DECLARATION if isinstance(self, EC2Serializer) else ''}{written(body)}"


@cache
def serializer_class(service: str, protocol: str) -> type[ResponseSerializer]:
    """moto's class for a service, in which XML is written as here."""
    found: type[ResponseSerializer] = get_serializer_class(service, protocol)
    if not issubclass(found, QuerySerializer):
        return found
    return type(found.__name__, (_Quick, found), {})
