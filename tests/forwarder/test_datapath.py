# SPDX-License-Identifier: Apache-2.0
"""Whose a frame is that lies in the ring: by its link, or by the tag that the punt link gives it.

The ring is written here as the kernel writes it (TPACKET_V2). Frames are of an ethertype that
nobody serves, so what was taken for whose is what is counted: a drop for an attachment that is
served, one of an unknown link for all others.
"""

from __future__ import annotations

import itertools
import secrets
import socket
import struct
from pathlib import Path

import pytest

from hyperplane_nat.engine import Engine, StateMap
from hyperplane_nat.forwarder.datapath import Datapath
from hyperplane_nat.io.packet_socket import ReceiveRing
from hyperplane_nat.io.ring import PacketIO
from tests.engine import scenario
from tests.engine.compiled import set_interface, set_slot

SLOTS, SLOT_BYTES = 64, 1024
STATUS_USER, STATUS_VLAN = 1, 0x10
# struct tpacket2_hdr and, after padding, struct sockaddr_ll up to sll_ifindex.
HEADER = struct.Struct("=IIIHHIIHH4x")
ADDRESS = struct.Struct("=HHi")
MAC_OFFSET = 80
UNKNOWN, OTHER, VLAN = "drop_unknown_link", "drop_ethertype", "drop_vlan"


class Scene:
    """Two environments and a ring."""

    def __init__(self, *, punted: bool) -> None:
        path = Path("/dev/shm") / f"t-{secrets.token_hex(4)}.map"
        self.state = StateMap.create(path, flows_max=64, slots_max=8, interfaces_max=2, hosts_max=2)
        path.unlink()
        self.engine = Engine(self.state, now_ms=1_000)
        set_interface(self.engine, 0)
        for number in (1, 2):
            set_slot(self.engine, number, 0, mtu=1500)
        self.memory = bytearray(SLOTS * SLOT_BYTES)
        receiver, sender = socket.socketpair()
        ring = ReceiveRing(receiver, self.memory, SLOTS, SLOT_BYTES)  # type: ignore[arg-type]
        self.io = PacketIO(ring, sender, punted=punted)
        self.datapath = Datapath(self.engine, self.io, batch_frames=8)
        self.positions = itertools.cycle(range(SLOTS))

    def arrive(
        self,
        *,
        index: int = 1,
        tag: int | None = None,
        ethertype: bytes = b"\x12\x34",
        slot: int = 1,
    ) -> None:
        """Put a frame of an environment into the ring."""
        addresses = scenario.gateway_mac(slot) + scenario.environment_mac(slot)
        frame = bytes.fromhex(addresses.replace(":", "")) + ethertype + bytes(46)
        start = next(self.positions) * SLOT_BYTES
        status = STATUS_USER | (0 if tag is None else STATUS_VLAN)
        self.memory[start + MAC_OFFSET : start + MAC_OFFSET + len(frame)] = frame
        ADDRESS.pack_into(self.memory, start + HEADER.size, socket.AF_PACKET, 0, index)
        HEADER.pack_into(
            self.memory,
            start,
            status,
            len(frame),
            len(frame),
            MAC_OFFSET,
            MAC_OFFSET + 14,
            0,
            0,
            tag or 0,
            0,
        )

    def taken(self) -> dict[str, int]:
        """What became of the frames that have arrived: reasons, and drops by environment."""
        before = self._counts()
        self.datapath.run(SLOTS)
        after = self._counts()
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}

    def _counts(self) -> dict[str, int]:
        counters = self.state.counters()
        found = {name: counters[name] for name in (UNKNOWN, OTHER, VLAN)}
        for number in (1, 2):
            found[f"environment {number}"] = self.state.slot_counters(number)["drops"]
        return found


@pytest.fixture
def punted() -> Scene:
    """Behind a punt link, with environment 1 served."""
    scene = Scene(punted=True)
    scene.datapath.link_slot(1, 70)
    return scene


@pytest.fixture
def direct() -> Scene:
    """The ring is on the links themselves, and environment 1 is served."""
    scene = Scene(punted=False)
    scene.datapath.link_slot(1, 70)
    return scene


def test_on_the_links_the_link_says_whose_it_is(direct: Scene) -> None:
    direct.arrive(index=70)
    assert direct.taken() == {OTHER: 1, "environment 1": 1}
    direct.arrive(index=1)
    direct.arrive(index=100_000)
    assert direct.taken() == {UNKNOWN: 2}
    direct.arrive(index=70, tag=2)
    assert direct.taken() == {VLAN: 1, "environment 1": 1}


def test_on_the_punt_link_the_tag_says_whose_it_is(punted: Scene) -> None:
    punted.arrive(tag=1)
    assert punted.taken() == {OTHER: 1, "environment 1": 1}
    # Not the index: all come by the same link.
    punted.arrive(index=70, tag=2)
    assert punted.taken() == {UNKNOWN: 1}
    punted.datapath.link_slot(2, 71)
    punted.arrive(index=70, tag=2, slot=2)
    assert punted.taken() == {OTHER: 1, "environment 2": 1}


@pytest.mark.parametrize("tag", [None, 0, 2, 11, 12, 0x1001, 0xFFFF])
def test_a_tag_that_is_nobody_s(punted: Scene, tag: int | None) -> None:
    """There are 12 attachments: 8 environments, 2 interfaces and 2 hosts."""
    punted.arrive(index=70, tag=tag)
    assert punted.taken() == {UNKNOWN: 1}


@pytest.mark.parametrize("ethertype", [b"\x81\x00", b"\x88\xa8"])
def test_a_tag_of_the_sender_s_is_refused(punted: Scene, ethertype: bytes) -> None:
    punted.arrive(tag=1, ethertype=ethertype)
    assert punted.taken() == {VLAN: 1, "environment 1": 1}
    punted.arrive(tag=2, ethertype=ethertype)
    assert punted.taken() == {UNKNOWN: 1}


def test_what_is_unlinked_is_nobody_s(punted: Scene) -> None:
    punted.arrive(tag=1)
    punted.datapath.unlink(70)
    punted.datapath.unlink(70)
    punted.datapath.unlink(71)
    assert punted.taken() == {UNKNOWN: 1}
    punted.datapath.link_slot(1, 70)
    punted.arrive(tag=1)
    assert punted.taken() == {OTHER: 1, "environment 1": 1}


def test_frames_of_who_had_a_number_before_are_nobody_s(punted: Scene) -> None:
    """The tag cannot tell, and the ring may have waited: what a new link sends comes after."""
    punted.datapath.link_slot(2, 80)
    for _ in range(3):
        punted.arrive(tag=1)
    punted.arrive(tag=2, slot=2)
    punted.datapath.unlink(70)
    punted.datapath.link_slot(1, 90)
    punted.arrive(tag=1)
    assert punted.taken() == {UNKNOWN: 3, OTHER: 2, "environment 1": 1, "environment 2": 1}


def test_what_waits_when_a_forwarder_begins_is_served(punted: Scene) -> None:
    """A successor's ring fills before it knows anybody."""
    punted.arrive(tag=2, slot=2)
    punted.datapath.link_slot(2, 80)
    punted.datapath.link_slot(2, 80)
    assert punted.taken() == {OTHER: 1, "environment 2": 1}
