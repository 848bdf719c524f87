# SPDX-License-Identifier: Apache-2.0
"""What happens to one packet: the decisions of the network between the ends, without any packet.

A `Line` decides for one conversation on one side of the NAT. Every decision is drawn from a
generator of its own, seeded by the conversation, the side and the direction: the n-th packet of a
direction fares the same in both worlds and in every repetition. Where the two NATs choose another
port outside, one world has a few packets more, and everything after them another fate.
"""

from __future__ import annotations

import random
from collections import Counter

from tests.differential.conversation import End, Impairment, Segment

FIN, SYN, RST, ACK = 1, 2, 4, 16

OPENING_LOSSES = 1
"""Of a connection's opening, from its SYN to the first data or FIN, chance takes at most so many
packets at a side; those that a fault has taken count. Why: see the package."""


def segment_of(flags: int, payload_bytes: int) -> Segment:
    """The kind of a segment by its flags and how much data it carries."""
    if flags & RST:
        return Segment.RST
    if flags & SYN:
        return Segment.SYN_ACK if flags & ACK else Segment.SYN
    if flags & FIN:
        return Segment.FIN
    return Segment.DATA if payload_bytes else Segment.ACK


class Line:
    """One conversation on one side of the NAT."""

    def __init__(self, impairment: Impairment, key: str, side: End) -> None:
        self._impairment = impairment
        self._faults = tuple(each for each in impairment.faults if each.side is side)
        self._draws = {end: random.Random(f"{key}/{side}/{end}") for end in End}
        self._seen: Counter[tuple[End, Segment]] = Counter()
        self._opening = False
        self._missing = 0
        """Packets of this opening that were lost here."""

    def fate(self, sender: End, segment: Segment, payload_bytes: int) -> tuple[float, ...]:
        """By how many seconds each copy of the packet is late: () when it is lost."""
        number = self._seen[sender, segment]
        self._seen[sender, segment] += 1
        # Drawn whatever comes of it, so that a fault does not change the fate of what follows.
        lost, twice, late, by = (self._draws[sender].random() for _ in range(4))
        if segment in (Segment.DATA, Segment.FIN):
            self._opening = False
        elif segment is Segment.SYN and not self._opening:
            self._opening, self._missing = True, 0
        for fault in self._faults:
            if (
                fault.sender is sender
                and fault.segment is segment
                and fault.first <= number < fault.first + fault.count
            ):
                if fault.delay_seconds:
                    return (fault.delay_seconds,)
                self._missing += 1
                return ()
        given = self._impairment
        # Two sides: half of it here.
        if lost < given.loss / 2 and self._may_lose(segment):
            self._missing += 1
            return ()
        delay = by * given.delay_seconds if late < given.reorder / 2 else 0.0
        fast_open = segment is Segment.SYN and payload_bytes > 0
        if twice < given.duplicate / 2 and not fast_open:
            return (delay, by * given.delay_seconds)
        return (delay,)

    def _may_lose(self, segment: Segment) -> bool:
        """Whether chance may."""
        if self._opening and self._missing >= OPENING_LOSSES:
            return False
        return segment is not Segment.RST
