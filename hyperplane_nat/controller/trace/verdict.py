# SPDX-License-Identifier: Apache-2.0
"""A trace as it is answered: the steps, and what they come to."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.trace import steps
from hyperplane_nat.controller.trace.journey import Journey, journey_of
from hyperplane_nat.controller.trace.question import Looks, Question
from hyperplane_nat.controller.trace.rehearsal import rehearsal
from hyperplane_nat.engine import DropReason, StateMap, StateMapError
from hyperplane_nat.model.tables import Tables
from netns.listening import listening


def traced_in(
    state_file: Path,
    question: Question,
    config: Config,
    tables: Tables,
    slots: Container[int],
    *,
    forwards: bool,
) -> dict[str, Any]:
    """The same of the lab that has this state map. ModelError, ControllerError."""
    looks = Looks(listening, lambda: StateMap.open(state_file), forwards)
    try:
        return traced(question, config, tables, slots, looks, state_file.parent)
    except StateMapError as error:
        raise ControllerError(f"cannot trace in {state_file.parent}: {error}") from None


def traced(
    question: Question,
    config: Config,
    tables: Tables,
    slots: Container[int],
    looks: Looks,
    directory: Path,
) -> dict[str, Any]:
    """
    GET /v1/trace, of tables that nobody changes; blocks. `directory` is on a tmpfs.

    Errors: ModelError, StateMapError.
    """
    journey = journey_of(question, config, tables, slots, looks)
    sender = journey.sender
    if sender.vpc is None or journey.address is None:
        return _answer(journey)
    assert journey.behind is not None
    journey.rehearsal = rehearsal(
        config,
        journey.wanted,
        {sender.vpc.number, journey.behind.number},
        directory,
        interface=None if sender.interface is None else sender.interface.number,
        endpoint=journey.endpoint,
    )
    journey.send()
    return _answer(journey)


def _answer(journey: Journey) -> dict[str, Any]:
    steps.take(journey)
    question, sent = journey.question, journey.sent
    failing = [each for each in journey.taken if not each.passes]
    place = question.target if question.port is None else f"{question.target}:{question.port}"
    verdict = f"{journey.sender.text} reaches {place} by {question.protocol}"
    if failing:
        verdict = f"{journey.sender.text} does not reach {place} by {question.protocol}: "
        verdict += "; ".join(f"{each.name}: {each.text}" for each in failing)
    dropped = sent is not None and sent.reason is not DropReason.NONE
    return {
        "source": journey.sender.text,
        "target": question.target,
        "address": None if journey.address is None else str(journey.address),
        "port": question.port,
        "protocol": question.protocol,
        "reachable": not failing,
        "verdict": verdict,
        "drop_reason": sent.reason.name.lower() if sent is not None and dropped else None,
        "steps": [each.document() for each in journey.taken],
    }
