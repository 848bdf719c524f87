# SPDX-License-Identifier: Apache-2.0
"""References between accounts, VPCs, security groups, the internet and functions."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from hyperplane_nat.config.checks import places, repeated, shared_ports, unknown
from hyperplane_nat.config.functions import Function
from hyperplane_nat.config.resources import INTERNET, Vpc
from hyperplane_nat.config.values import FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config.whole import Whole

PUBLIC = (IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.0/24"))
"""TEST-NET-2 and TEST-NET-3 of RFC 5737."""


def problems(config: Whole) -> Iterator[FieldError]:
    """What does not fit."""
    yield from _environments(config)
    yield from _accounts(config)
    for number, vpc in enumerate(config.vpc):
        yield from _groups(vpc, f"vpc[{number}]")
    yield from _internet(config)
    yield from _functions(config)


def _environments(config: Whole) -> Iterator[FieldError]:
    environments = config.lab.environments
    if environments and not config.network_interface:
        yield FieldError(
            "lab.environments",
            f"{environments} environments have no network interface to share",
            "add a [[network_interface]]"
            + (", or set it to 0: functions bring their own" if config.function else ""),
        )
    # A slot's number has 14 bits, and 0 is not used.
    if config.pool.size and environments + config.pool.size > 2**14 - 1:
        yield FieldError(
            "pool.size",
            f"with lab.environments, {environments}, it makes more than {2**14 - 1} environments",
            f"make it {2**14 - 1 - environments} or less",
        )


def _twice(names: list[str], location: str) -> Iterator[FieldError]:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield FieldError(f"{location}[{number}]", f"{name!r} is named twice", "name it once")


def _accounts(config: Whole) -> Iterator[FieldError]:
    names = [account.name for account in config.account]
    ids = [account.id for account in config.account]
    yield from repeated(places(config.account, "account"), "accounts")
    for number, account in enumerate(config.account):
        for other in config.account[:number]:
            if account.id is not None and account.id == other.id:
                yield FieldError(
                    f"account[{number}].id",
                    f"{account.id} is the id of account {other.name!r} too",
                    "give each account an id of its own",
                )
    owners = [(f"vpc[{number}]", vpc.account) for number, vpc in enumerate(config.vpc)]
    owners += [(f"function[{number}]", item.account) for number, item in enumerate(config.function)]
    for location, owner in owners:
        if owner is not None and owner not in ids:
            yield from unknown(owner, names, f"{location}.account", "account")


def _groups(vpc: Vpc, location: str) -> Iterator[FieldError]:
    names = [group.name for group in vpc.security_group]
    listed = places(vpc.security_group, f"{location}.security_group")
    yield from repeated(listed, "security groups")
    what = f"security group of VPC {vpc.name!r} called"
    for number, group in enumerate(vpc.security_group):
        for direction, rules in (("ingress", group.ingress), ("egress", group.egress)):
            for place, rule in enumerate(rules):
                if rule.group is not None:
                    where = f"{location}.security_group[{number}].{direction}[{place}].group"
                    yield from unknown(rule.group, names, where, what)
    for number, host in enumerate(vpc.host):
        where = f"{location}.host[{number}].security_groups"
        for place, name in enumerate(host.security_groups):
            yield from unknown(name, names, f"{where}[{place}]", what)
        yield from _twice(host.security_groups, where)
    for number, service in enumerate(vpc.service):
        where = f"{location}.service[{number}].security_groups"
        for place, name in enumerate(service.security_groups):
            yield from unknown(name, names, f"{where}[{place}]", what)
        yield from _twice(service.security_groups, where)
        for other in vpc.service[:number]:
            # Groups belong to the network interface, and so to the address.
            if service.place == other.place and set(service.security_groups) != set(
                other.security_groups
            ):
                yield FieldError(
                    where,
                    f"service {other.name!r} has the same address but other groups",
                    "give both the same groups, or each an address",
                )


def _internet(config: Whole) -> Iterator[FieldError]:
    yield from repeated(places(config.internet, "internet"), "internet hosts")
    inside = config.environment.interface.network
    for number, host in enumerate(config.internet):
        location = f"internet[{number}]"
        address = IPv4Address(host.address)
        if (problem := public_problem(address)) is not None:
            yield FieldError(f"{location}.address", *problem)
        if address in inside:
            yield FieldError(
                f"{location}.address",
                f"{address} is in the environments' own network, {inside}",
                "move either",
            )
    yield from shared_ports(config.internet, "internet")
    for number, vpc in enumerate(config.vpc):
        used = config.internet or config.function or vpc.internet_gateway
        if vpc.name == INTERNET and used:
            yield FieldError(
                f"vpc[{number}].name",
                f"{INTERNET!r} is the network of the internet's hosts",
                "choose another name",
            )


def public_problem(address: IPv4Address) -> tuple[str, str] | None:
    """Why it cannot be an address of the internet, and what to do."""
    network = next((network for network in PUBLIC if address in network), None)
    if network is None:
        networks = " or ".join(str(network) for network in PUBLIC)
        return f"{address} is not one of the lab's public addresses", f"choose one from {networks}"
    if address in (network.network_address, network.broadcast_address):
        what = f"{address} is the network or broadcast address of {network}"
        return what, "choose a host address"
    return None


def _functions(config: Whole) -> Iterator[FieldError]:
    yield from repeated(places(config.function, "function"), "functions")
    for number, function in enumerate(config.function):
        if function.networking != "none":
            yield from _function_in_vpc(config, function, f"function[{number}]")


def _function_in_vpc(config: Whole, function: Function, location: str) -> Iterator[FieldError]:
    home = {subnet.name: vpc for vpc in config.vpc for subnet in vpc.subnet}
    vpcs = [vpc.name for vpc in config.vpc]
    if function.vpc is not None:
        yield from unknown(function.vpc, vpcs, f"{location}.vpc", "VPC")
    known = [home[name] for name in function.subnets if name in home]
    expected = function.vpc if function.vpc in vpcs else known[0].name if known else None
    for place, name in enumerate(function.subnets):
        where = f"{location}.subnets[{place}]"
        yield from unknown(name, home, where, "subnet")
        if name in home and home[name].name != expected:
            yield FieldError(
                where,
                f"subnet {name!r} is in VPC {home[name].name!r}, the function in {expected!r}",
                "choose subnets of one VPC",
            )
    yield from _twice(function.subnets, f"{location}.subnets")
    yield from _twice(function.security_groups, f"{location}.security_groups")
    vpc = next((vpc for vpc in config.vpc if vpc.name == expected), None)
    if vpc is None:
        # Whose groups and whose account are meant is not known either.
        return
    names = [group.name for group in vpc.security_group]
    for place, name in enumerate(function.security_groups):
        where = f"{location}.security_groups[{place}]"
        elsewhere = [
            other.name
            for other in config.vpc
            if any(group.name == name for group in other.security_group)
        ]
        if name not in names and elsewhere:
            yield FieldError(
                where,
                f"security group {name!r} is of VPC {elsewhere[0]!r}, the function in {vpc.name!r}",
                "choose groups of the function's VPC",
            )
        else:
            yield from unknown(name, names, where, f"security group of VPC {vpc.name!r} called")
    try:
        owner, own = config.account_of(vpc), config.account_of(function)
    except KeyError:
        return
    if own != owner:
        yield FieldError(
            f"{location}.account",
            f"VPC {vpc.name!r} belongs to account {owner!r}, not {function.account!r}",
            "a function and its VPC have the same account",
        )
