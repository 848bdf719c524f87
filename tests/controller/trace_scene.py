# SPDX-License-Identifier: Apache-2.0
"""A region to trace in: two VPCs with hosts, groups, gateways and functions, and nothing below.

Who listens is said by the test, and the state map is empty, or that of an engine of the test's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.controller.trace.question import Looks, Question
from hyperplane_nat.controller.trace.verdict import traced
from hyperplane_nat.engine import StateMap
from hyperplane_nat.flow_query import Protocol
from hyperplane_nat.model.region import Region
from tests.controller.support import config_in
from tests.engine.compiled import MEMORY_DIRECTORY
from tests.model.support import Clock, Slots

SITE, STORE, GUARDED, OPEN = "198.51.100.80", "10.0.1.54", "10.0.1.90", "10.0.1.60"

VPC: dict[str, Any] = {
    "name": "shop",
    "cidr": "10.0.0.0/16",
    "internet_gateway": True,
    "subnet": [
        {"name": "public", "cidr": "10.0.0.0/24"},
        {"name": "private", "cidr": "10.0.1.0/24"},
        {"name": "audit", "cidr": "10.0.2.0/24"},
        {"name": "isolated", "cidr": "10.0.3.0/24"},
        {"name": "astray", "cidr": "10.0.4.0/24"},
    ],
    "security_group": [
        {"name": "app"},
        {
            "name": "db",
            "ingress": [{"protocol": "tcp", "ports": "5432", "group": "app"}],
            "egress": [],
        },
        {"name": "guard", "ingress": [{"protocol": "tcp", "ports": "80", "group": "app"}]},
        {
            "name": "narrow",
            "egress": [
                {"protocol": "udp", "ports": "1000-2000", "cidr": "10.0.1.0/24"},
                {"protocol": "tcp", "ports": "25", "cidr": "0.0.0.0/0"},
            ],
        },
    ],
    "route_table": [
        {
            "name": "public",
            "subnets": ["public"],
            "routes": [{"destination": "0.0.0.0/0", "internet_gateway": True}],
        },
        {
            "name": "private",
            "subnets": ["private"],
            "routes": [
                {"destination": "0.0.0.0/0", "nat_gateway": "out"},
                {"destination": "198.51.100.0/25", "nat_gateway": "out"},
                {"destination": "192.0.2.128/25", "host": "open"},
            ],
        },
        {
            "name": "audit",
            "subnets": ["audit"],
            "routes": [{"destination": "0.0.0.0/0", "nat_gateway": "inside"}],
        },
        {
            "name": "astray",
            "subnets": ["astray"],
            "routes": [{"destination": "0.0.0.0/0", "nat_gateway": "lost"}],
        },
    ],
    "nat_gateway": [
        {"name": "out", "subnet": "public", "elastic_addresses": ["203.0.113.10"]},
        {"name": "inside", "subnet": "public", "connectivity": "private"},
        {"name": "lost", "subnet": "isolated", "elastic_addresses": ["203.0.113.11"]},
    ],
    "host": [
        {"name": "bastion", "subnet": "public", "public_address": "203.0.113.9"},
        {"name": "plain", "subnet": "public"},
        {"name": "client", "subnet": "private", "security_groups": ["app"]},
        {"name": "store", "subnet": "private", "address": STORE, "security_groups": ["db"]},
        {"name": "open", "subnet": "private", "address": OPEN},
        {"name": "audit", "subnet": "audit"},
        {"name": "lonely", "subnet": "isolated"},
        {"name": "astray", "subnet": "astray"},
    ],
    "service": [
        {
            "name": "guarded",
            "kind": "http",
            "address": GUARDED,
            "port": 80,
            "security_groups": ["guard"],
        },
        {"name": "postgres", "kind": "http", "host": "store", "port": 5432},
    ],
}
OTHER: dict[str, Any] = {
    "name": "other",
    "cidr": "10.0.0.0/16",
    "enable_dns_support": False,
    "subnet": [{"name": "o", "cidr": "10.0.1.0/24"}],
    "host": [{"name": "twin", "subnet": "o", "address": OPEN}],
}
FUNCTIONS: list[dict[str, Any]] = [
    {"name": "f", "vpc": "shop", "subnets": ["private"], "security_groups": ["app"]},
    {"name": "n", "vpc": "shop", "subnets": ["private"], "security_groups": ["narrow"]},
    {"name": "p", "vpc": "shop", "subnets": ["public"], "security_groups": ["app"]},
    {
        "name": "each",
        "vpc": "shop",
        "networking": "interface-per-environment",
        "subnets": ["private"],
        "security_groups": ["app"],
    },
    {"name": "hook", "networking": "none"},
]


class _Held:
    """A map that stays open when it is closed."""

    def __init__(self, state_map: StateMap) -> None:
        self._map = state_map

    def __getattr__(self, name: str) -> Any:
        return getattr(self._map, name)

    def close(self) -> None: ...


@dataclass
class Scene:
    """A region, and who listens in it."""

    config: Config
    region: Region
    clock: Clock
    sockets: Collection[tuple[str, str, int]] | None = None
    """Protocol, address and port; None: all there are."""
    held_map: StateMap | None = None
    """That of an engine; None: an empty one."""
    forwards: bool = True
    asked: list[str] = field(default_factory=list)
    """Namespaces that were looked into."""

    def listening(self, where: str, protocol: str, address: str, port: int) -> bool:
        self.asked.append(where)
        return self.sockets is None or (protocol, address, port) in self.sockets or port == 53

    def state_map(self) -> StateMap:
        if self.held_map is not None:
            return cast(StateMap, _Held(self.held_map))
        path = MEMORY_DIRECTORY / f"hyperplane-nat-test-{id(self)}.map"
        try:
            return StateMap.create(path, flows_max=8, slots_max=64, interfaces_max=64, hosts_max=32)
        finally:
            path.unlink()

    def trace(
        self, source: str, target: str, port: int | None = None, protocol: Protocol | None = None
    ) -> dict[str, Any]:
        question = Question(source, target, port, protocol or ("tcp" if port else "icmp"))
        looks = Looks(self.listening, self.state_map, self.forwards)
        tables = self.region.tables.copy()
        return traced(question, self.config, tables, range(1, 31), looks, MEMORY_DIRECTORY)

    def failing(self, *question: Any) -> dict[str, tuple[str, str]]:
        """Rule and words of the steps that fail."""
        answer = self.trace(*question)
        found = {
            row["step"]: (row["rule"], row["text"])
            for row in answer["steps"]
            if row["outcome"] == "fails"
        }
        assert answer["reachable"] == (not found)
        return found

    def rules(self, *question: Any) -> dict[str, str]:
        """The rules of steps, all of which pass."""
        answer = self.trace(*question)
        assert answer["reachable"], answer["verdict"]
        assert answer["drop_reason"] is None
        return {row["step"]: row["rule"] for row in answer["steps"]}


def scene_of(directory: Path, *, settled: bool = True, **sections: Any) -> Scene:
    config = config_in(
        directory,
        **(
            {
                "lab": {"environments": 0},
                "vpc": [VPC, OTHER],
                "function": FUNCTIONS,
                "internet": [{"name": "site", "kind": "http", "address": SITE, "port": 80}],
                "pool": {"size": 4},
            }
            | sections
        ),
    )
    clock, slots = Clock(), Slots(1, 20)
    region = Region(clock=clock, settings=lifecycle_of(config), take_slot=slots)
    region.apply(region.plan(resources_of(config)))
    if settled:
        clock.pass_seconds(600)
        region.advance()
    return Scene(config, region, clock)
