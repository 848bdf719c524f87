# SPDX-License-Identifier: Apache-2.0
"""What the judge lets pass and what it does not."""

from __future__ import annotations

import pytest

from tests.differential.conversation import Action, Conversation, Result, Step
from tests.differential.driver import Outcome
from tests.differential.judge import Allowed, Pair, Report, Verdict, judge

CONVERSATION = Conversation(
    number=7,
    kind="made_up",
    key="1/7",
    environment=1,
    impairment=None,
    steps=(
        Step(Action.LISTEN),
        Step(Action.CONNECT),
        Step(Action.WAIT, expected=(Result.RESET,)),
    ),
)
CARRIED = Outcome((Result.OK, Result.OK, Result.RESET), carried=True)
REFUSED = Outcome((Result.OK, Result.REFUSED), carried=False)
HANGS = Outcome((Result.OK, Result.OK, Result.HANG), carried=False)
CUT = Outcome((Result.OK, Result.RESET), carried=False)


def pair(nft: Outcome, gateway: Outcome) -> Pair:
    return Pair(CONVERSATION, nft, gateway)


@pytest.mark.parametrize(
    ("nft", "gateway", "verdict"),
    [
        (CARRIED, CARRIED, Verdict.SAME),
        (CARRIED, HANGS, Verdict.FAULT),
        (CARRIED, CUT, Verdict.FAULT),
        (CARRIED, REFUSED, Verdict.FAULT),
        (HANGS, HANGS, Verdict.NOT_CARRIED),
        (HANGS, CUT, Verdict.NOT_CARRIED),
        (CUT, CARRIED, Verdict.NOT_CARRIED),
    ],
)
def test_what_nft_carries_must_be_carried(nft: Outcome, gateway: Outcome, verdict: Verdict) -> None:
    assert judge(pair(nft, gateway)) is verdict


def allowed(kind: str = "made_up", result: Result = Result.HANG) -> Allowed:
    return Allowed(kind, Action.WAIT, result, reason="because", source="RFC 0, section 0")


def test_an_allowed_difference_is_allowed_as_it_is_written_only() -> None:
    differs = pair(CARRIED, HANGS)
    assert judge(differs, [allowed()]) is Verdict.ALLOWED
    assert judge(differs, [allowed(kind="another")]) is Verdict.FAULT
    assert judge(differs, [allowed(result=Result.RESET)]) is Verdict.FAULT
    assert judge(pair(CARRIED, CUT), [allowed(result=Result.RESET)]) is Verdict.FAULT


def test_a_difference_that_comes_again_is_a_failure() -> None:
    report = Report(seed=1)
    for each in (pair(CARRIED, CARRIED), pair(CARRIED, HANGS)):
        report.add(each)
    (suspect,) = report.suspects
    report.settle(suspect, [pair(CARRIED, CARRIED), pair(CARRIED, CUT)])
    (text,) = report.failures()
    assert "conversation 1/7: made_up" in text
    assert "step 2 (wait connection=0 -> reset): hang" in text


def repeated(count: int, once: int) -> Report:
    """A run of so many conversations, some of which differed once."""
    report = Report(seed=1)
    for number in range(count):
        report.add(pair(CARRIED, HANGS if number < once else CARRIED))
    for suspect in report.suspects:
        report.settle(suspect, [pair(CARRIED, CARRIED), pair(HANGS, CUT)])
    return report


@pytest.mark.parametrize(
    ("count", "once", "failures"), [(300, 1, 0), (300, 2, 1), (10_000, 10, 0), (10_000, 11, 1)]
)
def test_differences_that_do_not_come_again_are_counted(
    count: int, once: int, failures: int
) -> None:
    report = repeated(count, once)
    assert (len(report.once), report.faults) == (once, [])
    assert bool(report.failures()) is bool(failures)
    assert f"{once} differed and did not differ again" in str(report)


@pytest.mark.parametrize(("refused", "fails"), [(6, False), (7, True)])
def test_a_run_in_which_nft_carries_little_says_nothing(refused: int, fails: bool) -> None:
    report = Report(seed=1)
    for number in range(300):
        outcome = REFUSED if number < refused else CARRIED
        report.add(pair(outcome, outcome))
    assert bool(report.failures()) is fails
    assert f"not carried by nft: {refused} made_up" in str(report)
