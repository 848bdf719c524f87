# SPDX-License-Identifier: Apache-2.0
"""What a type of CloudFormation's resources is, and what it is told of the one that it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moto.core.utils import get_service_model

from hyperplane_nat.aws.call import Call, Row, tag_list, text_of
from hyperplane_nat.aws.errors import AwsError, missing

NESTED = "AWS::CloudFormation::Stack"
"""The type of a stack, which is one's own resource or another one's."""

PARENT = "Parent"
"""What CreateStack and UpdateStack are told for a nested stack, the parent's id, and DeleteStack,
the parent's `Removal`. The API has no such parameter, so no request can have it."""

STACK_ID, LOGICAL_ID = "aws:cloudformation:stack-id", "aws:cloudformation:logical-id"
"""The tags that say of which stack something is, and what it is called there."""

GONE = ("NotFound", "NotFoundException", "NotAttached")
"""How codes end by which something is not there any more."""


class ResourceError(AwsError):
    """Why a resource is not what it should be, in the words that its event has."""

    def __init__(self, message: str) -> None:
        super().__init__("NotStabilized", message)


@dataclass(frozen=True, slots=True)
class Making:
    """What a type is told of the resource that it is about."""

    call: Call
    name: str
    """Generated, for a resource that has to have a name: "STACK-LOGICAL-RANDOM"."""
    tags: Mapping[str, str]
    """Of the stack and of the resource itself."""
    wait: Callable[..., None]
    """Until something is so: a function that says whether, and for how many seconds of AWS's at
    most. AwsError when that takes too long."""
    back: bool = False
    """Whether a change is taken back."""
    data: Row = field(default_factory=dict)
    """What Fn::GetAtt gives beside the type's own attributes."""
    failures: list[str] = field(default_factory=list)
    """Why what there now is of the resource is not what it should be. Unlike one that could not
    be made it is to be deleted."""

    def check(self) -> None:
        """ResourceError for what was made or changed, and is not what it should be."""
        if self.failures:
            raise ResourceError(self.failures[0])

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
    another: bool = False
    """Whether what is changed is another resource by another id: the former one is deleted then."""


@dataclass(frozen=True, slots=True)
class Ec2:
    """A resource of EC2 that one operation makes, another deletes and a third describes."""

    noun: str
    """Of its operations: CreateNOUN, DeleteNOUN."""
    key: str
    tagged: str
    """Its `ResourceType`."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Fn::GetAtt by the keys of what describes it."""
    plural: str = ""

    def create(self, making: Making, properties: Row) -> str:
        """Make it: its id."""
        answer = making.do(
            "ec2",
            f"Create{self.noun}",
            **without(properties),
            TagSpecifications=making.specification(self.tagged),
        )
        return str(answer[self.noun][self.key])

    def delete(self, making: Making, key: str, _properties: Row) -> bool:
        """Delete it."""
        making.do("ec2", f"Delete{self.noun}", **{self.key: key})
        return True

    def describe(self, call: Call, key: str) -> Row:
        """What there is of it."""
        nouns = self.plural or f"{self.noun}s"
        answer = call.perform("ec2", f"Describe{nouns}", {f"{self.key}s": [key]})
        found: Row = answer[nouns][0]
        return found

    def attribute(self, call: Call, key: str, _properties: Row, name: str) -> Any:
        """One of its attributes."""
        if name == self.key:
            return key
        return self.describe(call, key)[self.attributes[name]]


def reason(kind: str, error: AwsError) -> str:
    """In CloudFormation's words: what the service has said, and which."""
    if isinstance(error, ResourceError):
        return error.message
    service = kind.split("::")[1]
    return (
        f'Resource handler returned message: "{error.message} (Service: {service}, Status Code: '
        f'{error.status or 400}, Error Code: {error.code})"'
    )


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
        return text_of(value)
    return value


def tags_of(properties: Row) -> dict[str, str]:
    """The tags that a template gives a resource: a list, or names with values."""
    said = properties.get("Tags") or {}
    if isinstance(said, dict):
        return {str(name): str(value) for name, value in said.items()}
    return {str(each["Key"]): str(each.get("Value", "")) for each in said}


def succeeded(answer: Row) -> None:
    """AwsError for what one of several was refused for."""
    for each in answer["Unsuccessful"]:
        raise AwsError(each["Error"]["Code"], each["Error"]["Message"])


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


def retagged(making: Making, key: str, before: Row, after: Row) -> str:
    """What of a resource is changed of which that is the tags alone; its id."""
    tag_again(making, key, before, after)
    return key


def names(text: str) -> frozenset[str]:
    """Names of properties."""
    return frozenset(text.split())
