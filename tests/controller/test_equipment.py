# SPDX-License-Identifier: Apache-2.0
"""What a forwarder begins with, whatever its controller finds."""

from __future__ import annotations

import fcntl
import gzip
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.forwarder import equipment
from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.io.handover import Handover
from tests.controller.support import config_in, no_sockets, paths_of
from tests.engine.test_migration import RECORDED

SIZE = 64


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "state.map"


@pytest.fixture(autouse=True)
def opened() -> Iterator[list[int]]:
    """The maps that were opened, with their locks. A forwarder has them for life, a test not."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def own(path: Path, opened: list[int]) -> Callable[..., tuple[os.stat_result, str | None]]:
    def work(flows_max: int = SIZE) -> tuple[os.stat_result, str | None]:
        descriptor, discarded = equipment.own_map(path, flows_max)
        opened.append(descriptor)
        with path.open("rb") as another, pytest.raises(BlockingIOError):
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor), discarded

    return work


Own = Callable[..., tuple[os.stat_result, str | None]]


def test_a_new_one(path: Path, own: Own) -> None:
    found, discarded = own()
    assert (found.st_ino, discarded) == (path.stat().st_ino, None)
    assert StateMap.open(path).flows_max == SIZE


def test_that_of_a_predecessor(path: Path, own: Own) -> None:
    equipment.make_map(path, SIZE)
    inode = path.stat().st_ino
    found, discarded = own()
    assert (found.st_ino, path.stat().st_ino, discarded) == (inode, inode, None)


def test_one_of_a_former_layout(path: Path, own: Own) -> None:
    """Its predecessor's end is waited for before it is read, and the new file is locked too."""
    path.write_bytes(gzip.decompress((RECORDED / "layout-3.map.gz").read_bytes()))
    inode = path.stat().st_ino
    found, discarded = own()
    assert (len(StateMap.open(path).flows()), discarded) == (17, None)
    assert found.st_ino == path.stat().st_ino != inode


@pytest.mark.races
def test_one_whose_predecessor_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equipment, "LOCK_SECONDS", 0.01)
    content = gzip.decompress((RECORDED / "layout-3.map.gz").read_bytes())
    path.write_bytes(content)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StateMapError, match="another forwarder"):
            equipment.own_map(path, SIZE)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["magic", "offset", "empty", "cut"])
def test_a_damaged_one_is_discarded_once(path: Path, own: Own, damage: str) -> None:
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
    _, discarded = own()
    assert discarded is not None
    assert discarded.startswith(str(path))
    StateMap.open(path).close()


def test_that_of_a_later_version_is_left_to_it(path: Path) -> None:
    StateMap.create(path, flows_max=SIZE).close()
    content = bytearray(path.read_bytes())
    content[8] = 99
    path.write_bytes(content)
    with pytest.raises(StateMapError, match="layout 99"):
        equipment.own_map(path, SIZE)
    assert path.read_bytes() == content


def test_one_of_another_size_is_left(path: Path) -> None:
    StateMap.create(path, flows_max=SIZE).close()
    with pytest.raises(StateMapError, match="made for 64 flows, configured are 128"):
        equipment.own_map(path, 128)
    assert path.exists()


def test_one_with_holes_is_filled(path: Path, own: Own) -> None:
    """As a copy may have them: a page that is not there yet would be a SIGBUS one day."""
    StateMap.create(path, flows_max=SIZE).close()
    created = path.stat().st_blocks
    content = path.read_bytes()
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.write(content[:4096])
        file.truncate(len(content))
    assert path.stat().st_blocks < created
    found, _ = own()
    assert (found.st_blocks, found.st_size) == (created, len(content))


@pytest.mark.parametrize("kind", ["link", "user", "mode", "fifo"])
def test_what_somebody_else_has_put_there_is_refused(path: Path, kind: str) -> None:
    """The directory is usually one that anybody may write to."""
    target = path.with_name("target")
    StateMap.create(target, flows_max=SIZE).close()
    content = target.read_bytes()
    match kind:
        case "link":
            path.symlink_to(target)
        case "user":
            target.rename(path)
            os.chown(path, 12345, 12345)
        case "mode":
            target.rename(path)
            path.chmod(0o606)
        case "fifo":
            os.mkfifo(path)
    with pytest.raises(StateMapError, match=r": remove it|symbolic link") as error:
        equipment.own_map(path, SIZE)
    assert str(path) in str(error.value)
    assert path.is_symlink() or path.exists()
    if target.exists():
        assert target.read_bytes() == content


def test_a_dangling_link_is_not_followed(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(StateMapError):
        equipment.own_map(path, SIZE)
    assert not path.with_name("elsewhere").exists()


def test_a_directory_on_a_disk_is_refused() -> None:
    with pytest.raises(
        StateMapError, match=r"^lab.state_directory: /proc is not on a tmpfs: choose"
    ):
        equipment.make_map(Path("/proc/map"), SIZE)
    with pytest.raises(StateMapError, match=r"/nowhere: No such file or directory"):
        equipment.own_map(Path("/nowhere/map"), SIZE)


def test_flow_records_of_another_version_are_begun_anew(path: Path) -> None:
    FlowRecordRing.create(path).close()
    inode = path.stat().st_ino
    os.close(equipment.own_records(path))
    assert path.stat().st_ino == inode
    content = bytearray(path.read_bytes())
    content[8] = 1
    path.write_bytes(content)
    os.close(equipment.own_records(path))
    FlowRecordRing.open(path).close()


def test_the_shorter_flow_records_of_version_3_are_begun_anew(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a lab of 0.1.0 has left them: 80 bytes each, a page before the lost of 66,559 places."""
    lost = (65_536 + 1_023) * 4
    path.write_bytes(b"HPNATREC" + struct.pack("<III", 3, 131_072, 65_536 + 1_023))
    os.truncate(path, 4096 + (lost + 4095) // 4096 * 4096 + 131_072 * 80)
    with pytest.raises(StateMapError, match=r"not a file of flow records: remove it$"):
        FlowRecordRing.open(path)
    os.close(equipment.own_records(path))
    assert "begun anew" in caplog.text
    FlowRecordRing.open(path).close()


@pytest.mark.usefixtures("collected")
def test_all_or_nothing(directory: Path, opened: list[int]) -> None:
    config = config_in(directory, flow_logs={"enabled": True})
    paths = paths_of(config)
    paths.directory.mkdir(parents=True)
    before = set(os.listdir("/proc/self/fd"))
    StateMap.create(paths.state_file, flows_max=SIZE).close()
    with pytest.raises(ControllerError, match="made for 64 flows, configured are 10000"):
        equipment.equip(config, paths, no_sockets, lambda: "")
    assert set(os.listdir("/proc/self/fd")) == before
    assert not paths.forwarder_socket.exists()
    paths.state_file.unlink()
    made = equipment.equip(config, paths, no_sockets, lambda: "")
    mode = paths.forwarder_socket.stat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        made.handover.send(ours)
        made.handover.close()
        received = Handover.receive(theirs)
        assert received is not None
        opened += [received.commands, received.receiver, received.sender]
        opened += [received.state_map, received.records or -1]
        assert os.fstat(received.state_map).st_ino == paths.state_file.stat().st_ino
        assert os.fstat(received.records or -1).st_ino == paths.records_file.stat().st_ino
        with pytest.raises(StateMapError, match="another forwarder"):
            equipment.own_map(paths.state_file, config.flows.max)
        ours.close()
        assert Handover.receive(theirs) is None
