# SPDX-License-Identifier: Apache-2.0
"""`flows`: what is asked of the controller, and what is made of its answer."""

from __future__ import annotations

import pytest

from hyperplane_nat.cli import flows
from hyperplane_nat.engine import State
from tests.cli.conftest import FLOW, Run
from tests.cli.fake_api import FakeApi


def test_flows_are_selected_by_the_controller(run: Run, api: FakeApi) -> None:
    options = ["--limit", "5", "--environment", "env-1", "--protocol", "tcp"]
    run("flows", *options, "--json")
    assert api.requests == ["GET /v1/flows?environment=env-1&protocol=tcp&limit=5"]


def test_every_filter_reaches_the_controller(run: Run, api: FakeApi) -> None:
    options = ["--function", "checkout", "--interface", "eni-a", "--remote", "10.0.1.80:80"]
    options += ["--state", "time-wait", "--min-age", "3", "--max-age", "9"]
    run("flows", *options, "--sort", "bytes-out", "--reverse")
    assert api.requests == [
        "GET /v1/flows?function=checkout&interface=eni-a&remote=10.0.1.80%3A80&state=TIME_WAIT"
        "&min_age=3&max_age=9&sort=bytes_out&reverse=true&limit=101"
    ]


def test_flows_as_json_have_no_limit(run: Run, api: FakeApi) -> None:
    run("flows", "--json")
    assert api.requests == ["GET /v1/flows"]


def test_flows_say_when_there_are_more(run: Run, api: FakeApi) -> None:
    api.answers["/v1/flows"] = [FLOW, FLOW | {"nat_port": 1025}]
    result = run("flows", "--limit", "1")
    assert "1025" not in result.stdout
    assert "more than 1 flows" in result.stdout


def test_age_and_idle_time_are_shown(run: Run, api: FakeApi) -> None:
    output = run("flows").stdout
    assert "1 h 1 min" in output
    assert "5 s" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol", "sctp"], "unknown protocol 'sctp' (one of: tcp, udp, icmp)"),
        (["--state", "open"], "unknown state 'OPEN' (one of: SYN_SENT, "),
        (["--sort", "colour"], "unknown field 'colour' (one of: age, "),
        (["--reverse"], "--reverse without --sort (say by which field)"),
        (["--watch", "--json"], "--watch draws tables (leave out --json or --watch)"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    run: Run, api: FakeApi, options: list[str], words: str
) -> None:
    result = run("flows", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert api.requests == []


def test_the_states_are_those_of_the_engine() -> None:
    assert [state.name for state in State if state.name not in ("FREE", "MAPPING")] == list(
        flows.STATES
    )
