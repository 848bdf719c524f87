# SPDX-License-Identifier: Apache-2.0
"""Elastic addresses, and the NAT gateways that have them."""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.aws.call import (
    ADDRESS,
    HOST,
    NAT_GATEWAY,
    SUBNET,
    Call,
    Operation,
    Params,
    Row,
    by_id,
    operation,
    token_of,
    utc,
)
from hyperplane_nat.aws.errors import AwsError, missing, unsupported
from hyperplane_nat.aws.filters import answer

ADDRESS_FILTERS = {
    "allocation-id": "AllocationId",
    "association-id": "AssociationId",
    "domain": "Domain",
    "instance-id": "InstanceId",
    "network-border-group": "NetworkBorderGroup",
    "network-interface-id": "NetworkInterfaceId",
    "network-interface-owner-id": "NetworkInterfaceOwnerId",
    "private-ip-address": "PrivateIpAddress",
    "public-ip": "PublicIp",
}
NAT_FILTERS = {
    "nat-gateway-id": "NatGatewayId",
    "state": "State",
    "subnet-id": "SubnetId",
    "vpc-id": "VpcId",
}


# -- elastic addresses


def allocate_address(call: Call, params: Params) -> Row:
    """AllocateAddress: AddressLimitExceeded."""
    body = {"account": call.owner()}
    if params.get("Address"):
        body["address"] = params["Address"]
    made = call.post(ADDRESS.path, body)
    call.tag_new(made["AllocationId"], "elastic-ip", params)
    return {
        "AllocationId": made["AllocationId"],
        "PublicIp": made["PublicIp"],
        "Domain": "vpc",
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": call.lab.region,
    }


def release_address(call: Call, params: Params) -> None:
    """ReleaseAddress: InvalidAllocationID.NotFound, InvalidIPAddress.InUse."""
    found = call.find(ADDRESS, params.get("AllocationId"))
    call.delete(ADDRESS.path, found["AllocationId"])


def describe_addresses(call: Call, params: Params) -> Row:
    """DescribeAddresses: InvalidAllocationID.NotFound, InvalidAddress.NotFound."""
    rows = call.select(ADDRESS, params.get("AllocationIds"))
    for wanted in params.get("PublicIps") or ():
        if wanted not in {row["PublicIp"] for row in rows}:
            raise AwsError("InvalidAddress.NotFound", f"Address '{wanted}' not found.")
    if wanted := params.get("PublicIps"):
        rows = [row for row in rows if row["PublicIp"] in wanted]
    interfaces = _interfaces_of_addresses(call)
    found = [_address(call, row, interfaces) for row in rows]
    return {**answer(params, "Addresses", found, ADDRESS_FILTERS), "NextToken": None}


def associate_address(call: Call, params: Params) -> Row:
    """AssociateAddress with an instance: InvalidInstanceID.NotFound, Resource.AlreadyAssociated."""
    found = call.find(ADDRESS, params.get("AllocationId"))
    host = call.find(HOST, params.get("InstanceId"))
    if found["AssociationId"] and params.get("AllowReassociation"):
        call.patch(ADDRESS.path, found["AllocationId"], {"host": None})
    made = call.patch(ADDRESS.path, found["AllocationId"], {"host": host["InstanceId"]})
    return {"AssociationId": made["AssociationId"]}


def disassociate_address(call: Call, params: Params) -> None:
    """DisassociateAddress: InvalidAssociationID.NotFound."""
    wanted = params.get("AssociationId")
    if not wanted:
        raise missing("AssociationId")
    for row in call.own(ADDRESS):
        if row["AssociationId"] == wanted:
            if row["NatGatewayId"] or row["NetworkInterfaceId"]:
                raise AwsError(
                    "AuthFailure", "You do not have permission to access the specified resource."
                )
            call.patch(ADDRESS.path, row["AllocationId"], {"host": None})
            return
    raise AwsError("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")


# -- NAT gateways


def create_nat_gateway(call: Call, params: Params) -> Row:
    """
    CreateNatGateway. What keeps it from being made is its FailureCode, once it is failed.

    Errors: InvalidSubnet, NatGatewayLimitExceeded, MissingParameter.
    """
    subnet = _subnet_of(call, params.get("SubnetId"))
    kind = params.get("ConnectivityType") or "public"
    body: Row = {"subnet": subnet["SubnetId"], "connectivity": kind}
    if kind == "public":
        if not params.get("AllocationId"):
            raise missing("AllocationId")
        others = params.get("SecondaryAllocationIds") or ()
        body["allocations"] = [params["AllocationId"], *others]
    elif params.get("AllocationId") or params.get("SecondaryAllocationIds"):
        raise AwsError(
            "InvalidParameterCombination",
            "Elastic IP addresses cannot be associated with private NAT gateways.",
        )
    else:
        body["addresses"] = 1 + int(params.get("SecondaryPrivateIpAddressCount") or 0)
    if params.get("PrivateIpAddress"):
        body["address"] = params["PrivateIpAddress"]
    made = call.post(NAT_GATEWAY.path, {**body, **token_of(params)})
    call.tag_new(made["NatGatewayId"], "natgateway", params)
    return {"NatGateway": _nat_gateway(call, made), "ClientToken": params.get("ClientToken")}


def delete_nat_gateway(call: Call, params: Params) -> Row:
    """DeleteNatGateway: NatGatewayNotFound. Its tags stay while it is listed, as on AWS."""
    found = call.find(NAT_GATEWAY, params.get("NatGatewayId"))
    tags = call.notes.tags(found["NatGatewayId"])
    call.delete(NAT_GATEWAY.path, found["NatGatewayId"])
    if tags:
        call.notes.tag([found["NatGatewayId"]], tags)
    # Those that are listed no more go without being deleted.
    listed = {row["NatGatewayId"] for row in call.rows(NAT_GATEWAY.path)}
    former = [key for key, _ in call.notes.tagged() if key.startswith("nat-")]
    call.notes.forget(*(key for key in former if key not in listed))
    return {"NatGatewayId": found["NatGatewayId"]}


def describe_nat_gateways(call: Call, params: Params) -> Row:
    """DescribeNatGateways: NatGatewayNotFound."""
    rows = call.select(NAT_GATEWAY, params.get("NatGatewayIds"))
    found = [_nat_gateway(call, row) for row in rows]
    return answer(params, "NatGateways", found, NAT_FILTERS)


def associate_nat_gateway_address(call: Call, params: Params) -> Row:
    """AssociateNatGatewayAddress: NatGatewayNotFound, IncorrectState, AddressLimitExceeded."""
    body = {"associate": params.get("AllocationIds") or []}
    return _changed_addresses(call, params, body)


def assign_private_nat_gateway_address(call: Call, params: Params) -> Row:
    """AssignPrivateNatGatewayAddress: the same errors."""
    return _changed_addresses(
        call, params, {"assign": int(params.get("PrivateIpAddressCount") or 1)}
    )


def disassociate_nat_gateway_address(call: Call, params: Params) -> Row:
    """DisassociateNatGatewayAddress: InvalidParameterValue for the primary one."""
    return _given_up(call, params, "AssociationIds")


def unassign_private_nat_gateway_address(call: Call, params: Params) -> Row:
    """UnassignPrivateNatGatewayAddress: the same errors."""
    return _given_up(call, params, "PrivateIpAddresses")


def _given_up(call: Call, params: Params, name: str) -> Row:
    body: Row = {"give_up": params.get(name) or []}
    if params.get("MaxDrainDurationSeconds"):
        body["max_drain_seconds"] = params["MaxDrainDurationSeconds"]
    return _changed_addresses(call, params, body)


def _changed_addresses(call: Call, params: Params, body: Row) -> Row:
    found = call.find(NAT_GATEWAY, params.get("NatGatewayId"))
    changed = _nat_gateway(call, call.patch(NAT_GATEWAY.path, found["NatGatewayId"], body))
    return {name: changed[name] for name in ("NatGatewayId", "NatGatewayAddresses")}


def _subnet_of(call: Call, wanted: str | None) -> Row:
    try:
        return call.find(SUBNET, wanted)
    except AwsError as error:
        if error.code != SUBNET.code:
            raise
        # Of this operation alone EC2 has another word for it.
        raise AwsError("InvalidSubnet", f"Subnet {wanted} was not found") from None


# -- forms


def _interfaces_of_addresses(call: Call) -> dict[str, Row]:
    """Network interface, private address and subnet by allocation id."""
    found: dict[str, Row] = {}
    for gateway in call.own(NAT_GATEWAY):
        for each in gateway["NatGatewayAddresses"]:
            if each["AllocationId"]:
                found[each["AllocationId"]] = {
                    "NetworkInterfaceId": gateway["NetworkInterfaceId"],
                    "PrivateIpAddress": each["PrivateIp"],
                    "SubnetId": gateway["SubnetId"],
                }
    hosts = by_id(call.own(HOST), "InstanceId")
    for row in call.own(ADDRESS):
        if (host := hosts.get(row["InstanceId"])) is not None:
            found[row["AllocationId"]] = {
                "NetworkInterfaceId": host["NetworkInterfaceId"],
                "PrivateIpAddress": host["PrivateIpAddress"],
                "SubnetId": host["SubnetId"],
                "InstanceId": host["InstanceId"],
            }
        elif row["NetworkInterfaceId"]:
            found[row["AllocationId"]] = {
                name: row[name] for name in ("NetworkInterfaceId", "PrivateIpAddress")
            }
    return found


def _address(call: Call, row: Row, interfaces: Mapping[str, Row]) -> Row:
    used = interfaces.get(row["AllocationId"], {}) if row["AssociationId"] else {}
    owner = {"NetworkInterfaceOwnerId": row["OwnerId"]} if used else {}
    return {
        "AllocationId": row["AllocationId"],
        "PublicIp": row["PublicIp"],
        "AssociationId": row["AssociationId"],
        "Domain": "vpc",
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": call.lab.region,
        **used,
        **owner,
        "Tags": call.tags(row["AllocationId"]),
    }


def _nat_gateway(call: Call, row: Row) -> Row:
    return {
        "NatGatewayId": row["NatGatewayId"],
        "VpcId": row["VpcId"],
        "SubnetId": row["SubnetId"],
        "ConnectivityType": row["ConnectivityType"],
        "AvailabilityMode": "zonal",
        "State": row["State"],
        "FailureCode": row["FailureCode"],
        "FailureMessage": row["FailureMessage"],
        "CreateTime": utc(row["CreateTime"]),
        "DeleteTime": utc(row["DeleteTime"]),
        "NatGatewayAddresses": [
            {**each, "NetworkInterfaceId": row["NetworkInterfaceId"]}
            for each in row["NatGatewayAddresses"]
        ],
        "Tags": call.tags(row["NatGatewayId"]),
    }


def _refuse_regional(call: Call, params: Params) -> Row:
    if params.get("AvailabilityMode") not in (None, "zonal"):
        raise unsupported("NAT gateways are zonal.")
    return create_nat_gateway(call, params)


OPERATIONS: Mapping[str, Operation] = {
    "AllocateAddress": operation(
        allocate_address, "Domain Address NetworkBorderGroup TagSpecifications", "elastic-ip"
    ),
    "ReleaseAddress": operation(release_address, "AllocationId"),
    "DescribeAddresses": operation(describe_addresses, "AllocationIds PublicIps"),
    "AssociateAddress": operation(associate_address, "AllocationId InstanceId AllowReassociation"),
    "DisassociateAddress": operation(disassociate_address, "AssociationId"),
    "CreateNatGateway": operation(
        _refuse_regional,
        "SubnetId AllocationId AvailabilityMode ConnectivityType PrivateIpAddress "
        "SecondaryAllocationIds SecondaryPrivateIpAddressCount TagSpecifications",
        makes="natgateway",
    ),
    "DeleteNatGateway": operation(delete_nat_gateway, "NatGatewayId"),
    "DescribeNatGateways": operation(describe_nat_gateways, "NatGatewayIds"),
    "AssociateNatGatewayAddress": operation(
        associate_nat_gateway_address, "NatGatewayId AllocationIds"
    ),
    "DisassociateNatGatewayAddress": operation(
        disassociate_nat_gateway_address, "NatGatewayId AssociationIds MaxDrainDurationSeconds"
    ),
    "AssignPrivateNatGatewayAddress": operation(
        assign_private_nat_gateway_address, "NatGatewayId PrivateIpAddressCount"
    ),
    "UnassignPrivateNatGatewayAddress": operation(
        unassign_private_nat_gateway_address,
        "NatGatewayId PrivateIpAddresses MaxDrainDurationSeconds",
    ),
}
