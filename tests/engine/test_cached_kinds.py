# SPDX-License-Identifier: Apache-2.0
"""Flows of all kinds with the flow cache and without: nothing else differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hyperplane_nat.engine import DropReason, Policy, Target
from tests.engine import endpoints, gateways
from tests.engine.balancers import CLIENT, NODE, RST, SERVICE, SYN, SYNACK, listener
from tests.engine.cached_pair import KINDS, TARGETS, Both, Scene, Talk
from tests.engine.gateways import FIRST, HOST


@pytest.fixture
def both() -> Iterator[Both]:
    made = Both()
    yield made
    made.close()


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_cached_both_ways(both: Both, kind: str, tcp: bool) -> None:
    talk = both.begin(kind, tcp)
    if talk.far is None:
        # The one target that such a client does not reach.
        for _ in range(20):
            talk = both.begin(kind, tcp)
            if talk.far is not None:
                break
    both.talk(talk, 60)
    for side in (0, 1):
        before = both.hits[kind]
        both.send(talk, side, payload=b"by the kernel")
        assert both.hits[kind] == before + 1, side
    both.compare()


def hit(both: Both, kind: str, tcp: bool = True) -> Talk:
    """A conversation of a kind that is cached."""
    talk = both.begin(kind, tcp)
    both.talk(talk, 60)
    for side in (0, 1):
        before = both.hits[kind]
        both.send(talk, side)
        assert both.hits[kind] == before + 1
    return talk


def misses(both: Both, talk: Talk) -> bool:
    """Whether what both ends send is no hit from now on."""
    before = both.hits[talk.kind]
    for side in (0, 1):
        both.send(talk, side)
    return both.hits[talk.kind] == before


def gateway_goes(scene: Scene) -> None:
    scene.removed([4])


def routes_go(scene: Scene) -> None:
    scene.engine.set_route_table(gateways.ENVIRONMENTS_TABLE, [gateways.NOWHERE])


def host_goes(scene: Scene) -> None:
    scene.engine.remove_host(1)


def node_goes(scene: Scene) -> None:
    scene.engine.remove_interface(8)


def interface_goes(scene: Scene) -> None:
    scene.engine.remove_interface(1)


def host_comes(scene: Scene) -> None:
    scene.set_host(3, "10.0.1.77")


def endpoint_rejected(scene: Scene) -> None:
    scene.lead_to(None)


def endpoint_goes(scene: Scene) -> None:
    scene.engine.remove_interface(endpoints.ENDPOINT)


def target_goes(scene: Scene) -> None:
    for each in TARGETS:
        scene.engine.end_flows(8, "tcp", 81, Target(*each), scene.now)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("environment by NAT gateway", gateway_goes),
        ("host by NAT gateway", gateway_goes),
        ("environment by NAT gateway", routes_go),
        ("environment by NAT gateway", interface_goes),
        ("environment to host", host_goes),
        ("host to host", host_goes),
        ("host to service", host_goes),
        ("host to balancer", node_goes),
        ("environment to balancer", target_goes),
        ("router to balancer", target_goes),
        ("environment to endpoint", endpoint_rejected),
        ("host to endpoint", endpoint_rejected),
        ("router to endpoint", endpoint_rejected),
        ("environment to endpoint", endpoint_goes),
        ("host to endpoint", endpoint_goes),
        ("router to endpoint", node_goes),
        ("environment to endpoint", target_goes),
        ("internet to host", host_comes),
    ],
)
def test_after_a_change_all_packets_miss(
    both: Both, kind: str, change: Callable[[Scene], None]
) -> None:
    talk = hit(both, kind)
    both.each(change)
    assert misses(both, talk)
    both.compare()


@pytest.mark.parametrize("kind", [each for each in KINDS if "endpoint" in each])
def test_a_rejected_endpoint_s_flow_is_dropped_and_cached_again_when_it_is_accepted(
    both: Both, kind: str
) -> None:
    """Neither side's packets pass meanwhile, whether the sweep has been there or not."""
    talk = hit(both, kind)
    both.each(endpoint_rejected)
    for _ in range(40):
        for side in (0, 1):
            dropped = both.send(talk, side)
            assert dropped.reason == DropReason.ENDPOINT_UNAVAILABLE.name.lower()
        both.with_cache.catch_up()
    assert both.with_cache.engine.counters()["flow_cache_flows"] == 0
    both.compare()
    both.each(lambda scene: scene.lead_to(8))
    for scene in both.scenes:
        scene.now += 3000
    both.talk(talk, 60)
    assert not misses(both, talk)
    both.compare()


def test_what_takes_no_new_flow_goes_on_with_those_it_has(both: Both) -> None:
    """A NAT gateway's address that drains, a target that is deregistered, groups of a host."""
    kinds = ("environment by NAT gateway", "router to balancer", "internet to host")
    talks = [hit(both, kind) for kind in kinds]
    both.each(lambda scene: scene.set_nat(6, gateways.NAT, draining=True))
    both.each(lambda scene: scene.set_host(0, FIRST, policy=Policy(FIRST, ingress=[])))
    both.each(lambda scene: scene.listen(listener((SERVICE, 8080), port=81, preserve=False)))
    for talk in talks:
        assert not misses(both, talk)
    both.compare()


def test_more_idle_times_than_the_program_knows_are_not_cached(both: Both) -> None:
    """Two for either protocol beside those of the states; one that nobody has is another's."""
    both.each(
        lambda scene: scene.listen(
            *(
                listener((FIRST, 8080), port=port, idle_ms=port * 1000, preserve=False)
                for port in (81, 82, 83)
            )
        )
    )

    first = hit(both, "host to balancer")
    assert first.far is not None
    other = Talk("host to balancer", True, (HOST, 2), ((CLIENT, 6000), (NODE, 82)))
    third = Talk("host to balancer", True, (HOST, 2), ((CLIENT, 6001), (NODE, 83)))
    for talk in (other, third):
        both.send(talk, 0, SYN)
        both.send(talk, 1, SYNACK)
        both.talk(talk, 60)
    assert not misses(both, other)
    assert misses(both, third)
    assert both.with_cache.engine.counters()["flow_cache_full"] > 0
    both.send(first, 0, RST)
    both.with_cache.catch_up()
    for scene in both.scenes:
        scene.now += 3000
    both.talk(third, 60)
    assert not misses(both, third)
    both.compare()


@pytest.mark.parametrize("kind", KINDS)
def test_a_successor_goes_on_with_each_kind(both: Both, kind: str) -> None:
    talk = both.begin(kind, tcp=True)
    while talk.far is None:
        talk = both.begin(kind, tcp=True)
    both.talk(talk, 60)
    before = both.hits[kind]
    for side in (0, 1):
        both.send(talk, side)
    assert both.hits[kind] == before + 2
    for scene in both.scenes:
        scene.starts_again()
    assert not misses(both, talk)
    both.compare()
    assert not misses(both, talk)
    both.compare()


CONVERSATIONS = 10_000


def conversations(seed: int, hits: Counter[str]) -> int:
    """How many there were in a run with and without, which does not differ."""
    both = Both(seed)
    try:
        both.run(80)
        hits += both.hits
        return both.begun
    finally:
        both.close()


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_with_and_without_are_the_same(first: int) -> None:
    hits: Counter[str] = Counter()
    for seed in range(first, first + 10):
        conversations(seed, hits)
    assert sum(hits.values()) > 1000


@pytest.mark.long
def test_ten_thousand_conversations_are_the_same() -> None:
    hits: Counter[str] = Counter()
    begun, seed = 0, 1000
    while begun < CONVERSATIONS:
        begun += conversations(seed, hits)
        seed += 1
    assert hits.keys() >= KINDS.keys()
    assert min(hits.values()) > 1000
