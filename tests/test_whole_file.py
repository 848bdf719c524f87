# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat import whole_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def reader(path: Path) -> Iterator[whole_file.Reader]:
    whole_file.write(path, b"first")
    descriptor = os.open(path, os.O_RDONLY)
    yield whole_file.Reader(descriptor)
    os.close(descriptor)


def test_a_reader_sees_what_is_new_once(path: Path, reader: whole_file.Reader) -> None:
    changed = [reader.changed]
    assert reader.read() == b"first"
    # Until it has understood it.
    changed.append(reader.changed)
    reader.accept()
    changed.append(reader.changed)
    whole_file.write(path, b"2nd")
    changed.append(reader.changed)
    assert changed == [True, True, False, True]
    assert reader.read() == b"2nd"


def test_the_same_is_not_written_again(path: Path, reader: whole_file.Reader) -> None:
    before = path.stat().st_mtime_ns
    line = reader.first_line
    whole_file.write(path, b"first")
    assert (path.stat().st_mtime_ns, reader.first_line) == (before, line)


def test_half_of_it_is_nothing(path: Path, reader: whole_file.Reader) -> None:
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="half-written"):
        reader.read()
    os.truncate(path, 0)
    with pytest.raises(ValueError, match="half-written"):
        reader.read()


def test_it_is_its_owner_s_and_no_link_is_followed(path: Path, tmp_path: Path) -> None:
    whole_file.write(path, b"")
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        whole_file.write(tmp_path / "link", b"")


def test_a_disk_that_has_room_for_half_of_it_says_so(
    path: Path, reader: whole_file.Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if offset:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data[: len(data) // 2], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(OSError, match="No space"):
            whole_file.write(path, b"second")
    with pytest.raises(ValueError, match="half-written"):
        reader.read()
    whole_file.write(path, b"second")
    assert reader.read() == b"second"
