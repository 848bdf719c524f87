# SPDX-License-Identifier: Apache-2.0
"""Ways out of a VPC: route tables, gateways, elastic addresses, and their network interfaces."""

from __future__ import annotations

from typing import Any

import pytest

from hyperplane_nat.model.resources import HostResource
from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def table_of(ec2: Any, key: str) -> dict[str, Any]:
    (table,) = ec2.describe_route_tables(RouteTableIds=[key])["RouteTables"]
    shown: dict[str, Any] = table
    return shown


def test_route_tables_as_ec2_has_them(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    table = table_of(ec2, found.private_table)
    (association,) = table["Associations"]
    assert (association["SubnetId"], association["Main"]) == (found.private, False)
    local, out = table["Routes"]
    assert (local["GatewayId"], local["Origin"]) == ("local", "CreateRouteTable")
    assert (out["NatGatewayId"], out["State"]) == (found.nat, "active")
    by_subnet = [{"Name": "association.subnet-id", "Values": [found.private]}]
    (same,) = ec2.describe_route_tables(Filters=by_subnet)["RouteTables"]
    assert same == table


def test_associations_move(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (association,) = table_of(ec2, found.private_table)["Associations"]
    key = association["RouteTableAssociationId"]
    moved = ec2.replace_route_table_association(AssociationId=key, RouteTableId=found.table)
    subnets = {each["SubnetId"] for each in table_of(ec2, found.table)["Associations"]}
    assert subnets == {found.public, found.private}
    assert table_of(ec2, found.private_table)["Associations"] == []
    assert refusal(ec2.disassociate_route_table, AssociationId=key)[0] == (
        "InvalidAssociationID.NotFound"
    )
    ec2.disassociate_route_table(AssociationId=moved["NewAssociationId"])
    assert len(table_of(ec2, found.table)["Associations"]) == 1
    # An association that there is already is answered again.
    again = ec2.associate_route_table(RouteTableId=found.table, SubnetId=found.public)
    assert (
        again["AssociationId"]
        == (table_of(ec2, found.table)["Associations"][0]["RouteTableAssociationId"])
    )


def test_another_table_becomes_the_main_one(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    main = [
        {"Name": "vpc-id", "Values": [found.vpc]},
        {"Name": "association.main", "Values": ["true"]},
    ]
    (former,) = ec2.describe_route_tables(Filters=main)["RouteTables"]
    (association,) = former["Associations"]
    key = association["RouteTableAssociationId"]
    said = refusal(ec2.disassociate_route_table, AssociationId=key)
    assert said[0] == "InvalidParameterValue"
    ec2.replace_route_table_association(AssociationId=key, RouteTableId=found.table)
    (table,) = ec2.describe_route_tables(Filters=main)["RouteTables"]
    assert table["RouteTableId"] == found.table
    ec2.delete_route_table(RouteTableId=former["RouteTableId"])


def test_routes_are_replaced_and_deleted(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    route = {"RouteTableId": found.private_table, "DestinationCidrBlock": "0.0.0.0/0"}
    ec2.replace_route(**route, GatewayId=found.gateway)
    assert table_of(ec2, found.private_table)["Routes"][1]["GatewayId"] == found.gateway
    assert refusal(ec2.create_route, **route)[0] == "MissingParameter"
    ec2.delete_route(**route)
    assert len(table_of(ec2, found.private_table)["Routes"]) == 1
    local = route | {"DestinationCidrBlock": "10.7.0.0/16"}
    assert refusal(ec2.delete_route, **local)[0] == "InvalidParameterValue"


def test_a_nat_gateway_goes_through_its_states(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")

    def state(key: str) -> str:
        (row,) = ec2.describe_nat_gateways(NatGatewayIds=[key])["NatGateways"]
        shown: str = row["State"]
        return shown

    settings = endpoint.region.region.settings
    asked = {"SubnetId": found.public, "ConnectivityType": "private", "ClientToken": "once"}
    made = ec2.create_nat_gateway(**asked)["NatGateway"]
    assert made["State"] == state(made["NatGatewayId"]) == "pending"
    assert ec2.create_nat_gateway(**asked)["NatGateway"]["NatGatewayId"] == made["NatGatewayId"]
    endpoint.pass_seconds(settings.nat_gateway_creation_seconds)
    assert state(made["NatGatewayId"]) == "available"
    ec2.delete_nat_gateway(NatGatewayId=made["NatGatewayId"])
    assert state(made["NatGatewayId"]) == "deleting"
    endpoint.pass_seconds(settings.nat_gateway_deletion_seconds)
    assert state(made["NatGatewayId"]) == "deleted"
    ec2.create_tags(Resources=[made["NatGatewayId"]], Tags=[{"Key": "a", "Value": "b"}])
    endpoint.pass_seconds(3601)
    assert refusal(ec2.describe_nat_gateways, NatGatewayIds=[made["NatGatewayId"]])[0] == (
        "NatGatewayNotFound"
    )
    ec2.delete_nat_gateway(NatGatewayId=found.nat)
    assert "nat-" not in (endpoint.directory / "aws.json").read_text(encoding="utf-8")


def test_why_a_nat_gateway_has_failed_is_told(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    subnet = ec2.create_subnet(VpcId=found.empty, CidrBlock="10.8.1.0/24")["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")
    made = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address["AllocationId"])
    endpoint.pass_seconds(600)
    key = made["NatGateway"]["NatGatewayId"]
    (row,) = ec2.describe_nat_gateways(NatGatewayIds=[key])["NatGateways"]
    assert (row["State"], row["FailureCode"]) == ("failed", "Gateway.NotAttached")
    assert row["FailureMessage"] == f"Network {found.empty} has no Internet gateway attached"


def test_addresses_know_who_has_them(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (row,) = ec2.describe_addresses(AllocationIds=[found.allocation])["Addresses"]
    (gateway,) = ec2.describe_nat_gateways(NatGatewayIds=[found.nat])["NatGateways"]
    (address,) = gateway["NatGatewayAddresses"]
    for name in ("AssociationId", "NetworkInterfaceId", "AllocationId", "PublicIp"):
        assert row[name] == address[name]
    assert row["PrivateIpAddress"] == address["PrivateIp"]
    assert refusal(ec2.disassociate_address, AssociationId=row["AssociationId"])[0] == "AuthFailure"
    assert refusal(ec2.describe_addresses, PublicIps=["192.0.2.1"])[0] == "InvalidAddress.NotFound"
    # The quota is the account's.
    for _ in range(4):
        ec2.allocate_address(Domain="vpc")
    assert refusal(ec2.allocate_address, Domain="vpc") == (
        "AddressLimitExceeded",
        "The maximum number of addresses has been reached.",
        400,
    )


def test_a_hosts_address_and_interface(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="d")["GroupId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    with endpoint.region.region.commands() as commands:
        host = commands.create_host(HostResource("web", subnet, security_groups=(group,)))
    address = ec2.allocate_address(Domain="vpc")
    asked = {"AllocationId": address["AllocationId"], "InstanceId": host.id}
    key = ec2.associate_address(**asked)["AssociationId"]
    assert refusal(ec2.associate_address, **asked)[0] == "Resource.AlreadyAssociated"
    again = ec2.associate_address(**asked, AllowReassociation=True)["AssociationId"]
    assert again != key
    by_host = [{"Name": "attachment.instance-id", "Values": [host.id]}]
    (interface,) = ec2.describe_network_interfaces(Filters=by_host)["NetworkInterfaces"]
    assert interface["InterfaceType"] == "interface"
    assert interface["Association"]["PublicIp"] == address["PublicIp"]
    assert [each["GroupId"] for each in interface["Groups"]] == [group]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    route = {"RouteTableId": table, "DestinationCidrBlock": "198.18.0.0/15"}
    ec2.create_route(**route, InstanceId=host.id)
    assert table_of(ec2, table)["Routes"][1]["InstanceId"] == host.id
    ec2.disassociate_address(AssociationId=again)
    (row,) = ec2.describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"]
    assert "InstanceId" not in row
    ec2.release_address(AllocationId=address["AllocationId"])
    said = refusal(ec2.release_address, AllocationId=address["AllocationId"])
    assert said[0] == "InvalidAllocationID.NotFound"


def test_interfaces_of_functions_and_nat_gateways(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    of_it = [{"Name": "vpc-id", "Values": [found.vpc]}]
    rows = ec2.describe_network_interfaces(Filters=of_it)["NetworkInterfaces"]
    by_type = {row["InterfaceType"]: row for row in rows}
    assert set(by_type) == {"lambda", "nat_gateway"}
    function, gateway = by_type["lambda"], by_type["nat_gateway"]
    assert function["Description"].startswith("AWS Lambda VPC ENI-fetch-")
    assert (function["SubnetId"], function["Status"]) == (found.private, "in-use")
    assert function["RequesterManaged"] is True
    assert gateway["Description"] == f"Interface for NAT Gateway {found.nat}"
    assert gateway["Association"]["AllocationId"] == found.allocation
    assert function["NetworkInterfaceId"] in endpoint.region.region.tables.interfaces
    key = function["NetworkInterfaceId"]
    ec2.create_tags(Resources=[key], Tags=[{"Key": "a", "Value": "b"}])
    (tagged,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[key])["NetworkInterfaces"]
    assert tagged["TagSet"] == [{"Key": "a", "Value": "b"}]
    other = endpoint.client("ec2", OTHER)
    assert other.describe_tags()["Tags"] == other.describe_network_interfaces()["NetworkInterfaces"]
    assert refusal(other.create_tags, Resources=[key], Tags=[{"Key": "a"}])[0] == (
        "InvalidNetworkInterfaceID.NotFound"
    )
    said = refusal(ec2.describe_network_interfaces, NetworkInterfaceIds=["eni-0"])
    assert said[0] == "InvalidNetworkInterfaceID.NotFound"


def test_it_is_taken_down_in_an_order_that_aws_allows(endpoint: Endpoint, found: Scene) -> None:
    ec2, functions = endpoint.client("ec2"), endpoint.client("lambda")
    functions.delete_function(FunctionName="fetch")
    ec2.delete_nat_gateway(NatGatewayId=found.nat)
    # Time in which the interfaces go, the gateway's and Lambda's.
    endpoint.pass_seconds(3000)
    endpoint.take_down()
    ec2.detach_internet_gateway(InternetGatewayId=found.gateway, VpcId=found.vpc)
    for gateway in (found.gateway, found.idle):
        ec2.delete_internet_gateway(InternetGatewayId=gateway)
    ec2.release_address(AllocationId=found.allocation)
    for subnet in (found.public, found.private):
        ec2.delete_subnet(SubnetId=subnet)
    for table in (found.table, found.private_table):
        ec2.delete_route_table(RouteTableId=table)
    ec2.delete_security_group(GroupId=found.group)
    for vpc in (found.vpc, found.empty):
        ec2.delete_vpc(VpcId=vpc)
    tables = endpoint.region.region.tables
    assert {vpc.name for vpc in tables.vpcs.values()} == {"customer", "internet"}
    assert (tables.internet_gateways, tables.elastic_addresses) == ({}, {})


def test_a_nat_gateway_gets_and_gives_up_addresses(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    more = ec2.allocate_address(Domain="vpc")

    def public() -> dict[str, str]:
        (shown,) = ec2.describe_nat_gateways(NatGatewayIds=[found.nat])["NatGateways"]
        return {each["PublicIp"]: each["AssociationId"] for each in shown["NatGatewayAddresses"]}

    asked = {"NatGatewayId": found.nat, "AllocationIds": [more["AllocationId"]]}
    shown = ec2.associate_nat_gateway_address(**asked)
    assert len(shown["NatGatewayAddresses"]) == 2
    endpoint.pass_seconds(600)
    assert set(public()) == {found.address, more["PublicIp"]}
    refused = {"NatGatewayId": found.nat, "AssociationIds": [public()[found.address]]}
    assert refusal(ec2.disassociate_nat_gateway_address, **refused)[0] == "InvalidParameterValue"
    given_up = [public()[more["PublicIp"]]]
    ec2.disassociate_nat_gateway_address(
        NatGatewayId=found.nat, AssociationIds=given_up, MaxDrainDurationSeconds=1
    )
    endpoint.pass_seconds(600)
    assert set(public()) == {found.address}


def test_a_private_nat_gateway_gets_and_gives_up_addresses(
    endpoint: Endpoint, found: Scene
) -> None:
    ec2 = endpoint.client("ec2")
    key = ec2.create_nat_gateway(SubnetId=found.private, ConnectivityType="private")
    key = key["NatGateway"]["NatGatewayId"]
    endpoint.pass_seconds(600)

    def private() -> list[str]:
        (shown,) = ec2.describe_nat_gateways(NatGatewayIds=[key])["NatGateways"]
        return [each["PrivateIp"] for each in shown["NatGatewayAddresses"]]

    (first,) = private()
    ec2.assign_private_nat_gateway_address(NatGatewayId=key, PrivateIpAddressCount=2)
    endpoint.pass_seconds(600)
    assert (len(private()), private()[0]) == (3, first)
    ec2.unassign_private_nat_gateway_address(
        NatGatewayId=key, PrivateIpAddresses=private()[1:], MaxDrainDurationSeconds=1
    )
    endpoint.pass_seconds(600)
    assert private() == [first]


def test_internet_gateways_as_ec2_has_them(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    attached = [{"Name": "attachment.vpc-id", "Values": [found.vpc]}]
    (shown,) = ec2.describe_internet_gateways(Filters=attached)["InternetGateways"]
    assert shown["InternetGatewayId"] == found.gateway
    assert shown["Attachments"] == [{"VpcId": found.vpc, "State": "available"}]
    (idle,) = ec2.describe_internet_gateways(InternetGatewayIds=[found.idle])["InternetGateways"]
    assert idle["Attachments"] == []
