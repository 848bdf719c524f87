# SPDX-License-Identifier: Apache-2.0
"""A seed is a run, and a sample has every kind of script."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.differential import generation, scripts
from tests.differential.conversation import Action, Conversation, End, Result
from tests.differential.drafts import APART_SECONDS, LATE_SECONDS
from tests.differential.driver import SOURCE_PORTS
from tests.differential.worlds import CLOSING_SECONDS, HASTY

COUNT = 2000
OPENING = (Action.CONNECT, Action.GIVE_UP)
TALKING = (Action.TRANSFER, Action.STUFF, Action.SPEAK, Action.END, Action.WAIT, Action.RECEIVE)
ENDING = (Action.CLOSE, Action.ABORT, Action.FORGET)


@pytest.fixture(scope="module")
def many() -> list[Conversation]:
    return generation.generate(5, COUNT, generation.LONG_PAUSES)


def test_a_seed_is_a_run() -> None:
    assert generation.generate(5, 100) == generation.generate(5, 100)
    assert generation.generate(5, 100) != generation.generate(6, 100)
    # A conversation is found again by its number, however many are played.
    assert generation.generate(5, 50) == generation.generate(5, 100)[:50]


def test_every_script_is_in_a_sample(many: list[Conversation]) -> None:
    names = {script.__name__ for script in scripts.SCRIPTS}
    assert {each.kind for each in generation.generate(9, len(names))} == names
    kinds = Counter(each.kind for each in many)
    total = sum(scripts.SCRIPTS.values())
    for script, weight in scripts.SCRIPTS.items():
        assert kinds[script.__name__] >= COUNT * weight / total / 3, script


def test_keys_and_ports_are_of_one_conversation(many: list[Conversation]) -> None:
    assert len({each.key for each in many}) == COUNT
    assert all(step.port <= SOURCE_PORTS for each in many for step in each.steps)


def test_a_port_is_used_again_only_where_that_can_be(many: list[Conversation]) -> None:
    """A client that closed first has its port in TIME_WAIT, but in the hasty environments."""
    for each in many:
        closed_first: dict[int, int] = {}
        port_of: dict[int, int] = {}
        for step in each.steps:
            if step.action in OPENING:
                if step.port in closed_first.values():
                    assert each.environment in HASTY, str(each)
                port_of[step.connection] = step.port
            elif step.action is Action.SHUT and step.connection not in closed_first:
                if step.end is End.CLIENT and port_of[step.connection]:
                    closed_first[step.connection] = port_of[step.connection]
                else:
                    closed_first[step.connection] = -1
            elif step.action in (Action.ABORT, Action.FORGET):
                closed_first.pop(step.connection, None)


def test_steps_are_in_an_order_that_can_be_played(many: list[Conversation]) -> None:
    """Nobody speaks before the connection is there, or after the own end of it is gone."""
    for each in many:
        listening: set[int] = set()
        ends: set[tuple[int, End]] = set()
        for step in each.steps:
            mine = (step.connection, step.end)
            if step.action is Action.LISTEN:
                listening.add(step.service)
            elif step.action is Action.DEAF:
                listening.remove(step.service)
            elif step.action is Action.CONNECT:
                refused = step.expected == (Result.REFUSED,)
                assert refused is (step.service not in listening), str(each)
                ends.add((step.connection, End.CLIENT))
            elif step.action is Action.ACCEPT:
                assert (step.connection, End.CLIENT) in ends, str(each)
                ends.add((step.connection, End.SERVER))
            elif step.action in TALKING:
                assert mine in ends, f"{each}\n{step}"
            elif step.action in ENDING:
                assert mine in ends, f"{each}\n{step}"
                ends.remove(mine)


def test_tcp_can_always_come_through(many: list[Conversation]) -> None:
    for each in many:
        if each.impairment is None:
            continue
        assert each.impairment.loss < 0.1
        assert each.impairment.delay_seconds < 0.2, "below the least time for sending again"
        assert all(fault.count <= 2 for fault in each.impairment.faults)


def test_nothing_is_late_when_somebody_listens_at_last(many: list[Conversation]) -> None:
    for each in many:
        for number, step in enumerate(each.steps):
            if step.action is Action.LISTEN and any(
                before.action in OPENING for before in each.steps[:number]
            ):
                before = each.steps[number - 1]
                assert before.action is Action.PAUSE, str(each)
                assert before.seconds >= LATE_SECONDS, str(each)
        if each.impairment is not None:
            assert 2 * each.impairment.delay_seconds < LATE_SECONDS


def test_the_next_syn_of_a_port_is_apart_from_the_last(many: list[Conversation]) -> None:
    """A server that listens could take it for one that opens again what a duplicate half opened."""
    pairs = 0
    for each in many:
        since: dict[tuple[int, int], float] = {}
        for step in each.steps:
            place = (step.port, step.service)
            if step.action in OPENING and step.port:
                if place in since and step.expected != (Result.REFUSED,):
                    pairs += 1
                    assert since[place] >= APART_SECONDS, f"{each}\n{step}"
                since[place] = 0.0
            if step.action in (Action.PAUSE, Action.GIVE_UP):
                since = {place: passed + step.seconds for place, passed in since.items()}
    assert pairs > COUNT / 4


def test_a_sample_takes_seconds() -> None:
    longest = max(
        sum(step.seconds for step in each.steps if step.action is Action.PAUSE)
        for each in generation.generate(5, COUNT)
    )
    assert longest <= 30


def test_a_long_run_outlives_what_the_nats_remember(many: list[Conversation]) -> None:
    pauses = {step.seconds for each in many for step in each.steps if step.action is Action.PAUSE}
    assert max(pauses) > 2 * CLOSING_SECONDS


def test_a_conversation_can_be_read(many: list[Conversation]) -> None:
    each = next(each for each in many if each.kind == "stale_server")
    text = str(each)
    assert f"conversation {each.key}: stale_server" in text
    assert "rst 0 to 0 of the client at the server's side lost" in text
    assert "connect connection=1 port=1" in text
