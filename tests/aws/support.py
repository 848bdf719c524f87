# SPDX-License-Identifier: Apache-2.0
"""The endpoint over a real region without a network below it, and boto3's clients of it."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from hyperplane_nat.aws import server
from hyperplane_nat.aws.call import Lab
from hyperplane_nat.aws.notes import Notes, notes_path
from hyperplane_nat.client import Client
from hyperplane_nat.runtime.code import OWN_RUNTIME
from tests.controller.region_lab import RegionLab, served

ACCOUNT, OTHER = "111122223333", "444455556666"
REGION = "us-east-1"
ROLE = "arn:aws:iam::111122223333:role/r"


ANSWERED: set[tuple[str, str]] = set()
"""Services and operations that were answered without an error."""


def _note(http_response: Any, model: Any, **_: Any) -> None:
    if http_response.status_code < 300:
        ANSWERED.add((model.service_model.service_name, model.name))


def client_of(service: str, url: str, account: str = ACCOUNT) -> Any:
    """A client of boto3, which asks once and checks nothing itself."""
    client: Any = boto3.client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=account,
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 0}, parameter_validation=False),
    )
    client.meta.events.register("after-call", _note)
    return client


def archive(**files: str) -> bytes:
    """An archive of Python modules."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, text in files.items():
            opened.writestr(f"{name}.py", text)
    return content.getvalue()


def refusal(work: Callable[..., object], **params: object) -> tuple[str, str, int]:
    """Code, text and status of a call that is refused."""
    with pytest.raises(ClientError) as caught:
        work(**params)
    answer: Any = caught.value.response
    error = answer["Error"]
    return error["Code"], error["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


@dataclass
class Endpoint:
    """An endpoint that runs, and the region below it."""

    url: str
    region: RegionLab
    directory: Path
    lab: Lab
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict)

    def client(self, service: str, account: str = ACCOUNT) -> Any:
        """A client, made once."""
        key = service, account
        if key not in self._clients:
            self._clients[key] = client_of(service, self.url, account)
        return self._clients[key]

    def reset(self) -> None:
        """As it was in the beginning, but for what moto has in its memory."""
        self.region.reset()
        notes_path(self.directory).unlink(missing_ok=True)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass in the region."""
        self.region.clock.pass_seconds(seconds)
        self.region.region.advance()

    def take_down(self) -> None:
        """What the network below would do: interfaces that are to go are gone."""
        region = self.region.region
        for interface in region.deleting():
            region.interface_removed(interface)


def lab_in(directory: Path) -> Lab:
    """The lab whose control API is served in a directory."""
    known = Client(directory.name, runtime_directory=directory.parent)
    return Lab(known, Notes(directory), REGION, ACCOUNT)


@contextlib.contextmanager
def running(lab: Lab) -> Iterator[str]:
    """The endpoint of a lab is served meanwhile; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        found = server.listen(lab, listener)
        thread = threading.Thread(target=found.serve_forever, name="aws")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            found.shutdown()
            thread.join()
            application: Any = found.app
            application.close()


@contextlib.contextmanager
def launched() -> Iterator[Endpoint]:
    """An endpoint and its region. A path of a unix socket is short."""
    directory = Path(tempfile.mkdtemp(prefix="hp", dir="/dev/shm"))
    lab = RegionLab()
    try:
        known = lab_in(directory)
        with served(directory / "control.sock", lab), running(known) as url:
            yield Endpoint(url, lab, directory, known)
    finally:
        shutil.rmtree(directory)


@dataclass(frozen=True)
class Scene:
    """Ids of a VPC with everything: what a test or a wrong call is about."""

    vpc: str
    public: str
    private: str
    default: str
    """Its default group."""
    group: str
    """Of the function; it lets port 80 in."""
    gateway: str
    """Its internet gateway."""
    idle: str
    """Another one, of no VPC."""
    allocation: str
    """Of the NAT gateway."""
    address: str
    """The public address of that."""
    nat: str
    table: str
    """Of the public subnet, with a route to the internet gateway."""
    private_table: str
    empty: str
    """Another VPC."""


def scene(endpoint: Endpoint) -> Scene:
    """Make it. Everything that takes a while is over."""
    ec2, functions = endpoint.client("ec2"), endpoint.client("lambda")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    public, private = (
        ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"]
        for cidr in ("10.7.0.0/24", "10.7.1.0/24")
    )
    (default,) = (
        each["GroupId"]
        for each in ec2.describe_security_groups()["SecurityGroups"]
        if each["VpcId"] == vpc
    )
    group = ec2.create_security_group(VpcId=vpc, GroupName="fn", Description="of functions")
    web = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[web])
    gateway, idle = (
        ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"] for _ in range(2)
    )
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    address = ec2.allocate_address(Domain="vpc")
    nat = ec2.create_nat_gateway(SubnetId=public, AllocationId=address["AllocationId"])
    tables = []
    for subnet, target in (
        (public, {"GatewayId": gateway}),
        (private, {"NatGatewayId": nat["NatGateway"]["NatGatewayId"]}),
    ):
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        tables.append(table)
    functions.create_function(
        FunctionName="fetch",
        Runtime=OWN_RUNTIME,
        Handler="app.handler",
        Role=ROLE,
        Code={"ZipFile": archive(app="def handler(event, context): return event")},
        VpcConfig={"SubnetIds": [private], "SecurityGroupIds": [group["GroupId"]]},
    )
    empty = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    endpoint.region.settle()
    endpoint.pass_seconds(600)
    return Scene(
        vpc=vpc,
        public=public,
        private=private,
        default=default,
        group=group["GroupId"],
        gateway=gateway,
        idle=idle,
        allocation=address["AllocationId"],
        address=address["PublicIp"],
        nat=nat["NatGateway"]["NatGatewayId"],
        table=tables[0],
        private_table=tables[1],
        empty=empty,
    )
