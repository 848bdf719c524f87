# SPDX-License-Identifier: Apache-2.0
"""Flows of which the destination is rewritten, alone or with the source.

Nothing makes such flows yet; here they are written to a state map, whose forwarder goes on with
them.
"""

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hyperplane_nat.engine import Action, Engine, StateMap, Verdict
from hyperplane_nat.engine.readers.state_map import HEADER_BYTES, read_header
from hyperplane_nat.engine.state.constants import State
from tests.engine import former_map, scenario, traffic
from tests.engine.compiled import MEMORY_DIRECTORY, configured
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, Timeouts, packet

SETUP = scenario.Setup(
    flows_max=4096, ports=Ports(40_000, 41_000, 55_000), timeouts=Timeouts(udp=1000, hold=500)
)
SLOTS_MAX = 64
DESTINATION, BOTH = 0x20, 0x30
CHUNK_BYTES = 32_768
End = tuple[str, int]
Place = tuple[int, int]
"""Side and number of an attachment."""


@dataclass(frozen=True)
class Translated:
    """A flow as each of its ends has it."""

    flags: int
    originator: Place
    responder: Place
    source: End
    destination: End
    new_source: End
    new_destination: End


TO_AN_ENVIRONMENT = Translated(
    DESTINATION,
    (OUTSIDE, 0),
    (INSIDE, 1),
    (scenario.WEB, 5000),
    (scenario.INTERFACE_ADDRESSES[0], 8080),
    (scenario.WEB, 5000),
    (scenario.ENVIRONMENT, 80),
)
"""As a load balancer that preserves its clients' addresses."""

FROM_AN_ENVIRONMENT = Translated(
    BOTH,
    (INSIDE, 1),
    (OUTSIDE, 0),
    (scenario.ENVIRONMENT, 5000),
    ("10.0.1.99", 443),
    (scenario.INTERFACE_ADDRESSES[0], 40_100),
    (scenario.WEB, 8443),
)
BETWEEN_NETWORKS = Translated(
    BOTH,
    (OUTSIDE, 2),
    (OUTSIDE, 1),
    (scenario.WEB, 5000),
    (scenario.INTERFACE_ADDRESSES[2], 443),
    (scenario.INTERFACE_ADDRESSES[1], 40_100),
    ("10.0.2.80", 8443),
)
"""As an endpoint in one VPC for a service in another."""

FLOWS = {
    "to_an_environment": TO_AN_ENVIRONMENT,
    "from_an_environment": FROM_AN_ENVIRONMENT,
    "between_networks": BETWEEN_NETWORKS,
}
PROTOCOLS = {packet.TCP: State.ESTABLISHED, packet.UDP: State.UDP}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file on a tmpfs with a map in which the scenario's attachments are known."""
    made = MEMORY_DIRECTORY / f"hyperplane-nat-test-{os.getpid()}-{tmp_path.name}"
    make_map(made)
    yield made
    made.unlink()


def make_map(path: Path) -> None:
    state = StateMap.create(path, flows_max=SETUP.flows_max, slots_max=SLOTS_MAX, interfaces_max=12)
    configured(Engine(state), SETUP, 0)


def attachment(place: Place) -> int:
    side, number = place
    return number + (SLOTS_MAX if side == OUTSIDE else 0)


def end(address: str, port: int) -> tuple[int, int]:
    """As they stand in memory."""
    return int.from_bytes(IPv4Address(address).packed, "little"), socket.htons(port)


def write(path: Path, number: int, protocol: int, flow: Translated) -> None:
    """Put a flow into an entry, and its extension, if it has one, into the file."""
    header = read_header(path, path.read_bytes()[:HEADER_BYTES], path.stat().st_size)
    source, source_port = end(*flow.source)
    destination, destination_port = end(*flow.destination)
    both = flow.flags == BOTH
    translated, translated_port = end(*(flow.new_source if both else flow.new_destination))
    entry = former_map.ENTRY.pack(
        *(source, destination, source_port, destination_port, attachment(flow.originator)),
        *(protocol, PROTOCOLS[protocol], translated, translated_port),
        *(attachment(flow.responder), 0, 2, flow.flags, 0, 0, 0, 0, 0),
    )
    with path.open("r+b") as file:
        file.seek(header.offsets["entries"] + number * 64)
        file.write(entry)
        if both:
            file.seek(header.offsets["extensions"] + number * 32)
            file.write(struct.pack("<IH", *end(*flow.new_destination)))
        file.seek(0)
    state = StateMap.open(path, writable=True)
    state.set_watermark(number + 1)
    state.close()


def opened(path: Path, now: int = 0) -> Engine:
    engine = Engine(StateMap.open(path, writable=True), now_ms=now)
    configured(engine, SETUP, now)
    return engine


def body(
    protocol: int, source: End, destination: End, *, ttl: int = 64, identification: int = 0
) -> bytes:
    """A packet with data; of TCP one of an established connection."""
    payload = bytes(range(33))
    if protocol == packet.TCP:
        content = packet.tcp(
            source[0], destination[0], source[1], destination[1], packet.ACK, payload=payload
        )
    else:
        content = packet.udp(source[0], destination[0], source[1], destination[1], payload)
    return packet.ipv4(
        source[0], destination[0], protocol, content, ttl=ttl, identification=identification
    )


def error(
    source: str, destination: str, quoted: bytes, *, ttl: int = 64, identification: int = 0
) -> bytes:
    content = packet.icmp(3, 1, bytes(4), quoted)
    return packet.ipv4(
        source, destination, packet.ICMP, content, ttl=ttl, identification=identification
    )


def number_of(frame: bytes) -> int:
    return int.from_bytes(frame[18:20])


def passed(engine: Engine, frame: bytes, come: Place, gone: Place) -> Verdict:
    verdict = engine.translate(frame, *come, 10)
    assert verdict.action in (Action.FORWARD, Action.HOLD), verdict
    assert (verdict.side, verdict.port) == gone
    return verdict


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FLOWS)
def test_packets_both_ways(path: Path, name: str, protocol: int) -> None:
    """To the last bit what a host that had these addresses would send, one hop further on."""
    flow = FLOWS[name]
    write(path, 3, protocol, flow)
    engine = opened(path)
    assert engine.verify() == []
    for _ in range(2):
        out = traffic.frame_in(*flow.originator, body(protocol, flow.source, flow.destination))
        verdict = passed(engine, out, flow.originator, flow.responder)
        assert verdict.frame[14:] == body(
            protocol,
            flow.new_source,
            flow.new_destination,
            ttl=63,
            identification=number_of(verdict.frame),
        )
        back = traffic.frame_in(
            *flow.responder, body(protocol, flow.new_destination, flow.new_source)
        )
        verdict = passed(engine, back, flow.responder, flow.originator)
        assert verdict.frame[14:] == body(
            protocol,
            flow.destination,
            flow.source,
            ttl=63,
            identification=number_of(verdict.frame),
        )
        assert engine.verify() == []
        del engine, verdict
        # A successor goes on with it.
        engine = opened(path)
    (entry,) = entries(path)
    assert entry[-4:-2] == (2, 2)
    assert engine.counters()["flows_created_tcp"] == engine.counters()["flows_created_udp"] == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FLOWS)
def test_errors_both_ways(path: Path, name: str, protocol: int) -> None:
    """What an error quotes is what its receiver sent, and no address behind the flow is told."""
    flow = FLOWS[name]
    write(path, 0, protocol, flow)
    engine = opened(path)
    out = body(protocol, flow.new_source, flow.new_destination)
    frame = traffic.frame_in(
        *flow.responder, error(flow.new_destination[0], flow.new_source[0], out)
    )
    verdict = passed(engine, frame, flow.responder, flow.originator)
    assert verdict.frame[14:] == error(
        flow.destination[0],
        flow.source[0],
        body(protocol, flow.source, flow.destination),
        ttl=63,
        identification=number_of(verdict.frame),
    )
    back = body(protocol, flow.destination, flow.source)
    frame = traffic.frame_in(*flow.originator, error(flow.source[0], flow.destination[0], back))
    verdict = passed(engine, frame, flow.originator, flow.responder)
    assert verdict.frame[14:] == error(
        flow.new_source[0],
        flow.new_destination[0],
        body(protocol, flow.new_destination, flow.new_source),
        ttl=63,
        identification=number_of(verdict.frame),
    )
    assert engine.counters()["icmp_errors_translated"] == 2


@pytest.mark.parametrize("name", FLOWS)
def test_fragments_both_ways(path: Path, name: str) -> None:
    """A later piece goes where the first one went, with its addresses."""
    flow = FLOWS[name]
    write(path, 0, packet.UDP, flow)
    engine = opened(path)
    ways = (
        (flow.originator, flow.responder, flow.source, flow.destination),
        (flow.responder, flow.originator, flow.new_destination, flow.new_source),
    )
    gone = (
        (flow.new_source, flow.new_destination),
        (flow.destination, flow.source),
    )
    for (come, leave, source, destination), (new_source, new_destination) in zip(
        ways, gone, strict=True
    ):
        whole = packet.udp(source[0], destination[0], source[1], destination[1], bytes(40))
        translated = packet.udp(
            new_source[0], new_destination[0], new_source[1], new_destination[1], bytes(40)
        )
        for piece, expected, field in (
            (whole[:24], translated[:24], 0x2000),
            (whole[24:], translated[24:], 3),
        ):
            frame = packet.ipv4(
                source[0],
                destination[0],
                packet.UDP,
                piece,
                identification=77,
                fragment=field,
            )
            verdict = passed(engine, traffic.frame_in(*come, frame), come, leave)
            assert verdict.frame[14:] == packet.ipv4(
                new_source[0],
                new_destination[0],
                packet.UDP,
                expected,
                identification=number_of(verdict.frame),
                fragment=field,
                ttl=63,
            )
    assert [entry[-4:-2] for entry in entries(path)] == [(2, 2)]
    assert engine.verify() == []


def entries(path: Path) -> list[tuple[int, ...]]:
    """All committed entries as they stand in the map."""
    content = path.read_bytes()
    header = read_header(path, content[:HEADER_BYTES], len(content))
    first = header.offsets["entries"]
    found = former_map.ENTRY.iter_unpack(content[first : first + header.watermark * 64])
    return [entry for entry in found if entry[6]]


@pytest.mark.parametrize("name", FLOWS)
def test_the_end(path: Path, name: str) -> None:
    """After timeout and hold time nothing is left, its port included."""
    write(path, 0, packet.UDP, FLOWS[name])
    engine = opened(path)
    assert len(entries(path)) == 1
    engine.expire(1_200)
    assert [entry[6] for entry in entries(path)] == [State.HELD]
    assert engine.verify() == []
    engine.expire(3_000)
    assert entries(path) == []
    assert engine.verify() == []


@pytest.mark.parametrize("end_gone", ["originator", "responder"])
@pytest.mark.parametrize("name", FLOWS)
def test_an_attachment_that_goes(path: Path, name: str, end_gone: str) -> None:
    """Nothing passes any more, and a sweep leaves no entry of it."""
    flow = FLOWS[name]
    write(path, 0, packet.UDP, flow)
    engine = opened(path)
    side, number = flow.originator if end_gone == "originator" else flow.responder
    if side == INSIDE:
        engine.remove_slot(number)
    else:
        engine.remove_interface(number)
    engine.sweep(10)
    assert engine.retiring() == ([], [])
    engine.expire(5_000)
    assert entries(path) == []
    assert engine.verify() == []


def test_pages_of_extensions_exist_when_they_are_used(path: Path) -> None:
    state = StateMap.open(path)
    assert path.stat().st_size == state.bytes + SETUP.flows_max * 32
    allocated = path.stat().st_blocks * 512
    assert allocated == state.bytes
    state.close()
    write(path, 0, packet.UDP, TO_AN_ENVIRONMENT)
    opened(path)
    assert path.stat().st_blocks * 512 == allocated
    write(path, 2000, packet.UDP, FROM_AN_ENVIRONMENT)
    opened(path)
    assert path.stat().st_blocks * 512 == allocated + CHUNK_BYTES


def test_no_room_for_an_extension(tmp_path: Path) -> None:
    """Whoever needs it is refused and counted; others go on, and nobody is killed by a signal."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], check=True)
    try:
        path = tmp_path / "state.map"
        make_map(path)
        for number, flow in enumerate((TO_AN_ENVIRONMENT, FROM_AN_ENVIRONMENT)):
            write(path, number, packet.UDP, flow)
        header = read_header(path, path.read_bytes()[:HEADER_BYTES], path.stat().st_size)
        # The page that the test itself has made, given back as it was before the first use.
        hole = ("--offset", str(header.offsets["extensions"]), "--length", str(CHUNK_BYTES))
        subprocess.run(["fallocate", "--punch-hole", *hole, path], check=True)
        full = os.statvfs(tmp_path)
        with (tmp_path / "others").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, full.f_bavail * full.f_frsize)
        engine = opened(path)
        assert engine.counters()["rebuild_discarded"] == 1
        assert len(entries(path)) == 1
        assert engine.verify() == []
        (tmp_path / "others").unlink()
        del engine
        opened(path)
        assert len(entries(path)) == 1
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
