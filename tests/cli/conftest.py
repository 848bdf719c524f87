# SPDX-License-Identifier: Apache-2.0
"""The command line against a control API of the test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperplane_nat.cli import app
from tests.cli.fake_api import FakeApi, serving

Run = Callable[..., Result]

STATUS = {
    "lab": "default",
    "state": "running",
    "pid": 4711,
    "uptime_seconds": 3700.5,
    "environments": 2,
    "interfaces": 1,
    "vpcs": 1,
    "metrics_url": "http://127.0.0.1:9109/metrics",
    "forwarder": {"pid": 4712, "restarts": 1, "rss_bytes": 50 << 20, "uptime_seconds": 61},
    "flows": {"tcp": 3, "udp": 2, "icmp": 1, "max": 1048576},
    "drops": {"source_spoofed": 2, "no_flow": 7},
    "traffic": {"packets_out": 0, "bytes_out": 0, "packets_in": 0, "bytes_in": 0},
    "counters": {},
    "state_file": {"path": "/dev/shm/x.map", "bytes": 128 << 20, "bytes_per_flow": 122.0},
}
ENVIRONMENT = {
    "name": "env-1",
    "number": 1,
    "namespace": "hp-default-env-1",
    "address": "169.254.100.2/30",
    "interface": "eni-a",
    "interface_address": "10.0.1.10",
    "packets_out": 11,
    "bytes_out": 12,
    "packets_in": 13,
    "bytes_in": 14,
    "drops": 0,
    "function": None,
    "state": "static",
}
POOLED = ENVIRONMENT | {
    "name": "env-3",
    "number": 3,
    "namespace": "hp-default-env-3",
    "interface": None,
    "interface_address": None,
    "state": "pooled",
}
INTERFACE = {
    "name": "eni-a",
    "number": 0,
    "vpc": "customer",
    "subnet": "private-a",
    "address": "10.0.1.10",
    "secondary_addresses": [],
    "secondary_numbers": [],
    "mac": "02:00:00:00:00:01",
    "environments": 2,
    "flows": 6,
    "packets_out": 11,
    "bytes_out": 12,
    "packets_in": 13,
    "bytes_in": 14,
    "ports": [55000],
    "ports_limit": 55000,
    "port_allocation_errors": 17,
    "id": None,
    "kind": "static",
    "status": "in-use",
    "description": "",
    "groups": [],
    "owner": None,
}
SHARED_INTERFACE = INTERFACE | {
    "name": "lm-0a1b2c3d4e5",
    "number": 1,
    "address": "10.0.1.4",
    "id": "eni-0a1b2c3d4e5f60718",
    "kind": "hyperplane",
    "description": "AWS Lambda VPC ENI-checkout-0b9dbd41-7c3a-4a0e-8e3e-6f4d1b6f9c55",
    "groups": ["functions", "a[1]"],
    "owner": "111122223333",
}
FUNCTION = {
    "FunctionName": "checkout",
    "Version": "$LATEST",
    "Aliases": [
        {
            "Name": "live",
            "FunctionVersion": "7",
            "RoutingConfig": {"AdditionalVersionWeights": {}},
            "ProvisionedConcurrency": {
                "RequestedProvisionedConcurrentExecutions": 4,
                "AllocatedProvisionedConcurrentExecutions": 3,
                "AvailableProvisionedConcurrentExecutions": 3,
                "Status": "IN_PROGRESS",
                "StatusReason": "",
            },
        },
        {
            "Name": "old",
            "FunctionVersion": "2",
            "RoutingConfig": {"AdditionalVersionWeights": {"3": 0.25}},
            "ProvisionedConcurrency": None,
        },
    ],
    "Account": "111122223333",
    "Networking": "hyperplane",
    "MemorySize": 128,
    "State": "Active",
    "StateReason": None,
    "StateReasonCode": None,
    "LastUpdateStatus": "Successful",
    "LastUpdateStatusReason": None,
    "LastUpdateStatusReasonCode": None,
    "VpcConfig": {
        "VpcId": "vpc-0a1b2c3d4e5f60718",
        "VpcName": "payments",
        "SubnetIds": ["subnet-0a1b2c3d4e5f60718"],
        "SecurityGroupIds": ["sg-0a1b2c3d4e5f60718"],
    },
    "NetworkInterfaceIds": ["eni-0a1b2c3d4e5f60718"],
    "Environments": 3,
    "LastUsed": 0.0,
}
SECURITY_GROUP = {
    "GroupId": "sg-0a1b2c3d4e5f60718",
    "GroupName": "a[1]",
    "Description": "",
    "OwnerId": "111122223333",
    "VpcId": "vpc-0a1b2c3d4e5f60718",
    "VpcName": "payments",
    "IpPermissions": [
        {
            "IpProtocol": "tcp",
            "FromPort": 5432,
            "ToPort": 5432,
            "UserIdGroupPairs": [{"GroupId": "sg-0a1b2c3d4e5f60718"}],
        },
        {
            "IpProtocol": "udp",
            "FromPort": 1024,
            "ToPort": 2048,
            "IpRanges": [{"CidrIp": "10.0.0.0/16"}],
        },
        {
            "IpProtocol": "tcp",
            "FromPort": 0,
            "ToPort": 65535,
            "IpRanges": [{"CidrIp": "10.1.0.0/16"}],
        },
        {"IpProtocol": "icmp", "IpRanges": [{"CidrIp": "10.2.0.0/16"}]},
    ],
    "IpPermissionsEgress": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
    "NetworkInterfaceIds": ["eni-0a1b2c3d4e5f60718"],
}
INVOCATION = {
    "status": 0,
    "stdout": "aGVsbG8K",
    "stderr": "",
    "truncated": False,
    "timed_out": False,
    "environment": "env-17",
    "cold": True,
    "interface": "eni-0a1b2c3d4e5f60718",
    "interface_created": False,
    "network_ready_seconds": 0.00084,
    "modelled_seconds": 0.0,
    "elapsed_seconds": 0.0142,
}
FLOW = {
    "index": 5,
    "protocol": "tcp",
    "state": "ESTABLISHED",
    "environment": "env-1",
    "inside_address": "169.254.100.2",
    "inside_port": 40000,
    "nat_address": "10.0.1.10",
    "nat_port": 1024,
    "remote_address": "10.0.1.80",
    "remote_port": 80,
    "packets_out": 1,
    "bytes_out": 2,
    "packets_in": 3,
    "bytes_in": 4,
    "age_seconds": 3700.0,
    "idle_seconds": 5.2,
}


FIGURES = {
    "interface": "eni-a",
    "address": "10.0.1.10",
    "in_use": 54900,
    "held": 100,
    "limit": 55000,
    "used_percent": 100.0,
    "allocation_errors": 17,
    "last_error_seconds": 75.2,
    "last_error_reason": "port_allocation",
    "last_error_environment": "env-17",
    "last_error_host": None,
    "functions": [
        {"function": "checkout", "in_use": 54000, "held": 90},
        {"function": None, "in_use": 900, "held": 10},
    ],
    "environments": [
        {
            "environment": "env-17",
            "host": None,
            "function": "checkout",
            "in_use": 54000,
            "held": 90,
        },
        {"environment": None, "host": "shop/worker", "function": None, "in_use": 900, "held": 0},
        {"environment": None, "host": None, "function": None, "in_use": 0, "held": 10},
    ],
}
REMOTE = FIGURES | {
    "protocol": "tcp",
    "remote_address": "10.0.1.54",
    "remote_port": 5432,
    "high_water": 55000,
}
QUIET = REMOTE | {
    "remote_address": "0.0.0.0",
    "remote_port": 0,
    "allocation_errors": 0,
    "last_error_seconds": None,
    "limit": None,
    "used_percent": None,
    "functions": [],
    "environments": [],
}
PORTS = {"interfaces": [FIGURES], "remotes": [REMOTE, QUIET]}


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory; short, because the path of a unix socket holds 107 characters."""
    with tempfile.TemporaryDirectory(prefix="hp-") as directory:
        yield Path(directory)


@pytest.fixture
def run(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in the runtime directory of the test."""
    monkeypatch.delenv("HYPERPLANE_NAT_LAB", raising=False)
    monkeypatch.setenv("HYPERPLANE_NAT_RUNTIME_DIRECTORY", str(runtime))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return invoke


@pytest.fixture
def api(runtime: Path) -> Iterator[FakeApi]:
    """The control API of the lab called default, with one of everything."""
    fake = FakeApi(
        {
            "/v1/status": STATUS,
            "/v1/environments": [ENVIRONMENT, POOLED],
            "/v1/interfaces": [INTERFACE, SHARED_INTERFACE],
            "/v1/functions": [FUNCTION],
            "/v1/security-groups": [SECURITY_GROUP],
            "/v1/flows": [FLOW],
            "/v1/hosts": [],
            "/v1/ports": PORTS,
            "/v1/verify": {"problems": [], "entries": 6},
        }
    )
    with serving(runtime / "default" / "control.sock", fake):
        yield fake
