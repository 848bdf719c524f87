# SPDX-License-Identifier: Apache-2.0
"""A region as a document and back."""

from __future__ import annotations

import json

import pytest

from hyperplane_nat.model.errors import StateError
from hyperplane_nat.model.region import Region
from tests.model.support import Scene, function


def test_a_document_survives_json() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.run("orders")
    document = scene.region.document()
    again = Region.from_document(json.loads(json.dumps(document)), **scene.options())
    assert again.document() == document
    assert again.changes() == []


def test_environments_are_taken_in_the_same_order() -> None:
    scene = Scene(function("orders"))
    scene.active()
    slots = [scene.run("orders").environment for _ in range(3)]
    for slot in (slots[1], slots[2], slots[0]):
        scene.pass_seconds(1)
        scene.region.end(slot)
    again = Region.from_document(scene.region.document(), **scene.options())
    assert [again.begin("orders").environment for _ in range(3)] == [slots[0], slots[2], slots[1]]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "unknown schema None"),
        ({"schema": 6, "entities": {}}, "schema 6, this program knows 5"),
        ({"schema": "1", "entities": {}}, "unknown schema '1'"),
        ({"schema": 1}, "damaged"),
        ({"schema": 1, "entities": []}, "damaged"),
        ({"schema": 1, "entities": {"account": [{"id": "1"}]}}, "damaged: Account"),
        ({"schema": 1, "entities": {"account": 7}}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused(document: dict[str, object], words: str) -> None:
    with pytest.raises(StateError, match=words):
        Region.from_document(document)
