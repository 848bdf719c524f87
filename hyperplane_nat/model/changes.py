# SPDX-License-Identifier: Apache-2.0
"""The changes that commands and declarations are made of: what is made, and what may go.

Theory of operation
-------------------
Whoever calls has looked at what is asked for (`validation`) and is inside a transaction. `Commands`
changes one resource at a time, `Planner` all that a declaration names, both through what is here;
so a resource comes to be in one way, and `user_of` is the one place that says what keeps it from
being deleted.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from hyperplane_nat.model.balancer_entities import LoadBalancer, TargetGroup
from hyperplane_nat.model.balancers import Balancers
from hyperplane_nat.model.entities import (
    LAMBDA_ACCOUNT_ID,
    Account,
    ExecutionEnvironment,
    Function,
    Host,
    InterfaceKind,
    NetworkConfig,
    NetworkInterface,
    Resource,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_endpoints import GatewayEndpoints
from hyperplane_nat.model.gateway_entities import (
    InternetGateway,
    NatGateway,
    RouteTable,
)
from hyperplane_nat.model.gateways import Gateways
from hyperplane_nat.model.identifiers import account_id, resource_id, uuid
from hyperplane_nat.model.lifecycle import CREATING, Lifecycle
from hyperplane_nat.model.nat_gateways import NatGateways
from hyperplane_nat.model.network_acl_entities import NetworkAcl
from hyperplane_nat.model.network_acls import NetworkAcls
from hyperplane_nat.model.private_link import PrivateLink
from hyperplane_nat.model.private_link_entities import (
    EndpointService,
    GatewayEndpoint,
    VpcEndpoint,
)
from hyperplane_nat.model.resources import (
    ANYWHERE,
    AVAILABILITY_ZONE,
    FunctionResource,
    HostResource,
    InterfaceResource,
    Networking,
    ServiceResource,
)
from hyperplane_nat.model.states import (
    ENVIRONMENT_STATES,
    EnvironmentEvent,
    EnvironmentState,
    FunctionState,
    InterfaceStatus,
    UpdateStatus,
    following,
)
from hyperplane_nat.model.target_health import balancer_of
from hyperplane_nat.model.validation import INTERNET, INTERNET_EGRESS

P = TypeVar(
    "P",
    Subnet,
    SecurityGroup,
    Host,
    Service,
    RouteTable,
    NetworkAcl,
    NatGateway,
    LoadBalancer,
    TargetGroup,
    EndpointService,
    VpcEndpoint,
    GatewayEndpoint,
)
N = TypeVar(
    "N",
    Account,
    Function,
    SecurityGroup,
    Host,
    Service,
    Subnet,
    Vpc,
    RouteTable,
    NetworkAcl,
    InternetGateway,
    NatGateway,
    LoadBalancer,
    TargetGroup,
    EndpointService,
    VpcEndpoint,
    GatewayEndpoint,
)


class Changes:
    """Changes of the tables behind a life cycle."""

    def __init__(self, lifecycle: Lifecycle, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self.lifecycle = lifecycle
        self.tables = lifecycle.tables
        self.declared = declared
        self.gateways = Gateways(lifecycle, declared=declared)
        self.acls = NetworkAcls(lifecycle, declared=declared)
        self.nat_gateways = NatGateways(lifecycle, self.gateways, declared=declared)
        self.balancers = Balancers(lifecycle, self.gateways, self.internet, declared=declared)
        self.private_link = PrivateLink(lifecycle, declared=declared)
        self.gateway_endpoints = GatewayEndpoints(lifecycle, declared=declared)

    def new_id(self, prefix: str) -> str:
        """An id that nothing has."""
        return resource_id(prefix, self.lifecycle.random_hex)

    def make_account(self, name: str, number: str | None) -> Account:
        """An account, with an id of its own unless it is given."""
        other = self.tables.accounts.get(number or "")
        if other is not None:
            raise ModelError(
                "InvalidParameterValue",
                f"account id {number} of {name} is that of {other.name}",
                "rename the account in a lab without it, or choose another id",
                entry_of("account", name, "id"),
            )
        account = Account(number or account_id(self.lifecycle.random_hex), name, self.declared)
        self.tables.put(account)
        return account

    def make_vpc(
        self,
        name: str,
        account_id: str,
        cidr: IPv4Network,
        mtu_bytes: int = 1500,
    ) -> Vpc:
        """A VPC with nothing in it."""
        numbers = {vpc.number for vpc in self.tables.vpcs.values()}
        number = next(each for each in range(1, len(numbers) + 2) if each not in numbers)
        vpc = Vpc(self.new_id("vpc"), name, account_id, cidr, mtu_bytes, number, self.declared)
        self.tables.put(vpc)
        if name != INTERNET:
            self.gateways.main_route_table(vpc)
        return vpc

    def modify_vpc(self, vpc: Vpc, changes: Mapping[str, Any]) -> Vpc:
        """A VPC with other DNS attributes."""
        changed = replace(vpc, **changes)
        if changed != vpc:
            self.tables.put(changed)
        return changed

    def make_subnet(
        self,
        vpc: Vpc,
        name: str,
        cidr: IPv4Network,
        availability_zone: str = AVAILABILITY_ZONE,
    ) -> Subnet:
        """A subnet of a VPC."""
        subnet = Subnet(self.new_id("subnet"), name, vpc.id, cidr, self.declared, availability_zone)
        self.tables.put(subnet)
        return subnet

    def internet(self) -> Vpc:
        """The built-in VPC with the public hosts and the Lambda service's interfaces to them."""
        for vpc in self.tables.vpcs.values():
            if vpc.name == INTERNET:
                return vpc
        vpc = self.make_vpc(INTERNET, LAMBDA_ACCOUNT_ID, ANYWHERE)
        self.make_subnet(vpc, INTERNET, IPv4Network(INTERNET_EGRESS))
        return vpc

    def config_of_internet(self) -> NetworkConfig:
        """The network side of a function outside every VPC."""
        vpc = self.internet()
        subnet = parts_of(vpc, self.tables.subnets)[0]
        return NetworkConfig(Networking.NONE, vpc.id, (subnet.id,), (), LAMBDA_ACCOUNT_ID)

    def make_host(
        self, subnet: Subnet, wanted: HostResource, group_ids: Iterable[str], attached: str = ""
    ) -> Host:
        """A host, and the interface to its VPC's router if it is the first one there.

        `attached` is as of `Host`. InstanceLimitExceeded, InsufficientFreeAddressesInSubnet.
        """
        host = Host(
            id=self.new_id("i"),
            name=wanted.name,
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.id,
            address=wanted.address or self._free_address(subnet, wanted.name),
            group_ids=tuple(sorted(group_ids)),
            description=wanted.description,
            number=self.lifecycle.free_host_number(),
            attached=attached,
            declared=self.declared,
        )
        self.lifecycle.router_interface(self.tables.vpcs[subnet.vpc_id])
        self.tables.put(host)
        return host

    def _free_address(self, subnet: Subnet, host: str) -> IPv4Address:
        try:
            return self.lifecycle.free_address(subnet)
        except ModelError as error:
            # EC2 has another name for it than Lambda.
            vpc = self.tables.vpcs[subnet.vpc_id]
            raise ModelError(
                "InsufficientFreeAddressesInSubnet",
                error.message,
                "use another subnet",
                entry_of("host", f"{vpc.name}/{host}", "subnet"),
            ) from None

    def check_host_address(self, host: Host) -> None:
        """A host has an address to itself; InvalidIPAddress.InUse."""
        services = parts_of(self.tables.vpcs[host.vpc_id], self.tables.services)
        own = sum(service.host_id == host.id for service in services)
        if self.tables.addresses(host.vpc_id)[int(host.address)] > 1 + own:
            vpc = self.tables.vpcs[host.vpc_id]
            raise ModelError(
                "InvalidIPAddress.InUse",
                f"Address {host.address} of host {host.name} is in use",
                "choose another one, or leave it out",
                entry_of("host", f"{vpc.name}/{host.name}", "address"),
            )

    def service_of(
        self,
        vpc: Vpc,
        wanted: ServiceResource,
        old: Service | None,
        group_ids: Iterable[str],
        host: Host | None = None,
    ) -> Service:
        """The service that is wanted, in place of `old` or a new one; it is in no table yet.

        `host` is the one that `wanted` names.
        """
        address = wanted.address if host is None else host.address
        assert address is not None
        return Service(
            id=self.new_id("svc") if old is None else old.id,
            name=wanted.name,
            vpc_id=vpc.id,
            kind=wanted.kind,
            address=address,
            port=wanted.port,
            size_bytes=wanted.size_bytes,
            group_ids=tuple(sorted(group_ids)),
            declared=self.declared or (old is not None and old.declared),
            host_id="" if host is None else host.id,
            aws_service=wanted.aws_service,
        )

    def check_address(self, service: Service) -> None:
        """A service takes no address of an interface, none that is public already, and none of a
        host but of its own.
        """
        for public in self.tables.elastic_addresses.values():
            if (service.vpc_id, service.address) == (public.internet_id, public.address):
                raise ModelError(
                    "InvalidIPAddress.InUse",
                    f"address {service.address} of internet host {service.name} is the public "
                    f"address {public.id}",
                    "choose another one",
                    entry_of("internet-host", service.name, "address"),
                )
        for host in self.tables.hosts_in(service.vpc_id):
            if service.address == host.address and service.host_id != host.id:
                vpc = self.tables.vpcs[service.vpc_id]
                raise ModelError(
                    "InvalidIPAddress.InUse",
                    f"address {service.address} of service {service.name} is that of host "
                    f"{host.name}",
                    "let it run on that host, or choose another one",
                    entry_of("service", f"{vpc.name}/{service.name}", "address"),
                )
        for interface in self.tables.in_vpc(service.vpc_id):
            if service.address in interface.addresses:
                vpc = self.tables.vpcs[service.vpc_id]
                raise ModelError(
                    "InvalidIPAddress.InUse",
                    f"address {service.address} of service {service.name} is that of "
                    f"interface {interface.id}",
                    "choose another one",
                    entry_of("service", f"{vpc.name}/{service.name}", "address"),
                )

    def make_interface(
        self,
        wanted: InterfaceResource,
        subnet: Subnet,
        number: int,
        secondary: tuple[tuple[int, IPv4Address], ...],
    ) -> None:
        """A network interface of the lab file, available at once."""
        for address in wanted.addresses:
            if int(address) in self.tables.addresses(subnet.vpc_id):
                raise ModelError(
                    "InvalidIPAddress.InUse",
                    f"address {address} of network interface {wanted.name} is in use",
                    "choose another one",
                )
        owner_id = self.tables.vpcs[subnet.vpc_id].account_id
        self.tables.put(
            NetworkInterface(
                id=wanted.name,
                kind=InterfaceKind.STATIC,
                status=InterfaceStatus.AVAILABLE,
                description="",
                number=number,
                link=wanted.name,
                owner_id=owner_id,
                vpc_id=subnet.vpc_id,
                subnet_id=subnet.id,
                group_ids=(),
                address=wanted.addresses[0],
                requester_id=owner_id,
                secondary=secondary,
                mtu_bytes=wanted.mtu_bytes,
            )
        )

    def make_environment(self, number: int, interface: str) -> None:
        """An environment of the lab file on an interface of it."""
        self.tables.put(
            ExecutionEnvironment(
                slot=number,
                function_id="",
                function_name="",
                version=0,
                interface_id=interface,
                state=following(
                    ENVIRONMENT_STATES, EnvironmentState.INITIALIZING, EnvironmentEvent.PROVISIONED
                ),
                invocations=0,
            )
        )

    def make_function(
        self, wanted: FunctionResource, account_id: str, config: NetworkConfig
    ) -> Function:
        """A function that is Pending, and the interfaces that it needs; Failed if it has none."""
        function = Function(
            id=uuid(self.lifecycle.random_hex),
            name=wanted.name,
            account_id=account_id,
            memory_mb=wanted.memory_mb,
            config=config,
            update=None,
            version=1,
            state=FunctionState.PENDING,
            state_reason="The function is being created.",
            state_reason_code=CREATING,
            last_update_status=UpdateStatus.SUCCESSFUL,
            last_update_status_reason="",
            last_update_status_reason_code="",
            last_used=self.lifecycle.now,
            declared=self.declared,
            code=wanted.code,
            environment=wanted.environment,
            reserved_concurrency=wanted.reserved_concurrency,
        )
        self.tables.put(function)
        self.lifecycle.provide(function, config)
        return self.tables.functions[function.id]

    def change_function(
        self, old: Function, wanted: FunctionResource, config: NetworkConfig
    ) -> list[str]:
        """Another configuration; says what is different, which may be nothing."""
        details = []
        if old.memory_mb != wanted.memory_mb:
            details.append(f"memory {old.memory_mb} to {wanted.memory_mb} MB")
        if old.code != wanted.code:
            details.append("code")
        if old.environment != wanted.environment:
            details.append("environment variables")
        if details:
            old = self.lifecycle.renew(old, wanted)
        if old.reserved_concurrency != wanted.reserved_concurrency:
            # No part of the configuration that environments have: PutFunctionConcurrency.
            details.append("reserved concurrency")
            old = replace(old, reserved_concurrency=wanted.reserved_concurrency)
            self.tables.put(old)
        if old.target.networking is not config.networking:
            details.append(f"networking {old.target.networking} to {config.networking}")
        elif old.target != config:
            details.append("VPC configuration")
        elif old.state is FunctionState.FAILED:
            details.append("try again")
        if old.target != config or old.state is FunctionState.FAILED:
            self.lifecycle.configure(old, config)
        return details

    def remove(self, item: Resource) -> None:
        """What nobody uses goes, with what AWS lets go with it."""
        match item:
            case Vpc():
                self.acls.forget_vpc(item)
                self.gateways.forget_vpc(item)
            case Subnet():
                self.acls.forget_subnet(item)
                self.gateways.forget_subnet(item)
            case Host():
                self.balancers.forget_host(item)
                self.gateways.forget_host(item)
            case RouteTable():
                self.gateway_endpoints.forget_route_table(item)
            case _:
                self.tables.remove(item)

    def user_of(self, item: Resource, besides: Container[str] = ()) -> str | None:
        """What keeps something from being deleted; `besides` has ids of groups that go with it."""
        return next(self._users_of(item, besides), None)

    def _users_of(self, item: Resource, besides: Container[str]) -> Iterator[str]:
        tables = self.tables
        match item:
            case Account():
                for vpc in by_name(tables.vpcs.values()):
                    if vpc.account_id == item.id:
                        yield f"VPC {vpc.name}"
                for function in tables.functions.values():
                    if function.account_id == item.id:
                        yield f"function {function.name}"
                for internet_gateway in tables.internet_gateways.values():
                    if internet_gateway.account_id == item.id:
                        yield f"internet gateway {internet_gateway.name}"
                for address in tables.elastic_addresses.values():
                    if address.account_id == item.id:
                        yield f"address {address.id}"
            case Vpc():
                yield from sorted(
                    f"{what} {part.name}"
                    for what, parts in (
                        ("subnet", tables.subnets),
                        ("security group", tables.groups),
                        ("host", tables.hosts),
                        ("service", tables.services),
                        ("target group", tables.target_groups),
                        ("gateway endpoint", tables.gateway_endpoints),
                    )
                    for part in parts.values()
                    if part.vpc_id == item.id
                )
                for table in by_name(tables.route_tables.values()):
                    if table.vpc_id == item.id and not table.main:
                        yield f"route table {table.name}"
                for acl in by_name(tables.network_acls.values()):
                    if acl.vpc_id == item.id and not acl.default:
                        yield f"network ACL {acl.name}"
                if (attached := tables.internet_gateway_of(item.id)) is not None:
                    yield f"internet gateway {attached.name}"
            case TargetGroup():
                if (balancer := balancer_of(tables, item)) is not None:
                    yield f"load balancer {balancer.name}"
            case Subnet():
                for balancer in tables.load_balancers.values():
                    if item.id in {node.subnet_id for node in balancer.nodes}:
                        yield f"load balancer {balancer.name}"
                for gateway in tables.nat_gateways_in(item.vpc_id):
                    if gateway.subnet_id == item.id:
                        yield f"NAT gateway {gateway.name}"
                for interface in tables.in_vpc(item.vpc_id):
                    if interface.subnet_id == item.id:
                        yield f"interface {interface.id}"
                for host in tables.hosts_in(item.vpc_id):
                    if host.subnet_id == item.id:
                        yield f"host {host.name}"
                for function in tables.functions.values():
                    for config in (function.config, function.update):
                        if config is not None and item.id in config.subnet_ids:
                            yield f"function {function.name}"
                others = [
                    subnet.cidr
                    for subnet in tables.subnets.values()
                    if subnet.vpc_id == item.vpc_id and subnet.id != item.id
                ]
                for service in tables.services.values():
                    if (
                        service.vpc_id == item.vpc_id
                        and service.address in item.cidr
                        and not any(service.address in cidr for cidr in others)
                    ):
                        yield f"service {service.name}"
            case SecurityGroup():
                for interface in tables.in_vpc(item.vpc_id):
                    if item.id in interface.group_ids:
                        yield f"interface {interface.id}"
                for host in tables.hosts_in(item.vpc_id):
                    if item.id in host.group_ids:
                        yield f"host {host.name}"
                for function in tables.functions.values():
                    for config in (function.config, function.update):
                        if config is not None and item.id in config.group_ids:
                            yield f"function {function.name}"
                for service in tables.services.values():
                    if item.id in service.group_ids:
                        yield f"service {service.name}"
                for group in tables.groups.values():
                    named = {rule.group_id for rule in group.ingress + group.egress}
                    if item.id in named and group.id != item.id and group.id not in besides:
                        yield f"security group {group.name}"
            case Host():
                for service in tables.services.values():
                    if service.host_id == item.id:
                        yield f"service {service.name}"
            case RouteTable():
                for subnet_id in item.subnet_ids:
                    yield f"subnet {tables.subnets[subnet_id].name}"
            case InternetGateway():
                if item.vpc_id:
                    yield f"VPC {tables.vpcs[item.vpc_id].name}"


def by_name(entities: Iterable[N]) -> list[N]:
    """A copy in an order that does not depend on how the tables came to be."""
    return sorted(entities, key=lambda entity: (entity.name, entity.id))


def parts_of(vpc: Vpc, parts: Mapping[str, P]) -> list[P]:
    """Those subnets, groups, hosts or services that are in a VPC."""
    return [part for part in parts.values() if part.vpc_id == vpc.id]
