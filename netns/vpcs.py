# SPDX-License-Identifier: Apache-2.0
"""VPCs and their network interfaces, which come and go while the lab stands.

Each network interface is a link of its own name in the gateway, with its peer of the same name in
the VPC. There is no bridge: the VPC reaches an interface's address by a host route over that link,
and the route leaves with it.

A VPC's service and router addresses are /32 on its loopback link. Linux answers ARP for any
address of its own on any link (arp_ignore 0), so that is where an address belongs that is to be
reached over all of them; it needs no dummy driver.

Every change is all or nothing. What was there before is looked up first, so that taking back a
change that failed half-way never takes more than the change made. That look is good for one
writer per lab: whoever changes a lab makes sure that nobody else does at the same time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from netns import ingress, links, namespace, offloads, sysctl
from netns.errors import from_errno
from netns.interior import FORWARDING_SETTINGS, VPC_SETTINGS, created, route_socket
from netns.names import gateway_namespace, vpc_namespace
from netns.netlink import RouteSocket
from netns.spec import (
    Interface,
    InterfaceSpec,
    VpcSpec,
    check_addresses,
    check_interfaces,
    check_not_reserved,
    check_vpc,
    hardware_address,
)

T = TypeVar("T")

_NO_SUCH_ADDRESS = frozenset((errno.EADDRNOTAVAIL,))
_THERE_ALREADY = frozenset((errno.EEXIST,))
_NO_SUCH_ROUTE = frozenset((errno.ESRCH,))


def add_vpc(lab: str, vpc: VpcSpec) -> tuple[Interface, ...]:
    """Add a VPC with its addresses and network interfaces to a lab that stands; all or nothing.

    Raises `NetnsError`: the VPC cannot be, it or one of its links is there already, the lab is
    not, or a privilege is missing.
    """
    check_vpc(lab, vpc)
    return _at_gateway(lab, lambda route: make(lab, route, vpc))


def remove_vpc(lab: str, name: str) -> None:
    """Remove a VPC with its links, be it half-made; one that is not there is no error.

    Processes in it are left alone: they keep a namespace without any link to the gateway.
    """
    where = vpc_namespace(lab, name)
    if namespace.is_complete(where):
        with route_socket(where) as inside:
            # Before the namespace, which the kernel destroys in the background: when this returns
            # the gateway's ends are gone, whose names a new VPC may want.
            links.delete(inside, links.links(inside).keys() - {"lo"})
    namespace.delete([where])


def add_interfaces(
    lab: str, vpc: str, interfaces: Sequence[InterfaceSpec], *, mtu: int
) -> tuple[Interface, ...]:
    """Add network interfaces to a VPC that stands; all or nothing.

    `mtu` is in bytes of IP packet, for both ends. Raises `NetnsError`: a name or an address is
    taken, the VPC is not there, or a privilege is missing.
    """
    vpc_namespace(lab, vpc)
    check_interfaces(interfaces, mtu)

    def work(route: RouteSocket) -> tuple[Interface, ...]:
        where = vpc_namespace(lab, vpc)
        with route_socket(where) as inside, namespace.opened(where) as descriptor:
            return _make_interfaces(lab, route, inside, descriptor, vpc, interfaces, mtu)

    return _at_gateway(lab, work)


def remove_interfaces(lab: str, names: Iterable[str]) -> None:
    """Remove network interfaces of any VPC from a lab that stands; those not there are no error."""
    wanted = list(names)
    for name in wanted:
        check_not_reserved(name)
    with route_socket(gateway_namespace(lab)) as route:
        links.delete(route, wanted)


def add_addresses(lab: str, vpc: str, addresses: Sequence[str]) -> None:
    """Give a VPC that stands addresses of services or routers; all or nothing.

    Raises `NetnsError` when one is there already.
    """
    check_addresses(addresses)
    where = vpc_namespace(lab, vpc)
    with route_socket(where) as inside:
        before = links.addresses(inside)
        messages = [links.address(links.LOOPBACK_INDEX, each, 32) for each in addresses]
        try:
            inside.request(messages, f"cannot add addresses to {where}")
        except BaseException:
            new = [each for each in addresses if (links.LOOPBACK_INDEX, f"{each}/32") not in before]
            _take_addresses(inside, where, new)
            raise


def remove_addresses(lab: str, vpc: str, addresses: Sequence[str]) -> None:
    """Take addresses from a VPC that stands; those not there are no error."""
    check_addresses(addresses)
    where = vpc_namespace(lab, vpc)
    with route_socket(where) as inside:
        _take_addresses(inside, where, addresses)


def add_routes(lab: str, vpc: str, link: str, addresses: Sequence[str]) -> None:
    """Let a VPC that stands reach these addresses, of hosts, by the link of a network interface.

    Those that it reaches so already are no error. Raises `NetnsError`: VPC or link are not there.
    """
    check_addresses(addresses)
    where = vpc_namespace(lab, vpc)
    with route_socket(where) as inside:
        index = links.existing(inside, link).index
        messages = [links.host_route(index, each) for each in addresses]
        inside.request(messages, f"cannot add routes to {where}", ignore=_THERE_ALREADY)


def remove_routes(lab: str, vpc: str, link: str, addresses: Sequence[str]) -> None:
    """Take such routes from a VPC that stands; those not there are no error, nor is the link."""
    check_addresses(addresses)
    where = vpc_namespace(lab, vpc)
    with route_socket(where) as inside:
        if (found := links.link(inside, link)) is not None:
            messages = [links.without_host_route(found.index, each) for each in addresses]
            inside.request(messages, f"cannot take routes from {where}", ignore=_NO_SUCH_ROUTE)


def forward(lab: str, vpc: str) -> None:
    """Let a VPC that stands forward between its links, as the internet does; twice is no error.

    What no route leads to is dropped there in silence. Raises `NetnsError`: the VPC is not there.
    """
    where = vpc_namespace(lab, vpc)
    with route_socket(where) as inside:
        own = {f"ipv4/conf/{name}/send_redirects": "0" for name in links.links(inside)}

        def write() -> None:
            with sysctl.Writer() as writer:
                writer.write({**FORWARDING_SETTINGS, **own})

        inside.request(
            [links.blackhole()], f"cannot set the routes of {where}", ignore=_THERE_ALREADY
        )
        namespace.call(where, write)


def make(lab: str, route: RouteSocket, vpc: VpcSpec) -> tuple[Interface, ...]:
    """Make a checked VPC, with `route` in the gateway; nothing is left when it fails."""
    where = vpc_namespace(lab, vpc.name)
    # Its name is reserved from here on: whoever else makes this VPC fails, and nothing is taken
    # back that is not ours.
    with created([where], VPC_SETTINGS) as (inside,):
        try:
            messages = [links.up(links.LOOPBACK_INDEX)]
            messages += [links.address(links.LOOPBACK_INDEX, each, 32) for each in vpc.addresses]
            inside.request(messages, f"cannot set up {where}")
            with namespace.opened(where) as descriptor:
                return _make_interfaces(
                    lab, route, inside, descriptor, vpc.name, vpc.interfaces, vpc.mtu
                )
        except BaseException:
            namespace.delete([where])
            raise


def _make_interfaces(
    lab: str,
    route: RouteSocket,
    inside: RouteSocket,
    descriptor: int,
    vpc: str,
    specs: Sequence[InterfaceSpec],
    mtu: int,
) -> tuple[Interface, ...]:
    for each in specs:
        if links.link(route, each.name) is not None:
            raise from_errno(f"cannot create link {each.name}", errno.EEXIST)
    pairs = [
        links.Pair(
            name=each.name,
            mac=hardware_address(lab, "interface", each.name),
            mtu=mtu,
            peer_name=each.name,
            peer_mac=hardware_address(lab, "vpc", each.name),
            peer_namespace=descriptor,
        )
        for each in specs
    ]
    try:
        links.create_pairs(route, pairs)
        messages: list[bytes] = []
        interfaces = []
        for each, pair in zip(specs, pairs, strict=True):
            peer = links.existing(inside, each.name)
            offloads.tunnel_segmentation_off(inside, each.name)
            messages.append(links.up(peer.index))
            messages += (
                links.host_route(peer.index, address) for address in sorted(each.addresses)
            )
            messages += (
                links.network_route(peer.index, network, each.address) for network in each.networks
            )
            near = links.existing(route, each.name)
            interfaces.append(Interface(each.name, vpc, near.index, pair.mac, pair.peer_mac))
        ingress.drop(route, [each.ifindex for each in interfaces])
        inside.request(messages, f"cannot set up the interfaces of VPC {vpc}")
    except BaseException:
        links.delete(route, [each.name for each in specs])
        raise
    return tuple(interfaces)


def _take_addresses(inside: RouteSocket, where: str, addresses: Sequence[str]) -> None:
    messages = [links.without_address(links.LOOPBACK_INDEX, each, 32) for each in addresses]
    inside.request(messages, f"cannot take addresses from {where}", ignore=_NO_SUCH_ADDRESS)


def _at_gateway(lab: str, function: Callable[[RouteSocket], T]) -> T:
    """The result of `function` with a route socket in the gateway, in a helper thread.

    An interrupt waits for the thread and comes too late to be taken back: it leaves the change
    whole.
    """

    def work() -> T:
        with route_socket(gateway_namespace(lab)) as route:
            return function(route)

    return namespace.run_in_thread(work)
