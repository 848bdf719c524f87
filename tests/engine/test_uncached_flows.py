# SPDX-License-Identifier: Apache-2.0
"""What stays out of the flow cache, of whatever kind, for there is more to ask or to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hyperplane_nat.engine import DropReason, NetworkAclEntry, SubnetAcl
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine import gateways
from tests.engine.border import APART
from tests.engine.cached_pair import KINDS, LISTENERS, Both, Place, Scene, Talk
from tests.engine.gateways import ENVIRONMENT, FIRST, HOST, INSIDE, SECOND
from tests.engine.test_cached_kinds import misses

BALANCED = [each for each in KINDS if "balancer" in each or "endpoint" in each]
ENDPOINT_MTU = 8500


@pytest.fixture
def both() -> Iterator[Both]:
    made = Both()
    yield made
    made.close()


def begun(both: Both, kind: str, tcp: bool = True) -> Talk:
    """A conversation of a kind with a target that such a client reaches."""
    talk = both.begin(kind, tcp)
    while talk.far is None:
        talk = both.begin(kind, tcp)
    return talk


OPEN = (NetworkAclEntry(True),)


def borders(entries: tuple[NetworkAclEntry, ...]) -> Callable[[Scene], None]:
    """Everybody is in a subnet of his own, with these entries in both directions."""
    subnets = [SubnetAcl(str(each), entries, entries) for each in APART]
    return lambda scene: scene.engine.set_network_acls(gateways.VPC, subnets)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_asked_about_at_a_border_with_an_acl(both: Both, kind: str) -> None:
    talk = begun(both, kind)
    both.talk(talk, 60)
    assert not misses(both, talk)
    both.each(borders(OPEN))
    # At once, before the sweep has been there.
    assert misses(both, talk)
    both.compare()
    assert both.with_cache.engine.counters()["flow_cache_flows"] == 0
    before = both.hits[kind]
    for each in (talk, begun(both, kind)):
        for scene in both.scenes:
            scene.now += 3000
        both.talk(each, 60)
    assert both.hits[kind] == before
    both.each(borders(()))
    for side in (0, 1):
        reason = both.send(talk, side).reason
        assert str(reason).startswith("network_acl")
    both.each(lambda scene: scene.engine.set_network_acls(gateways.VPC, []))
    for scene in both.scenes:
        scene.now += 3000
    both.talk(talk, 60)
    assert not misses(both, talk)
    both.compare()


ROUTED = ("172.16.0.9", 7)


def routed(both: Both, place: Place, address: str) -> Talk:
    """A conversation with whoever is behind the second host, which forwards."""
    for scene in both.scenes:
        scene.set_host(1, SECOND, source_check=False)
        for table in (gateways.HOSTS_TABLE, gateways.ENVIRONMENTS_TABLE):
            scene.engine.set_route_table(table, [("172.16.0.0/12", RouteTarget.HOST, 1)])
    talk = Talk("routed", False, place, ((address, 5000), ROUTED))
    both.send(talk, 0, payload=b"first")
    return talk


@pytest.mark.parametrize(
    ("place", "address"), [((HOST, 0), FIRST), ((INSIDE, 2), ENVIRONMENT)], ids=str
)
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_the_subnet_of_a_host_that_forwards_is_a_border(
    both: Both, place: Place, address: str, first: bool
) -> None:
    """Where nothing is said of the subnets of who talks."""

    def border(scene: Scene) -> None:
        scene.engine.set_network_acls(gateways.VPC, [SubnetAcl(f"{SECOND}/32", OPEN, OPEN)])

    if first:
        both.each(border)
    talk = routed(both, place, address)
    assert talk.far == (HOST, 1)
    both.talk(talk, 60)
    if not first:
        assert not misses(both, talk)
        both.each(border)
        for scene in both.scenes:
            scene.now += 3000
        both.talk(talk, 60)
    assert misses(both, talk)
    both.compare()
    assert both.with_cache.engine.counters()["flow_cache_flows"] == 0
    assert misses(both, talk)


@pytest.mark.parametrize("kind", BALANCED)
def test_what_has_a_header_is_not_cached(both: Both, kind: str) -> None:
    """Its numbers are shifted, also when the header is long acknowledged."""
    listeners = [each._replace(proxy_protocol=True) for each in LISTENERS if each.protocol == "tcp"]
    both.each(lambda scene: scene.listen(*listeners))
    talk = begun(both, kind)
    both.talk(talk, 200)
    assert misses(both, talk)
    for scene in both.scenes:
        scene.starts_again()
        scene.now += 3000
    both.talk(talk, 100)
    assert misses(both, talk)
    both.compare()


@pytest.mark.parametrize("kind", [each for each in KINDS if "endpoint" in each])
@pytest.mark.parametrize("carried", [ENDPOINT_MTU, ENDPOINT_MTU + 1])
def test_what_links_carry_more_of_than_an_endpoint_is_not_cached(
    both: Both, kind: str, carried: int
) -> None:
    """For what is larger is dropped there, and nobody is told."""

    def carry(scene: Scene) -> None:
        scene.mtu = carried
        scene.set_interface(0, "10.0.1.3")
        for number, address in enumerate((FIRST, SECOND)):
            scene.set_host(number, address)
        scene.consume()

    both.each(carry)
    talk = begun(both, kind)
    both.talk(talk, 60)
    assert misses(both, talk) == (carried > ENDPOINT_MTU)
    large = both.send(talk, 0, payload=bytes(ENDPOINT_MTU))
    assert large.reason == DropReason.ENDPOINT_MTU.name.lower()
    both.compare()
