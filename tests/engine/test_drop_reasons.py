# SPDX-License-Identifier: Apache-2.0
"""Every reason of the enum is shown by a vector or a test, and is counted when it happens."""

import pytest

from hyperplane_nat.engine import Action, DropReason
from tests.engine import scenario, traffic, vector
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, packet

VECTORS = vector.load_all()

TESTED_HERE = {DropReason.NEIGHBOUR_FAILED, DropReason.NEIGHBOUR_TABLE_FULL}

OF_FRAGMENTS = {DropReason.FRAGMENT_QUOTA, DropReason.FRAGMENT_TIMEOUT}
"""Of what waits, and so of no single step: see test_fragments.py."""

OF_THE_FORWARDER = {DropReason.OVERSIZE, DropReason.VLAN, DropReason.FAIR_SHARE}
"""Counted where frames are received, before the engine sees them: see tests/forwarder."""


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
    assert shown.isdisjoint(TESTED_HERE | OF_FRAGMENTS | OF_THE_FORWARDER)
    assert shown | TESTED_HERE | OF_FRAGMENTS | OF_THE_FORWARDER | {DropReason.NONE} == set(
        DropReason
    )


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


def test_failed_neighbour() -> None:
    """Packets to a next hop that did not answer are dropped until it is forgotten or answers."""
    target = EngineTarget(scenario.Setup())
    frame = traffic.datagram(1, 5000)

    def outcome() -> tuple[Action, DropReason]:
        verdict = target.engine.translate(frame, INSIDE, 1, 0)
        return verdict.action, verdict.reason

    target.engine.fail_neighbour(0, scenario.WEB)
    assert outcome() == (Action.DROP, DropReason.NEIGHBOUR_FAILED)
    target.engine.set_neighbour(0, scenario.WEB, None)
    assert outcome() == (Action.PUNT, DropReason.NONE)
    target.engine.fail_neighbour(0, scenario.WEB)
    assert outcome() == (Action.DROP, DropReason.NEIGHBOUR_FAILED)
    target.engine.set_neighbour(0, scenario.WEB, scenario.neighbour_mac(0, scenario.WEB))
    assert outcome() == (Action.FORWARD, DropReason.NONE)
    assert target.count("drop_neighbour_failed") == 2
    target.close()


@pytest.mark.parametrize("probed", [False, True])
def test_failed_neighbour_awaits_no_reply(probed: bool) -> None:
    """A reply that comes after a neighbour was given up teaches nothing, probed before or not."""
    target = EngineTarget(scenario.Setup())
    if probed:
        target.engine.probe_neighbour(0, scenario.WEB)
    target.engine.fail_neighbour(0, scenario.WEB)
    mac = scenario.neighbour_mac(0, scenario.WEB)
    body = packet.arp(
        operation=2, sender_mac=mac, sender=scenario.WEB, target=scenario.INTERFACE_ADDRESSES[0]
    )
    frame = packet.ethernet(scenario.interface_mac(0), mac, packet.ETHERTYPE_ARP, body)
    verdict = target.engine.translate(frame, OUTSIDE, 0, 0)
    assert verdict.reason is DropReason.ARP_UNSOLICITED
    target.close()


def test_neighbour_table_full() -> None:
    """An environment that sends to every address of a large subnet fills a bounded table."""
    setup = scenario.Setup(flows_max=70_000, ports=Ports(40000, 40000, 1))
    target = EngineTarget(setup)
    engine = target.engine
    engine.set_interface(
        0,
        address="10.0.1.10",
        mac=scenario.interface_mac(0),
        subnet="10.0.0.0/8",
        router="10.0.1.1",
        destinations=["10.0.0.0/8"],
    )
    outcomes = (
        engine.translate(
            traffic.datagram(1, 5000, remote=f"10.7.{number >> 8}.{number & 255}"), INSIDE, 1, 0
        )
        for number in range(60_000)
    )
    refused = next(verdict for verdict in outcomes if verdict.action is not Action.PUNT)
    assert refused.reason is DropReason.NEIGHBOUR_TABLE_FULL
    assert target.count("drop_neighbour_table_full") == 1
    # Next hops that are known are not concerned.
    verdict = engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 0)
    assert verdict.action is Action.FORWARD
    with pytest.raises(MemoryError):
        engine.set_neighbour(0, "10.200.0.1", "02:00:00:00:00:01")
    assert target.problems() == []
    target.close()
