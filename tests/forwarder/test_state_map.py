# SPDX-License-Identifier: Apache-2.0
"""Which state map a forwarder begins with, whatever it finds."""

from __future__ import annotations

import fcntl
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.engine.flow_record_ring import FlowRecordRing
from hyperplane_nat.forwarder import __main__ as program
from tests.engine.test_migration import RECORDED

SIZE = 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.map"


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The inodes that were locked. A forwarder holds them for life, a test does not."""
    held: list[int] = []
    descriptors: list[int] = []
    real = program._lock

    def lock(path: Path) -> int:
        held.append(path.stat().st_ino)
        descriptors.append(real(path))
        return descriptors[-1]

    monkeypatch.setattr(program, "_lock", lock)
    yield held
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_new_one(path: Path, locks: list[int]) -> None:
    state, discarded = program._map(path, SIZE)
    assert (state.flows_max, discarded) == (SIZE, None)
    assert locks == [path.stat().st_ino]


def test_that_of_a_predecessor(path: Path, locks: list[int]) -> None:
    StateMap.create(path, flows_max=SIZE).close()
    inode = path.stat().st_ino
    _, discarded = program._map(path, SIZE)
    assert (path.stat().st_ino, discarded, locks) == (inode, None, [inode])


def test_one_of_a_former_layout(path: Path, locks: list[int]) -> None:
    """Its predecessor's end is waited for before it is read, and the new file is locked too."""
    path.write_bytes(gzip.decompress((RECORDED / "layout-3.map.gz").read_bytes()))
    inode = path.stat().st_ino
    state, discarded = program._map(path, SIZE)
    assert (len(state.flows()), discarded) == (17, None)
    assert locks == [inode, path.stat().st_ino]
    assert inode != path.stat().st_ino


def test_one_whose_predecessor_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_LOCK_SECONDS", 0.01)
    content = gzip.decompress((RECORDED / "layout-3.map.gz").read_bytes())
    path.write_bytes(content)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StateMapError, match="another forwarder"):
            program._map(path, SIZE)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["magic", "offset", "empty", "cut"])
def test_a_damaged_one_is_discarded_once(path: Path, damage: str) -> None:
    StateMap.create(path, flows_max=SIZE).close()
    content = bytearray(path.read_bytes())
    match damage:
        case "magic":
            content[0] ^= 1
        case "offset":
            content[60] ^= 1
        case "empty":
            content.clear()
        case "cut":
            del content[-4096:]
    path.write_bytes(content)
    _, discarded = program._map(path, SIZE)
    assert discarded is not None
    assert discarded.startswith(str(path))
    StateMap.open(path).close()


def test_that_of_a_later_version_is_left_to_it(path: Path) -> None:
    StateMap.create(path, flows_max=SIZE).close()
    content = bytearray(path.read_bytes())
    content[8] = 99
    path.write_bytes(content)
    with pytest.raises(StateMapError, match="layout 99"):
        program._map(path, SIZE)
    assert path.read_bytes() == content


def test_one_of_another_size_is_left(path: Path) -> None:
    StateMap.create(path, flows_max=SIZE).close()
    with pytest.raises(StateMapError, match="made for 64 flows, configured are 128"):
        program._map(path, 128)
    assert path.exists()


def test_flow_records_of_another_version_are_begun_anew(path: Path) -> None:
    FlowRecordRing.create(path).close()
    inode = path.stat().st_ino
    program._records(path).close()
    assert path.stat().st_ino == inode
    content = bytearray(path.read_bytes())
    content[8] = 1
    path.write_bytes(content)
    program._records(path).close()
    FlowRecordRing.open(path).close()
