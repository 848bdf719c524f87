# SPDX-License-Identifier: Apache-2.0
"""The section for name resolution."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.test_lab import accepted, refused

UPSTREAM = "[dns]\nupstream = "


def test_there_is_no_upstream_unless_one_is_named(tmp_path: Path) -> None:
    assert accepted(tmp_path, "").dns.upstream_endpoint is None
    assert accepted(tmp_path, f'{UPSTREAM}"1.1.1.1"').dns.upstream_endpoint == "1.1.1.1:53"
    assert accepted(tmp_path, f'{UPSTREAM}"127.0.0.1:5"').dns.upstream_endpoint == "127.0.0.1:5"


@pytest.mark.parametrize(
    ("upstream", "what"),
    [
        ("dns.example.com", "no IPv4 address"),
        ("1.1.1", "no IPv4 address"),
        ("1.1.1.1:", "port '' does not exist"),
        ("1.1.1.1:0", "port '0' does not exist"),
        ("1.1.1.1:65536", "port '65536' does not exist"),
        ("0.0.0.0", "nobody answers"),
        ("224.0.0.1", "nobody answers"),
    ],
)
def test_what_is_no_resolver_is_refused(tmp_path: Path, upstream: str, what: str) -> None:
    assert what in refused(tmp_path, f'{UPSTREAM}"{upstream}"')
