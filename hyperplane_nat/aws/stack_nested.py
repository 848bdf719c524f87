# SPDX-License-Identifier: Apache-2.0
"""Nested stacks: a resource that is a stack, made, changed and deleted with the one that has it.

Theory of operation
-------------------
It is asked for by the operations that clients have, with a parameter that no request can have
(`PARENT`), and worked on by a thread of its own. When it is changed with its parent it stops before
what it replaces or leaves is deleted, and stays in UPDATE_COMPLETE_CLEANUP_IN_PROGRESS: the parent
has it cleaned up at its own end, or taken back (`stack_work`). One whose making fails is left to
its parent, which deletes it, or leaves it as it is.

"AWS::CloudFormation::Stack", AWS resource and property types reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperplane_nat.aws.call import Call, Row, text_of
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.aws.stack_making import (
    NESTED,
    PARENT,
    STACK_ID,
    Making,
    ResourceError,
    Type,
    required,
)
from hyperplane_nat.aws.stack_workers import is_alive

OUTPUT = "Outputs."

UNCHANGED = "No updates are to be performed."

_TAKEN = frozenset({"NotificationARNs", "Parameters", "Tags", "TemplateURL", "TimeoutInMinutes"})


def _found(call: Call, key: str) -> Row | None:
    """A nested stack's record, as it is now; None without it."""
    return call.notes.stacks.all().get(key)


def _parent(making: Making) -> Row:
    found: Row = making.call.notes.stacks.all()[making.tags[STACK_ID]]
    return found


def _asked(making: Making, properties: Row) -> Row:
    """What its operation is told."""
    if unknown := sorted(set(properties) - _TAKEN):
        raise unsupported(f"The property {unknown[0]} is not emulated.")
    given: Row = properties.get("Parameters") or {}
    parent = _parent(making)
    return {
        "TemplateURL": required(properties, "TemplateURL"),
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": _text(value)} for name, value in given.items()
        ],
        "Tags": [
            {"Key": name, "Value": value}
            for name, value in making.tags.items()
            if not name.startswith("aws:")
        ],
        # Who has acknowledged something of the parent has done so of all below it.
        "Capabilities": parent["Capabilities"],
        "NotificationARNs": properties.get("NotificationARNs"),
        PARENT: parent["StackId"],
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(each) for each in value)
    return text_of(value)


def _create(making: Making, properties: Row) -> str:
    parent = _parent(making)["StackId"]
    for key, row in making.call.notes.stacks.all().items():
        # An endpoint that was killed has begun it.
        if row["StackName"] == making.name and row.get("ParentId") == parent:
            return key
    asked = _asked(making, properties)
    answer = making.do("cloudformation", "CreateStack", StackName=making.name, **asked)
    return str(answer["StackId"])


def _update(making: Making, key: str, _before: Row, after: Row) -> str:
    try:
        making.do("cloudformation", "UpdateStack", StackName=key, **_asked(making, after))
    except AwsError as error:
        if error.message != UNCHANGED:
            raise
    return key


def _ready(call: Call, key: str) -> bool:
    row = _found(call, key)
    if row is None:
        raise ResourceError(f"Embedded stack {key} does not exist")
    status: str = row["StackStatus"]
    if row.get("Failure") and not is_alive(row["Worker"]):
        done = "created" if status.startswith("CREATE") else "updated"
        raise ResourceError(
            f"Embedded stack {key} was not successfully {done}: {row['Failure']}".rstrip()
        )
    return not is_alive(row["Worker"])


def _delete(making: Making, key: str, _properties: Row) -> bool:
    row = _found(making.call, key)
    if row is None or row["StackStatus"] == "DELETE_COMPLETE":
        return True
    if is_alive(row["Worker"]):
        return False
    removal = _parent(making)["Removal"]
    if row.get("RemovedBy") == removal and row["StackStatus"] == "DELETE_FAILED":
        raise ResourceError(
            f"Embedded stack {key} was not successfully deleted: {row['StackStatusReason']}"
        )
    making.do("cloudformation", "DeleteStack", StackName=key, **{PARENT: removal})
    return False


def _attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
    row = _found(call, key)
    if row is None or not name.startswith(OUTPUT):
        raise KeyError(name)
    wanted = name.removeprefix(OUTPUT)
    return next(each["OutputValue"] for each in row["Outputs"] if each["OutputKey"] == wanted)


NESTED_TYPES: Mapping[str, Type] = {
    NESTED: Type(_create, _delete, _attribute, None, _update, _ready)
}
