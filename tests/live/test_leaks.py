# SPDX-License-Identifier: Apache-2.0
"""Nothing grows with the number of labs a host has seen, and `down` leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netns import namespace
from tests.live.lab import FLOW_CACHE, launched

pytestmark = pytest.mark.live

ROUNDS = 200
SETTLED = 60
"""By then the interpreter's own caches and arenas are filled."""

WINDOW = 20
"""Rounds of which the smallest figure is taken, so that a passing peak is not a leak."""

GROWTH_BYTES = 2 << 20
"""The interpreter takes memory a MiB at a time; forgetting one lab a round would be over 4 MiB."""


def footprint(lab: str) -> dict[str, list[str]]:
    """What of this host a lab could leave behind."""
    links = json.loads(
        subprocess.run(["ip", "-j", "link"], check=True, capture_output=True, text=True).stdout
    )
    unix = Path("/proc/net/unix").read_text(encoding="ascii").splitlines()
    directories = (Path("/run/netns"), Path("/run/hyperplane-nat"), Path("/dev/shm"))
    return {
        "namespaces": [name for name in namespace.names() if lab in name],
        "links": sorted(link["ifname"] for link in links),
        "sockets": [line for line in unix if lab in line],
        "files": [
            str(path)
            for directory in directories
            if directory.exists()
            for path in directory.iterdir()
            if lab in path.name
        ],
        "mounts": [
            line
            for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
            if lab in line
        ],
        "processes": [
            command
            for process in Path("/proc").iterdir()
            if process.name.isdigit() and int(process.name) != os.getpid()
            for command in [arguments_of(process)]
            if lab in command
        ],
    }


def arguments_of(process: Path) -> str:
    """The command line of a process, empty when it has just ended."""
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def resident_after_each(lab: str, rounds: int) -> list[int]:
    """
    Bytes that one process holds after each of so many labs, up and down.

    Its descriptors and threads and this host must be as they were; memory is for the caller.
    """
    before = footprint(lab)
    module = "tests.live.leak_rounds"
    done = subprocess.run(
        [sys.executable, "-m", module, "--lab", lab, "--rounds", str(rounds)],
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(samples) == rounds
    assert {sample["descriptors"] for sample in samples[1:]} == {samples[1]["descriptors"]}
    assert {sample["threads"] for sample in samples} == {1}
    assert footprint(lab) == before
    return [sample["rss_bytes"] for sample in samples]


def test_twenty_labs_leave_no_descriptor_and_no_thread(lab_name: str) -> None:
    resident_after_each(lab_name, 20)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hundred_labs_leave_a_process_as_it_was(lab_name: str) -> None:
    resident = resident_after_each(lab_name, ROUNDS)
    growth = min(resident[-WINDOW:]) - min(resident[SETTLED : SETTLED + WINDOW])
    assert growth < GROWTH_BYTES, f"{growth} bytes in {ROUNDS - SETTLED} rounds"


def test_down_leaves_the_host_as_it_was(lab_name: str, tmp_path: Path) -> None:
    before = footprint(lab_name)
    with launched(tmp_path, lab_name, environments=20) as lab:
        during = footprint(lab_name)
        # The environments', the gateway's, the VPC's, and that of the punt link.
        assert len(during["namespaces"]) == 22 + FLOW_CACHE.on
        assert during["sockets"]
        assert during["processes"]
        lab.cli("exec", "env-3", "--", "ping", "-c", "1", "10.0.1.80")
    assert footprint(lab_name) == before
