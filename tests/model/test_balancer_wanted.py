# SPDX-License-Identifier: Apache-2.0
"""What is remembered of nodes of load balancers is what the tables ask for at a first look."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplane_nat.model.balancer_resources import (
    GroupAttributes,
    HealthCheck,
    ListenerResource,
    NodeResource,
    TargetResource,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.resources import HostResource, Resources
from hyperplane_nat.model.wanted import wanted_of
from tests.model.balancing import BOTH, HOSTS, TCP, active, balancer, do, group, nodes, place
from tests.model.support import Scene, address, lab

NAMES = tuple(name for name, _ in HOSTS)
BEGINNING: dict[str, Any] = {
    "targets": NAMES,
    "protocol": TCP,
    "group_crosses": None,
    "crosses": False,
    "path": "/",
    "ports": (80,),
    "zones": ("a", "b"),
    "address": None,
}
CHANGES = st.one_of(
    st.tuples(st.just("targets"), st.sets(st.sampled_from(NAMES)).map(sorted)),
    st.tuples(st.just("protocol"), st.sampled_from((TCP, BOTH))),
    st.tuples(st.just("group_crosses"), st.sampled_from((None, True, False))),
    st.tuples(st.just("crosses"), st.booleans()),
    st.tuples(st.just("path"), st.sampled_from(("/", "/other"))),
    st.tuples(st.just("ports"), st.sampled_from(((), (80,), (81,), (80, 81)))),
    st.tuples(st.just("zones"), st.sampled_from((("a",), ("a", "b")))),
    st.tuples(st.just("address"), st.sampled_from((None, "10.0.1.77"))),
    st.tuples(st.just("seconds"), st.sampled_from((1.0, 1000.0))),
    st.tuples(st.sampled_from(range(3)), st.sampled_from(("", "Target.Timeout"))),
)


def resources(wanted: dict[str, Any]) -> Resources:
    """A load balancer with a group; the first host may have a chosen address."""
    web = group(
        protocol=wanted["protocol"],
        targets=tuple(TargetResource(host=each) for each in wanted["targets"]),
        attributes=GroupAttributes(cross_zone=wanted["group_crosses"]),
        health_check=HealthCheck(path=wanted["path"]),
    )
    front = balancer(
        nodes=tuple(map(NodeResource, wanted["zones"])),
        cross_zone=wanted["crosses"],
        listeners=tuple(ListenerResource(web.protocol, each, "web") for each in wanted["ports"]),
    )
    made = place(front, groups=[web])
    chosen = wanted["address"]
    first = HostResource("one", "a", None if chosen is None else address(chosen))
    return lab(vpcs=[replace(made, hosts=(first, *made.hosts[1:]))])


@given(st.lists(CHANGES, max_size=12))
@settings(max_examples=200, deadline=None)
def test_remembered_and_found_anew_are_the_same(changes: list[tuple[Any, Any]]) -> None:
    scene, wanted = Scene(), dict(BEGINNING)
    scene.apply(resources(wanted))
    active(scene)
    for what, value in changes:
        if what == "seconds":
            scene.pass_seconds(value)
        elif isinstance(what, int):
            found = {
                each.id: {target.place: value for target in each.targets[what:][:1]}
                for each in scene.region.tables.target_groups.values()
            }
            do(scene, "note_health", found)
        else:
            wanted[what] = value
            with suppress(ModelError):
                scene.apply(resources(wanted))
        remembered = scene.region.wanted()
        anew = wanted_of(scene.region.tables.copy(), scene.region.settings)
        assert remembered == replace(anew, revision=remembered.revision)


def test_the_health_of_one_target_leaves_other_nodes_as_they_are() -> None:
    scene = Scene()
    both = [
        balancer(name, listeners=(ListenerResource(TCP, 80, name),)) for name in ("front", "back")
    ]
    scene.apply(lab(vpcs=[place(*both, groups=[group("front"), group("back")])]))
    active(scene)
    before = nodes(scene)
    tables = scene.region.tables
    (found,) = (each for each in tables.target_groups.values() if each.name == "front")
    do(scene, "note_health", {found.id: {found.targets[0].place: ""}})
    after = nodes(scene)
    changed = [new is not old for new, old in zip(after, before, strict=True)]
    assert changed == [True, True, False, False]
    assert after[0].checks == before[0].checks
