# SPDX-License-Identifier: Apache-2.0
"""VPCs, subnets and what comes with them: attributes, availability zones."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from string import ascii_lowercase

from hyperplane_nat.aws.call import (
    SUBNET,
    VPC,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    derived,
    operation,
)
from hyperplane_nat.aws.errors import AwsError, missing, unsupported
from hyperplane_nat.aws.filters import answer

ACL = Kind(
    "/v1/network-acls",
    "NetworkAclId",
    "InvalidNetworkAclID.NotFound",
    "The networkAcl ID '{}' does not exist",
)

PREFIXES = range(16, 29)
"""Of a VPC's network ("VPC CIDR blocks")."""

ZONES = "abcdef"
"""What `DescribeAvailabilityZones` shows; a subnet may be in any from a to z."""

VPC_FILTERS = {
    "cidr": "CidrBlock",
    "cidr-block": "CidrBlock",
    "cidr-block-association.association-id": "CidrBlockAssociationSet.AssociationId",
    "cidr-block-association.cidr-block": "CidrBlock",
    "cidr-block-association.state": "CidrBlockAssociationSet.CidrBlockState.State",
    "is-default": "IsDefault",
    "isDefault": "IsDefault",
    "owner-id": "OwnerId",
    "state": "State",
    "vpc-id": "VpcId",
    "dhcp-options-id": "DhcpOptionsId",
}
SUBNET_FILTERS = {
    "availability-zone": "AvailabilityZone",
    "availability-zone-id": "AvailabilityZoneId",
    "availabilityZone": "AvailabilityZone",
    "availabilityZoneId": "AvailabilityZoneId",
    "available-ip-address-count": "AvailableIpAddressCount",
    "cidr": "CidrBlock",
    "cidr-block": "CidrBlock",
    "cidrBlock": "CidrBlock",
    "default-for-az": "DefaultForAz",
    "defaultForAz": "DefaultForAz",
    "ipv6-native": "Ipv6Native",
    "map-public-ip-on-launch": "MapPublicIpOnLaunch",
    "owner-id": "OwnerId",
    "state": "State",
    "subnet-arn": "SubnetArn",
    "subnet-id": "SubnetId",
    "vpc-id": "VpcId",
}
ZONE_FILTERS = {
    "group-name": "GroupName",
    "opt-in-status": "OptInStatus",
    "region-name": "RegionName",
    "state": "State",
    "zone-id": "ZoneId",
    "zone-name": "ZoneName",
    "zone-type": "ZoneType",
}
REGION_FILTERS = {
    "endpoint": "Endpoint",
    "opt-in-status": "OptInStatus",
    "region-name": "RegionName",
}

ATTRIBUTES: Mapping[str, str] = {
    "enableDnsSupport": "EnableDnsSupport",
    "enableDnsHostnames": "EnableDnsHostnames",
}


def network(text: str | None, parameter: str = "CidrBlock") -> IPv4Network:
    """A network, without what its address has behind the prefix. InvalidParameterValue."""
    if not text:
        raise missing(parameter)
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({text}) for parameter {parameter[0].lower()}{parameter[1:]} is invalid. "
            "This is not a valid CIDR block.",
        ) from None


def create_vpc(call: Call, params: Params) -> Row:
    """CreateVpc: InvalidVpc.Range."""
    if params.get("InstanceTenancy") not in (None, "default"):
        raise unsupported("VPCs have the tenancy default.")
    cidr = network(params.get("CidrBlock"))
    if cidr.prefixlen not in PREFIXES:
        raise AwsError("InvalidVpc.Range", f"The CIDR '{cidr}' is invalid.")
    made = call.post(VPC.path, {"cidr": str(cidr), "account": call.owner(), "defaults": True})
    call.tag_new(made["VpcId"], "vpc", params)
    return {"Vpc": _vpc(call, made)}


def describe_vpcs(call: Call, params: Params) -> Row:
    """DescribeVpcs: InvalidVpcID.NotFound."""
    found = [_vpc(call, row) for row in call.select(VPC, params.get("VpcIds"))]
    return answer(params, "Vpcs", found, VPC_FILTERS)


def delete_vpc(call: Call, params: Params) -> None:
    """DeleteVpc: InvalidVpcID.NotFound, DependencyViolation."""
    found = call.find(VPC, params.get("VpcId"))
    call.delete(VPC.path, found["VpcId"])


def describe_vpc_attribute(call: Call, params: Params) -> Row:
    """DescribeVpcAttribute: InvalidVpcID.NotFound."""
    found = call.find(VPC, params.get("VpcId"))
    name = params.get("Attribute") or ""
    if name == "enableNetworkAddressUsageMetrics":
        return {"VpcId": found["VpcId"], "EnableNetworkAddressUsageMetrics": {"Value": False}}
    if name not in ATTRIBUTES:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter attribute is invalid. Unknown attribute.",
        )
    key = ATTRIBUTES[name]
    return {"VpcId": found["VpcId"], key: {"Value": found[key]}}


def modify_vpc_attribute(call: Call, params: Params) -> None:
    """ModifyVpcAttribute: InvalidVpcID.NotFound."""
    found = call.find(VPC, params.get("VpcId"))
    changes = {
        field: params[name]["Value"]
        for name, field in (
            ("EnableDnsSupport", "enable_dns_support"),
            ("EnableDnsHostnames", "enable_dns_hostnames"),
        )
        if params.get(name) is not None
    }
    if not changes:
        raise missing("EnableDnsSupport or EnableDnsHostnames")
    call.patch(VPC.path, found["VpcId"], changes)


def create_subnet(call: Call, params: Params) -> Row:
    """CreateSubnet: InvalidVpcID.NotFound, InvalidSubnet.Range, InvalidSubnet.Conflict."""
    vpc = call.find(VPC, params.get("VpcId"))
    body = {"vpc": vpc["VpcId"], "cidr": str(network(params.get("CidrBlock")))}
    zone, zone_id = params.get("AvailabilityZone"), params.get("AvailabilityZoneId")
    if zone and zone_id:
        raise AwsError(
            "InvalidParameterCombination",
            "Only one of AvailabilityZone and AvailabilityZoneId can be specified",
        )
    if zone_id:
        zone = {_zone_id(call, each): call.zone(each) for each in ascii_lowercase}.get(zone_id)
        if zone is None:
            raise AwsError(
                "InvalidParameterValue",
                f"Value ({zone_id}) for parameter availabilityZoneId is invalid.",
            )
    if zone:
        body["availability_zone"] = zone_letter(call, zone)
    made = call.post(SUBNET.path, body)
    call.tag_new(made["SubnetId"], "subnet", params)
    return {"Subnet": _subnet(call, made)}


def describe_subnets(call: Call, params: Params) -> Row:
    """DescribeSubnets: InvalidSubnetID.NotFound."""
    found = [_subnet(call, row) for row in call.select(SUBNET, params.get("SubnetIds"))]
    return answer(params, "Subnets", found, SUBNET_FILTERS)


def delete_subnet(call: Call, params: Params) -> None:
    """DeleteSubnet: InvalidSubnetID.NotFound, DependencyViolation."""
    found = call.find(SUBNET, params.get("SubnetId"))
    call.delete(SUBNET.path, found["SubnetId"])


def modify_subnet_attribute(call: Call, params: Params) -> None:
    """ModifySubnetAttribute: InvalidSubnetID.NotFound."""
    found = call.find(SUBNET, params.get("SubnetId"))
    if (value := params.get("MapPublicIpOnLaunch")) is not None:
        call.notes.put(found["SubnetId"], {"MapPublicIpOnLaunch": value["Value"]})


def describe_availability_zones(call: Call, params: Params) -> Row:
    """DescribeAvailabilityZones: InvalidParameterValue."""
    found = [
        {
            "ZoneName": call.zone(letter),
            "ZoneId": _zone_id(call, letter),
            "RegionName": call.lab.region,
            "GroupName": f"{call.lab.region}-zg-1",
            "NetworkBorderGroup": call.lab.region,
            "OptInStatus": "opt-in-not-required",
            "State": "available",
            "ZoneType": "availability-zone",
            "Messages": [],
        }
        for letter in ZONES
    ]
    for name in params.get("ZoneNames") or ():
        if name not in {each["ZoneName"] for each in found}:
            raise AwsError("InvalidParameterValue", f"Invalid availability zone: [{name}]")
    wanted = params.get("ZoneNames") or [each["ZoneName"] for each in found]
    found = [each for each in found if each["ZoneName"] in wanted]
    return answer(params, "AvailabilityZones", found, ZONE_FILTERS)


def describe_regions(call: Call, params: Params) -> Row:
    """DescribeRegions: the lab's one. InvalidParameterValue."""
    name = call.lab.region
    for wanted in params.get("RegionNames") or ():
        if wanted != name:
            raise AwsError("InvalidParameterValue", f"Invalid region name: [{wanted}]")
    found = [
        {
            "RegionName": name,
            "Endpoint": f"ec2.{name}.amazonaws.com",
            "OptInStatus": "opt-in-not-required",
        }
    ]
    return answer(params, "Regions", found, REGION_FILTERS)


def zone_letter(call: Call, name: str) -> str:
    """What the region calls an availability zone. InvalidParameterValue."""
    letter = name.removeprefix(call.lab.region)
    if letter == name or len(letter) != 1 or letter not in ascii_lowercase:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter availabilityZone is invalid. Subnets can currently only "
            f"be created in the following availability zones: "
            f"{', '.join(call.zone(each) for each in ZONES)}.",
        )
    return letter


def _zone_id(call: Call, letter: str) -> str:
    area, *direction, number = call.lab.region.split("-")
    return f"{area}{''.join(each[0] for each in direction)}{number}-az{ord(letter) - 96}"


def _vpc(call: Call, row: Row) -> Row:
    return {
        "VpcId": row["VpcId"],
        "OwnerId": row["OwnerId"],
        "CidrBlock": row["CidrBlock"],
        "CidrBlockAssociationSet": [
            {
                "AssociationId": derived("vpc-cidr-assoc", row["VpcId"]),
                "CidrBlock": row["CidrBlock"],
                "CidrBlockState": {"State": "associated"},
            }
        ],
        "DhcpOptionsId": "default",
        "InstanceTenancy": "default",
        "IsDefault": False,
        "State": "available",
        "Tags": call.tags(row["VpcId"]),
    }


def _subnet(call: Call, row: Row) -> Row:
    note = call.note(row["SubnetId"])
    return {
        "SubnetId": row["SubnetId"],
        "SubnetArn": call.arn("ec2", f"subnet/{row['SubnetId']}"),
        "OwnerId": row["OwnerId"],
        "VpcId": row["VpcId"],
        "CidrBlock": row["CidrBlock"],
        "AvailabilityZone": call.zone(row["AvailabilityZone"]),
        "AvailabilityZoneId": _zone_id(call, row["AvailabilityZone"]),
        "AvailableIpAddressCount": row["AvailableIpAddressCount"],
        "AssignIpv6AddressOnCreation": False,
        "DefaultForAz": False,
        "EnableDns64": False,
        "Ipv6Native": False,
        "Ipv6CidrBlockAssociationSet": [],
        "MapCustomerOwnedIpOnLaunch": False,
        "MapPublicIpOnLaunch": note.get("MapPublicIpOnLaunch", False),
        "State": "available",
        "Tags": call.tags(row["SubnetId"]),
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateVpc": operation(create_vpc, "CidrBlock InstanceTenancy TagSpecifications", makes="vpc"),
    "DeleteVpc": operation(delete_vpc, "VpcId"),
    "DescribeVpcs": operation(describe_vpcs, "VpcIds"),
    "DescribeVpcAttribute": operation(describe_vpc_attribute, "VpcId Attribute"),
    "ModifyVpcAttribute": operation(
        modify_vpc_attribute, "VpcId EnableDnsSupport EnableDnsHostnames"
    ),
    "CreateSubnet": operation(
        create_subnet,
        "VpcId CidrBlock AvailabilityZone AvailabilityZoneId TagSpecifications",
        makes="subnet",
    ),
    "DeleteSubnet": operation(delete_subnet, "SubnetId"),
    "DescribeSubnets": operation(describe_subnets, "SubnetIds"),
    "ModifySubnetAttribute": operation(modify_subnet_attribute, "SubnetId MapPublicIpOnLaunch"),
    "DescribeAvailabilityZones": operation(
        describe_availability_zones, "ZoneNames AllAvailabilityZones"
    ),
    "DescribeRegions": operation(describe_regions, "AllRegions RegionNames"),
}
