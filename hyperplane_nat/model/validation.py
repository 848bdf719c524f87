# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with wanted resources by themselves, whatever the region holds.

Each check raises a `ModelError` with the error name that EC2 ("Error codes for the Amazon EC2 API")
or Lambda ("CreateFunction") has for it. What depends on the region, free addresses and quotas and
what is in use, is found when the plan is tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from hyperplane_nat.model.balancer_checks import check_balancing
from hyperplane_nat.model.entities import LAMBDA_ACCOUNT_ID
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_endpoint_checks import (
    check_aws_service,
    check_gateway_endpoints,
    listed_service,
)
from hyperplane_nat.model.network_acl_checks import check_network_acls
from hyperplane_nat.model.private_link_checks import check_private_link
from hyperplane_nat.model.resources import (
    DEFAULT_ACCOUNT,
    DEFAULT_ACCOUNT_ID,
    AccountResource,
    Code,
    FunctionResource,
    HostResource,
    Networking,
    Protocol,
    Resources,
    RuleResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.route_checks import check_routes
from hyperplane_nat.model.settings import LifecycleSettings

INTERNET = "internet"
"""Name of the built-in VPC in which public hosts are."""
INTERNET_EGRESS = "192.0.2.0/24"
"""Where the Lambda service's own interfaces to the internet have their addresses (RFC 5737)."""

SERVICE_TRANSPORTS = {"http": "tcp", "udp-echo": "udp", "mailbox": "tcp"}
"""The protocol under each kind of service."""

_ACCOUNT_ID = re.compile(r"[0-9]{12}")
_PREFIX_MAX = 28
_PORT_MAX = 65535
_MEMORY_MB = range(128, 10_241)
_TIMEOUT_SECONDS = range(1, 901)
LAYERS_MAX = 5
"""Of a function ("Lambda quotas")."""
_EPHEMERAL_STORAGE_MB = range(512, 10241)
_HANDLER = re.compile(r"[^\s\0]+")
_ENVIRONMENT_BYTES_MAX = 4096
_VARIABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+")
_RUNTIME = re.compile(r"python3\.[0-9]{1,2}|nodejs[0-9]{2}\.x|provided(\.al2(023)?)?")

RESERVED_VARIABLES = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)
"""What Lambda sets itself ("Defined runtime environment variables"). Its credentials are not among
them here: nobody but the function's configuration has any to give."""


def accounts_of(wanted: Resources) -> tuple[AccountResource, ...]:
    """The wanted accounts; the default one needs no mention to be referred to."""
    users = {vpc.account for vpc in wanted.vpcs}
    users |= {function.account for function in wanted.functions}
    if DEFAULT_ACCOUNT in users - {account.name for account in wanted.accounts}:
        return (*wanted.accounts, AccountResource(DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_ID))
    return wanted.accounts


def validate(wanted: Resources, settings: LifecycleSettings) -> None:
    """Raise for the first thing that is wrong."""
    accounts = accounts_of(wanted)
    _unique("account", (account.name for account in accounts))
    _unique("account id", (account.id for account in accounts if account.id is not None))
    _unique("VPC", (vpc.name for vpc in wanted.vpcs))
    _unique("function", (function.name for function in wanted.functions))
    _unique("internet host", (host.name for host in wanted.internet))
    for account in accounts:
        check_account(account)
    names = {account.name for account in accounts}
    vpcs = {vpc.name: vpc for vpc in wanted.vpcs}
    for vpc in wanted.vpcs:
        if vpc.account not in names:
            raise _wrong(f"VPC {vpc.name} is of unknown account {vpc.account!r}", "declare it")
        _check_vpc(vpc, settings)
    check_internet_hosts(wanted.internet)
    _check_interfaces(wanted)
    for function in wanted.functions:
        if function.account not in names:
            raise _lambda(
                f"function {function.name} is of unknown account {function.account!r}",
                "declare the account",
            )
        check_function(function, vpcs, settings)


def check_account(account: AccountResource) -> None:
    """An id that an account can have."""
    if account.id is not None and not _ACCOUNT_ID.fullmatch(account.id):
        raise _wrong(f"account id {account.id!r} of {account.name} is not 12 digits", "fix it")
    if account.id == LAMBDA_ACCOUNT_ID:
        raise ModelError(
            "InvalidParameterValue",
            f"account id {account.id} is the Lambda service's",
            "choose another one",
            entry_of("account", account.name, "id"),
        )


def check_internet_hosts(hosts: Sequence[ServiceResource]) -> None:
    """Public hosts have addresses and endpoints of their own, and no groups."""
    for host in hosts:
        _check_endpoint(f"internet host {host.name}", host)
        check_aws_service(host)
        if host.security_groups:
            raise _wrong(f"internet host {host.name} has security groups", "leave them out")
        if host.address is None or host.host is not None:
            raise _wrong(f"internet host {host.name} has no address of its own", "give it one")
        if host.address in IPv4Network(INTERNET_EGRESS):
            raise _wrong(
                f"address {host.address} of internet host {host.name} is in {INTERNET_EGRESS}, "
                "which is the Lambda service's",
                "choose one of 198.51.100.0/24 or 203.0.113.0/24",
            )
    _endpoints_differ("the internet", hosts)


def _check_interfaces(wanted: Resources) -> None:
    """Those of the lab file have addresses of their subnets, and its environments have one."""
    _unique("network interface", (interface.name for interface in wanted.interfaces))
    networks = {(vpc.name, each.name): each.cidr for vpc in wanted.vpcs for each in vpc.subnets}
    for interface in wanted.interfaces:
        network = networks.get((interface.vpc, interface.subnet))
        if network is None:
            raise ModelError(
                "InvalidSubnetID.NotFound",
                f"network interface {interface.name} is in no subnet of the lab",
                "name one",
            )
        for address in interface.addresses:
            if address not in network:
                raise _wrong(
                    f"address {address} of network interface {interface.name} is outside {network}",
                    "choose an address inside",
                )
    if wanted.environments and not wanted.interfaces:
        raise _wrong("the environments have no network interface to share", "give them one")


def _check_vpc(vpc: VpcResource, settings: LifecycleSettings) -> None:
    if vpc.name == INTERNET:
        raise _wrong(f"a VPC cannot be named {INTERNET}: there is one built in", "rename it")
    _unique(f"subnet in VPC {vpc.name}", (subnet.name for subnet in vpc.subnets))
    _unique(f"security group in VPC {vpc.name}", (group.name for group in vpc.security_groups))
    _unique(f"host in VPC {vpc.name}", (host.name for host in vpc.hosts))
    _unique(f"service in VPC {vpc.name}", (service.name for service in vpc.services))
    check_subnets(vpc)
    for group in vpc.security_groups:
        check_group(vpc, group, settings)
    for host in vpc.hosts:
        check_host(vpc, host)
    check_services(vpc)
    check_routes(vpc, settings)
    check_network_acls(vpc, settings)
    check_balancing(vpc, settings)
    check_private_link(vpc)
    check_gateway_endpoints(vpc, settings.region)


def check_subnets(vpc: VpcResource) -> None:
    """Subnets lie in their VPC, apart from each other."""
    for subnet in vpc.subnets:
        if not subnet.cidr.subnet_of(vpc.cidr):
            raise ModelError(
                "InvalidSubnet.Range",
                f"subnet {subnet.name}, {subnet.cidr}, is outside VPC {vpc.name}, {vpc.cidr}",
                "choose a part of the VPC's network",
            )
        if subnet.cidr.prefixlen > _PREFIX_MAX:
            raise ModelError(
                "InvalidSubnet.Range",
                f"subnet {subnet.name}, {subnet.cidr}, is smaller than a /{_PREFIX_MAX}",
                "choose a larger one",
            )
    ordered = sorted(vpc.subnets, key=lambda subnet: subnet.cidr)
    for one, other in pairwise(ordered):
        if one.cidr.overlaps(other.cidr):
            raise ModelError(
                "InvalidSubnet.Conflict",
                f"subnets {one.name}, {one.cidr}, and {other.name}, {other.cidr}, "
                f"of VPC {vpc.name} overlap",
                "give them separate networks",
            )


def check_services(vpc: VpcResource) -> None:
    """Services have addresses of subnets that nobody else has, and groups of their VPC."""
    groups = {group.name for group in vpc.security_groups}
    for service in vpc.services:
        if service.host is not None:
            _check_on_host(vpc, service, service.host)
        else:
            _check_on_router(vpc, service)
        _check_endpoint(f"service {service.name}", service)
        if service.aws_service:
            raise _wrong(
                f"service {service.name} of VPC {vpc.name} is of AWS's service "
                f"{service.aws_service}",
                "only hosts of the internet are",
            )
        _known_groups(f"service {service.name}", service.security_groups, groups, vpc)
    _endpoints_differ(f"VPC {vpc.name}", vpc.services)


def _check_on_host(vpc: VpcResource, service: ServiceResource, host: str) -> None:
    if host not in {each.name for each in vpc.hosts}:
        raise ModelError(
            "InvalidInstanceID.NotFound",
            f"service {service.name} is on host {host!r}, which VPC {vpc.name} does not have",
            "name one of its own",
            entry_of("service", f"{vpc.name}/{service.name}", "host"),
        )
    if service.address is not None or service.security_groups:
        raise _wrong(
            f"service {service.name} is on a host and has an address or security groups",
            "leave them out: they are the host's",
        )


def _check_on_router(vpc: VpcResource, service: ServiceResource) -> None:
    who = f"service {service.name}"
    if service.address is None:
        raise _wrong(f"{who} has neither a host nor an address", "give it one of them")
    subnet = next((item for item in vpc.subnets if service.address in item.cidr), None)
    if subnet is None:
        raise _wrong(
            f"address {service.address} of {who} is in no subnet of VPC {vpc.name}",
            "choose an address in one of them",
        )
    _check_not_reserved(who, service.address, subnet)


def _check_not_reserved(who: str, address: IPv4Address, subnet: SubnetResource) -> None:
    offset = int(address) - int(subnet.cidr.network_address)
    if offset < 4 or address == subnet.cidr.broadcast_address:
        raise _wrong(
            f"address {address} of {who} is reserved by AWS",
            "the first four and the last address of a subnet are: choose another one",
        )


def check_host(vpc: VpcResource, host: HostResource) -> None:
    """A host has a subnet of its VPC, groups of it, and an address of the subnet if any."""
    who = f"host {host.name}"
    subnet = next((item for item in vpc.subnets if item.name == host.subnet), None)
    if subnet is None:
        raise ModelError(
            "InvalidSubnetID.NotFound",
            f"subnet {host.subnet!r} of {who} does not exist in VPC {vpc.name}",
            "name one of its own",
            entry_of("host", f"{vpc.name}/{host.name}", "subnet"),
        )
    if host.address is not None:
        if host.address not in subnet.cidr:
            raise _wrong(
                f"Address {host.address} of {who} does not fall within the subnet's address range "
                f"{subnet.cidr}",
                "choose an address inside, or leave it out",
            )
        _check_not_reserved(who, host.address, subnet)
    _unique(f"security group of {who}", host.security_groups)
    groups = {group.name for group in vpc.security_groups}
    _known_groups(who, host.security_groups, groups, vpc)


def _check_endpoint(who: str, service: ServiceResource) -> None:
    if service.kind not in SERVICE_TRANSPORTS:
        raise _wrong(
            f"{who} is of unknown kind {service.kind!r}",
            f"choose one of {', '.join(SERVICE_TRANSPORTS)}",
        )
    if not 0 < service.port <= _PORT_MAX:
        raise _wrong(f"port {service.port} of {who} does not exist", f"choose 1 to {_PORT_MAX}")


def _endpoints_differ(where: str, services: Iterable[ServiceResource]) -> None:
    _unique(
        f"endpoint in {where}",
        (
            f"{service.host or service.address}:{service.port}/{SERVICE_TRANSPORTS[service.kind]}"
            for service in services
        ),
    )


def check_group(
    vpc: VpcResource, group: SecurityGroupResource, settings: LifecycleSettings
) -> None:
    """Not too many rules, each of them one that can be, naming groups of the VPC."""
    groups = {each.name for each in vpc.security_groups}
    for direction, rules in (("ingress", group.ingress), ("egress", group.egress)):
        where = f"{direction} of security group {group.name}"
        if len(rules) > settings.rules_per_direction:
            raise ModelError(
                "RulesPerSecurityGroupLimitExceeded",
                f"{where} has {len(rules)} rules",
                f"at most {settings.rules_per_direction} are possible: merge some",
                entry_of("security-group", f"{vpc.name}/{group.name}", direction),
            )
        for rule in rules:
            _check_rule(where, rule)
            if rule.prefix_list is not None:
                field = entry_of("security-group", f"{vpc.name}/{group.name}", direction)
                listed_service(rule.prefix_list, settings.region, field)
            if rule.group is not None:
                _known_groups(where, (rule.group,), groups, vpc)


def _check_rule(where: str, rule: RuleResource) -> None:
    if sum(each is not None for each in (rule.cidr, rule.group, rule.prefix_list)) != 1:
        raise ModelError(
            "InvalidPermission.Malformed",
            f"a rule in {where} needs a CIDR, a group or a prefix list",
            "give exactly one of them",
        )
    if rule.protocol in (Protocol.TCP, Protocol.UDP) and not (
        0 <= rule.first <= rule.last <= _PORT_MAX
    ):
        raise _wrong(
            f"Invalid TCP/UDP port range ({rule.first},{rule.last}) in {where}",
            "the first port comes first, both are 0 to 65535",
        )


def check_function(
    function: FunctionResource, vpcs: dict[str, VpcResource], settings: LifecycleSettings
) -> None:
    """Its memory, and that subnets and groups are those of one VPC of its account."""
    if function.memory_mb not in _MEMORY_MB:
        raise _lambda(
            f"memory of function {function.name} is {function.memory_mb} MB",
            f"choose {_MEMORY_MB.start} to {_MEMORY_MB.stop - 1}",
        )
    if function.code is not None:
        _check_code(function.name, function.code)
    _check_variables(function.name, dict(function.environment))
    who = f"function {function.name}"
    _unique(f"subnet of {who}", function.subnets)
    _unique(f"security group of {who}", function.security_groups)
    if function.networking is Networking.NONE:
        if function.vpc is not None or function.subnets or function.security_groups:
            raise _lambda(
                f"{who} has a VPC, subnets or security groups but networking none",
                "leave them out or choose another networking",
            )
        return
    vpc = vpcs.get(function.vpc or "")
    if vpc is None:
        raise _lambda(f"{who} is in unknown VPC {function.vpc!r}", "name one of the lab's")
    if vpc.account != function.account:
        raise _lambda(
            f"{who} of account {function.account} is in VPC {vpc.name} of account {vpc.account}",
            "a function's subnets are of its own account",
        )
    if not function.subnets or not function.security_groups:
        raise _lambda(
            f"SubnetIds and SecurityGroupIds of {who} must coexist",
            "name at least one subnet and one security group",
        )
    if len(function.subnets) > settings.subnets_per_function:
        raise _lambda(
            f"{who} has {len(function.subnets)} subnets",
            f"at most {settings.subnets_per_function} are possible",
            entry_of("function", function.name, "subnets"),
        )
    if len(function.security_groups) > settings.groups_per_function:
        raise _lambda(
            f"{who} has {len(function.security_groups)} security groups",
            f"at most {settings.groups_per_function} are possible",
            entry_of("function", function.name, "security_groups"),
        )
    known = {subnet.name for subnet in vpc.subnets}
    for name in function.subnets:
        if name not in known:
            raise _lambda(
                f"subnet {name!r} of {who} does not exist in VPC {vpc.name}", "name one of its own"
            )
    groups = {group.name for group in vpc.security_groups}
    for name in function.security_groups:
        if name not in groups:
            raise _lambda(
                f"security group {name!r} of {who} does not exist in VPC {vpc.name}",
                "security groups are required to be in the VPC of the subnets",
            )


def _known_groups(who: str, names: Iterable[str], groups: set[str], vpc: VpcResource) -> None:
    for name in names:
        if name not in groups:
            raise ModelError(
                "InvalidGroup.NotFound",
                f"security group {name!r}, named by {who}, does not exist in VPC {vpc.name}",
                "groups of other VPCs cannot be referred to: name one of its own",
            )


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _wrong(f"two times {what} {name!r}", "names are unique: rename one")
        seen.add(name)


def _wrong(message: str, remedy: str) -> ModelError:
    return ModelError("InvalidParameterValue", message, remedy)


def _check_code(name: str, code: Code) -> None:
    if _RUNTIME.fullmatch(code.runtime) is None:
        raise _lambda(
            f"Value {code.runtime} at 'runtime' of function {name} failed to satisfy constraint: "
            "python3.x, nodejsNN.x or provided",
            "choose Python or Node.js of this host, or provided with a program called bootstrap",
            "runtime",
        )
    named = code.runtime.startswith(("python", "nodejs"))
    if _HANDLER.fullmatch(code.handler) is None:
        raise _lambda(
            f"Value {code.handler!r} at 'handler' of function {name} failed to satisfy constraint: "
            r"Member must satisfy regular expression pattern: [^\s]+",
            'write it like "app.handler"',
            "handler",
        )
    if named and "." not in code.handler.strip("."):
        raise _lambda(
            f"handler {code.handler!r} of function {name} names no function of a module",
            'write it like "app.handler"',
            "handler",
        )
    if len(code.layers) > LAYERS_MAX:
        raise _lambda(
            f"function {name} has {len(code.layers)} layers: Cannot reference more than "
            f"{LAYERS_MAX} layers",
            "put some of them together",
            "layers",
        )
    if code.timeout_seconds not in _TIMEOUT_SECONDS:
        raise _lambda(
            f"timeout of function {name} is {code.timeout_seconds} seconds",
            f"choose {_TIMEOUT_SECONDS.start} to {_TIMEOUT_SECONDS.stop - 1}",
            "timeout_seconds",
        )
    if code.ephemeral_storage_mb not in _EPHEMERAL_STORAGE_MB:
        first, last = _EPHEMERAL_STORAGE_MB.start, _EPHEMERAL_STORAGE_MB.stop - 1
        raise _lambda(
            f"ephemeral storage of function {name} is {code.ephemeral_storage_mb} MB",
            f"choose {first} to {last}",
            "ephemeral_storage_mb",
        )


def _check_variables(function: str, variables: dict[str, str]) -> None:
    reserved = sorted(RESERVED_VARIABLES.intersection(variables))
    if reserved:
        raise _lambda(
            "Lambda was unable to configure your environment variables because the environment "
            "variables you have provided contains reserved keys that are currently not supported "
            f"for modification. Reserved keys used in this request: {', '.join(reserved)}",
            f"leave them out of function {function}",
            "environment",
        )
    for variable, value in variables.items():
        if _VARIABLE.fullmatch(variable) is None or "\0" in value:
            raise _lambda(
                f"variable {variable!r} of function {function} is none that Lambda takes",
                "names are letters, digits and _, two at least, and begin with a letter",
                "environment",
            )
    size = len(json.dumps(variables, separators=(",", ":")).encode())
    if size > _ENVIRONMENT_BYTES_MAX:
        raise _lambda(
            "Lambda was unable to configure your environment variables because the environment "
            f"variables you have provided exceeded the 4KB limit. String measured: {size}",
            f"give function {function} fewer",
            "environment",
        )


def _lambda(message: str, remedy: str, field: str = "") -> ModelError:
    return ModelError("InvalidParameterValueException", message, remedy, field)
