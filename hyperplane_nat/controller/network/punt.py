# SPDX-License-Identifier: Apache-2.0
"""The flow cache's program on all links of a lab's gateway, which leads to the punt link.

Theory of operation
-------------------
Where `forwarder.flow_cache` is on and the kernel has what it takes, every link of an attachment has
the program at its ingress, with the attachment's number in the state map, and the forwarder's ring
is at the far end of the punt link (`netns.punt`). Else neither is there, and the ring is on the
links. What a former controller has left of the other way is taken away, right before a forwarder
begins that receives in this one (`prepare`).

A link gets the program when it has been made. Until then nothing passes it: `netns.ingress` is
behind the program. A look every second at some of the links puts back what somebody has taken off;
after `LOOKS` of them all links have been looked at, and the punt link. So is whether hits have to
leave by a link's near end (`flow_cache.shortcuts`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from hyperplane_nat import flow_cache
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.engine.readers.state_map import HOSTS_MAX, INTERFACES_MAX, SLOTS_MAX
from hyperplane_nat.flow_cache.errors import FlowCacheError
from netns import NetnsError, ingress, links, namespace, syscalls, topology
from netns.interior import route_socket
from netns.netlink import RouteSocket
from netns.topology import Host, Slot

if TYPE_CHECKING:
    from hyperplane_nat.flow_cache.program import FlowCache
    from hyperplane_nat.flow_cache.shortcuts import Shortcuts

LOOK_SECONDS = 1.0
LOOKS = 10
ATTACHMENTS = SLOTS_MAX + INTERFACES_MAX + HOSTS_MAX
"""Numbers that attachments may have."""

log = logging.getLogger(__name__)


def slots(standing: Iterable[Slot]) -> dict[int, int]:
    """The numbers of environments' attachments, by the index of the link."""
    return {slot.ifindex: slot.number for slot in standing}


def interfaces(numbers: Mapping[int, int]) -> dict[int, int]:
    """Those of network interfaces, whose own numbers are given by the index of the link."""
    return {index: SLOTS_MAX + number for index, number in numbers.items()}


def hosts(standing: Iterable[Host]) -> dict[int, int]:
    """Those of hosts."""
    return {host.ifindex: SLOTS_MAX + INTERFACES_MAX + host.number for host in standing}


def lacking() -> Sequence[object]:
    """What the kernel lacks for the flow cache."""
    return flow_cache.probe.missing()


class Punt:
    """Whether a lab's links lead to the punt link, and that they do. Methods block, but `start`."""

    def __init__(
        self,
        lab: str,
        *,
        wanted: bool,
        flows: int = 1,
        missing: Callable[[], Sequence[object]] = lacking,
        on_restored: Callable[[str], None] = lambda _what: None,
    ) -> None:
        """There is room for so many `flows` in the cache; `missing` tells what the kernel lacks;
        `on_restored` is told what was put back.
        """
        self._lab = lab
        self._flows = flows
        self.missing = tuple(map(str, missing())) if wanted else ()
        """What the kernel lacks for what is wanted."""
        self.on = wanted and not self.missing
        self._on_restored = on_restored
        self._numbers: dict[int, int] = {}
        """Of attachments, by the index of their link."""
        self._cache: FlowCache | None = None
        self._route: RouteSocket | None = None
        self._shortcuts: Shortcuts | None = None
        self._near = 0
        self._lock = threading.Lock()
        self._unseen: list[int] = []
        self._task: asyncio.Task[None] | None = None

    def attach(self, numbers: Mapping[int, int]) -> None:
        """These links are there, of attachments with these numbers; NetnsError.

        Before `prepare` they are remembered, and have the program after it.
        """
        if not self.on:
            return
        with self._lock:
            self._numbers |= numbers
            if self._cache is not None and self._route is not None:
                self._cache.attach(self._route, numbers)
            if self._shortcuts is not None:
                self._shortcuts.decide(numbers)

    def prepare(self) -> str:
        """Have all links as a forwarder needs them; the name of the namespace that it receives in.

        Twice is fine. Raises `NetnsError`, and ControllerError when the program cannot be loaded.
        """
        gateway = topology.gateway_namespace(self._lab)
        if not self.on:
            _take_away(self._lab)
            return gateway
        with self._lock:
            self._near = topology.make_punt_link(self._lab)
            if self._cache is not None:
                self._cache.maps.set_punt(self._near)
            else:
                self._load(namespace.call(gateway, RouteSocket))
        return topology.punt_namespace(self._lab)

    def _load(self, route: RouteSocket) -> None:
        try:
            cache = self._found(route) or flow_cache.program.FlowCache.load(
                flows=self._flows, attachments=ATTACHMENTS
            )
            try:
                cache.maps.set_punt(self._near)
                standing = {link.index for link in links.links(route).values()}
                self._numbers = {
                    index: number for index, number in self._numbers.items() if index in standing
                }
                ingress.put_behind(route, self._numbers)
                cache.attach(route, self._numbers)
                shortcuts = flow_cache.shortcuts.Shortcuts(
                    topology.gateway_namespace(self._lab), cache.maps, route
                )
                shortcuts.decide(self._numbers)
            except BaseException:
                cache.close()
                raise
        except FlowCacheError as error:
            route.close()
            raise ControllerError(" ".join(str(error).split())) from None
        except BaseException:
            route.close()
            raise
        self._cache, self._route, self._shortcuts = cache, route, shortcuts

    def _found(self, route: RouteSocket) -> FlowCache | None:
        """What a former controller has loaded, if this one would load the same: with all in it."""
        with flow_cache.program.FlowCache.load(flows=1, attachments=1) as ours:
            tag = ours.tag
        for index in self._numbers:
            try:
                cache = flow_cache.program.find(route, index)
            except FlowCacheError:
                return None
            if cache is None:
                continue
            room = cache.maps.flows, cache.maps.attachments
            if (cache.tag, *room) == (tag, self._flows, ATTACHMENTS):
                return cache
            cache.close()
            return None
        return None

    def opened(self) -> dict[str, int]:
        """The maps' descriptors by name, for a forwarder to keep; none where there is no cache."""
        with self._lock:
            if self._cache is None:
                return {}
            return {name: os.dup(each) for name, each in self._cache.maps.descriptors.items()}

    def look(self) -> list[str]:
        """Put the program back on those of some links that have lost it; NetnsError.

        What was done, a line each.
        """
        with self._lock:
            if self._cache is None or self._route is None or self._shortcuts is None:
                return []
            done = []
            self._cache.maps.grant(syscalls.wait_for_grace_period)
            self._shortcuts.look_at_taps(self._numbers)
            if not self._unseen:
                self._unseen = list(self._numbers)
                self._shortcuts.look_at_queues()
                done += self._punt_link_made_whole(self._cache)
            count = -(-len(self._numbers) // LOOKS)
            looked, self._unseen = self._unseen[:count], self._unseen[count:]
            for index in looked:
                wanted = flow_cache.program.Attached(self._cache.id, self._numbers[index])
                if flow_cache.program.attached(self._route, index) == wanted:
                    continue
                try:
                    self._cache.attach(self._route, {index: wanted.attachment})
                except NetnsError:
                    # The link is gone, as links go.
                    del self._numbers[index]
                else:
                    done.append(f"link {index} had lost the flow cache's program: put back")
            standing = {each: self._numbers[each] for each in looked if each in self._numbers}
            self._shortcuts.decide(standing)
            return done

    def _punt_link_made_whole(self, cache: FlowCache) -> list[str]:
        # In another namespace nobody would listen: the next forwarder makes that.
        if not namespace.is_complete(topology.punt_namespace(self._lab)):
            return []
        near = topology.make_punt_link(self._lab)
        if near == self._near:
            return []
        self._near = near
        cache.maps.set_punt(near)
        return ["the punt link was not whole: it is made anew"]

    def start(self) -> None:
        """Look from now on."""
        if self.on:
            self._task = asyncio.create_task(self._keep(), name="punt")

    async def stop(self) -> None:
        """End looking, and let go of the program; links keep it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        with self._lock:
            if self._cache is not None:
                self._cache.close()
            if self._route is not None:
                self._route.close()
            if self._shortcuts is not None:
                self._shortcuts.close()
            self._cache = self._route = self._shortcuts = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                for what in await in_thread(self.look):
                    self._on_restored(what)
            except NetnsError as error:
                log.error("cannot look at the links' programs: %s", error)


def _take_away(lab: str) -> None:
    """Remove the punt link and all that leads to it, where there is one."""
    if not namespace.exists(topology.punt_namespace(lab)):
        return
    with route_socket(topology.gateway_namespace(lab)) as route:
        for link in links.links(route).values():
            with contextlib.suppress(NetnsError):
                flow_cache.program.detach(route, link.index)
    topology.remove_punt_link(lab)
