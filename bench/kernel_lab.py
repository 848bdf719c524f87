# SPDX-License-Identifier: Apache-2.0
"""Labs for the contenders that use the kernel's own addresses: the same namespaces, links and MTUs.

The gateway's own lab (`netns.topology`) gives every environment one address, which no routing
table can tell apart. Here environment n has the n-th /30 of 100.64.0.0/10 (RFC 6598); all else is
the same: one pair of links per environment, one to the VPC, the VPC's addresses on its loopback.

Names follow `netns.topology`, so `topology.destroy` removes a lab of this module as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from bench import addresses
from netns import links, namespace, sysctl, topology
from netns.errors import NetnsError
from netns.netlink import RouteSocket

ENVIRONMENTS = ipaddress.IPv4Network("100.64.0.0/10")
VPC_NAME = "customer"
MTU = 1500

_SETTINGS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
}
_HOST = {**_SETTINGS, "ipv4/ip_forward": "0"}
_ROUTER = {**_SETTINGS, "ipv4/ip_forward": "1"}
# As in netns.topology.
_VPC = {**_HOST, "core/somaxconn": "65535", "ipv4/tcp_max_syn_backlog": "65535"}


@dataclass(frozen=True)
class Link:
    """The addresses of an environment's link."""

    environment: str
    gateway: str

    @classmethod
    def number(cls, number: int) -> Link:
        """Of environment `number`, counted from 1."""
        base = ENVIRONMENTS.network_address + 4 * number
        return cls(environment=str(base + 2), gateway=str(base + 1))


def mac(role: int, number: int) -> str:
    """A locally administered address."""
    return f"02:00:{role:02x}:00:{number >> 8:02x}:{number & 255:02x}"


def create(name: str, settings: dict[str, str]) -> None:
    """One namespace with these settings and its loopback up."""
    with sysctl.Writer() as writer:

        def prepare(_name: str) -> None:
            writer.write(settings)
            with RouteSocket() as route:
                route.request([links.up(links.LOOPBACK_INDEX)], f"cannot set up {name}")

        namespace.create([name], prepare)


def create_environments(lab: str, count: int) -> None:
    """Empty environments."""
    with sysctl.Writer() as writer:

        def prepare(name: str) -> None:
            writer.write(_HOST)
            with RouteSocket() as route:
                route.request([links.up(links.LOOPBACK_INDEX)], f"cannot set up {name}")

        names = [topology.environment_namespace(lab, each) for each in range(1, count + 1)]
        namespace.create(names, prepare)


def build_vpc(lab: str) -> str:
    """The VPC with its addresses and no link; its name."""
    name = topology.vpc_namespace(lab, VPC_NAME)
    create(name, _VPC)
    with route_in(name) as route:
        messages = [
            links.address(links.LOOPBACK_INDEX, each, 32) for each in addresses.VPC_ADDRESSES
        ]
        route.request(messages, f"cannot set up {name}")
    return name


def build_gateway(lab: str, *, forward: bool) -> str:
    """The gateway namespace with the network interface in the VPC; its name."""
    name = topology.gateway_namespace(lab)
    vpc = topology.vpc_namespace(lab, VPC_NAME)
    create(name, _ROUTER if forward else _HOST)
    with route_in(name) as route, route_in(vpc) as far:
        with namespace.opened(vpc) as descriptor:
            pair = links.Pair(
                addresses.INTERFACE, mac(1, 0), MTU, addresses.INTERFACE, mac(2, 0), descriptor
            )
            links.create_pairs(route, [pair])
        near_index, far_index = index_of(route), index_of(far)
        # The interface's own address in the subnet; the VPC has a route to just that.
        messages = [links.address(near_index, addresses.INTERFACE_ADDRESS, 24)]
        route.request(messages, f"cannot set up {name}")
        messages = [
            links.up(far_index),
            links.host_route(far_index, addresses.INTERFACE_ADDRESS),
        ]
        far.request(messages, f"cannot set up {vpc}")
    return name


def connect_environments(lab: str, router: str, numbers: Sequence[int]) -> None:
    """Link environments to the namespace that routes for them."""
    with route_in(router) as route:
        for number in numbers:
            name = topology.environment_namespace(lab, number)
            near, link = topology.slot_link(number), Link.number(number)
            with route_in(name) as inside:
                with namespace.opened(name) as descriptor:
                    pair = links.Pair(
                        near,
                        mac(3, number),
                        MTU,
                        topology.ENVIRONMENT_LINK,
                        mac(4, number),
                        descriptor,
                    )
                    links.create_pairs(route, [pair])
                index = index_of(inside, topology.ENVIRONMENT_LINK)
                messages = [
                    links.up(index),
                    links.address(index, link.environment, 30),
                    links.default_route(index, link.gateway),
                ]
                inside.request(messages, f"cannot set up {name}")
            messages = [links.address(index_of(route, near), link.gateway, 30)]
            route.request(messages, f"cannot set up {near}")


def route_in(name: str) -> RouteSocket:
    """A route socket inside a namespace, to be used as a context."""
    return namespace.call(name, RouteSocket)


def index_of(route: RouteSocket, name: str = addresses.INTERFACE) -> int:
    """Index of a link that must be there."""
    found = links.link(route, name)
    if found is None:
        raise NetnsError(f"link {name} has vanished", "somebody else changes this lab: find out")
    return found.index
