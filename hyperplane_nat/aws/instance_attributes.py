# SPDX-License-Identifier: Apache-2.0
"""Attributes of instances, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperplane_nat.aws.call import GROUP, HOST, Call, Operation, Params, Row, operation
from hyperplane_nat.aws.errors import AwsError, missing, unsupported

STOPPED = ("InstanceType", "UserData", "Kernel", "Ramdisk", "EnaSupport", "SriovNetSupport")
"""What EC2 changes of an instance that is stopped, which none is here."""


def describe_instance_attribute(call: Call, params: Params) -> Row:
    """DescribeInstanceAttribute: InvalidInstanceID.NotFound, InvalidParameterValue."""
    found = call.find(HOST, params.get("InstanceId"))
    key, name = found["InstanceId"], params.get("Attribute")
    if not name:
        raise missing("Attribute")
    note = call.notes.of(key)
    known: dict[str, tuple[str, Any]] = {
        "instanceType": ("InstanceType", _value(note.get("InstanceType"))),
        "kernel": ("KernelId", {}),
        "ramdisk": ("RamdiskId", {}),
        "userData": ("UserData", {}),
        "disableApiTermination": (
            "DisableApiTermination",
            _value(bool(note.get("DisableApiTermination"))),
        ),
        "disableApiStop": ("DisableApiStop", _value(value=False)),
        "instanceInitiatedShutdownBehavior": (
            "InstanceInitiatedShutdownBehavior",
            _value("stop"),
        ),
        "rootDeviceName": ("RootDeviceName", {}),
        "blockDeviceMapping": ("BlockDeviceMappings", []),
        "productCodes": ("ProductCodes", []),
        "sourceDestCheck": ("SourceDestCheck", _value(value=True)),
        "groupSet": ("Groups", [{"GroupId": each["GroupId"]} for each in found["Groups"]]),
        "ebsOptimized": ("EbsOptimized", _value(value=False)),
        "enaSupport": ("EnaSupport", _value(value=True)),
        "sriovNetSupport": ("SriovNetSupport", {}),
    }
    if name not in known:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter attribute is invalid. Unknown attribute.",
        )
    field, value = known[name]
    return {"InstanceId": key, field: value}


def modify_instance_attribute(call: Call, params: Params) -> None:
    """
    ModifyInstanceAttribute, of its security groups and of its protection against termination:
    InvalidInstanceID.NotFound, IncorrectInstanceState. An instance sends from its own address
    alone: UnsupportedOperation for SourceDestCheck that is off.
    """
    found = call.find(HOST, params.get("InstanceId"))
    key = found["InstanceId"]
    for name in STOPPED:
        if params.get(name):
            raise AwsError(
                "IncorrectInstanceState", f"The instance '{key}' is not in the 'stopped' state."
            )
    check = params.get("SourceDestCheck")
    if check is not None and not check.get("Value"):
        raise unsupported("An instance sends from its own address alone (SourceDestCheck).")
    protection = params.get("DisableApiTermination")
    groups = params.get("Groups")
    if check is None and protection is None and not groups:
        raise AwsError("InvalidParameterCombination", "No attributes specified.")
    for each in groups or ():
        call.find(GROUP, each)
    if groups:
        call.patch(HOST.path, key, {"security_groups": groups})
    if protection is not None:
        call.notes.put(key, {"DisableApiTermination": bool(protection.get("Value"))})


def _value(value: object) -> Row:
    return {} if value is None else {"Value": value}


OPERATIONS: Mapping[str, Operation] = {
    "DescribeInstanceAttribute": operation(describe_instance_attribute, "InstanceId Attribute"),
    "ModifyInstanceAttribute": operation(
        modify_instance_attribute,
        f"InstanceId Groups SourceDestCheck DisableApiTermination {' '.join(STOPPED)}",
    ),
}
