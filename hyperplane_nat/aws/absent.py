# SPDX-License-Identifier: Apache-2.0
"""What no lab has any of: lists that are empty, for scripts that look before they go on.

Who takes a VPC down asks for its peering connections, VPN gateways and volumes first. None of these
can be made here, so the true answer is an empty list; one by its id is not found. Codes: "Error
codes for the Amazon EC2 API".
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.aws.call import Call, Operation, Params, Row, operation
from hyperplane_nat.aws.errors import AwsError

LISTS: Mapping[str, tuple[str, str, str, str]] = {
    "DescribeCarrierGateways": (
        "CarrierGateways",
        "CarrierGatewayIds",
        "InvalidCarrierGatewayID.NotFound",
        "The carrier gateway ID '{}' does not exist",
    ),
    "DescribeCustomerGateways": (
        "CustomerGateways",
        "CustomerGatewayIds",
        "InvalidCustomerGatewayID.NotFound",
        "The customerGateway ID '{}' does not exist",
    ),
    "DescribeDhcpOptions": (
        "DhcpOptions",
        "DhcpOptionsIds",
        "InvalidDhcpOptionID.NotFound",
        "The dhcpOption ID '{}' does not exist",
    ),
    "DescribeEgressOnlyInternetGateways": (
        "EgressOnlyInternetGateways",
        "EgressOnlyInternetGatewayIds",
        "InvalidEgressOnlyInternetGatewayId.NotFound",
        "The egressOnlyInternetGateway ID '{}' does not exist",
    ),
    "DescribeLaunchTemplates": (
        "LaunchTemplates",
        "LaunchTemplateIds",
        "InvalidLaunchTemplateId.NotFound",
        "The specified launch template, with template ID {}, does not exist.",
    ),
    "DescribeTransitGatewayAttachments": (
        "TransitGatewayAttachments",
        "TransitGatewayAttachmentIds",
        "InvalidTransitGatewayAttachmentID.NotFound",
        "Transit Gateway Attachment {} was deleted or does not exist.",
    ),
    "DescribeTransitGatewayVpcAttachments": (
        "TransitGatewayVpcAttachments",
        "TransitGatewayAttachmentIds",
        "InvalidTransitGatewayAttachmentID.NotFound",
        "Transit Gateway Attachment {} was deleted or does not exist.",
    ),
    "DescribeTransitGateways": (
        "TransitGateways",
        "TransitGatewayIds",
        "InvalidTransitGatewayID.NotFound",
        "Transit Gateway {} was deleted or does not exist.",
    ),
    "DescribeVolumes": (
        "Volumes",
        "VolumeIds",
        "InvalidVolume.NotFound",
        "The volume '{}' does not exist.",
    ),
    "DescribeVpcPeeringConnections": (
        "VpcPeeringConnections",
        "VpcPeeringConnectionIds",
        "InvalidVpcPeeringConnectionID.NotFound",
        "The vpcPeeringConnection ID '{}' does not exist",
    ),
    "DescribeVpnConnections": (
        "VpnConnections",
        "VpnConnectionIds",
        "InvalidVpnConnectionID.NotFound",
        "The vpnConnection ID '{}' does not exist",
    ),
    "DescribeVpnGateways": (
        "VpnGateways",
        "VpnGatewayIds",
        "InvalidVpnGatewayID.NotFound",
        "The vpnGateway ID '{}' does not exist",
    ),
}
"""By the operation: its list, its parameter of ids, and the error of one that is not there."""


def _none(name: str) -> Operation:
    key, ids, code, text = LISTS[name]

    def describe(_call: Call, params: Params) -> Row:
        for wanted in params.get(ids) or ():
            raise AwsError(code, text.format(wanted))
        return {key: []}

    return operation(describe, ids)


OPERATIONS: Mapping[str, Operation] = {name: _none(name) for name in LISTS}
