# SPDX-License-Identifier: Apache-2.0
"""JSON in slices is the library's JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.forwarder import sliced_json
from tests.forwarder.work import finish

texts = st.text('a"\\ü{[,', max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
SIGNS = '{}[]:,"x1 \n'


def outcome(text: str, *, sliced: bool) -> Any:
    """The value, or that there is none."""
    try:
        return finish(sliced_json.read(text)) if sliced else json.loads(text)
    except json.JSONDecodeError:
        return json.JSONDecodeError


@given(values, st.sampled_from((None, 1, "\t")))
def test_every_value_is_read_as_by_the_library(value: Any, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent)
    assert finish(sliced_json.read(text)) == value


@given(values, st.data())
def test_what_is_no_json_is_refused_as_by_the_library(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 2))
    text = text[:at] + data.draw(st.text(SIGNS, max_size=2)) + text[at + cut :]
    assert outcome(text, sliced=True) == outcome(text, sliced=False)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "[", '{"a"', '{"a":', '{"a":1', '{"a":1,', "[1", "[1,", "[1,]"),
        *('{"a":1,}', "{1:2}", "[1 2]", '{"a" 1}', "[] []", "[[[[1}]]]", '{"a":{"b":[1]}} x'),
    ],
)
def test_truncated_and_crooked_texts(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        finish(sliced_json.read(text))


def test_items_of_a_list_of_the_arguments_are_steps_of_their_own() -> None:
    text = json.dumps({"id": 1, "command": "x", "arguments": {"slots": [{"n": 1}] * 100}})
    assert len(list(sliced_json.read(text))) == 102


def test_what_is_discarded_goes_an_item_at_a_time() -> None:
    value = {"arguments": {"slots": [{"n": 1}] * 100}, "id": 1}
    slots = value["arguments"]["slots"]  # type: ignore[index]
    left = [len(slots) for _ in sliced_json.discard(value)]
    assert left[0] == 100 or left[0] == 99
    assert all(before - after <= 1 for before, after in pairwise(left))
    assert value == {}
