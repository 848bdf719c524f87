# SPDX-License-Identifier: Apache-2.0
"""The link that loses, delays and repeats does what its script says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential import generation, scripts
from tests.differential.conversation import End, Fault, Impairment, Segment
from tests.differential.impairment import (
    ACK,
    FIN,
    OPENING_LOSSES,
    RST,
    SYN,
    Line,
    segment_of,
)
from tests.differential.middlebox import Middlebox

COUNT = 4000


def fates(
    impairment: Impairment, segment: Segment = Segment.DATA, key: str = "1/1"
) -> list[tuple[float, ...]]:
    line = Line(impairment, key, End.CLIENT)
    return [line.fate(End.CLIENT, segment, 1) for _ in range(COUNT)]


@pytest.mark.parametrize(
    ("flags", "payload", "segment"),
    [
        (SYN, 0, Segment.SYN),
        (SYN, 500, Segment.SYN),
        (SYN | ACK, 0, Segment.SYN_ACK),
        (RST, 0, Segment.RST),
        (RST | ACK, 0, Segment.RST),
        (FIN | ACK, 0, Segment.FIN),
        (FIN | ACK, 9, Segment.FIN),
        (ACK, 9, Segment.DATA),
        (ACK, 0, Segment.ACK),
    ],
)
def test_segments_are_told_apart(flags: int, payload: int, segment: Segment) -> None:
    assert segment_of(flags, payload) is segment


def test_nothing_happens_without_an_impairment() -> None:
    assert set(fates(Impairment())) == {(0.0,)}


def test_a_side_does_half_of_it() -> None:
    found = fates(Impairment(loss=0.2, duplicate=0.2, reorder=0.2, delay_seconds=0.01))
    lost = sum(not each for each in found)
    twice = sum(len(each) == 2 for each in found)
    late = sum(each[:1] > (0.0,) for each in found)
    for count in (lost, twice, late):
        assert 0.07 < count / COUNT < 0.13
    assert all(0.0 <= delay <= 0.01 for each in found for delay in each)


def test_the_same_key_has_the_same_fates() -> None:
    given = Impairment(loss=0.1, duplicate=0.1, reorder=0.1, delay_seconds=0.01)
    assert fates(given) == fates(given)
    assert fates(given) != fates(given, key="1/2")


def test_directions_do_not_disturb_each_other() -> None:
    given = Impairment(loss=0.5)
    line = Line(given, "1/1", End.CLIENT)
    mixed = []
    for _ in range(COUNT):
        line.fate(End.SERVER, Segment.ACK, 0)
        mixed.append(line.fate(End.CLIENT, Segment.DATA, 1))
    assert mixed == fates(given)


def test_a_reset_is_never_lost_by_chance() -> None:
    assert all(fates(Impairment(loss=0.9), Segment.RST))


HANDSHAKE = (
    (End.CLIENT, Segment.SYN),
    (End.SERVER, Segment.SYN_ACK),
    (End.CLIENT, Segment.ACK),
)


def lost_of_an_opening(line: Line) -> int:
    fates = [line.fate(end, segment, 0) for _ in range(COUNT) for end, segment in HANDSHAKE]
    return fates.count(())


@pytest.mark.parametrize("end", [Segment.DATA, Segment.FIN])
def test_chance_takes_little_of_an_opening(end: Segment) -> None:
    """And of the next one of the same port as much; what comes between is as exposed as ever."""
    line = Line(Impairment(loss=0.5), "1/1", End.CLIENT)
    assert lost_of_an_opening(line) == OPENING_LOSSES
    line.fate(End.SERVER, end, 1)
    after = [line.fate(End.CLIENT, Segment.ACK, 0) for _ in range(COUNT)]
    assert 0.2 < after.count(()) / COUNT < 0.3
    assert lost_of_an_opening(line) == OPENING_LOSSES


def test_what_a_fault_takes_of_an_opening_counts() -> None:
    lost = Fault(End.CLIENT, End.SERVER, Segment.SYN_ACK, count=OPENING_LOSSES + 1)
    line = Line(Impairment(loss=0.5, faults=(lost,)), "1/1", End.CLIENT)
    line.fate(End.CLIENT, Segment.SYN, 0)
    for _ in range(lost.count):
        assert line.fate(End.SERVER, Segment.SYN_ACK, 0) == ()
    assert lost_of_an_opening(line) == 0


def test_data_in_a_syn_is_not_repeated() -> None:
    given = Impairment(duplicate=0.9)
    assert all(len(each) == 1 for each in fates(given, Segment.SYN))
    line = Line(given, "1/1", End.CLIENT)
    assert any(len(line.fate(End.CLIENT, Segment.SYN, 0)) == 2 for _ in range(COUNT))


def test_a_fault_meets_what_it_is_aimed_at() -> None:
    lost = Fault(End.SERVER, End.CLIENT, Segment.RST, first=1, count=2)
    late = Fault(End.SERVER, End.SERVER, Segment.SYN_ACK, delay_seconds=0.3)
    given = Impairment(faults=(lost, late))
    server, client = (Line(given, "1/1", side) for side in (End.SERVER, End.CLIENT))
    resets = [server.fate(End.CLIENT, Segment.RST, 0) for _ in range(4)]
    assert resets == [(0.0,), (), (), (0.0,)]
    assert server.fate(End.SERVER, Segment.RST, 0) == (0.0,)
    assert server.fate(End.SERVER, Segment.SYN_ACK, 0) == (0.3,)
    assert server.fate(End.SERVER, Segment.SYN_ACK, 0) == (0.0,)
    assert [client.fate(End.CLIENT, Segment.RST, 0) for _ in range(3)] == [(0.0,)] * 3


def test_a_fault_does_not_change_what_befalls_the_others() -> None:
    chance = Impairment(loss=0.5)
    faulty = Impairment(loss=0.5, faults=(Fault(End.CLIENT, End.CLIENT, Segment.SYN),))
    found = []
    for given in (chance, faulty):
        line = Line(given, "1/1", End.CLIENT)
        line.fate(End.CLIENT, Segment.SYN, 0)
        found.append([line.fate(End.CLIENT, Segment.DATA, 1) for _ in range(100)])
    assert found[0] == found[1]


def test_a_fault_is_aimed_at_one_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without TIME_WAIT answers a FIN that comes again by a reset: that is another's."""
    told: list[dict[str, Any]] = []
    network = Middlebox([])
    monkeypatch.setattr(network, "_tell", lambda **order: told.append(order))
    given = generation.conversation(1, 6070, (0.0,), scripts.stale_server)
    for service in range(2):
        network.impair(given, 2000 + service, service)
    assert [len(order["impairment"]["faults"]) for order in told] == [1, 0]
