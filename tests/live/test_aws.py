# SPDX-License-Identifier: Apache-2.0
"""The AWS endpoint with AWS's own clients, and packets that show what they have made.

One lab whose AWS times are over soon; its internet has a server that tells whom it sees. The tests
stand in the order of a session.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.live.conftest import Launch
from tests.live.lab import COMMAND, Lab, wait_until

pytestmark = pytest.mark.live

AWS = Path(sys.executable).parents[1] / "aws" / "bin" / "aws"
SITE = "198.51.100.80"

TOML = f"""
[lifecycle]
time_scale = 1000.0

[pool]
size = 4

[[vpc]]
name = "bare"
cidr = "10.9.0.0/16"

[[internet]]
name = "site"
kind = "http"
address = "{SITE}"
port = 80
"""

CODE = f"""
import json, urllib.request
def handler(event, context):
    place = event.get("place", "http://{SITE}/peer")
    with urllib.request.urlopen(place, timeout=event.get("timeout", 10)) as answer:
        said = answer.read().decode()
    return said if "place" in event else json.loads(said)["address"]
"""


@dataclass
class Endpoint:
    """An endpoint that runs, and its clients."""

    lab: Lab
    process: subprocess.Popen[str]
    variables: dict[str, str]
    """What it says should be exported."""

    def client(self, service: str, account: str | None = None) -> Any:
        """A client of boto3, of the account of the key that it says or another one."""
        return boto3.client(
            service,
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            region_name=self.variables["AWS_DEFAULT_REGION"],
            aws_access_key_id=account or self.variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.variables["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"max_attempts": 0}),
        )

    def aws(self, *arguments: str, check: bool = True) -> Any:
        """What the aws command line answers; the error with check off."""
        said = self.run(*arguments, "--output", "json", check=check)
        if not check:
            return said
        return json.loads(said) if said.strip() else None

    def run(self, *arguments: str, check: bool = True) -> str:
        """What the aws command line prints; the error with check off."""
        done = subprocess.run(
            [str(AWS), *arguments],
            env={**os.environ, **self.variables, "AWS_PAGER": ""},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if not check:
            assert done.returncode != 0
            return done.stderr
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def serving(lab: Lab) -> Iterator[Endpoint]:
    """`hyperplane-nat aws` as a user starts it."""
    with subprocess.Popen(
        [str(COMMAND), "--lab", lab.name, "aws", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = "".join(process.stdout.readline() for _ in range(4))
            yield Endpoint(lab, process, dict(re.findall(r"(AWS_\w+)=(\S+)", said)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=0, toml=TOML)


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        opened.writestr("app.py", CODE)
    return content.getvalue()


def waited(client: Any, waiter: str, **params: object) -> None:
    """A waiter of boto3 that asks often."""
    found = client.get_waiter(waiter)
    found.config.delay, found.config.max_attempts = 0.1, 600
    found.wait(**params)


def gone(work: Any, **params: object) -> None:
    """Delete something, as soon as what depends on it is gone."""

    def done() -> bool:
        try:
            work(**params)
        except ClientError as error:
            answer: Any = error.response
            assert answer["Error"]["Code"] == "DependencyViolation"
            return False
        return True

    wait_until(done, f"{params} is deleted")


def invoked(functions: Any, **event: object) -> tuple[str | None, Any]:
    """The error, and what the function returned."""
    answer = functions.invoke(FunctionName="fetch", Payload=json.dumps(event))
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


def test_boto3_builds_what_moves_packets_and_takes_it_down(lab: Lab) -> None:
    with serving(lab) as endpoint:
        ec2, functions = endpoint.client("ec2"), endpoint.client("lambda")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        public, private = (
            ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"]
            for cidr in ("10.0.0.0/24", "10.0.1.0/24")
        )
        group = ec2.create_security_group(VpcId=vpc, GroupName="fn", Description="functions")
        group = group["GroupId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        address = ec2.allocate_address(Domain="vpc")
        nat = ec2.create_nat_gateway(SubnetId=public, AllocationId=address["AllocationId"])
        nat = nat["NatGateway"]["NatGatewayId"]
        tables = []
        for subnet, target in ((public, {"GatewayId": gateway}), (private, {"NatGatewayId": nat})):
            table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
            ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
            tables.append(table)
        functions.create_function(
            FunctionName="fetch",
            Runtime=f"python3.{sys.version_info.minor}",
            Handler="app.handler",
            Role="arn:aws:iam::111122223333:role/r",
            Code={"ZipFile": archive()},
            Timeout=20,
            VpcConfig={"SubnetIds": [private], "SecurityGroupIds": [group]},
        )
        waited(ec2, "nat_gateway_available", NatGatewayIds=[nat])
        waited(functions, "function_active_v2", FunctionName="fetch")
        # The server on the internet sees the elastic address.
        assert invoked(functions) == (None, address["PublicIp"])
        # What a group does not let out does not leave.
        everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
        error, said = invoked(functions, timeout=1)
        assert (error, said["errorType"]) == ("Unhandled", "URLError")
        ec2.authorize_security_group_egress(GroupId=group, IpPermissions=everything)
        assert invoked(functions) == (None, address["PublicIp"])
        for work, params in (
            (ec2.delete_vpc, {"VpcId": vpc}),
            (ec2.delete_subnet, {"SubnetId": private}),
            (ec2.delete_security_group, {"GroupId": group}),
            (ec2.detach_internet_gateway, {"InternetGatewayId": gateway, "VpcId": vpc}),
        ):
            with pytest.raises(ClientError, match="DependencyViolation"):
                work(**params)
        functions.delete_function(FunctionName="fetch")
        ec2.delete_nat_gateway(NatGatewayId=nat)
        waited(ec2, "nat_gateway_deleted", NatGatewayIds=[nat])
        (route,) = ec2.describe_route_tables(RouteTableIds=[tables[1]])["RouteTables"]
        assert route["Routes"][1]["State"] == "blackhole"
        gone(ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)
        ec2.delete_internet_gateway(InternetGatewayId=gateway)
        ec2.release_address(AllocationId=address["AllocationId"])
        gone(ec2.delete_security_group, GroupId=group)
        for subnet in (public, private):
            gone(ec2.delete_subnet, SubnetId=subnet)
        for table in tables:
            ec2.delete_route_table(RouteTableId=table)
        ec2.delete_vpc(VpcId=vpc)
    assert {row["VpcName"] for row in lab.rows("vpcs")} <= {"bare", "internet"}
    assert lab.rows("nat-gateways") == [] or all(
        row["State"] == "deleted" for row in lab.rows("nat-gateways")
    )
    assert lab.rows("functions") == lab.rows("addresses") == []
    assert lab.verify() == []


@pytest.mark.races
def test_a_killed_endpoint_leaves_the_lab_and_the_next_describes_the_same(lab: Lab) -> None:
    def described(endpoint: Endpoint) -> list[object]:
        ec2 = endpoint.client("ec2")
        return [
            ec2.describe_vpcs()["Vpcs"],
            ec2.describe_subnets()["Subnets"],
            ec2.describe_security_groups()["SecurityGroups"],
            ec2.describe_tags()["Tags"],
        ]

    with serving(lab) as endpoint:
        ec2 = endpoint.client("ec2")
        tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "x"}]}]
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tags)["Vpc"]["VpcId"]
        before = described(endpoint)
        endpoint.process.kill()
        endpoint.process.wait()
    assert lab.status()["state"] == "running"
    with serving(lab) as endpoint:
        assert described(endpoint) == before
        endpoint.client("ec2").delete_vpc(VpcId=vpc)


def test_the_aws_command_line(lab: Lab) -> None:
    with serving(lab) as endpoint:
        aws = endpoint.aws
        vpc = aws("ec2", "create-vpc", "--cidr-block", "10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = aws("ec2", "create-subnet", "--vpc-id", vpc, "--cidr-block", "10.0.1.0/24")
        (shown,) = aws("ec2", "describe-subnets", "--filters", f"Name=vpc-id,Values={vpc}")[
            "Subnets"
        ]
        assert shown == subnet["Subnet"]
        said = aws("ec2", "delete-vpc", "--vpc-id", vpc, check=False)
        assert f"The vpc '{vpc}' has dependencies and cannot be deleted." in said
        ec2 = endpoint.client("ec2")
        ec2.delete_subnet(SubnetId=shown["SubnetId"])
        ec2.delete_vpc(VpcId=vpc)
