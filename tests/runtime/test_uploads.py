# SPDX-License-Identifier: Apache-2.0
"""Archives that were sent to a lab."""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from hyperplane_nat.runtime import code, uploads
from hyperplane_nat.runtime.code import CodeError, code_sha256
from hyperplane_nat.runtime.places import uploads_path
from tests.runtime.test_code import damaged


def archive(text: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        # Of a fixed time: made twice it is the same.
        file.writestr(zipfile.ZipInfo("app.py"), text)
    return content.getvalue()


def test_an_archive_is_kept_once(tmp_path: Path) -> None:
    first = uploads.keep(tmp_path, archive("1"))
    assert first.path.read_bytes() == archive("1")
    assert first.sha256 == code_sha256(first.path)
    assert stat.S_IMODE(first.path.parent.stat().st_mode) == 0o700
    second = uploads.keep(tmp_path, archive("2"))
    assert uploads.keep(tmp_path, archive("2")) == second
    assert set(uploads_path(tmp_path).iterdir()) == {first.path, second.path}


def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        uploads.keep(tmp_path, archive("1"))
    assert list(uploads_path(tmp_path).iterdir()) == []


def test_what_is_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodeError, match="Could not unzip uploaded file"):
        uploads.keep(tmp_path, b"no archive")
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(CodeError, match="must be a non-empty zip"):
        uploads.keep(tmp_path, empty.getvalue())
    monkeypatch.setattr(code, "UNPACKED_BYTES_MAX", 10)
    with pytest.raises(CodeError, match="unzipped size must be smaller than 10 bytes"):
        uploads.keep(tmp_path, archive("more than ten"))
    assert not uploads_path(tmp_path).exists()


@pytest.mark.parametrize("kind", ["version", "name"])
def test_a_damaged_archive(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CodeError, match="Could not unzip uploaded file"):
        uploads.keep(tmp_path, damaged(kind))


def test_a_name_that_no_archive_can_have(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).touch()
    with pytest.raises(CodeError, match="its name is not UTF-8"):
        uploads.archive_of(tmp_path)


def test_an_archive_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code" / "pkg").mkdir(parents=True)
    (tmp_path / "code" / "app.py").write_text("1")
    (tmp_path / "code" / "pkg" / "data").write_text("2")
    (tmp_path / "code" / "again").symlink_to(tmp_path / "code" / "pkg")
    with zipfile.ZipFile(io.BytesIO(uploads.archive_of(tmp_path / "code"))) as made:
        assert made.namelist() == ["again/data", "app.py", "pkg/data"]
    (tmp_path / "code" / "pkg" / "circle").symlink_to(tmp_path / "code")
    monkeypatch.setattr(uploads, "FILES_MAX", 50)
    with pytest.raises(CodeError, match="has more than 50 files"):
        uploads.archive_of(tmp_path / "code")
