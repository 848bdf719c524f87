# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from hyperplane_nat.health.checks import (
    FAILED,
    TIMEOUT,
    Decoder,
    Verdict,
    body_of,
    decode_checks,
    decode_verdicts,
    encode_check,
    encode_verdicts,
    line_of,
)
from tests.health.support import CHECK, check


def verdicts(*found: str) -> list[str | None]:
    """The verdict after each check, of three good and two bad ones in a row."""
    verdict = Verdict(CHECK)
    result = []
    for reason in found:
        before = verdict.reason
        assert verdict.note(reason) is (verdict.reason != before)
        result.append(verdict.reason)
    return result


def test_one_good_check_is_enough_for_a_new_target() -> None:
    assert verdicts("") == [""]
    assert verdicts(FAILED, "") == [None, ""]


def test_a_new_target_is_unhealthy_after_a_row_of_bad_ones() -> None:
    assert verdicts(FAILED, FAILED) == [None, FAILED]


def test_a_row_that_is_broken_begins_anew() -> None:
    assert verdicts("", FAILED, "", FAILED, FAILED) == ["", "", "", "", FAILED]


def test_an_unhealthy_target_needs_a_row_of_good_ones() -> None:
    found = verdicts(FAILED, FAILED, "", "", FAILED, "", "", "")
    assert found == [None, FAILED, FAILED, FAILED, FAILED, FAILED, FAILED, ""]


def test_the_reason_is_that_of_the_last_bad_check() -> None:
    assert verdicts(FAILED, FAILED, TIMEOUT) == [None, FAILED, TIMEOUT]


@pytest.mark.parametrize(
    ("codes", "good", "bad"),
    [("200", [200], [201, 199]), ("200-299,302", [200, 299, 302], [300, 301, 500])],
)
def test_codes_that_are_good(codes: str, good: list[int], bad: list[int]) -> None:
    found = check(codes=codes)
    assert all(map(found.good, good))
    assert not any(map(found.good, bad))


def test_what_is_told_is_understood() -> None:
    checks = [CHECK, check(name="two", port=2)]
    lines = [line_of(map(encode_check, each)) for each in ([], checks[:1], [], checks[1:])]
    assert decode_checks(body_of(lines)) == checks
    assert decode_checks(line_of(map(encode_check, checks))) == checks
    assert decode_checks(body_of([])) == []
    found = {"one": "", "two": FAILED}
    assert decode_verdicts(encode_verdicts(found)) == found
    for body in (b'[["one"]]', b"[1]"):
        with pytest.raises(ValueError, match="not of this version"):
            decode_checks(body)
    with pytest.raises(ValueError, match="none"):
        decode_verdicts(b"[]")


def test_a_line_that_stays_is_not_read_again() -> None:
    decoder = Decoder()
    one, two, other = (line_of([encode_check(check(name=each))]) for each in ("1", "2", "3"))
    before = decoder.decode(body_of([one, two]))
    after = decoder.decode(body_of([two, other]))
    assert [each.name for each in after] == ["2", "3"]
    assert after[0] is before[1]
    assert [each.name for each in decoder.decode(one)] == ["1"]
