# SPDX-License-Identifier: Apache-2.0
"""The program on a lab's links: put there, put back, taken away; a kernel that lacks something."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperplane_nat.cli import lab_checks
from hyperplane_nat.cli.checks import Outcome
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network import punt as punts
from hyperplane_nat.controller.network.punt import Punt
from hyperplane_nat.engine import StateMap
from hyperplane_nat.flow_cache import probe
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import CONTROL, Maps
from hyperplane_nat.flow_cache.program import FlowCache, attached, detach
from netns import namespace, topology
from netns.interior import route_socket
from netns.names import PUNT_LINK
from netns.netlink import RouteSocket
from netns.topology import Host, Slot, Topology
from tests.conftest import require_root
from tests.live.lab import run
from tests.netns.conftest import lab_spec

LACKING = [probe.Missing("bpf_redirect_peer (Linux 5.10)", "Invalid argument")]


@pytest.fixture
def lab(lab_name: str) -> Iterator[Topology]:
    """Two environments and two interfaces, which are numbered 3 and 4."""
    require_root()
    if lacking := probe.missing():
        pytest.skip("; ".join(map(str, lacking)))
    yield topology.build(lab_spec(lab_name, 2))
    topology.destroy(lab_name)


def numbers(lab: Topology) -> dict[int, int]:
    """Those of all attachments, by link."""
    own = {each.ifindex: 3 + place for place, each in enumerate(lab.interfaces)}
    return punts.slots(lab.slots) | punts.interfaces(own)


def found(lab: Topology) -> dict[int, int | None]:
    """The numbers that links have."""
    with route_socket(lab.gateway) as route:
        each = {index: attached(route, index) for index in numbers(lab)}
    return {index: None if one is None else one.attachment for index, one in each.items()}


@contextmanager
def prepared(lab_name: str, lab: Topology) -> Iterator[Punt]:
    """All links lead to the punt link."""
    punt = Punt(lab_name, wanted=True)
    punt.attach(numbers(lab))
    assert punt.prepare() == topology.punt_namespace(lab_name)
    try:
        yield punt
    finally:
        asyncio.run(punt.stop())


def whole_look(punt: Punt) -> list[str]:
    """What was done until all links were looked at."""
    return [what for _ in range(punts.LOOKS + 1) for what in punt.look()]


def test_numbers_are_those_of_the_state_map() -> None:
    """By which the forwarder knows attachments."""
    slot = Slot(7, 70, "", "", "")
    host = Host(5, 90, "", "")
    state = StateMap.create(Path("/dev/shm") / f"t-{secrets.token_hex(4)}.map", flows_max=1)
    try:
        assert punts.slots([slot]) == {70: 7}
        assert punts.interfaces({80: 6}) == {80: state.slots_max + 6}
        assert punts.hosts([host]) == {90: state.slots_max + state.interfaces_max + 5}
    finally:
        state.close()
        state.path.unlink()


def test_a_kernel_that_lacks_something_is_served_without(lab_name: str) -> None:
    punt = Punt(lab_name, wanted=True, missing=lambda: LACKING)
    assert not punt.on
    assert punt.missing == ("bpf_redirect_peer (Linux 5.10): Invalid argument",)
    punt.attach({1: 1})
    assert punt.prepare() == topology.gateway_namespace(lab_name)
    assert punt.look() == []


def test_nobody_asks_the_kernel_for_what_is_not_wanted(lab_name: str) -> None:
    def asked() -> list[object]:
        raise AssertionError

    punt = Punt(lab_name, wanted=False, missing=asked)
    assert (punt.on, punt.missing) == (False, ())


@pytest.mark.live
def test_links_have_it_from_when_a_forwarder_begins(lab: Topology, lab_name: str) -> None:
    with prepared(lab_name, lab) as punt:
        assert found(lab) == numbers(lab)
        assert punt.prepare() == topology.punt_namespace(lab_name)
        (more,) = topology.add_environments(lab_spec(lab_name, 2), [3])
        punt.attach(punts.slots([more]))
        with route_socket(lab.gateway) as route:
            one = attached(route, more.ifindex)
        assert one is not None
        assert one.attachment == 3
        assert whole_look(punt) == []
    # Without its controller it stays.
    assert found(lab) == numbers(lab)


@pytest.mark.live
def test_what_is_taken_off_is_put_back(lab: Topology, lab_name: str) -> None:
    first, second, *_ = numbers(lab)
    with prepared(lab_name, lab) as punt, route_socket(lab.gateway) as route:
        detach(route, first)
        with FlowCache.load(flows=1, attachments=1) as other:
            other.attach(route, {second: numbers(lab)[second]})
        assert sorted(whole_look(punt)) == [
            f"link {index} had lost the flow cache's program: put back"
            for index in sorted((first, second))
        ]
        assert found(lab) == numbers(lab)
        assert whole_look(punt) == []
        run(lab.gateway, "ip", "link", "del", PUNT_LINK)
        assert whole_look(punt) == ["the punt link was not whole: it is made anew"]
        assert whole_look(punt) == []


@pytest.mark.live
def test_doctor_names_links_that_lead_nowhere(lab: Topology, lab_name: str) -> None:
    with prepared(lab_name, lab), route_socket(lab.gateway) as route:
        check = lab_checks.punted(lab_name, topology.survey(lab_name))
        assert (check.outcome, check.found) == (Outcome.OK, "all links lead to it")
        detach(route, lab.slots[1].ifindex)
        check = lab_checks.punted(lab_name, topology.survey(lab_name))
        assert check.outcome is Outcome.FAILED
        assert "is not on env2: nothing passes" in check.found


@pytest.mark.live
def test_links_that_go_are_no_loss(lab: Topology, lab_name: str) -> None:
    with prepared(lab_name, lab) as punt:
        topology.remove_environments(lab_name, [1])
        assert whole_look(punt) == []
        assert whole_look(punt) == []
    again = Punt(lab_name, wanted=True)
    again.attach(numbers(lab))
    again.prepare()
    assert whole_look(again) == []
    asyncio.run(again.stop())


@pytest.mark.live
def test_a_successor_that_does_not_want_it_takes_it_away(lab: Topology, lab_name: str) -> None:
    with prepared(lab_name, lab):
        pass
    off = Punt(lab_name, wanted=False)
    for _ in range(2):
        assert off.prepare() == lab.gateway
        assert set(found(lab).values()) == {None}
        assert not namespace.exists(topology.punt_namespace(lab_name))


@pytest.mark.live
def test_without_the_name_of_the_namespace_the_forwarder_goes_on(
    lab: Topology, lab_name: str
) -> None:
    """Its sockets keep the namespace, and a new one would have none of them."""
    with prepared(lab_name, lab) as punt:
        inside = namespace.call(topology.punt_namespace(lab_name), RouteSocket)
        namespace.delete([topology.punt_namespace(lab_name)])
        assert whole_look(punt) == []
        inside.close()
        assert punt.prepare() == topology.punt_namespace(lab_name)
        assert namespace.is_complete(topology.punt_namespace(lab_name))


@pytest.mark.live
def test_a_program_that_cannot_be_loaded_is_one_line(
    lab: Topology, lab_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_sizes: int) -> FlowCache:
        raise FlowCacheError("the kernel does not take the flow cache: EACCES\nR7 !read_ok")

    monkeypatch.setattr(FlowCache, "load", refuse)
    punt = Punt(lab_name, wanted=True, missing=list)
    with pytest.raises(ControllerError) as caught:
        punt.prepare()
    assert str(caught.value) == "the kernel does not take the flow cache: EACCES R7 !read_ok"
    assert punt.look() == []


def test_a_later_controller_goes_on_with_the_maps_that_are_there(
    lab_name: str, lab: Topology
) -> None:
    """And a forwarder is handed them; with other room they are others."""
    with prepared(lab_name, lab) as first, route_socket(lab.gateway) as route:
        before = attached(route, lab.slots[0].ifindex)
        maps = first.opened()
        assert sorted(maps) == ["control", "keys", "links", "records"]
        for descriptor in maps.values():
            os.close(descriptor)
        with prepared(lab_name, lab):
            assert attached(route, lab.slots[0].ifindex) == before
        other = Punt(lab_name, wanted=True, flows=2)
        other.attach(numbers(lab))
        other.prepare()
        after = attached(route, lab.slots[0].ifindex)
        asyncio.run(other.stop())
    assert before is not None
    assert after is not None
    assert before.program != after.program


def test_whoever_asks_for_a_grace_period_gets_it(lab_name: str, lab: Topology) -> None:
    with prepared(lab_name, lab) as punt:
        given = punt.opened()
        with Maps.of(given, flows=1, attachments=punts.ATTACHMENTS) as maps:
            word = maps.memory(CONTROL)[60:64]
            try:
                for asked, granted in ((0, 0), (1, 2), (3, 4), (0xFFFFFFFF, 0)):
                    word[:] = asked.to_bytes(4, "little")
                    punt.look()
                    assert int.from_bytes(word, "little") == granted
            finally:
                word.release()
