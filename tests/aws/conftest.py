# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the endpoint's tests, and whether they show what docs/aws-api.md says they do."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.aws.stack_support import Stacks
from tests.aws.support import ANSWERED, Endpoint, launched
from tools.aws_operations import shown


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that is to show an operation fails unless that was answered in it without an error."""
    ANSWERED.clear()
    yield
    name = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
    wanted = {key for key, test in shown().items() if test == name}
    missing = sorted(f"{service} {operation}" for service, operation in wanted - ANSWERED)
    assert not missing, f"tests/aws/shown.toml says that it shows {', '.join(missing)}"


@pytest.fixture(scope="package")
def _endpoint() -> Iterator[Endpoint]:
    """One for all tests of it: making a client of boto3 takes longer than most of them."""
    with launched() as found:
        yield found


@pytest.fixture
def endpoint(_endpoint: Endpoint) -> Endpoint:
    """An endpoint over a region that nobody has touched."""
    _endpoint.reset()
    return _endpoint


@pytest.fixture
def writing(endpoint: Endpoint) -> Endpoint:
    """An endpoint of a lab that has flow logs every minute."""
    lifecycle = endpoint.region.region._lifecycle
    lifecycle.settings = replace(lifecycle.settings, flow_log_aggregation_seconds=60)
    return endpoint


@pytest.fixture
def stacks(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stacks]:
    lab = endpoint.region
    passes = lab.advance

    async def advance(seconds: float, *, token: str | None) -> Mapping[str, Any]:
        # What the network below would do: interfaces that are to go are gone.
        answer = await passes(seconds, token=token)
        endpoint.take_down()
        return answer

    monkeypatch.setattr(lab, "advance", advance)
    yield Stacks(endpoint)
    (endpoint.directory / "aws.stacks.json").unlink(missing_ok=True)
