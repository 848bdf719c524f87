# SPDX-License-Identifier: Apache-2.0
"""The flow table in process: no socket, no other process, ours alone.

One table for 2^20 flows, as in a lab with the defaults, holding 1 k to 1 M of them. Keys come in
random order. A look-up includes the keyed hash; look-ups are made one by one, and in batches with
prefetching as the forwarder makes them. An insertion includes the choice of a port, the timer and
both directions of the index; a removal undoes all that. `translate` is a whole 64-byte frame
through the engine, in batches too. `every byte` is the state file, which holds all there is per
flow, by the flows it has room for.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import addresses
from bench.gateways import OURS
from bench.gateways.base import FLOWS_MAX
from bench.native.flow_table import FlowTable as Table
from bench.session import Profile, Session
from bench.workloads.base import Workload
from hyperplane_nat.engine import Engine, StateMap
from hyperplane_nat.engine.state.settings import Ports, Timeouts

SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1m": 1_000_000}
LOOK_UPS = 2_000_000
UDP_MS = 60_000
GROUP = "flow_table"
RATE_GROUP = "flow_table_rates"
STATE_DIRECTORY = Path("/dev/shm")
SMALL_TABLE_REPEATS = {"1k": 20, "10k": 5, "100k": 1, "1m": 1}
"""A thousand insertions take a fraction of a millisecond: too short for one reading."""


def sizes(profile: Profile) -> dict[str, int]:
    """All, or those with a target."""
    return {word: SIZES[word] for word in ("1k", "1m")} if profile.brief else SIZES


@contextlib.contextmanager
def engine() -> Iterator[tuple[Engine, StateMap]]:
    """An engine with one environment, one interface and a neighbour, over a map of its own."""
    with tempfile.TemporaryDirectory(prefix="hyperplane-bench-", dir=STATE_DIRECTORY) as directory:
        state = StateMap.create(Path(directory) / "map", flows_max=FLOWS_MAX)
        result = Engine(state)
        result.configure(timeouts_ms=Timeouts(udp=UDP_MS, hold=0), ports=Ports())
        result.set_interface(
            0,
            address=addresses.INTERFACE_ADDRESS,
            mac="02:00:00:00:00:01",
            subnet=addresses.SUBNET_CIDR,
            router=addresses.VPC_ROUTER,
            destinations=[addresses.VPC_CIDR],
        )
        result.set_slot(
            0,
            address="169.254.100.2",
            gateway="169.254.100.1",
            environment_mac="02:00:00:00:00:02",
            gateway_mac="02:00:00:00:00:03",
            interface=0,
        )
        result.set_neighbour(0, addresses.SERVER, "02:00:00:00:00:04")
        yield result, state


class FlowTable(Workload):
    """Nanoseconds per look-up, changes per second, bytes per flow."""

    name = "flow_table"
    summary = "the engine's table in process, random access"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the sizes: most of it is the largest."""
        return profile.table_rounds * sum(
            _step(profile, count) for count in sizes(profile).values()
        )

    def run(self, session: Session) -> None:
        """Each size in each round, on a fresh engine."""
        for number in range(session.profile.table_rounds):
            for word, count in sizes(session.profile).items():
                session.display.show("flow table", f"{count:,} flows, round {number + 1}")
                with engine() as (under_test, state):
                    table = Table(
                        under_test, flows=count, remote=socket.inet_aton(addresses.SERVER)
                    )
                    self._measure(session, table, word, count)
                    self._sizes(session, state, number)
                    del table, under_test
                session.display.advance(_step(session.profile, count))

    def _measure(self, session: Session, table: Table, word: str, count: int) -> None:
        def note(what: str, title: str, nanoseconds: int, operations: int, *, rate: bool) -> None:
            session.measurements.declare(
                f"flow_table_{what}_{word}",
                f"flow table of {count:,}: {title}",
                "per second" if rate else "ns",
                group=RATE_GROUP if rate else GROUP,
                higher_is_better=rate,
            ).add(OURS, operations / nanoseconds * 1e9 if rate else nanoseconds / operations)

        table.insert()
        if not session.profile.brief:
            # What was inserted before anything counts has brought the pages into being.
            table.expire(2 * UDP_MS)
            repeats = SMALL_TABLE_REPEATS[word]
            inserting = removing = expiring = 0
            for _ in range(repeats):
                inserting += table.insert()
                removing += table.remove()
                table.insert()
                expiring += table.expire(2 * UDP_MS)
            changes = repeats * count
            note("insert", "insert", inserting, changes, rate=True)
            note("remove", "remove", removing, changes, rate=True)
            note("expire", "expire", expiring, changes, rate=True)
            table.insert()
        note("hit", "look-up, hit", table.look_up(LOOK_UPS, True), LOOK_UPS, rate=False)
        batches = table.look_up_batches(LOOK_UPS)
        note("batch_hit", "look-up in batches, hit", batches, LOOK_UPS, rate=False)
        note("miss", "look-up, miss", table.look_up(LOOK_UPS, False), LOOK_UPS, rate=False)
        note("translate", "whole frame", table.translate(LOOK_UPS), LOOK_UPS, rate=False)
        session.measurements.declare(
            f"flow_table_load_{word}",
            f"flow table of {count:,}: load factor of the index",
            "",
            group="flow_table_size",
            higher_is_better=False,
        ).add(OURS, table.load_factor())

    @staticmethod
    def _sizes(session: Session, state: StateMap, number: int) -> None:
        measurement = session.measurements.declare(
            "flow_table_bytes_per_flow",
            "flow table: every byte, by flows",
            "bytes",
            group="flow_table_size",
            higher_is_better=False,
        )
        if len(measurement.runs.get(OURS, ())) <= number:
            measurement.add(OURS, state.bytes / state.flows_max)


def _step(profile: Profile, count: int) -> float:
    return 0.4 + (1.5 if profile.brief else 3.5) * count / 1e6
