# SPDX-License-Identifier: Apache-2.0
"""Every reason of the enum is shown by a vector or a test, and is counted when it happens."""

import pytest

from hyperplane_nat.engine import DropReason
from tests.engine import scenario, vector
from tests.engine.compiled import EngineTarget

VECTORS = vector.load_all()

OF_NEXT_HOPS = {DropReason.NEIGHBOUR_FAILED, DropReason.NEIGHBOUR_TABLE_FULL}
"""These need time, or many: see test_neighbours.py."""

OF_FRAGMENTS = {DropReason.FRAGMENT_QUOTA, DropReason.FRAGMENT_TIMEOUT}
"""Of what waits, and so of no single step: see test_fragments.py."""

OF_THE_FORWARDER = {DropReason.OVERSIZE, DropReason.VLAN, DropReason.FAIR_SHARE}
"""Counted where frames are received, before the engine sees them: see tests/forwarder."""


OF_FREEZING = {DropReason.ENVIRONMENT_FROZEN}
"""Nobody stands still in a vector: see test_freezing.py."""

OF_GATEWAYS = {DropReason.ROUTE_BLACKHOLE, DropReason.NAT_GATEWAY_PRIVATE}
"""In vectors every route leads somewhere: see test_gateways.py."""

OF_NETWORK_ACLS = {DropReason.NETWORK_ACL_EGRESS, DropReason.NETWORK_ACL_INGRESS}
"""In vectors everything passes the borders of subnets: see test_network_acls.py."""

ANSWERED = {"icmp": "drop_ttl_exceeded", "tcp": "drop_tcp_idle_timeout"}
"""What a packet is dropped for, by the kind of the answer that its sender gets."""


def _shown() -> set[DropReason]:
    return {
        DropReason[step.expect.split()[1].upper()]
        for case in VECTORS
        for step in case.steps
        if step.expect.startswith("drop ")
    }


def test_every_reason_is_shown() -> None:
    shown = _shown()
    elsewhere = OF_NEXT_HOPS | OF_FRAGMENTS | OF_THE_FORWARDER | OF_FREEZING | OF_GATEWAYS
    elsewhere |= OF_NETWORK_ACLS
    assert shown.isdisjoint(elsewhere)
    assert shown | elsewhere | {DropReason.NONE} == set(DropReason)


@pytest.mark.parametrize(
    "reason", sorted(set(DropReason) - {DropReason.NONE}), ids=lambda reason: reason.name
)
def test_every_reason_has_a_counter(reason: DropReason) -> None:
    target = EngineTarget(scenario.Setup())
    assert target.count(f"drop_{reason.name.lower()}") == 0
    target.close()


@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_drops_are_counted(case: vector.Vector) -> None:
    """The counters of a vector are the drops it names, and what was answered instead."""
    target = EngineTarget(case.setup)
    vector.play(case, target)
    expected: dict[str, int] = {}
    for step in case.steps:
        words = step.expect.split()
        if words[0] == "drop":
            expected[f"drop_{words[1]}"] = expected.get(f"drop_{words[1]}", 0) + 1
        elif words[0] == "reply" and step.out is not None and step.out["kind"] in ANSWERED:
            name = ANSWERED[step.out["kind"]]
            if step.out.get("type") == 3:
                name = "drop_mtu_exceeded"
            expected[name] = expected.get(name, 0) + 1
    counted = {
        name: value
        for name, value in target.counters().items()
        if name.startswith("drop_") and value
    }
    assert counted == expected
    target.close()
