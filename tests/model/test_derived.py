# SPDX-License-Identifier: Apache-2.0
"""What is remembered is made of nothing but what it is said to be made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperplane_nat.config.lab import load
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.model.derived import Derived
from hyperplane_nat.model.entities import KINDS
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.security_group import Compiler
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.wanted import Parts
from tests.model.support import Clock, Slots

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "services.toml"

ROWS = {
    "groups": "security_group",
    "endpoints": "vpc_endpoint",
    "_in_vpc": "interface",
    "_listeners": "listener",
    "_by_port": "listener",
    "_forwarding": "listener",
    **{f"{kind}s": kind for kind in KINDS},
    "network_acls": "network_acl",
    "internet_gateways": "internet_gateway",
    "elastic_addresses": "elastic_address",
    "gateway_endpoints": "gateway_endpoint",
}
"""By attributes of the tables what kind of rows they show."""


def revisions(counts: dict[str, int]) -> Derived:
    return Derived(lambda kinds: tuple(counts[kind] for kind in kinds))


def test_it_is_made_anew_when_a_kind_or_another_part_is_another_one() -> None:
    counts = {"vpc": 0, "host": 0}
    derived, made = revisions(counts), iter(range(10))

    def get(of: object = None) -> int:
        return derived.get("number", ("vpc",), lambda: next(made), of)

    assert (get(), get()) == (0, 0)
    counts["host"] += 1
    assert get() == 0
    counts["vpc"] += 1
    assert (get(), get()) == (1, 1)
    assert (get((1, 2)), get((1, 2)), get((1, 3))) == (2, 2, 3)


def test_what_fails_is_not_remembered() -> None:
    derived = revisions({})
    for _ in range(2):
        try:
            derived.get("number", (), lambda: 1 // 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("it was remembered")


class Watched(Tables):
    """Tables that know what was looked at."""

    def __init__(self) -> None:
        self.looked_at: set[str] = set()
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        if (kind := ROWS.get(name)) is not None:
            self.looked_at.add(kind)
        return super().__getattribute__(name)


def test_each_part_looks_at_what_it_says_alone(monkeypatch: Any) -> None:
    config, clock = load(EXAMPLE), Clock()
    tables = Watched()
    region = Region(clock=clock, settings=lifecycle_of(config), take_slot=Slots(), tables=tables)
    region.apply(region.plan(resources_of(config)))
    for _ in range(5):
        clock.pass_seconds(region.settings.interface_creation_seconds)
        region.advance()
    region.ready(region.begin("caller").environment)
    said: dict[str, set[str]] = {}
    get = Derived.get

    def watching(
        self: Derived,
        name: str,
        kinds: tuple[str, ...],
        make: Callable[[], Any],
        of: object = None,
    ) -> Any:
        before, tables.looked_at = tables.looked_at, set()
        try:
            result = get(self, name, kinds, make, of)
            others = of if isinstance(of, tuple) else (of,)
            said[name] = set(kinds)
            if any(isinstance(each, Compiler) for each in others):
                said[name] |= said["compiler"]
            assert tables.looked_at <= said[name], name
        finally:
            # Whoever is made of it is made of its kinds.
            tables.looked_at = before | set(kinds)
        return result

    monkeypatch.setattr(Derived, "get", watching)
    wanted = Parts(tables, region.settings).wanted()
    shown = {
        name: getattr(wanted, name)
        for name in said
        if name not in ("compiler", "surroundings", "routers")
    }
    assert set(shown) == {
        "vpcs",
        "interfaces",
        "environments",
        "hosts",
        "route_tables",
        "nat_gateways",
        "load_balancer_nodes",
        "endpoints",
        "network_acls",
        "given_back",
    }
    # All else is in the example.
    assert [name for name, part in shown.items() if not part] == ["network_acls", "given_back"]
    assert "surroundings" in said
