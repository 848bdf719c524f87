# SPDX-License-Identifier: Apache-2.0
"""Route tables and internet gateways.

The ids of associations are derived from table and subnet, so they need not be kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.aws.call import (
    HOST,
    INTERNET_GATEWAY,
    NAT_GATEWAY,
    ROUTE_TABLE,
    SUBNET,
    VPC,
    Call,
    Operation,
    Params,
    Row,
    derived,
    operation,
    token_of,
)
from hyperplane_nat.aws.errors import AwsError, missing
from hyperplane_nat.aws.filters import answer
from hyperplane_nat.aws.vpcs import network

TABLE_FILTERS = {
    "association.gateway-id": "Associations.GatewayId",
    "association.main": "Associations.Main",
    "association.route-table-association-id": "Associations.RouteTableAssociationId",
    "association.route-table-id": "Associations.RouteTableId",
    "association.subnet-id": "Associations.SubnetId",
    "owner-id": "OwnerId",
    "route-table-id": "RouteTableId",
    "route.destination-cidr-block": "Routes.DestinationCidrBlock",
    "route.destination-ipv6-cidr-block": "Routes.DestinationIpv6CidrBlock",
    "route.destination-prefix-list-id": "Routes.DestinationPrefixListId",
    "route.egress-only-internet-gateway-id": "Routes.EgressOnlyInternetGatewayId",
    "route.gateway-id": "Routes.GatewayId",
    "route.instance-id": "Routes.InstanceId",
    "route.nat-gateway-id": "Routes.NatGatewayId",
    "route.origin": "Routes.Origin",
    "route.state": "Routes.State",
    "route.transit-gateway-id": "Routes.TransitGatewayId",
    "route.vpc-peering-connection-id": "Routes.VpcPeeringConnectionId",
    "vpc-id": "VpcId",
}
GATEWAY_FILTERS = {
    "attachment.state": "Attachments.State",
    "attachment.vpc-id": "Attachments.VpcId",
    "internet-gateway-id": "InternetGatewayId",
    "owner-id": "OwnerId",
}


def create_route_table(call: Call, params: Params) -> Row:
    """CreateRouteTable: InvalidVpcID.NotFound, RouteTableLimitExceeded."""
    vpc = call.find(VPC, params.get("VpcId"))
    body = {"vpc": vpc["VpcId"], **token_of(params)}
    made = call.post(ROUTE_TABLE.path, body)
    call.tag_new(made["RouteTableId"], "route-table", params)
    return {"RouteTable": _table(call, made), "ClientToken": params.get("ClientToken")}


def delete_route_table(call: Call, params: Params) -> None:
    """DeleteRouteTable: InvalidRouteTableID.NotFound, DependencyViolation."""
    found = call.find(ROUTE_TABLE, params.get("RouteTableId"))
    call.delete(ROUTE_TABLE.path, found["RouteTableId"])


def describe_route_tables(call: Call, params: Params) -> Row:
    """DescribeRouteTables: InvalidRouteTableID.NotFound."""
    found = [_table(call, row) for row in call.select(ROUTE_TABLE, params.get("RouteTableIds"))]
    return answer(params, "RouteTables", found, TABLE_FILTERS)


def create_route(call: Call, params: Params) -> Row:
    """
    CreateRoute: to an internet gateway, a NAT gateway or an instance.

    Errors: InvalidRouteTableID.NotFound, RouteAlreadyExists, those of what it leads to.
    """
    _route(call, params, "create_routes")
    return {"Return": True}


def replace_route(call: Call, params: Params) -> None:
    """ReplaceRoute: InvalidRoute.NotFound, and the errors of CreateRoute."""
    _route(call, params, "replace_routes")


def delete_route(call: Call, params: Params) -> None:
    """DeleteRoute: InvalidRouteTableID.NotFound, InvalidRoute.NotFound."""
    found = call.find(ROUTE_TABLE, params.get("RouteTableId"))
    destination = str(network(params.get("DestinationCidrBlock"), "DestinationCidrBlock"))
    vpc = call.find(VPC, found["VpcId"])
    if destination == vpc["CidrBlock"]:
        raise AwsError(
            "InvalidParameterValue",
            f"cannot remove local route {destination} in route table {found['RouteTableId']}",
        )
    call.patch(ROUTE_TABLE.path, found["RouteTableId"], {"delete_routes": [destination]})


def associate_route_table(call: Call, params: Params) -> Row:
    """AssociateRouteTable: InvalidSubnetID.NotFound, Resource.AlreadyAssociated."""
    found = call.find(ROUTE_TABLE, params.get("RouteTableId"))
    subnet = call.find(SUBNET, params.get("SubnetId"))
    if subnet["SubnetId"] not in _subnets(found):
        call.patch(ROUTE_TABLE.path, found["RouteTableId"], {"associate": [subnet["SubnetId"]]})
    return {
        "AssociationId": _association(found, subnet["SubnetId"]),
        "AssociationState": {"State": "associated"},
    }


def disassociate_route_table(call: Call, params: Params) -> None:
    """DisassociateRouteTable: InvalidAssociationID.NotFound, InvalidParameterValue."""
    table, subnet = _associated(call, params.get("AssociationId"))
    if not subnet:
        raise AwsError(
            "InvalidParameterValue",
            f"cannot disassociate the main route table association {params['AssociationId']}",
        )
    call.patch(ROUTE_TABLE.path, table["RouteTableId"], {"disassociate": [subnet]})


def replace_route_table_association(call: Call, params: Params) -> Row:
    """ReplaceRouteTableAssociation, of a subnet or of the main route table of a VPC."""
    former, subnet = _associated(call, params.get("AssociationId"))
    found = call.find(ROUTE_TABLE, params.get("RouteTableId"))
    if former["VpcId"] != found["VpcId"]:
        raise AwsError(
            "InvalidParameterValue",
            f"route table {found['RouteTableId']} and association {params['AssociationId']} belong "
            "to different networks",
        )
    if former["RouteTableId"] != found["RouteTableId"]:
        if subnet:
            call.patch(ROUTE_TABLE.path, former["RouteTableId"], {"disassociate": [subnet]})
            call.patch(ROUTE_TABLE.path, found["RouteTableId"], {"associate": [subnet]})
        else:
            call.patch(ROUTE_TABLE.path, found["RouteTableId"], {"main": True})
    return {
        "NewAssociationId": _association(found, subnet),
        "AssociationState": {"State": "associated"},
    }


def create_internet_gateway(call: Call, params: Params) -> Row:
    """CreateInternetGateway."""
    made = call.post(INTERNET_GATEWAY.path, {"account": call.owner()})
    call.tag_new(made["InternetGatewayId"], "internet-gateway", params)
    return {"InternetGateway": _gateway(call, made)}


def delete_internet_gateway(call: Call, params: Params) -> None:
    """DeleteInternetGateway: InvalidInternetGatewayID.NotFound, DependencyViolation."""
    found = call.find(INTERNET_GATEWAY, params.get("InternetGatewayId"))
    call.delete(INTERNET_GATEWAY.path, found["InternetGatewayId"])


def describe_internet_gateways(call: Call, params: Params) -> Row:
    """DescribeInternetGateways: InvalidInternetGatewayID.NotFound."""
    rows = call.select(INTERNET_GATEWAY, params.get("InternetGatewayIds"))
    found = [_gateway(call, row) for row in rows]
    return answer(params, "InternetGateways", found, GATEWAY_FILTERS)


def attach_internet_gateway(call: Call, params: Params) -> None:
    """AttachInternetGateway: InvalidVpcID.NotFound, Resource.AlreadyAssociated."""
    found = call.find(INTERNET_GATEWAY, params.get("InternetGatewayId"))
    vpc = call.find(VPC, params.get("VpcId"))
    call.patch(INTERNET_GATEWAY.path, found["InternetGatewayId"], {"vpc": vpc["VpcId"]})


def detach_internet_gateway(call: Call, params: Params) -> None:
    """DetachInternetGateway: Gateway.NotAttached, DependencyViolation."""
    found = call.find(INTERNET_GATEWAY, params.get("InternetGatewayId"))
    vpc = call.find(VPC, params.get("VpcId"))
    if vpc["VpcId"] not in {each["VpcId"] for each in found["Attachments"]}:
        raise AwsError(
            "Gateway.NotAttached",
            f"resource {found['InternetGatewayId']} is not attached to network {vpc['VpcId']}",
        )
    call.patch(INTERNET_GATEWAY.path, found["InternetGatewayId"], {"vpc": None})


def _route(call: Call, params: Params, field: str) -> None:
    found = call.find(ROUTE_TABLE, params.get("RouteTableId"))
    destination = str(network(params.get("DestinationCidrBlock"), "DestinationCidrBlock"))
    targets = (
        ("GatewayId", "internet_gateway", INTERNET_GATEWAY),
        ("NatGatewayId", "nat_gateway", NAT_GATEWAY),
        ("InstanceId", "host", HOST),
    )
    named = {
        target: call.find(kind, params[name])[kind.key]
        for name, target, kind in targets
        if params.get(name)
    }
    if not named:
        raise missing("GatewayId, NatGatewayId or InstanceId")
    route = {"destination": destination, **named}
    call.patch(ROUTE_TABLE.path, found["RouteTableId"], {field: [route]})


def _associated(call: Call, wanted: str | None) -> tuple[Row, str]:
    """The table of an association and its subnet, which is empty for the main one."""
    for table in call.own(ROUTE_TABLE):
        for subnet in [*_subnets(table), *([""] if table["Main"] else [])]:
            if _association(table, subnet) == wanted:
                return table, subnet
        if call.repeated:
            # It was replaced or ended before the answer about that broke off.
            for each in call.own(SUBNET):
                if _association(table, each["SubnetId"]) == wanted:
                    return table, each["SubnetId"]
    raise AwsError("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")


def _association(table: Row, subnet: str) -> str:
    return derived("rtbassoc", table["RouteTableId"], subnet)


def _subnets(table: Row) -> list[str]:
    return [each["SubnetId"] for each in table["Associations"]]


def _table(call: Call, row: Row) -> Row:
    subnets: list[str | None] = [*_subnets(row), *([None] if row["Main"] else [])]
    return {
        "RouteTableId": row["RouteTableId"],
        "VpcId": row["VpcId"],
        "OwnerId": row["OwnerId"],
        "PropagatingVgws": [],
        "Associations": [
            {
                "RouteTableAssociationId": _association(row, subnet or ""),
                "RouteTableId": row["RouteTableId"],
                "SubnetId": subnet,
                "Main": subnet is None,
                "AssociationState": {"State": "associated"},
            }
            for subnet in subnets
        ],
        "Routes": [
            {
                **{key: value for key, value in route.items() if key not in _OWN},
                "Origin": "CreateRouteTable"
                if route.get("GatewayId") == "local"
                else "CreateRoute",
            }
            for route in row["Routes"]
        ],
        "Tags": call.tags(row["RouteTableId"]),
    }


def _gateway(call: Call, row: Row) -> Row:
    return {
        "InternetGatewayId": row["InternetGatewayId"],
        "OwnerId": row["OwnerId"],
        "Attachments": [
            {"VpcId": each["VpcId"], "State": each["State"]} for each in row["Attachments"]
        ],
        "Tags": call.tags(row["InternetGatewayId"]),
    }


_OWN = ("DestinationPrefixListName",)
"""What the region tells of routes besides."""

_OF_ROUTES = "RouteTableId DestinationCidrBlock GatewayId NatGatewayId InstanceId"

OPERATIONS: Mapping[str, Operation] = {
    "CreateRouteTable": operation(
        create_route_table, "VpcId TagSpecifications", makes="route-table"
    ),
    "DeleteRouteTable": operation(delete_route_table, "RouteTableId"),
    "DescribeRouteTables": operation(describe_route_tables, "RouteTableIds"),
    "CreateRoute": operation(create_route, _OF_ROUTES),
    "ReplaceRoute": operation(replace_route, _OF_ROUTES),
    "DeleteRoute": operation(delete_route, "RouteTableId DestinationCidrBlock"),
    "AssociateRouteTable": operation(associate_route_table, "RouteTableId SubnetId"),
    "DisassociateRouteTable": operation(disassociate_route_table, "AssociationId"),
    "ReplaceRouteTableAssociation": operation(
        replace_route_table_association, "AssociationId RouteTableId"
    ),
    "CreateInternetGateway": operation(
        create_internet_gateway, "TagSpecifications", makes="internet-gateway"
    ),
    "DeleteInternetGateway": operation(delete_internet_gateway, "InternetGatewayId"),
    "DescribeInternetGateways": operation(describe_internet_gateways, "InternetGatewayIds"),
    "AttachInternetGateway": operation(attach_internet_gateway, "InternetGatewayId VpcId"),
    "DetachInternetGateway": operation(detach_internet_gateway, "InternetGatewayId VpcId"),
}
