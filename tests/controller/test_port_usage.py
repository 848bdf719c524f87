# SPDX-License-Identifier: Apache-2.0
"""Who takes the source ports, read from a state map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.controller.views import port_usage
from hyperplane_nat.controller.views.port_usage import PortNames, PortQuery
from hyperplane_nat.engine import Ports as EnginePorts
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE
from tests.reference import Ports

LIMIT = 40
SETUP = scenario.Setup(flows_max=1000, ports=Ports(40000, 40999, LIMIT))
NAMES = PortNames({0: "eni-a", 1: "eni-b", 2: "eni-c"}, {1: "orders", 5: "reports"}, LIMIT, 50)


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    found = EngineTarget(SETUP)
    yield found
    found.close()


def usage(target: EngineTarget, *, now: int = 0, **wanted: Any) -> dict[str, Any]:
    return port_usage.port_usage(target.map, PortQuery(**wanted), NAMES, now)


def some(target: EngineTarget, slot: int, count: int, remote_port: int = 7, now: int = 0) -> None:
    for port in range(count):
        frame = traffic.datagram(slot, 5000 + port, remote_port=remote_port)
        target.engine.translate(frame, INSIDE, slot, now)


def test_the_culprit_comes_first(target: EngineTarget) -> None:
    some(target, 1, 3)
    some(target, 5, 60)
    some(target, 2, 1, remote_port=9)
    row, other = usage(target, now=4_000)["remotes"]
    assert (row["interface"], row["address"]) == ("eni-a", scenario.INTERFACE_ADDRESSES[0])
    assert (row["protocol"], row["remote_address"], row["remote_port"]) == ("udp", scenario.WEB, 7)
    assert (row["in_use"], row["held"], row["limit"], row["high_water"]) == (40, 0, 40, 40)
    assert row["used_percent"] == 100.0
    assert row["functions"] == [
        {"function": "reports", "in_use": 37, "held": 0},
        {"function": "orders", "in_use": 3, "held": 0},
    ]
    assert [each["environment"] for each in row["environments"]] == ["env-5", "env-1"]
    assert (row["allocation_errors"], row["last_error_seconds"]) == (23, 4.0)
    assert row["last_error_reason"] == "port_allocation"
    assert row["last_error_environment"] == "env-5"
    assert other["functions"] == [{"function": None, "in_use": 1, "held": 0}]
    assert other["allocation_errors"] == 0
    assert other["last_error_seconds"] is None


def test_interfaces_have_all_their_connections(target: EngineTarget) -> None:
    some(target, 1, 10)
    some(target, 5, 10, remote_port=9)
    some(target, 3, 4)
    first, second, third = usage(target)["interfaces"]
    assert (first["interface"], first["in_use"], first["limit"]) == ("eni-a", 20, 50)
    assert first["used_percent"] == 40.0
    assert (second["interface"], second["in_use"]) == ("eni-b", 4)
    assert (third["in_use"], third["functions"], third["environments"]) == (0, [], [])


def test_a_limit_of_an_interface_is_its_own_error(target: EngineTarget) -> None:
    target.engine.configure(
        ports=EnginePorts(first=40000, last=40999, limit_per_remote=LIMIT, limit_per_interface=5)
    )
    some(target, 1, 7)
    answer = usage(target)
    assert answer["interfaces"][0]["allocation_errors"] == 2
    assert answer["interfaces"][0]["last_error_reason"] == "port_limit_interface"
    assert [row["allocation_errors"] for row in answer["remotes"]] == [0]


def test_held_ports_are_told_apart(target: EngineTarget) -> None:
    some(target, 1, 6)
    target.engine.expire(360_000)
    (row,) = usage(target)["remotes"]
    assert (row["in_use"], row["held"], row["used_percent"]) == (0, 6, 15.0)
    assert row["environments"][0] == {
        "environment": "env-1",
        "host": None,
        "function": "orders",
        "in_use": 0,
        "held": 6,
    }


def test_errors_stay_when_the_ports_are_free_again(target: EngineTarget) -> None:
    some(target, 1, 45)
    target.engine.expire(500_000)
    (row,) = usage(target, now=500_000)["remotes"]
    assert (row["in_use"], row["held"], row["allocation_errors"]) == (0, 0, 5)
    assert row["last_error_seconds"] == 500.0


def test_only_what_is_asked_for(target: EngineTarget) -> None:
    for number in range(1, 11):
        some(target, 1, number, remote_port=number)
    some(target, 3, 20, remote_port=30)

    def ports(**wanted: Any) -> list[tuple[str, int]]:
        rows = usage(target, **wanted)["remotes"]
        return [(row["interface"], row["remote_port"]) for row in rows]

    assert ports(top=3) == [("eni-b", 30), ("eni-a", 10), ("eni-a", 9)]
    assert ports(top=2, interface="eni-a") == [("eni-a", 10), ("eni-a", 9)]
    assert ports(address=scenario.WEB, port=4) == [("eni-a", 4)]
    assert ports(address=scenario.ECHO) == []
    assert len(ports(top=1000)) == 11
    (only,) = usage(target, interface="eni-b")["interfaces"]
    assert only["in_use"] == 20


def test_who_begins_flows_is_an_environment_or_a_host() -> None:
    names = replace(NAMES, hosts={3: "shop/worker"}, first_host=100)
    found = [names.holder(number) for number in (7, 103, 104, 0xFFFF)]
    assert found == [
        {"environment": "env-7", "host": None},
        {"environment": None, "host": "shop/worker"},
        {"environment": None, "host": None},
        {"environment": None, "host": None},
    ]
