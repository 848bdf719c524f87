# SPDX-License-Identifier: Apache-2.0
"""Endpoint services of PrivateLink: who may use them, and which endpoints do.

The region knows principals as accounts; on AWS they have ARNs. Operations on several resources
succeed or fail for each of them, and list those that failed (`Unsuccessful`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hyperplane_nat.aws.call import (
    ENDPOINT,
    ENDPOINT_SERVICE,
    Call,
    Operation,
    Params,
    Row,
    by_id,
    derived,
    operation,
    token_of,
    utc,
)
from hyperplane_nat.aws.elb import LOAD_BALANCER
from hyperplane_nat.aws.errors import AwsError, missing, unsuccessful, unsupported
from hyperplane_nat.aws.filters import answer, page
from hyperplane_nat.aws.gateway_endpoints import services

ANYBODY = "*"
"""The principal that is all accounts."""

_ACCOUNT = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}):root")
_PRINCIPAL = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:(user|role)/.+")

CONFIGURATION_FILTERS = {
    "service-id": "ServiceId",
    "service-name": "ServiceName",
    "service-state": "ServiceState",
    "supported-ip-address-types": "SupportedIpAddressTypes",
}
CONNECTION_FILTERS = {
    "ip-address-type": "IpAddressType",
    "service-id": "ServiceId",
    "vpc-endpoint-owner": "VpcEndpointOwner",
    "vpc-endpoint-region": "VpcEndpointRegion",
    "vpc-endpoint-state": "VpcEndpointState",
}
PERMISSION_FILTERS = {
    "principal": "Principal",
    "principal-type": "PrincipalType",
}
SERVICE_FILTERS = {
    "owner": "Owner",
    "service-name": "ServiceName",
    "service-region": "ServiceRegion",
    "service-type": "ServiceType.ServiceType",
    "supported-ip-address-types": "SupportedIpAddressTypes",
}


# -- configurations


def create_service(call: Call, params: Params) -> Row:
    """CreateVpcEndpointServiceConfiguration: LoadBalancerNotFound, InvalidParameter."""
    arns = params.get("NetworkLoadBalancerArns") or []
    if not arns:
        raise missing("NetworkLoadBalancerArns")
    if len(arns) > 1:
        raise unsupported("An endpoint service is of one load balancer.")
    required = params.get("AcceptanceRequired")
    made = call.post(
        ENDPOINT_SERVICE.path,
        {
            "load_balancer": LOAD_BALANCER.find(call, arns[0])["LoadBalancerId"],
            "acceptance_required": True if required is None else required,
            "private_dns_name": params.get("PrivateDnsName") or "",
            **token_of(params),
        },
    )
    call.tag_new(made["ServiceId"], "vpc-endpoint-service", params)
    return {
        "ServiceConfiguration": _configuration(call, made),
        "ClientToken": params.get("ClientToken"),
    }


def describe_configurations(call: Call, params: Params) -> Row:
    """DescribeVpcEndpointServiceConfigurations: InvalidVpcEndpointServiceId.NotFound."""
    found = call.select(ENDPOINT_SERVICE, params.get("ServiceIds"))
    shown = [_configuration(call, row) for row in found]
    return answer(params, "ServiceConfigurations", shown, CONFIGURATION_FILTERS)


def modify_service(call: Call, params: Params) -> Row:
    """ModifyVpcEndpointServiceConfiguration: InvalidVpcEndpointServiceId.NotFound."""
    found = call.find(ENDPOINT_SERVICE, params.get("ServiceId"))
    body: Row = {}
    if params.get("AcceptanceRequired") is not None:
        body["acceptance_required"] = params["AcceptanceRequired"]
    if params.get("PrivateDnsName"):
        body["private_dns_name"] = params["PrivateDnsName"]
    if params.get("RemovePrivateDnsName"):
        if body.get("private_dns_name"):
            raise AwsError(
                "InvalidParameterCombination",
                "A private DNS name cannot be set and removed in the same request",
            )
        body["private_dns_name"] = ""
    call.patch(ENDPOINT_SERVICE.path, found["ServiceId"], body)
    return {"Return": True}


def delete_services(call: Call, params: Params) -> Row:
    """
    DeleteVpcEndpointServiceConfigurations. Of each: InvalidVpcEndpointService.NotFound,
    ExistingVpcEndpointConnections.
    """

    def delete(key: str) -> None:
        if key not in by_id(call.own(ENDPOINT_SERVICE), "ServiceId"):
            text = ENDPOINT_SERVICE.text.format(key)
            raise AwsError("InvalidVpcEndpointService.NotFound", text)
        call.delete(ENDPOINT_SERVICE.path, key)

    wanted = params.get("ServiceIds") or []
    if not wanted:
        raise missing("ServiceId")
    return unsuccessful(wanted, delete, "ec2", "DeleteVpcEndpointServiceConfigurations")


# -- permissions


def modify_permissions(call: Call, params: Params) -> Row:
    """
    ModifyVpcEndpointServicePermissions: InvalidVpcEndpointServiceId.NotFound, InvalidPrincipal. An
    account that the lab does not have yet is made.
    """
    found = call.find(ENDPOINT_SERVICE, params.get("ServiceId"))
    added = [_account_of(each) for each in params.get("AddAllowedPrincipals") or ()]
    removed = [_account_of(each) for each in params.get("RemoveAllowedPrincipals") or ()]
    for each in added:
        if each != ANYBODY:
            call.owner(each)
    before = set(found["AllowedPrincipals"])
    known = {ANYBODY, *(row["Id"] for row in call.rows("/v1/accounts"))}
    body = {
        "add_principals": added,
        "remove_principals": [each for each in removed if each in known],
    }
    changed = call.patch(ENDPOINT_SERVICE.path, found["ServiceId"], body)
    return {
        "AddedPrincipals": [
            _permission(changed, each)
            for each in changed["AllowedPrincipals"]
            if each not in before
        ],
        "ReturnValue": True,
    }


def describe_permissions(call: Call, params: Params) -> Row:
    """DescribeVpcEndpointServicePermissions: InvalidVpcEndpointServiceId.NotFound."""
    found = call.find(ENDPOINT_SERVICE, params.get("ServiceId"))
    shown = [_permission(found, each) for each in found["AllowedPrincipals"]]
    return answer(params, "AllowedPrincipals", shown, PERMISSION_FILTERS)


def _account_of(principal: str) -> str:
    """The account that a principal's ARN is about."""
    if principal == ANYBODY:
        return ANYBODY
    if found := _ACCOUNT.fullmatch(principal):
        return found[1]
    if _PRINCIPAL.fullmatch(principal):
        raise unsupported("Principals are accounts: users and roles are not emulated.")
    raise AwsError("InvalidPrincipal", f"Invalid Principal: '{principal}'")


def _permission(service: Row, account: str) -> Row:
    every = account == ANYBODY
    return {
        "PrincipalType": "All" if every else "Account",
        "Principal": ANYBODY if every else f"arn:aws:iam::{account}:root",
        "ServicePermissionId": derived("vpce-svc-perm", service["ServiceId"], account),
        "ServiceId": service["ServiceId"],
    }


# -- connections


def accept_connections(call: Call, params: Params) -> Row:
    """
    AcceptVpcEndpointConnections: InvalidVpcEndpointServiceId.NotFound; of each endpoint
    InvalidVpcEndpoint.NotFound, InvalidState.
    """
    return _decide(call, params, "accept", "AcceptVpcEndpointConnections")


def reject_connections(call: Call, params: Params) -> Row:
    """RejectVpcEndpointConnections: errors as of `accept_connections`."""
    return _decide(call, params, "reject", "RejectVpcEndpointConnections")


def _decide(call: Call, params: Params, what: str, name: str) -> Row:
    found = call.find(ENDPOINT_SERVICE, params.get("ServiceId"))
    wanted = params.get("VpcEndpointIds") or []
    if not wanted:
        raise missing("VpcEndpointId")
    known = {each["VpcEndpointId"] for each in found["Connections"]}

    def decide(key: str) -> None:
        if key not in known:
            raise AwsError("InvalidVpcEndpoint.NotFound", ENDPOINT.text.format(key))
        call.patch(ENDPOINT_SERVICE.path, found["ServiceId"], {what: [key]})

    return unsuccessful(wanted, decide, "ec2", name)


def describe_connections(call: Call, params: Params) -> Row:
    """DescribeVpcEndpointConnections."""
    endpoints = by_id(call.rows(ENDPOINT.path), "VpcEndpointId")
    found = [
        _connection(call, service, each, endpoints[each["VpcEndpointId"]])
        for service in call.own(ENDPOINT_SERVICE)
        for each in service["Connections"]
        if each["VpcEndpointId"] in endpoints
    ]
    return answer(params, "VpcEndpointConnections", found, CONNECTION_FILTERS)


def state_of(state: str) -> str:
    """A state as EC2 answers it: `pendingAcceptance`, unlike its documentation."""
    return state[0].lower() + state[1:]


def _connection(call: Call, service: Row, connection: Row, endpoint: Row) -> Row:
    key = connection["VpcEndpointId"]
    return {
        "ServiceId": service["ServiceId"],
        "VpcEndpointId": key,
        "VpcEndpointOwner": connection["VpcEndpointOwner"],
        "VpcEndpointState": state_of(connection["VpcEndpointState"]),
        "VpcEndpointRegion": call.lab.region,
        "VpcEndpointConnectionId": derived("vpce-con", service["ServiceId"], key),
        "CreationTimestamp": utc(endpoint["CreationTimestamp"]),
        "DnsEntries": [{"DnsName": each} for each in endpoint["DnsEntries"]],
        "NetworkLoadBalancerArns": _load_balancers(call, service),
        "IpAddressType": "ipv4",
    }


# -- services, as those see them that may use them


def describe_services(call: Call, params: Params) -> Row:
    """
    DescribeVpcEndpointServices: InvalidServiceName. The account's, those that allow it, and AWS's.
    """
    found = by_id(services_for(call), "ServiceName")
    of_aws = by_id(services(call), "ServiceName")
    wanted: Sequence[str] = params.get("ServiceNames") or [*found, *of_aws]
    for each in wanted:
        if each not in found and each not in of_aws:
            raise no_service(each)
    details = [_detail(call, row) for name, row in found.items() if name in wanted]
    details += [row for name, row in of_aws.items() if name in wanted]
    met = answer({"Filters": params.get("Filters")}, "All", details, SERVICE_FILTERS)["All"]
    shown = page(params, "ServiceDetails", met)
    return {**shown, "ServiceNames": [each["ServiceName"] for each in shown["ServiceDetails"]]}


def services_for(call: Call) -> list[Row]:
    """Those that the account may make endpoints of."""
    return [
        row
        for row in call.rows(ENDPOINT_SERVICE.path)
        if row["OwnerId"] == call.account
        or {call.account, ANYBODY}.intersection(row["AllowedPrincipals"])
    ]


def no_service(name: str) -> AwsError:
    """One that is not there, or not for the account."""
    return AwsError("InvalidServiceName", f"The Vpc Endpoint Service '{name}' does not exist")


# -- forms


def _load_balancers(call: Call, service: Row) -> list[str]:
    return [
        row["LoadBalancerArn"]
        for row in LOAD_BALANCER.rows(call)
        if row["LoadBalancerId"] == service["LoadBalancerId"]
    ]


def _common(call: Call, row: Row) -> Row:
    return {
        "ServiceId": row["ServiceId"],
        "ServiceName": row["ServiceName"],
        "ServiceType": [{"ServiceType": row["ServiceType"]}],
        "AvailabilityZones": [call.zone(each) for each in row["AvailabilityZones"]],
        "BaseEndpointDnsNames": [row["BaseEndpointDnsName"]],
        "AcceptanceRequired": row["AcceptanceRequired"],
        "ManagesVpcEndpoints": False,
        "PrivateDnsName": row["PrivateDnsName"],
        "SupportedIpAddressTypes": ["ipv4"],
    }


def _configuration(call: Call, row: Row) -> Row:
    return {
        **_common(call, row),
        "ServiceState": row["ServiceState"],
        "NetworkLoadBalancerArns": _load_balancers(call, row),
        "PrivateDnsNameConfiguration": {"State": "verified"} if row["PrivateDnsName"] else {},
        "Tags": call.tags(row["ServiceId"]),
    }


def _detail(call: Call, row: Row) -> Row:
    name = row["PrivateDnsName"]
    return {
        **_common(call, row),
        "Owner": row["OwnerId"],
        "ServiceRegion": call.lab.region,
        "PrivateDnsNames": [{"PrivateDnsName": name}] if name else [],
        "PrivateDnsNameVerificationState": "verified" if name else None,
        "VpcEndpointPolicySupported": False,
        "Tags": call.tags(row["ServiceId"]) if row["OwnerId"] == call.account else [],
    }


_DECIDED = "ServiceId VpcEndpointIds"

OPERATIONS: Mapping[str, Operation] = {
    "CreateVpcEndpointServiceConfiguration": operation(
        create_service,
        "AcceptanceRequired PrivateDnsName NetworkLoadBalancerArns TagSpecifications",
        makes="vpc-endpoint-service",
    ),
    "DescribeVpcEndpointServiceConfigurations": operation(describe_configurations, "ServiceIds"),
    "ModifyVpcEndpointServiceConfiguration": operation(
        modify_service, "ServiceId PrivateDnsName RemovePrivateDnsName AcceptanceRequired"
    ),
    "DeleteVpcEndpointServiceConfigurations": operation(delete_services, "ServiceIds"),
    "ModifyVpcEndpointServicePermissions": operation(
        modify_permissions, "ServiceId AddAllowedPrincipals RemoveAllowedPrincipals"
    ),
    "DescribeVpcEndpointServicePermissions": operation(describe_permissions, "ServiceId"),
    "AcceptVpcEndpointConnections": operation(accept_connections, _DECIDED),
    "RejectVpcEndpointConnections": operation(reject_connections, _DECIDED),
    "DescribeVpcEndpointConnections": operation(describe_connections),
    "DescribeVpcEndpointServices": operation(describe_services, "ServiceNames"),
}
