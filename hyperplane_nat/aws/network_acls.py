# SPDX-License-Identifier: Apache-2.0
"""Network ACLs: rules for what enters and leaves subnets."""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.aws.call import VPC, Call, Operation, Params, Row, derived, operation, token_of
from hyperplane_nat.aws.errors import AwsError, missing
from hyperplane_nat.aws.filters import answer
from hyperplane_nat.aws.vpcs import ACL, network

ACL_FILTERS = {
    "association.association-id": "Associations.NetworkAclAssociationId",
    "association.network-acl-id": "NetworkAclId",
    "association.subnet-id": "Associations.SubnetId",
    "default": "IsDefault",
    "entry.cidr": "Entries.CidrBlock",
    "entry.egress": "Entries.Egress",
    "entry.protocol": "Entries.Protocol",
    "entry.rule-action": "Entries.RuleAction",
    "entry.rule-number": "Entries.RuleNumber",
    "network-acl-id": "NetworkAclId",
    "owner-id": "OwnerId",
    "vpc-id": "VpcId",
}

_ENTRY = "NetworkAclId RuleNumber Egress"
_RULE = f"{_ENTRY} Protocol RuleAction CidrBlock PortRange IcmpTypeCode"


def create_network_acl(call: Call, params: Params) -> Row:
    """CreateNetworkAcl: InvalidVpcID.NotFound, NetworkAclLimitExceeded."""
    vpc = call.find(VPC, params.get("VpcId"))
    made = call.post(ACL.path, {"vpc": vpc["VpcId"], **token_of(params)})
    call.tag_new(made["NetworkAclId"], "network-acl", params)
    return {"NetworkAcl": _acl(call, made), "ClientToken": params.get("ClientToken")}


def delete_network_acl(call: Call, params: Params) -> None:
    """DeleteNetworkAcl: InvalidNetworkAclID.NotFound, DependencyViolation."""
    found = call.find(ACL, params.get("NetworkAclId"))
    call.delete(ACL.path, found["NetworkAclId"])


def describe_network_acls(call: Call, params: Params) -> Row:
    """DescribeNetworkAcls: InvalidNetworkAclID.NotFound."""
    found = [_acl(call, row) for row in call.select(ACL, params.get("NetworkAclIds"))]
    return answer(params, "NetworkAcls", found, ACL_FILTERS)


def create_network_acl_entry(call: Call, params: Params) -> None:
    """CreateNetworkAclEntry: NetworkAclEntryAlreadyExists, NetworkAclEntryLimitExceeded."""
    _change(call, params, {"create_entries": [_entry(params)]})


def replace_network_acl_entry(call: Call, params: Params) -> None:
    """ReplaceNetworkAclEntry: InvalidNetworkAclEntry.NotFound."""
    _change(call, params, {"replace_entries": [_entry(params)]})


def delete_network_acl_entry(call: Call, params: Params) -> None:
    """DeleteNetworkAclEntry: InvalidNetworkAclEntry.NotFound."""
    _change(call, params, {"delete_entries": [_name(params)]})


def replace_network_acl_association(call: Call, params: Params) -> Row:
    """ReplaceNetworkAclAssociation: InvalidAssociationID.NotFound. The association is another."""
    wanted = params.get("AssociationId")
    if not wanted:
        raise missing("AssociationId")
    acl = call.find(ACL, params.get("NetworkAclId"))
    for row in call.own(ACL):
        for each in row["Associations"]:
            if _association(row, each) == wanted:
                body = {"associate": [each["SubnetId"]]}
                call.patch(ACL.path, acl["NetworkAclId"], body)
                return {"NewAssociationId": _association(acl, each)}
        if call.repeated:
            for each in acl["Associations"]:
                if _association(row, each) == wanted:
                    return {"NewAssociationId": _association(acl, each)}
    raise AwsError("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")


def _change(call: Call, params: Params, body: Row) -> None:
    found = call.find(ACL, params.get("NetworkAclId"))
    call.patch(ACL.path, found["NetworkAclId"], body)


def _name(params: Params) -> Row:
    """Which entry a request is about."""
    for name in ("RuleNumber", "Egress"):
        if params.get(name) is None:
            raise missing(name)
    return {"rule": params["RuleNumber"], "egress": params["Egress"]}


def _entry(params: Params) -> Row:
    """An entry as the region takes it."""
    entry = _name(params)
    for name in ("Protocol", "RuleAction"):
        if not params.get(name):
            raise missing(name)
    protocol = "all" if params["Protocol"] == "-1" else params["Protocol"].lower()
    entry |= {
        "action": params["RuleAction"],
        "protocol": protocol,
        "cidr": str(network(params.get("CidrBlock"))),
    }
    if ports := params.get("PortRange"):
        entry["ports"] = f"{ports.get('From', 0)}-{ports.get('To', 65535)}"
    icmp = params.get("IcmpTypeCode") or {}
    for name, field in (("Type", "icmp_type"), ("Code", "icmp_code")):
        if icmp.get(name, -1) != -1:
            entry[field] = icmp[name]
    return entry


def _association(acl: Row, association: Row) -> str:
    """Its id, which the region gives none."""
    return derived("aclassoc", acl["NetworkAclId"], association["SubnetId"])


def _acl(call: Call, row: Row) -> Row:
    return {
        "NetworkAclId": row["NetworkAclId"],
        "VpcId": row["VpcId"],
        "OwnerId": row["OwnerId"],
        "IsDefault": row["IsDefault"],
        "Associations": [
            {
                "NetworkAclAssociationId": _association(row, each),
                "NetworkAclId": row["NetworkAclId"],
                "SubnetId": each["SubnetId"],
            }
            for each in row["Associations"]
        ],
        "Entries": row["Entries"],
        "Tags": call.tags(row["NetworkAclId"]),
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateNetworkAcl": operation(
        create_network_acl, "VpcId TagSpecifications", makes="network-acl"
    ),
    "DeleteNetworkAcl": operation(delete_network_acl, "NetworkAclId"),
    "DescribeNetworkAcls": operation(describe_network_acls, "NetworkAclIds"),
    "CreateNetworkAclEntry": operation(create_network_acl_entry, _RULE),
    "ReplaceNetworkAclEntry": operation(replace_network_acl_entry, _RULE),
    "DeleteNetworkAclEntry": operation(delete_network_acl_entry, _ENTRY),
    "ReplaceNetworkAclAssociation": operation(
        replace_network_acl_association, "AssociationId NetworkAclId"
    ),
}
