# SPDX-License-Identifier: Apache-2.0
"""`advance`: what is asked, told and refused."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

ANSWER = {"clock_offset_seconds": 1209950.0}


def test_time_passes(run: Run, api: FakeApi) -> None:
    api.answers["/v1/advance"] = ANSWER
    assert "default is 1209950 s ahead" in run("advance", "350").stdout
    assert json.loads(run("advance", "0.5", "--json").stdout) == ANSWER
    assert api.bodies == [{"seconds": 350.0}, {"seconds": 0.5}]


@pytest.mark.parametrize("seconds", ["-1", "-inf", "nan", "inf", "1e12", "soon", ""])
def test_what_is_no_time_is_refused_unasked(run: Run, api: FakeApi, seconds: str) -> None:
    result = run("advance", seconds)
    assert result.exit_code == 2
    assert "SECONDS" in result.stderr
    assert api.requests == []
