# SPDX-License-Identifier: Apache-2.0
"""What a server serves is known byte by byte."""

from __future__ import annotations

import hashlib

import pytest

from netns import content


def test_the_period_is_fixed() -> None:
    # A changed content would make clients and servers of different versions disagree.
    assert len(content.period()) == content.PERIOD_BYTES
    assert content.sha256(4 << 20) == (
        "8407701e4711094828952198f361824d768fbe717ff9fd61d76aa0834b6953e0"
    )


@pytest.mark.parametrize("length", [0, 1, content.PERIOD_BYTES, 2 * content.PERIOD_BYTES + 7])
def test_digest_is_that_of_the_bytes(length: int) -> None:
    assert content.sha256(length) == hashlib.sha256(content.read(length)).hexdigest()


def test_read_from_an_offset_crosses_the_period() -> None:
    offset = content.PERIOD_BYTES - 3
    assert content.read(10, offset) == content.period()[-3:] + content.period()[:7]
    assert content.read(10, offset) == content.read(offset + 10)[offset:]
