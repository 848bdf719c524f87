# SPDX-License-Identifier: Apache-2.0
"""The kinds of conversations, each a way in which legal programs and hosts use TCP.

A script is a function of a random generator that gives a draft: steps, faults that belong to it,
and what it needs.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.conversation import (
    Action,
    End,
    Fault,
    Result,
    Segment,
    Step,
)
from tests.differential.drafts import (
    APART_SECONDS,
    Draft,
    Draw,
    abort,
    any_size,
    at_once,
    either_end,
    gone,
    listening_late,
    opened,
    orderly,
    pause,
    short_pause,
    talk,
)

PORT = 1
"""The source port that a conversation holds on to."""

FAST_OPEN_BYTES = (1, 200, 500)
MEGABYTE = 1 << 20


Script = Callable[[Draw], Draft]


def exchange(draw: Draw) -> Draft:
    """Request and response, closed by one end or both."""
    port = draw.choice((0, PORT))
    ending = draw.choice((orderly(0, End.CLIENT), orderly(0, End.SERVER), at_once(0)))
    return Draft((Step(Action.LISTEN), *opened(0, port), *talk(draw, 0, 4), *ending))


def half_closed(draw: Draw) -> Draft:
    """One end is done, the other goes on, perhaps after a while."""
    first = either_end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0),
            *talk(draw, 0, 1),
            Step(Action.SHUT, 0, first),
            Step(Action.END, 0, first.other),
            *short_pause(draw),
            Step(Action.TRANSFER, 0, first.other, size=any_size(draw)),
            *short_pause(draw),
            Step(Action.TRANSFER, 0, first.other, size=any_size(draw)),
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
            *opened(0),
            *(talk(draw, 0, 1) if draw.random() < 0.5 else ()),
            Step(Action.PAUSE, seconds=max(1.0, draw.pause())),
            *talk(draw, 0, 1),
            *orderly(0, either_end(draw)),
        )
    )


def aborted(draw: Draw) -> Draft:
    """Ended by a reset, at any time; then the same port again."""
    by = either_end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0, PORT),
            *(talk(draw, 0, 2) if draw.random() < 0.8 else ()),
            *abort(0, by),
            *pause(draw),
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *orderly(1, either_end(draw)),
        )
    )


def aborted_half_closed(draw: Draw) -> Draft:
    """One end is done; then one of the two resets."""
    first, by = either_end(draw), either_end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0, PORT),
            *talk(draw, 0, 1),
            Step(Action.SHUT, 0, first),
            Step(Action.END, 0, first.other),
            Step(Action.SETTLE, 0),
            Step(Action.ABORT, 0, by),
            # The end that heard the other's FIN has nothing to read any more: it must speak.
            *(
                gone(0, by.other)
                if by is first
                else (
                    Step(Action.WAIT, 0, by.other, expected=(Result.RESET,)),
                    Step(Action.CLOSE, 0, by.other),
                )
            ),
            *pause(draw),
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *orderly(1, either_end(draw)),
        )
    )


def unread(draw: Draw) -> Draft:
    """An end closes with data unread, which Linux tells by a reset (RFC 1122, 4.2.2.13)."""
    by = either_end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0),
            *talk(draw, 0, 1),
            Step(Action.STUFF, 0, by.other, size=any_size(draw)),
            Step(Action.SETTLE, 0),
            Step(Action.CLOSE, 0, by),
            Step(Action.WAIT, 0, by.other, expected=(Result.RESET,)),
        )
    )


def spoken_to_the_closed(draw: Draw) -> Draft:
    """An end has closed altogether; the other goes on speaking until it is told."""
    by = either_end(draw)
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0),
            *talk(draw, 0, 1),
            Step(Action.CLOSE, 0, by),
            Step(Action.END, 0, by.other),
            *gone(0, by.other),
        )
    )


def slow_reader(draw: Draw) -> Draft:
    """A window that closes, stays closed for a while, and opens again."""
    seconds = draw.choice((0.5, 2.0))
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0),
            Step(Action.TRANSFER, 0, either_end(draw), size=300_000, seconds=seconds),
            *orderly(0, either_end(draw)),
        )
    )


def bulk(draw: Draw) -> Draft:
    """Much data both ways, as fast as it goes."""
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0),
            Step(
                Action.TRANSFER,
                0,
                either_end(draw),
                size=draw.randint(MEGABYTE // 4, 2 * MEGABYTE),
                back=draw.choice((0, draw.randint(1, MEGABYTE))),
            ),
            *orderly(0, either_end(draw)),
        ),
        clean=True,
    )


def refused(draw: Draw) -> Draft:
    """Nobody listens yet; later, from the same port, somebody does."""
    return Draft(
        (
            Step(Action.CONNECT, 0, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 0),
            *pause(draw),
            *(
                (
                    Step(Action.CONNECT, 1, port=PORT, expected=(Result.REFUSED,)),
                    Step(Action.CLOSE, 1),
                )
                if draw.random() < 0.5
                else ()
            ),
            *listening_late(),
            *opened(2, PORT),
            *talk(draw, 2, 1),
            *orderly(2, either_end(draw)),
        )
    )


def reused(draw: Draw) -> Draft:
    """The same port several times, whichever way the last connection ended."""
    steps = [Step(Action.LISTEN)]
    hasty = False
    for connection in range(draw.randint(2, 4)):
        steps += [*opened(connection, PORT), *talk(draw, connection, 2)]
        way = draw.randrange(5)
        if way == 0:
            steps += orderly(connection, End.SERVER)
        elif way == 1:
            steps += orderly(connection, End.CLIENT)
            hasty = True
        elif way == 2:
            steps += at_once(connection)
            hasty = True
        else:
            steps += abort(connection, either_end(draw))
        steps += pause(draw)
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
            orderly(0, End.SERVER),
            orderly(0, End.SERVER),
            orderly(0, End.CLIENT),
            abort(0, either_end(draw)),
            [Step(Action.FORGET, 0, End.CLIENT)],
            [Step(Action.FORGET, 0, End.CLIENT), Step(Action.FORGET, 0, End.SERVER)],
        )
    )
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0, PORT),
            Step(Action.TRANSFER, 0, End.CLIENT, size=draw.randint(32, 64) * MEGABYTE),
            Step(Action.SETTLE, 0),
            *way,
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *pause(draw),
            *talk(draw, 1, 1),
            *draw.choice((orderly(1, End.SERVER), abort(1, End.SERVER))),
        ),
        hasty=True,
        clean=True,
    )


def _until_half_open(draw: Draw) -> list[Step]:
    """A connection from the port, perhaps closed by one end or both, with nothing on the way."""
    steps = [Step(Action.LISTEN), *opened(0, PORT)]
    if draw.random() < 0.8:
        steps += talk(draw, 0, 2)
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
            *pause(draw),
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *pause(draw),
            *talk(draw, 1, 1),
            *orderly(1, either_end(draw)),
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
            *short_pause(draw),
            *gone(0, End.CLIENT),
            *pause(draw),
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *orderly(1, either_end(draw)),
        )
    )


def both_forget(draw: Draw) -> Draft:
    """Both lose their state; then the same port again, and perhaps the server resets that."""
    closed = draw.choice((None, None, *End))
    ending = draw.choice((orderly(1, either_end(draw)), abort(1, End.SERVER)))
    return Draft(
        (
            *_until_half_open(draw),
            *((Step(Action.SHUT, 0, closed), Step(Action.END, 0, closed.other)) if closed else ()),
            Step(Action.FORGET, 0, End.SERVER),
            Step(Action.FORGET, 0, End.CLIENT),
            *pause(draw),
            *opened(1, PORT),
            *(talk(draw, 1, 1) if draw.random() < 0.7 else ()),
            *pause(draw),
            *(talk(draw, 1, 1) if draw.random() < 0.5 else ()),
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
            *pause(draw),
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
            *opened(9, PORT, service=1),
            *opened(0, PORT),
            *(talk(draw, 0, 1) if draw.random() < 0.8 else ()),
            Step(Action.SETTLE, 0),
            Step(Action.ABORT, 0, End.CLIENT),
            *pause(draw),
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *talk(draw, 9, 1),
            *orderly(1, either_end(draw)),
            *orderly(9, either_end(draw)),
        ),
        faults=(Fault(End.SERVER, End.CLIENT, Segment.RST),),
    )


def stale_client(draw: Draw) -> Draft:
    """The NAT sees the server's reset, the client does not: it is told when it speaks."""
    return Draft(
        (
            *_until_half_open(draw),
            Step(Action.ABORT, 0, End.SERVER),
            *short_pause(draw),
            *gone(0, End.CLIENT),
            *pause(draw),
            *opened(1, PORT),
            *talk(draw, 1, 1),
            *orderly(1, either_end(draw)),
        ),
        faults=(Fault(End.CLIENT, End.SERVER, Segment.RST),),
    )


def shared_port(draw: Draw) -> Draft:
    """One source port towards two ports of the server, each connection with its own fate."""
    return Draft(
        (
            Step(Action.LISTEN),
            Step(Action.LISTEN, service=1),
            *opened(0, PORT),
            *opened(1, PORT, service=1),
            *talk(draw, 0, 1),
            *talk(draw, 1, 1),
            *draw.choice((abort(0, either_end(draw)), orderly(0, End.SERVER))),
            *talk(draw, 1, 1),
            *opened(2, PORT),
            *talk(draw, 2, 1),
            *orderly(1, either_end(draw)),
            *orderly(2, either_end(draw)),
        )
    )


def slow_to_open(draw: Draw) -> Draft:
    """Segments of the handshake are lost, on one side or the other."""
    faults = tuple(
        Fault(either_end(draw), sender, segment, count=draw.choice((1, 1, 2)))
        for sender, segment in (
            (End.CLIENT, Segment.SYN),
            (End.SERVER, Segment.SYN_ACK),
            (End.CLIENT, Segment.ACK),
        )
        if draw.random() < 0.6
    )
    return Draft(
        (Step(Action.LISTEN), *opened(0, PORT), *talk(draw, 0, 2), *orderly(0, either_end(draw))),
        faults=faults,
        # A server that sent its SYN-ACK twice begins with three seconds between repetitions.
        quiet=True,
    )


def slow_to_close(draw: Draw) -> Draft:
    """FINs are lost, on one side or the other."""
    faults = tuple(
        Fault(either_end(draw), sender, Segment.FIN, count=draw.choice((1, 2)))
        for sender in End
        if draw.random() < 0.8
    )
    return Draft(
        (
            Step(Action.LISTEN),
            *opened(0, PORT),
            *talk(draw, 0, 1),
            *draw.choice((orderly(0, End.SERVER), orderly(0, End.CLIENT), at_once(0))),
        ),
        faults=faults,
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
            *opened(times, PORT),
            *talk(draw, times, 1),
            *orderly(times, either_end(draw)),
        ),
        faults=(
            Fault(either_end(draw), End.SERVER, Segment.SYN_ACK, count=times, delay_seconds=late)
            if draw.random() < 0.6
            else Fault(either_end(draw), End.CLIENT, Segment.SYN, count=times),
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
            *listening_late(),
            *opened(2, PORT),
            *talk(draw, 2, 1),
            *orderly(2, either_end(draw)),
        ),
        faults=(
            Fault(either_end(draw), End.SERVER, Segment.RST, delay_seconds=draw.choice((0.1, 0.5))),
        ),
    )


def _fast_open(draw: Draw, connection: int, port: int) -> list[Step]:
    size = draw.choice(FAST_OPEN_BYTES)
    return [
        Step(Action.CONNECT, connection, port=port, size=size),
        Step(Action.ACCEPT, connection),
        Step(Action.RECEIVE, connection, End.SERVER, size=size),
        Step(Action.PAUSE, seconds=APART_SECONDS),
    ]


def fast_open(draw: Draw) -> Draft:
    """Data in the SYN (RFC 7413); the SYN, or what answers it, may be lost."""
    faults = tuple(
        Fault(either_end(draw), sender, segment)
        for sender, segment in ((End.CLIENT, Segment.SYN), (End.SERVER, Segment.SYN_ACK))
        if draw.random() < 0.5
    )
    steps = [Step(Action.LISTEN), *_fast_open(draw, 0, PORT), *talk(draw, 0, 2)]
    if draw.random() < 0.5:
        steps += orderly(0, either_end(draw))
        return Draft(tuple(steps), faults)
    steps += orderly(0, End.SERVER) if draw.random() < 0.5 else abort(0, either_end(draw))
    steps += [*pause(draw), *_fast_open(draw, 1, PORT), *talk(draw, 1, 1)]
    return Draft((*steps, *orderly(1, either_end(draw))), faults)


def fast_open_refused(draw: Draw) -> Draft:
    """Data in a SYN that is lost or not, and nobody listens; then somebody does."""
    lost = draw.choice((0, 1, 1, 2))
    size = draw.choice(FAST_OPEN_BYTES)
    return Draft(
        (
            Step(Action.CONNECT, 0, port=PORT, size=size, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 0),
            *pause(draw),
            Step(Action.CONNECT, 1, port=PORT, expected=(Result.REFUSED,)),
            Step(Action.CLOSE, 1),
            *listening_late(),
            *opened(2, PORT),
            *talk(draw, 2, 1),
            *orderly(2, either_end(draw)),
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
