# SPDX-License-Identifier: Apache-2.0
"""Target groups, their targets and their health, as Elastic Load Balancing has them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene
from tests.aws.test_instances import run
from tests.aws.test_load_balancers import balancer, forward, group, values


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def health(elb: Any, arn: str, **more: Any) -> dict[str, tuple[str, str | None]]:
    """States and reasons by the targets' ids."""
    said = elb.describe_target_health(TargetGroupArn=arn, **more)["TargetHealthDescriptions"]
    return {
        each["Target"]["Id"]: (each["TargetHealth"]["State"], each["TargetHealth"].get("Reason"))
        for each in said
    }


def note(endpoint: Endpoint, arn: str, found: dict[str, str]) -> None:
    """What a health check would find: nothing, or a reason, by target."""
    region, key = endpoint.region.region, arn.rpartition("/")[2]
    with region.commands() as commands:
        commands.note_health({key: {(target, 80): reason for target, reason in found.items()}})


def test_a_target_group_as_elb_has_it(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    arn = group(
        endpoint,
        found,
        HealthCheckProtocol="HTTP",
        HealthCheckPath="/ok",
        HealthCheckPort="8080",
        HealthCheckEnabled=True,
        HealthyThresholdCount=3,
        Matcher={"HttpCode": "200-299"},
        Tags=[{"Key": "a", "Value": "b"}],
    )
    (shown,) = elb.describe_target_groups()["TargetGroups"]
    assert shown == {
        "TargetGroupArn": arn,
        "TargetGroupName": "web",
        "Protocol": "TCP",
        "Port": 80,
        "VpcId": found.vpc,
        "TargetType": "instance",
        "IpAddressType": "ipv4",
        "LoadBalancerArns": [],
        "HealthCheckEnabled": True,
        "HealthCheckProtocol": "HTTP",
        "HealthCheckPath": "/ok",
        "HealthCheckPort": "8080",
        "HealthCheckIntervalSeconds": 30,
        "HealthCheckTimeoutSeconds": 6,
        "HealthyThresholdCount": 3,
        "UnhealthyThresholdCount": 2,
        "Matcher": {"HttpCode": "200-299"},
    }
    (changed,) = elb.modify_target_group(
        TargetGroupArn=arn, HealthCheckPort="traffic-port", HealthCheckIntervalSeconds=10
    )["TargetGroups"]
    assert changed == {**shown, "HealthCheckPort": "traffic-port", "HealthCheckIntervalSeconds": 10}
    front = balancer(endpoint, found)
    elb.create_listener(LoadBalancerArn=front, Protocol="TCP", Port=80, DefaultActions=forward(arn))
    group(endpoint, found, "other")
    (mine,) = elb.describe_target_groups(LoadBalancerArn=front)["TargetGroups"]
    assert mine == {**changed, "LoadBalancerArns": [front]}
    assert elb.describe_target_groups(Names=["web"])["TargetGroups"] == [mine]
    assert endpoint.client("elbv2", OTHER).describe_target_groups()["TargetGroups"] == []


def test_attributes_of_a_target_group(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    arn = group(endpoint, found)
    before = values(elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"])
    assert before["preserve_client_ip.enabled"] == "true"
    changes = {
        "deregistration_delay.timeout_seconds": "0",
        "deregistration_delay.connection_termination.enabled": "true",
        "stickiness.enabled": "true",
        "stickiness.type": "source_ip",
        "preserve_client_ip.enabled": "false",
        "load_balancing.cross_zone.enabled": "true",
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": "2",
    }
    asked = [{"Key": key, "Value": value} for key, value in changes.items()]
    after = elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=asked)["Attributes"]
    assert values(after) == before | changes
    assert elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"] == after
    for key, value, code in (
        ("stickiness.enabled", "1", "ValidationError"),
        ("deregistration_delay.timeout_seconds", "-1", "ValidationError"),
        ("deregistration_delay.timeout_seconds", "3601", "InvalidConfigurationRequest"),
        ("stickiness.type", "lb_cookie", "UnsupportedOperation"),
        ("slow_start.duration_seconds", "30", "ValidationError"),
    ):
        wrong = [{"Key": key, "Value": value}]
        said = refusal(elb.modify_target_group_attributes, TargetGroupArn=arn, Attributes=wrong)
        assert said[0] == code, (key, value)


def test_instances_are_targets_and_become_healthy(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    first, second = (
        each["InstanceId"] for each in run(endpoint, SubnetId=found.private, MaxCount=2)
    )
    arn, front = group(endpoint, found), balancer(endpoint, found)
    both = [{"Id": first}, {"Id": second, "Port": 80}]
    elb.register_targets(TargetGroupArn=arn, Targets=both)
    assert health(elb, arn)[first] == ("unused", "Target.NotInUse")
    elb.create_listener(LoadBalancerArn=front, Protocol="TCP", Port=80, DefaultActions=forward(arn))
    endpoint.pass_seconds(600)
    assert health(elb, arn)[first] == ("initial", "Elb.InitialHealthChecking")
    note(endpoint, arn, {first: "", second: "Target.Timeout"})
    assert health(elb, arn) == {
        first: ("healthy", None),
        second: ("unhealthy", "Target.Timeout"),
    }
    note(endpoint, arn, {second: ""})
    elb.get_waiter("target_in_service").wait(TargetGroupArn=arn)
    elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": second}, {"Id": "i-0"}])
    assert health(elb, arn)[second] == ("draining", "Target.DeregistrationInProgress")
    endpoint.pass_seconds(301)
    assert set(health(elb, arn)) == {first}
    # One that is not registered is so for who asks for it.
    assert health(elb, arn, Targets=[{"Id": second}]) == {
        second: ("unused", "Target.NotRegistered")
    }
    elb.get_waiter("target_deregistered").wait(TargetGroupArn=arn, Targets=[{"Id": second}])


def test_addresses_are_targets_in_their_zones(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    arn = group(endpoint, found, TargetType="ip")
    elb.register_targets(
        TargetGroupArn=arn,
        Targets=[{"Id": "10.7.1.9"}, {"Id": "192.168.1.9", "Port": 81, "AvailabilityZone": "all"}],
    )
    shown = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    assert [each["Target"] for each in shown] == [
        {"Id": "10.7.1.9", "Port": 80, "AvailabilityZone": "us-east-1a"},
        {"Id": "192.168.1.9", "Port": 81, "AvailabilityZone": "all"},
    ]
    for target, code in (
        ({"Id": "192.168.1.10"}, "ValidationError"),
        ({"Id": "10.7.1.10", "AvailabilityZone": "all"}, "ValidationError"),
        ({"Id": "192.168.1.10", "AvailabilityZone": "us-east-1b"}, "UnsupportedOperation"),
        ({"Id": "8.8.8.8", "AvailabilityZone": "all"}, "InvalidTarget"),
        ({"Id": "web"}, "ValidationError"),
        ({"Id": "10.7.1.9", "Port": 70000}, "ValidationError"),
    ):
        said = refusal(elb.register_targets, TargetGroupArn=arn, Targets=[target])
        assert said[0] == code, target
    assert len(health(elb, arn)) == 2
    assert health(elb, arn, Targets=[{"Id": "10.7.1.77"}])["10.7.1.77"][0] == "unused"


def test_what_is_not_emulated_is_refused(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    good = {"Name": "x", "Protocol": "TCP", "Port": 80, "VpcId": found.vpc}
    for changes, code in (
        ({"TargetType": "alb"}, "UnsupportedOperation"),
        ({"Protocol": "TLS"}, "UnsupportedOperation"),
        ({"IpAddressType": "ipv6"}, "UnsupportedOperation"),
        ({"Matcher": {"GrpcCode": "0"}}, "UnsupportedOperation"),
        ({"Protocol": "HTTP"}, "UnsupportedProtocol"),
        ({"HealthCheckPort": "http"}, "ValidationError"),
        ({"HealthCheckProtocol": "UDP"}, "ValidationError"),
        ({"HealthCheckEnabled": False}, "ValidationError"),
    ):
        assert refusal(elb.create_target_group, **{**good, **changes})[0] == code, changes
    assert elb.describe_target_groups()["TargetGroups"] == []
