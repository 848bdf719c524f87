# SPDX-License-Identifier: Apache-2.0
"""What a function's code is known by, and how it becomes a directory."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from hyperplane_nat.runtime import code
from hyperplane_nat.runtime.code import CodeError, code_sha256, directory_of
from hyperplane_nat.runtime.uploads import archive_of


def test_a_directory_is_used_where_it_is(tmp_path: Path) -> None:
    assert directory_of(tmp_path, tmp_path / "made") == tmp_path
    assert not (tmp_path / "made").exists()


def test_a_file_is_copied_once_for_each_state(tmp_path: Path) -> None:
    source, made = tmp_path / "app.py", tmp_path / "made"
    source.write_text("x = 1")
    first = directory_of(source, made)
    assert (first / "app.py").read_text() == "x = 1"
    assert directory_of(source, made) == first
    source.write_text("x = 2")
    second = directory_of(source, made)
    assert second != first
    assert (second / "app.py").read_text() == "x = 2"
    assert (first / "app.py").read_text() == "x = 1"


def test_an_archive_is_unpacked_and_may_be_read_and_run_by_others(tmp_path: Path) -> None:
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("pkg/app.py", "x = 1")
        program = zipfile.ZipInfo("bootstrap")
        program.external_attr = 0o755 << 16
        file.writestr(program, "#!/bin/sh")
        file.writestr("../outside", "no")
    umask = os.umask(0o077)
    try:
        made = directory_of(archive, tmp_path / "made")
    finally:
        os.umask(umask)
    assert (made / "pkg" / "app.py").stat().st_mode & 0o777 == 0o644
    assert (made / "pkg").stat().st_mode & 0o777 == 0o755
    assert made.stat().st_mode & 0o777 == 0o755
    assert (made / "bootstrap").stat().st_mode & 0o777 == 0o755
    assert (made / "outside").exists()
    assert not (tmp_path / "made" / "outside").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("app.txt", b"x", "neither a directory nor a zip archive nor a .py file"),
        ("none.zip", None, "cannot be read"),
    ],
)
def test_what_is_no_code(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CodeError, match=says):
        directory_of(path, tmp_path / "made")
    assert list((tmp_path / "made").glob("*")) == []


def damaged(kind: str) -> bytes:
    """An archive of one file, with what `zipfile` has an error of its own for each."""
    content = io.BytesIO()
    method = zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(content, "w", method) as file:
        file.writestr("app.py", "def handler(event, context): return event\n" * 9)
    result = bytearray(content.getvalue())
    entry = result.rindex(b"PK\1\2")
    match kind:
        case "deflate":
            result[36:38] = b"\xff\xff"
        case "lzma":
            result[45:60] = b"\xff" * 15
        case "version":
            result[entry + 6] = 152
        case "name":
            result[entry + 9] |= 8
            result[entry + 46] = 0xFF
        case "no name":
            result[30] = result[entry + 46] = 0
    return bytes(result)


@pytest.mark.parametrize("kind", ["deflate", "lzma", "version", "name", "no name"])
def test_a_damaged_archive(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "code.zip"
    archive.write_bytes(damaged(kind))
    with pytest.raises(CodeError, match="could not unzip it"):
        directory_of(archive, tmp_path / "made")
    assert list((tmp_path / "made").glob("*")) == []


def test_an_archive_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "UNPACKED_BYTES_MAX", 10)
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("app.py", "x" * 11)
    with pytest.raises(CodeError, match="must be smaller than 10 bytes"):
        directory_of(archive, tmp_path / "made")


@pytest.mark.timeout(60)
def test_pipes_and_devices_are_no_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    for path in (tmp_path / "pipe.py", Path("/dev/zero")):
        assert code_sha256(path) == ""
        with pytest.raises(CodeError, match="cannot be read"):
            directory_of(path, tmp_path / "made")
        with pytest.raises(CodeError, match="neither a directory nor a zip archive"):
            archive_of(path)


def test_the_digest_tells_one_state_from_another(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("x = 1")
    states = {code_sha256(file), code_sha256(tmp_path)}
    file.write_text("x = 12")
    states |= {code_sha256(file), code_sha256(tmp_path)}
    assert len(states) == 4
    assert code_sha256(tmp_path / "none") == ""
