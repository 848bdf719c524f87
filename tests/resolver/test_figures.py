# SPDX-License-Identifier: Apache-2.0
"""Counts that outlive whoever counts."""

from __future__ import annotations

from pathlib import Path

from hyperplane_nat.resolver.figures import Figures, Outcome, read


def test_counts_go_on_where_a_former_resolver_was(tmp_path: Path) -> None:
    path = tmp_path / "figures"
    assert set(read(path).values()) == {0}
    for total in (1, 2):
        figures = Figures(path)
        figures.count(Outcome.RATE_LIMITED)
        assert read(path)[Outcome.RATE_LIMITED] == total
        figures.close()
    assert sum(read(path).values()) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_fewer_counts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "figures"
    path.write_bytes((7).to_bytes(8, "little"))
    assert read(path)[Outcome.ANSWERED] == 7
