# SPDX-License-Identifier: Apache-2.0
"""The forwarder: an event loop that lets the packet path run and does what it leaves over.

Theory of operation
-------------------
The ring's descriptor is readable while frames wait. Each time, one call into compiled code
drains up to a budget of frames; between calls the loop serves timers and commands, so neither
waits longer than one budget. A long command is carried out in slices (`slices`). Left over
are: next hops that do not answer or are to be asked again, expiry of flows and the sweep for those
of removed slots, statistics of the socket, events for the log, pages of the state map that were not
touched yet, and the heartbeat: a loop that hangs, in a call or in a packet, beats no more.

Everything that must outlive the process is in the state map. The rest is configuration, which
the controller sends again, and next hops, which are asked again.

The lab's clock is CLOCK_MONOTONIC and an offset, which `advance` makes larger and which is in the
state map. The clock goes through what it is advanced by as it would have in time: what is due on
the way (the end of a flow, and then of the hold of its port) happens when it is, as exactly as the
timer does it, and then the clock goes on. Nothing due is skipped, so no flow is older than the 32
bits of its last packet can tell, however far it is.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperplane_nat.engine import Engine, StateMap
from hyperplane_nat.engine.readers.state_map import CLOCK_OFFSET_MS_MAX
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import Maps
from hyperplane_nat.forwarder.cached_keys import CachedKeys
from hyperplane_nat.forwarder.configuration import Configuration
from hyperplane_nat.forwarder.datapath import Datapath
from hyperplane_nat.forwarder.engine_events import messages
from hyperplane_nat.forwarder.recent_peak import RecentPeak
from hyperplane_nat.forwarder.slices import Work
from hyperplane_nat.forwarder.timers import Timers
from hyperplane_nat.io.packet_socket import ReceiveRing, statistics
from hyperplane_nat.io.ring import PacketIO

__all__ = ["Forwarder"]

log = logging.getLogger(__name__)

EXPIRE_BUDGET = 4096
"""Flows examined in one go: well under a millisecond."""

SWEEP_BUDGET = 8192
"""Entries looked at in one go for flows to be ended: a fraction of a millisecond."""

POPULATE_BYTES = 1 << 20
"""Of the state map, made ready in one go: a third of a millisecond."""

_IDLE_EXPIRE_MS = 500
_BUSY_EXPIRE_MS = 64
_STATISTICS_SECONDS = 0.5
_RESOLVE_IDLE_MS = 1_000
_HEARTBEAT_SECONDS = 0.2

CACHE_SWEEP_SECONDS = 1.0
"""Behind the first promotion."""


def monotonic_ms() -> int:
    """CLOCK_MONOTONIC in ms."""
    return time.monotonic_ns() // 1_000_000


def offset_ms_of(arguments: Mapping[str, Any]) -> int:
    """`clock_offset_ms` of a command, 0 if there is none; ValueError for what is no offset."""
    offset = arguments.get("clock_offset_ms", 0)
    if type(offset) is not int or not 0 <= offset <= CLOCK_OFFSET_MS_MAX:
        raise ValueError(f"clock_offset_ms is 0 to {CLOCK_OFFSET_MS_MAX}")
    return offset


class Forwarder:
    """Engine and packet path on the running loop."""

    def __init__(
        self,
        state: StateMap,
        ring: ReceiveRing,
        io: PacketIO,
        *,
        batch_frames: int,
        budget_frames: int,
        spin_microseconds: int,
        coalesce_udp: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._ring = ring
        self._io = io
        self._budget = budget_frames
        self._started = time.monotonic()
        self._offset_ms = state.clock_offset_ms
        self.engine = Engine(state, now_ms=self._now_ms())
        self.engine.add_to_counter("forwarder_starts")
        self._datapath = Datapath(
            self.engine,
            io,
            batch_frames=batch_frames,
            spin_microseconds=spin_microseconds,
            coalesce_udp=coalesce_udp,
        )
        self._datapath.clock_offset_ms = self._offset_ms
        self._coalesces_udp = coalesce_udp
        self._configuration = Configuration(
            self.engine,
            self._datapath,
            slots_max=state.slots_max,
            interfaces_max=state.interfaces_max,
            hosts_max=state.hosts_max,
        )
        self._timers = Timers(
            self._loop, lambda: self.engine.add_to_counter("forwarder_timer_failures")
        )
        self.tell: Callable[[Mapping[str, Any]], None] | None = None
        """Is given the engine's events, as messages for the controller."""
        self._cached: CachedKeys | None = None
        self._uncached: str | None = None
        self._peak = RecentPeak()
        self._populated = 0
        self._reading = self._stopped = False
        self._resuming = False
        self._resolves_at = 0

    def cache(self, maps: Maps) -> None:
        """Have established flows in the flow cache with these maps; before `configure`."""
        try:
            self._cached = CachedKeys(self.engine, maps, self._offset_ms)
        except (OSError, FlowCacheError) as error:
            self.do_without_cache(str(error))

    def do_without_cache(self, reason: str) -> None:
        """No flow is cached, although it was wanted."""
        log.warning("no flow is cached: %s", reason)
        self._uncached = reason

    def _now_ms(self) -> int:
        """The lab's clock, that of the packet path."""
        return monotonic_ms() + self._offset_ms

    def start(self) -> None:
        """Start the timers; the ring is read as soon as it is known whose the links are."""
        for name, work in (
            ("heartbeat", self._beat),
            ("expire", self._expire),
            ("statistics", self._statistics),
            ("resolve", self._resolve),
            ("populate", self._populate),
        ):
            self._timers.do(name, work)

    def stop(self) -> None:
        """Stop reading; what is counted so far is published."""
        self._loop.remove_reader(self._io.fileno())
        self._reading, self._stopped = False, True
        self._timers.cancel()
        if self._cached is not None and self._cached.flows.settled:
            # What is counted in the kernel goes on; what was counted so far is in the map.
            self._cached.flows.sweep(self._now_ms())
        self._publish()

    def _readable(self) -> None:
        self._datapath.run(self._budget)
        if self._datapath.busy and not self._resuming:
            # The loop serves what is due and comes back at once, without sleeping in between.
            self._resuming = True
            self._loop.call_soon(self._resume)
        if self._datapath.due < self._resolves_at:
            self._timers.do("resolve", self._resolve)
        self._follow_cache()

    def _follow_cache(self) -> None:
        """Change keys of cached flows, if there are any to be changed."""
        if self._cached is not None and self._cached.flows.changing:
            self._timers.do("keys", self._cached.change)
            self._timers.begin("cache", self._sweep_cache, CACHE_SWEEP_SECONDS)

    def _sweep_cache(self) -> float | None:
        assert self._cached is not None
        delay = self._cached.sweep(self._now_ms())
        if self._cached.flows.changing:
            self._timers.do("keys", self._cached.change)
        return delay

    def _resume(self) -> None:
        self._resuming = False
        if self._reading:
            self._readable()

    def _beat(self) -> float:
        self._state.beat(monotonic_ms())
        return _HEARTBEAT_SECONDS

    def _expire(self) -> float:
        now = self._now_ms()
        examined = self.engine.expire(now, EXPIRE_BUDGET)
        self._follow_cache()
        if examined == EXPIRE_BUDGET:
            return 0
        return min(self._until_deadline(now), _IDLE_EXPIRE_MS) / 1000

    def _until_deadline(self, now: int) -> int:
        deadline = self.engine.next_deadline()
        return CLOCK_OFFSET_MS_MAX if deadline is None else max(deadline - now, _BUSY_EXPIRE_MS)

    def _populate(self) -> float | None:
        """Make the pages of the state map ready, a step now and the others between batches."""
        try:
            self._populated = self._state.populate(self._populated, POPULATE_BYTES)
        except OSError as error:
            log.info("pages of the state map are made ready by their first use: %s", error)
            return None
        return 0 if self._populated < self._state.bytes else None

    def _statistics(self) -> float:
        self._publish()
        for message in messages(self.engine.drain_events()):
            if self.tell is not None:
                self.tell(message)
        return _STATISTICS_SECONDS

    def _publish(self) -> None:
        _seen, dropped = statistics(self._ring.socket)
        peak = self._peak.add(self._datapath.take_peak(), time.monotonic())
        self._datapath.publish(dropped, peak)

    def _resolve(self) -> float:
        """Ask for next hops, and give up those that do not answer."""
        now = self._now_ms()
        due = self._datapath.resolve(now)
        idle = now + _RESOLVE_IDLE_MS
        self._resolves_at = idle if due is None else min(due, idle)
        return max(self._resolves_at - now, 1) / 1000

    def configure(self, arguments: dict[str, Any]) -> Work[dict[str, Any]]:
        """The command ``configure``: serve these interfaces and slots.

        The collector would go through thousands of them at one go, which takes longer than a slice;
        what is served lives long, and is kept from it.
        """
        offset_ms = offset_ms_of(arguments)
        arguments.pop("clock_offset_ms", None)
        gc.disable()
        try:
            yield from self._configuration.configure(arguments, self._now_ms())
        finally:
            if arguments.get("everything"):
                gc.freeze()
            gc.enable()
        self._timers.do("sweep", self._sweep)
        if not (self._reading or self._stopped):
            # What came before waits in the ring: it would be refused as of unknown links.
            self._loop.add_reader(self._io.fileno(), self._readable)
            self._reading = True
        if self._cached is not None:
            if self._configuration.configured:
                self._cached.flows.settle()
            self._timers.begin("cache", self._sweep_cache, 0)
        yield from self._go_to(offset_ms)
        return self._configuration.describe()

    def end_flows(self, arguments: dict[str, Any]) -> Work[dict[str, int]]:
        """The command ``end_flows``: those of a load balancer's listener to one of its targets."""
        return (
            yield from self._configuration.end_flows(
                arguments, self._state.entries_watermark, self._now_ms()
            )
        )

    def advance(self, arguments: dict[str, Any]) -> Work[dict[str, Any]]:
        """The command ``advance``: the lab's clock is to be ``clock_offset_ms`` ahead, or more."""
        yield from self._go_to(offset_ms_of(arguments))
        return {"clock_offset_ms": self._offset_ms}

    def _go_to(self, offset_ms: int) -> Work[None]:
        """Have the lab's clock so far ahead, and done what is due until then."""
        if offset_ms <= self._offset_ms:
            return
        while True:
            now = self._now_ms()
            if self.engine.expire(now, EXPIRE_BUDGET) < EXPIRE_BUDGET:
                if self._offset_ms == offset_ms:
                    break
                self._step(min(self._until_deadline(now), offset_ms - self._offset_ms))
            yield
        self._timers.do("expire", self._expire)
        self._timers.do("resolve", self._resolve)

    def _step(self, milliseconds: int) -> None:
        offset = self._offset_ms + milliseconds
        # First where a successor finds it: no packet is met by two clocks.
        self._state.advance_clock(offset)
        self._datapath.clock_offset_ms = self._offset_ms = offset
        if self._cached is not None:
            self._cached.flows.set_clock(offset)

    def _sweep(self) -> float | None:
        """End flows of what was removed, a step now and the others between batches."""
        used = self.engine.sweep(self._now_ms(), SWEEP_BUDGET)
        self._follow_cache()
        return 0 if used >= SWEEP_BUDGET else None

    def status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """The command ``status``."""
        self._publish()
        statm = Path("/proc/self/statm").read_text(encoding="ascii")
        resident, shared = (int(field) for field in statm.split()[1:3])
        page = os.sysconf("SC_PAGE_SIZE")
        return {
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "rss_bytes": resident * page,
            "private_bytes": (resident - shared) * page,
            "coalesces_udp": self._coalesces_udp,
            "flow_cache": self._describe_cache(),
            "configured": self._configuration.configured,
            **self._configuration.describe(),
        }

    def _describe_cache(self) -> dict[str, Any] | None:
        if self._cached is None and self._uncached is None:
            return None
        counters = self._state.counters()
        packets = counters["packets_in_from_source"] + counters["packets_in_from_destination"]
        flows = None if self._cached is None else self._cached.flows
        return {
            "flows": 0 if flows is None else flows.used,
            "room": 0 if flows is None else flows.room,
            "hit_ratio": round(counters["flow_cache_packets"] / packets, 4) if packets else 0.0,
            "problem": self._uncached,
        }

    def verify(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """The command ``verify``: walk the flow table, with the packet path at rest."""
        return {
            "problems": self.engine.verify()
            + ([] if self._cached is None else self._cached.verify()),
            "entries": self._state.counters()["flows_entries_used"],
        }

    def list_neighbours(self, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """The command ``neighbours``."""
        return [
            hop._asdict() | {"state": hop.state.name.lower()} for hop in self.engine.next_hops()
        ]
