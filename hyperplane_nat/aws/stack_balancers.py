# SPDX-License-Identifier: Apache-2.0
"""Types of stacks' resources: load balancers, target groups, listeners, and instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hyperplane_nat.aws.call import Call, Row, tag_list
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.stack_making import Making, Type, names, retagged, without

NAME_MAX = 32
"""Of a load balancer or a target group ("CreateLoadBalancer")."""

_HEALTH = (
    "HealthCheckEnabled HealthCheckIntervalSeconds HealthCheckPath HealthCheckPort "
    "HealthCheckProtocol HealthCheckTimeoutSeconds HealthyThresholdCount Matcher "
    "UnhealthyThresholdCount"
)


def _name(making: Making) -> str:
    """The generated name, short enough."""
    head, _, random = making.name.rpartition("-")
    return f"{head[: NAME_MAX - 1 - len(random)].rstrip('-')}-{random}"


def _described(call: Call, nouns: str, arns: str, key: str) -> Row:
    found: Row = call.perform("elbv2", f"Describe{nouns}", {arns: [key]})[nouns][0]
    return found


def _attributes(
    nouns: str, arns: str, of_arn: Mapping[str, Callable[[str], str]]
) -> Callable[[Call, str, Row, str], Any]:
    """Fn::GetAtt: what describes the resource, and parts of its ARN."""

    def attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
        if name in of_arn:
            return of_arn[name](key)
        return _described(call, nouns, arns, key)[name]

    return attribute


def _deleter(operation: str, parameter: str) -> Callable[[Making, str, Row], bool]:
    def delete(making: Making, key: str, _properties: Row) -> bool:
        making.do("elbv2", operation, **{parameter: key})
        return True

    return delete


# -- load balancers


def _create_balancer(making: Making, properties: Row) -> str:
    answer = making.do(
        "elbv2",
        "CreateLoadBalancer",
        **{"Name": _name(making), **without(properties, "LoadBalancerAttributes")},
        Tags=tag_list(making.tags),
    )
    key = str(answer["LoadBalancers"][0]["LoadBalancerArn"])
    try:
        _set_attributes(making, key, properties)
    except AwsError:
        making.do("elbv2", "DeleteLoadBalancer", LoadBalancerArn=key)
        raise
    return key


def _update_balancer(making: Making, key: str, before: Row, after: Row) -> str:
    if before.get("SecurityGroups") != after.get("SecurityGroups"):
        groups = after.get("SecurityGroups") or []
        making.do("elbv2", "SetSecurityGroups", LoadBalancerArn=key, SecurityGroups=groups)
    _set_attributes(making, key, after)
    _tag(making, key, before, after)
    return key


def _set_attributes(making: Making, key: str, properties: Row) -> None:
    if said := properties.get("LoadBalancerAttributes"):
        making.do("elbv2", "ModifyLoadBalancerAttributes", LoadBalancerArn=key, Attributes=said)


def _tag(making: Making, key: str, before: Row, after: Row) -> None:
    """Tags as the stack has them now."""
    if before.get("Tags") != after.get("Tags"):
        gone = [each["Key"] for each in before.get("Tags") or ()]
        if gone:
            making.do("elbv2", "RemoveTags", ResourceArns=[key], TagKeys=gone)
        making.do("elbv2", "AddTags", ResourceArns=[key], Tags=tag_list(making.tags))


def _balancer_ready(call: Call, key: str) -> bool:
    row = _described(call, "LoadBalancers", "LoadBalancerArns", key)
    return bool(row["State"]["Code"] == "active")


# -- target groups


def _create_group(making: Making, properties: Row) -> str:
    answer = making.do(
        "elbv2",
        "CreateTargetGroup",
        **{"Name": _name(making), **without(properties, "TargetGroupAttributes", "Targets")},
        Tags=tag_list(making.tags),
    )
    key = str(answer["TargetGroups"][0]["TargetGroupArn"])
    try:
        _change_group(making, key, {}, properties)
    except AwsError:
        making.do("elbv2", "DeleteTargetGroup", TargetGroupArn=key)
        raise
    return key


def _update_group(making: Making, key: str, before: Row, after: Row) -> str:
    checks = {name: after[name] for name in _HEALTH.split() if name in after}
    if checks:
        making.do("elbv2", "ModifyTargetGroup", TargetGroupArn=key, **checks)
    _change_group(making, key, before, after)
    _tag(making, key, before, after)
    return key


def _change_group(making: Making, key: str, before: Row, after: Row) -> None:
    if said := after.get("TargetGroupAttributes"):
        making.do("elbv2", "ModifyTargetGroupAttributes", TargetGroupArn=key, Attributes=said)
    had, has = before.get("Targets") or [], after.get("Targets") or []
    for operation, targets in (
        ("DeregisterTargets", [each for each in had if each not in has]),
        ("RegisterTargets", [each for each in has if each not in had]),
    ):
        if targets:
            making.do("elbv2", operation, TargetGroupArn=key, Targets=targets)


# -- listeners


def _create_listener(making: Making, properties: Row) -> str:
    answer = making.do("elbv2", "CreateListener", **properties)
    return str(answer["Listeners"][0]["ListenerArn"])


def _update_listener(making: Making, key: str, _before: Row, after: Row) -> str:
    making.do("elbv2", "ModifyListener", ListenerArn=key, **without(after, "LoadBalancerArn"))
    return key


# -- instances


def _run(making: Making, properties: Row) -> str:
    said = without(properties)
    if profile := said.get("IamInstanceProfile"):
        said["IamInstanceProfile"] = {"Name": profile}
    answer = making.do(
        "ec2",
        "RunInstances",
        **said,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=making.specification("instance"),
    )
    return str(answer["Instances"][0]["InstanceId"])


def _terminate(making: Making, key: str, _properties: Row) -> bool:
    if _instance(making.call, key)["State"]["Name"] != "terminated":
        making.do("ec2", "TerminateInstances", InstanceIds=[key])
    return bool(_instance(making.call.fresh(), key)["State"]["Name"] == "terminated")


def _running(call: Call, key: str) -> bool:
    return bool(_instance(call, key)["State"]["Name"] == "running")


def _instance(call: Call, key: str) -> Row:
    answer = call.perform("ec2", "DescribeInstances", {"InstanceIds": [key]})
    found: Row = answer["Reservations"][0]["Instances"][0]
    return found


def _instance_attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
    row = _instance(call, key)
    return {
        "AvailabilityZone": row["Placement"]["AvailabilityZone"],
        "InstanceId": key,
        "PrivateDnsName": row.get("PrivateDnsName"),
        "PrivateIp": row["PrivateIpAddress"],
        "PublicIp": row.get("PublicIpAddress"),
        "VpcId": row["VpcId"],
    }[name]


BALANCER_TYPES: Mapping[str, Type] = {
    "AWS::EC2::Instance": Type(
        _run, _terminate, _instance_attribute, names("Tags"), retagged, _running
    ),
    "AWS::ElasticLoadBalancingV2::Listener": Type(
        _create_listener,
        _deleter("DeleteListener", "ListenerArn"),
        _attributes("Listeners", "ListenerArns", {}),
        names("DefaultActions Port Protocol"),
        _update_listener,
    ),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": Type(
        _create_balancer,
        _deleter("DeleteLoadBalancer", "LoadBalancerArn"),
        _attributes(
            "LoadBalancers",
            "LoadBalancerArns",
            {"LoadBalancerFullName": lambda arn: arn.partition("loadbalancer/")[2]},
        ),
        names("LoadBalancerAttributes SecurityGroups Tags"),
        _update_balancer,
        _balancer_ready,
    ),
    "AWS::ElasticLoadBalancingV2::TargetGroup": Type(
        _create_group,
        _deleter("DeleteTargetGroup", "TargetGroupArn"),
        _attributes(
            "TargetGroups",
            "TargetGroupArns",
            {"TargetGroupFullName": lambda arn: arn.rpartition(":")[2]},
        ),
        names(f"{_HEALTH} Tags TargetGroupAttributes Targets"),
        _update_group,
    ),
}
"""Those that are real, too."""
