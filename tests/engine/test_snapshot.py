# SPDX-License-Identifier: Apache-2.0
"""What readers of another process take for a flow while its entry is written."""

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import Engine, StateMap
from hyperplane_nat.engine.readers._flow_reader import FlowScan
from hyperplane_nat.engine.readers._port_reader import PortHolders
from hyperplane_nat.engine.readers.flow_search import SearchKey
from tests.engine import scenario, traffic
from tests.engine.compiled import MEMORY_DIRECTORY, EngineTarget, configured, deltas_of
from tests.engine.scenario import INSIDE
from tests.reference import Ports, Timeouts

REMOTES = ("10.0.1.80", "10.0.1.81")
LOOKS = 20_000
DEADLINE_SECONDS = 120.0

ENTRIES_OFFSET = struct.calcsize("<8sIIQ6I3Q")
"""Where the map's header says at which offset the entries begin."""

STATE_OFFSET, GENERATION_OFFSET = 15, 28


def _entry(state_map: StateMap, number: int) -> int:
    (entries,) = struct.unpack_from("<Q", state_map.memory, ENTRIES_OFFSET)
    return int(entries) + number * 64


def _generation(state_map: StateMap, number: int) -> int:
    at = _entry(state_map, number) + GENERATION_OFFSET
    return int(struct.unpack_from("<H", state_map.memory, at)[0])


def _search_key(inside_port: int) -> SearchKey:
    remote, local = socket.inet_aton(REMOTES[0]), socket.inet_aton(scenario.ENVIRONMENT)
    port = (7).to_bytes(2, "big")
    return SearchKey(INSIDE, 17, 1, remote, port, local, inside_port.to_bytes(2, "big"))


def _holders(state_map: StateMap) -> int:
    return len(PortHolders([], 64).read(state_map.memory, 0))


READERS: dict[str, Callable[[StateMap], int]] = {
    "flows": lambda state: len(state.flows()),
    "scan": lambda state: len(
        json.loads(b"[" + FlowScan({}).read(state.memory, 0, 64, 100) + b"]")
    ),
    "deltas": lambda state: len(deltas_of(state).live(state.memory, 0, 64, 100)),
    "search": lambda state: len([each for each in state.find([_search_key(5000)]) if each == 0]),
    "holders": _holders,
}


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    result = EngineTarget(
        scenario.Setup(
            flows_max=64, ports=Ports(40000, 40063, 55_000), timeouts=Timeouts(udp=1000, hold=500)
        )
    )
    yield result
    result.close()


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_believes_an_entry_that_is_being_written(
    target: EngineTarget, reader: str
) -> None:
    traffic.opened(target.engine, 1, 5000, 10)
    read = READERS[reader]
    assert read(target.map) == 1
    at = _entry(target.map, target.engine.flows()[0].entry) + GENERATION_OFFSET
    generation = _generation(target.map, 0)
    assert generation % 2 == 0
    struct.pack_into("<H", target.map.memory, at, generation + 1)
    assert read(target.map) == 0
    assert target.engine.verify() != []
    struct.pack_into("<H", target.map.memory, at, generation + 2)
    assert read(target.map) == 1
    assert target.engine.verify() == []


def test_each_life_of_an_entry_has_another_number(target: EngineTarget) -> None:
    """Made, reopened, nobody's, free and made again: even while it stands, odd while free."""
    engine = target.engine
    traffic.opened(engine, 1, 5000, 10)
    entry = engine.flows()[0].entry
    seen = [_generation(target.map, entry)]
    engine.expire(1010)
    assert [each.state for each in engine.flows()] == ["HELD"]
    assert _generation(target.map, entry) == seen[0]
    traffic.opened(engine, 1, 5000, 1100)
    seen.append(_generation(target.map, entry))
    engine.remove_slot(1)
    engine.sweep(1200)
    seen.append(_generation(target.map, entry))
    assert all(number % 2 == 0 for number in seen)
    engine.expire(5000)
    assert target.map.flows() == []
    seen.append(_generation(target.map, entry))
    assert seen[-1] % 2 == 1
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("state", ["made", "freed"])
def test_an_entry_whose_writer_was_killed_is_recovered(target: EngineTarget, state: str) -> None:
    """Killed in between the two last stores of a flow that is made, or the two first of its end."""
    traffic.opened(target.engine, 1, 5000, 10)
    (flow,) = target.map.flows()
    at = _entry(target.map, flow.entry)
    struct.pack_into("<H", target.map.memory, at + GENERATION_OFFSET, 2 * flow.entry + 7)
    if state == "freed":
        target.map.memory[at + STATE_OFFSET] = 0
    again = Engine(StateMap.open(target.path, writable=True), now_ms=20)
    assert again.verify() == []
    assert [each[:11] for each in again.flows()] == ([flow[:11]] if state == "made" else [])
    assert _generation(target.map, flow.entry) % 2 == (state == "freed")
    target.engine = again


def _replace_flows(path: Path) -> None:
    """Make one flow after the other, all in the same few entries, until killed.

    Of each, the remote port is the inside port, which also tells the remote address.
    """
    engine = Engine(StateMap.create(path, flows_max=4, slots_max=64, interfaces_max=12))
    setup = scenario.Setup(
        flows_max=4, ports=Ports(1024, 65_535, 55_000), timeouts=Timeouts(udp=1, hold=0)
    )
    configured(engine, setup, 0)
    frames = [
        traffic.datagram(1, port, remote=REMOTES[port & 1], remote_port=port)
        for port in range(2000, 2064)
    ]
    now = 0
    while True:
        for frame in frames:
            now += 10
            engine.expire(now)
            engine.translate(frame, INSIDE, 1, now)


def test_a_listed_flow_is_one_flow(tmp_path: Path) -> None:
    path = MEMORY_DIRECTORY / f"hyperplane-nat-test-{os.getpid()}-{tmp_path.name}.map"
    child = os.fork()
    if child == 0:
        try:
            _replace_flows(path)
        finally:
            os._exit(1)
    seen = 0
    try:
        end = time.monotonic() + DEADLINE_SECONDS
        while not path.exists() or path.stat().st_size == 0 or not _opened(path):
            assert time.monotonic() < end
        state_map = StateMap.open(path)
        for _ in range(LOOKS):
            for flow in state_map.flows(0, 4):
                seen += 1
                assert flow.remote_port == flow.inside_port
                assert flow.remote_address == REMOTES[flow.inside_port & 1]
        while seen == 0:
            assert time.monotonic() < end
            seen += len(state_map.flows(0, 4))
        state_map.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        path.unlink(missing_ok=True)


def _opened(path: Path) -> bool:
    """Whether the map is whole: the magic is stored last."""
    with path.open("rb") as file:
        return file.read(8) == b"HPNATMAP"
