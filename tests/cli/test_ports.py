# SPDX-License-Identifier: Apache-2.0
"""`ports`: who has them is named, in a table and as JSON."""

from __future__ import annotations

import json
import time

import pytest

from hyperplane_nat.cli import watching
from tests.cli.conftest import PORTS, Run
from tests.cli.fake_api import FakeApi


def test_json_is_the_apis_answer(run: Run, api: FakeApi) -> None:
    assert json.loads(run("ports", "--json").stdout) == PORTS


def test_the_culprit_is_named(run: Run, api: FakeApi) -> None:
    output = run("ports").stdout
    (row,) = [line for line in output.splitlines() if "10.0.1.54:5432" in line]
    words = ["eni-a", "10.0.1.10", "tcp", "54900", "100", "55000", "100.0", "17"]
    words += ["1 min 15 s ago, port_allocation", "checkout 54090, shop/worker 900, removed ones 10"]
    assert [word for word in words if word not in row] == []


def test_a_mapping_is_towards_any(run: Run, api: FakeApi) -> None:
    (row,) = [line for line in run("ports").stdout.splitlines() if "\tany\t" in line]
    assert "0.0.0.0" not in row


def test_the_controller_selects(run: Run, api: FakeApi) -> None:
    run("ports", "--top", "3", "--interface", "eni-a", "--remote", "10.0.1.54:5432", "--json")
    assert api.requests == ["GET /v1/ports?top=3&interface=eni-a&remote=10.0.1.54%3A5432"]


def test_watch_draws_until_it_is_interrupted(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    result = run("ports", "--watch")
    assert result.exit_code == 0
    assert result.stdout.count("10.0.1.54:5432") == 3
    assert pauses == [watching.INTERVAL_SECONDS] * 3


def test_watch_and_json_exclude_each_other(run: Run, api: FakeApi) -> None:
    result = run("ports", "--watch", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--watch draws tables (leave out --json or --watch)" in result.stderr


def test_no_daemon_is_one_line_and_exit_2(run: Run) -> None:
    result = run("ports")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not running" in result.stderr
