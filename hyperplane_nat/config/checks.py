# SPDX-License-Identifier: Apache-2.0
"""What only the whole configuration shows: names, networks and addresses that must fit together."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol

from hyperplane_nat.config.nat import timeouts_ms
from hyperplane_nat.config.values import DURATION_MAX_MILLISECONDS, FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config.resources import InternetHost, Service, Subnet, Vpc
    from hyperplane_nat.config.whole import Whole


class Named(Protocol):
    """A section that has a name."""

    @property
    def name(self) -> str:
        """It."""


def problems(config: Whole) -> Iterator[FieldError]:
    """What does not fit."""
    yield from _durations(config)
    yield from _vpcs(config)
    yield from _interfaces(config)


def suggestion(unknown: str, known: list[str]) -> str:
    """The remedy for an unknown name: the known one that is most like it, or all."""
    close = difflib.get_close_matches(unknown, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def unknown(
    name: str, known: Iterable[str], location: str, what: str, vpc: Vpc | None = None
) -> Iterator[FieldError]:
    """A name at that location that is none of the `known`, which are those of a VPC or the file."""
    names = sorted(known)
    if name not in names:
        where = "" if vpc is None else f" in VPC {vpc.name!r}"
        remedy = suggestion(name, names) if names else "add it"
        yield FieldError(location, f"there is no {what} {name!r}{where}", remedy)


def _durations(config: Whole) -> Iterator[FieldError]:
    longest = max(timeouts_ms(config.timeouts, config.ports).values())
    if longest > DURATION_MAX_MILLISECONDS:
        yield FieldError(
            "timeouts.time_scale",
            f"{config.timeouts.time_scale:g} makes the longest timeout {longest / 1000:.0f} "
            f"seconds, above {DURATION_MAX_MILLISECONDS // 1000}",
            "raise it or shorten the timeouts",
        )


def repeated(names: Iterable[tuple[str, str]], what: str) -> Iterator[FieldError]:
    """Names that are there before, of pairs of a name and its location; `what` is the plural of
    what they name.
    """
    pairs = list(names)
    counts = Counter(name for name, _ in pairs)
    seen: set[str] = set()
    for name, location in pairs:
        if name in seen:
            text = f"{counts[name]} {what} are called {name!r}"
            yield FieldError(location, text, "rename all but one")
        seen.add(name)


def places(items: Sequence[Named], location: str) -> list[tuple[str, str]]:
    """The names of a list of sections, each with its location."""
    return [(item.name, f"{location}[{number}].name") for number, item in enumerate(items)]


def _vpcs(config: Whole) -> Iterator[FieldError]:
    yield from repeated(places(config.vpc, "vpc"), "VPCs")
    subnets = [
        place
        for number, vpc in enumerate(config.vpc)
        for place in places(vpc.subnet, f"vpc[{number}].subnet")
    ]
    yield from repeated(subnets, "subnets")
    inside = config.environment.interface.network
    for number, vpc in enumerate(config.vpc):
        if vpc.network.overlaps(inside):
            yield FieldError(
                f"vpc[{number}].cidr",
                f"{vpc.cidr} overlaps the environments' own network, {inside}",
                "move either",
            )
        yield from _subnets(vpc, f"vpc[{number}].subnet")
        yield from _hosts(vpc, f"vpc[{number}].host")
        yield from _services(vpc, f"vpc[{number}].service")


def _subnets(vpc: Vpc, location: str) -> Iterator[FieldError]:
    for number, subnet in enumerate(vpc.subnet):
        if not subnet.network.subnet_of(vpc.network):
            yield FieldError(
                f"{location}[{number}].cidr",
                f"{subnet.cidr} is outside VPC {vpc.name!r}, {vpc.cidr}",
                "choose a network inside it",
            )
        for other in vpc.subnet[:number]:
            if subnet.network.overlaps(other.network):
                yield FieldError(
                    f"{location}[{number}].cidr",
                    f"{subnet.cidr} overlaps subnet {other.name!r}, {other.cidr}",
                    "give each subnet of a VPC a network of its own",
                )


def _host(
    location: str, address: str, subnets: Iterable[Subnet], where: str
) -> Iterator[FieldError]:
    parsed = IPv4Address(address)
    subnet = next((subnet for subnet in subnets if parsed in subnet.network), None)
    if subnet is None:
        yield FieldError(location, f"{address} is outside {where}", "choose an address inside")
    elif subnet.reserved(parsed):
        yield FieldError(
            location,
            f"{address} is one of the five reserved addresses of {subnet.cidr}",
            f"choose one from {subnet.network.network_address + 4} to "
            f"{subnet.network.broadcast_address - 1}",
        )


def _hosts(vpc: Vpc, location: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.host, location), "hosts")
    subnets = {subnet.name: subnet for subnet in vpc.subnet}
    taken = {service.address: f"service {service.name!r}" for service in vpc.service}
    for number, host in enumerate(vpc.host):
        yield from unknown(host.subnet, subnets, f"{location}[{number}].subnet", "subnet", vpc)
        if host.subnet not in subnets or host.address is None:
            continue
        subnet, where = subnets[host.subnet], f"{location}[{number}].address"
        yield from _host(where, host.address, [subnet], f"subnet {subnet.name!r}, {subnet.network}")
        if owner := taken.get(host.address):
            yield FieldError(
                where, f"{host.address} is the address of {owner} too", "choose another one"
            )
        taken[host.address] = f"host {host.name!r}"


def _services(vpc: Vpc, location: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.service, location), "services")
    hosts = [host.name for host in vpc.host]
    for number, service in enumerate(vpc.service):
        if service.host is not None:
            yield from unknown(service.host, hosts, f"{location}[{number}].host", "host", vpc)
        if service.address is None:
            continue
        yield from _host(
            f"{location}[{number}].address",
            service.address,
            vpc.subnet,
            f"every subnet of VPC {vpc.name!r}",
        )
    yield from shared_ports(vpc.service, location)


def shared_ports(servers: Sequence[Service | InternetHost], location: str) -> Iterator[FieldError]:
    """Servers that listen on the same address and port of a protocol as one before them."""
    listening: dict[tuple[str, int, str], str] = {}
    for number, server in enumerate(servers):
        endpoint = (server.place, server.port, server.transport)
        if endpoint in listening:
            yield FieldError(
                f"{location}[{number}].port",
                f"service {listening[endpoint]!r} already listens on {server.place}:{server.port}",
                "choose another port or address",
            )
        listening.setdefault(endpoint, server.name)


def _interfaces(config: Whole) -> Iterator[FieldError]:
    interfaces = config.network_interface
    yield from repeated(places(interfaces, "network_interface"), "network interfaces")
    taken = {
        (vpc.name, service.address): f"service {service.name!r}"
        for vpc in config.vpc
        for service in vpc.service
        if service.address is not None
    }
    taken |= {
        (vpc.name, host.address): f"host {host.name!r}"
        for vpc in config.vpc
        for host in vpc.host
        if host.address is not None
    }
    for number, interface in enumerate(interfaces):
        location = f"network_interface[{number}]"
        try:
            vpc, subnet = config.place(interface)
        except KeyError:
            known = sorted(subnet.name for vpc in config.vpc for subnet in vpc.subnet)
            yield FieldError(
                f"{location}.subnet",
                f"there is no subnet {interface.subnet!r}",
                suggestion(interface.subnet, known),
            )
            continue
        for place, address in enumerate(interface.addresses):
            field = f"secondary_addresses[{place - 1}]" if place else "address"
            where = f"subnet {subnet.name!r}, {subnet.cidr}"
            yield from _host(f"{location}.{field}", address, [subnet], where)
            if owner := taken.get((vpc.name, address)):
                yield FieldError(
                    f"{location}.{field}",
                    f"{address} is the address of {owner} too",
                    "choose another one",
                )
            taken[vpc.name, address] = f"network interface {interface.name!r}"
