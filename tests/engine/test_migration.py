# SPDX-License-Identifier: Apache-2.0
"""Maps of former layouts, recorded by the versions that made them.

`recorded/layout-N.map.gz` is the file, `recorded/layout-N.json` what that version read from it.
"""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine import Action, Engine, Flow, StateMap, StateMapError
from hyperplane_nat.engine.readers import migration as migrating
from hyperplane_nat.engine.readers.migration import migrate
from hyperplane_nat.engine.readers.state_map import DamagedMapError
from tests.engine import former_map, scenario, traffic
from tests.engine.compiled import MEMORY_DIRECTORY, configured
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, Timeouts, packet

RECORDED = Path(__file__).parent / "recorded"
LAYOUTS = (3, 4, 5)
NOW = 1600
"""The clock of the recorded maps when they were left."""

SETUP = scenario.Setup(
    flows_max=64, ports=Ports(40000, 40007, 55_000), timeouts=Timeouts(udp=1000, hold=500)
)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file on a tmpfs, as in production; nothing else may be left beside it."""
    directory = MEMORY_DIRECTORY / f"hyperplane-nat-test-{os.getpid()}-{tmp_path.name}"
    directory.mkdir()
    yield directory / "state.map"
    left = list(directory.iterdir())
    for file in left:
        file.unlink()
    directory.rmdir()
    assert [file.name for file in left] in ([], ["state.map"])


def recorded(layout: int, path: Path) -> Any:
    """Put the map there; what its version read from it."""
    path.write_bytes(gzip.decompress((RECORDED / f"layout-{layout}.map.gz").read_bytes()))
    return json.loads((RECORDED / f"layout-{layout}.json").read_text())


def of_old(flow: Flow) -> list[Any]:
    """What a former version told of a flow: none went by a NAT gateway."""
    *fields, hops, target = flow
    assert (hops, target) == ((), None)
    return fields


def told(state: StateMap) -> dict[str, Any]:
    """What this version reads from a map, in the form of the records."""

    def some(values: dict[str, int]) -> dict[str, int]:
        return {name: value for name, value in values.items() if value}

    slots = {str(n): some(state.slot_counters(n)) for n in range(state.slots_max)}
    interfaces = {str(n): some(state.interface_counters(n)) for n in range(state.interfaces_max)}
    return {
        "flows": [of_old(flow) for flow in state.flows()],
        "mappings": [of_old(flow) for flow in state.mappings()],
        "counters": some(state.counters()),
        "slot_counters": {n: each for n, each in slots.items() if each},
        "interface_counters": {n: each for n, each in interfaces.items() if each},
        "interface_addresses": [state.interface_address(n) for n in range(state.interfaces_max)],
        "exhaustions": [list(each) for each in state.exhaustions()],
        "entries_watermark": state.entries_watermark,
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_kept(path: Path, layout: int) -> None:
    wanted = recorded(layout, path)
    with pytest.raises(StateMapError, match=f"layout {layout}"):
        StateMap.open(path)
    assert migrate(path, now_ms=NOW)
    state = StateMap.open(path)
    assert told(state) == wanted
    state.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not migrate(path, now_ms=NOW)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flows_go_on(path: Path, layout: int) -> None:
    """Each connection is translated both ways as before, and a true reset is believed."""
    wanted = recorded(layout, path)
    migrate(path, now_ms=NOW)
    engine = Engine(StateMap.open(path, writable=True), now_ms=NOW)
    configured(engine, SETUP, NOW)
    assert engine.verify() == []
    assert [of_old(flow) for flow in engine.flows()] == wanted["flows"]
    flows = [flow for flow in engine.flows() if flow.state == "ESTABLISHED"]
    assert len(flows) == 6
    for flow in flows:
        out = traffic.segment(
            flow.slot,
            flow.inside_port,
            packet.ACK,
            seq=1001,
            ack=9001,
            remote_port=flow.remote_port,
        )
        verdict = engine.translate(out, INSIDE, flow.slot, NOW)
        assert verdict.action is Action.FORWARD
        assert traffic.source_port(verdict) == flow.nat_port
        back = traffic.segment_back(
            flow.nat_port, packet.RST | packet.ACK, seq=9001, ack=1001, remote_port=flow.remote_port
        )
        verdict = engine.translate(back, OUTSIDE, flow.interface, NOW)
        assert (verdict.action, verdict.port) == (Action.FORWARD, flow.slot)
    assert {flow.state for flow in engine.flows() if flow.protocol == "tcp"} == {"RESET"}
    assert engine.verify() == []


def test_the_beginning_of_a_flow_has_all_bits(path: Path) -> None:
    """Layout 3 kept 32 bits of it: the others are those of the clock."""
    recorded(3, path)
    migrate(path, now_ms=(5 << 32) + NOW)
    state = StateMap.open(path)
    assert {flow.created_ms >> 32 for flow in state.flows()} == {5}
    state.close()
    recorded(3, path)
    migrate(path, now_ms=(5 << 32) + 1050)
    state = StateMap.open(path)
    # Those from 1100 on began before the clock's low bits came round.
    assert {flow.created_ms for flow in state.flows()} >= {(5 << 32) + 1000, (4 << 32) + 1100}
    state.close()


WRITERS = {
    3: former_map.write_layout_3,
    4: former_map.write_layout_4,
    5: former_map.write_layout_5,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_flows_go_on(path: Path, layout: int) -> None:
    """Each with its place, its port and its figures, and answers reach whoever began it."""
    flows = 12_000
    setup = scenario.Setup(flows_max=16_384, ports=Ports(1024, 65_535, 55_000))
    state = StateMap.create(path, flows_max=setup.flows_max, slots_max=16, interfaces_max=4)
    engine = Engine(state, now_ms=0)
    configured(engine, setup, 0)
    for number in range(flows):
        slot = (1, 2, 5)[number % 3]
        traffic.opened(engine, slot, 1024 + number, number // 100, remote_port=number % 5 + 1)
    wanted = engine.flows()
    del engine
    state.close()
    WRITERS[layout](path)
    assert migrate(path, now_ms=NOW)
    engine = Engine(StateMap.open(path, writable=True), now_ms=NOW)
    configured(engine, setup, NOW)
    assert engine.verify() == []
    assert engine.flows() == wanted
    for flow in wanted:
        frame = traffic.answer(flow.nat_port, remote_port=flow.remote_port)
        verdict = engine.translate(frame, OUTSIDE, flow.interface, NOW)
        assert (verdict.action, verdict.port) == (Action.FORWARD, flow.slot)
        source = traffic.datagram(flow.slot, flow.inside_port, remote_port=flow.remote_port)
        verdict = engine.translate(source, INSIDE, flow.slot, NOW)
        assert traffic.source_port(verdict) == flow.nat_port
    assert len(engine.flows()) == flows


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_killed_migration_is_begun_anew(path: Path, layout: int) -> None:
    wanted = recorded(layout, path)
    migrating.new_path(path).write_bytes(b"half a map")
    assert migrate(path, now_ms=NOW)
    state = StateMap.open(path)
    assert told(state) == wanted
    state.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_room(path: Path, layout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(layout, path)
    before = path.read_bytes()

    def full(*_args: object, **_sizes: object) -> StateMap:
        raise StateMapError("no room for 5 bytes")

    monkeypatch.setattr(StateMap, "create", full)
    with pytest.raises(StateMapError, match="no room"):
        migrate(path, now_ms=NOW)
    assert path.read_bytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_failure_leaves_the_old_map(
    path: Path, layout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(layout, path)
    before = path.read_bytes()

    def fail(*_args: object) -> None:
        raise RuntimeError("half-way")

    monkeypatch.setattr(migrating, "_CONVERSIONS", {layout: fail})
    with pytest.raises(RuntimeError, match="half-way"):
        migrate(path, now_ms=NOW)
    assert path.read_bytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [0, 16, 24, 36, 48, 64, 100, 135, 139])
def test_a_damaged_header(path: Path, layout: int, offset: int) -> None:
    recorded(layout, path)
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x80
    path.write_bytes(content)
    with pytest.raises(DamagedMapError) as error:
        migrate(path, now_ms=NOW)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("size", [0, 100, 4095, 4096, -4096])
def test_a_map_that_was_cut(path: Path, size: int) -> None:
    recorded(3, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedMapError):
        migrate(path, now_ms=NOW)


@pytest.mark.parametrize(
    ("layout", "damaged"), [(2, False), (8, False), (0, True), (1 << 31, True)]
)
def test_layouts_of_other_versions(path: Path, layout: int, damaged: bool) -> None:
    """What another version may read is left to it; a number that no version will have is damage."""
    recorded(3, path)
    content = bytearray(path.read_bytes())
    content[8:12] = layout.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(StateMapError, match=f"layout {layout}") as error:
        migrate(path, now_ms=NOW)
    assert isinstance(error.value, DamagedMapError) is damaged


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_entries_do_no_harm(path: Path, layout: int) -> None:
    """Whatever the entries hold: they are converted, and the engine drops what cannot be."""
    recorded(layout, path)
    content = bytearray(path.read_bytes())
    offset = int.from_bytes(content[48 + 6 * 8 : 48 + 7 * 8], "little")
    for at in range(offset, offset + 64 * 64):
        content[at] = 0xFF
    path.write_bytes(content)
    migrate(path, now_ms=NOW)
    engine = Engine(StateMap.open(path, writable=True), now_ms=NOW)
    assert engine.verify() == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_clock_stays_ahead(path: Path, layout: int) -> None:
    recorded(layout, path)
    with path.open("r+b") as file:
        file.seek(4096 - 56)
        file.write((350_000).to_bytes(8, "little"))
    migrate(path, now_ms=NOW)
    state = StateMap.open(path)
    assert state.clock_offset_ms == 350_000
    assert state.now_ms(lambda: NOW * 1_000_000) == NOW + 350_000
    state.close()


def test_the_clock_never_goes_back(path: Path) -> None:
    state = StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4)
    reader = StateMap.open(path)
    assert reader.clock_offset_ms == 0
    for offset_ms in (350_000, 350_000, 1 << 39):
        state.advance_clock(offset_ms)
        assert reader.clock_offset_ms == offset_ms
    assert reader.now_ms(lambda: 5_000_000) == (1 << 39) + 5
    with pytest.raises(ValueError, match="back"):
        state.advance_clock(350_000)
    assert reader.clock_offset_ms == 1 << 39
    assert reader.heartbeat == 0
    state.close()
    reader.close()


def test_heartbeat(path: Path) -> None:
    state = StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4)
    reader = StateMap.open(path)
    assert reader.heartbeat == 0
    state.beat(1 << 40)
    assert reader.heartbeat == 1 << 40
    state.close()
    reader.close()
