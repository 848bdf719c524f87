# SPDX-License-Identifier: Apache-2.0
"""Flow logs that were asked for: which rows are lines of which, and their files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.client import NotRunningError
from hyperplane_nat.flow_logs import requested as module
from hyperplane_nat.flow_logs.fields import FROM_HOST, Key, Place, Sums
from hyperplane_nat.flow_logs.requested import Requested, spool, spools, stream_name
from tests.engine import traffic
from tests.engine.scenario import OUTSIDE
from tests.flow_logs.test_writer import EPOCH, MINUTE, Bench

A = Place("eni-1", "111122223333", "one", "a", "i-1")
B = Place("eni-2", "111122223333", "one", "b", "i-2")
ELSEWHERE = Place("eni-3", "444455556666", "two", "a", "i-3")
NOW = 1_790_000_460_000


def row(**more: Any) -> dict[str, Any]:
    return {
        "FlowLogId": "fl-1",
        "VpcName": "one",
        "SubnetName": None,
        "NetworkInterfaceId": None,
        "TrafficType": "ALL",
        "Fields": ["interface-id", "vpc-id", "subnet-id", "action"],
        **more,
    }


class Api:
    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = list(rows)
        self.up = True

    def get(self, path: str) -> Any:
        if not self.up:
            raise NotRunningError("test", Path("/nowhere"))
        vpcs = [{"VpcName": name, "VpcId": f"vpc-{name}"} for name in ("one", "two")]
        subnets = [{"VpcName": "one", "SubnetName": "a", "SubnetId": "subnet-a"}]
        return {"/v1/flow-logs": self.rows, "/v1/vpcs": vpcs, "/v1/subnets": subnets}[path]


def begun(directory: Path, api: Api) -> Requested:
    found = Requested(directory, api.get, lambda: NOW)
    found.refresh()
    return found


def tell(found: Requested, place: Place, *, refused: bool = False) -> None:
    key = Key(FROM_HOST, 7, 0, 17, 1, 2, 3, 4, 0, 0, refused)
    found.tell(place, key, Sums(1, 28, 0, 0, 0), 1_790_000_402, 1_790_000_410)


def lines(directory: Path, flow_log: str = "fl-1") -> dict[str, list[str]]:
    return {
        interface: path.read_text().splitlines() for interface, path in spools(directory, flow_log)
    }


@pytest.mark.parametrize(
    ("about", "interfaces"),
    [
        ({}, ["eni-1", "eni-2"]),
        ({"SubnetName": "a"}, ["eni-1"]),
        ({"NetworkInterfaceId": "eni-2"}, ["eni-2"]),
        ({"VpcName": "two"}, ["eni-3"]),
    ],
)
def test_rows_are_of_the_flow_logs_that_are_about_their_interface(
    tmp_path: Path, about: dict[str, str], interfaces: list[str]
) -> None:
    found = begun(tmp_path, Api(row(**about)))
    for place in (A, B, ELSEWHERE):
        tell(found, place)
    assert found.flush() == 0
    assert list(lines(tmp_path)) == interfaces


@pytest.mark.parametrize(
    ("traffic_type", "actions"),
    [("ALL", ["ACCEPT", "REJECT"]), ("ACCEPT", ["ACCEPT"]), ("REJECT", ["REJECT"])],
)
def test_lines_have_times_and_ids(tmp_path: Path, traffic_type: str, actions: list[str]) -> None:
    found = begun(tmp_path, Api(row(TrafficType=traffic_type)))
    tell(found, A)
    tell(found, A, refused=True)
    found.flush()
    assert lines(tmp_path) == {
        "eni-1": [f"1790000402000 {NOW} eni-1 vpc-one subnet-a {action}" for action in actions]
    }


def test_what_has_nothing_to_tell_says_so(tmp_path: Path) -> None:
    found = begun(tmp_path, Api(row(Fields=["start", "end", "log-status"])))
    found.tell_status(A, 1_790_000_400, 1_790_000_460, "NODATA")
    found.flush()
    assert lines(tmp_path) == {"eni-1": [f"1790000400000 {NOW} 1790000400 1790000460 NODATA"]}


def test_without_a_controller_what_is_known_stays(tmp_path: Path) -> None:
    api = Api(row())
    found = begun(tmp_path, api)
    api.up, api.rows = False, []
    found.refresh()
    tell(found, A)
    api.up = True
    found.refresh()
    tell(found, A)
    found.flush()
    assert len(lines(tmp_path)["eni-1"]) == 1


def test_a_file_that_is_full_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 150)
    found = begun(tmp_path, Api(row()))
    for _ in range(5):
        tell(found, A)
        found.flush()
    path = spool(tmp_path, "fl-1", "eni-1")
    assert len(path.read_text().splitlines()) == 1
    assert len(path.with_name(f"{path.name}.1").read_text().splitlines()) == 2


def test_of_those_that_were_deleted_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELETED_KEPT", 2)
    former = [f"fl-{n}" for n in range(3, 6)]
    api = Api(row(), row(FlowLogId="fl-2"))
    for moment, key in enumerate((*former, "fl-1", "fl-2")):
        path = spool(tmp_path, key, "eni-1")
        path.parent.mkdir(parents=True)
        path.write_text("")
        path.with_name(f"{path.name}.1").write_text("")
        os.utime(path.parent, (moment, moment))

    def there() -> list[str]:
        return sorted(path.name for path in (tmp_path / module.FOLDER).iterdir())

    # Of a former lab, or deleted while nobody looked.
    found = begun(tmp_path, api)
    assert there() == ["fl-1", "fl-2", "fl-4", "fl-5"]
    del api.rows[1]
    found.refresh()
    assert there() == ["fl-1", "fl-2", "fl-5"]


def test_lines_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    found = begun(tmp_path, Api(row()))
    (tmp_path / "requested").write_text("no directory")
    tell(found, A)
    tell(found, B)
    assert found.flush() == 2
    assert found.flush() == 0


def test_streams_are_called_as_by_aws() -> None:
    assert stream_name("eni-1") == "eni-1-all"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    result = Bench(tmp_path)
    yield result
    result.close()


def test_the_writer_tells_the_rows_of_an_interval(bench: Bench) -> None:
    about = {"VpcName": "customer", "Fields": ["interface-id", "vpc-id", "packets", "log-status"]}
    bench.flow_logs = [row(**about), row(**about, FlowLogId="fl-2", TrafficType="REJECT")]
    bench.send(5000)
    bench.engine.translate(traffic.answer(40001), OUTSIDE, 0, 0)
    bench.at(MINUTE)
    written = f"{EPOCH} {EPOCH + MINUTE}"
    assert lines(bench.logs, "fl-2") == {
        "eni-a": [f"{written} eni-a vpc-1 1 OK"],
        **{name: [f"{written} {name} vpc-1 - NODATA"] for name in ("eni-b", "eni-h0", "eni-h1")},
    }
    assert len(lines(bench.logs)["eni-a"]) == 3
    # One that is gone is told no more.
    bench.flow_logs = []
    bench.at(2 * MINUTE)
    assert len(lines(bench.logs)["eni-a"]) == 3
