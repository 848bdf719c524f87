# SPDX-License-Identifier: Apache-2.0
"""Resolving the next hops of network interfaces.

Theory of operation
-------------------
The engine holds a table of next hops that the packet path reads; this module decides what stands
in it.  A frame for an unknown next hop arrives here, already translated, and waits::

    (nothing) --frame--> INCOMPLETE --reply--> REACHABLE --age--> probing --reply--> REACHABLE
                             |                                       |
                             +--attempts used up--> FAILED           +--attempts--> (nothing)
                                                      |
                                                      +--failed_ms--> (nothing)

While INCOMPLETE the engine admits ``queue_frames`` frames and drops the rest; in FAILED it drops
all, so that traffic to a dead address costs one question every ``failed_ms``.  A reachable
neighbour is asked again, by unicast, when its answer is ``reachable_ms`` old and it was used since;
an unused one is forgotten.  Only answers to our own questions are believed.

The clock is a parameter; nothing here sends or waits by itself.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hyperplane_nat.forwarder import arp

__all__ = ["Neighbour", "NeighbourSettings", "NeighbourState", "Neighbours", "Uplink"]

log = logging.getLogger(__name__)


WAITING_BYTES_MAX = 8 << 20
"""What all queues together may hold: many dead addresses must not fill the memory."""


class NeighbourState(Enum):
    """What is known of a next hop."""

    INCOMPLETE = "incomplete"
    REACHABLE = "reachable"
    PROBING = "probing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourSettings:
    """Times in milliseconds."""

    reachable_ms: int = 30_000
    retry_ms: int = 1_000
    attempts: int = 3
    failed_ms: int = 3_000
    queue_frames: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """What this module must know of a network interface."""

    number: int
    address: str
    mac: bytes
    subnet: ipaddress.IPv4Network
    router: str
    secondary: tuple[str, ...] = ()

    def next_hop(self, destination: str) -> str:
        """The host itself when it is in the subnet, the subnet's router otherwise."""
        return destination if ipaddress.IPv4Address(destination) in self.subnet else self.router


@dataclass(slots=True)
class Neighbour:
    """A next hop; ``due_ms`` is when something is to be done about it."""

    interface: int
    address: str
    state: NeighbourState
    due_ms: int
    mac: bytes | None = None
    attempts: int = 0
    waiting: list[bytes] = field(default_factory=list)


class NeighbourTable(Protocol):
    """The part of the engine that this module drives."""

    def set_neighbour(self, interface: int, address: str, mac: str | None) -> None: ...
    def fail_neighbour(self, interface: int, address: str) -> None: ...
    def probe_neighbour(self, interface: int, address: str) -> bool: ...
    def set_neighbour_queue(self, frames: int) -> None: ...
    def add_to_counter(self, name: str, amount: int = 1) -> None: ...


class Neighbours:
    """The neighbour cache of one forwarder."""

    def __init__(
        self,
        table: NeighbourTable,
        send: Callable[[int, bytes], None],
        settings: NeighbourSettings | None = None,
    ) -> None:
        """``send(interface, frame)`` sends a frame with virtio-net header."""
        self._table = table
        self._send = send
        self._settings = settings or NeighbourSettings()
        self._uplinks: dict[int, Uplink] = {}
        self._known: dict[tuple[int, str], Neighbour] = {}
        self._waiting_bytes = 0

    def configure(self, settings: NeighbourSettings, uplinks: Mapping[int, Uplink]) -> None:
        """Set times and interfaces; interfaces that are new or changed announce themselves."""
        self._settings = settings
        self._table.set_neighbour_queue(settings.queue_frames)
        for key in [key for key in self._known if uplinks.get(key[0]) != self._uplinks.get(key[0])]:
            self._forget(self._known[key])
        for number, uplink in uplinks.items():
            if self._uplinks.get(number) != uplink:
                for address in (uplink.address, *uplink.secondary):
                    self._send(number, arp.announcement(mac=uplink.mac, address=address))
        self._uplinks = dict(uplinks)

    def entries(self) -> list[Neighbour]:
        """Every neighbour, in no order."""
        return list(self._known.values())

    def frame(self, interface: int, frame: bytes, now_ms: int) -> None:
        """A translated frame whose next hop the engine did not know."""
        uplink = self._uplinks.get(interface)
        if uplink is None:
            self._table.add_to_counter("drop_neighbour_failed")
            return
        header = arp.VNET_BYTES + 14
        destination = str(ipaddress.IPv4Address(frame[header + 16 : header + 20]))
        hop = uplink.next_hop(destination)
        neighbour = self._known.get((interface, hop))
        if neighbour is None:
            neighbour = Neighbour(interface, hop, NeighbourState.INCOMPLETE, now_ms)
            self._known[interface, hop] = neighbour
        if self._waiting_bytes + len(frame) > WAITING_BYTES_MAX:
            self._table.add_to_counter("drop_neighbour_queue_full")
        else:
            self._waiting_bytes += len(frame)
            neighbour.waiting.append(frame)
        if neighbour.state is NeighbourState.INCOMPLETE and neighbour.attempts == 0:
            self._ask(neighbour, uplink, now_ms)

    def reply(self, interface: int, frame: bytes, now_ms: int) -> None:
        """An ARP reply that the engine let through: it answers a question of ours."""
        answer = arp.parse_reply(frame)
        neighbour = self._known.get((interface, answer.address))
        if neighbour is None or neighbour.state not in (
            NeighbourState.INCOMPLETE,
            NeighbourState.PROBING,
        ):
            return
        if neighbour.mac is not None and neighbour.mac != answer.mac:
            log.info("neighbour %s moved to %s", answer.address, answer.mac.hex(":"))
        neighbour.state = NeighbourState.REACHABLE
        neighbour.mac = answer.mac
        neighbour.attempts = 0
        neighbour.due_ms = now_ms + self._settings.reachable_ms
        self._table.set_neighbour(interface, answer.address, answer.mac.hex(":"))
        for held in self._take_waiting(neighbour):
            self._send(interface, held[: arp.VNET_BYTES] + answer.mac + held[arp.VNET_BYTES + 6 :])

    def tick(self, now_ms: int) -> int | None:
        """Do what is due; returns when something will be due next, in ms, or None."""
        for neighbour in [n for n in self._known.values() if n.due_ms <= now_ms]:
            self._due(neighbour, now_ms)
        return min((n.due_ms for n in self._known.values()), default=None)

    def _due(self, neighbour: Neighbour, now_ms: int) -> None:
        uplink = self._uplinks.get(neighbour.interface)
        if uplink is None or neighbour.state is NeighbourState.FAILED:
            self._forget(neighbour)
        elif neighbour.state is NeighbourState.REACHABLE:
            if self._table.probe_neighbour(neighbour.interface, neighbour.address):
                neighbour.state = NeighbourState.PROBING
                self._ask(neighbour, uplink, now_ms)
            else:
                self._forget(neighbour)
        elif neighbour.attempts < self._settings.attempts:
            self._ask(neighbour, uplink, now_ms)
        elif neighbour.state is NeighbourState.PROBING:
            self._forget(neighbour)
        else:
            self._fail(neighbour, now_ms)

    def _ask(self, neighbour: Neighbour, uplink: Uplink, now_ms: int) -> None:
        neighbour.attempts += 1
        neighbour.due_ms = now_ms + self._settings.retry_ms
        self._table.add_to_counter("neighbour_requests")
        self._send(
            neighbour.interface,
            arp.request(
                mac=uplink.mac,
                address=uplink.address,
                target=neighbour.address,
                target_mac=neighbour.mac,
            ),
        )

    def _fail(self, neighbour: Neighbour, now_ms: int) -> None:
        neighbour.state = NeighbourState.FAILED
        neighbour.due_ms = now_ms + self._settings.failed_ms
        self._table.fail_neighbour(neighbour.interface, neighbour.address)
        self._table.add_to_counter("neighbour_failures")
        self._discard(neighbour)

    def _forget(self, neighbour: Neighbour) -> None:
        del self._known[neighbour.interface, neighbour.address]
        self._table.set_neighbour(neighbour.interface, neighbour.address, None)
        self._discard(neighbour)

    def _discard(self, neighbour: Neighbour) -> None:
        if lost := len(self._take_waiting(neighbour)):
            self._table.add_to_counter("drop_neighbour_failed", lost)

    def _take_waiting(self, neighbour: Neighbour) -> list[bytes]:
        waiting, neighbour.waiting = neighbour.waiting, []
        self._waiting_bytes -= sum(map(len, waiting))
        return waiting
