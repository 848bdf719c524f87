# SPDX-License-Identifier: Apache-2.0
"""What a trace is asked, how it looks at what stands, and what a step of its answer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hyperplane_nat.engine import StateMap
from hyperplane_nat.flow_query import Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: whether `source` reaches `target`, an address or a name."""

    source: str
    target: str
    port: int | None
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Looks:
    """How to look at what stands."""

    listening: Callable[[str, Literal["tcp", "udp"], str, int], bool]
    """Whether a namespace has a socket for a protocol, address and port."""
    state_map: Callable[[], StateMap]
    """The state map, mapped anew; the caller closes it."""
    forwards: bool = True
    """Whether the forwarder moves packets."""


@dataclass(frozen=True, slots=True)
class Step:
    """What decides at one place."""

    name: str
    passes: bool
    rule: str
    """What it goes by: a rule, a route, a thing by its id; empty where there is none."""
    text: str

    def document(self) -> dict[str, object]:
        """As the API has it."""
        return {
            "step": self.name,
            "outcome": "passes" if self.passes else "fails",
            "rule": self.rule,
            "text": self.text,
        }
