# SPDX-License-Identifier: Apache-2.0
"""What of a lab stands, read back from the kernel, so that a controller can adopt or mend it.

A part is *in order* when everything the lab gave it is there: both ends of its link, tied to each
other, up and of one size; ingress dropped in the gateway; in an environment one address and a
default route; for a network interface one host route in its VPC. Whether that is also what is
wanted is for the caller to compare.

Everything else that carries a name of the lab is listed as broken, under the name by which it is
removed: environments by `remove_environments`, hosts by `remove_hosts`, VPCs by `remove_vpc`, links
by `remove_interfaces`.
The punt link is no part here: whoever wants it makes it (`punt`). After that the lab has nothing
broken. Without a gateway nothing can be mended, only destroyed.

What is inside an environment belongs to whoever uses it. One whose link is whole, but which has
changed what the lab gave it inside, is *altered* and not broken: the gateway serves it all the
same. Of a host the link is all that is asked for. What others have added, links in the gateway and
routes in a VPC, is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from netns import ingress, links, namespace
from netns.environments import namespaces
from netns.interior import route_socket
from netns.names import (
    ENVIRONMENT_LINK,
    PUNT_LINK,
    environment_namespace,
    gateway_namespace,
    host_link,
    host_namespace,
    host_number,
    is_vpc_name,
    slot_link,
    slot_number,
    vpc_namespace,
)
from netns.netlink import RouteSocket
from netns.spec import HOSTS_MAX, SLOTS_MAX, Host, Interface, Slot, hardware_address


@dataclass(frozen=True, slots=True)
class StandingEnvironment:
    """An environment in order."""

    slot: Slot
    address: str
    """Of eth0, with the prefix length."""
    gateway: str
    """Of the default route."""
    mtu: int
    """Bytes of IP packet, both ends."""


@dataclass(frozen=True, slots=True)
class AlteredEnvironment:
    """An environment with a link that is whole, and something else inside than it was given."""

    slot: Slot
    mtu: int
    """Bytes of IP packet, the gateway's end."""


@dataclass(frozen=True, slots=True)
class StandingHost:
    """A host with a link that is whole."""

    host: Host
    mtu: int
    """Bytes of IP packet, the gateway's end."""


@dataclass(frozen=True, slots=True)
class StandingInterface:
    """A network interface in order."""

    interface: Interface
    addresses: frozenset[str]
    """For which the VPC has host routes."""
    mtu: int
    """Bytes of IP packet, both ends."""


@dataclass(frozen=True, slots=True)
class StandingVpc:
    """A VPC in order."""

    name: str
    addresses: frozenset[str]
    """Of services and routers."""
    interfaces: tuple[StandingInterface, ...]
    """Those in order, by name."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Half-made, damaged or foreign parts."""

    environments: tuple[int, ...] = ()
    vpcs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    """Links of the lab in the gateway that are no slot, no host's and no network interface in
    order."""
    namespaces: tuple[str, ...] = ()
    """Namespaces named like parts of the lab that no part can be; only `destroy` removes them."""
    foreign_links: tuple[str, ...] = ()
    """Links in the gateway that the lab has not made; only `destroy` removes them."""
    hosts: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        mine = self.environments or self.hosts or self.vpcs or self.links
        return bool(mine or self.namespaces or self.foreign_links)


@dataclass(frozen=True, slots=True)
class Survey:
    """A lab as it stands."""

    gateway: str | None
    """Name of the gateway namespace; None when there is none to work with."""
    environments: tuple[StandingEnvironment, ...] = ()
    """By number."""
    vpcs: tuple[StandingVpc, ...] = ()
    """By name."""
    altered: tuple[AlteredEnvironment, ...] = ()
    """By number."""
    hosts: tuple[StandingHost, ...] = ()
    """By number."""
    broken: Broken = field(default_factory=Broken)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots in order, by number."""
        return tuple(each.slot for each in self.environments)

    @property
    def served(self) -> dict[int, tuple[Slot, int]]:
        """Every environment with a link that is whole, by number: its slot, and its MTU in bytes of
        IP packet at the gateway's end.
        """
        result = {each.slot.number: (each.slot, each.mtu) for each in self.environments}
        return result | {each.slot.number: (each.slot, each.mtu) for each in self.altered}

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The network interfaces in order, by VPC and name."""
        return tuple(each.interface for vpc in self.vpcs for each in vpc.interfaces)


@dataclass(frozen=True, slots=True)
class _Inside:
    """What an environment has inside."""

    links: tuple[links.Link, ...]
    address: str | None
    """Of eth0; None unless it has exactly one."""
    gateway: str | None
    """Of the default route through eth0; None unless there is exactly one."""


def strays(lab: str) -> list[str]:
    """All namespaces of the lab, half-made ones included; other labs' never."""
    prefix = gateway_namespace(lab).removesuffix("gw")
    pattern = re.compile(re.escape(prefix) + r"(gw|punt|vpc-.+|host-[0-9]+|env-[0-9]+)")
    return [name for name in namespace.names(prefix) if pattern.fullmatch(name)]


def survey(lab: str) -> Survey:
    """What stands of a lab; costs about a millisecond per environment.

    Raises `NetnsError` for an impossible lab name, a missing privilege, or when namespaces
    vanish meanwhile.
    """
    gateway = gateway_namespace(lab)
    prefix = gateway.removesuffix("gw")
    parts = [name.removeprefix(prefix) for name in strays(lab)]
    numbers = sorted(
        number
        for part in parts
        if part.startswith("env-")
        and part == f"env-{(number := int(part.removeprefix('env-')))}"
        and 1 <= number <= SLOTS_MAX
    )
    vpcs = sorted(
        name
        for part in parts
        if part.startswith("vpc-") and is_vpc_name(name := part.removeprefix("vpc-"))
    )
    there = set(parts)
    hosts = [number for number in range(1, HOSTS_MAX) if f"host-{number}" in there]
    known = {"gw", "punt", *(f"env-{number}" for number in numbers)}
    known |= {*(f"vpc-{name}" for name in vpcs), *(f"host-{number}" for number in hosts)}
    foreign = tuple(prefix + part for part in parts if part not in known)
    if "gw" not in parts or not namespace.is_complete(gateway):
        broken = Broken(tuple(numbers), tuple(vpcs), (), foreign, hosts=tuple(hosts))
        return Survey(None, broken=broken)
    return namespace.run_in_thread(lambda: _survey(lab, numbers, hosts, vpcs, foreign))


def _survey(
    lab: str,
    numbers: Sequence[int],
    hosts: Sequence[int],
    vpcs: Sequence[str],
    foreign: tuple[str, ...],
) -> Survey:
    with route_socket(gateway_namespace(lab)) as route:
        near = {name: link for name, link in links.links(route).items() if name != "lo"}
        open_ = set(ingress.missing(route, [link.index for link in near.values()]))
    sound = {
        name: link
        for name, link in near.items()
        if link.group == links.GROUP and link.index not in open_
    }
    environments, altered = _environments(lab, numbers, sound)
    reached = _hosts(lab, hosts, sound)
    standing = [found for vpc in vpcs if (found := _vpc(lab, vpc, sound)) is not None]
    whole = {each.slot.number for each in environments}
    whole |= {each.slot.number for each in altered}
    used = {slot_link(number) for number in whole}
    used |= {host_link(each.host.number) for each in reached}
    used |= {each.interface.name for vpc in standing for each in vpc.interfaces}
    left = near.keys() - used - {PUNT_LINK}
    slots_left = {
        number
        for name in left
        if (number := slot_number(name)) and slot_link(number) == name and number <= SLOTS_MAX
    }
    hosts_left = {number for name in left if (number := host_number(name)) and number < HOSTS_MAX}
    rest = left - {slot_link(number) for number in slots_left}
    rest -= {host_link(number) for number in hosts_left}
    mine = {name for name in rest if near[name].group == links.GROUP}
    return Survey(
        gateway=gateway_namespace(lab),
        environments=tuple(environments),
        vpcs=tuple(standing),
        broken=Broken(
            environments=tuple(sorted((set(numbers) | slots_left) - whole)),
            hosts=tuple(sorted((set(hosts) | hosts_left) - {each.host.number for each in reached})),
            vpcs=tuple(sorted(set(vpcs) - {each.name for each in standing})),
            links=tuple(sorted(mine)),
            namespaces=foreign,
            foreign_links=tuple(sorted(rest - mine)),
        ),
        altered=tuple(altered),
        hosts=tuple(reached),
    )


def _hosts(lab: str, numbers: Sequence[int], near: dict[str, links.Link]) -> list[StandingHost]:
    names = {number: host_namespace(lab, number) for number in numbers}
    whole = [number for number in numbers if namespace.is_complete(names[number])]
    insides = namespace.call_each([names[number] for number in whole], _read_inside)
    standing = []
    for number, inside in zip(whole, insides, strict=True):
        mine = near.get(host_link(number))
        if mine is None or not mine.up or not any(_peers(mine, link) for link in inside.links):
            continue
        host = Host(number, mine.index, hardware_address(lab, "host", str(number)), mine.mac)
        standing.append(StandingHost(host, mine.mtu))
    return standing


def _environments(
    lab: str, numbers: Sequence[int], near: dict[str, links.Link]
) -> tuple[list[StandingEnvironment], list[AlteredEnvironment]]:
    whole = [n for n in numbers if namespace.is_complete(environment_namespace(lab, n))]
    standing, altered = [], []
    insides = namespace.call_each(namespaces(lab, whole), _read_inside)
    for number, inside in zip(whole, insides, strict=True):
        mine = near.get(slot_link(number))
        if mine is None or not mine.up:
            continue
        peer = next((link for link in inside.links if _peers(mine, link)), None)
        if peer is None:
            continue
        # As it was made: its user may have given it another one since.
        mac = hardware_address(lab, "environment", str(number))
        slot = Slot(number, mine.index, environment_namespace(lab, number), mac, mine.mac)
        in_order = peer.name == ENVIRONMENT_LINK and peer.mac == mac and _tied(mine, peer)
        if in_order and inside.address is not None and inside.gateway is not None:
            standing.append(StandingEnvironment(slot, inside.address, inside.gateway, mine.mtu))
        else:
            altered.append(AlteredEnvironment(slot, mine.mtu))
    return standing, altered


def _read_inside(_name: str) -> _Inside:
    """What the environment has that the calling thread is in."""
    with RouteSocket() as inside:
        found = links.links(inside)
        index = found[ENVIRONMENT_LINK].index if ENVIRONMENT_LINK in found else None
        addresses = [value for each, value in links.addresses(inside) if each == index]
        gateways = [
            each.gateway
            for each in links.routes(inside)
            if each.destination == "0.0.0.0/0" and each.index == index
        ]
    return _Inside(
        tuple(found.values()),
        addresses[0] if len(addresses) == 1 else None,
        gateways[0] if len(gateways) == 1 else None,
    )


def _vpc(lab: str, name: str, near: dict[str, links.Link]) -> StandingVpc | None:
    """The VPC with its interfaces in order; None when it is half-made."""
    where = vpc_namespace(lab, name)
    if not namespace.is_complete(where):
        return None
    with route_socket(where) as inside:
        far = links.links(inside)
        addresses = {value for _, value in links.addresses(inside)} - {"127.0.0.1/8"}
        routes = links.routes(inside)
    if not far["lo"].up:
        return None
    destinations: dict[int, list[str]] = {}
    for route in routes:
        destinations.setdefault(route.index, []).append(route.destination)
    interfaces = []
    for peer in sorted(far.values(), key=lambda link: link.name):
        mine, reached = near.get(peer.name), destinations.get(peer.index, [])
        hosts = frozenset(each.removesuffix("/32") for each in reached if each.endswith("/32"))
        if mine is None or not _tied(mine, peer) or not hosts:
            continue
        interface = Interface(peer.name, name, mine.index, mine.mac, peer.mac)
        interfaces.append(StandingInterface(interface, hosts, mine.mtu))
    return StandingVpc(
        name, frozenset(each.removesuffix("/32") for each in addresses), tuple(interfaces)
    )


def _peers(near: links.Link, far: links.Link) -> bool:
    """Whether two links are the two ends of one pair."""
    return near.peer_index == far.index and far.peer_index == near.index


def _tied(near: links.Link, far: links.Link) -> bool:
    """Whether two links are the two ends of one pair, up and of one size."""
    return _peers(near, far) and near.up and far.up and near.mtu == far.mtu
