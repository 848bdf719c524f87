# SPDX-License-Identifier: Apache-2.0
"""Load balancers in a trace: listener, groups, targets and which of them are reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.model.states import TargetState
from tests.controller.trace_scene import FUNCTIONS, VPC, Scene, scene_of

NODE = "10.0.4.100"
FRONT: dict[str, Any] = {
    "security_group": [
        *VPC["security_group"],
        {"name": "front", "ingress": [{"protocol": "all", "group": "app"}]},
        {"name": "behind", "ingress": [{"protocol": "tcp", "ports": "80", "group": "front"}]},
    ],
    "host": [
        *VPC["host"],
        {
            "name": "web-a",
            "subnet": "isolated",
            "address": "10.0.3.11",
            "security_groups": ["behind"],
        },
        {
            "name": "web-b",
            "subnet": "isolated",
            "address": "10.0.3.12",
            "security_groups": ["behind"],
        },
    ],
    "load_balancer": [
        {
            "name": "front",
            "security_groups": ["front"],
            "node": [{"subnet": "astray", "address": NODE}],
            "listener": [
                {"protocol": "TCP", "port": 80, "target_group": "web"},
                {"protocol": "TCP", "port": 81, "target_group": "none"},
                {"protocol": "TCP", "port": 82, "target_group": "other-port"},
            ],
        }
    ],
    "target_group": [
        {"name": "web", "port": 80, "target": [{"host": "web-a"}, {"host": "web-b"}]},
        {"name": "none", "port": 80},
        {"name": "other-port", "port": 8080, "target": [{"host": "web-a"}]},
    ],
}
WEB_A, WEB_B = ("tcp", "10.0.3.11", 80), ("tcp", "10.0.3.12", 80)


@pytest.fixture
def scene(directory: Path) -> Scene:
    return scene_of(directory, vpc=[VPC | FRONT], function=FUNCTIONS)


def healthy(scene: Scene, *targets: str) -> None:
    """Have checks found these hosts' targets healthy, and the others not."""
    tables = scene.region.tables
    names = {host.id: host.name for host in tables.hosts.values()}
    (group,) = (each for each in tables.target_groups.values() if each.name == "web")
    states = {True: TargetState.HEALTHY, False: TargetState.UNHEALTHY}
    found = tuple(replace(each, state=states[names[each.id] in targets]) for each in group.targets)
    with tables.transaction():
        tables.put(replace(group, targets=found))


def steps(scene: Scene, *question: Any) -> dict[str, dict[str, Any]]:
    return {row["step"]: row for row in scene.trace(*question)["steps"]}


@pytest.mark.parametrize("source", ["client", "f"])
def test_through_a_load_balancer(scene: Scene, source: str) -> None:
    answer = scene.trace(source, NODE, 80)
    assert answer["reachable"], answer["verdict"]
    found = {row["step"]: row for row in answer["steps"]}
    assert list(found) == [
        *("source", "egress", "route", "load balancer", "node ingress", "target group", "choice"),
        *("node egress", "target", "ingress", "listener"),
    ]
    assert found["load balancer"]["text"] == "its node in zone a listens to tcp 80"
    assert found["load balancer"]["rule"].startswith("front (")
    assert found["node ingress"]["rule"].startswith("front (sg-")
    assert "all of them are used" in found["target group"]["text"]
    assert found["choice"]["text"] == "one of 10.0.3.11:80, 10.0.3.12:80"
    assert found["ingress"]["rule"].startswith("behind (sg-")
    assert found["listener"]["text"] == "a socket takes tcp 10.0.3.11:80"


@pytest.mark.parametrize(
    ("question", "step", "words"),
    [
        (("client", NODE), "load balancer", "its nodes answer no pings"),
        (("client", NODE, 443), "load balancer", "it has no listener for tcp 443"),
        (("client", NODE, 80, "udp"), "load balancer", "it has no listener for udp 80"),
        (("client", NODE, 81), "target group", "no target that is registered"),
        (("plain", NODE, 80), "node ingress", "no rule of these groups admits 10.0.0."),
        (("client", NODE, 82), "ingress", "no rule of these groups admits 10.0.1."),
    ],
)
def test_what_fails(scene: Scene, question: tuple[Any, ...], step: str, words: str) -> None:
    found = scene.failing(*question)
    assert list(found) == [step]
    assert words in found[step][1]


def test_a_target_that_is_not_reached_is_shown(scene: Scene) -> None:
    scene.sockets = [WEB_A]
    found = steps(scene, "client", NODE, 80)
    assert found["choice"]["text"].endswith(": 10.0.3.12:80 is not reached")
    assert scene.failing("client", NODE, 80)["listener"][1] == "no socket takes tcp 10.0.3.12:80"
    scene.sockets = []
    found = steps(scene, "client", NODE, 80)
    assert found["choice"]["text"].endswith(": none of them is reached")


def test_health_decides_who_is_chosen(scene: Scene) -> None:
    assert {each.state for each in _web(scene)} == {TargetState.INITIAL}
    healthy(scene, "web-b")
    found = steps(scene, "client", NODE, 80)
    assert found["target group"]["text"] == "1 of 2 targets in the node's reach are healthy"
    assert found["choice"]["text"] == "one of 10.0.3.12:80"
    scene.sockets = [WEB_B]
    assert scene.trace("client", NODE, 80)["reachable"]


def _web(scene: Scene) -> Any:
    groups = scene.region.tables.target_groups.values()
    return next(each.targets for each in groups if each.name == "web")


def test_network_acls_on_both_legs(scene: Scene) -> None:
    with scene.region.commands() as commands:
        commands.create_network_acl("shop", "edge")
        commands.associate_network_acl("edge", ["astray"])
    ((name, (rule, text)),) = scene.failing("client", NODE, 80).items()
    assert name == "network ACL"
    assert rule.endswith("): *")
    assert text == "it enters subnet astray, whose network ACL refuses it"
