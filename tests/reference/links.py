# SPDX-License-Identifier: Apache-2.0
"""The part of the oracle that knows of links: what leaves on them, and the next hops in the VPC."""

from collections.abc import Iterable
from ipaddress import IPv4Address

from tests.reference import packet
from tests.reference.errors import DroppedError
from tests.reference.neighbours import Neighbour, Neighbours
from tests.reference.packet import Datagram
from tests.reference.result import FORWARD, HOLD, Result
from tests.reference.sizes import SizeRules
from tests.reference.tracker import INSIDE, OUTSIDE


def questions(asked: Iterable[tuple[int, bytes]]) -> list[Result]:
    """What leaves when these are asked, by interface."""
    return [Result(FORWARD, None, OUTSIDE, interface, frame) for interface, frame in asked]


class LinkRules(SizeRules):
    """Rules about what leaves, on which link and in how many frames."""

    def __init__(self) -> None:
        super().__init__()
        self.neighbours = Neighbours()

    def set_neighbour(
        self, interface: int, address: IPv4Address, mac: bytes | None, now: int
    ) -> list[Result]:
        """A next hop is known, or with None is forgotten; what leaves for it."""
        if mac is None:
            self.neighbours.forget(interface, address)
            return []
        frames = self.neighbours.learn(interface, address, mac, now)
        return [Result(FORWARD, None, OUTSIDE, interface, frame) for frame in frames]

    def resolve(self, now: int) -> list[Result]:
        """Do what is due about next hops; the questions that are asked."""
        return questions(self.neighbours.tick(self.interfaces, now))

    def _leaving(self, datagram: Datagram, number: int, partial: bool = False) -> Result:
        parts = self._in_pieces(datagram, self.interfaces[number].mtu, partial)
        left: list[Result] = []
        for pieces in parts:
            try:
                left.append(self._leaving_whole(pieces[0], number))
            except DroppedError as drop:
                if not left:
                    raise
                self._dropped(str(drop))
                continue
            self._count("packets_fragmented", len(pieces) > 1)
            for each in pieces[1:]:
                try:
                    left.append(self._leaving_whole(each, number))
                except DroppedError as drop:
                    self._dropped(str(drop))
        first, *others = left
        self.extra += others
        return first

    def _dropped(self, reason: str, times: int = 1) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + times

    def _leaving_whole(self, datagram: Datagram, number: int) -> Result:
        """Send to the next hop on the VPC's side; wait while its MAC address is unknown."""
        number = self._primary(number)
        interface = self.interfaces[number]
        local = datagram.destination in interface.subnet
        next_hop = datagram.destination if local else interface.router
        neighbour = self.neighbours.known.setdefault((number, next_hop), Neighbour())
        header = (neighbour.mac or packet.ZERO_MAC) + interface.mac + b"\x08\x00"
        frame = header + datagram.packed()
        if neighbour.failed:
            raise DroppedError("neighbour_failed")
        if neighbour.mac is not None:
            neighbour.used = True
        elif len(neighbour.waiting) >= self.neighbours.settings.queue_frames:
            raise DroppedError("neighbour_queue_full")
        else:
            neighbour.waiting.append((frame, len(datagram.segments())))
        self._count_passage("out_to_destination", datagram)
        action = HOLD if neighbour.mac is None else FORWARD
        return Result(action, None, OUTSIDE, number, frame)

    def _entering(self, datagram: Datagram, number: int, partial: bool = False) -> Result:
        slot = self.slots[number]
        if slot.silent:
            raise DroppedError("environment_frozen")
        header = slot.environment_mac + slot.gateway_mac + b"\x08\x00"
        parts = self._in_pieces(datagram, slot.mtu, partial)
        left = []
        for pieces in parts:
            self._count("packets_fragmented", len(pieces) > 1)
            for each in pieces:
                self._count_passage("out_to_source", each)
                left.append(Result(FORWARD, None, INSIDE, number, header + each.packed()))
        first, *others = left
        self.extra += others
        return first
