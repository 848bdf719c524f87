# SPDX-License-Identifier: Apache-2.0
"""Target groups, their targets and what health checks find of them (Elastic Load Balancing API)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.aws import elb
from hyperplane_nat.aws.call import HOST, SUBNET, VPC, Call, Operation, Params, Row, operation
from hyperplane_nat.aws.elb import LOAD_BALANCER, TARGET_GROUP
from hyperplane_nat.aws.errors import AwsError, unsupported

TRUTHS: Mapping[str, str] = {
    "preserve_client_ip.enabled": "preserve_client_ip",
    "proxy_protocol_v2.enabled": "proxy_protocol_v2",
    "stickiness.enabled": "stickiness",
    "deregistration_delay.connection_termination.enabled": "deregistration_terminates",
    "target_health_state.unhealthy.connection_termination.enabled": "unhealthy_terminates",
}
COUNTS: Mapping[str, str] = {
    "deregistration_delay.timeout_seconds": "deregistration_delay_seconds",
    "target_health_state.unhealthy.draining_interval_seconds": "unhealthy_draining_seconds",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": "minimum_healthy",
    "target_group_health.dns_failover.minimum_healthy_targets.count": "dns_minimum_healthy",
}
"""Attributes that are true or false, and those that are numbers, by what the region calls them
(`TargetGroupAttribute`)."""

STICKINESS, SOURCE = "stickiness.type", "source_ip"
CROSS_ZONE = "load_balancing.cross_zone.enabled"
AS_BALANCER = "use_load_balancer_configuration"

FIXED: Mapping[str, str] = {
    "proxy_protocol_v2.enabled": "false",
    "target_group_health.dns_failover.minimum_healthy_targets.percentage": "off",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
}
"""Attributes that have AWS's defaults and no others, where the region does not list them."""

TRAFFIC_PORT = "traffic-port"

CHECKS: Mapping[str, str] = {
    "HealthCheckIntervalSeconds": "interval_seconds",
    "HealthCheckPath": "path",
    "HealthCheckProtocol": "protocol",
    "HealthCheckTimeoutSeconds": "timeout_seconds",
    "HealthyThresholdCount": "healthy_count",
    "UnhealthyThresholdCount": "unhealthy_count",
}
"""Fields of a health check by what the region calls them; port and matcher have other forms."""


# -- target groups


def create_target_group(call: Call, params: Params) -> Row:
    """CreateTargetGroup: DuplicateTargetGroupName, TooManyTargetGroups, ValidationError."""
    kind = params.get("TargetType") or "instance"
    if kind not in ("instance", "ip"):
        raise unsupported(f"Target groups of type {kind} are not emulated.")
    if params.get("IpAddressType") not in (None, "ipv4"):
        raise unsupported("Targets have IPv4 addresses.")
    for name, word in (("Protocol", "protocol"), ("Port", "port"), ("VpcId", "VPC ID")):
        if not params.get(name):
            raise AwsError("ValidationError", f"A {word} must be specified")
    if params["VpcId"] not in {row["VpcId"] for row in call.own(VPC)}:
        raise AwsError("ValidationError", f"The VPC ID '{params['VpcId']}' is not found")
    body = {
        "vpc": params["VpcId"],
        "name": params.get("Name") or "",
        "protocol": elb.protocol(params["Protocol"]),
        "port": params["Port"],
        "type": kind,
        "health_check": _check(params),
    }
    made = TARGET_GROUP.make(call, body, params)
    return {"TargetGroups": [_target_group(call, made)]}


def describe_target_groups(call: Call, params: Params) -> Row:
    """DescribeTargetGroups: TargetGroupNotFound, LoadBalancerNotFound."""
    rows = TARGET_GROUP.described(call, params, TARGET_GROUP.plural)
    if params.get("LoadBalancerArn"):
        balancer = LOAD_BALANCER.find(call, params["LoadBalancerArn"])
        known = {each["TargetGroupId"] for each in balancer["Listeners"]}
        rows = [row for row in rows if row["TargetGroupId"] in known]
    return elb.page(params, "TargetGroups", [_target_group(call, row) for row in rows])


def modify_target_group(call: Call, params: Params) -> Row:
    """ModifyTargetGroup: TargetGroupNotFound, ValidationError."""
    row = TARGET_GROUP.find(call, params.get("TargetGroupArn"))
    body = {"health_check": _check({**_checked(row), **_given(params)})}
    changed = call.patch(TARGET_GROUP.kind.path, row["TargetGroupId"], body)
    return {"TargetGroups": [_target_group(call, changed)]}


def delete_target_group(call: Call, params: Params) -> None:
    """DeleteTargetGroup, which one that is not there does not fail: ResourceInUse."""
    arn = TARGET_GROUP.check(params.get("TargetGroupArn"))
    for row in TARGET_GROUP.rows(call):
        if row["TargetGroupArn"] == arn:
            call.delete(TARGET_GROUP.kind.path, row["TargetGroupId"])


def describe_target_group_attributes(call: Call, params: Params) -> Row:
    """DescribeTargetGroupAttributes: TargetGroupNotFound."""
    row = TARGET_GROUP.find(call, params.get("TargetGroupArn"))
    return {"Attributes": elb.attributes({**FIXED, **row["Attributes"]})}


def modify_target_group_attributes(call: Call, params: Params) -> Row:
    """ModifyTargetGroupAttributes: TargetGroupNotFound, InvalidConfigurationRequest."""
    row = TARGET_GROUP.find(call, params.get("TargetGroupArn"))
    body: Row = {}
    for key, value in elb.asked(params).items():
        if key in FIXED and key not in row["Attributes"]:
            if value != FIXED[key]:
                raise unsupported(f"The attribute {key} has no other value than '{FIXED[key]}'.")
        elif key in TRUTHS:
            body[TRUTHS[key]] = elb.truth(key, value)
        elif key in COUNTS:
            if not (value.isascii() and value.isdigit() and len(value) <= 9):
                raise elb.wrong_value(key, value)
            body[COUNTS[key]] = int(value)
        elif key == CROSS_ZONE:
            body["cross_zone"] = value if value == AS_BALANCER else elb.truth(key, value)
        elif key == STICKINESS:
            if value != SOURCE:
                raise unsupported(f"The attribute {key} has no other value than '{SOURCE}'.")
        else:
            raise AwsError(
                "ValidationError", f"Target group attribute key '{key}' is not recognized"
            )
    if body:
        row = call.patch(TARGET_GROUP.kind.path, row["TargetGroupId"], {"attributes": body})
    return {"Attributes": elb.attributes({**FIXED, **row["Attributes"]})}


def _given(params: Params) -> Row:
    return {name: value for name, value in params.items() if value is not None}


def _checked(row: Row) -> Row:
    """The health check of a group, as a request would say it."""
    said = {name: row[name] for name in (*CHECKS, "HealthCheckPort") if row[name] is not None}
    if row["Matcher"] is not None:
        said["Matcher"] = {"HttpCode": row["Matcher"]}
    return said


def _check(params: Params) -> Row:
    """The health check of a request, as the region takes it."""
    if params.get("HealthCheckEnabled") is False:
        raise AwsError("ValidationError", "Health check enabled must be true")
    check = {field: params[name] for name, field in CHECKS.items() if params.get(name) is not None}
    if check.get("protocol") not in (None, "TCP", "HTTP", "HTTPS"):
        raise AwsError(
            "ValidationError", f"Health check protocol '{check['protocol']}' is not supported"
        )
    port = params.get("HealthCheckPort") or TRAFFIC_PORT
    if port != TRAFFIC_PORT:
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
            raise AwsError("ValidationError", f"Health check port '{port}' is not valid")
        check["port"] = int(port)
    if params.get("Matcher"):
        if params["Matcher"].get("GrpcCode"):
            raise unsupported("Codes of gRPC are not emulated.")
        check["codes"] = params["Matcher"].get("HttpCode") or ""
    return check


def _target_group(call: Call, row: Row) -> Row:
    balancers = [
        LOAD_BALANCER.arn(call, each)
        for each in call.own(LOAD_BALANCER.kind)
        if any(one["TargetGroupId"] == row["TargetGroupId"] for one in each["Listeners"])
    ]
    return {
        "TargetGroupArn": TARGET_GROUP.arn(call, row),
        "TargetGroupName": row["TargetGroupName"],
        "Protocol": row["Protocol"],
        "Port": row["Port"],
        "VpcId": row["VpcId"],
        "TargetType": row["TargetType"],
        "IpAddressType": "ipv4",
        "LoadBalancerArns": balancers,
        "HealthCheckEnabled": True,
        **_checked(row),
    }


# -- targets


def register_targets(call: Call, params: Params) -> None:
    """RegisterTargets: TargetGroupNotFound, InvalidTarget, TooManyTargets, ValidationError."""
    row = TARGET_GROUP.find(call, params.get("TargetGroupArn"))
    body = [_target(call, row, each) for each in _targets(params)]
    call.patch(TARGET_GROUP.kind.path, row["TargetGroupId"], {"register_targets": body})


def deregister_targets(call: Call, params: Params) -> None:
    """DeregisterTargets, which one that is not registered does not fail: TargetGroupNotFound."""
    row = TARGET_GROUP.find(call, params.get("TargetGroupArn"))
    field = "host" if row["TargetType"] == "instance" else "address"
    body = [
        {field: each["Id"], "port": each["Port"]}
        for wanted in _targets(params)
        for each in row["Targets"]
        if _is_meant(each, wanted)
    ]
    if body:
        call.patch(TARGET_GROUP.kind.path, row["TargetGroupId"], {"deregister_targets": body})


def describe_target_health(call: Call, params: Params) -> Row:
    """DescribeTargetHealth: TargetGroupNotFound, InvalidTarget."""
    row = TARGET_GROUP.find(call, params.get("TargetGroupArn"))
    found = row["Targets"]
    if params.get("Targets"):
        found = []
        for wanted in _targets(params):
            meant = [each for each in row["Targets"] if _is_meant(each, wanted)]
            found += meant or [_not_registered(call, row, wanted)]
    return {"TargetHealthDescriptions": [_health(call, row, each) for each in found]}


def _targets(params: Params) -> list[Row]:
    wanted: list[Row] = params.get("Targets") or []
    if not wanted:
        raise AwsError("ValidationError", "At least one target must be specified")
    for each in wanted:
        if not each.get("Id"):
            raise AwsError("ValidationError", "A target must have an ID")
    return wanted


def _is_meant(target: Row, wanted: Row) -> bool:
    return target["Id"] == wanted["Id"] and wanted.get("Port") in (None, target["Port"])


def _target(call: Call, group: Row, wanted: Row) -> Row:
    """A target as the region takes it. InvalidTarget, ValidationError."""
    port = wanted.get("Port")
    if group["TargetType"] == "instance":
        _host(call, group, wanted["Id"])
        return {"host": wanted["Id"], "port": port}
    address = _address(wanted["Id"])
    said, zone = wanted.get("AvailabilityZone"), _zone(call, group["VpcId"], address)
    if zone is None and said is None:
        raise AwsError(
            "ValidationError",
            "You must specify a valid Availability Zone or select 'all' for all enabled "
            f"Availability zones, since the IP address '{address}' is outside the VPC",
        )
    if zone is not None and said not in (None, zone):
        raise AwsError(
            "ValidationError",
            f"The IP address '{address}' is within the VPC, and cannot have its Availability Zone "
            f"overridden to '{said}' from '{zone}'",
        )
    if zone is None and said != "all":
        raise unsupported("Addresses outside the VPC are targets of all Availability Zones.")
    return {"address": str(address), "port": port}


def _host(call: Call, group: Row, wanted: str) -> Row:
    """An instance that can be a target. InvalidTarget."""
    hosts = {row["InstanceId"]: row for row in call.own(HOST)}
    if wanted not in hosts:
        raise AwsError(
            "InvalidTarget",
            "The following targets are not in a running state and cannot be registered: "
            f"'{wanted}'",
        )
    if hosts[wanted]["VpcId"] != group["VpcId"]:
        raise AwsError(
            "InvalidTarget",
            f"The following targets are not in the target group VPC '{group['VpcId']}': '{wanted}'",
        )
    return hosts[wanted]


def _address(said: str) -> IPv4Address:
    try:
        return IPv4Address(said)
    except ValueError:
        raise AwsError(
            "ValidationError", f"The IP address '{said}' is not a valid IPv4 address"
        ) from None


def _zone(call: Call, vpc: str, address: IPv4Address) -> str | None:
    """The zone of an address; None outside the VPC's subnets."""
    for row in call.own(SUBNET):
        if row["VpcId"] == vpc and address in IPv4Network(row["CidrBlock"]):
            return call.zone(row["AvailabilityZone"])
    return None


def _not_registered(call: Call, group: Row, wanted: Row) -> Row:
    if group["TargetType"] == "instance":
        _host(call, group, wanted["Id"])
    else:
        _address(wanted["Id"])
    return {
        "Id": wanted["Id"],
        "Port": wanted.get("Port") or group["Port"],
        "AvailabilityZone": None,
        "HealthCheckPort": None,
        "State": "unused",
        "Reason": "Target.NotRegistered",
        "Description": "Target is not registered to the target group",
    }


def _health(call: Call, group: Row, target: Row) -> Row:
    shown = {"Id": target["Id"], "Port": target["Port"]}
    zone = target["AvailabilityZone"]
    if group["TargetType"] == "ip" and zone:
        shown["AvailabilityZone"] = zone if zone == "all" else call.zone(zone)
    return {
        "Target": shown,
        "HealthCheckPort": target["HealthCheckPort"],
        "TargetHealth": {name: target[name] for name in ("State", "Reason", "Description")},
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateTargetGroup": operation(
        create_target_group,
        "Name Protocol Port VpcId TargetType Tags IpAddressType Matcher HealthCheckPort "
        "HealthCheckEnabled " + " ".join(CHECKS),
    ),
    "DescribeTargetGroups": operation(
        describe_target_groups, "LoadBalancerArn TargetGroupArns Names Marker PageSize"
    ),
    "ModifyTargetGroup": operation(
        modify_target_group,
        "TargetGroupArn Matcher HealthCheckPort HealthCheckEnabled " + " ".join(CHECKS),
    ),
    "DeleteTargetGroup": operation(delete_target_group, "TargetGroupArn"),
    "DescribeTargetGroupAttributes": operation(describe_target_group_attributes, "TargetGroupArn"),
    "ModifyTargetGroupAttributes": operation(
        modify_target_group_attributes, "TargetGroupArn Attributes"
    ),
    "RegisterTargets": operation(register_targets, "TargetGroupArn Targets"),
    "DeregisterTargets": operation(deregister_targets, "TargetGroupArn Targets"),
    "DescribeTargetHealth": operation(describe_target_health, "TargetGroupArn Targets"),
}
