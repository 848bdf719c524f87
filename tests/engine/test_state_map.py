# SPDX-License-Identifier: Apache-2.0
"""The state file: what a killed forwarder leaves behind, and files that are not one of ours."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import Action, DropReason, Engine, Flow, StateMap, StateMapError
from tests.engine import scenario, traffic
from tests.engine.compiled import MEMORY_DIRECTORY, EngineTarget, configured
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, Timeouts, packet

KILLS = int(os.environ.get("HYPERPLANE_NAT_KILLS", "100"))
DEADLINE_SECONDS = 120.0
ANCHORS = 24

SETUP = scenario.Setup(
    flows_max=160,
    ports=Ports(40000, 40015, 55_000),
    timeouts=Timeouts(
        tcp_opening=40, tcp_established=1 << 30, tcp_closing=40, udp=60, icmp=30, hold=50
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file on a tmpfs, as in production."""
    directory = MEMORY_DIRECTORY / f"hyperplane-nat-test-{os.getpid()}-{tmp_path.name}"
    directory.mkdir()
    yield directory / "state.map"
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def _reopened(path: Path, now: int, setup: scenario.Setup = SETUP) -> Engine:
    engine = Engine(StateMap.open(path, writable=True), now_ms=now)
    configured(engine, setup, now)
    return engine


def _anchor(engine: Engine, number: int, now: int) -> None:
    """An established connection that outlives the whole test."""
    slot, port = (1, 2, 5)[number % 3], 6000 + number
    syn = engine.translate(traffic.segment(slot, port, remote_port=number), INSIDE, slot, now)
    nat_port = traffic.source_port(syn)
    for back, flags in ((True, packet.SYN | packet.ACK), (False, packet.ACK)):
        if back:
            frame = traffic.segment_back(nat_port, flags, ack=1001, remote_port=number)
            engine.translate(frame, OUTSIDE, 0, now)
        else:
            frame = traffic.segment(slot, port, flags, seq=1001, ack=9001, remote_port=number)
            engine.translate(frame, INSIDE, slot, now)


def _hammer(path: Path, now: int, seed: int) -> None:
    """Open, answer, end and expire flows as fast as can be, for ever."""
    source = random.Random(seed)
    engine = _reopened(path, now)
    outward = [
        (slot, traffic.datagram(slot, 5000 + port, remote_port=remote_port))
        for slot in (1, 2, 5)
        for port in range(20)
        for remote_port in (7, 8)
    ]
    outward += [
        (slot, traffic.segment(slot, 5000 + port, flags, remote_port=81))
        for slot in (1, 2)
        for port in range(20)
        for flags in (packet.SYN, packet.RST, packet.SYN)
    ]
    inward = [traffic.answer(40000 + port) for port in range(16)]
    inward += [
        traffic.segment_back(40000 + port, packet.RST | packet.ACK, ack=1001, remote_port=81)
        for port in range(16)
    ]
    while True:
        now += source.randrange(3)
        for slot, frame in source.choices(outward, k=4):
            engine.translate(frame, INSIDE, slot, now)
        engine.translate(source.choice(inward), OUTSIDE, 0, now)
        engine.expire(now, source.choice((1, 5, 100)))


def _probe(flow: Flow) -> bytes:
    """A packet of the remote that belongs to `flow`."""
    match flow.protocol:
        case "udp":
            content = packet.udp(
                flow.remote_address, flow.nat_address, flow.remote_port, flow.nat_port
            )
            protocol = packet.UDP
        case "tcp":
            content = packet.tcp(
                flow.remote_address,
                flow.nat_address,
                flow.remote_port,
                flow.nat_port,
                packet.ACK,
            )
            protocol = packet.TCP
        case _:
            content = packet.echo(packet.ECHO_REPLY, flow.nat_port, 1)
            protocol = packet.ICMP
    body = packet.ipv4(flow.remote_address, flow.nat_address, protocol, content)
    return traffic.frame_in(OUTSIDE, flow.interface, body)


def _flows_translate(engine: Engine, now: int) -> None:
    """Every committed flow is found from outside and leads to its own slot and port."""
    for flow in engine.flows():
        verdict = engine.translate(_probe(flow), OUTSIDE, flow.interface, now)
        if flow.state == "HELD":
            assert verdict.reason is DropReason.FLOW_HELD, flow
            continue
        assert verdict.action is Action.FORWARD, (flow, verdict)
        assert (verdict.side, verdict.port) == (INSIDE, flow.slot)
        at = 34 + (4 if flow.protocol == "icmp" else 2)
        assert packet.word(verdict.frame, at) == flow.inside_port


def _is_anchor(flow: Flow) -> bool:
    return flow.inside_port >= 6000


def test_killed_at_any_instruction(path: Path) -> None:
    """SIGKILL under traffic, again and again: the books agree and no flow is lost."""
    StateMap.create(path, flows_max=SETUP.flows_max, slots_max=16, interfaces_max=4).close()
    engine = _reopened(path, 1000)
    for number in range(ANCHORS):
        _anchor(engine, number, 1000)
    anchors = {flow.entry: flow[1:11] for flow in engine.flows()}
    assert len(anchors) == ANCHORS
    assert {fields[1] for fields in anchors.values()} == {"ESTABLISHED"}
    del engine
    source = random.Random(20)
    now = 2000
    received_before = 0
    for kill in range(KILLS):
        child = os.fork()
        if child == 0:
            try:
                _hammer(path, now, kill)
            finally:
                os._exit(1)
        wanted = received_before + source.randrange(1, 4000)
        try:
            observer = StateMap.open(path)
            end = time.monotonic() + DEADLINE_SECONDS
            while observer.counters()["packets_in_from_source"] < wanted:
                assert time.monotonic() < end, "the child makes no progress"
                assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended by itself"
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        # The next life continues where the clock of the last one was, or a little later.
        now = max([now, *(flow.last_seen_ms for flow in observer.flows())]) + source.randrange(40)
        engine = _reopened(path, now)
        assert engine.verify() == [], f"after kill {kill}"
        survivors = {flow.entry: flow[1:11] for flow in engine.flows() if _is_anchor(flow)}
        assert survivors == anchors, f"after kill {kill}"
        kept = {flow.entry: flow for flow in engine.flows()}
        assert engine.expire(now) >= 0
        assert engine.verify() == []
        still = {flow.entry for flow in engine.flows()}
        assert {index for index, flow in kept.items() if _is_anchor(flow)} <= still
        _flows_translate(engine, now)
        assert engine.verify() == []
        counters = engine.counters()
        assert counters["flows_entries_used"] == len(engine.flows())
        for protocol in ("tcp", "udp", "icmp"):
            active = sum(
                flow.protocol == protocol and flow.state not in ("HELD", "TIME_WAIT", "RESET")
                for flow in engine.flows()
            )
            assert counters[f"flows_active_{protocol}"] == active, f"after kill {kill}"
        received_before = counters["packets_in_from_source"]
        del engine


def test_reopened_engine_goes_on(path: Path) -> None:
    """Flows, counters and held ports are as they were; another seed finds the same flows."""
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    setup = scenario.Setup(ports=Ports(40000, 40003), timeouts=Timeouts(udp=1000, hold=500))
    engine = _reopened(path, 0, setup)
    ports = {number: traffic.opened(engine, 1, 5000 + number) for number in range(4)}
    traffic.opened(engine, 1, 5000, 400)
    engine.expire(1000)
    before, counters = engine.flows(), engine.counters()
    assert sorted(flow.state for flow in before) == ["HELD"] * 3 + ["UDP"]
    del engine
    engine = _reopened(path, 1100, setup)
    assert engine.flows() == before
    assert engine.counters() == counters
    assert engine.verify() == []
    assert traffic.opened(engine, 1, 5000, 1100) == ports[0]
    refused = engine.translate(traffic.datagram(2, 9), INSIDE, 2, 1100)
    assert refused.reason is DropReason.PORT_ALLOCATION
    engine.expire(1500)
    assert traffic.opened(engine, 2, 9, 1500) in set(ports.values()) - {ports[0]}
    engine.expire(2100)
    assert "HELD" in {flow.state for flow in engine.flows()}
    assert engine.verify() == []


def test_expiry_goes_on_after_reopening(path: Path) -> None:
    """What became due while nobody ran ends at the first look; what did not, does not."""
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    setup = scenario.Setup(ports=Ports(40000, 40003), timeouts=Timeouts(udp=1000, hold=500))
    start = (1 << 32) - 600
    engine = _reopened(path, start, setup)
    traffic.opened(engine, 1, 5000, start)
    traffic.opened(engine, 1, 5001, start + 300)
    del engine
    engine = _reopened(path, start + 1200, setup)
    deadline = engine.next_deadline()
    assert deadline is not None
    assert deadline <= start + 1300
    engine.expire(start + 1200)
    assert sorted(flow.state for flow in engine.flows()) == ["HELD", "UDP"]
    engine.expire(start + 1300)
    assert sorted(flow.state for flow in engine.flows()) == ["HELD", "HELD"]
    engine.expire(start + 1800)
    assert engine.flows() == []


def test_readers_see_flows_and_counters(path: Path) -> None:
    """A reader without the engine lists flows in slices and reads counters, totals and slots'."""
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    engine = _reopened(path, 0, scenario.Setup(ports=Ports(40000, 40063)))
    for number in range(10):
        traffic.opened(engine, 1 if number < 7 else 2, 5000 + number)
    engine.translate(traffic.datagram(2, 1, remote="127.0.0.1"), INSIDE, 2, 0)
    reader = StateMap.open(path)
    assert reader.flows_max == 64
    assert sorted(reader.flows()) == sorted(engine.flows())
    slices = [flow for start in range(0, 64, 7) for flow in reader.flows(start, 7)]
    assert sorted(slices) == sorted(engine.flows())
    assert reader.flows(1000, 5) == []
    assert reader.counters() == engine.counters()
    assert reader.slot_counters(1)["packets_out"] == 7
    assert reader.slot_counters(2)["packets_out"] == 3
    assert reader.slot_counters(2)["drops"] == 1
    assert reader.slot_counters(1)["drops"] == 0
    assert reader.slot_sums([1, 2]) == {
        name: reader.slot_counters(1)[name] + reader.slot_counters(2)[name]
        for name in reader.slot_counters(1)
    }
    assert set(reader.slot_sums([]).values()) == {0}
    with pytest.raises(IndexError):
        reader.slot_sums([1, 16])
    reader.close()


# Files that cannot be opened


def _one_line(error: pytest.ExceptionInfo[StateMapError], path: Path) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    assert len(text) < 300


HEADER = [offset for offset in range(120) if not 28 <= offset < 36]
"""Magic, layout version, sizes and offsets: nothing of it can change without being noticed.
The numbers of slots and interfaces (28 to 35) can, to others that need the same pages."""


@pytest.mark.parametrize("offset", HEADER)
def test_damaged_header(path: Path, offset: int) -> None:
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    content = bytearray(path.read_bytes())
    for bit in (0x01, 0x80):
        content[offset] ^= bit
        path.write_bytes(content)
        for writable in (False, True):
            with pytest.raises(StateMapError) as error:
                StateMap.open(path, writable=writable)
            _one_line(error, path)
        content[offset] ^= bit
    path.write_bytes(content)
    StateMap.open(path).close()


def test_damaged_clock(path: Path) -> None:
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    with path.open("r+b") as file:
        file.seek(4096 - 56 + 5)
        file.write(b"\x01")
    with pytest.raises(StateMapError) as error:
        StateMap.open(path)
    _one_line(error, path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 127, 4095, 4096, 8192, -4096, -1])
def test_wrong_size(path: Path, size: int) -> None:
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(StateMapError) as error:
        StateMap.open(path)
    _one_line(error, path)


def test_grown_file(path: Path) -> None:
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    path.write_bytes(path.read_bytes() + bytes(4096))
    with pytest.raises(StateMapError) as error:
        StateMap.open(path)
    _one_line(error, path)


def test_not_a_state_map(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))
    with pytest.raises(StateMapError, match="magic") as error:
        StateMap.open(path)
    _one_line(error, path)


def test_no_file_and_no_directory(path: Path) -> None:
    for wrong in (path, path.parent / "missing" / "state.map", path.parent):
        with pytest.raises(StateMapError) as error:
            StateMap.open(wrong)
        _one_line(error, wrong)
    with pytest.raises(StateMapError) as error:
        StateMap.create(path.parent / "missing" / "state.map", flows_max=8)
    _one_line(error, path.parent / "missing" / "state.map")


def test_create_does_not_overwrite(path: Path) -> None:
    StateMap.create(path, flows_max=8).close()
    before = path.read_bytes()
    with pytest.raises(StateMapError) as error:
        StateMap.create(path, flows_max=8)
    _one_line(error, path)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("flows_max", [0, -1, 1 << 40])
def test_impossible_sizes(path: Path, flows_max: int) -> None:
    with pytest.raises(StateMapError):
        StateMap.create(path, flows_max=flows_max)
    assert not path.exists()


def test_memory_for_a_million_flows(path: Path) -> None:
    """The bound of the project: 144 MiB for 1,048,576 flows, index and port map included; what the
    file is longer has no memory until it is used.
    """
    with contextlib.closing(StateMap.create(path, flows_max=1 << 20)) as state:
        assert state.bytes <= 144 << 20
        assert path.stat().st_blocks * 512 <= state.bytes


def test_damaged_entries_do_no_harm(path: Path) -> None:
    """Whatever the entries hold: an engine on the map starts, agrees with itself and forwards.

    In a child of its own, because the failure this looks for is a crash.
    """
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    engine = _reopened(path, 0)
    for number in range(40):
        traffic.opened(engine, (1, 2, 5)[number % 3], 5000 + number, remote_port=number % 4)
    del engine
    whole = path.read_bytes()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _open_damaged(path, whole)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"


def _open_damaged(path: Path, whole: bytes) -> None:
    source = random.Random(5)
    for _ in range(120):
        content = bytearray(whole)
        used = [at for at in range(4096, len(content)) if content[at]]
        for at in source.choices(used, k=source.choice((1, 3, 50))):
            content[at] = source.choice((0, 0xFF, source.randrange(256)))
        path.write_bytes(content)
        engine = Engine(StateMap.open(path, writable=True), now_ms=10)
        assert engine.verify() == []
        # As the forwarder does: who had a number is read from the map, and may be damaged too.
        for slot, interface in scenario.ALL_SLOTS.items():
            if not engine.admits_slot(slot, interface):
                engine.remove_slot(slot)
        for interface, address in enumerate(scenario.INTERFACE_ADDRESSES):
            if not engine.admits_interface(interface, address):
                engine.remove_interface(interface)
        engine.sweep(10)
        configured(engine, SETUP, 10)
        engine.remove_strangers()
        assert engine.verify() == []
        for number in range(60):
            slot = (1, 2, 5)[number % 3]
            engine.translate(traffic.datagram(slot, 5000 + number), INSIDE, slot, 10)
        for port in range(16):
            engine.translate(traffic.answer(40000 + port), OUTSIDE, 0, 10)
        engine.expire(1000)
        assert engine.verify() == []


def test_close_waits_for_the_engine() -> None:
    target = EngineTarget(scenario.Setup())
    with pytest.raises(BufferError):
        target.map.close()
    target.close()


@pytest.mark.usefixtures("collected")
def test_no_file_stays_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4).close()
    closed, dropped = StateMap.open(path), StateMap.open(path)
    closed.close()
    closed.close()
    del dropped
    with pytest.raises(StateMapError):
        StateMap.open(path.with_name("missing"))
    path.write_bytes(b"x" * 8192)
    with pytest.raises(StateMapError):
        StateMap.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_page_is_there_from_the_start_and_stays(path: Path) -> None:
    """One that were not could not be had on a tmpfs that others have filled: SIGBUS."""

    def allocated() -> bool:
        return path.stat().st_blocks * 512 >= state.bytes

    state = StateMap.create(path, flows_max=5000, slots_max=16, interfaces_max=4)
    assert allocated()
    Engine(state, now_ms=10)
    assert allocated()
    state = StateMap.open(path, writable=True)
    last = slice(state.bytes - 4096, state.bytes)
    state.memory[last] = b"x" * 4096
    Engine(state, now_ms=20)
    assert allocated()
    assert state.memory[last] == bytes(4096)


def _mapped_pages_kib(path: Path) -> int:
    """How much of the map is in this process's page tables (proc_pid_smaps(5))."""
    resident, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if not line[0].isupper():
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            resident += int(line.split()[1])
    return resident


def test_populated_pages_wait_for_no_packet(path: Path) -> None:
    state = StateMap.create(path, flows_max=10_000)
    assert _mapped_pages_kib(path) < state.bytes // 2048
    position = steps = 0
    while position < state.bytes:
        position = state.populate(position, 1 << 18)
        steps += 1
    assert position == state.bytes
    assert steps == -(-state.bytes // (1 << 18))
    assert _mapped_pages_kib(path) == state.bytes // 1024
    assert state.flows() == []
    state.close()
