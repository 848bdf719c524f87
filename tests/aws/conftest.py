# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the endpoint's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.aws.support import Endpoint, launched


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint over a region that nobody has touched."""
    with launched() as found:
        yield found
