# SPDX-License-Identifier: Apache-2.0
"""The conformance page is what the suite shows, and its rows are sound."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conformance.page import (
    DEVIATES,
    MET,
    Claim,
    Document,
    Row,
    load,
    markdown,
    problems,
    untested,
)
from tests.conformance.shown import ROOT, Shown

PAGE = ROOT / "docs" / "conformance.md"

ROW = Row("X-1", "asked", {"aws": Claim(MET, ""), "rfc": Claim(DEVIATES, "because")})
SHOWN = Shown("X-1", "aws", "tests/live/test_x.py", "test_x")


def document(*rows: Row) -> Document:
    return Document("X", "X: everything", "https://example.org", "", rows)


@pytest.mark.slow
def test_the_page_is_generated_from_the_suite() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == PAGE.read_text(encoding="utf-8"), "run: make docs"


def test_every_behaviour_of_aws_is_tested() -> None:
    rows = PAGE.read_text(encoding="utf-8").partition("## AWS")[2].split("\n")
    cells = [line.split("|") for line in rows if line.startswith("| ")]
    assert [cell[1].strip() for cell in cells if "**untested**" in cell[3]] == []


def test_rows_are_sound() -> None:
    assert problems(load(), []) == []


def test_a_row_says_who_shows_it_and_what_nobody_shows() -> None:
    text = markdown([document(ROW)], [SHOWN])
    line = next(line for line in text.split("\n") if line.startswith("| 1 |"))
    assert line == (
        "| 1 | asked | **met** | **untested**: deviates: because "
        "| [live/test_x.py](../tests/live/test_x.py) `test_x` (aws) |"
    )
    assert "| X | `rfc` | 0 | 0 | 0 | 1 |" in text
    assert untested([document(ROW)], [SHOWN]) == [("X-1", "rfc")]


def test_a_test_of_both_profiles_names_none() -> None:
    both = [SHOWN, Shown("X-1", "rfc", SHOWN.path, SHOWN.test)]
    assert markdown([document(ROW)], both).endswith("`test_x` |\n")


@pytest.mark.parametrize(
    ("row", "marker", "what"),
    [
        (Row("X-1", "", {"aws": Claim("good", "")}), SHOWN, "X-1: aws is 'good'"),
        (Row("X-1", "", {"aws": Claim(DEVIATES, "")}), SHOWN, "deviates in aws without a reason"),
        (ROW, Shown("X-2", "aws", "t.py", "test"), "t.py test: no row 'X-2'"),
        (ROW, Shown("X-1", "", "t.py", "test"), "t.py test: profile ''"),
    ],
)
def test_what_is_wrong_is_told(row: Row, marker: Shown, what: str) -> None:
    (line,) = problems([document(row)], [marker])
    assert what in line


def test_a_row_is_told_once() -> None:
    assert problems([document(ROW, ROW)], []) == ["X-1: 2 rows (keep one)"]
