# SPDX-License-Identifier: Apache-2.0
"""trace: what is asked, what is shown, and the exit codes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi, Refusal

STEPS = [
    {"step": "source", "outcome": "passes", "rule": "eni-1", "text": "host shop/db, 10.0.1.4"},
    {"step": "route", "outcome": "fails", "rule": "", "text": "no route"},
]
ANSWER: dict[str, Any] = {
    "source": "host shop/db",
    "target": "site",
    "address": "198.51.100.80",
    "port": 80,
    "protocol": "tcp",
    "reachable": False,
    "verdict": "host shop/db does not reach site:80 by tcp: route: no route",
    "drop_reason": "no_route",
    "steps": STEPS,
}


def test_steps_and_the_verdict_are_shown(run: Run, api: FakeApi) -> None:
    api.answers["/v1/trace"] = ANSWER
    done = run("trace", "shop/db", "site:80")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "step\toutcome\twhat, and by which rule",
        "source\tpasses\thost shop/db, 10.0.1.4; eni-1",
        "route\tfails\tno route",
        "# host shop/db does not reach site:80 by tcp: route: no route",
    ]
    asked = run("trace", "shop/db", "site:80", "--json")
    assert (asked.exit_code, json.loads(asked.stdout)) == (1, ANSWER)


def test_who_is_reached_is_exit_code_0(run: Run, api: FakeApi) -> None:
    api.answers["/v1/trace"] = ANSWER | {"reachable": True}
    assert run("trace", "db", "site:80").exit_code == 0
    assert run("trace", "db", "site:80", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (("10.0.1.80:80",), {"target": "10.0.1.80", "port": "80"}),
        (("site",), {"target": "site"}),
        (("site:53", "--protocol", "udp"), {"target": "site", "port": "53", "protocol": "udp"}),
    ],
)
def test_what_is_asked(
    run: Run, api: FakeApi, words: tuple[str, ...], query: dict[str, str]
) -> None:
    api.answers["/v1/trace"] = ANSWER
    run("trace", "f", *words)
    (asked,) = api.requests
    found = {name: value for name, (value,) in parse_qs(urlsplit(asked).query).items()}
    assert found == {"source": "f"} | query


@pytest.mark.parametrize("target", ["", "a b", "10.0.1.80:", "10.0.1.80:0", "x:65536", "a:b", "é"])
def test_what_is_no_target_is_exit_code_2(run: Run, api: FakeApi, target: str) -> None:
    done = run("trace", "f", target)
    assert done.exit_code == 2
    assert "is no target" in done.stderr
    assert api.requests == []


def test_what_the_controller_refuses_is_exit_code_2(run: Run, api: FakeApi) -> None:
    api.answers["/v1/trace"] = Refusal(404, "ResourceNotFoundException", "there is no f (name one)")
    done = run("trace", "f", "site:80")
    assert done.exit_code == 2
    assert "there is no f" in done.stderr
    assert run("trace", "f", "site:80", "--protocol", "sctp").exit_code == 2
