# SPDX-License-Identifier: Apache-2.0
"""A clock that is set by hand, and small labs to put into a region."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hyperplane_nat.model.entities import Function, NetworkInterface
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import seeded_hex
from hyperplane_nat.model.region import Placement, PlanLine, Region
from hyperplane_nat.model.resources import (
    AccountResource,
    FunctionResource,
    InterfaceResource,
    Networking,
    Protocol,
    Resources,
    RuleResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.settings import LifecycleSettings

START = 1_700_000_000.0
HYPERPLANE = Networking.HYPERPLANE
OWN = Networking.INTERFACE_PER_ENVIRONMENT
NONE = Networking.NONE


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


class Slots:
    """A pool of slots that gives out the lowest that is free."""

    def __init__(self, first: int = 1, size: int = 10_000) -> None:
        self.free = list(range(first, first + size))[::-1]

    def __call__(self) -> int:
        if not self.free:
            raise LookupError("the pool is empty")
        return self.free.pop()

    def give_back(self, slot: int) -> None:
        self.free.append(slot)


def network(text: str) -> IPv4Network:
    return IPv4Network(text)


def address(text: str) -> IPv4Address:
    return IPv4Address(text)


def rule(
    protocol: str = "tcp",
    first: int = 0,
    last: int = 65535,
    *,
    cidr: str | None = None,
    group: str | None = None,
    prefix_list: str | None = None,
) -> RuleResource:
    other = None if cidr is None else network(cidr)
    return RuleResource(Protocol(protocol), first, last, other, group, prefix_list)


def vpc(
    name: str = "customer",
    *,
    account: str = "shop",
    cidr: str = "10.0.0.0/16",
    subnets: Iterable[tuple[str, str]] = (("a", "10.0.1.0/24"), ("b", "10.0.2.0/24")),
    groups: Iterable[str | SecurityGroupResource] = ("app", "db"),
    services: Iterable[ServiceResource] = (),
) -> VpcResource:
    return VpcResource(
        name,
        network(cidr),
        account,
        subnets=tuple(SubnetResource(subnet, network(part)) for subnet, part in subnets),
        security_groups=tuple(
            SecurityGroupResource(group) if isinstance(group, str) else group for group in groups
        ),
        services=tuple(services),
    )


def interface(
    name: str, *addresses: str, vpc: str = "customer", subnet: str = "a"
) -> InterfaceResource:
    return InterfaceResource(name, vpc, subnet, tuple(map(address, addresses)))


def service(
    name: str, at: str, *, groups: tuple[str, ...] = (), kind: str = "http", port: int = 80
) -> ServiceResource:
    return ServiceResource(name, kind, address(at), port, security_groups=groups)


def function(
    name: str,
    networking: Networking = HYPERPLANE,
    *,
    account: str = "shop",
    vpc: str | None = "customer",
    subnets: tuple[str, ...] = ("a",),
    groups: tuple[str, ...] = ("app",),
    memory_mb: int = 128,
) -> FunctionResource:
    if networking is NONE:
        return FunctionResource(name, networking, account, memory_mb=memory_mb)
    return FunctionResource(name, networking, account, vpc, subnets, groups, memory_mb)


def lab(
    *functions: FunctionResource,
    vpcs: Iterable[VpcResource] | None = None,
    internet: Iterable[ServiceResource] = (),
    interfaces: Iterable[InterfaceResource] = (),
    environments: int = 0,
    accounts: Iterable[AccountResource] = (
        AccountResource("shop", "123456789012"),
        AccountResource("bank", "210987654321"),
    ),
) -> Resources:
    return Resources(
        tuple(accounts),
        (vpc(),) if vpcs is None else tuple(vpcs),
        tuple(internet),
        functions,
        tuple(interfaces),
        environments,
    )


class Scene:
    """A region on a clock of its own, with a pool, and shorthands for what tests look at."""

    def __init__(self, *functions: FunctionResource, **settings: Any) -> None:
        self.clock = Clock()
        self.slots = Slots()
        self.settings = LifecycleSettings(**settings)
        self.region = Region(**self.options())
        if functions:
            self.apply(lab(*functions))

    def options(self) -> dict[str, Any]:
        return {
            "clock": self.clock,
            "settings": self.settings,
            "take_slot": self.slots,
            "random_hex": seeded_hex(1),
        }

    def apply(self, wanted: Resources) -> tuple[PlanLine, ...]:
        return self.region.apply(self.region.plan(wanted))

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pass_seconds(seconds)
        self.region.advance()

    def active(self) -> None:
        """Until everything that was applied is there."""
        self.pass_seconds(self.settings.scaled(self.settings.interface_creation_seconds))

    def function(self, name: str) -> Function:
        found = self.region.tables.function(name)
        assert found is not None
        return found

    def interfaces(self) -> list[NetworkInterface]:
        return list(self.region.tables.interfaces.values())

    def interface(self) -> NetworkInterface:
        (interface,) = self.interfaces()
        return interface

    def statuses(self) -> list[str]:
        return [interface.status.value for interface in self.interfaces()]

    def run(self, name: str) -> Placement:
        """Begin an invocation and get its network ready."""
        placement = self.region.begin(name)
        if placement.cold:
            self.region.ready(placement.environment)
        return placement

    def reap(self) -> list[int]:
        """Take down what terminates, as the controller does."""
        gone = self.region.reaped()
        for slot in gone:
            self.region.removed(slot)
            self.slots.give_back(slot)
        return gone

    def take_down(self) -> None:
        """Take down all that is to be: environments, interfaces, numbers."""
        self.reap()
        for interface in self.region.deleting():
            self.region.interface_removed(interface)
        for number in self.region.retired_numbers():
            self.region.release_number(number)


def refusal(call: Callable[[], object]) -> str:
    """The error name with which a call is refused."""
    try:
        call()
    except ModelError as error:
        return error.code
    raise AssertionError("it was not refused")
