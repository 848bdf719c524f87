# SPDX-License-Identifier: Apache-2.0
"""What a crashed lab has left is removed, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hyperplane_nat.aws.notes import notes_path
from hyperplane_nat.controller import cleanup
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.logs import numbered
from hyperplane_nat.controller.paths import LabLock, LabPaths
from hyperplane_nat.controller.processes import Process
from hyperplane_nat.runtime.places import uploads_path
from tests.controller.support import DEADLINE_SECONDS, SERVICE, FakeNetns, gone


def clean(directory: Path, netns: FakeNetns, lab: str = "test") -> list[str]:
    return cleanup.clean(lab, str(directory / "run"), str(directory), namespaces=netns.namespaces())


def crashed_lab(directory: Path, lab: str = "test") -> tuple[LabPaths, list[int]]:
    """Files, namespaces and two processes, one of which lost its pid file."""
    paths = LabPaths.of(lab, directory / "run", directory)
    paths.directory.mkdir(parents=True)
    for path in (paths.pid_file, paths.config_file, paths.log, paths.state_file):
        path.write_text("x")
    pids = []
    for name in ("one", "two"):
        process = Process.spawn(
            [*SERVICE, "http", "--port", "80"],
            SERVICE[-1],
            directory=paths.directory,
            pid_file=paths.service_pid("vpc", name),
            log=paths.service_log("vpc", name),
        )
        # Right after exec(2), /proc shows neither arguments nor environment yet.
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "ready" not in process.output():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        pids.append(process.pid)
        process.close()
    paths.service_pid("vpc", "two").unlink()
    return paths, pids


def test_nothing_to_clean(directory: Path, netns: FakeNetns) -> None:
    assert clean(directory, netns) == []
    assert not (directory / "run").exists()


@pytest.mark.races
def test_everything_of_a_crashed_lab_goes(directory: Path, netns: FakeNetns) -> None:
    paths, pids = crashed_lab(directory)
    netns.file.write_text("hp-test-gw\nhp-test-env-1\nhp-other-gw")
    removed = clean(directory, netns)
    assert all(gone(pid) for pid in pids)
    assert netns.names() == ["hp-other-gw"]
    assert not paths.state_file.exists()
    assert not (directory / "run").exists()
    for what in (
        *(f"process {pid}" for pid in pids),
        "namespace hp-test-gw",
        f"file {paths.state_file}",
        f"file {paths.config_file}",
        f"directory {paths.directory}",
    ):
        assert what in removed
    assert clean(directory, netns) == []


def test_numbered_logs_go_with_the_lab_and_only_then(directory: Path, netns: FakeNetns) -> None:
    paths, _ = crashed_lab(directory)
    kept = [numbered(paths.log, n) for n in (1, 2)]
    others = [numbered(paths.forwarder_log, 1), numbered(paths.service_log("customer", "web"), 2)]
    for path in (*kept, *others):
        path.write_text("")
    cleanup.sweep(paths, netns.namespaces())
    assert [path.exists() for path in (*kept, *others)] == [True, True, False, False]
    clean(directory, netns)
    assert not paths.directory.exists()


def test_another_lab_is_left_alone(directory: Path, netns: FakeNetns) -> None:
    _, pids = crashed_lab(directory)
    assert clean(directory, netns, "other") == []
    assert not any(gone(pid) for pid in pids)
    clean(directory, netns)


def with_archive(paths: LabPaths) -> tuple[Path, Path]:
    """A region and an archive of one of its functions."""
    archive = uploads_path(paths.directory) / "0.zip"
    archive.parent.mkdir()
    for path in (archive, paths.region_file):
        path.write_text("x")
    return archive, paths.region_file


def test_notes_of_the_region_stay_and_go_with_it(directory: Path, netns: FakeNetns) -> None:
    paths, _ = crashed_lab(directory)
    notes = notes_path(paths.directory)
    for path in (notes, notes.with_suffix(".new"), paths.region_file):
        path.write_text("{}")
    cleanup.sweep(paths, netns.namespaces())
    assert (notes.exists(), paths.region_file.exists()) == (True, True)
    assert not notes.with_suffix(".new").exists()
    cleanup.remove_region(paths)
    assert (notes.exists(), paths.region_file.exists()) == (False, False)
    notes.write_text("{}")
    clean(directory, netns)
    assert not paths.directory.exists()


@pytest.mark.races
def test_a_region_goes_after_the_processes_that_use_it(directory: Path) -> None:
    paths, pids = crashed_lab(directory)
    archive, region = with_archive(paths)
    removed = cleanup.remove_region(paths)
    assert sorted(removed) == sorted(f"process {pid}" for pid in pids)
    assert all(gone(pid) for pid in pids)
    assert not archive.parent.exists()
    assert not region.exists()


def test_a_region_stays_with_a_process_that_does_not_end(
    directory: Path, netns: FakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, _ = crashed_lab(directory)
    archive, region = with_archive(paths)
    with monkeypatch.context() as patch:
        patch.setattr(cleanup, "terminate", list)
        with pytest.raises(ControllerError, match="does not end"):
            cleanup.remove_region(paths)
    assert archive.exists()
    assert region.exists()
    clean(directory, netns)


@pytest.mark.races
def test_running_lab_is_not_cleaned(directory: Path, netns: FakeNetns) -> None:
    paths = LabPaths.of("test", directory / "run", directory)
    lock = LabLock(paths)
    lock.acquire()
    paths.config_file.write_text("{}")
    with pytest.raises(ControllerError, match="is already running"):
        clean(directory, netns)
    assert paths.config_file.exists()
    lock.release()
    clean(directory, netns)


def test_foreign_file_is_left_and_told(directory: Path, netns: FakeNetns) -> None:
    paths, _ = crashed_lab(directory)
    foreign = paths.directory / "notes.txt"
    foreign.write_text("mine")
    with pytest.raises(ControllerError, match="look what is in it"):
        clean(directory, netns)
    assert foreign.read_text() == "mine"
    assert list(paths.directory.iterdir()) == [foreign]
