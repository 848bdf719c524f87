# SPDX-License-Identifier: Apache-2.0
"""What a region asks of the world: plain data for whoever makes namespaces and links of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperplane_nat.model.entities import InterfaceKind, NetworkInterface, Service, Vpc
from hyperplane_nat.model.security_group import Compiler, Policy
from hyperplane_nat.model.states import EnvironmentState, InterfaceStatus
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.validation import INTERNET


@dataclass(frozen=True, slots=True)
class WantedService:
    """A server to run in a VPC."""

    name: str
    kind: str
    address: str
    port: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WantedVpc:
    """A VPC's namespace."""

    id: str
    name: str
    """Unique, usable as the name of a namespace; "internet" is the built-in one."""
    number: int
    """For the forwarder, from 1."""
    cidr: str
    mtu_bytes: int
    addresses: tuple[str, ...]
    """The VPC router's in each subnet, then the services'; each once."""
    services: tuple[WantedService, ...]


@dataclass(frozen=True, slots=True)
class WantedInterface:
    """A network interface with what the forwarder needs to know of it."""

    id: str
    link: str
    """Name of its link, at most 15 characters, unique in the lab."""
    number: int
    """Its number in the state map."""
    vpc: str
    """Name of its VPC."""
    vpc_number: int
    subnet: str
    """Network of its subnet."""
    router: str
    address: str
    destinations: tuple[str, ...]
    """Networks that are reached through it."""
    secondary: tuple[tuple[int, str], ...]
    """Its further addresses, with their numbers."""
    mtu_bytes: int | None
    """The largest packet that it sends, where that is not AWS's."""
    vpc_mtu_bytes: int
    kind: InterfaceKind
    status: InterfaceStatus
    policy: Policy


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of it."""

    revision: int
    """Changes with VPCs, services, policies and with interfaces that come and go; neither with the
    status of an interface nor with environments."""
    vpcs: tuple[WantedVpc, ...]
    interfaces: tuple[WantedInterface, ...]
    """Those being deleted are not among them."""
    environments: Mapping[int, str]
    """Slot to interface id; those that terminate are not among them."""


def wanted_of(tables: Tables) -> Wanted:
    """What these tables ask for. Costs by everything there is."""
    compiler = Compiler(tables)
    return Wanted(
        revision=tables.network_revision,
        vpcs=tuple(
            _vpc(tables, vpc) for vpc in tables.vpcs.values() if not _empty_internet(tables, vpc)
        ),
        interfaces=tuple(
            interface_of(tables, compiler, interface)
            for interface in tables.interfaces.values()
            if interface.status is not InterfaceStatus.DELETING
        ),
        environments={
            environment.slot: environment.interface_id
            for environment in tables.environments.values()
            if environment.state is not EnvironmentState.TERMINATING
        },
    )


def interface_of(
    tables: Tables, compiler: Compiler, interface: NetworkInterface
) -> WantedInterface:
    """What one interface asks for."""
    vpc = tables.vpcs[interface.vpc_id]
    subnet = tables.subnets[interface.subnet_id]
    return WantedInterface(
        id=interface.id,
        link=interface.link,
        number=interface.number,
        vpc=vpc.name,
        vpc_number=vpc.number,
        subnet=str(subnet.cidr),
        router=str(subnet.router),
        address=str(interface.address),
        destinations=(str(vpc.cidr),),
        secondary=tuple((number, str(address)) for number, address in interface.secondary),
        mtu_bytes=interface.mtu_bytes,
        vpc_mtu_bytes=vpc.mtu_bytes,
        kind=interface.kind,
        status=interface.status,
        policy=compiler.policy(interface),
    )


def _vpc(tables: Tables, vpc: Vpc) -> WantedVpc:
    services = [service for service in tables.services.values() if service.vpc_id == vpc.id]
    routers = [subnet.router for subnet in tables.subnets.values() if subnet.vpc_id == vpc.id]
    addresses = [str(address) for address in routers + [service.address for service in services]]
    return WantedVpc(
        id=vpc.id,
        name=vpc.name,
        number=vpc.number,
        cidr=str(vpc.cidr),
        mtu_bytes=vpc.mtu_bytes,
        # Two services may share an address on different ports.
        addresses=tuple(dict.fromkeys(addresses)),
        services=tuple(_service(service) for service in services),
    )


def _service(service: Service) -> WantedService:
    return WantedService(
        service.name, service.kind, str(service.address), service.port, service.size_bytes
    )


def _empty_internet(tables: Tables, vpc: Vpc) -> bool:
    return (
        vpc.name == INTERNET
        and not tables.count_in_vpc(vpc.id)
        and not any(service.vpc_id == vpc.id for service in tables.services.values())
    )
