# SPDX-License-Identifier: Apache-2.0
"""The files of the program as a word, by which a forwarder is known as ours."""

from __future__ import annotations

import os
from pathlib import Path

from hyperplane_nat.controller.program import PACKAGES, identity, identity_of


def test_it_is_another_word_when_a_file_is_written(tmp_path: Path) -> None:
    room = tmp_path / "package"
    (room / "__pycache__").mkdir(parents=True)
    (room / "engine.so").write_bytes(b"1")
    words = [identity_of([room])]
    (room / "more.py").write_text("")
    words.append(identity_of([room]))
    os.utime(room / "engine.so", ns=(1, 1))
    words.append(identity_of([room]))
    assert len(set(words)) == 3
    (room / "__pycache__" / "more.py").write_text("")
    (room / "notes.md").write_text("")
    assert identity_of([room]) == words[-1]


def test_ours() -> None:
    assert identity() == identity_of(PACKAGES)
    assert [package.name for package in PACKAGES] == ["hyperplane_nat", "netns"]
