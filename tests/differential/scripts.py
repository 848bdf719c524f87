# SPDX-License-Identifier: Apache-2.0
"""
The kinds of conversations, each a way in which legal programs and hosts use TCP.

A script is a function of a random generator that gives a draft: steps, faults that belong to it,
and what it needs. `generate` draws scripts by their weights and impairments beside them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.differential.conversation import (
    Action,
    Conversation,
    End,
    Fault,
    Impairment,
    Result,
    Segment,
    Step,
)
from tests.differential.worlds import CLOSING_SECONDS, ENVIRONMENTS, HASTY

PORT = 1
"""The source port that a conversation holds on to."""

OTHER_PORT = 2

CLEAN_SHARE = 0.3
SHORT_PAUSES = (0.0, 0.0, 0.0, 0.0, 0.3, 1.5, 4.0)
SAMPLE_PAUSES = (*SHORT_PAUSES, *SHORT_PAUSES, *SHORT_PAUSES, CLOSING_SECONDS + 2.0)
"""Also longer than the NATs remember what is closed."""

LONG_PAUSES = (*SHORT_PAUSES, *SHORT_PAUSES, CLOSING_SECONDS + 2.0, 2 * CLOSING_SECONDS + 2.0)
"""Also longer than the gateway holds the port of that."""

FAST_OPEN_BYTES = (1, 200, 500)
MEGABYTE = 1 << 20


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


Script = Callable[[Draw], Draft]


def _end(draw: Draw) -> End:
    return draw.choice((End.CLIENT, End.SERVER))


def _size(draw: Draw) -> int:
    """Mostly small, sometimes many segments."""
    return draw.choice((1, draw.randint(2, 1400), draw.randint(1400, 9000), draw.randint(1, 50000)))


def _opened(connection: int, port: int = 0, service: int = 0) -> list[Step]:
    return [
        Step(Action.CONNECT, connection, port=port, service=service),
        Step(Action.ACCEPT, connection, service=service),
    ]


def _talk(draw: Draw, connection: int, most: int = 3) -> list[Step]:
    return [
        Step(
            Action.TRANSFER,
            connection,
            _end(draw),
            size=_size(draw),
            back=_size(draw) if draw.random() < 0.5 else 0,
        )
        for _ in range(draw.randint(1, most))
    ]


def _pause(draw: Draw) -> list[Step]:
    seconds = draw.pause()
    return [Step(Action.PAUSE, seconds=seconds)] if seconds else []


def _short_pause(draw: Draw) -> list[Step]:
    """As long as a NAT remembers what is half closed or reset, at most."""
    return [Step(Action.PAUSE, seconds=draw.choice(SHORT_PAUSES))]


def _orderly(connection: int, first: End) -> list[Step]:
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


def _at_once(connection: int) -> list[Step]:
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


def _aborted(connection: int, by: End) -> list[Step]:
    """A reset with nothing on the way, so that it is exact and believed (RFC 5961)."""
    return [
        Step(Action.SETTLE, connection),
        Step(Action.ABORT, connection, by),
        Step(Action.WAIT, connection, by.other, expected=(Result.RESET,)),
        Step(Action.CLOSE, connection, by.other),
    ]


def _gone(connection: int, end: End) -> list[Step]:
    """`end` hears, by itself or when it speaks, that nobody knows the connection any more."""
    return [
        Step(Action.SPEAK, connection, end, expected=(Result.RESET,)),
        Step(Action.CLOSE, connection, end),
    ]


def exchange(draw: Draw) -> Draft:
    """Request and response, closed by one end or both."""
    port = draw.choice((0, PORT))
    ending = draw.choice((_orderly(0, End.CLIENT), _orderly(0, End.SERVER), _at_once(0)))
    return Draft((Step(Action.LISTEN), *_opened(0, port), *_talk(draw, 0, 4), *ending))


def half_closed(draw: Draw) -> Draft:
    """One end is done, the other goes on, perhaps after a while."""
    first = _end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0),
            *_talk(draw, 0, 1),
            Step(Action.SHUT, 0, first),
            Step(Action.END, 0, first.other),
            *_short_pause(draw),
            Step(Action.TRANSFER, 0, first.other, size=_size(draw)),
            *_short_pause(draw),
            Step(Action.TRANSFER, 0, first.other, size=_size(draw)),
            Step(Action.CLOSE, 0, first.other),
            Step(Action.END, 0, first),
            Step(Action.CLOSE, 0, first),
        )
    )


def idle(draw: Draw) -> Draft:
    """Silence that is longer than an opening or closing connection is kept, in an open one."""
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0),
            *(_talk(draw, 0, 1) if draw.random() < 0.5 else ()),
            Step(Action.PAUSE, seconds=max(1.0, draw.pause())),
            *_talk(draw, 0, 1),
            *_orderly(0, _end(draw)),
        )
    )


def aborted(draw: Draw) -> Draft:
    """Ended by a reset, at any time; then the same port again."""
    by = _end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0, PORT),
            *(_talk(draw, 0, 2) if draw.random() < 0.8 else ()),
            *_aborted(0, by),
            *_pause(draw),
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_orderly(1, _end(draw)),
        )
    )


def aborted_half_closed(draw: Draw) -> Draft:
    """One end is done; then one of the two resets."""
    first, by = _end(draw), _end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0, PORT),
            *_talk(draw, 0, 1),
            Step(Action.SHUT, 0, first),
            Step(Action.END, 0, first.other),
            Step(Action.SETTLE, 0),
            Step(Action.ABORT, 0, by),
            # The end that heard the other's FIN has nothing to read any more: it must speak.
            *(
                _gone(0, by.other)
                if by is first
                else (
                    Step(Action.WAIT, 0, by.other, expected=(Result.RESET,)),
                    Step(Action.CLOSE, 0, by.other),
                )
            ),
            *_pause(draw),
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_orderly(1, _end(draw)),
        )
    )


def unread(draw: Draw) -> Draft:
    """An end closes with data unread, which Linux tells by a reset (RFC 1122, 4.2.2.13)."""
    by = _end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0),
            *_talk(draw, 0, 1),
            Step(Action.STUFF, 0, by.other, size=_size(draw)),
            Step(Action.SETTLE, 0),
            Step(Action.CLOSE, 0, by),
            Step(Action.WAIT, 0, by.other, expected=(Result.RESET,)),
        )
    )


def spoken_to_the_closed(draw: Draw) -> Draft:
    """An end has closed altogether; the other goes on speaking until it is told."""
    by = _end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0),
            *_talk(draw, 0, 1),
            Step(Action.CLOSE, 0, by),
            Step(Action.END, 0, by.other),
            *_gone(0, by.other),
        )
    )


def slow_reader(draw: Draw) -> Draft:
    """A window that closes, stays closed for a while, and opens again."""
    seconds = draw.choice((0.5, 2.0))
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0),
            Step(Action.TRANSFER, 0, _end(draw), size=300_000, seconds=seconds),
            *_orderly(0, _end(draw)),
        )
    )


def bulk(draw: Draw) -> Draft:
    """Much data both ways, as fast as it goes."""
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0),
            Step(
                Action.TRANSFER,
                0,
                _end(draw),
                size=draw.randint(MEGABYTE // 4, 2 * MEGABYTE),
                back=draw.choice((0, draw.randint(1, MEGABYTE))),
            ),
            *_orderly(0, _end(draw)),
        ),
        clean=True,
    )


def refused(draw: Draw) -> Draft:
    """Nobody listens yet; later, from the same port, somebody does."""
    return Draft(
        (
            Step(Action.CONNECT, 0, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 0),
            *_pause(draw),
            *(
                (
                    Step(Action.CONNECT, 1, port=PORT, expected=(Result.REFUSED,)),
                    Step(Action.CLOSE, 1),
                )
                if draw.random() < 0.5
                else ()
            ),
            Step(Action.LISTEN),
            *_opened(2, PORT),
            *_talk(draw, 2, 1),
            *_orderly(2, _end(draw)),
        )
    )


def reused(draw: Draw) -> Draft:
    """The same port several times, whichever way the last connection ended."""
    steps = [Step(Action.LISTEN)]
    hasty = False
    for connection in range(draw.randint(2, 4)):
        steps += [*_opened(connection, PORT), *_talk(draw, connection, 2)]
        way = draw.randrange(5)
        if way == 0:
            steps += _orderly(connection, End.SERVER)
        elif way == 1:
            steps += _orderly(connection, End.CLIENT)
            hasty = True
        elif way == 2:
            steps += _at_once(connection)
            hasty = True
        else:
            steps += _aborted(connection, _end(draw))
        steps += _pause(draw)
    return Draft(tuple(steps), hasty=hasty)


def uploaded_and_reused(draw: Draw) -> Draft:
    """
    So much is sent that the port's next initial sequence number is below the last ones.

    Initial numbers grow by 15.6 million a second in Linux (RFC 6528). When the server closes first
    it takes the next SYN all the same, by its timestamp or when the client has reset what was left
    (RFC 6191, RFC 1337); so it does when one end or both have forgotten the connection.
    """
    way = draw.choice(
        (
            _orderly(0, End.SERVER),
            _orderly(0, End.SERVER),
            _orderly(0, End.CLIENT),
            _aborted(0, _end(draw)),
            [Step(Action.FORGET, 0, End.CLIENT)],
            [Step(Action.FORGET, 0, End.CLIENT), Step(Action.FORGET, 0, End.SERVER)],
        )
    )
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0, PORT),
            Step(Action.TRANSFER, 0, End.CLIENT, size=draw.randint(32, 64) * MEGABYTE),
            Step(Action.SETTLE, 0),
            *way,
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_pause(draw),
            *_talk(draw, 1, 1),
            *draw.choice((_orderly(1, End.SERVER), _aborted(1, End.SERVER))),
        ),
        hasty=True,
        clean=True,
    )


def _until_half_open(draw: Draw) -> list[Step]:
    """A connection from the port, perhaps closed by one end or both, with nothing on the way."""
    steps = [Step(Action.LISTEN), *_opened(0, PORT)]
    if draw.random() < 0.8:
        steps += _talk(draw, 0, 2)
    return [*steps, Step(Action.SETTLE, 0)]


def client_forgets(draw: Draw) -> Draft:
    """The client's host loses its state and connects again from the same port."""
    closed = draw.choice((None, None, *End))
    return Draft(
        (
            *_until_half_open(draw),
            *((Step(Action.SHUT, 0, closed), Step(Action.END, 0, closed.other)) if closed else ()),
            Step(Action.SETTLE, 0),
            Step(Action.FORGET, 0, End.CLIENT),
            *_pause(draw),
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_pause(draw),
            *_talk(draw, 1, 1),
            *_orderly(1, _end(draw)),
        )
    )


def server_forgets(draw: Draw) -> Draft:
    """The server's host loses its state: the client is told when it speaks, and connects again."""
    closed = draw.choice((None, None, End.SERVER))
    return Draft(
        (
            *_until_half_open(draw),
            *((Step(Action.SHUT, 0, closed), Step(Action.END, 0, closed.other)) if closed else ()),
            Step(Action.SETTLE, 0),
            Step(Action.FORGET, 0, End.SERVER),
            *_short_pause(draw),
            *_gone(0, End.CLIENT),
            *_pause(draw),
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_orderly(1, _end(draw)),
        )
    )


def both_forget(draw: Draw) -> Draft:
    """Both lose their state; then the same port again, and perhaps the server resets that."""
    closed = draw.choice((None, None, *End))
    ending = draw.choice((_orderly(1, _end(draw)), _aborted(1, End.SERVER)))
    return Draft(
        (
            *_until_half_open(draw),
            *((Step(Action.SHUT, 0, closed), Step(Action.END, 0, closed.other)) if closed else ()),
            Step(Action.FORGET, 0, End.SERVER),
            Step(Action.FORGET, 0, End.CLIENT),
            *_pause(draw),
            *_opened(1, PORT),
            *(_talk(draw, 1, 1) if draw.random() < 0.7 else ()),
            *_pause(draw),
            *(_talk(draw, 1, 1) if draw.random() < 0.5 else ()),
            *ending,
        )
    )


def both_forget_refused(draw: Draw) -> Draft:
    """Both lose their state, and the server does not come back: the client must be told."""
    return Draft(
        (
            *_until_half_open(draw),
            Step(Action.DEAF),
            Step(Action.FORGET, 0, End.SERVER),
            Step(Action.FORGET, 0, End.CLIENT),
            *_pause(draw),
            Step(Action.CONNECT, 1, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 1),
            Step(Action.CONNECT, 2, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 2),
        )
    )


def stale_server(draw: Draw) -> Draft:
    """
    The NAT sees a reset that the server never gets; the same port comes again.

    Meanwhile the source port stays in use towards another port of the server, so that a mapping
    of one outside port for all (RFC 4787, REQ-1) gives it out again.
    """
    return Draft(
        (
            Step(Action.LISTEN),
            Step(Action.LISTEN, service=1),
            *_opened(9, PORT, service=1),
            *_opened(0, PORT),
            *(_talk(draw, 0, 1) if draw.random() < 0.8 else ()),
            Step(Action.SETTLE, 0),
            Step(Action.ABORT, 0, End.CLIENT),
            *_pause(draw),
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_talk(draw, 9, 1),
            *_orderly(1, _end(draw)),
            *_orderly(9, _end(draw)),
        ),
        faults=(Fault(End.SERVER, End.CLIENT, Segment.RST),),
    )


def stale_client(draw: Draw) -> Draft:
    """The NAT sees the server's reset, the client does not: it is told when it speaks."""
    return Draft(
        (
            *_until_half_open(draw),
            Step(Action.ABORT, 0, End.SERVER),
            *_short_pause(draw),
            *_gone(0, End.CLIENT),
            *_pause(draw),
            *_opened(1, PORT),
            *_talk(draw, 1, 1),
            *_orderly(1, _end(draw)),
        ),
        faults=(Fault(End.CLIENT, End.SERVER, Segment.RST),),
    )


def shared_port(draw: Draw) -> Draft:
    """One source port towards two ports of the server, each connection with its own fate."""
    return Draft(
        (
            Step(Action.LISTEN),
            Step(Action.LISTEN, service=1),
            *_opened(0, PORT),
            *_opened(1, PORT, service=1),
            *_talk(draw, 0, 1),
            *_talk(draw, 1, 1),
            *draw.choice((_aborted(0, _end(draw)), _orderly(0, End.SERVER))),
            *_talk(draw, 1, 1),
            *_opened(2, PORT),
            *_talk(draw, 2, 1),
            *_orderly(1, _end(draw)),
            *_orderly(2, _end(draw)),
        )
    )


def slow_to_open(draw: Draw) -> Draft:
    """Segments of the handshake are lost, on one side or the other."""
    faults = tuple(
        Fault(_end(draw), sender, segment, count=draw.choice((1, 1, 2)))
        for sender, segment in (
            (End.CLIENT, Segment.SYN),
            (End.SERVER, Segment.SYN_ACK),
            (End.CLIENT, Segment.ACK),
        )
        if draw.random() < 0.6
    )
    return Draft(
        (Step(Action.LISTEN), *_opened(0, PORT), *_talk(draw, 0, 2), *_orderly(0, _end(draw))),
        faults=faults,
        # A server that sent its SYN-ACK twice begins with three seconds between repetitions.
        quiet=True,
    )


def slow_to_close(draw: Draw) -> Draft:
    """FINs are lost, on one side or the other."""
    faults = tuple(
        Fault(_end(draw), sender, Segment.FIN, count=draw.choice((1, 2)))
        for sender in End
        if draw.random() < 0.8
    )
    return Draft(
        (
            Step(Action.LISTEN),
            *_opened(0, PORT),
            *_talk(draw, 0, 1),
            *draw.choice((_orderly(0, End.SERVER), _orderly(0, End.CLIENT), _at_once(0))),
        ),
        faults=faults,
        quiet=True,
    )


def tried_again(draw: Draw) -> Draft:
    """
    A connect that was given up before it was answered, and the same port again at once.

    What the server said to the first SYN is late and meets the second.
    """
    times = draw.choice((1, 1, 2))
    late = draw.choice((0.2, 0.4))
    return Draft(
        (
            Step(Action.LISTEN),
            *(
                Step(Action.GIVE_UP, number, port=PORT, seconds=draw.choice((0.02, 0.08)))
                for number in range(times)
            ),
            *_opened(times, PORT),
            *_talk(draw, times, 1),
            *_orderly(times, _end(draw)),
        ),
        faults=(
            Fault(_end(draw), End.SERVER, Segment.SYN_ACK, count=times, delay_seconds=late)
            if draw.random() < 0.6
            else Fault(_end(draw), End.CLIENT, Segment.SYN, count=times),
        ),
        quiet=True,
    )


def tried_again_refused(draw: Draw) -> Draft:
    """The same, and the server refuses: late for the first SYN, in time for the second."""
    return Draft(
        (
            Step(Action.GIVE_UP, 0, port=PORT, seconds=0.05),
            Step(Action.CONNECT, 1, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 1),
            Step(Action.LISTEN),
            *_opened(2, PORT),
            *_talk(draw, 2, 1),
            *_orderly(2, _end(draw)),
        ),
        faults=(Fault(_end(draw), End.SERVER, Segment.RST, delay_seconds=draw.choice((0.1, 0.5))),),
    )


def _fast_open(draw: Draw, connection: int, port: int) -> list[Step]:
    size = draw.choice(FAST_OPEN_BYTES)
    return [
        Step(Action.CONNECT, connection, port=port, size=size),
        Step(Action.ACCEPT, connection),
        Step(Action.RECEIVE, connection, End.SERVER, size=size),
    ]


def fast_open(draw: Draw) -> Draft:
    """Data in the SYN (RFC 7413); the SYN, or what answers it, may be lost."""
    faults = tuple(
        Fault(_end(draw), sender, segment)
        for sender, segment in ((End.CLIENT, Segment.SYN), (End.SERVER, Segment.SYN_ACK))
        if draw.random() < 0.5
    )
    steps = [Step(Action.LISTEN), *_fast_open(draw, 0, PORT), *_talk(draw, 0, 2)]
    if draw.random() < 0.5:
        steps += _orderly(0, _end(draw))
        return Draft(tuple(steps), faults)
    steps += _orderly(0, End.SERVER) if draw.random() < 0.5 else _aborted(0, _end(draw))
    steps += [*_pause(draw), *_fast_open(draw, 1, PORT), *_talk(draw, 1, 1)]
    return Draft((*steps, *_orderly(1, _end(draw))), faults)


def fast_open_refused(draw: Draw) -> Draft:
    """Data in a SYN that is lost or not, and nobody listens; then somebody does."""
    lost = draw.choice((0, 1, 1, 2))
    size = draw.choice(FAST_OPEN_BYTES)
    return Draft(
        (
            Step(Action.CONNECT, 0, port=PORT, size=size, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 0),
            *_pause(draw),
            Step(Action.CONNECT, 1, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 1),
            Step(Action.LISTEN),
            *_opened(2, PORT),
            *_talk(draw, 2, 1),
            *_orderly(2, _end(draw)),
        ),
        faults=(Fault(End.SERVER, End.CLIENT, Segment.SYN, count=lost),) if lost else (),
    )


SCRIPTS: dict[Script, float] = {
    exchange: 12,
    half_closed: 5,
    idle: 3,
    aborted: 6,
    aborted_half_closed: 5,
    unread: 3,
    spoken_to_the_closed: 3,
    slow_reader: 1,
    bulk: 1,
    refused: 4,
    reused: 9,
    uploaded_and_reused: 1,
    client_forgets: 8,
    server_forgets: 5,
    both_forget: 8,
    both_forget_refused: 3,
    stale_server: 6,
    stale_client: 4,
    shared_port: 4,
    slow_to_open: 4,
    slow_to_close: 4,
    tried_again: 6,
    tried_again_refused: 3,
    fast_open: 6,
    fast_open_refused: 4,
}
"""How often each is drawn, relative to the others."""


def _impairment(draw: Draw, faults: tuple[Fault, ...]) -> Impairment:
    return Impairment(
        loss=draw.choice((0.0, 0.01, 0.03, 0.08)),
        duplicate=draw.choice((0.0, 0.0, 0.05)),
        reorder=draw.choice((0.0, 0.05, 0.2)),
        delay_seconds=draw.choice((0.002, 0.03)),
        faults=faults,
    )


def conversation(
    seed: int, number: int, pauses: tuple[float, ...], script: Script | None = None
) -> Conversation:
    """The conversation of that number; of a script that is given, or of one that is drawn."""
    key = f"{seed}/{number}"
    draw = Draw(key, pauses)
    (drawn,) = draw.choices(list(SCRIPTS), list(SCRIPTS.values()))
    chosen = script or drawn
    draft = chosen(draw)
    clean = draft.clean or (not draft.faults and draw.random() < CLEAN_SHARE)
    impairment = _impairment(draw, draft.faults)
    if draft.quiet:
        impairment = Impairment(faults=draft.faults)
    return Conversation(
        number=number,
        kind=chosen.__name__,
        key=key,
        environment=draw.choice(HASTY if draft.hasty else list(ENVIRONMENTS)),
        impairment=None if clean else impairment,
        steps=draft.steps,
    )


def generate(
    seed: int, count: int, pauses: tuple[float, ...] = SAMPLE_PAUSES
) -> list[Conversation]:
    """
    So many conversations of a seed.

    Each script has its turn once before chance decides, so that a sample leaves none out.
    """
    first = list(SCRIPTS)[:count]
    return [
        conversation(seed, number, pauses, first[number] if number < len(first) else None)
        for number in range(count)
    ]
