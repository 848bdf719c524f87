# SPDX-License-Identifier: Apache-2.0
"""Lines of functions: whole, dated, bounded."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path

import pytest

from hyperplane_nat.runtime import distance, logs
from hyperplane_nat.runtime.distance import HandedFile, Told
from hyperplane_nat.runtime.logs import FunctionLog, Output, drain
from tests.runtime.box import PlainLog


@pytest.fixture
def function_log(tmp_path: Path) -> FunctionLog:
    return FunctionLog(PlainLog(tmp_path / "f.log"), lambda: 1.5)


def test_lines_are_whole_and_say_when_and_where(tmp_path: Path, function_log: FunctionLog) -> None:
    first, second = Output(function_log, "env-1"), Output(function_log, "env-2")
    first.add(b"one, ")
    second.add(b"other\n")
    first.add(b"two\nand a rest")
    first.line("END")
    assert (tmp_path / "f.log").read_text().splitlines() == [
        f"1970-01-01T00:00:01.500Z {line}"
        for line in ("env-2 other", "env-1 one, two", "env-1 and a rest", "env-1 END")
    ]
    assert (tmp_path / "f.log").stat().st_mode & 0o777 == 0o600


def test_the_tail_is_of_an_invocation_and_short(function_log: FunctionLog) -> None:
    output = Output(function_log, "env-1")
    output.add(b"before\n")
    output.begin()
    output.add(b"x" * 5000 + b"\nlast\n")
    assert len(output.tail) == logs.TAIL_BYTES
    assert output.tail.endswith(b"x\nlast\n")


@pytest.mark.parametrize("end", [b"", b"\nmore\n"])
def test_a_line_that_is_too_long_is_cut(
    tmp_path: Path, function_log: FunctionLog, end: bytes
) -> None:
    output = Output(function_log, "env-1")
    output.add(b"x" * logs.LINE_BYTES_MAX)
    output.add(b"x" * (logs.LINE_BYTES_MAX + 10) + end)
    output.flush()
    lines = [line.split()[2] for line in (tmp_path / "f.log").read_bytes().splitlines()]
    whole = b"x" * logs.LINE_BYTES_MAX
    assert lines == [whole, whole, b"x" * 10, *end.split()]


def test_lines_that_are_empty_are_lines(tmp_path: Path, function_log: FunctionLog) -> None:
    output = Output(function_log, "env-1")
    output.add(b"\n\na")
    output.add(b"\n\n")
    assert len((tmp_path / "f.log").read_bytes().splitlines()) == 4
    assert output.tail == b"\n\na\n\n"


def test_a_flood_is_read_in_pieces(function_log: FunctionLog) -> None:
    output = Output(function_log, "env-1")
    ours, theirs = os.pipe()
    os.write(theirs, b"\n" * 5000)
    assert drain(ours, output, 1000)
    assert len(output.tail) == 1000
    assert drain(ours, output, 4000)
    os.close(theirs)
    assert not drain(ours, output, 1)
    os.close(ours)


def test_a_long_log_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "FILE_BYTES_MAX", 100)
    path = tmp_path / "f.log"

    def turn_over() -> Future[Told]:
        logs.turn_over(path)
        told: Future[Told] = Future()
        told.set_result((None, [logs.open_log(path)]))
        return told

    function_log = FunctionLog(HandedFile(logs.open_log(path), turn_over), lambda: 1.5)
    for number in range(10):
        function_log.write("env-1", b"line %d" % number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert set(files) <= {"f.log", "f.log.1"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300
    assert "line 9" in "".join(path.read_text() for path in tmp_path.iterdir())


def test_what_is_in_a_pipe_is_read_to_its_end(function_log: FunctionLog) -> None:
    output = Output(function_log, "env-1")
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.write(theirs, b"said\n")
    assert drain(ours, output, logs.PIPE_BYTES)
    os.close(theirs)
    assert not drain(ours, output, logs.PIPE_BYTES)
    os.close(ours)
    assert output.tail == b"said\n"
