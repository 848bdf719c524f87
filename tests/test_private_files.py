# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat import private_files
from hyperplane_nat.private_files import NotPrivateError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True, params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_a_new_directory_is_private_and_its_parents_can_be_passed(tmp_path: Path) -> None:
    private_files.make_private(tmp_path / "root" / "labs" / "lab")
    assert mode(tmp_path / "root" / "labs" / "lab") == 0o700
    assert [mode(tmp_path / "root"), mode(tmp_path / "root" / "labs")] == [0o755] * 2
    private_files.make_directory(tmp_path / "logs", 0o750)
    assert mode(tmp_path / "logs") == 0o750


@pytest.mark.parametrize(("before", "after"), [(0o755, 0o700), (0o700, 0o700), (0o710, 0o710)])
def test_what_a_former_version_let_others_read_is_closed(
    tmp_path: Path, before: int, after: int
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    lab.chmod(before)
    private_files.make_private(lab)
    assert mode(lab) == after


@pytest.mark.parametrize("others", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, others: int) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    lab.chmod(others)
    with pytest.raises(NotPrivateError, match=re.escape(f"others can write in {lab} (mode ")):
        private_files.make_private(lab)
    assert mode(lab) == others


def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    monkeypatch.setattr(private_files, "_others_write", lambda _: False)
    owner = os.getuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(NotPrivateError, match=f"lab belongs to user {owner}"):
        private_files.make_private(tmp_path / "lab")


def test_what_only_looks_like_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(NotPrivateError, match=f"{name} is no directory"):
            private_files.make_private(tmp_path / name)


@pytest.mark.parametrize(("parent", "good"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_where_others_may_rename_nothing_is_kept(tmp_path: Path, parent: int, good: bool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(parent)
    if good:
        private_files.make_private(root / "lab")
    else:
        with pytest.raises(NotPrivateError, match=f"others can replace what is in {root}"):
            private_files.make_private(root / "lab")


def test_a_file_that_is_written_is_the_owners_alone(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("what was there")
    old.chmod(0o644)
    for path in (old, tmp_path / "new"):
        with private_files.open_to_write(path, 4096) as file:
            file.write(b"x")
        assert (path.read_bytes(), mode(path)) == (b"x", 0o600)


@pytest.mark.live
def test_what_only_privileges_can_reach_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    private_files.refuse_closed(home / "logs")
    os.chown(home, 12345, 12345)
    home.chmod(0o711)
    private_files.refuse_closed(home / "logs")
    home.chmod(0o710)
    with pytest.raises(NotPrivateError, match="home lets only user 12345 pass"):
        private_files.refuse_closed(home / "logs")


@pytest.mark.live
def test_a_link_is_followed_when_nobody_else_has_put_it(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).symlink_to("target")
    os.lchown(tmp_path / "theirs", 12345, 12345)
    with private_files.open_to_write(tmp_path / "ours", 4096) as file:
        file.write(b"x")
    assert (tmp_path / "target").read_bytes() == b"x"
    with pytest.raises(OSError, match="symbolic links"):
        private_files.open_to_write(tmp_path / "theirs", 4096)
    assert (tmp_path / "target").read_bytes() == b"x"


def test_a_pipe_can_be_written(tmp_path: Path) -> None:
    """As `capture -w >(tcpdump -r -)` gives one: /dev/fd/63, a link of a kind."""
    reader, writer = os.pipe()
    with private_files.open_to_write(Path(f"/dev/fd/{writer}"), 4096) as file:
        file.write(b"x")
    os.close(writer)
    assert os.read(reader, 10) == b"x"
    os.close(reader)
