# SPDX-License-Identifier: Apache-2.0
"""What a type of CloudFormation's resources is, and what it is told of the one that it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.utils import get_service_model

from hyperplane_nat.aws.call import Call, Row, tag_list
from hyperplane_nat.aws.errors import AwsError, missing

GONE = ("NotFound", "NotFoundException", "NotAttached")
"""How codes end by which something is not there any more."""


@dataclass(frozen=True, slots=True)
class Making:
    """What a type is told of the resource that it is about."""

    call: Call
    name: str
    """Generated, for a resource that has to have a name: "STACK-LOGICAL-RANDOM"."""
    tags: Mapping[str, str]
    """Of the stack and of the resource itself."""
    wait: Callable[[Callable[[], bool]], None]
    """Until something is so. AwsError when that takes too long."""

    def do(self, service: str, operation: str, **params: Any) -> Row:
        """An operation of an API; values are given the types that its parameters have."""
        shape = get_service_model(service).operation_model(operation).input_shape
        known = {name: value for name, value in params.items() if value is not None}
        return self.call.perform(service, operation, _typed(shape, known))

    def specification(self, kind: str) -> list[Row]:
        """The tags, as EC2's operations take them."""
        return [{"ResourceType": kind, "Tags": tag_list(self.tags)}]


@dataclass(frozen=True, slots=True)
class Type:
    """How resources of a type are made, changed and deleted. All of it raises AwsError."""

    create: Callable[[Making, Row], str]
    """By its properties; the physical id."""
    delete: Callable[[Making, str, Row], bool]
    """Whether it is gone: asked again until it is."""
    attribute: Callable[[Call, str, Row, str], Any]
    """Fn::GetAtt. KeyError for one that the type has not."""
    changes: frozenset[str] | None = frozenset()
    """Properties that are changed in place, None: all. Another one means another resource."""
    update: Callable[[Making, str, Row, Row], str] = lambda _making, key, _before, _after: key
    """From these properties to those; the physical id."""
    ready: Callable[[Call, str], bool] = lambda _call, _key: True
    """Whether what is made can be used."""


def _typed(shape: Any, value: Any) -> Any:
    """A value in the type that a parameter has: templates have numbers as text, too."""
    kind = getattr(shape, "type_name", "")
    if kind == "structure" and isinstance(value, dict):
        known = shape.members
        return {name: _typed(known.get(name), each) for name, each in value.items()}
    if kind == "list" and isinstance(value, list):
        return [_typed(shape.member, each) for each in value]
    try:
        if kind in ("integer", "long"):
            return int(value)
        if kind == "boolean":
            return value if isinstance(value, bool) else str(value).lower() == "true"
    except (TypeError, ValueError):
        raise AwsError(
            "InvalidParameterValue", f"Value ({value}) for parameter {shape.name} is invalid."
        ) from None
    if kind == "string" and isinstance(value, (int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return value


def tags_of(properties: Row) -> dict[str, str]:
    """The tags that a template gives a resource: a list, or names with values."""
    said = properties.get("Tags") or {}
    if isinstance(said, dict):
        return {str(name): str(value) for name, value in said.items()}
    return {str(each["Key"]): str(each.get("Value", "")) for each in said}


def without(properties: Row, *names: str) -> Row:
    """Properties without the tags and these."""
    return {name: value for name, value in properties.items() if name not in ("Tags", *names)}


def required(properties: Row, name: str) -> Any:
    """A property that there must be. MissingParameter."""
    if properties.get(name) in (None, ""):
        raise missing(name)
    return properties[name]


def tag_again(making: Making, key: str, before: Row, after: Row) -> None:
    """Tags as the stack has them now."""
    gone = set(tags_of(before)) - set(tags_of(after))
    if gone:
        making.call.notes.untag([key], dict.fromkeys(gone))
    making.call.notes.tag([key], making.tags)


def names(text: str) -> frozenset[str]:
    """Names of properties."""
    return frozenset(text.split())
