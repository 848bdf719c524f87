# SPDX-License-Identifier: Apache-2.0
"""What is kept beside the region: whole after each change, shared, and gone with the lab."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.notes import Notes, notes_path


def test_notes_are_there_for_others_and_later(tmp_path: Path) -> None:
    one, two = Notes(tmp_path), Notes(tmp_path)
    one.put("a", {"Role": "r"})
    assert two.of("a") == {"Role": "r"}
    two.tag(["a", "b"], {"x": "1"})
    assert one.of("a") == {"Role": "r", "Tags": {"x": "1"}}
    assert dict(one.tagged()) == {"a": {"x": "1"}, "b": {"x": "1"}}
    one.forget("a", "nobody")
    assert two.of("a") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["aws.json"]


def test_tags_are_put_on_all_or_none(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.tag(["full"], {str(number): "" for number in range(50)})
    with pytest.raises(AwsError):
        notes.tag(["new", "full"], {"x": ""})
    assert notes.of("new") == {}
    assert len(notes.tags("full")) == 50


def test_a_lab_of_the_same_name_begins_without(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.put("a", {"Role": "r"})
    notes_path(tmp_path).unlink()
    assert notes.of("a") == {}
    notes.put("b", {"Role": "s"})
    assert Notes(tmp_path).of("a") == {}


@pytest.mark.races
def test_changes_from_everywhere_are_all_kept(tmp_path: Path) -> None:
    def work(number: int) -> None:
        notes = Notes(tmp_path)
        for count in range(20):
            notes.tag(["a"], {f"{number}-{count % 2}": str(count)})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Notes(tmp_path).tags("a")) == 16
