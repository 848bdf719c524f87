# SPDX-License-Identifier: Apache-2.0
"""XML as it is written here is what moto writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.core.model import OperationModel
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model

from hyperplane_nat.aws.xml import serializer_class

NAMES = st.sampled_from(("item", "groupId", "a", "Member"))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(
        st.characters(
            codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"
        ),
        max_size=8,
    ),
)


def flat(items: list[Any]) -> bool:
    """Lists are of elements; xmltodict has no form for lists in lists."""
    return not any(isinstance(each, list) for each in items)


TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=3), st.lists(inner, max_size=3).filter(flat)
    ),
    max_leaves=12,
)


def body(kind: Any, service: str, tree: dict[str, Any]) -> str:
    made = kind(operation_model=OperationModel({}, get_service_model(service)), pretty_print=False)
    text: str = made._serialize_body(tree)
    return text


@pytest.mark.parametrize(("service", "protocol"), [("ec2", "ec2"), ("elbv2", "query")])
@given(NAMES, st.dictionaries(NAMES, TREES, max_size=4))
def test_it_is_what_moto_writes(
    service: str, protocol: str, root: str, tree: dict[str, Any]
) -> None:
    for attributes in ({}, {"@xmlns": 'http://x/?a=1&b="2"'}):
        document = {root: attributes | tree}
        ours = body(serializer_class(service, protocol), service, document)
        assert ours == body(get_serializer_class(service, protocol), service, document)


def test_what_is_no_xml_or_recorded_alone_is_motos() -> None:
    for service, protocol in (("lambda", "rest-json"), ("logs", "json"), ("s3", "rest-xml")):
        assert serializer_class(service, protocol) is get_serializer_class(service, protocol)
