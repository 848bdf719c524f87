# SPDX-License-Identifier: Apache-2.0
"""Queries in, answers out: what is there, what is not, what nobody is told, and rubbish."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.resolver import answers
from hyperplane_nat.resolver.answers import Answers, Reply
from hyperplane_nat.resolver.figures import Outcome
from hyperplane_nat.resolver.limits import PacketLimit
from hyperplane_nat.resolver.zone import Zone

NAMES = {"store.customer.internal": "10.0.1.54", "api": "203.0.113.9"}
ZONE = Zone(IPv4Network("10.0.0.0/16"), NAMES, hostnames=True)
CLIENT = "10.0.1.4"


def resolver(*, upstream: bool = False, zone: Zone = ZONE, per_second: int = 1024) -> Answers:
    return Answers(lambda: zone, PacketLimit(per_second), upstream=upstream)


def ask(
    name: str,
    kind: str = "A",
    *,
    source: str = CLIENT,
    upstream: bool = False,
    stream: bool = False,
    **fields: Any,
) -> Reply:
    query = dns.message.make_query(name, kind, **fields)
    return resolver(upstream=upstream).reply(query.to_wire(), source, 0.0, stream=stream)


def read(reply: Reply) -> dns.message.Message:
    assert reply.wire is not None
    return dns.message.from_wire(reply.wire)


def told(reply: Reply) -> list[str]:
    return [str(item) for rrset in read(reply).answer for item in rrset]


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("store.customer.internal", "A", ["10.0.1.54"]),
        ("STORE.Customer.internal", "A", ["10.0.1.54"]),
        ("api", "A", ["203.0.113.9"]),
        ("store.customer.internal", "ANY", ["10.0.1.54"]),
        ("ip-10-0-1-80.ec2.internal", "A", ["10.0.1.80"]),
        (
            "54.1.0.10.in-addr.arpa",
            "PTR",
            ["store.customer.internal.", "ip-10-0-1-54.ec2.internal."],
        ),
        # A name that has nothing of that type is no name that is missing.
        ("store.customer.internal", "AAAA", []),
        ("customer.internal", "A", []),
        ("54.1.0.10.in-addr.arpa", "A", []),
    ],
)
def test_what_is_there(name: str, kind: str, answer: list[str]) -> None:
    reply = ask(name, kind)
    assert reply.outcome is Outcome.ANSWERED
    assert told(reply) == answer
    message = read(reply)
    assert message.rcode() == dns.rcode.NOERROR
    assert message.flags & dns.flags.RA
    # As it was asked (some clients send letters of any case and want them back).
    assert message.question[0].name.to_text(omit_final_dot=True) == name


@pytest.mark.parametrize(
    "name", ["no.customer.internal", "store.other.internal", "example.com", "8.8.8.8.in-addr.arpa"]
)
def test_what_is_not_there(name: str) -> None:
    reply = ask(name)
    assert reply.outcome is Outcome.NO_SUCH_NAME
    assert read(reply).rcode() == dns.rcode.NXDOMAIN


def test_with_an_upstream_only_the_labs_own_names_are_missing() -> None:
    assert ask("no.customer.internal", upstream=True).outcome is Outcome.NO_SUCH_NAME
    assert ask("store.customer.internal", upstream=True).outcome is Outcome.ANSWERED
    forwarded = ask("example.com", upstream=True)
    assert (forwarded.outcome, forwarded.wire) == (Outcome.FORWARDED, None)
    assert forwarded.query is not None


@pytest.mark.requirement("AWS-dns-resolver", profile="both")
def test_only_the_vpc_is_answered_and_only_recursively() -> None:
    for reply in (
        ask("api", source="10.1.0.1"),
        ask("api", flags=0),
        ask("api", rdclass="CH"),
        ask("api", "AXFR"),
        ask("api", source="10.1.0.1", upstream=True),
    ):
        assert reply.outcome is Outcome.REFUSED
        assert read(reply).rcode() == dns.rcode.REFUSED
    assert read(ask("api", use_edns=1)).rcode() == dns.rcode.BADVERS


def test_what_is_no_query_is_not_done() -> None:
    query = dns.message.make_query("api", "A")
    for opcode in (dns.opcode.NOTIFY, dns.opcode.UPDATE, dns.opcode.STATUS):
        wire = bytearray(query.to_wire())
        wire[2] = (wire[2] & 0x87) | int(opcode) << 3
        reply = resolver().reply(bytes(wire), CLIENT, 0.0, stream=False)
        assert reply.outcome is Outcome.NOT_IMPLEMENTED
        assert reply.wire is not None
        assert (reply.wire[:2], reply.wire[3] & 0xF) == (query.to_wire()[:2], dns.rcode.NOTIMP)


def test_an_answer_is_never_answered() -> None:
    answer = dns.message.make_response(dns.message.make_query("api", "A"))
    assert resolver().reply(answer.to_wire(), CLIENT, 0.0, stream=False) == Reply(Outcome.MALFORMED)


def test_records_that_no_query_has_are_not_read() -> None:
    """Each of them would stay in memory for good."""
    query = dns.message.make_query("api", "A")
    query.additional.append(dns.rrset.from_text("api.", 0, "IN", "TYPE65280", r"\# 0"))
    reply = resolver().reply(query.to_wire(), CLIENT, 0.0, stream=False)
    assert reply.outcome is Outcome.MALFORMED
    assert reply.wire is not None
    assert reply.wire[3] & 0xF == dns.rcode.FORMERR


def test_what_is_too_long_for_a_datagram_is_said_to_be_cut() -> None:
    many = {f"host-{number}.customer.internal": "10.0.1.54" for number in range(100)}
    crowded = resolver(zone=Zone(ZONE.clients, many))
    for edns, limit in ((False, 512), (0, 1232)):
        query = dns.message.make_query("54.1.0.10.in-addr.arpa", "PTR", use_edns=edns, payload=4096)
        short = crowded.reply(query.to_wire(), CLIENT, 0.0, stream=False)
        assert short.wire is not None
        assert len(short.wire) <= limit
        assert short.wire[2] & 0x02
        whole = crowded.reply(query.to_wire(), CLIENT, 0.0, stream=True)
        assert len(told(whole)) == 100


@pytest.mark.requirement("AWS-dns-limit", profile="both")
def test_1024_packets_a_second_by_source_and_silence_beyond() -> None:
    served = resolver()
    wire = dns.message.make_query("api", "A").to_wire()

    def outcomes(number: int, source: str, now: float) -> list[Outcome]:
        replies = [served.reply(wire, source, now, stream=False) for _ in range(number)]
        assert all(each.wire is None for each in replies if each.outcome is Outcome.RATE_LIMITED)
        return [each.outcome for each in replies]

    assert outcomes(1024, CLIENT, 7.0) == [Outcome.ANSWERED] * 1024
    assert outcomes(3, CLIENT, 7.9) == [Outcome.RATE_LIMITED] * 3
    assert outcomes(1, "10.0.1.5", 7.9) == [Outcome.ANSWERED]
    assert outcomes(1, CLIENT, 8.0) == [Outcome.ANSWERED]
    # Rubbish is a packet, too.
    assert served.reply(b"x", "10.0.1.6", 8.0, stream=False).outcome is Outcome.MALFORMED


def test_what_is_remembered_is_of_what_is_known() -> None:
    zones = [ZONE]
    served = Answers(lambda: zones[0], PacketLimit(), upstream=False)

    def address(source: str = CLIENT) -> tuple[Outcome, list[str]]:
        query = dns.message.make_query("store.customer.internal", "A", id=next(numbers))
        reply = served.reply(query.to_wire(), source, 0.0, stream=False)
        assert query.is_response(read(reply))
        return reply.outcome, told(reply)

    numbers = iter(range(1, 100))
    assert [address() for _ in range(3)] == [(Outcome.ANSWERED, ["10.0.1.54"])] * 3
    assert address("10.1.0.1") == (Outcome.REFUSED, [])
    zones[0] = Zone(ZONE.clients, {"store.customer.internal": "10.0.1.55"})
    assert address() == (Outcome.ANSWERED, ["10.0.1.55"])
    zones[0] = Zone(ZONE.clients)
    assert [address() for _ in range(2)] == [(Outcome.NO_SUCH_NAME, [])] * 2


def test_no_number_of_names_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "REMEMBERED_MAX", 8)
    served = resolver()
    for number in range(40):
        wire = dns.message.make_query(f"n{number}.internal", "A").to_wire()
        assert served.reply(wire, CLIENT, 0.0, stream=False).outcome is Outcome.NO_SUCH_NAME
        assert len(served._remembered) <= 8


labels = st.text("abcXYZ019-_", min_size=1, max_size=63)
names = st.lists(labels, min_size=1, max_size=4).map(".".join) | st.sampled_from(sorted(NAMES))
kinds = st.sampled_from(["A", "AAAA", "PTR", "TXT", "ANY", "SOA", "TYPE65280", "HTTPS"])


@given(names, kinds, st.sampled_from([False, 0]), st.booleans())
def test_every_query_has_an_answer_to_it(name: str, kind: str, edns: Any, stream: bool) -> None:
    query = dns.message.make_query(name, kind, use_edns=edns)
    reply = resolver().reply(query.to_wire(), CLIENT, 0.0, stream=stream)
    assert reply.outcome in (Outcome.ANSWERED, Outcome.NO_SUCH_NAME)
    assert query.is_response(read(reply))
    known = NAMES.get(name.lower())
    assert told(reply) == ([known] if known and kind in ("A", "ANY") else [])


@given(st.binary(max_size=200), st.booleans())
def test_rubbish_gets_a_header_or_nothing(wire: bytes, stream: bool) -> None:
    reply = resolver(upstream=True).reply(wire, CLIENT, 0.0, stream=stream)
    if reply.wire is not None:
        assert reply.wire[:2] == wire[:2]
        assert reply.wire[2] & 0x80
        # Nothing is to be gained by forging the source of a query.
        assert len(reply.wire) <= max(len(wire) + 11, 12)


@given(st.data())
def test_a_damaged_query_raises_nothing(data: st.DataObject) -> None:
    query = dns.message.make_query("store.customer.internal", "A", use_edns=0, payload=4096)
    query.use_edns(0, options=[dns.edns.ECSOption("10.0.0.0", 24)])
    wire = bytearray(query.to_wire())
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(wire[: data.draw(st.integers(0, len(wire)))])
    for upstream in (False, True):
        reply = resolver(upstream=upstream).reply(cut, CLIENT, 0.0, stream=False)
        assert (reply.wire is None) == (
            reply.query is not None or len(cut) < 12 or bool(cut[2] & 0x80)
        )


def test_an_upstreams_answer_is_one_to_the_question() -> None:
    query = dns.message.make_query("example.com", "MX", id=7)
    asked = answers.upstream_query(query)
    assert (asked.question, asked.id != 7) == (query.question, True)
    answer = dns.message.make_response(asked)
    record = dns.rrset.from_text("example.com.", 300, "IN", "MX", "10 mail.example.com.")
    answer.answer.append(record)
    wire = answers.upstream_answer(query, answer.to_wire(), 512)
    assert wire is not None
    found = dns.message.from_wire(wire)
    assert (found.id, found.answer, found.edns) == (7, [record], -1)
    other = dns.message.make_response(answers.upstream_query(dns.message.make_query("a", "MX")))
    assert answers.upstream_answer(query, other.to_wire(), 512) is None
    assert answers.upstream_answer(query, b"rubbish", 512) is None
    assert answers.upstream_answer(query, asked.to_wire(), 512) is None


def test_a_long_answer_of_an_upstream_is_cut_for_a_small_client() -> None:
    query = dns.message.make_query("example.com", "TXT")
    answer = dns.message.make_response(answers.upstream_query(query))
    texts = [f'"{number:0200}"' for number in range(5)]
    answer.answer.append(dns.rrset.from_text("example.com.", 300, "IN", "TXT", *texts))
    wire = answers.upstream_answer(query, answer.to_wire(), 512)
    assert wire is not None
    assert len(wire) <= 512
    assert dns.message.from_wire(wire).flags & dns.flags.TC
