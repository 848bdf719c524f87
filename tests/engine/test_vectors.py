# SPDX-License-Identifier: Apache-2.0
"""The vectors, played to the reference model and to the engine."""

import pytest

from tests.engine import scenario, vector
from tests.engine.compiled import EngineTarget

VECTORS = vector.load_all()

CASES = [
    pytest.param(
        case,
        id=str(case),
        marks=[
            pytest.mark.requirement(name, profile=profile)
            for name, _, profile in (text.partition(" ") for text in case.requirements)
        ],
    )
    for case in VECTORS
]


@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_model(case: vector.Vector) -> None:
    vector.play(case, scenario.ModelTarget(case.setup))


@pytest.mark.parametrize("case", CASES)
def test_engine(case: vector.Vector) -> None:
    target = EngineTarget(case.setup)
    vector.play(case, target)
    target.close()


def test_names_are_unique() -> None:
    names = [str(case) for case in VECTORS]
    assert len(set(names)) == len(names)
