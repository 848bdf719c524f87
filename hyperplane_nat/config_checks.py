# SPDX-License-Identifier: Apache-2.0
"""What only the whole configuration shows: names, networks and addresses that must fit together."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from hyperplane_nat.config_nat import timeouts_ms
from hyperplane_nat.config_values import DURATION_MAX_MILLISECONDS, FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config import Config
    from hyperplane_nat.config_resources import InternetHost, Service, Subnet, Vpc


def check(config: Config) -> None:
    """Raise FieldError for the first thing that does not fit."""
    _check_durations(config)
    _check_vpcs(config)
    _check_interfaces(config)


def suggestion(unknown: str, known: list[str]) -> str:
    """The remedy for an unknown name: the known one that is most like it, or all."""
    close = difflib.get_close_matches(unknown, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def _check_durations(config: Config) -> None:
    longest = max(timeouts_ms(config.timeouts, config.ports).values())
    if longest > DURATION_MAX_MILLISECONDS:
        raise FieldError(
            "timeouts.time_scale",
            f"{config.timeouts.time_scale:g} makes the longest timeout {longest / 1000:.0f} "
            f"seconds, above {DURATION_MAX_MILLISECONDS // 1000}",
            "raise it or shorten the timeouts",
        )


def check_unique(names: Iterable[str], location: str, what: str) -> None:
    """Raise FieldError for a name that is there twice; `what` is the plural of what they name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise FieldError(location, f"{count} {what} are called {name!r}", "rename all but one")


def _check_vpcs(config: Config) -> None:
    check_unique((vpc.name for vpc in config.vpc), "vpc.name", "VPCs")
    check_unique(
        (subnet.name for vpc in config.vpc for subnet in vpc.subnet), "vpc.subnet.name", "subnets"
    )
    inside = config.environment.interface.network
    for number, vpc in enumerate(config.vpc):
        if vpc.network.overlaps(inside):
            raise FieldError(
                f"vpc[{number}].cidr",
                f"{vpc.cidr} overlaps the environments' own network, {inside}",
                "move either",
            )
        _check_subnets(vpc, f"vpc[{number}].subnet")
        _check_services(vpc, f"vpc[{number}].service")


def _check_subnets(vpc: Vpc, location: str) -> None:
    for number, subnet in enumerate(vpc.subnet):
        if not subnet.network.subnet_of(vpc.network):
            raise FieldError(
                f"{location}[{number}].cidr",
                f"{subnet.cidr} is outside VPC {vpc.name!r}, {vpc.cidr}",
                "choose a network inside it",
            )
        for other in vpc.subnet[:number]:
            if subnet.network.overlaps(other.network):
                raise FieldError(
                    f"{location}[{number}].cidr",
                    f"{subnet.cidr} overlaps subnet {other.name!r}, {other.cidr}",
                    "give each subnet of a VPC a network of its own",
                )


def _check_host(location: str, address: str, subnets: Iterable[Subnet], where: str) -> None:
    parsed = IPv4Address(address)
    for subnet in subnets:
        if parsed in subnet.network:
            break
    else:
        raise FieldError(location, f"{address} is outside {where}", "choose an address inside")
    if subnet.reserved(parsed):
        raise FieldError(
            location,
            f"{address} is one of the five reserved addresses of {subnet.cidr}",
            f"choose one from {subnet.network.network_address + 4} to "
            f"{subnet.network.broadcast_address - 1}",
        )


def _check_services(vpc: Vpc, location: str) -> None:
    check_unique((service.name for service in vpc.service), f"{location}.name", "services")
    for number, service in enumerate(vpc.service):
        _check_host(
            f"{location}[{number}].address",
            service.address,
            vpc.subnet,
            f"every subnet of VPC {vpc.name!r}",
        )
    check_ports(vpc.service, location)


def check_ports(servers: Sequence[Service | InternetHost], location: str) -> None:
    """Raise FieldError if two servers listen on the same address and port of a protocol."""
    for number, server in enumerate(servers):
        for other in servers[:number]:
            if (server.address, server.port, server.transport) == (
                other.address,
                other.port,
                other.transport,
            ):
                raise FieldError(
                    f"{location}[{number}].port",
                    f"service {other.name!r} already listens on {server.address}:{server.port}",
                    "choose another port or address",
                )


def _check_interfaces(config: Config) -> None:
    interfaces = config.network_interface
    check_unique(
        (interface.name for interface in interfaces), "network_interface.name", "network interfaces"
    )
    taken = {
        (vpc.name, service.address): f"service {service.name!r}"
        for vpc in config.vpc
        for service in vpc.service
    }
    for number, interface in enumerate(interfaces):
        location = f"network_interface[{number}]"
        try:
            vpc, subnet = config.place(interface)
        except KeyError:
            known = sorted(subnet.name for vpc in config.vpc for subnet in vpc.subnet)
            raise FieldError(
                f"{location}.subnet",
                f"there is no subnet {interface.subnet!r}",
                suggestion(interface.subnet, known),
            ) from None
        for place, address in enumerate(interface.addresses):
            field = f"secondary_addresses[{place - 1}]" if place else "address"
            where = f"subnet {subnet.name!r}, {subnet.cidr}"
            _check_host(f"{location}.{field}", address, [subnet], where)
            if owner := taken.get((vpc.name, address)):
                raise FieldError(
                    f"{location}.{field}",
                    f"{address} is the address of {owner} too",
                    "choose another one",
                )
            taken[vpc.name, address] = f"network interface {interface.name!r}"
