# SPDX-License-Identifier: Apache-2.0
"""CloudWatch's metrics of each network interface."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from hyperplane_nat.controller.views.interface_metrics import REMOTES, InterfaceMetrics
from hyperplane_nat.engine import DropReason, Exhaustion
from hyperplane_nat.engine.state.constants import ATTACHMENT_COUNTER_NAMES
from hyperplane_nat.engine.state.settings import RemotePorts
from hyperplane_nat.metrics.cloudwatch import (
    CLOUDWATCH,
    AddressPorts,
    RemoteCount,
    RemotePortsTaken,
)


class Map:
    """Counters that a test sets."""

    flows_max = 100
    slots_max = interfaces_max = hosts_max = 8
    bytes = 4096
    heartbeat = 0

    def __init__(self) -> None:
        self.counts: dict[int, Counter[str]] = {}
        self.refused: list[Exhaustion] = []
        self.addresses = {0: "10.0.1.10", 1: "10.0.1.11", 2: "10.0.1.12"}

    def counters(self) -> Mapping[str, int]:
        return {}

    def slot_counters(self, slot: int) -> Mapping[str, int]:
        return self.slot_sums((slot,))

    def slot_sums(self, slots: Sequence[int]) -> Mapping[str, int]:
        return {"flows": sum(slots) * 10, "tcp_flows": sum(slots)}

    def interface_counters(self, number: int) -> Mapping[str, int]:
        counts = self.counts.get(number, Counter())
        return {name: counts[name] for name in ATTACHMENT_COUNTER_NAMES}

    def host_counters(self, number: int) -> Mapping[str, int]:
        return {}

    def node_counters(self, number: int) -> Mapping[str, int]:
        return {}

    def interface_address(self, number: int) -> str:
        return self.addresses.get(number, "0.0.0.0")

    @property
    def clock_offset_ms(self) -> int:
        return 0

    def exhaustions(self) -> Sequence[Exhaustion]:
        return self.refused

    def close(self) -> None:
        pass


class Setting:
    """Two interfaces, the first with two addresses, under a clock of the test's own."""

    def __init__(self) -> None:
        self.map = Map()
        self.now = 1000.0
        self.names = {0: "eni-a", 1: "eni-b", 2: "eni-a"}
        self.crowded: list[RemotePorts] = []
        self.metrics = InterfaceMetrics(
            state_map=lambda: self.map,
            interfaces=lambda: self.names,
            attached=lambda: {1: "eni-a", 2: "eni-a", 3: "eni-b"},
            crowded=lambda: self.crowded,
            clock=lambda: self.now,
        )

    def pass_seconds(self, seconds: float, **counts: int) -> None:
        """Let that much pass the first interface."""
        self.now += seconds
        self.map.counts.setdefault(0, Counter()).update(counts)
        self.metrics.sample()

    def figure(self, name: str, interface: str = "eni-a") -> float:
        return self.metrics.figures()[interface][name]


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_every_metric_of_every_interface(setting: Setting) -> None:
    figures = setting.metrics.figures()
    assert set(figures) == {"eni-a", "eni-b"}
    for each in figures.values():
        assert list(each) == [metric.aws for metric in CLOUDWATCH]


@pytest.mark.requirement("NATGW-metrics", profile="both")
def test_connections_are_those_of_environments_and_its_own(setting: Setting) -> None:
    assert setting.figure("ActiveConnectionCount") == 3
    setting.map.counts = {0: Counter(tcp_flows=4, flows=9), 2: Counter(tcp_flows=1)}
    assert setting.figure("ActiveConnectionCount") == 8
    assert setting.figure("ActiveConnectionCount", "eni-b") == 3


def test_addresses_of_an_interface_are_added_up(setting: Setting) -> None:
    setting.map.counts = {0: Counter(drops=3), 1: Counter(drops=5), 2: Counter(drops=4)}
    assert setting.figure("PacketsDropCount") == 7
    assert setting.figure("PacketsDropCount", "eni-b") == 5


def test_active_connections_are_those_of_tcp_of_the_environments(setting: Setting) -> None:
    # AWS, NAT gateway metrics: "the total number of concurrent active TCP connections".
    assert setting.figure("ActiveConnectionCount") == 3
    assert setting.figure("ActiveConnectionCount", "eni-b") == 3


def test_the_peak_is_the_highest_average_of_the_last_minute(setting: Setting) -> None:
    setting.metrics.sample()
    assert setting.figure("PeakBytesPerSecond") == 0
    setting.pass_seconds(10, bytes_in_from_source=700, bytes_in_from_destination=300)
    setting.pass_seconds(10, bytes_in_from_source=10, packets_in_from_source=50)
    assert setting.figure("PeakBytesPerSecond") == 100
    assert setting.figure("PeakPacketsPerSecond") == 5
    assert setting.figure("PeakBytesPerSecond", "eni-b") == 0
    for _ in range(5):
        setting.pass_seconds(10)
    assert setting.figure("PeakBytesPerSecond") == 1
    setting.pass_seconds(10)
    assert setting.figure("PeakBytesPerSecond") == 0


def test_a_name_that_comes_or_begins_anew_has_no_wild_peak(setting: Setting) -> None:
    setting.pass_seconds(10, bytes_in_from_source=10_000)
    setting.map.counts[0].clear()
    setting.names[7] = "eni-new"
    setting.map.counts[7] = Counter(bytes_in_from_source=10**9)
    setting.pass_seconds(10)
    assert setting.figure("PeakBytesPerSecond") == 0
    assert setting.figure("PeakBytesPerSecond", "eni-new") == 0


def refusal(port: int, errors: int, interface: int = 0) -> Exhaustion:
    address = "10.0.1.80" if port else "0.0.0.0"
    return Exhaustion("tcp", interface, address, port, 1, DropReason.PORT_ALLOCATION, errors, 0)


def test_the_remote_endpoints_with_the_most_errors(setting: Setting) -> None:
    setting.map.refused = [refusal(port, port) for port in range(1, 50)]
    setting.map.refused += [refusal(0, 99), refusal(0, 1, interface=2), refusal(9, 9, interface=5)]
    found = setting.metrics.remote_errors()
    assert len(found) == REMOTES
    assert found[0] == RemoteCount("eni-a", "tcp", "any", 100)
    assert found[1] == RemoteCount("eni-a", "tcp", "10.0.1.80:49", 49)


def test_without_a_map_there_is_nothing() -> None:
    metrics = InterfaceMetrics(
        state_map=lambda: None, interfaces=lambda: {0: "eni-a"}, attached=dict, crowded=list
    )
    metrics.sample()
    assert (metrics.figures(), metrics.remote_errors()) == ({}, [])
    assert (metrics.ports(), metrics.remote_ports()) == ([], [])


def test_ports_of_each_address(setting: Setting) -> None:
    setting.map.counts = {0: Counter(ports=7), 2: Counter(ports=1)}
    setting.names[4] = "eni-new"
    # The new one's number has no address in the map yet.
    assert setting.metrics.ports() == [
        AddressPorts("eni-a", "10.0.1.10", 7),
        AddressPorts("eni-b", "10.0.1.11", 0),
        AddressPorts("eni-a", "10.0.1.12", 1),
    ]


def test_crowded_remote_endpoints_have_the_names_of_now(setting: Setting) -> None:
    setting.crowded = [
        RemotePorts("tcp", 2, "10.0.1.80", 443, 54_000, 54_321),
        RemotePorts("tcp", 0, "10.0.1.80", 443, 9_500, 9_500),
        RemotePorts("udp", 7, "10.0.1.81", 53, 9_000, 9_000),
        RemotePorts("udp", 1, "0.0.0.0", 0, 4_000, 4_000),
    ]
    assert setting.metrics.remote_ports() == []
    asyncio.run(setting.metrics.look_at_ports())
    # Nobody has number 7 any more.
    assert setting.metrics.remote_ports() == [
        RemotePortsTaken("eni-a", "10.0.1.12", "tcp", "10.0.1.80:443", 54_000),
        RemotePortsTaken("eni-a", "10.0.1.10", "tcp", "10.0.1.80:443", 9_500),
        RemotePortsTaken("eni-b", "10.0.1.11", "udp", "any", 4_000),
    ]
