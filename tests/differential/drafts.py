# SPDX-License-Identifier: Apache-2.0
"""What scripts of conversations are made of: a draft, chance, and runs of steps that recur."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.differential.conversation import Action, End, Fault, Result, Step
from tests.differential.worlds import CLOSING_SECONDS

SHORT_PAUSES = (0.0, 0.0, 0.0, 0.0, 0.3, 1.5, 4.0)

LATE_SECONDS = 0.1
"""By no more is a packet late that no fault delays: the network is on both sides of the NAT."""

APART_SECONDS = 0.01
"""Initial numbers of Linux are 64 KiB apart, the window of a SYN, after 4 ms (RFC 6528)."""


@dataclass(frozen=True)
class Draft:
    """A script's part of a conversation."""

    steps: tuple[Step, ...]
    faults: tuple[Fault, ...] = ()
    hasty: bool = False
    """Only where a client that closed first may use its port again at once."""
    clean: bool = False
    """Only over the links themselves: so much data."""
    quiet: bool = False
    """Nothing happens to packets but the faults, where chance would spoil the script."""


class Draw(random.Random):
    """Chance, and how patient a script may be."""

    def __init__(self, key: str, pauses: tuple[float, ...]) -> None:
        super().__init__(key)
        self._pauses = pauses

    def pause(self) -> float:
        """For so many seconds nothing happens; longer than any NAT's memory only once."""
        seconds = self.choice(self._pauses)
        if seconds > CLOSING_SECONDS:
            self._pauses = SHORT_PAUSES
        return seconds


def either_end(draw: Draw) -> End:
    return draw.choice((End.CLIENT, End.SERVER))


def any_size(draw: Draw) -> int:
    """Mostly small, sometimes many segments."""
    return draw.choice((1, draw.randint(2, 1400), draw.randint(1400, 9000), draw.randint(1, 50000)))


def opened(connection: int, port: int = 0, service: int = 0) -> list[Step]:
    """A connection; one of a port that may come again lasts until the next SYN is apart."""
    return [
        Step(Action.CONNECT, connection, port=port, service=service),
        Step(Action.ACCEPT, connection, service=service),
        *([Step(Action.PAUSE, seconds=APART_SECONDS)] if port else ()),
    ]


def listening_late() -> list[Step]:
    """Somebody listens, when what the network still had for the deaf server has come."""
    return [Step(Action.PAUSE, seconds=LATE_SECONDS), Step(Action.LISTEN)]


def talk(draw: Draw, connection: int, most: int = 3) -> list[Step]:
    return [
        Step(
            Action.TRANSFER,
            connection,
            either_end(draw),
            size=any_size(draw),
            back=any_size(draw) if draw.random() < 0.5 else 0,
        )
        for _ in range(draw.randint(1, most))
    ]


def pause(draw: Draw) -> list[Step]:
    seconds = draw.pause()
    return [Step(Action.PAUSE, seconds=seconds)] if seconds else []


def short_pause(draw: Draw) -> list[Step]:
    """As long as a NAT remembers what is half closed or reset, at most."""
    return [Step(Action.PAUSE, seconds=draw.choice(SHORT_PAUSES))]


def orderly(connection: int, first: End) -> list[Step]:
    """`first` closes, the other end sees it and closes; the port can be used again at once."""
    return [
        Step(Action.SHUT, connection, first),
        Step(Action.END, connection, first.other),
        Step(Action.SHUT, connection, first.other),
        Step(Action.END, connection, first),
        Step(Action.SETTLE, connection),
        Step(Action.CLOSE, connection, first.other),
        Step(Action.CLOSE, connection, first),
    ]


def at_once(connection: int) -> list[Step]:
    """Both close without having heard of the other's end."""
    return [
        Step(Action.SHUT, connection, End.CLIENT),
        Step(Action.SHUT, connection, End.SERVER),
        Step(Action.END, connection, End.CLIENT),
        Step(Action.END, connection, End.SERVER),
        Step(Action.SETTLE, connection),
        Step(Action.CLOSE, connection, End.SERVER),
        Step(Action.CLOSE, connection, End.CLIENT),
    ]


def abort(connection: int, by: End) -> list[Step]:
    """A reset with nothing on the way, so that it is exact and believed (RFC 5961)."""
    return [
        Step(Action.SETTLE, connection),
        Step(Action.ABORT, connection, by),
        Step(Action.WAIT, connection, by.other, expected=(Result.RESET,)),
        Step(Action.CLOSE, connection, by.other),
    ]


def gone(connection: int, end: End) -> list[Step]:
    """`end` hears, by itself or when it speaks, that nobody knows the connection any more."""
    return [
        Step(Action.SPEAK, connection, end, expected=(Result.RESET,)),
        Step(Action.CLOSE, connection, end),
    ]
