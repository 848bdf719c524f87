# SPDX-License-Identifier: Apache-2.0
"""Endpoints of type Gateway, and the prefix lists of AWS's services that they lead to."""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.aws.call import (
    GATEWAY_ENDPOINTS,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    by_id,
    operation,
    token_of,
    utc,
)
from hyperplane_nat.aws.errors import AwsError, missing, unsupported
from hyperplane_nat.aws.filters import answer, page

PREFIX_LIST = Kind(
    "/v1/prefix-lists",
    "PrefixListId",
    "InvalidPrefixListID.NotFound",
    "The prefix list ID '{}' does not exist",
)
_MAX_ENTRIES = 1000
"""Of a prefix list that AWS manages it does not say how many entries it may have."""

WHOLE_ACCESS = (
    '{"Version":"2008-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*",'
    '"Resource":"*"}]}'
)
"""The policy of an endpoint that is made without one."""

_OF_INTERFACE = (
    *("SubnetIds", "SecurityGroupIds", "SubnetConfigurations", "PrivateDnsEnabled"),
    *("AddSubnetIds", "RemoveSubnetIds", "AddSecurityGroupIds", "RemoveSecurityGroupIds"),
)
_LIST_FILTERS = {
    "owner-id": "OwnerId",
    "prefix-list-id": "PrefixListId",
    "prefix-list-name": "PrefixListName",
}


def create(call: Call, vpc: str, service: str, params: Params) -> Row:
    """One of a VPC; the answer is the control API's row."""
    _refuse_of_interface(params)
    return call.post(
        GATEWAY_ENDPOINTS,
        {
            "vpc": vpc,
            "service": service,
            "route_tables": _tables(call, params.get("RouteTableIds")),
            "policy": params.get("PolicyDocument") or "",
            **token_of(params),
        },
    )


def modify(call: Call, found: Row, params: Params) -> None:
    """Its route tables and its policy."""
    _refuse_of_interface(params)
    body: Row = {
        "add_route_tables": _tables(call, params.get("AddRouteTableIds")),
        "remove_route_tables": _tables(call, params.get("RemoveRouteTableIds")),
    }
    if params.get("ResetPolicy"):
        body["policy"] = ""
    elif params.get("PolicyDocument"):
        body["policy"] = params["PolicyDocument"]
    call.patch(GATEWAY_ENDPOINTS, found["VpcEndpointId"], body)


def form(call: Call, row: Row) -> Row:
    """As DescribeVpcEndpoints has it."""
    return {
        "VpcEndpointId": row["VpcEndpointId"],
        "VpcEndpointType": row["VpcEndpointType"],
        "VpcId": row["VpcId"],
        "OwnerId": row["OwnerId"],
        "ServiceName": row["ServiceName"],
        "ServiceRegion": call.lab.region,
        "State": "available",
        "PolicyDocument": row["PolicyDocument"] or WHOLE_ACCESS,
        "RouteTableIds": [each["RouteTableId"] for each in row["RouteTables"]],
        "SubnetIds": [],
        "NetworkInterfaceIds": [],
        "Groups": [],
        "DnsEntries": [],
        "PrivateDnsEnabled": False,
        "RequesterManaged": False,
        "CreationTimestamp": utc(row["CreationTimestamp"]),
        "Tags": call.tags(row["VpcEndpointId"]),
    }


def services(call: Call) -> list[Row]:
    """Those that there are gateway endpoints of, as DescribeVpcEndpointServices has them."""
    zones = sorted({row["AvailabilityZone"] for row in call.rows("/v1/subnets")})
    return [
        {
            "ServiceName": row["PrefixListName"],
            "ServiceType": [{"ServiceType": "Gateway"}],
            "ServiceRegion": call.lab.region,
            "AvailabilityZones": [call.zone(each) for each in zones],
            "Owner": "amazon",
            "BaseEndpointDnsNames": [_dns_name(row["PrefixListName"])],
            "AcceptanceRequired": False,
            "ManagesVpcEndpoints": False,
            "VpcEndpointPolicySupported": True,
            "SupportedIpAddressTypes": ["ipv4"],
            "Tags": [],
        }
        for row in call.rows(PREFIX_LIST.path)
    ]


def describe_prefix_lists(call: Call, params: Params) -> Row:
    """DescribePrefixLists: InvalidPrefixListID.NotFound."""
    found = [
        {
            "PrefixListId": row["PrefixListId"],
            "PrefixListName": row["PrefixListName"],
            "Cidrs": row["Entries"],
        }
        for row in _selected(call, params)
    ]
    return answer(params, "PrefixLists", found, _LIST_FILTERS)


def describe_managed_prefix_lists(call: Call, params: Params) -> Row:
    """DescribeManagedPrefixLists, all of which are AWS's. InvalidPrefixListID.NotFound."""
    found = [
        {
            "PrefixListId": row["PrefixListId"],
            "PrefixListName": row["PrefixListName"],
            "AddressFamily": row["AddressFamily"],
            "State": "create-complete",
            "PrefixListArn": (
                f"arn:aws:ec2:{call.lab.region}:aws:prefix-list/{row['PrefixListId']}"
            ),
            "MaxEntries": _MAX_ENTRIES,
            "Tags": [],
            "OwnerId": row["OwnerId"],
        }
        for row in _selected(call, params)
    ]
    return answer(params, "PrefixLists", found, _LIST_FILTERS)


def get_entries(call: Call, params: Params) -> Row:
    """GetManagedPrefixListEntries: InvalidPrefixListID.NotFound."""
    wanted = params.get("PrefixListId")
    if not wanted:
        raise missing("PrefixListId")
    if params.get("TargetVersion"):
        raise unsupported("Versions of prefix lists are not emulated.")
    found = PREFIX_LIST.known(call.rows(PREFIX_LIST.path), [wanted])[wanted]
    return page(params, "Entries", [{"Cidr": each} for each in found["Entries"]])


def _selected(call: Call, params: Params) -> list[Row]:
    rows, wanted = call.rows(PREFIX_LIST.path), params.get("PrefixListIds") or []
    PREFIX_LIST.known(rows, wanted)
    return [row for row in rows if not wanted or row["PrefixListId"] in wanted]


def _refuse_of_interface(params: Params) -> None:
    for name in _OF_INTERFACE:
        if params.get(name):
            raise AwsError(
                "InvalidParameter", f"{name} cannot be specified for an endpoint of type Gateway"
            )


def _tables(call: Call, wanted: list[str] | None) -> list[str]:
    tables = wanted or []
    known = by_id(call.own(_ROUTE_TABLE), _ROUTE_TABLE.key)
    for each in tables:
        if each not in known:
            raise _ROUTE_TABLE.absent(each)
    return tables


# These operations have a code of their own for it.
_ROUTE_TABLE = Kind(
    "/v1/route-tables",
    "RouteTableId",
    "InvalidRouteTableId.NotFound",
    "The routeTable ID '{}' does not exist",
)


def _dns_name(service: str) -> str:
    """`s3.us-east-1.amazonaws.com`."""
    *_, region, name = service.split(".")
    return f"{name}.{region}.amazonaws.com"


OPERATIONS: Mapping[str, Operation] = {
    "DescribePrefixLists": operation(describe_prefix_lists, "PrefixListIds"),
    "DescribeManagedPrefixLists": operation(describe_managed_prefix_lists, "PrefixListIds"),
    "GetManagedPrefixListEntries": operation(get_entries, "PrefixListId TargetVersion"),
}
