# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests are understood as the schema says, or refused."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperplane_nat.controller.api.function_commands import CreateFunction
from hyperplane_nat.controller.api.requests import (
    FlowQuery,
    InvocationRequest,
    ProvisionRequest,
    RequestError,
    body_of,
    function_name,
    one_line,
    query_of,
)


@given(st.binary(max_size=100))
def test_bytes_come_through_base64(data: bytes) -> None:
    body = json.dumps({"command": ["cat"], "stdin": base64.b64encode(data).decode()})
    assert body_of(InvocationRequest, body.encode()).stdin == data


@example("AAAA=")
@example("AAAA====")
@given(st.text("AQg+/=-\n", max_size=9) | st.text(max_size=9))
@example("AAAA=")
def test_base64_is_taken_exactly_when_the_schema_says_so(text: str) -> None:
    schema = InvocationRequest.model_json_schema()["properties"]["stdin"]["anyOf"][0]
    body = json.dumps({"command": ["cat"], "stdin": text}).encode()
    if re.fullmatch(schema["pattern"].removesuffix("$"), text):
        assert body_of(InvocationRequest, body).stdin == base64.b64decode(text)
    else:
        with pytest.raises(RequestError, match=r"^[^\n]*not base64[^\n]*$"):
            body_of(InvocationRequest, body)


@given(st.binary(max_size=200))
def test_any_body_is_understood_or_refused(body: bytes) -> None:
    for model in (InvocationRequest, ProvisionRequest):
        with pytest.raises(RequestError):
            body_of(model, body)


@pytest.mark.parametrize(("count", "fits"), [(1, True), (3.0, True), (16383, True), (0, False)])
@pytest.mark.parametrize("text", [False, True])
def test_numbers_are_json_numbers(count: float, fits: bool, text: bool) -> None:
    body = json.dumps({"count": str(count) if text else count}).encode()
    if fits and not text:
        assert body_of(ProvisionRequest, body).count == count
    else:
        with pytest.raises(RequestError, match=r"^count: "):
            body_of(ProvisionRequest, body)


def test_a_query_is_text() -> None:
    asked = query_of(
        FlowQuery, {"limit": "007", "after": "0", "environment": "env7", "protocol": "udp"}
    )
    assert asked == FlowQuery.model_construct(limit=7, after=0, environment=7, protocol="udp")
    assert query_of(FlowQuery, {}) == FlowQuery()


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "a\n", "ä", "a.b"])
def test_what_is_no_function_name(name: str) -> None:
    with pytest.raises(RequestError, match="is not a function's name"):
        function_name(name)


def test_a_name_in_a_body_is_told_of_as_in_a_file() -> None:
    with pytest.raises(RequestError) as caught:
        body_of(CreateFunction, b'{"name": "a b"}')
    assert str(caught.value) == (
        "name: 'a b' is not a function's name (use 1 to 64 letters, digits, dashes and underscores)"
    )


def test_more_problems_are_counted() -> None:
    with pytest.raises(RequestError, match=r"; and 2 more problems$"):
        body_of(InvocationRequest, b'{"command": [], "stdin": 1, "dry": 2}')


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb", "a b"),
        (" a  b\t", "a b"),
        ("\x1b[31mred", " [31mred"),
        ("\u202ex", " x"),
        ("é", "é"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
