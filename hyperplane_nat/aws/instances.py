# SPDX-License-Identifier: Apache-2.0
"""Instances: the hosts of VPCs, network namespaces that programs are run in (`exec`).

An instance runs from when it is made until it is terminated. Its image, type and key are noted and
shown; nothing is booted. One that was terminated is listed for an hour, as by EC2, from its note.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from hyperplane_nat.aws.call import (
    GROUP,
    HOST,
    INTERNET_GATEWAY,
    SUBNET,
    Call,
    Operation,
    Params,
    Row,
    derived,
    operation,
    utc,
)
from hyperplane_nat.aws.errors import AwsError, missing, unsupported
from hyperplane_nat.aws.filters import answer
from hyperplane_nat.aws.interfaces import interfaces_of
from hyperplane_nat.aws.key_pairs import require_key_pair
from hyperplane_nat.client import ApiError
from hyperplane_nat.config.values import LINK_NAME, LINK_NAME_MAX

LISTED_SECONDS = 3600
"""How long an instance is listed that was terminated ("Terminate Amazon EC2 instances")."""

_LAUNCHING: WeakValueDictionary[tuple[str, str], threading.Lock] = WeakValueDictionary()
"""By account and token: a client that asks again while it is answered is to get the same."""
_GUARD = threading.Lock()

COUNT_MAX = 100
"""Instances of one request; each is a command of its own."""

RUNNING: Row = {"Code": 16, "Name": "running"}
TERMINATED: Row = {"Code": 48, "Name": "terminated"}
"""States (EC2 API, `InstanceState`)."""

_OF_INTERFACE = frozenset(
    {
        "AssociatePublicIpAddress",
        "DeleteOnTermination",
        "Description",
        "DeviceIndex",
        "Groups",
        "PrivateIpAddress",
        "SubnetId",
    }
)

INSTANCE_FILTERS = {
    "affinity": "Placement.Affinity",
    "availability-zone": "Placement.AvailabilityZone",
    "client-token": "ClientToken",
    "iam-instance-profile.arn": "IamInstanceProfile.Arn",
    "iam-instance-profile.id": "IamInstanceProfile.Id",
    "image-id": "ImageId",
    "instance-id": "InstanceId",
    "instance-lifecycle": "InstanceLifecycle",
    "instance-state-code": "State.Code",
    "instance-state-name": "State.Name",
    "instance-type": "InstanceType",
    "instance.group-id": "SecurityGroups.GroupId",
    "instance.group-name": "SecurityGroups.GroupName",
    "ip-address": "PublicIpAddress",
    "key-name": "KeyName",
    "launch-time": "LaunchTime",
    "monitoring-state": "Monitoring.State",
    "network-interface.addresses.association.public-ip": "NetworkInterfaces.Association.PublicIp",
    "network-interface.addresses.private-ip-address": (
        "NetworkInterfaces.PrivateIpAddresses.PrivateIpAddress"
    ),
    "network-interface.association.public-ip": "NetworkInterfaces.Association.PublicIp",
    "network-interface.description": "NetworkInterfaces.Description",
    "network-interface.group-id": "NetworkInterfaces.Groups.GroupId",
    "network-interface.group-name": "NetworkInterfaces.Groups.GroupName",
    "network-interface.network-interface-id": "NetworkInterfaces.NetworkInterfaceId",
    "network-interface.status": "NetworkInterfaces.Status",
    "network-interface.subnet-id": "NetworkInterfaces.SubnetId",
    "network-interface.vpc-id": "NetworkInterfaces.VpcId",
    "owner-id": "OwnerId",
    "placement-group-name": "Placement.GroupName",
    "platform": "Platform",
    "private-dns-name": "PrivateDnsName",
    "private-ip-address": "PrivateIpAddress",
    "reservation-id": "ReservationId",
    "source-dest-check": "SourceDestCheck",
    "subnet-id": "SubnetId",
    "tenancy": "Placement.Tenancy",
    "vpc-id": "VpcId",
}
STATUS_FILTERS = {
    "availability-zone": "AvailabilityZone",
    "instance-state-code": "InstanceState.Code",
    "instance-state-name": "InstanceState.Name",
    "instance-status.reachability": "InstanceStatus.Details.Status",
    "instance-status.status": "InstanceStatus.Status",
    "system-status.reachability": "SystemStatus.Details.Status",
    "system-status.status": "SystemStatus.Status",
}


def run_instances(call: Call, params: Params) -> Row:
    """
    RunInstances: InvalidSubnetID.NotFound, InvalidGroup.NotFound, InvalidIPAddress.InUse,
    InsufficientFreeAddressesInSubnet, InstanceLimitExceeded, VPCIdNotSpecified,
    IdempotentParameterMismatch.
    """
    token = params.get("ClientToken")
    if not token:
        return _launched(call, params)
    with _GUARD:
        alone = _LAUNCHING.setdefault((call.account, token), threading.Lock())
    with alone:
        before = _of_token(call, token)
        if not before:
            return _launched(call, params)
        if call.notes.of(before[0]["InstanceId"]).get("Asked") != _digest(params):
            raise AwsError(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in "
                "previous request(s).",
            )
        return _reservation(call, before[0]["ReservationId"], before)


def _digest(params: Params) -> str:
    """What tells a request from another one with the same token."""
    said = {name: value for name, value in params.items() if value is not None}
    return derived("asked", json.dumps(said, sort_keys=True, default=str))


def _launched(call: Call, params: Params) -> Row:
    image = params.get("ImageId")
    if not image:
        raise missing("ImageId")
    if not image.startswith("ami-"):
        raise AwsError("InvalidAMIID.Malformed", f'Invalid id: "{image}" (expecting "ami-...")')
    require_key_pair(call, params.get("KeyName"))
    profile = _profile(call, params.get("IamInstanceProfile"))
    count = _count(params)
    place = _place(call, params)
    if place.get("address") and count > 1:
        raise AwsError(
            "InvalidParameterCombination",
            "Only one instance can be launched with a private IP address.",
        )
    kept = {
        "ImageId": image,
        "InstanceType": params.get("InstanceType") or "m1.small",
        "KeyName": params.get("KeyName"),
        "IamInstanceProfile": profile,
        "ClientToken": params.get("ClientToken"),
        "Asked": _digest(params),
        "LaunchTime": time.time(),
        "ReservationId": f"r-{uuid.uuid4().hex[:17]}",
    }
    wanted = _name_tag(params) if count == 1 else None
    made: list[str] = []
    try:
        for _ in range(count):
            row = _made(call, place, wanted)
            made.append(row["InstanceId"])
    except Exception:
        for key in made:
            call.delete(HOST.path, key)
        raise
    for key in made:
        call.notes.put(key, kept)
        call.tag_new(key, "instance", params)
        call.tag_new(_host(call, key)["NetworkInterfaceId"], "network-interface", params)
    started = [each for each in _instances(call) if each["InstanceId"] in made]
    return _reservation(call, kept["ReservationId"], started)


def describe_instances(call: Call, params: Params) -> Row:
    """DescribeInstances: InvalidInstanceID.NotFound."""
    found = _selected(call, params)
    shown = answer(params, "Instances", found, INSTANCE_FILTERS)
    reservations: dict[str, list[Row]] = {}
    for each in shown["Instances"]:
        reservations.setdefault(each["ReservationId"], []).append(each)
    return {
        "Reservations": [_reservation(call, key, rows) for key, rows in reservations.items()],
        "NextToken": shown["NextToken"],
    }


def describe_instance_status(call: Call, params: Params) -> Row:
    """DescribeInstanceStatus, of those that run unless all are asked for."""
    passed = {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}
    unknown = {"Status": "not-applicable"}
    found = [
        {
            "InstanceId": each["InstanceId"],
            "AvailabilityZone": each["Placement"]["AvailabilityZone"],
            "InstanceState": each["State"],
            "InstanceStatus": passed if each["State"] == RUNNING else unknown,
            "SystemStatus": passed if each["State"] == RUNNING else unknown,
        }
        for each in _selected(call, params)
        if each["State"] == RUNNING or params.get("IncludeAllInstances")
    ]
    return answer(params, "InstanceStatuses", found, STATUS_FILTERS)


def terminate_instances(call: Call, params: Params) -> Row:
    """TerminateInstances: InvalidInstanceID.NotFound, DependencyViolation."""
    wanted = params.get("InstanceIds") or []
    if not wanted:
        raise missing("InstanceId")
    found = _known(_instances(call), wanted)
    for each in found:
        if call.notes.of(each["InstanceId"]).get("DisableApiTermination"):
            raise AwsError(
                "OperationNotPermitted",
                f"The instance '{each['InstanceId']}' may not be terminated. Modify its "
                "'disableApiTermination' instance attribute and try again.",
            )
    for each in found:
        if each["State"] == RUNNING:
            key = each["InstanceId"]
            note = call.notes.of(key)
            left = {**each, "State": TERMINATED, "LaunchTime": note.get("LaunchTime")}
            for gone in ("PrivateIpAddress", "PublicIpAddress", "SubnetId", "VpcId", "Tags"):
                left.pop(gone, None)
            left |= {"NetworkInterfaces": [], "SecurityGroups": [], "Ended": time.time()}
            # Noted first: it is in one list or the other for whoever looks meanwhile.
            call.notes.put(key, {"Terminated": left})
            try:
                call.delete(HOST.path, key, forget=False)
            except ApiError as error:
                if error.code != HOST.code:
                    call.notes.put(key, {"Terminated": None})
                    raise
    _forget(call)
    return {
        "TerminatingInstances": [
            {
                "InstanceId": each["InstanceId"],
                "PreviousState": each["State"],
                "CurrentState": TERMINATED,
            }
            for each in found
        ]
    }


# -- what a request says


def _count(params: Params) -> int:
    least: int | None = params.get("MinCount")
    most: int | None = params.get("MaxCount")
    if least is None or most is None:
        raise missing("MinCount" if least is None else "MaxCount")
    if not 1 <= least <= most:
        raise AwsError(
            "InvalidParameterValue", f"MinCount {least} and MaxCount {most} are not a range"
        )
    if most > COUNT_MAX:
        raise unsupported(f"One request makes {COUNT_MAX} instances at most.")
    return most


def _place(call: Call, params: Params) -> Row:
    """Where an instance is to be, as the region takes it."""
    said: dict[str, Any] = {
        "SubnetId": params.get("SubnetId"),
        "Groups": params.get("SecurityGroupIds"),
        "PrivateIpAddress": params.get("PrivateIpAddress"),
    }
    if interfaces := params.get("NetworkInterfaces"):
        if any(said.values()):
            raise AwsError(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID may not be specified on the "
                "same request",
            )
        if len(interfaces) > 1 or interfaces[0].get("DeviceIndex") not in (None, 0):
            raise unsupported("Instances have one network interface.")
        said = interfaces[0]
        for name, value in said.items():
            if name not in _OF_INTERFACE and value not in (None, False, [], {}):
                raise unsupported(f"{name} of a network interface is not emulated.")
    if not said.get("SubnetId"):
        raise AwsError("VPCIdNotSpecified", "No default VPC for this user")
    subnet = call.find(SUBNET, said["SubnetId"])
    groups = said.get("Groups") or _default_group(call, subnet["VpcId"])
    for each in groups:
        call.find(GROUP, each)
    public = said.get("AssociatePublicIpAddress")
    if public is None:
        # Only who reaches the internet can have one, and what a subnet does by itself never fails.
        public = call.note(subnet["SubnetId"]).get("MapPublicIpOnLaunch", False) and any(
            attached["VpcId"] == subnet["VpcId"]
            for gateway in call.own(INTERNET_GATEWAY)
            for attached in gateway["Attachments"]
        )
    return {
        "subnet": subnet["SubnetId"],
        "security_groups": groups,
        "address": said.get("PrivateIpAddress") or None,
        "description": said.get("Description") or "",
        "public_address": bool(public),
    }


def _default_group(call: Call, vpc: str) -> list[str]:
    return [
        row["GroupId"]
        for row in call.own(GROUP)
        if row["VpcId"] == vpc and row["GroupName"] == "default"
    ]


def _profile(call: Call, said: Row | None) -> Row | None:
    """How an instance profile is described. InvalidParameterValue for one that is not there."""
    if not said:
        return None
    from moto.core.exceptions import ServiceException
    from moto.iam.models import iam_backends

    arn = said.get("Arn") or ""
    try:
        found = iam_backends[call.account]["aws"].get_instance_profile(
            said.get("Name") or arn.rpartition("/")[2]
        )
    except ServiceException:
        found = None
    if found is None or arn not in ("", found.arn):
        field, what = ("arn", "ARN") if arn else ("name", "name")
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({arn or said.get('Name')}) for parameter iamInstanceProfile.{field} is "
            f"invalid. Invalid IAM Instance Profile {what}",
        )
    return {"Arn": found.arn, "Id": found.id}


def _name_tag(params: Params) -> str | None:
    """The tag Name of an instance that is to be."""
    for specification in params.get("TagSpecifications") or ():
        if specification.get("ResourceType") == "instance":
            for each in specification.get("Tags") or ():
                if each.get("Key") == "Name":
                    return str(each.get("Value") or "")
    return None


def _made(call: Call, place: Row, wanted: str | None) -> Row:
    """The host of an instance: its name is the tag Name where a host can be called so."""
    generated = f"i-{call.unique()[:12]}"
    if wanted and len(wanted) <= LINK_NAME_MAX and LINK_NAME.fullmatch(wanted):
        taken = _taken(call, place)
        # Of a command that is repeated it is the command's own host that has the name.
        if generated not in taken and (wanted not in taken or call.repeated):
            try:
                return call.post(HOST.path, {**place, "name": wanted})
            except ApiError:
                # Somebody else may have made one of that name meanwhile.
                if wanted not in _taken(call, place):
                    raise
    return call.post(HOST.path, {**place, "name": generated})


def _taken(call: Call, place: Row) -> set[str]:
    """Names of the hosts of a VPC."""
    vpc = call.find(SUBNET, place["subnet"])["VpcId"]
    return {row["HostName"] for row in call.own(HOST) if row["VpcId"] == vpc}


# -- forms


def _host(call: Call, key: str) -> Row:
    return call.find(HOST, key)


def _selected(call: Call, params: Params) -> list[Row]:
    found, wanted = _instances(call), params.get("InstanceIds")
    return _known(found, wanted) if wanted else found


def _known(found: list[Row], wanted: list[str]) -> list[Row]:
    known = {each["InstanceId"] for each in found}
    absent = [each for each in wanted if each not in known]
    if len(absent) > 1:
        raise AwsError(HOST.code, f"The instance IDs '{', '.join(absent)}' do not exist")
    if absent:
        raise HOST.absent(absent[0])
    return [each for each in found if each["InstanceId"] in wanted]


def _of_token(call: Call, token: str) -> list[Row]:
    return [each for each in _instances(call) if each.get("ClientToken") == token]


def _forget(call: Call) -> None:
    """Those that are listed no more have no notes either."""
    now = time.time()
    there = {row["InstanceId"] for row in call.rows(HOST.path)}
    old = [
        key
        for key, note in call.notes.having("Terminated")
        if now - note["Terminated"]["Ended"] >= LISTED_SECONDS and key not in there
    ]
    call.notes.forget(*old)


def _instances(call: Call) -> list[Row]:
    """Those of the account, and those that were terminated lately."""
    hosts = call.own(HOST)
    interfaces = {row["NetworkInterfaceId"]: row for row in interfaces_of(call)}
    running = [
        _instance(call, row, interfaces[row["NetworkInterfaceId"]])
        for row in hosts
        if row["NetworkInterfaceId"] in interfaces
    ]
    known = {each["InstanceId"] for each in running}
    now = time.time()
    ended = [
        {
            **note["Terminated"],
            "LaunchTime": utc(note["Terminated"]["LaunchTime"]),
            "Tags": call.tags(key),
        }
        for key, note in call.notes.having("Terminated")
        if key not in known
        and note["Terminated"]["OwnerId"] == call.account
        and now - note["Terminated"]["Ended"] < LISTED_SECONDS
    ]
    return running + ended


def _instance(call: Call, row: Row, interface: Row) -> Row:
    note = call.note(row["InstanceId"])
    return {
        "InstanceId": row["InstanceId"],
        "OwnerId": row["OwnerId"],
        "ReservationId": note.get("ReservationId") or derived("r", row["InstanceId"]),
        "AmiLaunchIndex": 0,
        "BlockDeviceMappings": [],
        "ClientToken": note.get("ClientToken"),
        "EbsOptimized": False,
        "IamInstanceProfile": note.get("IamInstanceProfile"),
        "ImageId": note.get("ImageId"),
        "InstanceType": note.get("InstanceType"),
        "KeyName": note.get("KeyName"),
        "LaunchTime": utc(note.get("LaunchTime")),
        "Monitoring": {"State": "disabled"},
        "NetworkInterfaces": [interface],
        "Placement": {"AvailabilityZone": interface["AvailabilityZone"], "Tenancy": "default"},
        "PrivateDnsName": f"{row['HostName']}.{row['VpcName']}.internal",
        "PrivateIpAddress": row["PrivateIpAddress"],
        "ProductCodes": [],
        "PublicDnsName": "",
        "PublicIpAddress": row["PublicIpAddress"],
        "SecurityGroups": row["Groups"],
        "SourceDestCheck": True,
        "State": RUNNING,
        "StateTransitionReason": "",
        "SubnetId": row["SubnetId"],
        "VpcId": row["VpcId"],
        "Tags": call.tags(row["InstanceId"]),
    }


def _reservation(call: Call, key: str, instances: list[Row]) -> Row:
    return {
        "ReservationId": key,
        "OwnerId": call.account,
        "Groups": [],
        "Instances": instances,
    }


OPERATIONS: Mapping[str, Operation] = {
    "RunInstances": operation(
        run_instances,
        "IamInstanceProfile ImageId InstanceType KeyName MinCount MaxCount SubnetId "
        "SecurityGroupIds PrivateIpAddress NetworkInterfaces TagSpecifications",
        # Volumes there are none of: their tags are of nothing.
        makes="instance network-interface volume",
    ),
    "DescribeInstances": operation(describe_instances, "InstanceIds"),
    "DescribeInstanceStatus": operation(
        describe_instance_status, "InstanceIds IncludeAllInstances"
    ),
    "TerminateInstances": operation(terminate_instances, "InstanceIds"),
}
