# SPDX-License-Identifier: Apache-2.0
"""Network Load Balancers and their listeners, as Elastic Load Balancing has them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene

NOWHERE = "arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/no/0123456789abcdef"


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def balancer(endpoint: Endpoint, found: Scene, name: str = "front", **more: Any) -> str:
    """Its ARN."""
    said = {"Name": name, "Type": "network", "Scheme": "internal", "Subnets": [found.private]}
    (made,) = endpoint.client("elbv2").create_load_balancer(**{**said, **more})["LoadBalancers"]
    arn: str = made["LoadBalancerArn"]
    return arn


def group(endpoint: Endpoint, found: Scene, name: str = "web", **more: Any) -> str:
    """The ARN of a target group."""
    said = {"Name": name, "Protocol": "TCP", "Port": 80, "VpcId": found.vpc, **more}
    (made,) = endpoint.client("elbv2").create_target_group(**said)["TargetGroups"]
    arn: str = made["TargetGroupArn"]
    return arn


def forward(arn: str) -> list[dict[str, Any]]:
    return [{"Type": "forward", "TargetGroupArn": arn}]


def values(attributes: list[dict[str, str]]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in attributes}


def test_a_load_balancer_as_elb_has_it(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    tags = [{"Key": "team", "Value": "net"}]
    mapping = [{"SubnetId": found.private, "PrivateIPv4Address": "10.7.1.50"}]
    arn = balancer(
        endpoint,
        found,
        Subnets=[],
        SubnetMappings=mapping,
        SecurityGroups=[found.group],
        Tags=tags,
        IpAddressType="ipv4",
    )
    (shown,) = elb.describe_load_balancers()["LoadBalancers"]
    assert shown["State"] == {"Code": "provisioning"}
    endpoint.pass_seconds(600)
    elb.get_waiter("load_balancer_available").wait(LoadBalancerArns=[arn])
    (shown,) = elb.describe_load_balancers(Names=["front"])["LoadBalancers"]
    assert (shown["LoadBalancerArn"], shown["Type"], shown["Scheme"]) == (
        arn,
        "network",
        "internal",
    )
    assert shown["SecurityGroups"] == [found.group]
    assert shown["VpcId"] == found.vpc
    assert shown["DNSName"].startswith(f"front-{arn.rpartition('/')[2]}.elb.")
    (zone,) = shown["AvailabilityZones"]
    assert zone == {
        "ZoneName": "us-east-1a",
        "SubnetId": found.private,
        "LoadBalancerAddresses": [{"PrivateIPv4Address": "10.7.1.50"}],
    }
    (said,) = elb.describe_tags(ResourceArns=[arn])["TagDescriptions"]
    assert said == {"ResourceArn": arn, "Tags": tags}
    (node,) = endpoint.client("ec2").describe_network_interfaces(
        Filters=[{"Name": "interface-type", "Values": ["network_load_balancer"]}]
    )["NetworkInterfaces"]
    assert node["PrivateIpAddress"] == "10.7.1.50"
    assert node["Description"] == f"ELB {arn.partition('loadbalancer/')[2]}"
    assert endpoint.client("elbv2", OTHER).describe_load_balancers()["LoadBalancers"] == []


def test_what_is_created_again_is_what_there_is(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    assert balancer(endpoint, found) == balancer(endpoint, found)
    web = group(endpoint, found)
    assert group(endpoint, found) == web
    listener = {"LoadBalancerArn": balancer(endpoint, found), "Protocol": "TCP", "Port": 80}
    first = elb.create_listener(**listener, DefaultActions=forward(web))
    assert (
        elb.create_listener(**listener, DefaultActions=forward(web))["Listeners"]
        == (first["Listeners"])
    )
    elb.delete_load_balancer(LoadBalancerArn=balancer(endpoint, found))
    elb.delete_load_balancer(LoadBalancerArn=NOWHERE)
    waiter = elb.get_waiter("load_balancers_deleted")
    waiter.wait(Names=["front"])
    elb.delete_target_group(TargetGroupArn=web)
    elb.delete_target_group(TargetGroupArn=web)


def test_attributes_of_a_load_balancer(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    arn = balancer(endpoint, found)
    before = values(elb.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"])
    assert before["load_balancing.cross_zone.enabled"] == "false"
    changes = {
        "load_balancing.cross_zone.enabled": "true",
        "secondary_ips.auto_assigned.per_subnet": "2",
        "deletion_protection.enabled": "true",
        "access_logs.s3.enabled": "false",
    }
    asked = [{"Key": key, "Value": value} for key, value in changes.items()]
    after = elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=asked)["Attributes"]
    assert values(after) == before | changes
    assert elb.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"] == after
    code, text, _ = refusal(elb.delete_load_balancer, LoadBalancerArn=arn)
    assert code == "OperationNotPermitted"
    assert text == (
        f"Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
    )
    for key, value, code in (
        ("deletion_protection.enabled", "maybe", "ValidationError"),
        ("secondary_ips.auto_assigned.per_subnet", "many", "ValidationError"),
        ("secondary_ips.auto_assigned.per_subnet", "1", "InvalidConfigurationRequest"),
        ("idle_timeout.timeout_seconds", "60", "ValidationError"),
        ("access_logs.s3.enabled", "true", "UnsupportedOperation"),
    ):
        wrong = [{"Key": key, "Value": value}]
        said = refusal(elb.modify_load_balancer_attributes, LoadBalancerArn=arn, Attributes=wrong)
        assert said[0] == code, (key, value)
    off = [{"Key": "deletion_protection.enabled", "Value": "false"}]
    elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=off)
    elb.delete_load_balancer(LoadBalancerArn=arn)


def test_subnets_and_groups_are_set(endpoint: Endpoint, found: Scene) -> None:
    elb, ec2 = endpoint.client("elbv2"), endpoint.client("ec2")
    other = ec2.create_subnet(
        VpcId=found.vpc, CidrBlock="10.7.5.0/24", AvailabilityZone="us-east-1b"
    )["Subnet"]["SubnetId"]
    arn = balancer(endpoint, found, SecurityGroups=[found.group])
    zones = elb.set_subnets(LoadBalancerArn=arn, Subnets=[found.private, other])
    assert [each["ZoneName"] for each in zones["AvailabilityZones"]] == ["us-east-1a", "us-east-1b"]
    said = elb.set_security_groups(LoadBalancerArn=arn, SecurityGroups=[found.default])
    assert said["SecurityGroupIds"] == [found.default]
    assert elb.set_ip_address_type(LoadBalancerArn=arn, IpAddressType="ipv4")["IpAddressType"] == (
        "ipv4"
    )
    (shown,) = elb.describe_load_balancers()["LoadBalancers"]
    assert shown["AvailabilityZones"] == zones["AvailabilityZones"]
    assert shown["SecurityGroups"] == [found.default]
    open_one = balancer(endpoint, found, "open")
    code, *_ = refusal(
        elb.set_security_groups, LoadBalancerArn=open_one, SecurityGroups=[found.default]
    )
    assert code == "InvalidConfigurationRequest"


def test_listeners(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    arn, web, other = (
        balancer(endpoint, found),
        group(endpoint, found),
        group(endpoint, found, "other"),
    )
    (made,) = elb.create_listener(
        LoadBalancerArn=arn,
        Protocol="TCP",
        Port=80,
        DefaultActions=forward(web),
        Tags=[{"Key": "a", "Value": "b"}],
    )["Listeners"]
    key = made["ListenerArn"]
    assert key.startswith(arn.replace(":loadbalancer/", ":listener/"))
    (action,) = made["DefaultActions"]
    assert action == {
        "Type": "forward",
        "TargetGroupArn": web,
        "ForwardConfig": {"TargetGroups": [{"TargetGroupArn": web}]},
    }
    assert elb.describe_listeners(LoadBalancerArn=arn)["Listeners"] == [made]
    assert elb.describe_listeners(ListenerArns=[key])["Listeners"] == [made]
    config = {"Type": "forward", "ForwardConfig": {"TargetGroups": [{"TargetGroupArn": other}]}}
    (changed,) = elb.modify_listener(ListenerArn=key, Port=81, DefaultActions=[config])["Listeners"]
    assert (changed["Port"], changed["DefaultActions"][0]["TargetGroupArn"]) == (81, other)
    idle = [{"Key": "tcp.idle_timeout.seconds", "Value": "400"}]
    assert elb.modify_listener_attributes(ListenerArn=key, Attributes=idle)["Attributes"] == idle
    assert elb.describe_listener_attributes(ListenerArn=key)["Attributes"] == idle
    elb.add_tags(ResourceArns=[key], Tags=[{"Key": "c", "Value": "d"}])
    elb.remove_tags(ResourceArns=[key], TagKeys=["a"])
    (tags,) = elb.describe_tags(ResourceArns=[key])["TagDescriptions"]
    assert tags["Tags"] == [{"Key": "c", "Value": "d"}]
    elb.delete_listener(ListenerArn=key)
    assert elb.describe_listeners(LoadBalancerArn=arn)["Listeners"] == []


def test_lists_have_pages(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    made = sorted(balancer(endpoint, found, name) for name in ("a", "b", "c"))
    pages = elb.get_paginator("describe_load_balancers").paginate(PaginationConfig={"PageSize": 2})
    sizes, arns = [], []
    for page in pages:
        sizes.append(len(page["LoadBalancers"]))
        arns += [each["LoadBalancerArn"] for each in page["LoadBalancers"]]
    assert (sizes, sorted(arns)) == ([2, 1], made)
    assert refusal(elb.describe_load_balancers, PageSize=401)[0] == "ValidationError"
    assert refusal(elb.describe_load_balancers, Marker="x")[0] == "ValidationError"


@pytest.mark.requirement("NLB-nodes", profile="aws")
def test_one_that_faces_the_internet(endpoint: Endpoint, found: Scene) -> None:
    elb, ec2 = endpoint.client("elbv2"), endpoint.client("ec2")
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    closed = ec2.create_subnet(VpcId=other, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    said = {"Name": "face", "Type": "network", "SubnetMappings": [{"SubnetId": closed}]}
    refused = refusal(elb.create_load_balancer, **said)
    assert refused[:2] == ("InvalidSubnet", f"VPC {other} has no internet gateway")
    kept = ec2.allocate_address(Domain="vpc")
    mapping = {"SubnetId": found.public, "AllocationId": kept["AllocationId"]}
    # It is AWS's default.
    (made,) = elb.create_load_balancer(**{**said, "SubnetMappings": [mapping]})["LoadBalancers"]
    (zone,) = made["AvailabilityZones"]
    assert made["Scheme"] == "internet-facing"
    assert zone["LoadBalancerAddresses"] == [
        {"IpAddress": kept["PublicIp"], "AllocationId": kept["AllocationId"]}
    ]
    again = {**said, "Name": "again", "SubnetMappings": [mapping]}
    assert refusal(elb.create_load_balancer, **again)[0] == "ResourceInUse"
    none = {"SubnetId": found.public, "AllocationId": "eipalloc-0"}
    again["SubnetMappings"] = [none]
    assert refusal(elb.create_load_balancer, **again)[0] == "AllocationIdNotFound"
    for change in ({"Scheme": "internal"}, {"Scheme": "public"}):
        code = refusal(elb.create_load_balancer, **{**again, "SubnetMappings": [mapping], **change})
        assert code[0] == (
            "InvalidScheme" if change["Scheme"] == "public" else "InvalidConfigurationRequest"
        )
    (address,) = ec2.describe_addresses(AllocationIds=[kept["AllocationId"]])["Addresses"]
    (interface,) = ec2.describe_network_interfaces(
        Filters=[{"Name": "association.public-ip", "Values": [kept["PublicIp"]]}]
    )["NetworkInterfaces"]
    assert interface["Description"].startswith("ELB net/face/")
    assert address["NetworkInterfaceId"] == interface["NetworkInterfaceId"]
    assert address["PrivateIpAddress"] == interface["PrivateIpAddress"]
    held = refusal(ec2.disassociate_address, AssociationId=address["AssociationId"])
    assert held[0] == "AuthFailure"
    elb.delete_load_balancer(LoadBalancerArn=made["LoadBalancerArn"])
    ec2.release_address(AllocationId=kept["AllocationId"])


def test_what_is_not_emulated_is_refused(endpoint: Endpoint, found: Scene) -> None:
    elb = endpoint.client("elbv2")
    good = {"Name": "x", "Type": "network", "Scheme": "internal", "Subnets": [found.private]}
    for changes in (
        {"Type": "application"},
        {"IpAddressType": "dualstack"},
        {"EnablePrefixForIpv6SourceNat": "on"},
        {"SubnetMappings": [{"SubnetId": found.private, "IPv6Address": "fd00::1"}]},
    ):
        said = refusal(elb.create_load_balancer, **{**good, **changes})
        assert said[0] == "UnsupportedOperation", changes
    arn, web, other = (
        balancer(endpoint, found),
        group(endpoint, found),
        group(endpoint, found, "other"),
    )
    listener = {"LoadBalancerArn": arn, "Protocol": "TCP", "Port": 80}
    two = {"TargetGroups": [{"TargetGroupArn": web}, {"TargetGroupArn": other}]}
    stuck = {
        "TargetGroups": [{"TargetGroupArn": web}],
        "TargetGroupStickinessConfig": {"Enabled": True},
    }
    wrong: tuple[dict[str, Any], ...] = (
        {"Protocol": "TLS"},
        {"DefaultActions": [{"Type": "forward", "ForwardConfig": two}]},
        {"DefaultActions": [{"Type": "forward", "ForwardConfig": stuck}]},
    )
    for change in wrong:
        said = refusal(
            elb.create_listener, **{**listener, "DefaultActions": forward(web), **change}
        )
        assert said[0] == "UnsupportedOperation", change
    assert refusal(elb.describe_rules)[0] == "UnsupportedOperation"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": str(number), "Value": ""} for number in range(51)], "TooManyTags"),
        ([{"Key": "a"}, {"Key": "a"}], "DuplicateTagKeys"),
        ([{"Value": "v"}], "ValidationError"),
    ],
)
def test_nothing_is_made_with_wrong_tags(
    endpoint: Endpoint, found: Scene, tags: list[dict[str, str]], code: str
) -> None:
    elb = endpoint.client("elbv2")
    said = refusal(
        elb.create_load_balancer,
        Name="front",
        Type="network",
        Scheme="internal",
        Subnets=[found.private],
        Tags=tags,
    )
    assert (said[0], elb.describe_load_balancers()["LoadBalancers"]) == (code, [])
