# SPDX-License-Identifier: Apache-2.0
"""What a lab is to consist of, and what it does consist of.

A part made again under its old name gets its old hardware address.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netns import links
from netns.errors import NetnsError
from netns.names import PUNT_LINK, gateway_namespace, host_number, slot_number, vpc_namespace

SLOTS_MAX = 16384
HOSTS_MAX = 16384


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """A network interface of the gateway in a VPC."""

    name: str
    """Its name as a link, in the gateway and in the VPC; at most 15 characters."""
    address: str
    """IPv4 address for which the VPC gets a host route."""
    secondary: tuple[str, ...] = ()
    """Further addresses that are reached over the same link."""
    networks: tuple[str, ...] = ()
    """Networks, in CIDR notation, that are behind `address`, the next hop to them."""

    @property
    def addresses(self) -> frozenset[str]:
        """All of them."""
        return frozenset((self.address, *self.secondary))


@dataclass(frozen=True, slots=True)
class VpcSpec:
    """A customer's VPC."""

    name: str
    mtu: int
    """Bytes of IP packet on the links to the gateway."""
    addresses: tuple[str, ...]
    """Addresses that exist in the VPC: services and subnet routers."""
    interfaces: tuple[InterfaceSpec, ...]


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host of a VPC."""

    number: int
    address: str
    """IPv4 address of eth0, a /32."""
    router: str
    """IPv4 address of its next hop for everything."""
    mtu: int
    """Bytes of IP packet on eth0."""
    attached: str = ""
    """File of a network namespace that there is and that becomes the host; empty: one is made."""


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What a lab is to consist of."""

    lab: str
    """1 to 15 lower-case letters, digits and hyphens; no component `vpc` after the first."""
    environments: int
    """How many; they are numbered from 1."""
    inside_address: str
    """IPv4 address of eth0, the same in every environment."""
    inside_prefix_length: int
    inside_gateway: str
    """The environments' default gateway."""
    environment_mtu: int
    """Bytes of IP packet on eth0."""
    vpcs: tuple[VpcSpec, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """The gateway's end of one environment's link."""

    number: int
    ifindex: int
    """In the gateway namespace."""
    namespace: str
    environment_mac: str
    gateway_mac: str


@dataclass(frozen=True, slots=True)
class Host:
    """The gateway's end of one host's link."""

    number: int
    ifindex: int
    """In the gateway namespace."""
    host_mac: str
    gateway_mac: str


@dataclass(frozen=True, slots=True)
class Interface:
    """The gateway's end of one network interface's link."""

    name: str
    vpc: str
    """Name of the VPC as in its spec."""
    ifindex: int
    """In the gateway namespace."""
    mac: str
    peer_mac: str
    """Of the VPC's end."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab as it stands."""

    gateway: str
    """Name of the gateway namespace."""
    slots: tuple[Slot, ...]
    """By number."""
    interfaces: tuple[Interface, ...]
    """In the order of the spec."""


def check(spec: LabSpec) -> None:
    """Raise `NetnsError` for a spec that cannot be built; needs no privilege."""
    gateway_namespace(spec.lab)
    if not 0 <= spec.environments <= SLOTS_MAX:
        raise NetnsError(
            f"{spec.environments} environments are asked for", f"0 to {SLOTS_MAX} are possible"
        )
    try:
        inside = ipaddress.IPv4Interface(f"{spec.inside_address}/{spec.inside_prefix_length}")
        gateway = ipaddress.IPv4Address(spec.inside_gateway)
    except ValueError as error:
        raise _not_dotted(error) from None
    if gateway not in inside.network or gateway == inside.ip:
        raise NetnsError(
            f"the inside gateway {gateway} is no neighbour of {inside}",
            f"choose another address of {inside.network}",
        )
    _check_mtu(spec.environment_mtu)
    for vpc in spec.vpcs:
        check_vpc(spec.lab, vpc)
    _check_distinct("VPC", [vpc.name for vpc in spec.vpcs])
    interfaces = [each.name for vpc in spec.vpcs for each in vpc.interfaces]
    _check_distinct("network interface", interfaces)


def check_vpc(lab: str, vpc: VpcSpec) -> None:
    """Raise `NetnsError` for a VPC that cannot be built; needs no privilege."""
    vpc_namespace(lab, vpc.name)
    check_addresses(vpc.addresses)
    check_interfaces(vpc.interfaces, vpc.mtu)


def check_interfaces(interfaces: Sequence[InterfaceSpec], mtu: int) -> None:
    """Raise `NetnsError` for network interfaces that cannot be built; needs no privilege."""
    for each in interfaces:
        links.check_name(each.name)
        check_not_reserved(each.name)
    _check_distinct("network interface", [each.name for each in interfaces])
    check_addresses(address for each in interfaces for address in each.addresses)
    try:
        for network in (network for each in interfaces for network in each.networks):
            ipaddress.IPv4Network(network)
    except ValueError as error:
        raise _not_dotted(error) from None
    _check_mtu(mtu)


def check_not_reserved(name: str) -> None:
    """Raise `NetnsError` for a link name that has another meaning in the gateway."""
    taken = name in ("lo", "all", "default", PUNT_LINK) or slot_number(name) is not None
    if taken or host_number(name) is not None:
        raise NetnsError(
            f"a network interface cannot be named {name!r}",
            "lo, all, default, env<n>, host.<n> and punt.0 have another meaning in the gateway",
        )


def check_host(host: HostSpec) -> None:
    """Raise `NetnsError` for a host that cannot be built; needs no privilege."""
    if not 1 <= host.number < HOSTS_MAX:
        raise NetnsError(f"host number {host.number} is impossible", f"1 to {HOSTS_MAX - 1}")
    check_addresses((host.address, host.router))
    _check_mtu(host.mtu)


def check_addresses(addresses: Iterable[str]) -> None:
    """Raise `NetnsError` unless all are IPv4 addresses."""
    try:
        for text in addresses:
            ipaddress.IPv4Address(text)
    except ValueError as error:
        raise _not_dotted(error) from None


def check_numbers(numbers: Sequence[int]) -> None:
    """Raise `NetnsError` for environment numbers that cannot be."""
    for number in numbers:
        if not 1 <= number <= SLOTS_MAX:
            raise NetnsError(f"environment number {number} is impossible", f"1 to {SLOTS_MAX}")


def _check_mtu(mtu: int) -> None:
    # 68: RFC 791, the least every link must carry. 65535: the longest IPv4 packet.
    if not 68 <= mtu <= 65535:
        raise NetnsError(f"an MTU of {mtu} bytes is impossible", "68 to 65535 is possible")


def _check_distinct(kind: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise NetnsError(f"two {kind}s are named {name!r}", "choose distinct names")


def _not_dotted(error: ValueError) -> NetnsError:
    return NetnsError(str(error), "IPv4 addresses in dotted notation are needed")


def hardware_address(lab: str, role: str, name: str) -> str:
    """A hardware address that looks random, yet is the same whenever the lab is built."""
    digest = bytearray(hashlib.blake2b(f"{lab}/{role}/{name}".encode(), digest_size=6).digest())
    # IEEE 802: locally administered, not a group.
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")
