# SPDX-License-Identifier: Apache-2.0
"""Layers: one over the other, readable by everybody, and never beside the place they are for."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from hyperplane_nat.runtime import layers
from hyperplane_nat.runtime.code import CodeError
from hyperplane_nat.runtime.layers import directory_of


def directory(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def archive(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return path


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return directory(tmp_path / "code", app="x")


def test_a_single_directory_is_used_where_it_is(tmp_path: Path, code: Path) -> None:
    layer = directory(tmp_path / "layer", one="1")
    assert directory_of([layer], code, tmp_path / "made") == layer
    assert not (tmp_path / "made").exists()


def test_later_layers_are_above_earlier_ones(tmp_path: Path, code: Path) -> None:
    first = directory(tmp_path / "first", one="first", two="first")
    second = archive(tmp_path / "second.zip", two="second", **{"python/three.py": "second"})
    (first / "run").write_text("#!/bin/sh")
    (first / "run").chmod(0o700)
    umask = os.umask(0o077)
    try:
        made = directory_of([first, second], code, tmp_path / "made")
    finally:
        os.umask(umask)
    texts = {name: (made / name).read_text() for name in ("one", "two", "python/three.py")}
    assert texts == {"one": "first", "two": "second", "python/three.py": "second"}
    modes = [(made / name).stat().st_mode & 0o777 for name in (".", "python", "one", "run")]
    assert modes == [0o755, 0o755, 0o644, 0o755]
    assert directory_of([first, second], code, tmp_path / "made") == made
    assert directory_of([second, first], code, tmp_path / "made") != made
    (first / "one").write_text("changed since")
    again = directory_of([first, second], code, tmp_path / "made")
    assert (again / "one").read_text() == "changed since"
    names = [each.name for each in (tmp_path / "made").iterdir()]
    assert {made.name, again.name} < set(names)
    assert not any("." in name for name in names)


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_a_link_of_an_earlier_layer_leads_nowhere(tmp_path: Path, code: Path, kind: str) -> None:
    outside = directory(tmp_path / "outside", kept="kept")
    first = directory(tmp_path / "first")
    (first / "python").symlink_to(outside)
    (first / "file").symlink_to(outside / "kept")
    files = {"file": "mine", "python/kept": "mine"}
    if kind == "archive":
        second = archive(tmp_path / "second.zip", **files)
    else:
        second = directory(tmp_path / "second", file="mine")
        directory(second / "python", kept="mine")
    made = directory_of([first, second], code, tmp_path / "made")
    assert {name: (made / name).read_text() for name in files} == files
    assert not (made / "python").is_symlink()
    assert [each.name for each in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"


def test_a_file_in_the_place_of_a_directory(tmp_path: Path, code: Path) -> None:
    first, second = directory(tmp_path / "first"), directory(tmp_path / "second", python="file")
    directory(first / "python", one="1")
    made = directory_of([first, second], code, tmp_path / "made")
    assert (made / "python").read_text() == "file"
    back = directory_of([second, first], code, tmp_path / "made")
    assert (back / "python" / "one").read_text() == "1"


def test_what_is_no_layer(tmp_path: Path, code: Path) -> None:
    layer = directory(tmp_path / "layer", one="1")
    (tmp_path / "app.py").write_text("x = 1")
    os.mkfifo(layer / "fifo")
    for wrong, says in (
        ([tmp_path / "app.py"], "app.py: a layer is a directory or a zip archive"),
        ([tmp_path / "none", layer], "none: cannot be read"),
        ([layer, layer], "is a named pipe"),
    ):
        with pytest.raises(CodeError, match=says):
            directory_of(wrong, code, tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_code_and_layers_have_one_limit(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = directory(tmp_path / "one", one="x" * 50)
    two = archive(tmp_path / "two.zip", two="x" * 49)
    monkeypatch.setattr(layers, "UNPACKED_BYTES_MAX", 100)
    directory_of([one, two], code, tmp_path / "made")
    (code / "more").write_text("x")
    monkeypatch.setattr(layers, "UNPACKED_BYTES_MAX", 99)
    with pytest.raises(CodeError, match=r"of 99 bytes.* is 101 bytes"):
        directory_of([two, one], code, tmp_path / "made")
