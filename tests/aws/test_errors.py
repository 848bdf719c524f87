# SPDX-License-Identifier: Apache-2.0
"""What is refused, in AWS's code, text and status: the calls of errors.toml, and how texts come."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.aws.errors import TEXTS, of_region, without_remedy
from hyperplane_nat.aws.operations import REAL
from hyperplane_nat.client import ApiError, NotRunningError
from tests.aws.support import Endpoint, Scene, launched, refusal, scene
from tests.aws.test_load_balancers import balancer, forward, group

DATA = tomllib.loads((Path(__file__).parent / "errors.toml").read_text(encoding="utf-8"))
STATE = ("vpcs", "subnets", "groups", "load_balancers", "listeners", "target_groups", "hosts")
ERRORS: list[dict[str, Any]] = DATA["error"]


@pytest.fixture(scope="module")
def known() -> Iterator[tuple[Endpoint, dict[str, str]]]:
    """A region with everything, and its ids by their names; no wrong call changes any of it."""
    with launched() as endpoint:
        found = scene(endpoint)
        yield endpoint, {**asdict(found), **balanced(endpoint, found)}


def balanced(endpoint: Endpoint, found: Scene) -> dict[str, str]:
    """ARNs of two load balancers and of what the first has."""
    arns = {
        "balancer": balancer(endpoint, found),
        "second_balancer": balancer(endpoint, found, "second"),
        "targets": group(endpoint, found),
        "other_targets": group(endpoint, found, "other"),
        "addresses": group(endpoint, found, "addresses", TargetType="ip"),
    }
    made = [
        endpoint.client("elbv2").create_listener(
            LoadBalancerArn=arns["balancer"],
            Protocol="TCP",
            Port=port,
            DefaultActions=forward(arns["targets"]),
        )["Listeners"][0]["ListenerArn"]
        for port in (80, 81)
    ]
    return {**arns, "listener": made[0]}


def filled(value: Any, words: dict[str, str]) -> Any:
    """A value with the scene's ids in place of their names in braces."""
    if isinstance(value, dict):
        return {name: filled(each, words) for name, each in value.items()}
    if isinstance(value, list):
        return [filled(each, words) for each in value]
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"{{{name}}}", word)
    return value


@pytest.mark.parametrize(
    "row", ERRORS, ids=[f"{row['operation']}-{row['code']}-{n}" for n, row in enumerate(ERRORS)]
)
def test_a_wrong_call_is_answered_as_by_aws(
    known: tuple[Endpoint, dict[str, str]], row: dict[str, Any]
) -> None:
    endpoint, words = known
    before = state(endpoint)
    work = getattr(endpoint.client(row["service"]), row["operation"])
    assert refusal(work, **filled(row["params"], words)) == (
        row["code"],
        filled(row["text"], words),
        row.get("status", 400),
    )
    assert state(endpoint) == before


def state(endpoint: Endpoint) -> object:
    tables = endpoint.region.region.tables
    return {name: dict(getattr(tables, name)) for name in STATE}


def test_the_data_has_many_codes_and_a_source_of_each() -> None:
    assert len({row["code"] for row in ERRORS}) >= 30
    assert all(row["source"].startswith("https://") for row in ERRORS)


def test_texts_are_of_operations_that_are_done() -> None:
    assert set(TEXTS) <= {name for table in REAL.values() for name in table}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("it is in use (wait)", "it is in use"),
        ("address(es) are mapped (disassociate (all of) them)", "address(es) are mapped"),
        ("it is over", "it is over"),
        ("(wait)", "(wait)"),
        ("odd)", "odd)"),
    ],
)
def test_remedies_are_left_out(text: str, left: str) -> None:
    assert without_remedy(text) == left


def test_what_is_no_refusal_of_the_region_is_the_services_own_error() -> None:
    gone = NotRunningError("nobody", Path("/nowhere"))
    for error, service, code, status in (
        (gone, "ec2", "Unavailable", 503),
        (gone, "lambda", "ServiceException", 503),
        (ApiError(500, "internal", "a fault"), "ec2", "InternalError", 500),
        (
            ApiError(400, "InvalidParameterValueException", "no"),
            "ec2",
            "InvalidParameterValue",
            None,
        ),
        (
            ApiError(400, "InvalidParameterValueException", "no"),
            "elbv2",
            "ValidationError",
            None,
        ),
    ):
        said = of_region(error, service, "CreateVpc", {})
        assert (said.code, said.status) == (code, status)
