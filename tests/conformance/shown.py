# SPDX-License-Identifier: Apache-2.0
"""Which tests show which rows: the `requirement` markers of the whole suite, read without running
it.

`@pytest.mark.requirement("RFC4787-9", profile="rfc")` on a test says that it shows that row in that
profile; `profile="both"` is for a test of what no value of a profile changes. The marker may be
repeated. A vector (tests/engine/vectors) names its rows in its table.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROFILES = ("aws", "rfc")


@dataclass(frozen=True, order=True)
class Shown:
    """A test that shows a row in a profile."""

    row: str
    profile: str
    path: str
    """From the project's root."""
    test: str
    """The function, or the vector's name."""


class _Collector:
    def __init__(self) -> None:
        self.found: set[Shown] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("requirement"):
                self._add(item, marker)

    def _add(self, item: pytest.Item, marker: pytest.Mark) -> None:
        assert isinstance(item, pytest.Function)
        path = str(item.path.relative_to(ROOT))
        test = item.originalname
        if path == "tests/engine/test_vectors.py":
            feature, _, test = item.callspec.id.partition("/")
            path = f"tests/engine/vectors/{feature}.toml"
        row = str(marker.args[0]) if marker.args else ""
        profile = marker.kwargs.get("profile", "")
        for each in PROFILES if profile == "both" else (profile,):
            self.found.add(Shown(row, each, path, test))


def collected() -> list[Shown]:
    """Every marker of the suite, in order; RuntimeError with pytest's words when that fails."""
    collector = _Collector()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = pytest.main(
            ["--collect-only", "-q", "-p", "no:cacheprovider", str(ROOT / "tests")],
            plugins=[collector],
        )
    if status:
        raise RuntimeError(f"the tests cannot be collected:\n{output.getvalue()[-2000:]}")
    return sorted(collector.found)
