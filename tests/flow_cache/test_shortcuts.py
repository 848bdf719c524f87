# SPDX-License-Identifier: Apache-2.0
"""Which links' hits go right to the far end: those at whose near ends there is nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hyperplane_nat.flow_cache import probe
from hyperplane_nat.flow_cache.maps import Link, Maps
from hyperplane_nat.flow_cache.program import FlowCache
from hyperplane_nat.flow_cache.shortcuts import Shortcuts, leave_by_near_ends
from netns import NetnsError, namespace, topology
from netns.interior import route_socket
from netns.netlink import RouteSocket
from netns.topology import Topology
from tests.live.lab import run
from tests.netns.conftest import lab_spec

pytestmark = pytest.mark.live

ETH_P_ALL = 0x0003
HARDWARE = bytes.fromhex("020000000001")


@pytest.fixture
def lab(lab_name: str) -> Iterator[Topology]:
    """Three environments."""
    if lacking := probe.missing():
        pytest.skip("; ".join(map(str, lacking)))
    yield topology.build(lab_spec(lab_name, 3))
    topology.destroy(lab_name)


@pytest.fixture
def route(lab: Topology) -> Iterator[RouteSocket]:
    with route_socket(lab.gateway) as found:
        yield found


@pytest.fixture
def maps(lab: Topology, route: RouteSocket) -> Iterator[Maps]:
    """Those of the program on the links of the environments."""
    with FlowCache.load(flows=1, attachments=8) as cache:
        cache.attach(route, numbers(lab))
        for index, number in numbers(lab).items():
            cache.maps.set_link(number, Link(7, index, HARDWARE, 1500, has_peer=False))
        yield cache.maps


def numbers(lab: Topology) -> dict[int, int]:
    return {slot.ifindex: slot.number for slot in lab.slots}


def taken(maps: Maps) -> list[bool]:
    return [maps.has_shortcut(number) for number in (1, 2, 3)]


def tap(lab: Topology, link: str | None) -> socket.socket:
    """A packet socket that receives on a link, or on all."""
    protocol = 0 if link else socket.htons(ETH_P_ALL)
    found = namespace.call(
        lab.gateway, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
    )
    if link is not None:
        found.bind((link, ETH_P_ALL))
    return found


@pytest.fixture
def shortcuts(lab: Topology, maps: Maps, route: RouteSocket) -> Iterator[Shortcuts]:
    made = Shortcuts(lab.gateway, maps, route)
    yield made
    made.close()


def test_nothing_else_of_a_link_is_changed(maps: Maps) -> None:
    before = bytes(maps.memory("links"))
    maps.set_shortcut(2, True)
    assert taken(maps) == [False, True, False]
    maps.set_shortcut(2, False)
    assert bytes(maps.memory("links")) == before


def test_they_are_taken_where_nobody_is(lab: Topology, maps: Maps, shortcuts: Shortcuts) -> None:
    with tap(lab, "env2"):
        shortcuts.decide(numbers(lab))
        assert taken(maps) == [True, False, True]
        shortcuts.look_at_taps(numbers(lab))
    shortcuts.look_at_taps(numbers(lab))
    assert taken(maps) == [True, True, True]
    with tap(lab, None):
        shortcuts.look_at_taps(numbers(lab))
        assert taken(maps) == [False, False, False]
    shortcuts.look_at_taps(numbers(lab))
    assert taken(maps) == [True, True, True]


def test_a_queueing_discipline_is_noticed(lab: Topology, maps: Maps, shortcuts: Shortcuts) -> None:
    shortcuts.decide(numbers(lab))
    for verb, expected in (("add", [False, True, True]), ("del", [True, True, True])):
        run(lab.gateway, "tc", "qdisc", verb, "dev", "env1", "root", "pfifo")
        shortcuts.look_at_queues()
        shortcuts.decide(numbers(lab))
        assert taken(maps) == expected


def test_one_who_comes_while_they_are_given_is_seen(
    lab: Topology, maps: Maps, shortcuts: Shortcuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture opens its tap and takes the shortcut away between a look and what that gives."""
    read = shortcuts._taps.read
    opened: list[socket.socket] = []

    def before_it_came() -> frozenset[int]:
        found = read()
        if not opened:
            opened.append(tap(lab, "env1"))
            leave_by_near_ends(lab.gateway, ["env1"])
        return found

    monkeypatch.setattr(shortcuts._taps, "read", before_it_came)
    shortcuts.decide(numbers(lab))
    assert taken(maps) == [False, True, True]
    opened[0].close()


def test_a_capture_takes_them_away_itself(lab: Topology, maps: Maps, shortcuts: Shortcuts) -> None:
    shortcuts.decide(numbers(lab))
    leave_by_near_ends(lab.gateway, ["env1", "env3"])
    assert taken(maps) == [False, True, False]
    # A link without the program is none of ours.
    leave_by_near_ends(lab.gateway, [lab.interfaces[0].name])
    with pytest.raises(NetnsError, match="has vanished"):
        leave_by_near_ends(lab.gateway, ["env9"])
    shortcuts.decide(numbers(lab))
    assert taken(maps) == [True, True, True]
