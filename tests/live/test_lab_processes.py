# SPDX-License-Identifier: Apache-2.0
"""What the processes of a lab may do, and who can read what it keeps."""

from __future__ import annotations

import array
import mmap
import stat
from pathlib import Path

import pytest

from hyperplane_nat.controller.processes import Process
from hyperplane_nat.engine.readers.state_map import StateMap
from netns import privileges
from tests.live.conftest import Launch
from tests.live.lab import COMMAND, UP_SECONDS, Lab, program, wait_until
from tests.live.test_crash import forwarder_pid, kill_forwarder

pytestmark = pytest.mark.live

USERS = {
    "hyperplane_nat.forwarder": privileges.UID,
    "hyperplane_nat.resolver": privileges.UID,
    "netns.services": privileges.UID,
    "hyperplane_nat.flow_logs": 0,
}


def toml(directory: Path) -> str:
    return f'[flow_logs]\nenabled = true\ndirectory = "{directory}"\n'


def processes(lab: Lab) -> dict[int, list[str]]:
    """Command lines of the lab's processes but the controller, by pid."""
    found = {}
    for process in Process.strays(lab.runtime_directory):
        found[process.pid] = process.command
        process.close()
    return found


def kept(pid: int) -> str | None:
    """What a process has kept that it should not have; None when nothing."""
    found = privileges.of(pid)
    return None if found is None or found.dropped else str(found)


def test_no_process_has_privileges_but_the_controller(launch: Launch, tmp_path: Path) -> None:
    lab = launch(toml=toml(tmp_path / "logs"))

    def dropped() -> bool:
        return not any(map(kept, processes(lab)))

    # The writer gives up what it has when the forwarder has made what it reads. Until then it may
    # have children: loading the library of the lists runs ldconfig.
    wait_until(dropped, lambda: str({pid: kept(pid) for pid in processes(lab)}))
    found = processes(lab)
    words = {word for command in found.values() for word in command}
    assert set(USERS) <= words
    assert len(found) >= 5
    for pid, command in found.items():
        now = privileges.of(pid)
        assert now is not None, command
        assert now.effective == 0
        word = command[command.index("-m") + 1]
        assert now.uid == USERS[word], command


def pages_missing(lab: Lab, pid: int) -> list[int]:
    """
    Numbers of the state map's pages that a process has no page table entry of.

    Those of extensions, the last, exist when they are used, and are left out. The words of
    proc_pid_pagemap(5) are 64 bits, of which one says present and one moved or swapped.
    """
    state = StateMap.open(lab.state_file)
    pages = state.bytes // mmap.PAGESIZE
    state.close()
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    mapped = next(line for line in lines if line.endswith(str(lab.state_file)))
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        pagemap.seek(int(mapped.partition("-")[0], 16) // mmap.PAGESIZE * 8)
        words = array.array("Q", pagemap.read(pages * 8))
    assert len(words) == pages
    return [number for number, word in enumerate(words) if word >> 62 == 0]


def test_no_packet_waits_for_a_page_of_the_state_map(launch: Launch) -> None:
    lab = launch()

    def has_all(pid: int) -> None:
        wait_until(
            lambda: pages_missing(lab, pid) == [],
            lambda: f"all pages of the state map, without {pages_missing(lab, pid)[:20]}",
        )

    first = forwarder_pid(lab)
    has_all(first)
    kill_forwarder(lab)
    second = forwarder_pid(lab)
    assert second != first
    has_all(second)


def test_a_capture_keeps_no_privileges(launch: Launch, tmp_path: Path) -> None:
    lab = launch()
    file = tmp_path / "all.pcapng"
    command = (str(COMMAND), "--lab", lab.name, "capture", "--environment", "1", "-w", str(file))
    with program(None, *command, "-c", "4") as waiting:

        def capturing() -> list[int]:
            children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text()
            return [pid for pid in map(int, children.split()) if kept(pid) is None]

        (pid,) = wait_until(capturing, "the capture has given up its privileges")
        assert privileges.of(pid) is not None
        lab.cli("exec", "env-1", "--", "ping", "-c", "1", "10.0.1.80")
        # It has the processor when nobody else wants it.
        assert waiting.wait(UP_SECONDS) == 0
    assert file.stat().st_size > 500
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_a_lab_keeps_is_its_owners_alone(launch: Launch, tmp_path: Path) -> None:
    lab = launch(toml=toml(tmp_path / "logs"))
    assert stat.S_IMODE(lab.runtime_directory.stat().st_mode) == 0o700
    found = [*lab.runtime_directory.iterdir(), *lab.state_file.parent.glob(f"*-{lab.name}.*")]
    modes = {path.name: f"{stat.S_IMODE(path.stat().st_mode):04o}" for path in found}
    assert modes.pop("control.sock") == "0600"
    # What handlers, who are another user, see in their /etc.
    seen = {name: modes.pop(name) for name in list(modes) if name.startswith("etc.")}
    assert set(seen.values()) == {"0644"}
    assert set(modes.values()) == {"0600"}, modes
    assert {"controller.log", "controller.pid", "lab.json", "region.sqlite"} < set(modes)
    assert {lab.state_file.name, f"hyperplane-nat-{lab.name}.records"} < set(modes)
