# SPDX-License-Identifier: Apache-2.0
"""Limits in a trace, against an engine that is really full, and what that says itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from hyperplane_nat.controller.trace.rehearsal import Packet, rehearsal
from hyperplane_nat.engine import DropReason, StateMap
from hyperplane_nat.engine.state.constants import INTERFACE_COUNTER_NAMES
from tests.controller.flow_map import ATTACHMENT_BYTES, WATERMARK_OFFSET
from tests.controller.trace_scene import OPEN, SITE, STORE, Scene, scene_of
from tests.engine.compiled import MEMORY_DIRECTORY


def publish(state_map: StateMap, number: int, ports: int) -> None:
    """Write the ports of an interface address down, as the forwarder does now and then."""
    (attachments,) = struct.unpack_from("<Q", state_map.memory, WATERMARK_OFFSET - 64)
    at = attachments + (state_map.slots_max + number) * ATTACHMENT_BYTES
    place = at + 8 * INTERFACE_COUNTER_NAMES.index("ports")
    struct.pack_into("<Q", state_map.memory, place, ports)
    assert state_map.interface_counters(number)["ports"] == ports


@contextmanager
def full(
    scene: Scene, function: str, packets: int, target: tuple[str, int]
) -> Iterator[DropReason]:
    """The map of an engine that has had so many flows of env-1; what it says to one more."""
    tables = scene.region.tables
    placement = scene.region.begin(function)
    scene.region.ready(placement.environment)
    interface = tables.interfaces[placement.interface]
    wanted, vpc = scene.region.wanted(), tables.vpcs[interface.vpc_id]
    engine = rehearsal(
        scene.config, wanted, {vpc.number}, MEMORY_DIRECTORY, interface=interface.number
    )
    scene.held_map = engine.state_map
    packet = Packet("tcp", "169.254.100.2", *target)
    for number in range(packets):
        assert engine.send(replace(packet, source_port=1000 + number)).reason is DropReason.NONE
    publish(engine.state_map, interface.number, packets)
    yield engine.send(packet).reason
    scene.held_map = None


@pytest.mark.parametrize(
    ("section", "reason", "rule"),
    [
        ({"limit_per_remote": 3}, DropReason.PORT_ALLOCATION, "ports.limit_per_remote 3"),
        ({"first": 5001, "last": 5003}, DropReason.PORT_ALLOCATION, "ports.limit_per_remote 3"),
        (
            {"limit_per_interface": 3},
            DropReason.PORT_LIMIT_INTERFACE,
            "ports.limit_per_interface 3",
        ),
        (
            {"limit_per_environment": 3},
            DropReason.PORT_LIMIT_ENVIRONMENT,
            "ports.limit_per_environment",
        ),
    ],
)
@pytest.mark.parametrize("target", [(OPEN, 80), (SITE, 80)])
def test_what_is_full_is_told(
    directory: Path,
    section: dict[str, int],
    reason: DropReason,
    rule: str,
    target: tuple[str, int],
) -> None:
    scene = scene_of(directory, ports=section)
    with full(scene, "f", 3, target) as said:
        assert said is reason
        assert scene.failing("f", *target) == {"limits": (rule, ANY)}
    with full(scene, "f", 1, target) as said:
        # That was the second.
        assert said is DropReason.NONE
        assert scene.trace("f", *target)["reachable"]
        if "limit_per_remote" in section:
            assert scene.rules("f", *target)["limits"] == rule


def test_ports_of_mappings_are_towards_any(directory: Path) -> None:
    mapped = {"mapping": "endpoint-independent"}
    scene = scene_of(directory, nat=mapped, ports={"limit_per_remote": 3})
    with full(scene, "f", 3, (OPEN, 80)) as said:
        assert said is DropReason.PORT_ALLOCATION
        assert list(scene.failing("f", STORE, 5432)) == ["limits"]
        # A NAT gateway has ports of its own, for each remote endpoint.
        assert scene.trace("client", SITE, 80)["reachable"]


def test_flows_to_a_host_are_among_its_own(directory: Path) -> None:
    """As the engine counts them: a flow between two is one of each."""
    scene = scene_of(directory, ports={"limit_per_environment": 2})
    vpc, hosts = scene.region.tables.vpcs, scene.region.tables.hosts
    shop = next(each for each in vpc.values() if each.name == "shop")
    client, taker = (
        next(each for each in hosts.values() if each.name == name) for name in ("client", "open")
    )
    packet = Packet("tcp", str(client.address), OPEN, 80)
    back = Packet("tcp", OPEN, SITE, 80)
    wanted = scene.region.wanted()
    engine = rehearsal(scene.config, wanted, {shop.number}, MEMORY_DIRECTORY, interface=None)
    scene.held_map = engine.state_map
    for port in (1000, 1001):
        assert scene.trace("open", SITE, 80)["reachable"]
        sent = engine.send(replace(packet, source_port=port), host=client.number)
        assert sent.reason is DropReason.NONE
    for name in ("open", "client"):
        found = scene.failing(name, SITE, 80)
        assert found["limits"][1] == f"host {name} has 2 flows of 2"
    assert engine.send(back, host=taker.number).reason is DropReason.PORT_LIMIT_ENVIRONMENT


def test_a_full_flow_table_is_told(directory: Path) -> None:
    scene = scene_of(directory)
    with full(scene, "f", 63, (OPEN, 80)) as said:
        assert said is DropReason.NONE
        assert scene.failing("client", STORE, 5432) == {
            "limits": ("flow_table_full", "the flow table is full: 64 of 64")
        }
    with full(scene, "f", 64, (OPEN, 80)) as said:
        assert said is DropReason.FLOW_TABLE_FULL
