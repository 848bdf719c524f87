# SPDX-License-Identifier: Apache-2.0
"""Identifications of what leaves from an address of ours (RFC 6864, RFC 7857 section 9)."""

from collections import deque
from dataclasses import replace
from ipaddress import IPv4Address

from tests.reference import packet
from tests.reference.errors import IllegalChoiceError
from tests.reference.packet import Datagram

Key = tuple[IPv4Address, IPv4Address, int]
"""Source, destination and protocol of what a receiver puts together."""

DONT_FRAGMENT = 0x4000
RECENT = 10_000
"""So many given last are not given again, of 65,536 that there are."""


def key_of(datagram: Datagram) -> Key:
    """Whose identifications those of a translated packet must be unique among."""
    return datagram.source, datagram.destination, datagram.protocol


def is_atomic(datagram: Datagram) -> bool:
    """Neither a fragment nor to become some (RFC 6864 section 4)."""
    return packet.word(datagram.header, 6) & 0x7FFF == DONT_FRAGMENT


def number_of(datagram: Datagram) -> int:
    """The identification of a packet."""
    return packet.word(datagram.header, 4)


class Identifications:
    """Which identifications were given; `chosen` is what the engine chose for the next one."""

    def __init__(self) -> None:
        self.chosen: int | None = None
        self._given: dict[Key, deque[int]] = {}
        self._held: dict[Key, set[int]] = {}
        self._own: dict[Key, int] = {}

    def identified(self, datagram: Datagram) -> Datagram:
        """A translated packet with the identification that it leaves with."""
        if is_atomic(datagram):
            return datagram
        key = key_of(datagram)
        if self.chosen is None:
            number = self._own.get(key, 0)
            self._own[key] = number + 1
            return numbered(datagram, number)
        number = self.chosen
        given = self._given.setdefault(key, deque(maxlen=RECENT))
        if number in given or number in self._held.get(key, ()):
            raise IllegalChoiceError(f"identification {number} of {key} is another datagram's")
        given.append(number)
        return numbered(datagram, number)

    def hold(self, key: Key, number: int) -> None:
        """A datagram was begun that keeps its identification until it is whole or given up."""
        self._held.setdefault(key, set()).add(number)

    def release(self, key: Key, number: int) -> None:
        self._held[key].remove(number)


def numbered(datagram: Datagram, number: int) -> Datagram:
    """The same packet with another identification."""
    header = packet.with_word(datagram.header, 4, number)
    return replace(datagram, header=packet.sealed_header(header))
