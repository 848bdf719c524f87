# SPDX-License-Identifier: Apache-2.0
"""The writer over a real engine: intervals, what is told of them, and what is lost."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.flow_logs.fields import LineFormat
from hyperplane_nat.flow_logs.files import FlowLogFiles, log_files
from hyperplane_nat.flow_logs.places import Places
from hyperplane_nat.flow_logs.requested import Requested
from hyperplane_nat.flow_logs.writer import FlowLogWriter
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import HOST, INSIDE, OUTSIDE
from tests.flow_logs.records import Record, read
from tests.flow_logs.test_places import HOST as HOST_ROW
from tests.flow_logs.test_places import STATIC, WHERE
from tests.reference import Policy, Ports, Timeouts, packet
from tests.reference.settings import Listener

SETUP = scenario.Setup(
    flows_max=64,
    ports=Ports(40000, 40063, 55_000),
    timeouts=Timeouts(udp=1000, hold=500, tcp_reset=500),
)
EPOCH = 1_790_000_400_000
MINUTE = 60_000
ROWS = [STATIC | WHERE, {**STATIC, "number": 1, "name": "eni-b"} | WHERE]
HOST_ROWS = [
    HOST_ROW
    | {
        "Number": number,
        "InstanceId": f"i-{number}",
        "NetworkInterfaceId": f"eni-h{number}",
        "PrivateIpAddress": address,
    }
    for number, (address, _) in enumerate(scenario.HOSTS[:2])
]
FIRST, SECOND = (address for address, _ in scenario.HOSTS[:2])


class Bench:
    """An engine, a writer and one clock for both, in ms from `EPOCH`."""

    def __init__(
        self, directory: Path, setup: scenario.Setup = SETUP, further: Sequence[Any] = ()
    ) -> None:
        """`further` are rows of interfaces besides."""
        self.now = 0
        self.flow_logs: list[dict[str, Any]] = []
        self.interfaces = [*ROWS, *further]
        self.target = EngineTarget(setup)
        self.engine = self.target.engine
        self.ring = FlowRecordRing.create(directory / "records", capacity=16, places_max=16)
        self.engine.record_flows(self.ring.memory)
        self.logs = directory / "logs"
        self.writer = self.started()

    def started(self) -> FlowLogWriter:
        def get(path: str) -> Any:
            answers = {
                "/v1/interfaces": self.interfaces,
                "/v1/hosts": HOST_ROWS,
                "/v1/load-balancers": [],
                "/v1/flow-logs": self.flow_logs,
                "/v1/prefix-lists": [],
                "/v1/vpcs": [{"VpcName": "customer", "VpcId": "vpc-1"}],
                "/v1/subnets": [
                    {"VpcName": "customer", "SubnetName": "private-a", "SubnetId": "subnet-1"}
                ],
            }
            return answers[path]

        form = LineFormat()
        return FlowLogWriter(
            self.target.map,
            self.ring,
            form,
            FlowLogFiles(self.logs, form.header, max_file_bytes=10**6, files_kept=100),
            Places(get, lambda: self.now / 1000, interfaces_max=self.target.map.interfaces_max),
            interval_ms=MINUTE,
            now_ms=lambda: self.now,
            unix_ms=lambda: EPOCH + self.now,
            requested=Requested(self.logs, get, lambda: EPOCH + self.now),
        )

    def at(self, now: int) -> float:
        self.now = now
        return self.writer.tick()

    def records(self, interface: str = "eni-a") -> list[Record]:
        return read(log_files(self.logs, interface))

    def send(self, port: int, remote: str = scenario.WEB) -> int:
        return traffic.opened(self.engine, 1, port, self.now, remote=remote)

    def host_sends(self, number: int, destination: str, ports: tuple[int, int]) -> None:
        source, _ = scenario.HOSTS[number]
        content = packet.udp(source, destination, *ports)
        body = packet.ipv4(source, destination, packet.UDP, content)
        self.engine.translate(traffic.frame_in(HOST, number, body), HOST, number, self.now)

    def rows(self, interface: str) -> list[str]:
        """Who, to whom, packets, and what became of them."""
        return [
            "{srcaddr}:{srcport} {dstaddr}:{dstport} {packets} {action}".format(**record)
            for record in self.records(interface)
        ]

    def close(self) -> None:
        self.engine.record_flows(None)
        self.ring.close()
        self.target.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    result = Bench(tmp_path)
    yield result
    result.close()


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
    # The hosts' two are NODATA.
    assert bench.ring.figures[2:] == (0, 5)
    bench.logs.unlink()
    bench.at(2 * MINUTE)
    assert [record["log-status"] for record in bench.records()] == ["SKIPDATA"]
    assert bench.ring.figures[2:] == (4, 5)
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


def test_a_flow_between_hosts_is_told_at_both(bench: Bench) -> None:
    bench.host_sends(0, SECOND, (5000, 7))
    bench.host_sends(1, FIRST, (7, 5000))
    bench.host_sends(0, scenario.WEB, (5001, 7))
    bench.at(MINUTE)
    out, back = f"{FIRST}:5000 {SECOND}:7 1 ACCEPT", f"{SECOND}:7 {FIRST}:5000 1 ACCEPT"
    assert bench.rows("eni-h0") == [out, back, f"{FIRST}:5001 {scenario.WEB}:7 1 ACCEPT"]
    assert bench.rows("eni-h1") == [out, back]
    assert [record["log-status"] for record in bench.records()] == ["NODATA"]
    bench.at(2 * MINUTE)
    assert bench.records("eni-h1")[-1]["log-status"] == "NODATA"


@pytest.mark.requirement("PL-flow-logs", profile="both")
@pytest.mark.parametrize("ended", [False, True])
def test_a_flow_by_an_endpoint_is_told_there_too(tmp_path: Path, ended: bool) -> None:
    target = (IPv4Address(scenario.HOSTS[0][0]), 7)
    heard = Listener(packet.UDP, 80, 1000, sticky=False, preserves=True, targets=(target,))
    row = {"number": scenario.ENDPOINT_NUMBER, "name": "eni-e", "kind": "vpc-endpoint"}
    setup = replace(SETUP, balancer=(heard,), endpoint=True)
    bench = Bench(tmp_path, setup, [STATIC | row | WHERE])
    source, to = scenario.HOSTS[2][0], scenario.NODES[scenario.NODE_NUMBER]
    bench.host_sends(2, to, (5000, 80))
    if ended:
        bench.engine.expire(10_000)
    bench.at(MINUTE)
    assert bench.rows("eni-e") == [f"{source}:5000 {to}:80 1 ACCEPT"]
    bench.close()


@pytest.mark.parametrize("ended", [False, True])
def test_a_function_s_flow_to_a_host_is_told_at_both(bench: Bench, ended: bool) -> None:
    port = bench.send(5000, FIRST)
    bench.host_sends(0, traffic.INTERFACE, (7, port))
    if ended:
        bench.engine.expire(10_000)
    bench.at(MINUTE)
    out = f"{traffic.INTERFACE}:{port} {FIRST}:7 1 ACCEPT"
    back = f"{FIRST}:7 {traffic.INTERFACE}:{port} 1 ACCEPT"
    assert bench.rows("eni-h0") == [out, back]
    assert len(bench.rows("eni-a")) == 4
    assert {out, back} < set(bench.rows("eni-a"))


def test_who_refused_a_packet_has_the_reject(tmp_path: Path) -> None:
    """A host's groups are its own; what they keep out has passed the interface of its sender."""
    bench = Bench(tmp_path, replace(SETUP, host_policies={0: Policy(ingress=())}))
    frame = traffic.datagram(1, 5000, remote=FIRST)
    bench.engine.translate(frame, INSIDE, 1, 0)
    bench.host_sends(1, FIRST, (6000, 7))
    # No flow of a function: its interface refuses it.
    bench.host_sends(1, traffic.INTERFACE, (6000, 40001))
    bench.at(MINUTE)
    assert bench.rows("eni-h0") == [
        f"{traffic.INTERFACE}:5000 {FIRST}:7 1 REJECT",
        f"{SECOND}:6000 {FIRST}:7 1 REJECT",
    ]
    assert bench.rows("eni-h1") == [
        f"{SECOND}:6000 {FIRST}:7 1 ACCEPT",
        f"{SECOND}:6000 {traffic.INTERFACE}:40001 1 ACCEPT",
    ]
    assert bench.rows("eni-a") == [
        f"{scenario.ENVIRONMENT}:5000 {traffic.INTERFACE}:7 1 ACCEPT",
        f"{traffic.INTERFACE}:5000 {FIRST}:7 1 ACCEPT",
        f"{SECOND}:6000 {traffic.INTERFACE}:40001 1 REJECT",
    ]
    bench.close()


def test_a_host_that_may_not_send_has_the_reject(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(SETUP, host_policies={0: Policy(egress=())}))
    bench.host_sends(0, SECOND, (5000, 7))
    bench.at(MINUTE)
    assert bench.rows("eni-h0") == [f"{FIRST}:5000 {SECOND}:7 1 REJECT"]
    assert [record["log-status"] for record in bench.records("eni-h1")] == ["NODATA"]
    bench.close()


def test_lost_records_of_hosts_are_their_skipdata(bench: Bench) -> None:
    for port in range(20):
        bench.host_sends(0, SECOND, (5000 + port, 7))
    bench.engine.expire(10_000)
    bench.at(MINUTE)
    for host in ("eni-h0", "eni-h1"):
        assert [record["log-status"] for record in bench.records(host)].count("SKIPDATA") == 1
    for other in ("eni-a", "eni-b"):
        assert [record["log-status"] for record in bench.records(other)] == ["NODATA"]
