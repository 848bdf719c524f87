# SPDX-License-Identifier: Apache-2.0
"""Network Load Balancers and their listeners (Elastic Load Balancing API)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from hyperplane_nat.aws import elb
from hyperplane_nat.aws.call import ADDRESS, SUBNET, Call, Operation, Params, Row, operation, utc
from hyperplane_nat.aws.elb import LISTENER, LOAD_BALANCER, TARGET_GROUP
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.client import ApiError

PROTECTED = "deletion_protection.enabled"
CROSS_ZONE = "load_balancing.cross_zone.enabled"
SECONDARY = "secondary_ips.auto_assigned.per_subnet"
TCP_IDLE = "tcp.idle_timeout.seconds"

FIXED: Mapping[str, str] = {
    "access_logs.s3.enabled": "false",
    "access_logs.s3.bucket": "",
    "access_logs.s3.prefix": "",
    "dns_record.client_routing_policy": "any_availability_zone",
    "ipv6.deny_all_igw_traffic": "false",
    "zonal_shift.config.enabled": "false",
}
"""Attributes that have AWS's defaults and no others (`LoadBalancerAttribute`)."""


# -- load balancers


def create_load_balancer(call: Call, params: Params) -> Row:
    """
    CreateLoadBalancer, of type network: DuplicateLoadBalancerName, SubnetNotFound, InvalidSubnet,
    InvalidSecurityGroup, InvalidConfigurationRequest, InvalidScheme, TooManyLoadBalancers,
    AllocationIdNotFound, ResourceInUse.
    """
    if params.get("Type") != "network":
        raise unsupported("Load balancers are of type network, which Type has to say.")
    scheme = params.get("Scheme") or "internet-facing"
    if scheme not in ("internal", "internet-facing"):
        raise AwsError("InvalidScheme", f"The requested scheme '{scheme}' is not valid")
    _check_family(params)
    nodes = _nodes(call, params)
    vpcs = {each["VpcId"] for each in nodes}
    if len(vpcs) > 1:
        raise AwsError("InvalidSubnet", "All subnets must belong to the same VPC")
    body = {
        "vpc": vpcs.pop(),
        "name": params.get("Name") or "",
        "scheme": scheme,
        "nodes": [_node(each) for each in nodes],
        "security_groups": params.get("SecurityGroups") or [],
    }
    made = LOAD_BALANCER.make(call, body, params)
    return {"LoadBalancers": [_load_balancer(call, made)]}


def describe_load_balancers(call: Call, params: Params) -> Row:
    """DescribeLoadBalancers: LoadBalancerNotFound."""
    rows = LOAD_BALANCER.described(call, params, "Load balancers '[{}]' not found")
    return elb.page(params, "LoadBalancers", [_load_balancer(call, row) for row in rows])


def delete_load_balancer(call: Call, params: Params) -> None:
    """DeleteLoadBalancer, which one that is not there does not fail: OperationNotPermitted."""
    arn = LOAD_BALANCER.check(params.get("LoadBalancerArn"))
    for row in LOAD_BALANCER.rows(call):
        if row["LoadBalancerArn"] == arn:
            if call.note(row["LoadBalancerId"]).get(PROTECTED):
                raise AwsError(
                    "OperationNotPermitted",
                    f"Load balancer '{arn}' cannot be deleted because deletion protection is "
                    "enabled",
                )
            call.delete(LOAD_BALANCER.kind.path, row["LoadBalancerId"])
            call.notes.forget(*(each["ListenerId"] for each in row["Listeners"]))


def describe_load_balancer_attributes(call: Call, params: Params) -> Row:
    """DescribeLoadBalancerAttributes: LoadBalancerNotFound."""
    row = LOAD_BALANCER.find(call, params.get("LoadBalancerArn"))
    return {"Attributes": elb.attributes(_attributes(call, row))}


def modify_load_balancer_attributes(call: Call, params: Params) -> Row:
    """ModifyLoadBalancerAttributes: LoadBalancerNotFound, InvalidConfigurationRequest."""
    row = LOAD_BALANCER.find(call, params.get("LoadBalancerArn"))
    body: Row = {}
    kept: Row = {}
    for key, value in elb.asked(params).items():
        if key == CROSS_ZONE:
            body["cross_zone"] = elb.truth(key, value)
        elif key == SECONDARY:
            if not (value.isascii() and value.isdigit() and len(value) <= 3):
                raise elb.wrong_value(key, value)
            body["secondary_addresses"] = int(value)
        elif key == PROTECTED:
            kept[PROTECTED] = elb.truth(key, value)
        elif key not in FIXED:
            raise AwsError(
                "ValidationError", f"Load balancer attribute key '{key}' is not recognized"
            )
        elif value != FIXED[key]:
            raise unsupported(f"The attribute {key} has no other value than '{FIXED[key]}'.")
    if body:
        row = call.patch(LOAD_BALANCER.kind.path, row["LoadBalancerId"], body)
    call.notes.put(row["LoadBalancerId"], kept)
    return {"Attributes": elb.attributes(_attributes(call, row))}


def set_security_groups(call: Call, params: Params) -> Row:
    """SetSecurityGroups: InvalidSecurityGroup, InvalidConfigurationRequest."""
    row = LOAD_BALANCER.find(call, params.get("LoadBalancerArn"))
    body = {"security_groups": params.get("SecurityGroups") or []}
    changed = call.patch(LOAD_BALANCER.kind.path, row["LoadBalancerId"], body)
    return {"SecurityGroupIds": [each["GroupId"] for each in changed["SecurityGroups"]]}


def set_subnets(call: Call, params: Params) -> Row:
    """SetSubnets: SubnetNotFound, InvalidConfigurationRequest."""
    row = LOAD_BALANCER.find(call, params.get("LoadBalancerArn"))
    _check_family(params)
    body = {"nodes": [_node(each) for each in _nodes(call, params)]}
    changed = call.patch(LOAD_BALANCER.kind.path, row["LoadBalancerId"], body)
    return {"AvailabilityZones": _zones(call, changed), "IpAddressType": "ipv4"}


def set_ip_address_type(call: Call, params: Params) -> Row:
    """SetIpAddressType, to what it is."""
    LOAD_BALANCER.find(call, params.get("LoadBalancerArn"))
    _check_family(params)
    return {"IpAddressType": "ipv4"}


def _check_family(params: Params) -> None:
    if params.get("IpAddressType") not in (None, "ipv4"):
        raise unsupported("Load balancers have IPv4 addresses.")


def _nodes(call: Call, params: Params) -> list[Row]:
    """Subnets of a request, each with the `address` that is asked for. SubnetNotFound."""
    mappings = params.get("SubnetMappings") or [
        {"SubnetId": each} for each in params.get("Subnets") or ()
    ]
    if not mappings:
        raise AwsError("ValidationError", "At least one subnet must be specified")
    subnets = {row["SubnetId"]: row for row in call.own(SUBNET)}
    found = []
    for each in mappings:
        for name, value in each.items():
            if name not in ("SubnetId", "PrivateIPv4Address", "AllocationId") and value:
                raise unsupported(f"{name} of a subnet mapping is not emulated.")
        if each.get("SubnetId") not in subnets:
            raise AwsError("SubnetNotFound", f"The subnet ID '{each.get('SubnetId')}' is not valid")
        subnet = subnets[each["SubnetId"]]
        chosen = {
            "address": each.get("PrivateIPv4Address") or None,
            "allocation": _allocation(call, each.get("AllocationId")),
        }
        found.append({**subnet, **chosen})
    return found


def _allocation(call: Call, named: str | None) -> str | None:
    """An elastic address of the account. AllocationIdNotFound."""
    if named and named not in {row["AllocationId"] for row in call.own(ADDRESS)}:
        raise AwsError("AllocationIdNotFound", f"The allocation IDs '{named}' do not exist")
    return named or None


def _node(subnet: Row) -> Row:
    given = {name: subnet[name] for name in ("address", "allocation") if subnet[name]}
    return {"subnet": subnet["SubnetId"], **given}


def _attributes(call: Call, row: Row) -> dict[str, str]:
    protected = call.note(row["LoadBalancerId"]).get(PROTECTED, False)
    return {**FIXED, PROTECTED: str(protected).lower(), **row["Attributes"]}


def _load_balancer(call: Call, row: Row) -> Row:
    return {
        "LoadBalancerArn": LOAD_BALANCER.arn(call, row),
        "LoadBalancerName": row["LoadBalancerName"],
        "DNSName": row["DNSName"],
        "CreatedTime": utc(row["CreatedTime"]),
        "Scheme": row["Scheme"],
        "Type": row["Type"],
        "IpAddressType": "ipv4",
        "VpcId": row["VpcId"],
        "State": {"Code": row["State"]},
        "AvailabilityZones": _zones(call, row),
        "SecurityGroups": [each["GroupId"] for each in row["SecurityGroups"]] or None,
    }


def _zones(call: Call, row: Row) -> list[Row]:
    return [
        {
            "ZoneName": call.zone(each["ZoneName"]),
            "SubnetId": each["SubnetId"],
            "LoadBalancerAddresses": [_addresses(each)],
        }
        for each in row["AvailabilityZones"]
    ]


def _addresses(node: Row) -> Row:
    """Those that clients send to: LoadBalancerAddress."""
    if not node["IpAddress"]:
        return {"PrivateIPv4Address": node["PrivateIPv4Address"]}
    return {"IpAddress": node["IpAddress"], "AllocationId": node["AllocationId"]}


# -- listeners


def create_listener(call: Call, params: Params) -> Row:
    """
    CreateListener with one action, `forward`: LoadBalancerNotFound, TargetGroupNotFound,
    DuplicateListener, TooManyListeners, IncompatibleProtocols, TargetGroupAssociationLimit.
    """
    balancer = LOAD_BALANCER.find(call, params.get("LoadBalancerArn"))
    group = _forwarded(call, params)
    if not params.get("Protocol"):
        raise AwsError("ValidationError", "A protocol must be specified")
    if not params.get("Port"):
        raise AwsError("ValidationError", "A port must be specified")
    body = {
        "load_balancer": balancer["LoadBalancerId"],
        "target_group": group["TargetGroupId"],
        "port": params["Port"],
        "protocol": elb.protocol(params["Protocol"]),
    }
    with _of_one_balancer(group):
        made = LISTENER.make(call, body, params)
    return {"Listeners": [_listener(call, made)]}


def describe_listeners(call: Call, params: Params) -> Row:
    """DescribeListeners: LoadBalancerNotFound, ListenerNotFound."""
    arns, balancer = params.get("ListenerArns"), params.get("LoadBalancerArn")
    if not arns and not balancer:
        raise AwsError(
            "ValidationError", "You must specify either listener ARNs or a load balancer ARN"
        )
    rows = LISTENER.select(call, arns)
    if balancer:
        key = LOAD_BALANCER.find(call, balancer)["LoadBalancerId"]
        rows = [row for row in rows if row["LoadBalancerId"] == key]
    return elb.page(params, "Listeners", [_listener(call, row) for row in rows])


def modify_listener(call: Call, params: Params) -> Row:
    """ModifyListener: ListenerNotFound and the errors of CreateListener."""
    row = LISTENER.find(call, params.get("ListenerArn"))
    body: Row = {}
    group: Row = {"TargetGroupArn": ""}
    if params.get("DefaultActions"):
        group = _forwarded(call, params)
        body["target_group"] = group["TargetGroupId"]
    if params.get("Port"):
        body["port"] = params["Port"]
    if params.get("Protocol"):
        body["protocol"] = elb.protocol(params["Protocol"])
    if body:
        try:
            with _of_one_balancer(group):
                row = call.patch(LISTENER.kind.path, row["ListenerId"], body)
        except ApiError as error:
            if error.code != "DuplicateListener":
                raise
            # Of this operation alone ELB has another word for it.
            text = f"Listener port '{params['Port']}' is already in use"
            raise AwsError("ValidationError", text) from None
    return {"Listeners": [_listener(call, row)]}


def delete_listener(call: Call, params: Params) -> None:
    """DeleteListener: ListenerNotFound."""
    row = LISTENER.find(call, params.get("ListenerArn"))
    call.delete(LISTENER.kind.path, row["ListenerId"])


def describe_listener_attributes(call: Call, params: Params) -> Row:
    """DescribeListenerAttributes: ListenerNotFound."""
    row = LISTENER.find(call, params.get("ListenerArn"))
    return {"Attributes": elb.attributes(row["Attributes"])}


def modify_listener_attributes(call: Call, params: Params) -> Row:
    """ModifyListenerAttributes: ListenerNotFound, InvalidConfigurationRequest."""
    row = LISTENER.find(call, params.get("ListenerArn"))
    for key, value in elb.asked(params).items():
        if key != TCP_IDLE:
            raise AwsError("ValidationError", f"Listener attribute key '{key}' is not recognized")
        if not (value.isascii() and value.isdigit() and len(value) <= 6):
            raise elb.wrong_value(key, value)
        row = call.patch(LISTENER.kind.path, row["ListenerId"], {"tcp_idle_seconds": int(value)})
    return {"Attributes": elb.attributes(row["Attributes"])}


def _forwarded(call: Call, params: Params) -> Row:
    """The target group of a listener's action. TargetGroupNotFound, InvalidLoadBalancerAction."""
    actions = params.get("DefaultActions") or []
    if len(actions) != 1:
        raise AwsError("ValidationError", "A listener must have exactly one default action")
    (action,) = actions
    if action.get("Type") != "forward":
        raise AwsError(
            "InvalidLoadBalancerAction",
            f"Actions of type '{action.get('Type')}' are not supported by network load balancers",
        )
    arns = {each.get("TargetGroupArn") for each in _weighted(action)}
    if action.get("TargetGroupArn"):
        arns.add(action["TargetGroupArn"])
    if len(arns) > 1:
        raise unsupported("A listener forwards to one target group.")
    return TARGET_GROUP.find(call, arns.pop() if arns else None)


def _weighted(action: Row) -> list[Row]:
    config = action.get("ForwardConfig") or {}
    if (config.get("TargetGroupStickinessConfig") or {}).get("Enabled"):
        raise unsupported("Stickiness between target groups is not emulated.")
    return config.get("TargetGroups") or []


@contextlib.contextmanager
def _of_one_balancer(group: Row) -> Iterator[None]:
    """The region's refusal in AWS's words, which have the group's ARN."""
    try:
        yield
    except ApiError as error:
        if error.code != "TargetGroupAssociationLimit":
            raise
        raise AwsError(
            error.code,
            "The following target groups cannot be associated with more than one load balancer: "
            f"{group['TargetGroupArn']}",
        ) from None


def _listener(call: Call, row: Row) -> Row:
    balancer = {
        "LoadBalancerId": row["LoadBalancerId"],
        "LoadBalancerName": row["LoadBalancerName"],
    }
    group = TARGET_GROUP.arn(
        call, {"TargetGroupId": row["TargetGroupId"], "TargetGroupName": row["TargetGroupName"]}
    )
    return {
        "ListenerArn": LISTENER.arn(call, row),
        "LoadBalancerArn": LOAD_BALANCER.arn(call, balancer),
        "Port": row["Port"],
        "Protocol": row["Protocol"],
        "DefaultActions": [
            {
                "Type": "forward",
                "TargetGroupArn": group,
                "ForwardConfig": {"TargetGroups": [{"TargetGroupArn": group}]},
            }
        ],
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateLoadBalancer": operation(
        create_load_balancer,
        "Name Subnets SubnetMappings SecurityGroups Scheme Tags Type IpAddressType",
    ),
    "DescribeLoadBalancers": operation(
        describe_load_balancers, "LoadBalancerArns Names Marker PageSize"
    ),
    "DeleteLoadBalancer": operation(delete_load_balancer, "LoadBalancerArn"),
    "DescribeLoadBalancerAttributes": operation(
        describe_load_balancer_attributes, "LoadBalancerArn"
    ),
    "ModifyLoadBalancerAttributes": operation(
        modify_load_balancer_attributes, "LoadBalancerArn Attributes"
    ),
    "SetSecurityGroups": operation(set_security_groups, "LoadBalancerArn SecurityGroups"),
    "SetSubnets": operation(set_subnets, "LoadBalancerArn Subnets SubnetMappings IpAddressType"),
    "SetIpAddressType": operation(set_ip_address_type, "LoadBalancerArn IpAddressType"),
    "CreateListener": operation(
        create_listener, "LoadBalancerArn Protocol Port DefaultActions Tags"
    ),
    "DescribeListeners": operation(
        describe_listeners, "LoadBalancerArn ListenerArns Marker PageSize"
    ),
    "ModifyListener": operation(modify_listener, "ListenerArn Port Protocol DefaultActions"),
    "DeleteListener": operation(delete_listener, "ListenerArn"),
    "DescribeListenerAttributes": operation(describe_listener_attributes, "ListenerArn"),
    "ModifyListenerAttributes": operation(modify_listener_attributes, "ListenerArn Attributes"),
}
