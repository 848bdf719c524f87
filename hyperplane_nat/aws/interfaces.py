# SPDX-License-Identifier: Apache-2.0
"""Network interfaces: those of Lambda, of NAT gateways, load balancers, endpoints and hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hyperplane_nat.aws.call import (
    ADDRESS,
    GROUP,
    HOST,
    NAT_GATEWAY,
    SUBNET,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    by_id,
    derived,
    operation,
)
from hyperplane_nat.aws.filters import answer

INTERFACE = Kind(
    "",
    "NetworkInterfaceId",
    "InvalidNetworkInterfaceID.NotFound",
    "The networkInterface ID '{}' does not exist",
)

INTERFACE_TYPES: Mapping[str, str] = {
    "hyperplane": "lambda",
    "per-environment": "lambda",
    "nat-gateway": "nat_gateway",
    "load-balancer": "network_load_balancer",
    "vpc-endpoint": "vpc_endpoint",
}
"""EC2's `InterfaceType` by the region's kinds; the other kinds are none of EC2's."""

INTERFACE_FILTERS = {
    "addresses.association.public-ip": "Association.PublicIp",
    "addresses.primary": "PrivateIpAddresses.Primary",
    "addresses.private-ip-address": "PrivateIpAddresses.PrivateIpAddress",
    "association.allocation-id": "Association.AllocationId",
    "association.association-id": "Association.AssociationId",
    "association.ip-owner-id": "Association.IpOwnerId",
    "association.public-ip": "Association.PublicIp",
    "attachment.attachment-id": "Attachment.AttachmentId",
    "attachment.device-index": "Attachment.DeviceIndex",
    "attachment.instance-id": "Attachment.InstanceId",
    "attachment.instance-owner-id": "Attachment.InstanceOwnerId",
    "attachment.status": "Attachment.Status",
    "availability-zone": "AvailabilityZone",
    "description": "Description",
    "group-id": "Groups.GroupId",
    "group-name": "Groups.GroupName",
    "interface-type": "InterfaceType",
    "mac-address": "MacAddress",
    "network-interface-id": "NetworkInterfaceId",
    "owner-id": "OwnerId",
    "private-ip-address": "PrivateIpAddress",
    "requester-managed": "RequesterManaged",
    "source-dest-check": "SourceDestCheck",
    "status": "Status",
    "subnet-id": "SubnetId",
    "vpc-id": "VpcId",
}


def describe_network_interfaces(call: Call, params: Params) -> Row:
    """DescribeNetworkInterfaces: InvalidNetworkInterfaceID.NotFound."""
    found = list(interfaces_of(call))
    if wanted := params.get("NetworkInterfaceIds"):
        known = INTERFACE.known(found, wanted)
        found = [known[each] for each in wanted]
    return answer(params, "NetworkInterfaces", found, INTERFACE_FILTERS)


def interfaces_of(call: Call) -> Iterator[Row]:
    """Those of the account, as `DescribeNetworkInterfaces` has them.

    The lists are read one after the other: what is made or deleted in between may be in one alone.
    """
    subnets = {(row["VpcName"], row["SubnetName"]): row for row in call.own(SUBNET)}
    groups = {(row["VpcName"], row["GroupName"]): row["GroupId"] for row in call.own(GROUP)}
    public = {row["PublicIp"]: row for row in call.own(ADDRESS)}
    mapped = {
        (gateway["NetworkInterfaceId"], each["PrivateIp"]): public[each["PublicIp"]]
        for gateway in call.own(NAT_GATEWAY)
        for each in gateway["NatGatewayAddresses"]
        if each["PublicIp"] in public
    }
    mapped |= {
        (row["NetworkInterfaceId"], row["PrivateIpAddress"]): row
        for row in public.values()
        if row["NetworkInterfaceId"]
    }
    gateways = {row["NetworkInterfaceId"]: row["NatGatewayId"] for row in call.own(NAT_GATEWAY)}
    for row in call.rows("/v1/interfaces"):
        subnet = subnets.get((row["vpc"], row["subnet"]))
        kind = INTERFACE_TYPES.get(row["kind"])
        if kind is None or subnet is None or not row["id"]:
            continue
        addresses = [row["address"], *row["secondary_addresses"]]
        description = row["description"]
        if row["id"] in gateways:
            description = f"Interface for NAT Gateway {gateways[row['id']]}"
        yield {
            **_interface(call, row["id"], subnet, addresses, description, kind),
            "Groups": [
                {"GroupId": groups[row["vpc"], name], "GroupName": name}
                for name in row["groups"]
                if (row["vpc"], name) in groups
            ],
            "MacAddress": row["mac"],
            "RequesterManaged": True,
            "Status": row["status"],
            **_association_of(mapped.get((row["id"], row["address"]))),
        }
    of_hosts = {row["InstanceId"]: row for row in call.own(ADDRESS) if row["InstanceId"]}
    by_subnet = by_id(subnets.values(), "SubnetId")
    for host in call.own(HOST):
        if host["SubnetId"] not in by_subnet:
            continue
        yield {
            **_interface(
                call,
                host["NetworkInterfaceId"],
                by_subnet[host["SubnetId"]],
                [host["PrivateIpAddress"]],
                host["Description"],
                "interface",
            ),
            "Groups": host["Groups"],
            "RequesterManaged": False,
            "Status": "in-use",
            "Attachment": {
                "AttachmentId": derived("eni-attach", host["NetworkInterfaceId"]),
                "DeleteOnTermination": True,
                "DeviceIndex": 0,
                "InstanceId": host["InstanceId"],
                "InstanceOwnerId": host["OwnerId"],
                "Status": "attached",
            },
            **_association_of(of_hosts.get(host["InstanceId"])),
        }


def _interface(
    call: Call, key: str, subnet: Row, addresses: list[str], description: str, kind: str
) -> Row:
    return {
        "NetworkInterfaceId": key,
        "InterfaceType": kind,
        "Description": description,
        "OwnerId": call.account,
        "VpcId": subnet["VpcId"],
        "SubnetId": subnet["SubnetId"],
        "AvailabilityZone": call.zone(subnet["AvailabilityZone"]),
        "PrivateIpAddress": addresses[0],
        "PrivateIpAddresses": [
            {"PrivateIpAddress": each, "Primary": not place} for place, each in enumerate(addresses)
        ],
        "Ipv6Addresses": [],
        "SourceDestCheck": kind == "interface",
        "TagSet": call.tags(key),
    }


def _association_of(address: Row | None) -> Row:
    if address is None:
        return {}
    return {
        "Association": {
            "AllocationId": address["AllocationId"],
            "AssociationId": address["AssociationId"],
            "IpOwnerId": address["OwnerId"],
            "PublicIp": address["PublicIp"],
        }
    }


OPERATIONS: Mapping[str, Operation] = {
    "DescribeNetworkInterfaces": operation(
        describe_network_interfaces, "NetworkInterfaceIds IncludeManagedResources"
    ),
}
