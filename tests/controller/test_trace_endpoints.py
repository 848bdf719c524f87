# SPDX-License-Identifier: Apache-2.0
"""Endpoints in a trace: their state, who may come by them, and what is behind in another VPC."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.model.states import LoadBalancerState
from tests.controller.trace_scene import Scene, scene_of

ENDPOINT, NODE, TARGET = "10.0.1.200", "10.0.1.100", "10.0.1.11"
SHOP: dict[str, Any] = {
    "name": "shop",
    "cidr": "10.0.0.0/16",
    "subnet": [
        {"name": "front", "cidr": "10.0.1.0/24"},
        {"name": "web", "cidr": "10.0.2.0/24"},
    ],
    "security_group": [
        {
            "name": "front",
            "ingress": [
                {"protocol": "tcp", "ports": "80-82", "cidr": "10.0.1.0/24"},
                {"protocol": "tcp", "ports": "83", "group": "front"},
            ],
        },
        {"name": "web", "ingress": [{"protocol": "tcp", "ports": "80", "group": "front"}]},
    ],
    "host": [
        {"name": "web", "subnet": "web", "address": "10.0.2.11", "security_groups": ["web"]},
        # In the other VPC it is a client's.
        {"name": "twin", "subnet": "front", "address": TARGET},
    ],
    "load_balancer": [
        {
            "name": "front",
            "security_groups": ["front"],
            "node": [{"subnet": "front", "address": NODE}],
            "listener": [
                {"port": 80, "target_group": "web"},
                {"port": 81, "target_group": "twin"},
                {"port": 82, "target_group": "closed"},
                {"port": 83, "target_group": "web"},
            ],
        }
    ],
    "target_group": [
        {"name": "web", "port": 80, "target": [{"host": "web"}]},
        {"name": "twin", "port": 80, "target": [{"host": "twin"}]},
        {"name": "closed", "port": 8080, "target": [{"host": "web"}]},
    ],
    "endpoint_service": [{"name": "orders", "load_balancer": "front", "principals": ["*"]}],
}
BANK: dict[str, Any] = {
    "name": "bank",
    "cidr": "10.0.0.0/16",
    "subnet": [
        {"name": "desks", "cidr": "10.0.1.0/24"},
        {"name": "more", "cidr": "10.0.3.0/24"},
    ],
    "security_group": [
        {"name": "tellers"},
        {"name": "orders", "ingress": [{"protocol": "tcp", "ports": "80-83", "group": "tellers"}]},
    ],
    "host": [
        {
            "name": "teller",
            "subnet": "desks",
            "address": TARGET,
            "security_groups": ["tellers"],
        },
        {"name": "guest", "subnet": "desks"},
        {"name": "far", "subnet": "more", "security_groups": ["tellers"]},
    ],
    "endpoint": [
        {
            "name": "orders",
            "service": "shop/orders",
            "security_groups": ["orders"],
            "node": [{"subnet": "desks", "address": ENDPOINT}],
        }
    ],
}
FUNCTIONS = [
    {"name": "ledger", "vpc": "bank", "subnets": ["desks"], "security_groups": ["tellers"]}
]


@pytest.fixture
def scene(directory: Path) -> Scene:
    scene = scene_of(directory, vpc=[SHOP, BANK], function=FUNCTIONS)
    accept(scene)
    return scene


def accept(scene: Scene) -> None:
    with scene.region.commands() as commands:
        commands.accept_endpoints("orders", ["bank/orders"])
    scene.clock.pass_seconds(600)
    scene.region.advance()


@pytest.mark.parametrize("source", ["teller", "ledger"])
@pytest.mark.parametrize("target", [ENDPOINT, "orders.bank.internal"])
def test_through_an_endpoint(scene: Scene, source: str, target: str) -> None:
    answer = scene.trace(source, target, 80)
    assert answer["reachable"], answer["verdict"]
    found = {row["step"]: row for row in answer["steps"]}
    assert ("name" in found) == (target != ENDPOINT)
    assert [each for each in found if each != "name"] == [
        *("source", "egress", "route", "endpoint", "endpoint ingress", "load balancer"),
        *("node ingress", "target group", "choice", "node egress", "target", "ingress", "listener"),
    ]
    assert found["endpoint"]["rule"].startswith("orders (vpce-")
    assert found["endpoint"]["text"] == "Available: to load balancer front of VPC shop"
    assert found["endpoint ingress"]["rule"].endswith(": tcp 80-83 group tellers")
    assert found["node ingress"]["rule"].endswith(": tcp 80-82 10.0.1.0/24")
    assert found["choice"]["text"] == "one of 10.0.2.11:80"
    assert found["target"]["text"] == "host shop/web"
    assert found["ingress"]["text"] == f"{NODE} is admitted"


def test_a_target_with_its_clients_address(scene: Scene) -> None:
    answer = scene.trace("teller", ENDPOINT, 81)
    assert answer["reachable"], answer["verdict"]
    (row,) = (each for each in answer["steps"] if each["step"] == "target")
    assert row["text"] == "host shop/twin"


@pytest.mark.parametrize(
    ("question", "step", "words"),
    [
        (("teller", ENDPOINT), "endpoint ingress", "no rule of these groups admits 10.0.1.11"),
        (("guest", ENDPOINT, 80), "endpoint ingress", "no rule of these groups admits 10.0.1."),
        (("teller", ENDPOINT, 443), "endpoint ingress", "no rule of these groups admits"),
        (("far", ENDPOINT, 80), "node ingress", "no rule of these groups admits 10.0.3."),
        (("teller", ENDPOINT, 83), "node ingress", "no rule of these groups admits 10.0.1.11"),
        (("teller", ENDPOINT, 82), "ingress", f"no rule of these groups admits {NODE}"),
    ],
)
def test_what_fails(scene: Scene, question: tuple[Any, ...], step: str, words: str) -> None:
    found = scene.failing(*question)
    assert list(found) == [step]
    assert words in found[step][1]


def test_what_no_listener_is_for(directory: Path) -> None:
    open_to_all = BANK["endpoint"][0] | {"security_groups": []}
    scene = scene_of(directory, vpc=[SHOP, BANK | {"endpoint": [open_to_all]}], function=FUNCTIONS)
    accept(scene)
    assert scene.trace("teller", ENDPOINT, 80)["reachable"]
    ((name, (_, text)),) = scene.failing("teller", ENDPOINT, 443).items()
    assert (name, text) == ("load balancer", "it has no listener for tcp 443")
    assert scene.failing("teller", ENDPOINT)["load balancer"][1] == "its nodes answer no pings"


def test_one_that_leads_nowhere(directory: Path) -> None:
    scene = scene_of(directory, vpc=[SHOP, BANK], function=FUNCTIONS)
    answer = scene.trace("teller", ENDPOINT, 80)
    assert answer["drop_reason"] == "endpoint_unavailable"
    assert scene.failing("teller", ENDPOINT, 80)["endpoint"][1] == "it is PendingAcceptance"
    accept(scene)
    tables = scene.region.tables
    (balancer,) = tables.load_balancers.values()
    with tables.transaction():
        tables.put(replace(balancer, state=LoadBalancerState.PROVISIONING))
    found = scene.failing("teller", ENDPOINT, 80)
    assert found["endpoint"][1] == "load balancer front is provisioning"
    assert list(found) == ["endpoint"]


@pytest.mark.parametrize(
    ("vpc", "subnet", "source"), [("bank", "desks", "far"), ("shop", "web", "teller")]
)
def test_network_acls_of_both_vpcs(directory: Path, vpc: str, subnet: str, source: str) -> None:
    front = SHOP["security_group"][0] | {"ingress": [{"protocol": "all", "cidr": "10.0.0.0/8"}]}
    groups = [front, SHOP["security_group"][1]]
    scene = scene_of(directory, vpc=[SHOP | {"security_group": groups}, BANK], function=FUNCTIONS)
    accept(scene)
    assert scene.trace(source, ENDPOINT, 80)["reachable"]
    with scene.region.commands() as commands:
        commands.create_network_acl(vpc, "edge")
        commands.associate_network_acl("edge", [f"{vpc}/{subnet}"])
    ((name, (rule, text)),) = scene.failing(source, ENDPOINT, 80).items()
    assert name == "network ACL"
    assert rule.endswith("): *")
    assert text == f"it enters subnet {subnet}, whose network ACL refuses it"


def test_who_comes_by_an_endpoint_of_the_balancers_own_vpc_is_in_no_group(directory: Path) -> None:
    inside = {"name": "inside", "subnet": "web", "security_groups": ["front"]}
    inner = {
        "name": "inner",
        "service": "shop/orders",
        "node": [{"subnet": "web", "address": "10.0.2.200"}],
    }
    shop = SHOP | {"host": [*SHOP["host"], inside], "endpoint": [inner]}
    scene = scene_of(directory, vpc=[shop, BANK], function=FUNCTIONS)
    with scene.region.commands() as commands:
        commands.accept_endpoints("orders", ["shop/inner"])
    scene.clock.pass_seconds(600)
    scene.region.advance()
    assert scene.trace("inside", NODE, 83)["reachable"]
    ((name, (_, text)),) = scene.failing("inside", "10.0.2.200", 83).items()
    assert (name, text[:34]) == ("node ingress", "no rule of these groups admits 10.")
