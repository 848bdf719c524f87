# SPDX-License-Identifier: Apache-2.0
"""The hosts of VPCs: their namespaces and links, the routes to them, to their public addresses and
to load balancers, and what the forwarder knows.

Theory of operation
-------------------
`Hosts` remembers what stands and does the difference to what the region wants, as `Network` does,
in steps that are among its steps. A host that goes is taken from the forwarder first, then from the
router, then its link and namespace go; one that comes, the other way round. A host whose number is
the same is the same host: its address never changes.

An attached namespace can be gone when it is its turn, and that is its owner's affair: it is said in
the log, the host stays in the region without a link, and is tried again when the controller next
changes anything. What others have is not held up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.controller.network import punt
from hyperplane_nat.controller.network.punt import Punt
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.model.wanted import Wanted, WantedHost
from netns import processes, topology
from netns.errors import NetnsError
from netns.topology import Host, HostSpec, Survey

log = logging.getLogger(__name__)


class Hosts:
    """What stands of the hosts of one lab."""

    def __init__(self, lab: str, punt: Punt) -> None:
        self._lab = lab
        self._punt = punt
        self._standing: dict[int, Host] = {}
        self._routes: dict[tuple[str, str], set[str]] = {}
        """Addresses of hosts that a VPC reaches, by its name and the link; the internet those that
        are public."""
        self._told: dict[int, dict[str, Any]] = {}
        self._checking: dict[int, tuple[str, ...]] = {}
        """Addresses that health checkers were let send from."""
        self.retiring: frozenset[int] = frozenset()
        """Numbers that the forwarder still finds in flows."""

    async def adopt(self, found: Survey, wanted: Wanted) -> None:
        """Take over what a former controller left; what nobody wants is removed."""
        sizes = {host.number: host.mtu_bytes for host in wanted.hosts}
        self._standing = {
            each.host.number: each.host
            for each in found.hosts
            if sizes.get(each.host.number) == each.mtu
        }
        self._punt.attach(punt.hosts(self._standing.values()))
        gone = {each.host.number for each in found.hosts} | set(found.broken.hosts)
        await self._take_down(sorted(gone - sizes.keys()), wanted)
        for host in wanted.hosts:
            if host.number not in self._standing:
                log.warning("host %s was not as it was made: it gets a new link", host.name)
                await self._make(host)
        own = {interface.link: interface.address for interface in wanted.interfaces}
        links = reached(wanted).keys()
        self._routes = {
            (vpc.name, each.interface.name): set(each.addresses) - {own[each.interface.name]}
            for vpc in found.vpcs
            for each in vpc.interfaces
            if (vpc.name, each.interface.name) in links
        }

    @property
    def standing(self) -> frozenset[int]:
        """Numbers of those that have a namespace and a link."""
        return frozenset(self._standing)

    def refers_to(self, number: int) -> bool:
        """Whether something of a host of that number is left."""
        return number in self._standing or number in self._told or number in self.retiring

    # --- what the forwarder is told ---

    def everything(self, wanted: Wanted) -> list[dict[str, Any]]:
        """For a forwarder that begins."""
        items = self._items(wanted.hosts)
        self._told = {item["number"]: item for item in items}
        return items

    def changed(self, wanted: Wanted) -> list[dict[str, Any]]:
        """What the forwarder was told otherwise, or not at all."""
        return [
            item for item in self._items(wanted.hosts) if self._told.get(item["number"]) != item
        ]

    def told(self, items: Iterable[Mapping[str, Any]]) -> None:
        """The forwarder knows these."""
        self._told |= {item["number"]: dict(item) for item in items}

    def unwanted(self, wanted: Wanted) -> list[int]:
        """What the forwarder knows, or what stands, and nobody wants any more."""
        return sorted((self._told.keys() | self._standing.keys()) - _numbers(wanted))

    def known(self, numbers: Iterable[int]) -> list[int]:
        """Those of them that the forwarder was told."""
        return [number for number in numbers if number in self._told]

    def forgotten(self, numbers: Iterable[int]) -> None:
        """The forwarder knows these no more."""
        for number in numbers:
            del self._told[number]

    def _items(self, hosts: Iterable[WantedHost]) -> list[dict[str, Any]]:
        return [
            desired.host(each, self._standing[each.number])
            for each in hosts
            if each.number in self._standing
        ]

    # --- what stands ---

    async def make(self, wanted: Wanted) -> None:
        """Namespaces and links, and the routes of the VPCs, whose links stand; NetnsError."""
        for host in wanted.hosts:
            if host.number not in self._standing:
                await self._make(host)
            await self._let_check(host)
        for place, addresses in reached(wanted).items():
            if new := sorted(addresses - self._routes.get(place, set())):
                await in_thread(topology.add_routes, self._lab, *place, new)
                self._routes.setdefault(place, set()).update(new)

    async def _make(self, host: WantedHost) -> None:
        spec = HostSpec(host.number, host.address, host.router, host.mtu_bytes, host.attached)
        try:
            self._standing[host.number] = made = await in_thread(topology.add_host, self._lab, spec)
            await in_thread(self._punt.attach, punt.hosts([made]))
        except NetnsError as error:
            if not host.attached:
                raise
            log.error("host %s of VPC %s has no link: %s", host.name, host.vpc, error)

    async def _let_check(self, host: WantedHost) -> None:
        addresses = host.checks_from
        if addresses is None or self._checking.get(host.number) == addresses:
            return
        await in_thread(topology.prepare_checks, self._lab, host.number, addresses)
        self._checking[host.number] = addresses

    async def remove(self, numbers: Iterable[int], wanted: Wanted) -> None:
        """Take down hosts that the forwarder does not know any more, and routes to them."""
        there = reached(wanted)
        for place in list(self._routes):
            if place not in there:
                # The link goes with the last host, and the routes with it.
                del self._routes[place]
            elif old := sorted(self._routes[place] - there[place]):
                await in_thread(topology.remove_routes, self._lab, *place, old)
                self._routes[place].difference_update(old)
        await self._take_down(numbers, wanted)

    async def _take_down(self, numbers: Iterable[int], wanted: Wanted) -> None:
        """Remove hosts, with all that runs in those that nobody else has made."""
        going = list(numbers)
        own = [number for number in going if number not in wanted.given_back]
        names = [topology.host_namespace(self._lab, number) for number in own]
        if names:
            await in_thread(processes.kill_all, *names)
        if going:
            await in_thread(topology.remove_hosts, self._lab, going)
        for number in going:
            self._standing.pop(number, None)
            self._checking.pop(number, None)


def _numbers(wanted: Wanted) -> set[int]:
    return {host.number for host in wanted.hosts}


def reached(wanted: Wanted) -> dict[tuple[str, str], set[str]]:
    """Addresses that a VPC, or the internet, reaches by the link of an interface, by both names."""
    result: dict[tuple[str, str], set[str]] = {}
    for host in wanted.hosts:
        if host.checks_from is None:
            result.setdefault((host.vpc, host.link), set()).add(host.address)
    for node in wanted.load_balancer_nodes:
        addresses = {node.address, *(address for _, address in node.secondary)}
        result.setdefault((node.vpc, node.link), set()).update(addresses)
    for endpoint in wanted.endpoints:
        result.setdefault((endpoint.vpc, endpoint.link), set()).add(endpoint.address)
    for each in wanted.interfaces:
        if each.gateway_of is not None:
            public = {address for _, address in each.secondary}
            result[each.vpc, each.link] = public
    return result
