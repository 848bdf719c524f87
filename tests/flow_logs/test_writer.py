# SPDX-License-Identifier: Apache-2.0
"""The writer over a real engine: intervals, what is told of them, and what is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.flow_logs.fields import LineFormat
from hyperplane_nat.flow_logs.files import FlowLogFiles, log_files
from hyperplane_nat.flow_logs.places import Places
from hyperplane_nat.flow_logs.writer import FlowLogWriter
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.flow_logs.records import Record, read
from tests.flow_logs.test_places import STATIC, WHERE
from tests.reference import Ports, Timeouts

SETUP = scenario.Setup(
    flows_max=64,
    ports=Ports(40000, 40063, 55_000),
    timeouts=Timeouts(udp=1000, hold=500, tcp_reset=500),
)
EPOCH = 1_790_000_400_000
MINUTE = 60_000
ROWS = [STATIC | WHERE, {**STATIC, "number": 1, "name": "eni-b"} | WHERE]


class Bench:
    """An engine, a writer and one clock for both, in ms from `EPOCH`."""

    def __init__(self, directory: Path) -> None:
        self.now = 0
        self.target = EngineTarget(SETUP)
        self.engine = self.target.engine
        self.ring = FlowRecordRing.create(directory / "records", capacity=16, interfaces_max=8)
        self.engine.record_flows(self.ring.memory)
        self.logs = directory / "logs"
        self.writer = self.started()

    def started(self) -> FlowLogWriter:
        def get(path: str) -> Any:
            assert path == "/v1/interfaces"
            return ROWS

        form = LineFormat()
        return FlowLogWriter(
            self.target.map,
            self.ring,
            form,
            FlowLogFiles(self.logs, form.header, max_file_bytes=10**6, files_kept=100),
            Places(get, lambda: self.now / 1000),
            interval_ms=MINUTE,
            now_ms=lambda: self.now,
            unix_ms=lambda: EPOCH + self.now,
        )

    def at(self, now: int) -> float:
        self.now = now
        return self.writer.tick()

    def records(self, interface: str = "eni-a") -> list[Record]:
        return read(log_files(self.logs, interface))

    def send(self, port: int) -> int:
        return traffic.opened(self.engine, 1, port, self.now)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    result = Bench(tmp_path)
    yield result
    result.engine.record_flows(None)
    result.ring.close()
    result.target.close()


def test_a_live_flow_is_told_every_interval_in_which_it_did_something(bench: Bench) -> None:
    bench.now = 2_000
    port = bench.send(5000)
    assert bench.at(3_000) == pytest.approx(0.25)
    assert bench.records() == []
    bench.at(MINUTE)
    first = bench.records()
    assert [record["packets"] for record in first] == ["1", "1"]
    assert {record["action"] for record in first} == {"ACCEPT"}
    assert {(record["start"], record["end"]) for record in first} == {("1790000402", "1790000402")}
    bench.now = MINUTE + 500
    bench.engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 2_400)
    bench.at(2 * MINUTE)
    assert len(bench.records()) == 4
    assert bench.records()[-1]["srcport"] == str(port)


def test_flows_that_came_and_went_between_are_told(bench: Bench) -> None:
    for number in range(10):
        bench.send(5000 + number)
    bench.engine.expire(10_000)
    assert bench.engine.flows() == []
    bench.at(MINUTE)
    assert len(bench.records()) == 20


def test_an_interface_without_traffic_has_nodata(bench: Bench) -> None:
    bench.send(5000)
    bench.at(MINUTE)
    (record,) = bench.records("eni-b")
    assert record["log-status"] == "NODATA"
    assert (record["start"], record["end"]) == ("1790000400", "1790000460")
    assert {each["log-status"] for each in bench.records()} == {"OK"}


def test_a_refused_packet_is_told(bench: Bench) -> None:
    bench.engine.translate(traffic.answer(40001), OUTSIDE, 0, 0)
    bench.engine.translate(traffic.answer(40001), OUTSIDE, 0, 0)
    bench.at(MINUTE)
    (record,) = bench.records()
    assert (record["action"], record["packets"], record["dstport"]) == ("REJECT", "2", "40001")


def test_lost_records_are_skipdata_of_their_interface(bench: Bench) -> None:
    for number in range(20):
        bench.send(5000 + number)
    bench.engine.expire(10_000)
    bench.at(MINUTE)
    assert [record["log-status"] for record in bench.records()].count("SKIPDATA") == 1
    assert [record["log-status"] for record in bench.records("eni-b")] == ["NODATA"]
    bench.at(2 * MINUTE)
    assert bench.records()[-1]["log-status"] == "NODATA"


def test_lost_lines_are_counted_and_skipdata_of_the_next_interval(bench: Bench) -> None:
    bench.logs.write_text("in the way")
    bench.send(5000)
    bench.at(MINUTE)
    assert bench.ring.figures[2:] == (0, 3)
    bench.logs.unlink()
    bench.at(2 * MINUTE)
    assert [record["log-status"] for record in bench.records()] == ["SKIPDATA"]
    assert bench.ring.figures[2:] == (2, 3)
    bench.at(3 * MINUTE)
    assert bench.records()[-1]["log-status"] == "NODATA"


def test_a_successor_tells_nothing_twice(bench: Bench) -> None:
    bench.send(5000)
    bench.at(MINUTE)
    bench.now = MINUTE + 100
    bench.writer = bench.started()
    bench.at(2 * MINUTE)
    assert [record["log-status"] for record in bench.records()] == ["OK", "OK", "SKIPDATA"]


def test_what_is_left_is_written_at_the_end(bench: Bench) -> None:
    bench.send(5000)
    bench.now = 10_000
    bench.writer.finish(ask=False)
    assert len(bench.records()) == 2
    bench.at(MINUTE)
    statuses = [record["log-status"] for record in bench.records()]
    assert statuses == ["OK", "OK", "NODATA"]


def test_an_interval_that_nobody_looked_at_is_part_of_the_next(bench: Bench) -> None:
    bench.at(5 * MINUTE + 10)
    assert len(bench.records()) == 1
    bench.at(6 * MINUTE)
    assert len(bench.records()) == 2
