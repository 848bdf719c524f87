# SPDX-License-Identifier: Apache-2.0
"""Files: AWS's names, sizes, how many are kept, and a disk that is full."""

import os
import re
from pathlib import Path

import pytest

from hyperplane_nat.flow_logs import files as module
from hyperplane_nat.flow_logs.fields import Place
from hyperplane_nat.flow_logs.files import FlowLogFiles, flow_log_id, log_files

A = Place("eni-a", "111122223333", "customer", "private-a")
B = Place("eni-b", "111122223333", "customer", "private-a")
HEADER = "version interface-id"
NOON = 1_790_000_400_000
MINUTE = 60_000


def opened(directory: Path, *, max_file_bytes: int = 10**6, files_kept: int = 10) -> FlowLogFiles:
    return FlowLogFiles(directory, HEADER, max_file_bytes=max_file_bytes, files_kept=files_kept)


def write(files: FlowLogFiles, start_ms: int, place: Place, *lines: str) -> None:
    files.begin(start_ms)
    assert files.write(place, lines) == 0
    assert files.flush() == {}


def test_a_file_is_named_as_in_a_bucket(tmp_path: Path) -> None:
    write(opened(tmp_path), NOON, A, "2 eni-a")
    (path,) = log_files(tmp_path)
    assert re.fullmatch(
        r"AWSLogs/111122223333/vpcflowlogs/local/2026/09/21/"
        r"111122223333_vpcflowlogs_local_fl-[0-9a-f]{17}_20260921T1420Z_[0-9a-f]{8}\.log",
        str(path.relative_to(tmp_path)),
    )
    assert path.read_text() == "version interface-id\n2 eni-a\n"


def test_an_interface_and_interval_have_a_file_of_their_own(tmp_path: Path) -> None:
    files = opened(tmp_path)
    write(files, NOON, A, "1")
    write(files, NOON, B, "2")
    write(files, NOON + MINUTE, A, "3")
    assert [path.read_text().split()[-1] for path in log_files(tmp_path, "eni-a")] == ["1", "3"]
    assert [path.read_text().split()[-1] for path in log_files(tmp_path, "eni-b")] == ["2"]
    assert len(log_files(tmp_path)) == 3


def test_an_interval_of_less_than_a_minute_has_a_name_too(tmp_path: Path) -> None:
    files = opened(tmp_path)
    for number in range(5):
        write(files, NOON + number * 600, A, str(number))
    assert [path.read_text().split()[-1] for path in log_files(tmp_path)] == list("01234")


def test_a_file_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    files = opened(tmp_path, max_file_bytes=60)
    files.begin(NOON)
    for number in range(5):
        files.write(A, [f"{number} " + "x" * 30])
        files.flush()
    found = log_files(tmp_path)
    assert len(found) == 5
    assert all(path.stat().st_size <= 60 for path in found)
    assert all(path.read_text().startswith(HEADER) for path in found)


def test_the_oldest_files_go(tmp_path: Path) -> None:
    first = opened(tmp_path, files_kept=3)
    write(first, NOON, B, "other")
    for number in range(5):
        write(first, NOON + number * MINUTE, A, str(number))
    assert [path.read_text().split()[-1] for path in log_files(tmp_path, "eni-a")] == list("234")
    # Another run goes on with them.
    write(opened(tmp_path, files_kept=3), NOON + 9 * MINUTE, A, "9")
    assert [path.read_text().split()[-1] for path in log_files(tmp_path, "eni-a")] == list("349")
    assert len(log_files(tmp_path, "eni-b")) == 1


def test_an_empty_day_goes_too(tmp_path: Path) -> None:
    files = opened(tmp_path, files_kept=1)
    write(files, NOON, A, "1")
    day = log_files(tmp_path)[0].parent
    write(files, NOON + 24 * 60 * MINUTE, A, "2")
    assert not day.exists()


def test_a_second_run_in_an_interval_adds_to_the_file(tmp_path: Path) -> None:
    write(opened(tmp_path), NOON, A, "1")
    write(opened(tmp_path), NOON, A, "2")
    (path,) = log_files(tmp_path)
    assert path.read_text() == "version interface-id\n1\n2\n"


def test_a_full_disk_loses_whole_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = opened(tmp_path)
    files.begin(NOON)
    files.write(A, ["1 whole"])
    assert files.flush() == {}
    left = 10

    def write_some(descriptor: int, data: bytes | memoryview) -> int:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        count = real(descriptor, bytes(data)[:left])
        left -= count
        return count

    real = os.write
    monkeypatch.setattr(os, "write", write_some)
    files.write(A, ["2 this line does not fit", "3 nor does this"])
    assert files.flush() == {"eni-a": 2}
    monkeypatch.undo()
    files.write(A, ["4 again"])
    assert files.flush() == {}
    (path,) = log_files(tmp_path)
    assert path.read_text() == "version interface-id\n1 whole\n4 again\n"


def test_a_full_disk_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    files = opened(tmp_path)
    files.begin(NOON)
    files.write(A, ["1"])
    assert files.flush() == {"eni-a": 1}
    assert log_files(tmp_path) == []


def test_a_directory_that_cannot_be_made_loses_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = opened(tmp_path / "file")
    files.begin(NOON)
    assert files.write(A, ["1"]) == 0
    assert files.flush() == {"eni-a": 1}


def test_many_lines_are_written_before_the_end(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.begin(NOON)
    files.write(A, [str(number) for number in range(module.PIECE_LINES)])
    assert len(log_files(tmp_path)) == 1


def test_ids_differ_by_interface() -> None:
    assert flow_log_id(A) != flow_log_id(B)
    assert flow_log_id(A) == flow_log_id(Place("eni-a", "444455556666"))
