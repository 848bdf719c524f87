# SPDX-License-Identifier: Apache-2.0
"""Instances and a load balancer by AWS's own clients, and packets that show what they have made."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.live.conftest import Launch
from tests.live.lab import COMMAND, Lab, patience, wait_until
from tests.live.test_aws import Endpoint, gone, serving, waited
from tests.live.test_crash import kill_controller

pytestmark = pytest.mark.live

IMAGE = "ami-0abcdef1234567890"

TOML = """
[lifecycle]
time_scale = 30.0
"""

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[1]} {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_args): pass
http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=0, toml=TOML)


@contextlib.contextmanager
def answering(lab: Lab, host: str) -> Iterator[None]:
    """A server on an instance, which says whose it is and whom it sees."""
    command = [COMMAND, "--lab", lab.name, "exec", host, "--", "python3", "-c", SERVER, host]
    with subprocess.Popen(list(map(str, command))) as process:
        try:
            yield
        finally:
            process.terminate()


def asked(lab: Lab, host: str, name: str, *, answered: bool = True) -> str | None:
    """What an instance is answered by a server; None when by nobody."""
    curl = ("curl", "-sS", "-m", patience(answered=answered), f"http://{name}/")
    done = lab.cli("exec", host, "--", *curl, check=False)
    return done.stdout if done.returncode == 0 else None


def instance(ec2: Any, name: str, subnet: str, group: str) -> tuple[str, str]:
    """Id and address of an instance with a name."""
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
    (made,) = ec2.run_instances(
        ImageId=IMAGE,
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
        SecurityGroupIds=[group],
        TagSpecifications=tags,
    )["Instances"]
    return made["InstanceId"], made["PrivateIpAddress"]


def states(elb: Any, group: str) -> list[str]:
    found = elb.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
    return sorted(each["TargetHealth"]["State"] for each in found)


def counted(
    endpoint: Endpoint, name: str, statistic: str, balancer: str, group: str | None = None
) -> float:
    """What CloudWatch tells of a load balancer, in all."""
    said = {"LoadBalancer": balancer.partition("loadbalancer/")[2]}
    if group is not None:
        said["TargetGroup"] = group.rpartition(":")[2]
    now = datetime.now(UTC)
    found = endpoint.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/NetworkELB",
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in said.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now,
        Period=3600,
        Statistics=[statistic],
    )["Datapoints"]
    values = [float(each[statistic]) for each in found]
    return sum(values) if statistic == "Sum" else max(values)


def refused(work: Any, code: str, **params: object) -> None:
    with pytest.raises(ClientError) as caught:
        work(**params)
    answer: Any = caught.value.response
    assert answer["Error"]["Code"] == code


def test_boto3_balances_over_instances_and_takes_it_all_down(lab: Lab) -> None:
    with serving(lab) as endpoint:
        ec2, elb = endpoint.client("ec2"), endpoint.client("elbv2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        zones = {"us-east-1a": "10.0.1.0/24", "us-east-1b": "10.0.2.0/24"}
        subnets = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone)["Subnet"][
                "SubnetId"
            ]
            for zone, cidr in zones.items()
        ]
        group = ec2.create_security_group(VpcId=vpc, GroupName="web", Description="of servers")
        group = group["GroupId"]
        web = {
            "IpProtocol": "tcp",
            "FromPort": 80,
            "ToPort": 80,
            "IpRanges": [{"CidrIp": "10.0.0.0/16"}],
        }
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[web])
        client, address = instance(ec2, "client", subnets[0], group)
        first, _ = instance(ec2, "web-1", subnets[0], group)
        second, _ = instance(ec2, "web-2", subnets[1], group)
        waited(ec2, "instance_running", InstanceIds=[client, first, second])
        (targets,) = elb.create_target_group(
            Name="web",
            Protocol="TCP",
            Port=80,
            VpcId=vpc,
            # A second of the lab's: what takes longer is no answer.
            HealthCheckIntervalSeconds=30,
            HealthCheckTimeoutSeconds=30,
            HealthyThresholdCount=2,
        )["TargetGroups"]
        targets = targets["TargetGroupArn"]
        now = [{"Key": "deregistration_delay.timeout_seconds", "Value": "30"}]
        elb.modify_target_group_attributes(TargetGroupArn=targets, Attributes=now)
        (balancer,) = elb.create_load_balancer(
            Name="front", Type="network", Scheme="internal", Subnets=subnets
        )["LoadBalancers"]
        arn, name = balancer["LoadBalancerArn"], balancer["DNSName"]
        crossing = [{"Key": "load_balancing.cross_zone.enabled", "Value": "true"}]
        elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=crossing)
        elb.create_listener(
            LoadBalancerArn=arn,
            Protocol="TCP",
            Port=80,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": targets}],
        )
        both = [{"Id": first}, {"Id": second}]
        elb.register_targets(TargetGroupArn=targets, Targets=both)
        with answering(lab, "web-1"):
            with answering(lab, "web-2"):
                waited(elb, "load_balancer_available", LoadBalancerArns=[arn])
                waited(elb, "target_in_service", TargetGroupArn=targets)
                shown = endpoint.aws(
                    "elbv2", "describe-target-health", "--target-group-arn", targets
                )["TargetHealthDescriptions"]
                assert {each["Target"]["Id"] for each in shown} == {first, second}
                endpoint.aws("elbv2", "wait", "target-in-service", "--target-group-arn", targets)
                # Both are reached, and see the client's own address.
                answers = Counter(asked(lab, "client", name) for _ in range(24))
                assert set(answers) == {f"web-1 {address}", f"web-2 {address}"}
                assert counted(endpoint, "NewFlowCount_TCP", "Sum", arn) == 24
                assert counted(endpoint, "HealthyHostCount", "Maximum", arn, targets) == 2
            wait_until(
                lambda: states(elb, targets) == ["healthy", "unhealthy"],
                lambda: f"health: {states(elb, targets)}",
            )
            assert {asked(lab, "client", name) for _ in range(8)} == {f"web-1 {address}"}
            elb.deregister_targets(TargetGroupArn=targets, Targets=[{"Id": second}])
            waited(elb, "target_deregistered", TargetGroupArn=targets, Targets=[{"Id": second}])
            off = [{"Key": "preserve_client_ip.enabled", "Value": "false"}]
            elb.modify_target_group_attributes(TargetGroupArn=targets, Attributes=off)
            nodes = {
                each["LoadBalancerAddresses"][0]["PrivateIPv4Address"]
                for each in elb.describe_load_balancers()["LoadBalancers"][0]["AvailabilityZones"]
            }
            assert {asked(lab, "client", name) for _ in range(8)} <= {
                f"web-1 {node}" for node in nodes
            }
            # What a group does not let in does not arrive.
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[web])
            assert asked(lab, "client", name, answered=False) is None
        refused(elb.delete_target_group, "ResourceInUse", TargetGroupArn=targets)
        refused(ec2.delete_subnet, "DependencyViolation", SubnetId=subnets[0])
        elb.delete_load_balancer(LoadBalancerArn=arn)
        waited(elb, "load_balancers_deleted", LoadBalancerArns=[arn])
        elb.delete_target_group(TargetGroupArn=targets)
        instances = [client, first, second]
        ec2.terminate_instances(InstanceIds=instances)
        waited(ec2, "instance_terminated", InstanceIds=instances)
        gone(ec2.delete_security_group, GroupId=group)
        for subnet in subnets:
            gone(ec2.delete_subnet, SubnetId=subnet)
        ec2.delete_vpc(VpcId=vpc)
    left = {what: lab.rows(what) for what in ("hosts", "load-balancers", "target-groups")}
    assert left == {"hosts": [], "load-balancers": [], "target-groups": []}
    assert vpc not in {row["VpcId"] for row in lab.rows("vpcs")}
    assert lab.verify() == []


@pytest.mark.races
def test_a_killed_controller_is_said_and_the_next_one_describes_the_same(lab: Lab) -> None:
    def described() -> list[object]:
        return [
            ec2.describe_vpcs()["Vpcs"],
            ec2.describe_subnets()["Subnets"],
            ec2.describe_tags()["Tags"],
            elb.describe_load_balancers()["LoadBalancers"],
            elb.describe_target_groups()["TargetGroups"],
        ]

    with serving(lab) as endpoint:
        ec2, elb = endpoint.client("ec2"), endpoint.client("elbv2")
        vpc = ec2.create_vpc(
            CidrBlock="10.0.0.0/16",
            TagSpecifications=[{"ResourceType": "vpc", "Tags": [{"Key": "a", "Value": "b"}]}],
        )["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        (balancer,) = elb.create_load_balancer(
            Name="front", Type="network", Scheme="internal", Subnets=[subnet]
        )["LoadBalancers"]
        arn = balancer["LoadBalancerArn"]
        elb.create_target_group(Name="web", Protocol="TCP", Port=80, VpcId=vpc)
        waited(elb, "load_balancer_available", LoadBalancerArns=[arn])
        before = described()
        kill_controller(lab)
        # Nothing is made up meanwhile, nor half of anything.
        refused(ec2.describe_vpcs, "Unavailable")
        refused(ec2.create_vpc, "Unavailable", CidrBlock="10.1.0.0/16")
        refused(elb.delete_load_balancer, "ServiceUnavailable", LoadBalancerArn=arn)
        lab.up()
        assert described() == before
        elb.delete_load_balancer(LoadBalancerArn=arn)
        (group,) = elb.describe_target_groups()["TargetGroups"]
        elb.delete_target_group(TargetGroupArn=group["TargetGroupArn"])
        gone(ec2.delete_subnet, SubnetId=subnet)
        ec2.delete_vpc(VpcId=vpc)
    assert lab.verify() == []
