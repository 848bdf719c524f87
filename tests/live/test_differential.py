# SPDX-License-Identifier: Apache-2.0
"""Whatever conversation the kernel's own NAT carries, the gateway carries: see
`tests.differential`.

`DIFFERENTIAL_SEED=N` repeats a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from tests.differential import generation, rounds, scripts
from tests.differential.conversation import Conversation, End, Fault, Impairment, Segment
from tests.differential.judge import Report
from tests.differential.rounds import Worlds

pytestmark = pytest.mark.live

SAMPLE = 300
LONG = 10_000
LONG_SECONDS = 3600


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with rounds.both(tmp_path_factory.mktemp("differential")) as found:
        yield found


def run(
    both: Worlds, capsys: pytest.CaptureFixture[str], count: int, pauses: tuple[float, ...]
) -> Report:
    seed = rounds.seed()
    with capsys.disabled():
        print(f"\n{rounds.SEED_VARIABLE}={seed}", flush=True)
    report = both.run(seed, generation.generate(seed, count, pauses))
    with capsys.disabled():
        print(report, *report.once, sep="\n", flush=True)
    return report


def check(both: Worlds, report: Report, count: int) -> None:
    assert report.count == count
    if failures := report.failures():
        pytest.fail(f"{report}\n\n" + "\n".join(failures), pytrace=False)
    for world in (both.nft, both.gateway):
        counts = world.middlebox.counts()
        assert all(counts.values()), f"{world.name}: {counts}"
    assert both.lab.verify() == []


@pytest.mark.slow
@pytest.mark.requirement("RFC5382-2", profile="rfc")
def test_a_sample(both: Worlds, capsys: pytest.CaptureFixture[str]) -> None:
    check(both, run(both, capsys, SAMPLE, generation.SAMPLE_PAUSES), SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS)
def test_ten_thousand(both: Worlds, capsys: pytest.CaptureFixture[str]) -> None:
    check(both, run(both, capsys, LONG, generation.LONG_PAUSES), LONG)


def impaired(conversation: Conversation) -> Conversation:
    """Led through the middlebox, which is where this world can be spoilt."""
    return dataclasses.replace(conversation, impairment=conversation.impairment or Impairment())


def test_a_nat_that_loses_resets_is_found_out(both: Worlds) -> None:
    """
    The same lab, and it looks as if it dropped what the clients reset: conversations that need it
    are faults, the others are not. Otherwise a sample that passes would mean nothing.
    """
    seed = 1
    needing = [
        impaired(generation.conversation(seed, number, (0.0,), script))
        for script in (scripts.aborted, scripts.unread)
        for number in range(10)
    ]
    others = [
        impaired(generation.conversation(seed, number, (0.0,), scripts.exchange))
        for number in range(10)
    ]
    hasty = dataclasses.replace(both, deadline_seconds=4.0)
    both.gateway.middlebox.faults = (Fault(End.SERVER, End.CLIENT, Segment.RST, count=1 << 30),)
    try:
        report = hasty.run(seed, [*needing, *others])
    finally:
        both.gateway.middlebox.faults = ()
    assert report.count == len(needing) + len(others)
    assert {pair.conversation.kind for pair in report.faults} == {"aborted", "unread"}
    assert report.failures()
