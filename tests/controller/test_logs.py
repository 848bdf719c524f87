# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from hyperplane_nat.controller import logs
from hyperplane_nat.controller.logs import JournalFormatter, RateLimit


def record(text: str, *args: object, line: int = 1, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("room", level, "file.py", line, text, args, None)


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "a.log").open("a") as file:
        yield file


class TestRate:
    """`RateLimit`."""

    def test_a_burst_passes_and_then_a_few_a_second(self) -> None:
        now = 0.0
        limit = RateLimit(lambda: now)
        assert sum(limit.filter(record("x")) for _ in range(1000)) == logs.BURST
        now = 2.0
        assert sum(limit.filter(record("x")) for _ in range(1000)) == 2 * logs.RATE

    def test_who_passes_tells_of_those_before(self) -> None:
        now = 0.0
        limit = RateLimit(lambda: now)
        for number in range(logs.BURST + 7):
            limit.filter(record("%d of %s", number, "them"))
        now = 1.0
        told = record("%d of %s", 9, "them")
        assert limit.filter(told)
        assert told.getMessage() == "9 of them (7 like it were left out)"
        again = record("%d of %s", 9, "them")
        assert limit.filter(again)
        assert again.getMessage() == "9 of them"

    def test_a_percent_sign_in_what_is_told_is_none_of_a_format(self) -> None:
        now = 0.0
        limit = RateLimit(lambda: now)
        for _ in range(logs.BURST + 1):
            limit.filter(record("%s", "100 %s"))
        now = 1.0
        told = record("%s", "100 %s")
        assert limit.filter(told)
        assert told.getMessage() == "100 %s (1 like it were left out)"

    def test_kinds_do_not_share(self) -> None:
        limit = RateLimit(lambda: 0.0)
        for _ in range(logs.BURST + 1):
            limit.filter(record("x"))
        assert not limit.filter(record("x"))
        assert limit.filter(record("x", line=2))


class TestJournal:
    """What a line looks like where standard error is the journal's."""

    def test_each_line_has_its_priority_and_no_time(self) -> None:
        form = JournalFormatter("%(name)s: %(message)s")
        assert form.format(record("up")) == "<6>room: up"
        assert form.format(record("a\nb", level=logging.ERROR)) == "<3>room: a\n<3>b"
        assert form.format(record("hm", level=logging.WARNING)) == "<4>room: hm"

    def test_it_is_known_by_its_file(self, log_file: TextIO) -> None:
        found = os.fstat(log_file.fileno())
        name = f"{found.st_dev}:{found.st_ino}"
        assert logs.is_journal(log_file, {"JOURNAL_STREAM": name})
        # A child inherits the variable, but not the stream.
        assert not logs.is_journal(log_file, {"JOURNAL_STREAM": f"{name}1"})
        assert not logs.is_journal(log_file, {})
        assert not logs.is_journal(io.StringIO(), {"JOURNAL_STREAM": name})

    @pytest.mark.parametrize("journal", [True, False])
    def test_what_a_process_writes_there(self, journal: bool) -> None:
        """A stand-in for the journal: a pipe that JOURNAL_STREAM names."""
        script = """
import logging, sys
from hyperplane_nat.controller import logs
logs.configure()
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("room").exception("start failed")
sys.stderr.write(logs.error_line("cannot start") + "\\n")
"""
        reader, writer = os.pipe()
        found = os.fstat(writer)
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        if not journal:
            del environment["JOURNAL_STREAM"]
        subprocess.run([sys.executable, "-c", script], stderr=writer, env=environment, check=True)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            lines = pipe.read().splitlines()
        assert "ZeroDivisionError: division by zero" in lines[-2]
        if journal:
            assert lines[0] == "<3>room: start failed"
            assert {line[:3] for line in lines} == {"<3>"}
            assert lines[-1] == "<3>cannot start"
        else:
            assert lines[0].endswith("ERROR room: start failed")
            assert lines[0].startswith("20")
            assert lines[-1] == "cannot start"

    @pytest.mark.live
    def test_a_controller_in_the_foreground_that_cannot_start(
        self, tmp_path: Path, lab_name: str
    ) -> None:
        tmp_path.chmod(0o777)
        setting = f"lab.state_directory={tmp_path}"
        command = ["-m", "hyperplane_nat.cli", "--lab", lab_name, "up", "--foreground"]
        reader, writer = os.pipe()
        found = os.fstat(writer)
        done = subprocess.run(
            [sys.executable, *command, "--set", setting],
            stderr=writer,
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            check=False,
        )
        os.close(writer)
        with os.fdopen(reader) as pipe:
            (line,) = pipe.read().splitlines()
        assert done.returncode == 2
        assert line.startswith(f"<3>lab.state_directory: others can replace what is in {tmp_path}")


class TestSize:
    """Files that are full are kept as numbered ones and emptied."""

    def test_who_holds_a_log_open_goes_on_at_its_beginning(self, log_file: TextIO) -> None:
        path = Path(log_file.name)
        log_file.write("old\n" * 10)
        log_file.flush()
        assert not logs.bound(path, bytes_max=40)
        log_file.write("one more\n")
        log_file.flush()
        assert logs.bound(path, bytes_max=48)
        log_file.write("new\n")
        log_file.flush()
        assert path.read_text() == "new\n"
        assert logs.numbered(path, 1).read_text() == "old\n" * 9 + "one more\n"

    def test_only_so_many_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "a.log"
        for text in ("first\n", "second\n", "third\n", "fourth\n"):
            path.write_text(text)
            assert logs.bound(path, bytes_max=1)
        found = {each.name: each.read_text() for each in tmp_path.iterdir()}
        assert set(found) == {"a.log", *(f"a.log.{n}" for n in range(1, logs.KEPT + 1))}

    def test_of_a_huge_one_the_end_is_kept_from_a_whole_line_on(self, tmp_path: Path) -> None:
        path = tmp_path / "a.log"
        path.write_text("".join(f"line {number:04}\n" for number in range(1000)))
        assert logs.bound(path, bytes_max=55)
        assert path.stat().st_size == 0
        kept = logs.numbered(path, 1).read_text().splitlines()
        assert kept == [f"line {number:04}" for number in range(995, 1000)]

    def test_it_is_emptied_though_there_is_no_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(logs, "_copy_end", full)
        path = tmp_path / "a.log"
        path.write_text("much")
        with pytest.raises(OSError, match="No space left"):
            logs.bound(path, bytes_max=1)
        assert path.stat().st_size == 0

    def test_none_is_no_error(self, tmp_path: Path) -> None:
        assert not logs.bound(tmp_path / "a.log")


@pytest.mark.parametrize("removed", [True, False])
def test_a_log_that_somebody_has_removed_is_made_anew(tmp_path: Path, removed: bool) -> None:
    """`down` meets an `up` whose controller has only been started, and removes its log."""
    path = tmp_path / "controller.log"
    code = f"""
import os, sys
from pathlib import Path
from hyperplane_nat.controller import logs
path = Path({str(path)!r})
print("former", flush=True)
if {removed}:
    path.unlink()
logs.restore(path)
print("out", flush=True)
print("err", file=sys.stderr)
"""
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, stderr=log, check=True)
    assert path.read_text().split() == ["former"] * (not removed) + ["out", "err"]
