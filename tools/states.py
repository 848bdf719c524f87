# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.states` writes docs/states.md: the state machines, drawn from the tables that
run.

Theory of operation
-------------------
An arrow stands for all that leads from one state to another; what changes no state is not drawn. A
machine begins in the first state of its enumeration, and ends where no arrow leads on. The text is
Mermaid, which GitHub and most editors draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, StrEnum
from typing import NamedTuple, TypeVar

from hyperplane_nat.controller.forwarder.states import FORWARDER_STATES
from hyperplane_nat.engine.flows.fragment_states import TRANSITIONS as FRAGMENTS
from hyperplane_nat.engine.flows.neighbour_states import TRANSITIONS as NEIGHBOURS
from hyperplane_nat.engine.flows.tcp_states import TIMER_OF_STATE, arrows
from hyperplane_nat.engine.state.constants import FragmentState, NeighbourState, Peer, State
from hyperplane_nat.model.states import (
    ENDPOINT_STATES,
    ENVIRONMENT_STATES,
    FUNCTION_STATES,
    INTERFACE_STATES,
    NAT_GATEWAY_STATES,
    TARGET_STATES,
    UPDATE_STATES,
)

HEAD = """\
<!-- Written by `python -m tools.states`; do not edit. -->
# State machines

Drawn from the tables that the program runs by. An arrow is all that leads from one state to
another; what changes no state is not drawn.
"""


S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
K = TypeVar("K", bound=IntEnum)
H = TypeVar("H", bound=IntEnum)
D = TypeVar("D", bound=IntEnum)


class Arrow(NamedTuple):
    """From a state to another, and why; "[*]" is where nothing is."""

    before: str
    after: str
    why: str


class Machine(NamedTuple):
    """A section of the page; `labels` has what to write in a state if it is more than its name."""

    title: str
    text: str
    arrows: list[Arrow]
    labels: Mapping[str, str]


def name(state: Enum) -> str:
    """A state's name; a word for Mermaid, whatever AWS calls it."""
    return state.name


def tcp(*, restarts: bool) -> list[Arrow]:
    """What segments do, but for staying where one is."""
    return [
        Arrow(
            name(each.before),
            name(each.after),
            " ".join([name(each.segment), *(name(s).lower() for s in _single(each.sides))]),
        )
        for each in arrows(restarts=restarts)
    ]


def _single(sides: frozenset[Peer]) -> frozenset[Peer]:
    """The side, if it is one."""
    return sides if len(sides) == 1 else frozenset()


def lifecycle(title: str, text: str, table: Mapping[tuple[S, E], S]) -> Machine:
    """A table of the model, with its beginning, its ends and AWS's words."""
    arrows = [
        Arrow(name(before), name(after), event.value)
        for (before, event), after in table.items()
        if after is not before
    ]
    first = next(iter(type(next(iter(table.values())))))
    left = {arrow.before for arrow in arrows}
    ends = dict.fromkeys(arrow.after for arrow in arrows if arrow.after not in left)
    return Machine(
        title,
        text,
        [
            Arrow("[*]", name(first), ""),
            *arrows,
            *(Arrow(state, "[*]", "") for state in ends),
        ],
        {name(state): state.value for state in type(first)},
    )


def records(begins: Arrow, table: Mapping[tuple[K, H], tuple[K, D]], nowhere: K) -> list[Arrow]:
    """Arrows of what the engine keeps; a record that is forgotten is nowhere."""
    return [
        begins,
        *(
            Arrow(
                name(before),
                "[*]" if after is nowhere else name(after),
                f"{name(event)} / {name(action).lower()}",
            )
            for (before, event), (after, action) in table.items()
            if after is not before
        ),
    ]


def machines() -> list[Machine]:
    """Everything on the page."""
    timers = {name(state): f"{name(state)}<br>{timer}" for state, timer in TIMER_OF_STATE.items()}
    return [
        Machine(
            "A TCP connection",
            "What segments do, of one side or of both (`engine/flows/tcp_states.py` has them all,\n"
            "and what they mean). Below the name of a state is its timer. When that runs out in\n"
            "TIME_WAIT or RESET the port is free; in another state the flow ends, and its port is\n"
            "held first (HELD).",
            [
                Arrow("[*]", name(State.SYN_SENT), "SYN"),
                *tcp(restarts=False),
            ],
            timers,
        ),
        Machine(
            "The same addresses and ports again",
            "Segments that end the flow of an entry and begin another one in it.",
            tcp(restarts=True),
            {},
        ),
        Machine(
            "A next hop",
            "What happens / what is done (`engine/flows/neighbour_states.py`).",
            records(
                Arrow("[*]", name(NeighbourState.INCOMPLETE), "a frame for it"),
                NEIGHBOURS,
                NeighbourState.NONE,
            ),
            {},
        ),
        Machine(
            "A datagram in fragments",
            "What happens / what is done (`engine/flows/fragment_states.py`).",
            records(
                Arrow("[*]", name(FragmentState.WAITING), "a fragment of it"),
                FRAGMENTS,
                FragmentState.NONE,
            ),
            {},
        ),
        lifecycle(
            "The forwarder of a lab",
            "What its supervisor is about (`controller/forwarder/states.py` says what is done in\n"
            "each state).",
            FORWARDER_STATES,
        ),
        lifecycle("A function", "`State` of the Lambda API.", FUNCTION_STATES),
        lifecycle("A function's update", "`LastUpdateStatus` of the Lambda API.", UPDATE_STATES),
        lifecycle("A network interface", "`Status` of the EC2 API.", INTERFACE_STATES),
        lifecycle("A NAT gateway", "`State` of the EC2 API.", NAT_GATEWAY_STATES),
        lifecycle(
            "A target of a load balancer",
            "`TargetHealthStateEnum` of the Elastic Load Balancing API, but for `unused`, which\n"
            "follows from other things, and `unavailable`, as checks cannot be turned off.",
            TARGET_STATES,
        ),
        lifecycle(
            "An endpoint",
            "`State` of the EC2 API, whose others do not occur; what is deleted is gone at once.",
            ENDPOINT_STATES,
        ),
        lifecycle("An execution environment", "For one invocation at a time.", ENVIRONMENT_STATES),
    ]


def drawn(machine: Machine) -> str:
    """A section in Markdown."""
    joined: dict[tuple[str, str], list[str]] = {}
    for before, after, why in machine.arrows:
        joined.setdefault((before, after), []).append(why)
    there = dict.fromkeys(state for pair in joined for state in pair)
    lines = [
        f'state "{machine.labels[state]}" as {state}' for state in there if state in machine.labels
    ]
    for (before, after), reasons in joined.items():
        label = "<br>".join(reason for reason in reasons if reason)
        lines.append(f"{before} --> {after}" + (f" : {label}" if label else ""))
    body = "\n".join(f"    {line}" for line in lines)
    return f"## {machine.title}\n\n{machine.text}\n\n```mermaid\nstateDiagram-v2\n{body}\n```\n"


def page() -> str:
    """docs/states.md."""
    return "\n".join([HEAD, *map(drawn, machines())])


if __name__ == "__main__":
    print(page(), end="")
