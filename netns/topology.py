# SPDX-License-Identifier: Apache-2.0
"""A whole lab: one gateway, its environments, its VPCs and the links between them.

Theory of operation
-------------------
A lab is nothing but namespaces with well-known names: `hp-<lab>-gw`, `hp-<lab>-vpc-<vpc>` and
`hp-<lab>-env-<n>`; no file remembers it. `build` reserves the gateway's name first, which makes
it the one builder of that lab, and removes everything again when it fails. `destroy` goes by the
names alone, so it works after a crash at any point of `build` or of itself. `inspect` reads back
what a lab consists of and accepts it only when nothing is missing and nothing is left over.

Links. In the gateway each environment has a *slot*, a link named `env<n>` with no address; its
peer is `eth0` in the environment. Each network interface is a link of its own name, with its
peer of the same name in the VPC. There is no bridge: the VPC reaches an interface's address by
a host route over that link.

A VPC's service and router addresses are /32 on its loopback link. Linux answers ARP for any
address of its own on any link (arp_ignore 0), so that is where an address belongs that is to be
reached over all of them; it needs no dummy driver.

Everything runs in a helper thread, which changes namespace at will; the calling thread stays
where it is. Environments are made in chunks, because each needs two descriptors while in work.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from netns import ingress, links, namespace, sysctl
from netns.errors import NetnsError, from_errno
from netns.netlink import RouteSocket

ENVIRONMENT_LINK = "eth0"

_CHUNK = 64
_SLOTS_MAX = 16384
_LAB = re.compile(r"[a-z0-9][a-z0-9-]{0,14}")
_VPC = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SLOT_LINK = re.compile(r"env[0-9]+")

_NO_IPV6 = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}
_HOST = {
    **_NO_IPV6,
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/arp_ignore": "0",
    "ipv4/conf/default/arp_ignore": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
}
_GATEWAY_SETTINGS = {
    **_NO_IPV6,
    "ipv4/ip_forward": "0",
    # 8: do not reply for any local address.
    "ipv4/conf/all/arp_ignore": "8",
    "ipv4/conf/default/arp_ignore": "8",
}
_VPC_SETTINGS = {
    **_HOST,
    # A thousand environments connect in the same instant.
    "core/somaxconn": "65535",
    "ipv4/tcp_max_syn_backlog": "65535",
}
_ENVIRONMENT_SETTINGS = {
    **_HOST,
    # Unprivileged ping, as systemd allows it on the host.
    "ipv4/ping_group_range": "0 2147483647",
}
_NEIGHBOURS_BY_DEFAULT = 512
_NEIGHBOUR_LIMITS = Path("/proc/sys/net/ipv4/neigh/default")

Progress = Callable[[int, int], None]
"""Called as (environments done, environments in all), in the helper thread."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """A network interface of the gateway in a VPC."""

    name: str
    """Its name as a link, in the gateway and in the VPC; at most 15 characters."""
    address: str
    """IPv4 address for which the VPC gets a host route."""


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


def gateway_namespace(lab: str) -> str:
    """Name of the gateway's namespace; raises `NetnsError` for an impossible lab name."""
    # The lab "a-vpc-b" and the VPC "b-..." of the lab "a" would share names.
    if not _LAB.fullmatch(lab) or "-vpc-" in f"{lab}-":
        raise NetnsError(
            f"invalid lab name {lab!r}",
            "1 to 15 lower-case letters, digits and hyphens, the first no hyphen, without '-vpc'",
        )
    return f"hp-{lab}-gw"


def vpc_namespace(lab: str, vpc: str) -> str:
    """Name of a VPC's namespace; raises `NetnsError` for an impossible name."""
    if not _VPC.fullmatch(vpc):
        raise NetnsError(
            f"invalid VPC name {vpc!r}",
            "1 to 32 lower-case letters, digits and hyphens, the first no hyphen",
        )
    return f"{gateway_namespace(lab).removesuffix('gw')}vpc-{vpc}"


def environment_namespace(lab: str, number: int) -> str:
    """Name of an environment's namespace."""
    return f"{gateway_namespace(lab).removesuffix('gw')}env-{number}"


def slot_link(number: int) -> str:
    """Name of a slot's link in the gateway namespace."""
    return f"env{number}"


def build(spec: LabSpec, progress: Progress | None = None) -> Topology:
    """Make the whole lab; all or nothing.

    Raises `NetnsError` when the spec is impossible, a privilege is missing, or anything of the
    lab is there already; and passes on what `progress` raises. In every case but the last
    nothing of the lab is left; the last leaves things as they were.
    """
    check(spec)
    if found := strays(spec.lab):
        raise NetnsError(
            f"lab {spec.lab} is there already: namespace {found[0]}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
            "destroy it first, or choose another lab name",
        )
    _raise_neighbour_limits(spec.environments)
    built: list[Topology] = []

    def work() -> Topology:
        built.append(_build(spec, progress or _silent))
        return built[0]

    try:
        return namespace.run_in_thread(work)
    except BaseException:
        # Interrupted while waiting: the lab was completed all the same, yet nobody gets it.
        if built:
            destroy(spec.lab)
        raise


def inspect(spec: LabSpec) -> Topology | None:
    """The lab as it stands, to be adopted; None unless it is exactly what the spec asks for."""
    check(spec)
    wanted = {gateway_namespace(spec.lab)}
    wanted.update(vpc_namespace(spec.lab, vpc.name) for vpc in spec.vpcs)
    wanted.update(_environments(spec.lab, range(1, spec.environments + 1)))
    if set(strays(spec.lab)) != wanted or not all(map(namespace.is_complete, wanted)):
        return None
    return namespace.run_in_thread(lambda: _inspect(spec))


def destroy(lab: str) -> None:
    """Remove every namespace of the lab with its links; nothing to remove is no error.

    Processes in them are left alone: they keep a namespace, but find no link in it any more.
    """
    found = strays(lab)
    gateway = gateway_namespace(lab)
    if gateway in found and namespace.is_complete(gateway):
        # Before the namespaces, so that no link is left when this returns: the kernel destroys
        # namespaces in the background.
        with _route_socket(gateway) as route:
            links.delete_all(route)
    # The gateway's name goes last: as long as it is there nobody builds the lab anew.
    namespace.delete([name for name in found if name != gateway])
    namespace.delete([gateway])


def strays(lab: str) -> list[str]:
    """All namespaces of the lab, half-made ones included; other labs' never."""
    prefix = gateway_namespace(lab).removesuffix("gw")
    pattern = re.compile(re.escape(prefix) + r"(gw|vpc-.+|env-[0-9]+)")
    return [name for name in namespace.names(prefix) if pattern.fullmatch(name)]


def add_environments(
    spec: LabSpec, numbers: Iterable[int], progress: Progress | None = None
) -> tuple[Slot, ...]:
    """Add environments with these numbers to a lab that stands; all or nothing."""
    check(spec)
    wanted = list(numbers)
    _check_numbers(wanted)
    _raise_neighbour_limits(max(wanted, default=0))

    def work() -> tuple[Slot, ...]:
        with _route_socket(gateway_namespace(spec.lab)) as route:
            done: list[int] = []
            try:
                return _add_environments(spec, route, wanted, progress or _silent, done)
            except BaseException:
                _remove_environments(spec.lab, route, done)
                raise

    return namespace.run_in_thread(work)


def remove_environments(lab: str, numbers: Iterable[int]) -> None:
    """Remove environments from a lab that stands; those not there are no error."""
    wanted = list(numbers)
    _check_numbers(wanted)
    with _route_socket(gateway_namespace(lab)) as route:
        _remove_environments(lab, route, wanted)


def check(spec: LabSpec) -> None:
    """Raise `NetnsError` for a spec that cannot be built; needs no privilege."""
    gateway_namespace(spec.lab)
    if not 0 <= spec.environments <= _SLOTS_MAX:
        raise NetnsError(
            f"{spec.environments} environments are asked for", f"0 to {_SLOTS_MAX} are possible"
        )
    try:
        inside = ipaddress.IPv4Interface(f"{spec.inside_address}/{spec.inside_prefix_length}")
        gateway = ipaddress.IPv4Address(spec.inside_gateway)
        for vpc in spec.vpcs:
            for text in (*vpc.addresses, *(each.address for each in vpc.interfaces)):
                ipaddress.IPv4Address(text)
    except ValueError as error:
        raise NetnsError(str(error), "IPv4 addresses in dotted notation are needed") from None
    if gateway not in inside.network or gateway == inside.ip:
        raise NetnsError(
            f"the inside gateway {gateway} is no neighbour of {inside}",
            f"choose another address of {inside.network}",
        )
    for mtu in (spec.environment_mtu, *(vpc.mtu for vpc in spec.vpcs)):
        # 68: RFC 791, the least every link must carry. 65535: the longest IPv4 packet.
        if not 68 <= mtu <= 65535:
            raise NetnsError(f"an MTU of {mtu} bytes is impossible", "68 to 65535 is possible")
    _check_names(spec)


def _check_names(spec: LabSpec) -> None:
    for vpc in spec.vpcs:
        vpc_namespace(spec.lab, vpc.name)
    names = [each.name for vpc in spec.vpcs for each in vpc.interfaces]
    for name in names:
        links.check_name(name)
        if name in ("lo", "all", "default") or _SLOT_LINK.fullmatch(name):
            raise NetnsError(
                f"a network interface cannot be named {name!r}",
                "lo, all, default and env<n> have another meaning in the gateway",
            )
    for kind, values in (("VPC", [vpc.name for vpc in spec.vpcs]), ("network interface", names)):
        for name in values:
            if values.count(name) > 1:
                raise NetnsError(f"two {kind}s are named {name!r}", "choose distinct names")


def _check_numbers(numbers: Sequence[int]) -> None:
    for number in numbers:
        if not 1 <= number <= _SLOTS_MAX:
            raise NetnsError(f"environment number {number} is impossible", f"1 to {_SLOTS_MAX}")


def _silent(_done: int, _total: int) -> None:
    pass


def _environments(lab: str, numbers: Iterable[int]) -> list[str]:
    return [environment_namespace(lab, number) for number in numbers]


def _mac(lab: str, role: str, name: str) -> str:
    """A hardware address that looks random, yet is the same whenever the lab is built."""
    digest = bytearray(hashlib.blake2b(f"{lab}/{role}/{name}".encode(), digest_size=6).digest())
    # IEEE 802: locally administered, not a group.
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")


@contextlib.contextmanager
def _route_socket(name: str) -> Iterator[RouteSocket]:
    """A route socket inside namespace `name`, closed at the end."""
    with namespace.call(name, RouteSocket) as route:
        yield route


@contextlib.contextmanager
def _created(names: Sequence[str], settings: dict[str, str]) -> Iterator[list[RouteSocket]]:
    """New namespaces with these settings; yields a route socket in each, closed at the end."""
    with sysctl.Writer() as writer, contextlib.ExitStack() as sockets:

        def prepare(_name: str) -> RouteSocket:
            writer.write(settings)
            return sockets.enter_context(RouteSocket())

        yield namespace.create(names, prepare)


def _build(spec: LabSpec, progress: Progress) -> Topology:
    gateway = gateway_namespace(spec.lab)
    # From here on the lab's names are ours: if somebody else builds it too, this line fails for
    # one of the two, and the other's work is left alone.
    with _created([gateway], _GATEWAY_SETTINGS) as (route,):
        try:
            interfaces = [each for vpc in spec.vpcs for each in _add_vpc(spec, route, vpc)]
            ingress.drop(route, [each.ifindex for each in interfaces])
            numbers = range(1, spec.environments + 1)
            slots = _add_environments(spec, route, numbers, progress, [])
        except BaseException:
            destroy(spec.lab)
            raise
    return Topology(gateway=gateway, slots=slots, interfaces=tuple(interfaces))


def _add_vpc(spec: LabSpec, route: RouteSocket, vpc: VpcSpec) -> list[Interface]:
    name = vpc_namespace(spec.lab, vpc.name)
    with _created([name], _VPC_SETTINGS) as (inside,), namespace.opened(name) as descriptor:
        pairs = [
            links.Pair(
                name=each.name,
                mac=_mac(spec.lab, "interface", each.name),
                mtu=vpc.mtu,
                peer_name=each.name,
                peer_mac=_mac(spec.lab, "vpc", each.name),
                peer_namespace=descriptor,
            )
            for each in vpc.interfaces
        ]
        links.create_pairs(route, pairs)
        messages = [links.up(links.LOOPBACK_INDEX)]
        messages += [links.address(links.LOOPBACK_INDEX, each, 32) for each in vpc.addresses]
        interfaces = []
        for each, pair in zip(vpc.interfaces, pairs, strict=True):
            peer = _existing(inside, each.name)
            messages += (links.up(peer.index), links.host_route(peer.index, each.address))
            near = _existing(route, each.name)
            interfaces.append(Interface(each.name, vpc.name, near.index, pair.mac, pair.peer_mac))
        inside.request(messages, f"cannot set up {name}")
    return interfaces


def _existing(route: RouteSocket, name: str) -> links.Link:
    found = links.link(route, name)
    if found is None:
        raise NetnsError(f"link {name} has vanished", "somebody else changes this lab: find out")
    return found


def _add_environments(
    spec: LabSpec,
    route: RouteSocket,
    numbers: Sequence[int],
    progress: Progress,
    done: list[int],
) -> tuple[Slot, ...]:
    """Make environments; `done` gets the numbers of those that exist, also when this fails."""
    slots: list[Slot] = []
    progress(0, len(numbers))
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        with _created(_environments(spec.lab, chunk), _ENVIRONMENT_SETTINGS) as sockets:
            done.extend(chunk)
            pairs = _create_slots(spec, route, chunk)
            for number, inside, pair in zip(chunk, sockets, pairs, strict=True):
                _set_up_environment(spec, inside, number)
                slots.append(
                    Slot(
                        number=number,
                        ifindex=_existing(route, pair.name).index,
                        namespace=environment_namespace(spec.lab, number),
                        environment_mac=pair.peer_mac,
                        gateway_mac=pair.mac,
                    )
                )
        ingress.drop(route, [slot.ifindex for slot in slots[start:]])
        progress(len(slots), len(numbers))
    return tuple(sorted(slots, key=lambda slot: slot.number))


def _create_slots(spec: LabSpec, route: RouteSocket, numbers: Sequence[int]) -> list[links.Pair]:
    with contextlib.ExitStack() as descriptors:
        pairs = [
            links.Pair(
                name=slot_link(number),
                mac=_mac(spec.lab, "slot", str(number)),
                mtu=spec.environment_mtu,
                peer_name=ENVIRONMENT_LINK,
                peer_mac=_mac(spec.lab, "environment", str(number)),
                peer_namespace=descriptors.enter_context(
                    namespace.opened(environment_namespace(spec.lab, number))
                ),
            )
            for number in numbers
        ]
        links.create_pairs(route, pairs)
    return pairs


def _set_up_environment(spec: LabSpec, inside: RouteSocket, number: int) -> None:
    index = _existing(inside, ENVIRONMENT_LINK).index
    inside.request(
        [
            links.up(links.LOOPBACK_INDEX),
            links.up(index),
            links.address(index, spec.inside_address, spec.inside_prefix_length),
            links.default_route(index, spec.inside_gateway),
        ],
        f"cannot set up {environment_namespace(spec.lab, number)}",
    )


def _remove_environments(lab: str, route: RouteSocket, numbers: Sequence[int]) -> None:
    links.delete(route, [slot_link(number) for number in numbers])
    namespace.delete(_environments(lab, numbers))


def _inspect(spec: LabSpec) -> Topology | None:
    with _route_socket(gateway_namespace(spec.lab)) as route:
        near = links.links(route)
        interfaces = [each for vpc in spec.vpcs for each in _inspect_vpc(spec, vpc, near)]
        slots = _inspect_environments(spec, near)
        wanted = {slot_link(slot.number) for slot in slots}
        wanted |= {each.name for each in interfaces}
        if near.keys() - {"lo"} != wanted or not all(near[name].up for name in wanted):
            return None
        if ingress.missing(route, [near[name].index for name in wanted]):
            return None
    complete = len(slots) == spec.environments and len(interfaces) == sum(
        len(vpc.interfaces) for vpc in spec.vpcs
    )
    if not complete:
        return None
    return Topology(gateway_namespace(spec.lab), tuple(slots), tuple(interfaces))


def _inspect_vpc(spec: LabSpec, vpc: VpcSpec, near: dict[str, links.Link]) -> list[Interface]:
    """The VPC's interfaces that are in order; none when its addresses are not."""
    with _route_socket(vpc_namespace(spec.lab, vpc.name)) as inside:
        far = links.links(inside)
        addresses = {address for _, address in links.addresses(inside)} - {"127.0.0.1/8"}
        routes = links.routes(inside)
    if addresses != {f"{address}/32" for address in vpc.addresses}:
        return []
    result = []
    for each in vpc.interfaces:
        mine, peer = near.get(each.name), far.get(each.name)
        if mine is None or peer is None or not _tied(mine, peer, vpc.mtu):
            continue
        if links.Route(f"{each.address}/32", None, peer.index) in routes:
            result.append(Interface(each.name, vpc.name, mine.index, mine.mac, peer.mac))
    return result


def _inspect_environments(spec: LabSpec, near: dict[str, links.Link]) -> list[Slot]:
    """The slots whose environments are in order, by number."""
    address = f"{spec.inside_address}/{spec.inside_prefix_length}"

    def read(_name: str) -> links.Link | None:
        with RouteSocket() as inside:
            link = links.link(inside, ENVIRONMENT_LINK)
            if link is None or (link.index, address) not in links.addresses(inside):
                return None
            default = links.Route("0.0.0.0/0", spec.inside_gateway, link.index)
            return link if default in links.routes(inside) else None

    numbers = range(1, spec.environments + 1)
    names = _environments(spec.lab, numbers)
    slots = []
    for number, name, peer in zip(numbers, names, namespace.call_each(names, read), strict=True):
        mine = near.get(slot_link(number))
        if mine is not None and peer is not None and _tied(mine, peer, spec.environment_mtu):
            slots.append(Slot(number, mine.index, name, peer.mac, mine.mac))
    return slots


def _tied(near: links.Link, far: links.Link, mtu: int) -> bool:
    """Whether two links are the two ends of one pair, up and of the right size."""
    tied = near.peer_index == far.index and far.peer_index == near.index
    return tied and near.up and far.up and near.mtu == far.mtu == mtu


def _raise_neighbour_limits(environments: int) -> None:
    """Make room for the environments' ARP entries.

    All namespaces of the host share one neighbour table; its limits exist in the initial
    namespace only. Above gc_thresh2 (512) the kernel evicts entries that are five seconds old,
    at gc_thresh3 (1024) it drops packets. An environment has one entry for its gateway and may
    have one for its loopback link. The limits are raised, never lowered again: they only bound
    memory, and other labs may rely on them.
    """
    wanted = 2 * environments + 128
    limits = {"gc_thresh3": 2 * wanted, "gc_thresh2": wanted}
    if wanted <= _NEIGHBOURS_BY_DEFAULT:
        return
    for name, least in limits.items():
        file = _NEIGHBOUR_LIMITS / name
        try:
            if int(file.read_text()) < least:
                file.write_text(str(least))
                _log.info("raised net.ipv4.neigh.default.%s to %d", name, least)
        except FileNotFoundError:
            _log.warning(
                "cannot see the host's neighbour table limits from this namespace: "
                "on the host set net.ipv4.neigh.default.%s to at least %d",
                name,
                least,
            )
        except OSError as error:
            raise from_errno(f"cannot raise {file}", error.errno or 0) from None
