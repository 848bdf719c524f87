# SPDX-License-Identifier: Apache-2.0
"""What a killed controller of a former version left, recorded: this version can go on from it."""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
from pathlib import Path

from hyperplane_nat.controller import record
from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.engine import StateMap
from hyperplane_nat.engine.readers.migration import migrate
from hyperplane_nat.model.documents import SCHEMA
from hyperplane_nat.model.store import Store

RECORDED = Path(__file__).parent / "recorded" / "v1"


def unpacked(name: str, directory: Path) -> Path:
    """A recorded file, in `directory`."""
    path = directory / name
    path.write_bytes(gzip.decompress((RECORDED / f"{name}.gz").read_bytes()))
    return path


def test_the_region(tmp_path: Path) -> None:
    """The write-ahead log belongs to it: a killed controller has not written it back."""
    unpacked("region.sqlite-wal", tmp_path)
    config = record.read(RECORDED / "lab.json")
    assert config is not None
    settings = lifecycle_of(config)
    pool = EnvironmentPool(size=2, batch=1)
    with Store(unpacked("region.sqlite", tmp_path), settings=settings) as store:
        region = store.load_region(settings=settings, take_slot=pool.take, interface_numbers=99)
        assert [function.name for function in region.tables.functions.values()] == ["checkout"]
        # What it was told to hold is what the configuration says.
        assert region.plan(resources_of(config)).lines == ()
        (made,) = region.tables.interfaces.values()
        region.resume(resources_of(config))
        # What that version kept outside of the region has the numbers that it had there.
        tables = region.tables
        assert {each.id: each.numbers for each in tables.interfaces.values()} == {
            made.id: (1,),
            "eni-a": (0,),
        }
        assert {slot: each.interface_id for slot, each in tables.environments.items()} == {
            1: "eni-a",
            2: "eni-a",
        }
        assert tables.interfaces[made.id].address == made.address
        store.save(region)
    with Store(tmp_path / "region.sqlite", settings=settings) as store:
        again = store.load_region(settings=settings)
        assert again.document() == region.document()
    with contextlib.closing(sqlite3.connect(tmp_path / "region.sqlite")) as database:
        # So that the former version, which does not know it, refuses it.
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA,)


def test_the_state_map(tmp_path: Path) -> None:
    path = unpacked("state.map", tmp_path)
    assert migrate(path, now_ms=785_300)
    state = StateMap.open(path)
    flows = state.flows()
    assert [(flow.state, flow.slot, flow.inside_port) for flow in flows] == [
        ("TIME_WAIT", 1, 37232),
        ("TIME_WAIT", 2, 37240),
    ]
    assert [flow.created_ms for flow in flows] == [784_847, 785_268]
    assert state.counters()["flows_created_tcp"] == 2
    assert state.slot_counters(1)["bytes_in"] == 461
    state.close()
