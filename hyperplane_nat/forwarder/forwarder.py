# SPDX-License-Identifier: Apache-2.0
"""The forwarder: an event loop that lets the packet path run and does what it leaves over.

Theory of operation
-------------------
The ring's descriptor is readable while frames wait.  Each time, one call into compiled code
drains up to a budget of frames; between calls the loop serves timers and commands, so neither
waits longer than one budget.  Left over are: frames whose next hop is unknown and ARP replies
(:mod:`neighbours`), expiry of flows and the sweep for those of removed slots, statistics of the
socket, events for the log, and the heartbeat: a loop that hangs, in a call or in a packet, beats
no more.

Everything that must outlive the process is in the state map.  The rest is configuration, which
the controller sends again, and neighbours, which are asked again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperplane_nat.engine import Engine, StateMap
from hyperplane_nat.forwarder.configuration import Configuration
from hyperplane_nat.forwarder.datapath import Datapath
from hyperplane_nat.forwarder.engine_events import messages
from hyperplane_nat.forwarder.neighbours import Neighbours
from hyperplane_nat.io.packet_socket import ReceiveRing, statistics
from hyperplane_nat.io.ring import PacketIO

__all__ = ["Forwarder"]

log = logging.getLogger(__name__)

EXPIRE_BUDGET = 4096
"""Flows examined in one go: well under a millisecond."""

SWEEP_BUDGET = 8192
"""Entries looked at in one go for flows to be ended: a fraction of a millisecond."""

_IDLE_EXPIRE_MS = 500
_BUSY_EXPIRE_MS = 64
_STATISTICS_SECONDS = 0.5
_HEARTBEAT_SECONDS = 0.2
_NEIGHBOUR_IDLE_MS = 1_000


def now_ms() -> int:
    """CLOCK_MONOTONIC in ms, the clock of the packet path."""
    return time.monotonic_ns() // 1_000_000


class Forwarder:
    """Engine, packet path and neighbours on the running loop."""

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
        discarded: str | None = None,
    ) -> None:
        """``discarded``: why the map of a predecessor could not be kept."""
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._ring = ring
        self._io = io
        self._budget = budget_frames
        self._started = time.monotonic()
        self.engine = Engine(state, now_ms=now_ms())
        self.engine.add_to_counter("forwarder_starts")
        self._datapath = Datapath(
            self.engine,
            io,
            batch_frames=batch_frames,
            spin_microseconds=spin_microseconds,
            coalesce_udp=coalesce_udp,
        )
        self._coalesces_udp = coalesce_udp
        self._discarded = discarded
        self.neighbours = Neighbours(self.engine, self._datapath.send_outside)
        self._configuration = Configuration(
            self.engine,
            self._datapath,
            self.neighbours,
            slots_max=state.slots_max,
            interfaces_max=state.interfaces_max,
        )
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.tell: Callable[[Mapping[str, Any]], None] | None = None
        """Is given the engine's events, as messages for the controller."""
        self._reading = False
        self._resuming = False

    def start(self) -> None:
        """Read the ring and start the timers."""
        self._loop.add_reader(self._io.fileno(), self._readable)
        self._reading = True
        self._beat()
        self._expire()
        self._statistics()
        self._neighbour_timer()

    def stop(self) -> None:
        """Stop reading; what is counted so far is published."""
        self._loop.remove_reader(self._io.fileno())
        self._reading = False
        for timer in self._timers.values():
            timer.cancel()
        self._publish()

    def _readable(self) -> None:
        self._datapath.run(self._budget)
        if self._datapath.busy and not self._resuming:
            # The loop serves what is due and comes back at once, without sleeping in between.
            self._resuming = True
            self._loop.call_soon(self._resume)
        punted = self._datapath.take_punted()
        if not punted:
            return
        now = now_ms()
        for item in punted:
            if item.arp:
                self.neighbours.reply(item.interface, item.frame, now)
            else:
                self.neighbours.frame(item.interface, item.frame, now)
        self._neighbour_timer()

    def _resume(self) -> None:
        self._resuming = False
        if self._reading:
            self._readable()

    def _beat(self) -> None:
        self._state.beat(now_ms())
        self._timers["heartbeat"] = self._loop.call_later(_HEARTBEAT_SECONDS, self._beat)

    def _expire(self) -> None:
        now = now_ms()
        if self.engine.expire(now, EXPIRE_BUDGET) == EXPIRE_BUDGET:
            delay = 0
        else:
            deadline = self.engine.next_deadline()
            delay = _IDLE_EXPIRE_MS if deadline is None else deadline - now
            delay = min(max(delay, _BUSY_EXPIRE_MS), _IDLE_EXPIRE_MS)
        self._timers["expire"] = self._loop.call_later(delay / 1000, self._expire)

    def _statistics(self) -> None:
        self._publish()
        for message in messages(self.engine.drain_events()):
            if self.tell is not None:
                self.tell(message)
        self._timers["statistics"] = self._loop.call_later(_STATISTICS_SECONDS, self._statistics)

    def _publish(self) -> None:
        _seen, dropped = statistics(self._ring.socket)
        self._datapath.publish(dropped)

    def _neighbour_timer(self) -> None:
        if timer := self._timers.get("neighbours"):
            timer.cancel()
        now = now_ms()
        due = self.neighbours.tick(now)
        delay = _NEIGHBOUR_IDLE_MS if due is None else min(max(due - now, 1), _NEIGHBOUR_IDLE_MS)
        self._timers["neighbours"] = self._loop.call_later(delay / 1000, self._neighbour_timer)

    def configure(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The command ``configure``: serve exactly these interfaces and slots.

        The first answer also tells why the map of a predecessor was discarded, None if it was not.
        """
        result = self._configuration.configure(arguments, now_ms())
        self._sweep()
        discarded, self._discarded = self._discarded, None
        return {**result, "discarded": discarded}

    def update(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The command ``update``: add, change and remove some interfaces and slots."""
        self._configuration.update(arguments)
        self._sweep()
        return {"retiring": self._configuration.retiring()}

    def _sweep(self) -> None:
        """End flows of what was removed, a step now and the others between batches."""
        if timer := self._timers.pop("sweep", None):
            timer.cancel()
        if self.engine.sweep(now_ms(), SWEEP_BUDGET) >= SWEEP_BUDGET:
            self._timers["sweep"] = self._loop.call_later(0, self._sweep)

    def status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """The command ``status``."""
        self._publish()
        served = self._configuration
        statm = Path("/proc/self/statm").read_text(encoding="ascii")
        resident, shared = (int(field) for field in statm.split()[1:3])
        page = os.sysconf("SC_PAGE_SIZE")
        return {
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "rss_bytes": resident * page,
            "private_bytes": (resident - shared) * page,
            "coalesces_udp": self._coalesces_udp,
            "configured": served.configured,
            "slots": len(served.slots),
            "interfaces": len(served.interfaces),
            "retiring": served.retiring(),
        }

    def verify(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """The command ``verify``: walk the flow table, with the packet path at rest."""
        return {
            "problems": self.engine.verify(),
            "entries": self._state.counters()["flows_entries_used"],
        }

    def list_neighbours(self, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """The command ``neighbours``."""
        return [
            {
                "interface": neighbour.interface,
                "address": neighbour.address,
                "state": neighbour.state.value,
                "mac": neighbour.mac.hex(":") if neighbour.mac else None,
                "waiting_frames": len(neighbour.waiting),
            }
            for neighbour in self.neighbours.entries()
        ]
