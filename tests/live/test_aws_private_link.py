# SPDX-License-Identifier: Apache-2.0
"""PrivateLink by AWS's own client, between two accounts with the same network, and packets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until
from tests.live.test_aws import gone, serving, waited
from tests.live.test_aws_balancers import TOML, answering, asked, instance, refused

pytestmark = pytest.mark.live

SHOP, BANK = "111122223333", "444455556666"
NETWORK = "10.0.0.0/16"
HTTP = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": NETWORK}]}


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=0, toml=TOML)


def network(ec2: Any) -> tuple[str, str, str]:
    """Ids of a VPC, of a subnet, and of a group that lets HTTP in."""
    vpc = ec2.create_vpc(CidrBlock=NETWORK)["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="us-east-1a")
    group = ec2.create_security_group(VpcId=vpc, GroupName="web", Description="of HTTP")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[HTTP])
    return vpc, subnet["Subnet"]["SubnetId"], group


def balanced(elb: Any, vpc: str, subnet: str, target: str) -> tuple[str, str]:
    """ARNs of a load balancer and of its target group."""
    (group,) = elb.create_target_group(
        Name="web",
        Protocol="TCP",
        Port=80,
        VpcId=vpc,
        # A second of the lab's: what takes longer is no answer.
        HealthCheckIntervalSeconds=30,
        HealthCheckTimeoutSeconds=30,
        HealthyThresholdCount=2,
    )["TargetGroups"]
    (balancer,) = elb.create_load_balancer(
        Name="front", Type="network", Scheme="internal", Subnets=[subnet]
    )["LoadBalancers"]
    elb.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="TCP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group["TargetGroupArn"]}],
    )
    elb.register_targets(TargetGroupArn=group["TargetGroupArn"], Targets=[{"Id": target}])
    return balancer["LoadBalancerArn"], group["TargetGroupArn"]


def until(state: Callable[[], str], wanted: str) -> None:
    wait_until(lambda: state() == wanted, lambda: f"the endpoint is {state()}, not {wanted}")


def test_an_account_reaches_the_service_of_another_by_its_endpoint(lab: Lab) -> None:
    with serving(lab) as endpoint:
        ec2, elb = endpoint.client("ec2", SHOP), endpoint.client("elbv2", SHOP)
        bank = endpoint.client("ec2", BANK)
        vpc, subnet, group = network(ec2)
        web, _ = instance(ec2, "web", subnet, group)
        balancer, targets = balanced(elb, vpc, subnet, web)
        theirs, desk, desk_group = network(bank)
        teller, _ = instance(bank, "teller", desk, desk_group)
        (node,) = (
            each["LoadBalancerAddresses"][0]["PrivateIPv4Address"]
            for each in elb.describe_load_balancers()["LoadBalancers"][0]["AvailabilityZones"]
        )
        made = ec2.create_vpc_endpoint_service_configuration(NetworkLoadBalancerArns=[balancer])
        service, name = (made["ServiceConfiguration"][key] for key in ("ServiceId", "ServiceName"))
        wanted = {
            "VpcEndpointType": "Interface",
            "VpcId": theirs,
            "ServiceName": name,
            "SubnetIds": [desk],
            "SecurityGroupIds": [desk_group],
        }
        refused(bank.create_vpc_endpoint, "InvalidServiceName", **wanted)
        ec2.modify_vpc_endpoint_service_permissions(
            ServiceId=service, AddAllowedPrincipals=[f"arn:aws:iam::{BANK}:root"]
        )
        shown = bank.create_vpc_endpoint(**wanted)["VpcEndpoint"]
        key, address = shown["VpcEndpointId"], shown["NetworkInterfaceIds"]
        (interface,) = bank.describe_network_interfaces(NetworkInterfaceIds=address)[
            "NetworkInterfaces"
        ]
        address = interface["PrivateIpAddress"]

        def state() -> str:
            (found,) = bank.describe_vpc_endpoints(VpcEndpointIds=[key])["VpcEndpoints"]
            return str(found["State"])

        with answering(lab, "web"):
            waited(elb, "load_balancer_available", LoadBalancerArns=[balancer])
            waited(elb, "target_in_service", TargetGroupArn=targets)
            assert state() == "pendingAcceptance"
            assert asked(lab, "teller", address, answered=False) is None
            (waiting,) = ec2.describe_vpc_endpoint_connections()["VpcEndpointConnections"]
            assert (waiting["VpcEndpointId"], waiting["VpcEndpointOwner"]) == (key, BANK)
            ec2.accept_vpc_endpoint_connections(ServiceId=service, VpcEndpointIds=[key])
            until(state, "available")
            # The server sees the load balancer's node, whoever asks.
            for where in (address, shown["DnsEntries"][0]["DnsName"]):
                assert asked(lab, "teller", where) == f"web {node}"
            bank.revoke_security_group_ingress(GroupId=desk_group, IpPermissions=[HTTP])
            assert asked(lab, "teller", address, answered=False) is None
            bank.authorize_security_group_ingress(GroupId=desk_group, IpPermissions=[HTTP])
            assert asked(lab, "teller", address) == f"web {node}"
            (failed,) = ec2.delete_vpc_endpoint_service_configurations(ServiceIds=[service])[
                "Unsuccessful"
            ]
            assert failed["Error"]["Code"] == "ExistingVpcEndpointConnections"
            ec2.reject_vpc_endpoint_connections(ServiceId=service, VpcEndpointIds=[key])
            until(state, "rejected")
            assert asked(lab, "teller", address, answered=False) is None
        refused(elb.delete_load_balancer, "ResourceInUse", LoadBalancerArn=balancer)
        done = bank.delete_vpc_endpoints(VpcEndpointIds=[key])
        assert done["Unsuccessful"] == []
        done = ec2.delete_vpc_endpoint_service_configurations(ServiceIds=[service])
        assert done["Unsuccessful"] == []
        elb.delete_load_balancer(LoadBalancerArn=balancer)
        waited(elb, "load_balancers_deleted", LoadBalancerArns=[balancer])
        elb.delete_target_group(TargetGroupArn=targets)
        for client, host, groups, subnets, whole in (
            (ec2, web, group, subnet, vpc),
            (bank, teller, desk_group, desk, theirs),
        ):
            client.terminate_instances(InstanceIds=[host])
            gone(client.delete_security_group, GroupId=groups)
            gone(client.delete_subnet, SubnetId=subnets)
            client.delete_vpc(VpcId=whole)
    for what in ("endpoints", "endpoint-services", "load-balancers", "hosts"):
        assert lab.rows(what) == []
    assert lab.verify() == []
