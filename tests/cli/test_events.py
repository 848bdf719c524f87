# SPDX-License-Identifier: Apache-2.0
"""`events`: lines, JSON, and what is followed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.cli import events
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi, Refusal

EVENT: dict[str, Any] = {
    "number": 1_700_000_000,
    "time": 1_700_000_000.25,
    "kind": "port-exhaustion",
    "message": "no source port is left on eni-a towards tcp 10.0.1.80:443 (env-7)",
    "interface": "eni-a",
    "remote": "tcp 10.0.1.80:443",
    "environment": "env-7",
    "function": None,
    "suppressed": 12,
}


def test_events_are_lines(run: Run, api: FakeApi) -> None:
    api.answers["/v1/events"] = [EVENT, EVENT | {"suppressed": 0}]
    first, second = run("events", "--limit", "2").stdout.splitlines()
    assert api.requests == ["GET /v1/events?limit=2"]
    assert first.endswith("towards tcp 10.0.1.80:443 (env-7) (12 more not shown)")
    assert second.endswith("(env-7)")


def test_json_is_the_apis_answer(run: Run, api: FakeApi) -> None:
    api.answers["/v1/events"] = [EVENT]
    assert json.loads(run("events", "--json").stdout) == [EVENT]


def test_following_asks_for_what_came_after(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = EVENT | {"number": EVENT["number"] + 1}
    answers = iter([[EVENT], [], [later], Refusal(500, "failed", "the lab is being removed")])
    api.answers["/v1/events"] = lambda _body: next(answers)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.0)
    result = run("events", "--follow", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [EVENT, later]
    assert json.loads(result.stderr) == {"error": "failed", "message": "the lab is being removed"}
    assert api.requests[1:3] == ["GET /v1/events?after=1700000000"] * 2


def test_a_follower_outlives_a_controller_that_ends_while_it_answers(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = EVENT | {"number": EVENT["number"] + 1}
    answers = iter([[EVENT], [later], [later], Refusal(500, "failed", "enough")])

    def answer(_body: object) -> Any:
        api.cut_short = len(api.requests) == 2
        return next(answers)

    api.answers["/v1/events"] = answer
    monkeypatch.setattr(events, "POLL_SECONDS", 0.0)
    result = run("events", "--follow", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [EVENT, later]
    assert json.loads(result.stderr)["message"] == "enough"


def test_a_follower_ends_when_nobody_reads(api: FakeApi, runtime: Path) -> None:
    """`events --follow | head -1`: nothing more happens, so nothing would be written."""
    answers = iter([[EVENT]])
    api.answers["/v1/events"] = lambda _body: next(answers, [])
    with subprocess.Popen(
        [sys.executable, "-m", "hyperplane_nat.cli", "events", "--follow"],
        env=os.environ | {"HYPERPLANE_NAT_RUNTIME_DIRECTORY": str(runtime)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert "port-exhaustion" in follower.stdout.readline()
        follower.stdout.close()
        try:
            follower.wait(timeout=60)
        finally:
            follower.kill()
        assert follower.stderr.read() == ""
