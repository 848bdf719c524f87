# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs: namespaces with one link each, which leads to the gateway and not to the VPC.

Theory of operation
-------------------
In the gateway a host has a link named `host.<n>`, with no address; its peer is `eth0` in the host,
with the host's address as a /32. All that the host sends has one next hop, the router of its
subnet, which the gateway answers for: also what is for a neighbour in the subnet meets the
security groups there. To the VPC's router the host's address is one behind a network interface
(`vpcs.add_routes`).

The namespace is the lab's own, or somebody else's that was *attached*. The lab gives that a further
name, `hp-<lab>-host-<n>`, and from then on both are alike: entered, surveyed and linked by that
name. Of an attached one the lab makes nothing but the link and its routes, and touches neither
settings nor loopback; removing the host takes link and name away, and what runs in it goes on.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from pathlib import Path

from netns import ingress, links, namespace, offloads, sysctl
from netns.errors import NetnsError, from_errno
from netns.interior import CHECKER_SETTINGS, HOST_SETTINGS, created, route_socket
from netns.names import HOST_LINK, LAB_PREFIX, gateway_namespace, host_link, host_namespace
from netns.netlink import RouteSocket
from netns.spec import Host, HostSpec, check_addresses, check_host, hardware_address


def check_attachable(file: Path) -> None:
    """Raise `NetnsError` for a namespace that cannot become a host, so as to say it beforehand."""
    namespace.check_other_network(file)
    found = file.stat().st_ino
    for name in namespace.names(LAB_PREFIX):
        with contextlib.suppress(FileNotFoundError):
            if namespace.path(name).stat().st_ino == found:
                raise NetnsError(f"{file} is {name}, which is of a lab", "name another one")

    def work() -> bool:
        with file.open("rb") as opened:
            namespace.join(opened.fileno(), file.name)
        with RouteSocket() as inside:
            return links.link(inside, HOST_LINK) is not None

    if namespace.run_in_thread(work):
        raise NetnsError(
            f"{file} has a link called {HOST_LINK} already",
            "name one without: docker run --network none makes such",
        )


def add_host(lab: str, spec: HostSpec) -> Host:
    """Make a host of a lab that stands, with what is left of it: all or nothing.

    A namespace of its name is kept with all that runs in it, and gets a new link. Raises
    `NetnsError`: the lab or the namespace to attach is not there, that has an eth0 already, or a
    privilege is missing.
    """
    check_host(spec)
    where = host_namespace(lab, spec.number)

    def work() -> Host:
        with route_socket(gateway_namespace(lab)) as route:
            links.delete(route, [host_link(spec.number)])
            if namespace.is_complete(where):
                try:
                    return _link(lab, route, where, spec)
                except NetnsError:
                    # Something of its own is in the place of eth0.
                    links.delete(route, [host_link(spec.number)])
                    if spec.attached:
                        raise
            namespace.delete([where])
            _make_namespace(where, spec)
            try:
                return _link(lab, route, where, spec)
            except BaseException:
                links.delete(route, [host_link(spec.number)])
                namespace.delete([where])
                raise

    return namespace.run_in_thread(work)


def remove_hosts(lab: str, numbers: Iterable[int]) -> None:
    """Remove hosts from a lab that stands; those not there are no error.

    Processes are left alone, and so is a namespace that has another name.
    """
    wanted = list(numbers)
    with route_socket(gateway_namespace(lab)) as route:
        links.delete(route, [host_link(number) for number in wanted])
    namespace.delete([host_namespace(lab, number) for number in wanted])


def prepare_checks(lab: str, number: int, addresses: Iterable[str]) -> None:
    """Let a host of the lab's own send from these addresses, and from no port above 1023.

    Addresses it was given before and that are not among these go. Raises `NetnsError`.
    """
    wanted = set(addresses)
    check_addresses(wanted)
    where = host_namespace(lab, number)

    def write() -> None:
        with sysctl.Writer() as writer:
            writer.write(CHECKER_SETTINGS)

    namespace.call(where, write)
    with route_socket(where) as inside:
        there = {
            value.removesuffix("/32")
            for index, value in links.addresses(inside)
            if index == links.LOOPBACK_INDEX and value.endswith("/32")
        }
        inside.request(
            [
                *(links.address(links.LOOPBACK_INDEX, each, 32) for each in wanted - there),
                *(links.without_address(links.LOOPBACK_INDEX, each, 32) for each in there - wanted),
            ],
            f"cannot set the addresses of {where}",
        )


def _make_namespace(where: str, spec: HostSpec) -> None:
    if spec.attached:
        namespace.name_also(where, Path(spec.attached))
        return
    with created([where], HOST_SETTINGS) as (inside,):
        inside.request([links.up(links.LOOPBACK_INDEX)], f"cannot set up {where}")


def _link(lab: str, route: RouteSocket, where: str, spec: HostSpec) -> Host:
    with route_socket(where) as inside, namespace.opened(where) as descriptor:
        if links.link(inside, HOST_LINK) is not None:
            raise from_errno(f"cannot create link {HOST_LINK} in {where}", errno.EEXIST)
        pair = links.Pair(
            name=host_link(spec.number),
            mac=hardware_address(lab, "host-gateway", str(spec.number)),
            mtu=spec.mtu,
            peer_name=HOST_LINK,
            peer_mac=hardware_address(lab, "host", str(spec.number)),
            peer_namespace=descriptor,
        )
        links.create_pairs(route, [pair])
        index = links.existing(inside, HOST_LINK).index
        offloads.tunnel_segmentation_off(inside, HOST_LINK)
        near = links.existing(route, pair.name)
        ingress.drop(route, [near.index])
        inside.request(
            [
                links.up(index),
                links.address(index, spec.address, 32),
                links.host_route(index, spec.router),
                links.default_route(index, spec.router),
            ],
            f"cannot set up {where}",
        )
    return Host(spec.number, near.index, pair.peer_mac, pair.mac)
