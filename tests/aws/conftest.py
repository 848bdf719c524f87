# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the endpoint's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.aws.support import Endpoint, launched


@pytest.fixture(scope="session")
def _endpoint() -> Iterator[Endpoint]:
    """One for all tests: making a client of boto3 takes longer than most of them."""
    with launched() as found:
        yield found


@pytest.fixture
def endpoint(_endpoint: Endpoint) -> Endpoint:
    """An endpoint over a region that nobody has touched."""
    _endpoint.reset()
    return _endpoint
