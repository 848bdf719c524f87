# SPDX-License-Identifier: Apache-2.0
"""What EC2 has to sell and what an account may have: images, types of instances, limits.

Nothing is booted of an image and no type is any faster: these are moto's tables, read when somebody
asks. An image whose id RunInstances would take is described whether a table has it or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperplane_nat.aws import motos_tables
from hyperplane_nat.aws.call import Call, Operation, Params, Row, operation
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.filters import answer

IMAGE_FILTERS = {
    "architecture": "Architecture",
    "description": "Description",
    "hypervisor": "Hypervisor",
    "image-id": "ImageId",
    "image-type": "ImageType",
    "is-public": "Public",
    "name": "Name",
    "owner-alias": "ImageOwnerAlias",
    "owner-id": "OwnerId",
    "platform": "Platform",
    "root-device-name": "RootDeviceName",
    "root-device-type": "RootDeviceType",
    "state": "State",
    "virtualization-type": "VirtualizationType",
}

TYPE_FILTERS = {
    "bare-metal": "BareMetal",
    "burstable-performance-supported": "BurstablePerformanceSupported",
    "current-generation": "CurrentGeneration",
    "free-tier-eligible": "FreeTierEligible",
    "hypervisor": "Hypervisor",
    "instance-type": "InstanceType",
    "memory-info.size-in-mib": "MemoryInfo.SizeInMiB",
    "processor-info.supported-architecture": "ProcessorInfo.SupportedArchitectures",
    "supported-usage-class": "SupportedUsageClasses",
    "vcpu-info.default-vcpus": "VCpuInfo.DefaultVCpus",
}

OFFERING_FILTERS = {"instance-type": "InstanceType", "location": "Location"}

LOCATIONS = ("region", "availability-zone", "availability-zone-id")
"""Of `LocationType`."""

AMAZON = "137112412989"
"""The account of Amazon's Linux images."""

TYPES_PAGE_MAX = 100
"""Types on a page (EC2 API, DescribeInstanceTypes)."""

IMAGE_ID_MIN = 12
"""Characters of an id of an image, `ami-` and eight digits."""


def describe_images(call: Call, params: Params) -> Row:
    """DescribeImages: InvalidAMIID.Malformed."""
    known = {row["ImageId"]: row for row in _images(call.lab.region)}
    wanted = params.get("ImageIds") or []
    for each in wanted:
        digits = each.removeprefix("ami-")
        if len(each) < IMAGE_ID_MIN or digits == each or not digits.isalnum():
            raise AwsError("InvalidAMIID.Malformed", f'Invalid id: "{each}" (expecting "ami-...")')
        known.setdefault(each, _image({"ami_id": each}))
    found = [known[each] for each in wanted] if wanted else list(known.values())
    if owners := params.get("Owners"):
        found = [
            row for row in found if row["OwnerId"] in owners or row["ImageOwnerAlias"] in owners
        ]
    return answer(params, "Images", found, IMAGE_FILTERS)


def describe_instance_types(_call: Call, params: Params) -> Row:
    """DescribeInstanceTypes: InvalidInstanceType."""
    known: Mapping[str, Row] = _table("instance_types") or {}
    wanted = params.get("InstanceTypes") or sorted(known)
    absent = [each for each in wanted if each not in known]
    if absent:
        raise AwsError(
            "InvalidInstanceType",
            f"The following supplied instance types do not exist: [{', '.join(absent)}]",
        )
    paged = {**params, "MaxResults": params.get("MaxResults") or TYPES_PAGE_MAX}
    return answer(paged, "InstanceTypes", [known[each] for each in wanted], TYPE_FILTERS)


def describe_instance_type_offerings(call: Call, params: Params) -> Row:
    """DescribeInstanceTypeOfferings: InvalidParameterValue."""
    kind = params.get("LocationType") or LOCATIONS[0]
    if kind not in LOCATIONS:
        raise AwsError(
            "InvalidParameterValue", f"Value ({kind}) for parameter locationType is invalid."
        )
    rows = _table(f"instance_type_offerings/{kind}/{call.lab.region}") or []
    found = [{**row, "LocationType": kind} for row in rows]
    return answer(params, "InstanceTypeOfferings", found, OFFERING_FILTERS)


def describe_account_attributes(call: Call, params: Params) -> Row:
    """DescribeAccountAttributes: InvalidParameterValue. There is no default VPC."""
    config: Any = call.lab.client.get("/v1/config")
    limits = config["lifecycle"]
    known = {
        "supported-platforms": "VPC",
        "default-vpc": "none",
        "max-instances": "20",
        "vpc-max-security-groups-per-interface": str(limits["groups_per_function"]),
        "max-elastic-ips": str(limits["elastic_addresses"]),
        "vpc-max-elastic-ips": str(limits["elastic_addresses"]),
    }
    wanted = params.get("AttributeNames") or list(known)
    for each in wanted:
        if each not in known:
            raise AwsError(
                "InvalidParameterValue", f"Value ({each}) for parameter attribute is invalid."
            )
    return {
        "AccountAttributes": [
            {"AttributeName": each, "AttributeValues": [{"AttributeValue": known[each]}]}
            for each in wanted
        ]
    }


# -- tables


def _table(name: str) -> Any:
    """One of moto's; None where it has none, of a region that it does not know."""
    try:
        return motos_tables.table(f"ec2/resources/{name}.json")
    except FileNotFoundError:
        return None


def _images(region: str) -> list[Row]:
    rows = [*(_table("amis") or ()), *(_table(f"latest_amis/{region}") or ())]
    return [_image(row) for row in rows]


def _image(row: Row) -> Row:
    """An image of moto's table, or one of which nothing but its id is known."""
    key = row["ami_id"]
    owner = row.get("owner_id") or AMAZON
    return {
        "ImageId": key,
        "Architecture": row.get("architecture") or "x86_64",
        "CreationDate": "2020-01-01T00:00:00.000Z",
        "Description": row.get("description") or "",
        "Hypervisor": row.get("hypervisor") or "xen",
        "ImageLocation": row.get("image_location") or f"amazon/{row.get('name') or key}",
        "ImageOwnerAlias": "amazon" if owner == AMAZON else None,
        "ImageType": row.get("image_type") or "machine",
        "Name": row.get("name") or key,
        "OwnerId": owner,
        "Platform": row.get("platform"),
        "Public": True,
        "RootDeviceName": row.get("root_device_name") or "/dev/xvda",
        "RootDeviceType": row.get("root_device_type") or "ebs",
        "State": "available",
        "VirtualizationType": row.get("virtualization_type") or "hvm",
    }


OPERATIONS: Mapping[str, Operation] = {
    "DescribeAccountAttributes": operation(describe_account_attributes, "AttributeNames"),
    "DescribeImages": operation(describe_images, "ImageIds Owners IncludeDeprecated"),
    "DescribeInstanceTypeOfferings": operation(describe_instance_type_offerings, "LocationType"),
    "DescribeInstanceTypes": operation(describe_instance_types, "InstanceTypes"),
}
