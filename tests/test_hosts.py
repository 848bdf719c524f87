# SPDX-License-Identifier: Apache-2.0
"""Which Host headers mean this host."""

from __future__ import annotations

import pytest

from hyperplane_nat.hosts import meant_for


@pytest.mark.parametrize(
    "said",
    ["localhost", "localhost:80", "localhost.", "127.0.0.1", "127.0.0.1:9", "127.9.9.9", "[::1]:1"],
)
def test_loopback_is_meant(said: str) -> None:
    assert meant_for(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "example.org",
        "localhost.example.org",
        "10.0.0.1",
        "127.0.0.1.example",
        "[::1",
        "[x]",
    ],
)
def test_others_are_not(said: str) -> None:
    assert not meant_for(said)


def test_names_and_an_address_can_be_given() -> None:
    assert meant_for("lab.test:9109", names=("lab.test",))
    assert meant_for("10.0.0.1:9109", address="10.0.0.1")
    assert not meant_for("10.0.0.2:9109", ("lab.test",), "10.0.0.1")
