# SPDX-License-Identifier: Apache-2.0
"""A session on taps that are fed by the test: order, waiting, limits, ends."""

from __future__ import annotations

import errno
import io
import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from hyperplane_nat.capture import session as sessions
from hyperplane_nat.capture.errors import CaptureError
from hyperplane_nat.capture.flows import FlowFinder
from hyperplane_nat.capture.identity import Identifier
from hyperplane_nat.capture.session import End, Limits, Session, Source, comment_of
from hyperplane_nat.capture.tap import LinkGoneError, Tap, Tapped
from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side
from hyperplane_nat.engine.state.settings import Flow
from tests.capture.test_flows import FakeMap
from tests.capture.test_pcapng import blocks, options

INSIDE, NAT, REMOTE = "169.254.100.2", "10.0.1.10", "10.0.1.80"
PACKET = 6


class FakeTap:
    """A tap with prepared frames, always readable; after them, something may happen."""

    def __init__(self, link: str, *frames: tuple[int, Any, bool]) -> None:
        self.link = link
        self.received = len(frames)
        self.dropped = 3
        self.frames = [Tapped(time, outgoing, bytes(frame)) for time, frame, outgoing in frames]
        self.gone = False
        self._read, self._write = os.pipe()
        os.write(self._write, b"x")

    def fileno(self) -> int:
        return self._read

    def read(self, limit: int) -> list[Tapped]:
        if self.gone and not self.frames:
            raise LinkGoneError(self.link)
        frames, self.frames = self.frames[:limit], self.frames[limit:]
        return frames

    def count(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def outward(port: int) -> Any:
    return Ether() / IP(src=INSIDE, dst=REMOTE) / UDP(sport=port, dport=7) / b"x"


def translated(nat_port: int) -> Any:
    return Ether() / IP(src=NAT, dst=REMOTE) / UDP(sport=nat_port, dport=7) / b"x"


def flow(slot: int, port: int, nat_port: int) -> Flow:
    return Flow(
        nat_port, "udp", "UDP", slot, 0, INSIDE, port, REMOTE, 7, NAT, nat_port, 1, 1, 1, 1, 0, 0
    )


def table(*flows: Flow) -> FakeMap:
    result = FakeMap()
    for each in flows:
        remote = socket.inet_aton(REMOTE), (7).to_bytes(2, "big")
        result.entries[each.entry] = each
        for side, owner, local, port in (
            (Side.INSIDE, each.slot, INSIDE, each.inside_port),
            (Side.OUTSIDE, 0, NAT, each.nat_port),
        ):
            local_end = socket.inet_aton(local), port.to_bytes(2, "big")
            key = SearchKey(side, 17, owner, *remote, *local_end)
            result.found[key] = each.entry
    return result


class Lab:
    """An environment's link and the interface's, both fed by the test."""

    def __init__(self, inside: FakeTap, outside: FakeTap, found: FakeMap) -> None:
        self.output = io.BytesIO()
        self.taps = (inside, outside)
        self.finder = FlowFinder(found)
        self.sources = [
            Source(cast(Tap, inside), Identifier(slot=1, interfaces={}), "inside"),
            Source(
                cast(Tap, outside),
                Identifier(interfaces={socket.inet_aton(NAT): 0}),
                "out",
                lambda flow: isinstance(flow, Flow) and flow.slot == 1,
            ),
        ]

    def session(self, **arguments: Any) -> Session:
        given: dict[str, Any] = {"output": self.output, "limits": Limits(seconds=0.05)} | arguments
        return Session(
            self.sources,
            self.finder,
            given.pop("output"),
            application="test",
            name_of=lambda flow: f"env-{flow.slot}" if isinstance(flow, Flow) else "db",
            **given,
        )

    def packets(self) -> list[tuple[int, str]]:
        """Interface and comment of each frame in the file."""
        found = []
        for kind, body in blocks(self.output.getvalue()):
            if kind == PACKET:
                size = int.from_bytes(body[12:16], "little")
                comment = options(body[20 + (size + 3) // 4 * 4 :]).get(1, b"").decode()
                found.append((body[0], comment))
        return found


@pytest.fixture
def taps() -> Iterator[list[FakeTap]]:
    made: list[FakeTap] = []
    yield made
    for tap in made:
        tap.close()


def lab_of(taps: list[FakeTap], inside: list[Any], outside: list[Any], found: FakeMap) -> Lab:
    taps += [FakeTap("env1", *inside), FakeTap("eni-a", *outside)]
    return Lab(taps[-2], taps[-1], found)


MINE, OTHERS = flow(1, 5000, 1024), flow(2, 5000, 1025)


def test_frames_of_both_links_are_in_order_and_others_are_left_out(taps: list[FakeTap]) -> None:
    lab = lab_of(
        taps,
        [(10, outward(5000), False), (30, outward(5000), False)],
        [(20, translated(1024), True), (25, translated(1025), True), (40, translated(1024), True)],
        table(MINE, OTHERS),
    )
    summary = lab.session().run()
    text = comment_of(MINE, "env-1")
    assert text == f"env-1: udp {INSIDE}:5000 -> {NAT}:1024 -> {REMOTE}:7 UDP"
    assert lab.packets() == [(0, text), (1, text), (0, text), (1, text)]
    assert (summary["frames"], summary["dropped"], summary["ended"]) == (4, 6, End.SECONDS)
    assert [each["written"] for each in summary["links"]] == [2, 2]


def test_a_frame_waits_for_its_flow(taps: list[FakeTap], monkeypatch: pytest.MonkeyPatch) -> None:
    # As long as it takes: the machine may have other things to do between two looks.
    monkeypatch.setattr(sessions, "PATIENCE_SECONDS", 3600.0)
    lab = lab_of(taps, [(10, outward(5000), False)], [], FakeMap())
    empty = cast(Any, lab.finder)._map
    ready = table(MINE)
    looked = []

    def find(keys: list[SearchKey]) -> list[int | None]:
        looked.append(keys)
        if len(looked) == 3:
            empty.found, empty.entries = ready.found, ready.entries
        return [empty.found.get(key) for key in keys]

    empty.find = find
    lab.session(limits=Limits(count=1)).run()
    assert len(looked) >= 3
    assert lab.packets() == [(0, comment_of(MINE, "env-1"))]


def test_what_has_no_flow_is_told_so_and_what_can_have_none_is_not(taps: list[FakeTap]) -> None:
    arp = Ether() / ARP()
    lab = lab_of(
        taps,
        [(10, outward(5000), False), (20, arp, False)],
        [(5, translated(1024), True), (15, arp, True)],
        FakeMap(),
    )
    lab.session().run()
    assert lab.packets() == [(0, "no flow"), (0, "")]


def test_a_count_is_exact(taps: list[FakeTap]) -> None:
    frames = [(time, outward(5000), False) for time in range(100)]
    lab = lab_of(taps, frames, [], table(MINE))
    summary = lab.session(limits=Limits(count=7)).run()
    assert (summary["frames"], summary["ended"]) == (7, End.COUNT)
    assert len(lab.packets()) == 7


def test_too_much_to_wait_for_goes_out_as_it_is(
    taps: list[FakeTap], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "WAITING_BYTES_MAX", 100)
    monkeypatch.setattr(sessions, "PATIENCE_SECONDS", 3600.0)
    lab = lab_of(taps, [(time, outward(5000), False) for time in range(50)], [], FakeMap())
    lab.session(limits=Limits(count=40)).run()
    assert lab.packets() == [(0, "no flow")] * 40


def test_a_link_that_goes_ends_it_with_what_was_there(taps: list[FakeTap]) -> None:
    lab = lab_of(taps, [(10, outward(5000), False)], [], table(MINE))
    taps[1].gone = True
    assert lab.session(limits=Limits()).run()["ended"] == End.LINK_GONE
    assert len(lab.packets()) == 1


class FullDisk(io.BytesIO):
    """Takes what is written in the beginning, and no more."""

    code = errno.ENOSPC

    def flush(self) -> None:
        if self.tell() > 300:
            raise OSError(self.code, os.strerror(self.code))


def test_a_full_disk_is_one_line(taps: list[FakeTap]) -> None:
    lab = lab_of(taps, [(10, outward(5000), False)], [], table(MINE))
    with pytest.raises(CaptureError, match=r"cannot write the capture: No space left.*\(free"):
        lab.session(output=FullDisk()).run()


def test_a_reader_that_leaves_ends_it(taps: list[FakeTap]) -> None:
    lab = lab_of(taps, [(10, outward(5000), False)], [], table(MINE))
    output = FullDisk()
    output.code = errno.EPIPE
    assert lab.session(output=output).run()["ended"] == End.READER_GONE


def test_progress_is_told(taps: list[FakeTap], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PROGRESS_SECONDS", 0.01)
    lab = lab_of(taps, [(10, outward(5000), False)], [], table(MINE))
    told: list[dict[str, Any]] = []

    def tell(said: dict[str, Any]) -> None:
        told.append(said)
        if said["frames"]:
            session.stop()

    session = lab.session(progress=tell, limits=Limits())
    session.run()
    assert (1, None) in [(each["frames"], each["ended"]) for each in told]
