# SPDX-License-Identifier: Apache-2.0
"""From a query to an answer, without a socket.

Theory of operation
-------------------
In order: the packet limit of who asks, the header, the message, whether it is to be answered at all
(only the VPC is, only recursively, only queries), then the name. Over the limit there is silence,
as on AWS. Whatever is a header of a query gets an answer, so that a client learns at once; an
answer never does, so that no two resolvers talk to each other for ever.

Answers are remembered by their query for as long as nothing else is known, unless their order is
drawn: clients ask the same
again and again, and a dictionary is some hundred times faster than reading and writing a message.

A name that is not there is NXDOMAIN, without the SOA that RFC 2308 has caches remember this by: the
name may be there with the next `apply`. With an upstream, what is not the lab's own is left to it.

Messages are read and written by dnspython (RFC 1035, RFC 6891).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from hyperplane_nat.resolver.figures import Outcome
from hyperplane_nat.resolver.limits import PacketLimit
from hyperplane_nat.resolver.zone import Zone

TTL_SECONDS = 60
"""Of an answer (as AWS's private names have it)."""

MESSAGE_BYTES_MAX = 4096
"""Of a query; no client has reason to send more."""

DATAGRAM_BYTES = 512
"""Of an answer by UDP where the client names no size (RFC 1035 section 2.3.4)."""

REMEMBERED_MAX = 4096
"""Answers that are remembered; when there are more, all are forgotten."""

STREAM_BYTES_MAX = 65535
"""Of an answer by TCP."""

_DATAGRAM_BYTES_MAX = 1232
"""Of any answer by UDP, whatever the client names (DNS flag day 2020)."""

_HEADER_BYTES = 12
_COUNTS = struct.Struct(">4H")
_LABEL_BYTES_MAX = 63
_OPT = b"\0" + int(dns.rdatatype.OPT).to_bytes(2, "big")
_QR = 0x80
_RD = 0x01


@dataclass(frozen=True, slots=True)
class Reply:
    """What becomes of one message."""

    outcome: Outcome
    wire: bytes | None = None
    """What to send back; None: nothing."""
    query: dns.message.Message | None = None
    """To be asked upstream, in place of `wire`."""
    drawn: bool = False
    """Whether another answer to the same query may have another order."""
    size: int = STREAM_BYTES_MAX
    """The largest answer to that which the client takes."""


class Answers:
    """One resolver's answers."""

    def __init__(self, zone: Callable[[], Zone], limit: PacketLimit, *, upstream: bool) -> None:
        """`zone` tells what is known now; with `upstream`, the rest is somebody else's to know."""
        self._zone = zone
        self._limit = limit
        self._upstream = upstream
        self._remembered: dict[tuple[bytes, bool], Reply] = {}
        self._of: Zone | None = None
        """What these answers are of."""

    def reply(self, wire: bytes, source: str, now: float, *, stream: bool) -> Reply:
        """The reply to a message from IPv4 address `source`, by TCP (`stream`) or UDP."""
        if not self._limit.admits(source, now):
            return Reply(Outcome.RATE_LIMITED)
        if len(wire) < _HEADER_BYTES or wire[2] & _QR:
            return Reply(Outcome.MALFORMED)
        zone = self._zone()
        if zone is not self._of or len(self._remembered) >= REMEMBERED_MAX:
            self._remembered.clear()
            self._of = zone
        inside = IPv4Address(source) in zone.clients
        key = (wire[2:], stream)
        if inside and (known := self._remembered.get(key)) is not None:
            assert known.wire is not None
            return replace(known, wire=wire[:2] + known.wire[2:])
        reply = self._reply(wire, zone, inside=inside, stream=stream)
        plain = reply.outcome in (Outcome.ANSWERED, Outcome.NO_SUCH_NAME) and not reply.drawn
        if inside and plain and len(wire) <= DATAGRAM_BYTES:
            self._remembered[key] = reply
        return reply

    def _reply(self, wire: bytes, zone: Zone, *, inside: bool, stream: bool) -> Reply:
        if (wire[2] >> 3) & 0xF != dns.opcode.QUERY:
            return Reply(Outcome.NOT_IMPLEMENTED, _bare(wire, dns.rcode.NOTIMP))
        if not _one_question(wire):
            return Reply(Outcome.MALFORMED, _bare(wire, dns.rcode.FORMERR))
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return Reply(Outcome.MALFORMED, _bare(wire, dns.rcode.FORMERR))
        size = STREAM_BYTES_MAX if stream else _datagram_bytes(query)
        return self._looked_up(query, zone, size, inside=inside)

    def _looked_up(
        self, query: dns.message.Message, zone: Zone, size: int, *, inside: bool
    ) -> Reply:
        (question,) = query.question
        kind = question.rdtype
        iterative = not query.flags & dns.flags.RD
        about_zones = dns.rdatatype.is_metatype(kind) and kind != dns.rdatatype.ANY
        if query.edns > 0:
            return Reply(Outcome.REFUSED, _written(query, dns.rcode.BADVERS, size))
        if not inside or iterative or about_zones or question.rdclass != dns.rdataclass.IN:
            return Reply(Outcome.REFUSED, _written(query, dns.rcode.REFUSED, size))
        name = question.name.to_text(omit_final_dot=True).lower()
        if not zone.exists(name):
            if self._upstream and not zone.owns(name):
                return Reply(Outcome.FORWARDED, query=query, size=size)
            return Reply(Outcome.NO_SUCH_NAME, _written(query, dns.rcode.NXDOMAIN, size))
        answer: list[tuple[str, str]] = []
        found = zone.addresses(name)
        if kind in (dns.rdatatype.A, dns.rdatatype.ANY):
            # Who takes the first one takes each as often as the others.
            answer += [("A", each) for each in random.sample(found, len(found))]
        if kind in (dns.rdatatype.PTR, dns.rdatatype.ANY):
            answer += [("PTR", f"{each}.") for each in zone.pointers(name)]
        written = _written(query, dns.rcode.NOERROR, size, answer)
        return Reply(Outcome.ANSWERED, written, drawn=len(found) > 1)


def upstream_query(query: dns.message.Message) -> dns.message.Message:
    """The same question, as this resolver asks it."""
    (question,) = query.question
    return dns.message.make_query(
        question.name, question.rdtype, question.rdclass, use_edns=0, payload=_DATAGRAM_BYTES_MAX
    )


def upstream_answer(query: dns.message.Message, wire: bytes, size: int) -> bytes | None:
    """An upstream resolver's answer as the client of `query` gets it; None when it is none to that.

    RFC 5452: the question must be the one that was asked.
    """
    try:
        told = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        return None
    if not told.flags & dns.flags.QR or told.question != query.question:
        return None
    answer = dns.message.make_response(query, True, _DATAGRAM_BYTES_MAX)
    answer.set_rcode(told.rcode())
    answer.flags |= told.flags & dns.flags.TC
    answer.answer, answer.authority = told.answer, told.authority
    return answer.to_wire(max_size=size, prefer_truncation=True)


def failure(query: dns.message.Message, size: int) -> bytes:
    """SERVFAIL: nobody has answered."""
    return _written(query, dns.rcode.SERVFAIL, size)


def _one_question(wire: bytes) -> bool:
    """Whether a message has a question and at most an OPT record behind it, as queries have.

    dnspython remembers each type and class of record that it reads, for good.
    """
    questions, answers, authorities, additional = _COUNTS.unpack_from(wire, 4)
    if (questions, answers, authorities) != (1, 0, 0) or additional > 1:
        return False
    place = _HEADER_BYTES
    while place < len(wire) and 0 < wire[place] <= _LABEL_BYTES_MAX:
        place += 1 + wire[place]
    rest = wire[place + 5 :]
    if wire[place : place + 1] != b"\0" or len(wire) > MESSAGE_BYTES_MAX:
        return False
    return rest.startswith(_OPT) if additional else not rest


def _datagram_bytes(query: dns.message.Message) -> int:
    if query.edns < 0:
        return DATAGRAM_BYTES
    return min(max(query.payload, DATAGRAM_BYTES), _DATAGRAM_BYTES_MAX)


def _bare(wire: bytes, code: dns.rcode.Rcode) -> bytes:
    """An answer of nothing but the header, to what cannot be read any further."""
    flags = bytes((_QR | (wire[2] & (0x78 | _RD)), 0x80 | int(code)))
    return wire[:2] + flags + bytes(8)


def _written(
    query: dns.message.Message,
    code: dns.rcode.Rcode,
    size: int,
    answer: Iterable[tuple[str, str]] = (),
) -> bytes:
    message = dns.message.make_response(query, True, _DATAGRAM_BYTES_MAX)
    message.set_rcode(code)
    (question,) = query.question
    for kind, text in answer:
        # A record each: those of one set would be shuffled, and the first is who is meant.
        message.answer.append(dns.rrset.from_text(question.name, TTL_SECONDS, "IN", kind, text))
    return message.to_wire(max_size=size, prefer_truncation=True)
