# SPDX-License-Identifier: Apache-2.0
"""functions, security-groups."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import FUNCTION, SECURITY_GROUP, Run
from tests.cli.fake_api import FakeApi


def test_functions_show_state_and_interfaces(run: Run, api: FakeApi) -> None:
    pending = FUNCTION | {
        "FunctionName": "webhook",
        "State": "Pending",
        "StateReasonCode": "Creating",
        "VpcConfig": None,
        "NetworkInterfaceIds": [],
    }
    api.answers["/v1/functions"] = [FUNCTION, pending]
    output = run("functions").stdout
    words = ["checkout", "Active", "payments", "eni-0a1b2c3d4e5f60718", "Pending (Creating)"]
    words.append("live: 7 (3/4)")
    assert [word for word in words if word not in output] == []


def test_security_groups_show_their_rules_as_words(run: Run, api: FakeApi) -> None:
    output = run("security-groups").stdout
    words = [
        "tcp 5432 from group a[1]",
        "udp 1024-2048 from 10.0.0.0/16",
        "tcp from 10.1.0.0/16",
        "icmp from 10.2.0.0/16",
        "everything to 0.0.0.0/0",
    ]
    assert [word for word in words if word not in output] == []


def test_a_group_without_rules_lets_nothing_through(run: Run, api: FakeApi) -> None:
    api.answers["/v1/security-groups"] = [SECURITY_GROUP | {"IpPermissions": []}]
    assert "nothing" in run("security-groups").stdout


@pytest.mark.parametrize(
    ("command", "answer"), [("functions", [FUNCTION]), ("security-groups", [SECURITY_GROUP])]
)
def test_json_is_the_apis_answer(run: Run, api: FakeApi, command: str, answer: object) -> None:
    result = run(command, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == answer


def test_route_tables_show_targets_and_states(run: Run, api: FakeApi) -> None:
    table = {
        "RouteTableId": "rtb-1",
        "RouteTableName": "public",
        "VpcName": "customer",
        "Main": True,
        "Associations": [{"SubnetId": "subnet-1", "SubnetName": "private-a"}],
        "Routes": [
            {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"},
            {"DestinationCidrBlock": "192.0.2.0/24", "InstanceId": "i-1", "State": "active"},
            {"DestinationCidrBlock": "1.0.0.0/8", "NatGatewayId": "nat-1", "State": "active"},
            {"DestinationCidrBlock": "0.0.0.0/0", "InstanceId": "i-2", "State": "blackhole"},
            {
                "DestinationPrefixListId": "pl-1",
                "DestinationPrefixListName": "com.amazonaws.us-east-1.s3",
                "GatewayId": "vpce-1",
                "State": "active",
            },
        ],
    }
    api.answers["/v1/route-tables"] = [table]
    api.answers["/v1/hosts"] = [{"InstanceId": "i-1", "HostName": "bastion"}]
    api.answers["/v1/nat-gateways"] = [{"NatGatewayId": "nat-1", "NatGatewayName": "out"}]
    api.answers["/v1/gateway-endpoints"] = [{"VpcEndpointId": "vpce-1", "Name": "store"}]
    _, row = run("route-tables").stdout.splitlines()
    assert row.split("\t") == [
        "customer",
        "public",
        "private-a; all others",
        "10.0.0.0/16; 192.0.2.0/24; 1.0.0.0/8; 0.0.0.0/0; pl-1 (s3)",
        "local; host bastion; NAT gateway out; i-2; gateway endpoint store",
        "active; active; active; blackhole; active",
        "rtb-1",
    ]
    assert json.loads(run("route-tables", "--json").stdout) == [table]


def test_network_acls_show_their_rules(run: Run, api: FakeApi) -> None:
    def entry(number: int, **fields: object) -> dict[str, object]:
        return {
            "RuleNumber": number,
            "Egress": False,
            "RuleAction": "allow",
            "Protocol": "-1",
            "CidrBlock": "0.0.0.0/0",
            **fields,
        }

    acl = {
        "NetworkAclId": "acl-1",
        "NetworkAclName": "edge",
        "VpcName": "customer",
        "Associations": [{"SubnetId": "subnet-1", "SubnetName": "a"}],
        "Entries": [
            entry(90, Protocol="6", PortRange={"From": 1024, "To": 65535}),
            entry(100, Protocol="17", PortRange={"From": 53, "To": 53}, CidrBlock="10.0.0.0/8"),
            entry(110, Protocol="1", IcmpTypeCode={"Type": 3, "Code": 4}),
            entry(32767, RuleAction="deny"),
            entry(10, Protocol="47", Egress=True),
            entry(32767, RuleAction="deny", Egress=True),
        ],
    }
    api.answers["/v1/network-acls"] = [acl]
    _, row = run("network-acls").stdout.splitlines()
    assert row.split("\t") == [
        "customer",
        "edge",
        "; ".join(
            (
                "ingress 90 allow tcp 1024-65535 from 0.0.0.0/0",
                "ingress 100 allow udp 53 from 10.0.0.0/8",
                "ingress 110 allow icmp type 3, code 4 from 0.0.0.0/0",
                "ingress * deny all from 0.0.0.0/0",
                "egress 10 allow 47 to 0.0.0.0/0",
                "egress * deny all to 0.0.0.0/0",
            )
        ),
        "a",
        "acl-1",
    ]
    assert json.loads(run("network-acls", "--json").stdout) == [acl]


def test_nat_gateways_show_addresses_and_failures(run: Run, api: FakeApi) -> None:
    gateway = {
        "NatGatewayId": "nat-1",
        "NatGatewayName": "out",
        "VpcName": "customer",
        "SubnetName": "public-a",
        "AvailabilityZone": "a",
        "ConnectivityType": "public",
        "State": "available",
        "NetworkInterfaceId": "eni-1",
        "NatGatewayAddresses": [
            {"PrivateIp": "10.0.0.4", "PublicIp": "203.0.113.1", "Status": "succeeded"},
            {"PrivateIp": "10.0.0.5", "PublicIp": "203.0.113.2", "Status": "disassociating"},
        ],
    }
    failed: dict[str, object] = gateway | {
        "State": "failed",
        "FailureCode": "Gateway.NotAttached",
        "FailureMessage": "Network vpc-1 has no Internet gateway attached",
        "NetworkInterfaceId": None,
        "NatGatewayAddresses": [],
    }
    api.answers["/v1/nat-gateways"] = [gateway, failed]
    _, first, second = run("nat-gateways").stdout.splitlines()
    assert first.split("\t")[5:9] == [
        "available",
        "10.0.0.4; 10.0.0.5",
        "203.0.113.1; 203.0.113.2",
        "succeeded; disassociating",
    ]
    assert "failed (Gateway.NotAttached: Network vpc-1 has no Internet" in second
    assert json.loads(run("nat-gateways", "--json").stdout) == [gateway, failed]
