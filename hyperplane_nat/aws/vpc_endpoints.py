# SPDX-License-Identifier: Apache-2.0
"""Endpoints: those of type Interface; what those of type Gateway have of their own is in
`gateway_endpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hyperplane_nat.aws import gateway_endpoints
from hyperplane_nat.aws.call import (
    ENDPOINT,
    GATEWAY_ENDPOINTS,
    GROUP,
    SUBNET,
    VPC,
    Call,
    Operation,
    Params,
    Row,
    by_id,
    operation,
    token_of,
    utc,
)
from hyperplane_nat.aws.endpoint_services import no_service, services_for, state_of
from hyperplane_nat.aws.errors import AwsError, missing, unsuccessful, unsupported
from hyperplane_nat.aws.filters import answer

# These operations have codes of their own for them.
_SUBNET = replace(SUBNET, code="InvalidSubnetId.NotFound")
_GROUP = replace(GROUP, code="InvalidSecurityGroupId.NotFound")

ENDPOINT_FILTERS = {
    "ip-address-type": "IpAddressType",
    "service-name": "ServiceName",
    "service-region": "ServiceRegion",
    "vpc-endpoint-id": "VpcEndpointId",
    "vpc-endpoint-state": "State",
    "vpc-endpoint-type": "VpcEndpointType",
    "vpc-id": "VpcId",
}


def create_endpoint(call: Call, params: Params) -> Row:
    """
    CreateVpcEndpoint, of type Interface or Gateway: InvalidVpcID.NotFound, InvalidServiceName,
    InvalidSubnetId.NotFound, InvalidSecurityGroupId.NotFound, InvalidRouteTableId.NotFound,
    RouteAlreadyExists, InvalidPolicyDocument, InvalidParameter, VpcEndpointLimitExceeded.
    """
    kind = params.get("VpcEndpointType") or "Gateway"
    if kind not in ("Gateway", "Interface"):
        raise unsupported(f"Endpoints of type {kind} are not emulated.")
    vpc = call.find(VPC, params.get("VpcId"))
    if not (name := params.get("ServiceName")):
        raise missing("ServiceName")
    if kind == "Gateway":
        made = gateway_endpoints.create(call, vpc["VpcId"], name, params)
        call.tag_new(made["VpcEndpointId"], "vpc-endpoint", params)
        return {"VpcEndpoint": _endpoint(call, made), "ClientToken": params.get("ClientToken")}
    _without(params, "RouteTableIds", "PolicyDocument")
    service = by_id(services_for(call), "ServiceName").get(name)
    if service is None:
        raise no_service(name)
    private_dns = params.get("PrivateDnsEnabled")
    made = call.post(
        ENDPOINT.path,
        {
            "vpc": vpc["VpcId"],
            "service": name,
            "nodes": _nodes(call, params, [*(params.get("SubnetIds") or ())]),
            "security_groups": _groups(call, params.get("SecurityGroupIds")) or None,
            # On by default (EC2 API, CreateVpcEndpoint), where there is a name.
            "private_dns": bool(service["PrivateDnsName"]) if private_dns is None else private_dns,
            **token_of(params),
        },
    )
    call.tag_new(made["VpcEndpointId"], "vpc-endpoint", params)
    return {"VpcEndpoint": _endpoint(call, made), "ClientToken": params.get("ClientToken")}


def describe_endpoints(call: Call, params: Params) -> Row:
    """DescribeVpcEndpoints: InvalidVpcEndpointId.NotFound."""
    found = call.select(ENDPOINT, params.get("VpcEndpointIds"))
    return answer(params, "VpcEndpoints", [_endpoint(call, row) for row in found], ENDPOINT_FILTERS)


def modify_endpoint(call: Call, params: Params) -> Row:
    """ModifyVpcEndpoint: InvalidVpcEndpointId.NotFound, and the errors of `create_endpoint`."""
    found = call.find(ENDPOINT, params.get("VpcEndpointId"))
    if found["VpcEndpointType"] == "Gateway":
        gateway_endpoints.modify(call, found, params)
        return {"Return": True}
    _without(params, "AddRouteTableIds", "RemoveRouteTableIds", "PolicyDocument", "ResetPolicy")
    body: Row = {}
    added, removed = params.get("AddSubnetIds") or [], params.get("RemoveSubnetIds") or []
    if added or removed or params.get("SubnetConfigurations"):
        subnets = [each["SubnetId"] for each in found["Subnets"]]
        body["nodes"] = _nodes(call, params, _changed(subnets, added, removed))
    added = params.get("AddSecurityGroupIds") or []
    removed = params.get("RemoveSecurityGroupIds") or []
    if added or removed:
        groups = [each["GroupId"] for each in found["Groups"]]
        body["security_groups"] = _groups(call, _changed(groups, added, removed))
    if params.get("PrivateDnsEnabled") is not None:
        body["private_dns"] = params["PrivateDnsEnabled"]
    call.patch(ENDPOINT.path, found["VpcEndpointId"], body)
    return {"Return": True}


def delete_endpoints(call: Call, params: Params) -> Row:
    """DeleteVpcEndpoints. Of each: InvalidVpcEndpoint.NotFound."""

    def delete(key: str) -> None:
        found = by_id(call.own(ENDPOINT), "VpcEndpointId").get(key)
        if found is None:
            raise AwsError("InvalidVpcEndpoint.NotFound", ENDPOINT.text.format(key))
        is_gateway = found["VpcEndpointType"] == "Gateway"
        call.delete(GATEWAY_ENDPOINTS if is_gateway else ENDPOINT.path, key)

    wanted = params.get("VpcEndpointIds") or []
    if not wanted:
        raise missing("VpcEndpointId")
    return unsuccessful(wanted, delete, "ec2", "DeleteVpcEndpoints")


# -- what a request says


def _without(params: Params, *names: str) -> None:
    """UnsupportedOperation for what only gateway endpoints have here."""
    for name in names:
        if params.get(name):
            raise unsupported(f"The parameter {name} is not emulated.")


def _changed(there: list[str], added: list[str], removed: list[str]) -> list[str]:
    return [*(each for each in there if each not in removed and each not in added), *added]


def _nodes(call: Call, params: Params, subnets: list[str]) -> list[Row]:
    """Subnets, and the addresses there that are asked for, as the region takes them."""
    addresses: dict[str, str | None] = dict.fromkeys(subnets)
    for each in params.get("SubnetConfigurations") or ():
        if each.get("Ipv6"):
            raise unsupported("IPv6 is not emulated.")
        if not each.get("SubnetId"):
            raise missing("SubnetId")
        addresses[each["SubnetId"]] = each.get("Ipv4")
    _SUBNET.known(call.own(_SUBNET), addresses)
    return [{"subnet": key, "address": address} for key, address in addresses.items()]


def _groups(call: Call, wanted: list[str] | None) -> list[str]:
    groups = wanted or []
    _GROUP.known(call.own(_GROUP), groups)
    return groups


# -- forms


def _endpoint(call: Call, row: Row) -> Row:
    if row["VpcEndpointType"] == "Gateway":
        return gateway_endpoints.form(call, row)
    names = list(row["DnsEntries"])
    if row["PrivateDnsEnabled"] and row["PrivateDnsName"]:
        names.append(row["PrivateDnsName"])
    return {
        "VpcEndpointId": row["VpcEndpointId"],
        "VpcEndpointType": row["VpcEndpointType"],
        "VpcId": row["VpcId"],
        "OwnerId": row["OwnerId"],
        "ServiceName": row["ServiceName"],
        "ServiceRegion": call.lab.region,
        "State": state_of(row["State"]),
        "RouteTableIds": [],
        "SubnetIds": [each["SubnetId"] for each in row["Subnets"]],
        "NetworkInterfaceIds": [each["NetworkInterfaceId"] for each in row["Subnets"]],
        "Groups": row["Groups"],
        "IpAddressType": "ipv4",
        "DnsOptions": {"DnsRecordIpType": "ipv4"},
        "DnsEntries": [{"DnsName": each} for each in names],
        "PrivateDnsEnabled": row["PrivateDnsEnabled"],
        "RequesterManaged": False,
        "CreationTimestamp": utc(row["CreationTimestamp"]),
        "Tags": call.tags(row["VpcEndpointId"]),
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateVpcEndpoint": operation(
        create_endpoint,
        "VpcEndpointType VpcId ServiceName SubnetIds SecurityGroupIds PrivateDnsEnabled "
        "SubnetConfigurations RouteTableIds PolicyDocument TagSpecifications",
        makes="vpc-endpoint",
    ),
    "DescribeVpcEndpoints": operation(describe_endpoints, "VpcEndpointIds"),
    "ModifyVpcEndpoint": operation(
        modify_endpoint,
        "VpcEndpointId AddSubnetIds RemoveSubnetIds AddSecurityGroupIds RemoveSecurityGroupIds "
        "PrivateDnsEnabled SubnetConfigurations AddRouteTableIds RemoveRouteTableIds "
        "PolicyDocument ResetPolicy",
    ),
    "DeleteVpcEndpoints": operation(delete_endpoints, "VpcEndpointIds"),
}
