# SPDX-License-Identifier: Apache-2.0
"""A conversation as data: what two ends do, what happens to their packets, and what must come of
it.

A conversation is a list of steps, played in order. A step says what is expected of it; the first
step that has another result ends the conversation. All of a conversation's connections lead from
one environment to one port of the server; they are numbered as the script opens them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """One of the two programs."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> End:
        return End.SERVER if self is End.CLIENT else End.CLIENT


class Result(StrEnum):
    """How a step ended."""

    OK = "ok"
    EOF = "end of stream"
    """The stream ended; `Action.END` expects it, elsewhere it came too early."""
    RESET = "reset"
    """ECONNRESET or EPIPE: which of the two depends on whether a program read or wrote first."""
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    """ETIMEDOUT: the kernel gave up."""
    UNREACHABLE = "unreachable"
    CORRUPT = "corrupt"
    """Other bytes than were sent."""
    HANG = "hang"
    """Nothing had come of it at the step's deadline."""


class Action(StrEnum):
    """What a step does."""

    LISTEN = "listen"
    DEAF = "deaf"
    """The server listens no more; its kernel refuses connections."""
    CONNECT = "connect"
    """With `size`, that many bytes are in the SYN (RFC 7413)."""
    GIVE_UP = "give up"
    """Connect, and close the socket `seconds` later, whatever became of it."""
    ACCEPT = "accept"
    TRANSFER = "transfer"
    """`end` sends `size` bytes and the other end `back`, at the same time; both receive all, but
    begin to read `seconds` later."""
    RECEIVE = "receive"
    """`end` receives `size` bytes that were sent before."""
    STUFF = "stuff"
    """`end` sends `size` bytes that nobody reads yet."""
    SETTLE = "settle"
    """Until nothing that either end has sent is unacknowledged."""
    SHUT = "shut"
    """`end` sends no more: FIN."""
    CLOSE = "close"
    ABORT = "abort"
    """Close with a reset (SO_LINGER 0)."""
    FORGET = "forget"
    """`end` loses the connection without a word, as a host does that loses its power."""
    END = "end"
    """`end` reads until the stream ends."""
    WAIT = "wait"
    """`end` reads until something else than data comes."""
    SPEAK = "speak"
    """`end` sends a byte now and then until the kernel reports something."""
    PAUSE = "pause"


@dataclass(frozen=True)
class Step:
    """One thing to do; fields that its action does not know are left alone."""

    action: Action
    connection: int = 0
    end: End = End.CLIENT
    size: int = 0
    back: int = 0
    port: int = 0
    """Source port: 0 is any, n is the n-th that the conversation has for itself."""
    service: int = 0
    """Which of the conversation's server ports."""
    seconds: float = 0.0
    expected: tuple[Result, ...] = (Result.OK,)


class Segment(StrEnum):
    """Kinds of segments that a fault can be aimed at."""

    SYN = "syn"
    SYN_ACK = "syn-ack"
    RST = "rst"
    FIN = "fin"
    DATA = "data"
    ACK = "ack"
    """Neither of the others."""


@dataclass(frozen=True)
class Fault:
    """Segments of a kind are lost or late at one place: number `first` and so many from there."""

    side: End
    """At the client's side of the NAT, or the server's."""
    sender: End
    segment: Segment
    first: int = 0
    count: int = 1
    delay_seconds: float = 0.0
    """0: lost."""
    service: int = 0
    """Towards this server port; what the other connections say is not meant."""


@dataclass(frozen=True)
class Impairment:
    """What the network does to a conversation's packets; half of it on either side of the NAT."""

    loss: float = 0.0
    """A reset is never lost by chance: nobody would send it again, so what comes of it would be
    chance as well. `faults` can lose one. Few of a handshake, see `impairment.OPENING_LOSSES`."""
    duplicate: float = 0.0
    """Never a SYN with data: Fast Open may deliver it twice (RFC 7413, section 2)."""
    reorder: float = 0.0
    delay_seconds: float = 0.0
    """The longest by which a packet is late that is overtaken."""
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """What is played in both worlds."""

    number: int
    kind: str
    key: str
    """Seeds everything random about playing it: `SEED/NUMBER`."""
    environment: int
    """Counted from 1, see `worlds.ENVIRONMENTS`."""
    impairment: Impairment | None
    """None: straight over the links, in super-frames if the kernels like it so."""
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"conversation {self.key}: {self.kind}, environment {self.environment}"]
        if self.impairment is None:
            lines.append("  unimpaired")
        else:
            each = self.impairment
            lines.append(
                f"  loss {each.loss:g}, duplicates {each.duplicate:g}, reordered {each.reorder:g} "
                f"by up to {each.delay_seconds * 1000:g} ms"
            )
            lines += [
                f"  {fault.segment} {fault.first} to {fault.first + fault.count - 1} of the "
                f"{fault.sender} at the {fault.side}'s side "
                + (f"late by {fault.delay_seconds:g} s" if fault.delay_seconds else "lost")
                for fault in each.faults
            ]
        lines += [f"  {number}. {describe(step)}" for number, step in enumerate(self.steps)]
        return "\n".join(lines)


_DEFAULT = Step(Action.PAUSE)


def describe(step: Step) -> str:
    """A step in one line: its action and what is not the default."""
    fields = [
        f"{name}={getattr(step, name)}"
        for name in ("connection", "end", "size", "back", "port", "service", "seconds")
        if getattr(step, name) != getattr(_DEFAULT, name) or name == "connection"
    ]
    wanted = "" if step.expected == (Result.OK,) else f" -> {' or '.join(step.expected)}"
    return f"{step.action} {' '.join(fields)}{wanted}"
