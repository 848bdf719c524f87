# SPDX-License-Identifier: Apache-2.0
"""The judge: what nft carries must be carried here.

A conversation is carried when every step had a result that the script expects: all data there and
unchanged, every end the one that was asked for. Timing is no matter. Where nft does not carry a
conversation nothing is asserted of the gateway; `Report.failures` sees to it that this stays rare.

Chance plays a part, if only in the order of packets. So a conversation that differs is played
again in both worlds, alone; one that differs again is a fault. Yet a fault may well show only now
and then: the differences that did not come again are counted, and too many of them are a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from tests.differential.conversation import Action, Conversation, Result, describe
from tests.differential.driver import Outcome


class Verdict(StrEnum):
    """What a pair of outcomes says of the gateway."""

    SAME = "both carry it"
    NOT_CARRIED = "nft does not carry it"
    ALLOWED = "an allowed difference"
    FAULT = "nft carries it, the gateway does not"


@dataclass(frozen=True)
class Allowed:
    """A conversation that nft carries and the gateway need not."""

    kind: str
    action: Action
    result: Result
    """What the gateway's step ended with."""
    reason: str
    source: str
    """The RFC's section."""


ALLOWED: tuple[Allowed, ...] = ()


@dataclass(frozen=True)
class Pair:
    """One conversation in both worlds."""

    conversation: Conversation
    nft: Outcome
    gateway: Outcome

    def step(self, outcome: Outcome) -> str:
        """Where an outcome ends, in words."""
        if outcome.carried:
            return "carried"
        number = len(outcome.results) - 1
        return f"step {number} ({describe(self.conversation.steps[number])}): {outcome.last}"

    def __str__(self) -> str:
        return (
            f"{self.conversation}\n  nft: {self.step(self.nft)}\n  here: {self.step(self.gateway)}"
        )


def judge(pair: Pair, allowed: Iterable[Allowed] = ALLOWED) -> Verdict:
    """The verdict on one pair."""
    if not pair.nft.carried:
        return Verdict.NOT_CARRIED
    if pair.gateway.carried:
        return Verdict.SAME
    step = pair.conversation.steps[len(pair.gateway.results) - 1]
    found = (pair.conversation.kind, step.action, pair.gateway.last)
    if any((each.kind, each.action, each.result) == found for each in allowed):
        return Verdict.ALLOWED
    return Verdict.FAULT


NOT_CARRIED_SHARE = 0.02
"""More that nft does not carry, and the scripts or the impairments ask for too much."""

ONCE_SHARE = 0.001
"""More differences that did not come again, and the gateway has a fault that shows sometimes."""


@dataclass
class Report:
    """A whole run."""

    seed: int
    allowed: tuple[Allowed, ...] = ALLOWED
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    suspects: list[Pair] = field(default_factory=list)
    """They differed."""
    faults: list[Pair] = field(default_factory=list)
    """They differed twice."""
    once: list[Pair] = field(default_factory=list)
    """They differed, and not again."""
    not_carried: list[Pair] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        """Count a pair; a fault is to be played again, see `settle`."""
        verdict = judge(pair, self.allowed)
        self.verdicts[verdict] += 1
        if verdict is Verdict.FAULT:
            self.suspects.append(pair)
        elif verdict is Verdict.NOT_CARRIED:
            self.not_carried.append(pair)

    def settle(self, suspect: Pair, repetitions: Iterable[Pair]) -> None:
        """What becomes of a suspect that was played again."""
        again = any(judge(each, self.allowed) is Verdict.FAULT for each in repetitions)
        (self.faults if again else self.once).append(suspect)

    @property
    def count(self) -> int:
        return self.verdicts.total()

    def failures(self) -> list[str]:
        """What is wrong, one text each; none is a pass."""
        found = [str(pair) for pair in self.faults]
        if len(self.once) > max(1, ONCE_SHARE * self.count):
            found.append(f"{len(self.once)} differences that did not come again, such as:")
            found += [str(pair) for pair in self.once[:10]]
        if len(self.not_carried) > max(1, NOT_CARRIED_SHARE * self.count):
            found.append(f"nft does not carry {len(self.not_carried)}, such as:")
            found += [str(pair) for pair in self.not_carried[:10]]
        return found

    def __str__(self) -> str:
        kinds = Counter(pair.conversation.kind for pair in self.not_carried)
        lines = [f"seed {self.seed}: {self.count} conversations"]
        lines += [f"  {count} {verdict}" for verdict, count in sorted(self.verdicts.items())]
        lines.append(f"  {len(self.once)} differed and did not differ again")
        lines += [f"  not carried by nft: {count} {kind}" for kind, count in sorted(kinds.items())]
        return "\n".join(lines)
