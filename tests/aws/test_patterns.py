# SPDX-License-Identifier: Apache-2.0
"""Patterns of clients: which are tried, and that none keeps anybody from being answered."""

from __future__ import annotations

import threading

import pytest

from hyperplane_nat.aws import patterns
from hyperplane_nat.aws.errors import AwsError
from tests.aws.stack_support import LOG_GROUP, body
from tests.aws.support import Endpoint, refusal

ENDLESS = "(a|aa)+$"
"""Goes back once for each way to make a text of one and two letters: 2^n of them."""


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("[a-z]+", "abc", True),
        ("[a-z]+", "abc1", False),
        ("[a-z]+", "abc\n", False),
        ("(?i)^(yes|no)$", "YES", True),
        ("(?=.*[A-Z])(?!.*--)[A-Za-z-]{2,63}", "a-B", True),
        ("(?=.*[A-Z])(?!.*--)[A-Za-z-]{2,63}", "a--B", False),
        ("(?<first>[a-z])\\1", "bb", True),
        (r"(?<=a)b|[]()]|\(\d{1,3}\)", "(12)", True),
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0" * 8 + "-0000" * 3 + "-" + "0" * 12, True),
        (r"((25[0-5]|2[0-4]\d|1?\d?\d)(\.(?!$)|$)){4}", "10.0.255.1", True),
        ("a{2000}", "a" * 2000, True),
    ],
)
def test_a_whole_text_has_the_form(pattern: str, text: str, *, found: bool) -> None:
    assert patterns.matches(pattern, text) is found


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("[", "cannot be read: "),
        ("(", "cannot be read: "),
        (")", "cannot be read: "),
        ("*", "cannot be read: "),
        ("(" * 5000 + ")" * 5000, "cannot be read: "),
        ("x" * 10_001, "is too large"),
        ("[" * 10_001, "is too large"),
        ("((a{100}){100}){100}", "is too large"),
        ("(" * 40 + "a" + ")+" * 40, "is too large"),
        ("(" * 40 + "a" + "){1,2}" * 40, "is too large"),
        ("a{99999999999999999999}", "is too large"),
        # In what the engine knows beside, sizes could be hidden.
        ("(?x)(a) {100}", "has a group (?x"),
        ("(?R)?a", "has a group (?R"),
        ("(?#b)", "has a group (?#"),
        ("(?V1)a", "has a group (?V"),
    ],
)
def test_a_pattern_that_cannot_be_tried_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(AwsError) as caught:
        patterns.matches(pattern, "a" * 3000)
    assert caught.value.code == "ValidationError"
    assert why in caught.value.message
    assert len(caught.value.message) < 300


def test_others_are_answered_while_a_pattern_is_tried(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 3.0)
    declared = {"P": {"Type": "String", "AllowedPattern": ENDLESS, "Default": "a" * 80 + "b"}}
    template = body(Resources={"L": LOG_GROUP}, Parameters=declared)
    stacks, ec2 = endpoint.client("cloudformation"), endpoint.client("ec2")
    said: list[tuple[str, str, int]] = []
    tried = threading.Thread(
        target=lambda: said.append(refusal(stacks.create_stack, StackName="t", **template))
    )
    tried.start()
    answered = 0
    while tried.is_alive():
        ec2.describe_vpcs()
        answered += 1
    tried.join()
    # One may have been answered before, and one behind.
    assert answered > 3
    ((code, text, status),) = said
    assert (code, status) == ("ValidationError", 400)
    assert text == f"The pattern {ENDLESS} has not come to an end within 3 s"
    assert stacks.describe_stacks()["Stacks"] == []
