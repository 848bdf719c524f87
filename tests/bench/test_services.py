# SPDX-License-Identifier: Apache-2.0
"""Every way of the workload `services` leads to where it is counted and served."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from rich.console import Console

from bench import addresses, gateways
from bench.gateways.balancers import OTHERS
from bench.gateways.base import Gateway, Options
from bench.gateways.services import CachedServices, Services
from bench.load import black_hole_rate, sender
from bench.processes import PACKAGES
from bench.progress import Display
from bench.session import QUICK, Session
from bench.workloads.new_flows import connections
from bench.workloads.services import TITLES, in_turn, proxied
from netns import namespace
from tests.conftest import in_ci
from tests.live.conftest import flow_cache_offered

SHORT = replace(QUICK, udp_seconds=0.1, warm_up_seconds=0.05, connect_seconds=0.2)


@contextmanager
def session() -> Iterator[Session]:
    console = Console(quiet=True)
    with Display(console, 10) as display, Session(SHORT, [gateways.OURS], display) as found:
        yield found


def test_each_round_has_another_order() -> None:
    ways = list(TITLES)
    orders = [in_turn(ways, number) for number in range(20)]
    assert all(sorted(each) == sorted(ways) for each in orders)
    assert {each[0] for each in orders} == set(ways)
    assert len({tuple(each) for each in orders}) > 15
    assert orders == [in_turn(ways, number) for number in range(20)]


@pytest.mark.live
@pytest.mark.parametrize("maker", [Services, CachedServices])
def test_each_way_of_ours_leads_there(maker: type[Services]) -> None:
    if maker is CachedServices:
        flow_cache_offered()
    with session() as found, maker(Options()) as lab:
        ways = lab.ways()
        assert ways.keys() == TITLES.keys()
        for part, way in ways.items():
            load = sender(way, 1, address=way.hole, frame_bytes=64)
            assert black_hole_rate(found, way.counted, [load]).delivered > 1000, part
            rate = connections(
                found,
                way,
                address=way.address,
                server_address=way.server,
                ports=addresses.BALANCED_PORTS,
            )
            assert rate > 50, part
        assert found.warnings == []
        hits = lab.status()["counters"]["flow_cache_packets"]
        assert (hits > len(ways) * 1000) is (maker is CachedServices)
    assert namespace.names(f"hp-{lab.lab}-") == []


@pytest.mark.live
@pytest.mark.parametrize("maker", OTHERS.values(), ids=OTHERS)
def test_others_balance_too(maker: type[Gateway]) -> None:
    for tool in maker.tools:
        if shutil.which(tool) is None and not in_ci():
            pytest.skip(f"{tool} is not installed (apt-get install {PACKAGES[tool]})")
    with session() as found, maker(Options()) as gateway:
        way = proxied(gateway)
        if way.hole:
            load = sender(way, 1, address=way.hole, frame_bytes=64)
            assert black_hole_rate(found, way, [load]).delivered > 1000
        ports = addresses.BALANCED_PORTS
        assert connections(found, way, address=way.address, ports=ports) > 50
