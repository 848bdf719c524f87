# SPDX-License-Identifier: Apache-2.0
"""Next hops as the gateway gets to know them (RFC 826, RFC 1122 section 2.3.2).

Written as a list of rules about one host; how many of them there may be is not modelled.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tests.reference.settings import Interface, NeighbourSettings


@dataclass
class Neighbour:
    """What is known of a next hop; `mac` is None while frames wait for it."""

    mac: bytes | None = None
    failed: bool = False
    waiting: list[tuple[bytes, int]] = field(default_factory=list)
    """Frames, and how many segments each will be."""
    tries: int = 0
    """Questions since the last answer."""
    asking: bool = True
    """Whether a question is out, or will be when `due`."""
    due: int | None = None
    """When something happens by itself; None is at once."""
    open_until: int = 0
    renamed: bool = False
    everybody: bool = False
    used: bool = False


class Neighbours:
    """The next hops of all interfaces."""

    def __init__(self) -> None:
        self.settings = NeighbourSettings()
        self.known: dict[tuple[int, IPv4Address], Neighbour] = {}
        self.requests = self.failures = self.lost = 0

    def learn(self, interface: int, address: IPv4Address, mac: bytes, now: int) -> list[bytes]:
        """A next hop has this MAC address; returns the frames that leave for it."""
        neighbour = self.known.setdefault((interface, address), Neighbour())
        neighbour.renamed = neighbour.renamed or mac != (neighbour.mac or bytes(6))
        neighbour.mac, neighbour.failed = mac, False
        neighbour.asking = neighbour.everybody = False
        neighbour.tries = 0
        neighbour.due = now + self.settings.reachable_ms
        waiting, neighbour.waiting = neighbour.waiting, []
        return [mac + frame[6:] for frame, _ in waiting]

    def forget(self, interface: int, address: IPv4Address) -> None:
        """Nothing is known any more; what waits is lost."""
        if neighbour := self.known.pop((interface, address), None):
            self._lose(neighbour)

    def _lose(self, neighbour: Neighbour) -> None:
        """What waits is dropped."""
        self.lost += sum(segments for _, segments in neighbour.waiting)
        neighbour.waiting = []

    def answered(self, interface: int, address: IPv4Address, mac: bytes, now: int) -> bool:
        """Whether an ARP reply is an answer that is believed."""
        neighbour = self.known.get((interface, address))
        if neighbour is None or neighbour.failed:
            return False
        open_question = neighbour.tries > 0 or now < neighbour.open_until
        return open_question and (not neighbour.renamed or mac == neighbour.mac)

    def hinted(self, interface: int, address: IPv4Address, mac: bytes, now: int) -> None:
        """A host says of itself, unasked, that the address is there."""
        neighbour = self.known.get((interface, address))
        if neighbour is None or neighbour.mac in (mac,):
            return
        if neighbour.mac is None and not neighbour.failed:
            return
        neighbour.everybody, neighbour.failed = True, False
        if neighbour.asking:
            return
        neighbour.asking, neighbour.tries = True, 0
        early = now < neighbour.open_until
        neighbour.due = now + self.settings.retry_ms if early else None

    def asked_at_once(self, interfaces: dict[int, Interface], now: int) -> list[tuple[int, bytes]]:
        """The questions that what has just happened leads to."""
        return [
            self._ask(key, interfaces[key[0]], now)
            for key, neighbour in self.known.items()
            if neighbour.due is None
        ]

    def tick(self, interfaces: dict[int, Interface], now: int) -> list[tuple[int, bytes]]:
        """Everything that is due; the questions that are asked, by interface."""
        questions = []
        for key, neighbour in list(self.known.items()):
            if neighbour.due is not None and neighbour.due > now:
                continue
            if neighbour.failed or not (
                neighbour.tries < self.settings.attempts if neighbour.asking else neighbour.used
            ):
                self._ended(key, neighbour, now)
            else:
                neighbour.asking = True
                questions.append(self._ask(key, interfaces[key[0]], now))
        return questions

    def _ended(self, key: tuple[int, IPv4Address], neighbour: Neighbour, now: int) -> None:
        if neighbour.failed or neighbour.mac is not None:
            self.forget(*key)
            return
        self._lose(neighbour)
        self.failures += 1
        neighbour.failed, neighbour.asking, neighbour.tries = True, False, 0
        neighbour.due = now + self.settings.failed_ms

    def _ask(
        self, key: tuple[int, IPv4Address], interface: Interface, now: int
    ) -> tuple[int, bytes]:
        neighbour = self.known[key]
        self.requests += 1
        neighbour.tries += 1
        neighbour.used = neighbour.renamed = False
        neighbour.due = neighbour.open_until = now + self.settings.retry_ms
        target = None if neighbour.everybody else neighbour.mac
        return key[0], (
            (target or b"\xff" * 6)
            + interface.mac
            + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
            + interface.mac
            + interface.address.packed
            + (target or bytes(6))
            + key[1].packed
        )
