# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs: their flows in a map that is opened again, how they go, what readers see."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest

from hyperplane_nat.engine import Action, DropReason, Engine, Side, StateMap, Verdict
from hyperplane_nat.engine.readers._flow_reader import FlowScan
from tests.engine import scenario, traffic
from tests.engine.compiled import MEMORY_DIRECTORY, EngineTarget, configured, set_host
from tests.engine.scenario import HOST, INSIDE, OUTSIDE
from tests.reference import Behaviour, Policy, Ports, Rule, packet

SETUP = scenario.Setup(ports=Ports(40000, 40007))
FIRST, SECOND = (address for address, _ in scenario.HOSTS[:2])
CLOSED = Policy(ingress=(Rule("udp", IPv4Network("10.0.0.0/16"), 9, 9),))


def frame(place: tuple[int, int], source: str, destination: str, ports: tuple[int, int]) -> bytes:
    """A datagram that arrives from a place."""
    content = packet.udp(source, destination, *ports)
    return traffic.frame_in(*place, packet.ipv4(source, destination, packet.UDP, content))


class Gateway:
    """An engine on a map, and another one on the same map after it."""

    def __init__(self, setup: scenario.Setup) -> None:
        self.setup = setup
        self.target = EngineTarget(setup)
        self.now = 0

    @property
    def engine(self) -> Engine:
        return self.target.engine

    def send(
        self,
        place: tuple[int, int],
        source: str,
        destination: str,
        ports: tuple[int, int] = (5000, 7),
    ) -> Verdict:
        return self.engine.translate(frame(place, source, destination, ports), *place, self.now)

    def between_hosts(self, port: int = 7) -> Verdict:
        return self.send((HOST, 0), FIRST, SECOND, (5000, port))

    def to_host(self, slot: int = 1, port: int = 7) -> Verdict:
        return self.send((INSIDE, slot), scenario.ENVIRONMENT, FIRST, (5000, port))

    def starts_again(self) -> None:
        """As a new forwarder that is told nothing yet."""
        del self.target.engine
        self.target.map.close()
        self.target.map = StateMap.open(self.target.path, writable=True)
        self.target.engine = Engine(self.target.map, now_ms=self.now)

    def moves(self, setup: scenario.Setup) -> None:
        """Another host comes with the address of the first."""
        set_host(self.engine, setup, 0, self.now, link=77)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    result = Gateway(SETUP)
    yield result
    assert result.engine.verify() == []
    result.target.close()


def test_flows_outlive_the_forwarder(gateway: Gateway) -> None:
    assert gateway.between_hosts().action is Action.FORWARD
    assert gateway.send((HOST, 0), FIRST, scenario.WEB).action is Action.FORWARD
    assert gateway.send((OUTSIDE, 0), scenario.FAR, SECOND).action is Action.FORWARD
    before = gateway.engine.host_flows()
    assert [(flow.originator_side, flow.responder_side) for flow in before] == [
        (Side.HOST, Side.HOST),
        (Side.HOST, Side.OUTSIDE),
        (Side.OUTSIDE, Side.HOST),
    ]
    gateway.starts_again()
    assert gateway.engine.host_flows() == before
    assert gateway.engine.verify() == []
    configured(gateway.engine, SETUP, 0)
    gateway.engine.remove_strangers()
    gateway.engine.sweep(0)
    answer = gateway.send((HOST, 1), SECOND, FIRST, (7, 5000))
    assert (answer.action, answer.side, answer.port) == (Action.FORWARD, Side.HOST, 0)
    assert {flow.state for flow in gateway.engine.host_flows()} == {"UDP", "UDP_REPLIED"}


def test_a_host_that_nobody_names_goes_with_its_flows(gateway: Gateway) -> None:
    gateway.between_hosts()
    gateway.starts_again()
    gateway.engine.remove_strangers()
    assert gateway.engine.retiring_hosts() == [0, 1]
    assert not gateway.engine.admits_host(0, "10.0.1.99", 0, 5)
    gateway.engine.sweep(0)
    assert gateway.engine.retiring_hosts() == []
    assert gateway.engine.host_flows() == []
    assert gateway.engine.admits_host(0, "10.0.1.99", 0, 5)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_removed_host_s_flows_end(gateway: Gateway, gone: int) -> None:
    gateway.between_hosts()
    gateway.engine.remove_host(gone)
    assert gateway.between_hosts().action is not Action.FORWARD
    with pytest.raises(ValueError, match="still has flows of another"):
        set_host(gateway.engine, SETUP, gone, 0, link=5)
    gateway.engine.sweep(0)
    assert gateway.engine.host_flows() == []
    counters = gateway.engine.counters()
    assert (counters["flows_entries_used"], counters["flows_ended_udp_removed"]) == (0, 1)
    set_host(gateway.engine, SETUP, gone, 0, link=5)
    assert gateway.between_hosts().action is Action.FORWARD


def test_an_interface_that_goes_takes_the_way_out_along(gateway: Gateway) -> None:
    gateway.between_hosts()
    gateway.send((HOST, 0), FIRST, scenario.WEB)
    gateway.engine.remove_interface(0)
    gateway.engine.sweep(0)
    assert len(gateway.engine.host_flows()) == 1
    assert gateway.send((HOST, 0), FIRST, scenario.WEB).reason is DropReason.NO_ROUTE
    assert gateway.between_hosts().action is Action.FORWARD


def test_what_passes_a_host_is_counted_at_it(gateway: Gateway) -> None:
    gateway.between_hosts()
    gateway.send((HOST, 1), SECOND, FIRST, (7, 5000))
    gateway.send((HOST, 0), FIRST, scenario.WEB)
    assert gateway.send((HOST, 0), SECOND, scenario.WEB).reason is DropReason.SOURCE_SPOOFED
    assert gateway.send((HOST, 0), FIRST, "10.0.1.10").reason is DropReason.NO_FLOW
    host = gateway.target.map.host_counters(0)
    assert host == {
        "packets_out": 2,
        "bytes_out": 56,
        "packets_in": 1,
        "bytes_in": 28,
        "drops": 2,
        "flows": 2,
        "tcp_flows": 0,
    }
    interface = gateway.target.map.interface_counters(0)
    assert interface["packets_out_to_destination"] == 1
    assert interface["packets_in_from_source"] == 0


def test_a_function_s_flow_to_a_host_is_counted_at_both(gateway: Gateway) -> None:
    gateway.to_host()
    gateway.send((HOST, 0), FIRST, "10.0.1.10", (7, 40000))
    [flow] = gateway.engine.flows()
    answer = gateway.send((HOST, 0), FIRST, flow.nat_address, (7, flow.nat_port))
    assert (answer.action, answer.side, answer.port) == (Action.FORWARD, Side.INSIDE, 1)
    assert gateway.target.map.host_counters(0)["packets_in"] == 1
    assert gateway.target.map.host_counters(0)["packets_out"] >= 1
    interface = gateway.target.map.interface_counters(0)
    assert interface["packets_in_from_source"] == interface["packets_out_to_destination"] == 1
    assert gateway.target.map.slot_counters(1)["packets_out"] == 1


def test_flows_of_hosts_take_no_port_of_the_interface() -> None:
    gateway = Gateway(scenario.Setup(ports=Ports(40000, 40000, 55_000, limit_per_interface=1)))
    for port in range(5000, 5004):
        verdict = gateway.send((HOST, 0), FIRST, scenario.WEB, (port, 7))
        assert verdict.action is Action.FORWARD
    assert gateway.to_host().action is Action.FORWARD
    assert gateway.to_host(2).reason is DropReason.PORT_LIMIT_INTERFACE
    assert gateway.engine.verify() == []
    gateway.target.close()


def test_rules_concern_flows_that_begin(gateway: Gateway) -> None:
    gateway.between_hosts()
    gateway.to_host()
    closed = scenario.Setup(host_policies={0: CLOSED, 1: CLOSED})
    for number in (0, 1):
        set_host(gateway.engine, closed, number, 0)
    assert gateway.between_hosts().action is Action.FORWARD
    assert gateway.to_host().action is Action.FORWARD
    assert gateway.between_hosts(8).reason is DropReason.SECURITY_GROUP_INGRESS
    assert gateway.to_host(1, 8).reason is DropReason.SECURITY_GROUP_INGRESS
    assert gateway.to_host(1, 9).action is Action.FORWARD


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after another forwarder"])
def test_another_host_is_not_reached_by_what_its_predecessor_let_in(
    gateway: Gateway, again: bool
) -> None:
    assert gateway.to_host().action is Action.FORWARD
    gateway.now = 10
    gateway.moves(scenario.Setup(host_policies={0: CLOSED}))
    if again:
        gateway.starts_again()
        configured(gateway.engine, scenario.Setup(ports=SETUP.ports), gateway.now)
        gateway.engine.remove_host(0)
        gateway.moves(scenario.Setup(host_policies={0: CLOSED}))
    assert gateway.to_host().reason is DropReason.SECURITY_GROUP_INGRESS
    assert gateway.to_host(1, 9).action is Action.FORWARD


def test_a_forwarder_that_starts_again_knows_since_when_a_host_is_there() -> None:
    gateway = Gateway(scenario.Setup(ports=SETUP.ports, hosts_since=10))
    gateway.now = 20
    assert gateway.to_host().action is Action.FORWARD
    gateway.starts_again()
    closed = scenario.Setup(ports=SETUP.ports, hosts_since=30, host_policies={0: CLOSED})
    configured(gateway.engine, closed, 30)
    # It began after the host had come: what the rules are by now does not concern it.
    assert gateway.to_host().action is Action.FORWARD
    assert gateway.to_host(1, 8).reason is DropReason.SECURITY_GROUP_INGRESS
    gateway.target.close()


def test_what_a_host_refuses_takes_no_entry() -> None:
    setup = scenario.Setup(
        ports=SETUP.ports,
        host_policies={0: CLOSED},
        behaviour=Behaviour(endpoint_independent=True),
    )
    gateway = Gateway(setup)
    assert gateway.to_host().reason is DropReason.SECURITY_GROUP_INGRESS
    assert gateway.engine.counters()["flows_entries_used"] == 0
    assert gateway.engine.verify() == []
    gateway.target.close()


def rows(state: StateMap, **fields: Any) -> list[dict[str, Any]]:
    scan = FlowScan({0: "eni-a"}, hosts={0: "web-1"}, **fields)
    found: list[dict[str, Any]] = json.loads(b"[" + scan.read(state.memory, 0, 64, 0) + b"]")
    return found


def test_a_listing_has_flows_of_hosts(gateway: Gateway) -> None:
    gateway.to_host()
    gateway.between_hosts()
    gateway.send((HOST, 1), SECOND, scenario.WEB)
    gateway.send((OUTSIDE, 0), scenario.FAR, SECOND)
    found = rows(gateway.target.map)
    assert [(row["environment"], row["interface"], row.get("host", "-")) for row in found] == [
        ("env-1", "eni-a", "-"),
        (None, None, "web-1"),
        (None, "eni-a", "host-1"),
        (None, "eni-a", None),
    ]
    assert [row["slot"] for row in found] == [1, None, None, None]
    assert (found[1]["nat_address"], found[1]["nat_port"]) == (FIRST, 5000)
    assert (found[1]["remote_address"], found[1]["remote_port"]) == (SECOND, 7)
    assert len(rows(gateway.target.map, slots=[1])) == 1
    assert len(rows(gateway.target.map, interfaces=[0])) == 3
    assert len(gateway.target.map.flows()) == 1


def test_a_map_without_hosts() -> None:
    path = MEMORY_DIRECTORY / "hyperplane-nat-without-hosts"
    path.unlink(missing_ok=True)
    try:
        StateMap.create(path, flows_max=64, slots_max=16, interfaces_max=4, hosts_max=0).close()
        with contextlib.closing(StateMap.open(path, writable=True)) as state:
            assert (state.slots_max, state.interfaces_max, state.hosts_max) == (16, 4, 0)
            engine = Engine(state)
            with pytest.raises(ValueError, match="host 0: the state map has 0"):
                set_host(engine, SETUP, 0, 0)
            with pytest.raises(IndexError, match="host 0: the map has 0"):
                state.host_counters(0)
            verdict = engine.translate(b"", Side.HOST, 0, 0)
            assert verdict.reason is DropReason.UNKNOWN_LINK
            del engine
    finally:
        path.unlink()
