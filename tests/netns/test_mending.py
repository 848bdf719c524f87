# SPDX-License-Identifier: Apache-2.0
"""A lab that somebody has tampered with: the part is mended or left, all others are untouched."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from netns import namespace, topology
from netns.topology import Mended, Topology
from tests.netns.conftest import inspect, lab_spec
from tests.netns.test_topology import DAMAGE

pytestmark = pytest.mark.live


def ip(where: str, *arguments: str) -> None:
    subprocess.run(["ip", "-n", where, *arguments], check=True)


def _rename(lab: str) -> None:
    ip(f"hp-{lab}-env-1", "link", "set", "eth0", "down")
    ip(f"hp-{lab}-env-1", "link", "set", "eth0", "name", "lan", "up")


TAMPERED: dict[str, Callable[[str], None]] = {
    **{name: DAMAGE[name] for name in ("eth0 down", "address gone", "route gone", "other MTU")},
    "another name": _rename,
    "another hardware address": lambda lab: ip(
        f"hp-{lab}-env-1", "link", "set", "eth0", "address", "02:00:00:00:00:99"
    ),
    "one address more": lambda lab: ip(
        f"hp-{lab}-env-1", "address", "add", "192.0.2.1/32", "dev", "eth0"
    ),
}
"""What an environment can do to itself, its link being whole."""


@pytest.mark.parametrize("change", TAMPERED)
def test_what_is_inside_an_environment_is_left(lab: str, change: str) -> None:
    spec = lab_spec(lab, 2)
    built = topology.build(spec)
    TAMPERED[change](lab)
    mended = topology.mend(spec)
    assert mended is not None
    assert standing(mended) == built
    assert mended.notes == ("environment 1 has changed its own network: left as it is",)


REPAIRED = {
    "environment gone": "environment 2 was missing",
    "half-made environment": "environment 2 was missing",
    "slot gone": "environment 1 had lost its link",
    "slot down": "environment 1 had lost its link",
    "ingress open": "environment 1 had lost its link",
    "vpc gone": "VPC customer was missing",
    "service address gone": "VPC customer had lost 10.0.1.80",
    "host route gone": "network interface eni-a of VPC customer was broken",
}


def standing(mended: Mended) -> Topology:
    """What was found, as what was built is told."""
    found = mended.found
    assert found.gateway is not None
    slots = (slot for _, (slot, _) in sorted(found.served.items()))
    return Topology(found.gateway, tuple(slots), found.interfaces)


def others(found: Topology, but: str) -> list[object]:
    """The parts that `but`, a note, is not about."""
    return [
        each
        for each in (*found.slots, *found.interfaces)
        if f"environment {getattr(each, 'number', '')} " not in but
        and f"{getattr(each, 'name', 'none')} " not in but
        and "VPC" not in but.split()[0]
    ]


@pytest.mark.parametrize("damage", REPAIRED)
def test_a_part_is_made_again_and_no_other_touched(lab: str, damage: str) -> None:
    spec = lab_spec(lab, 2)
    built = topology.build(spec)
    DAMAGE[damage](lab)
    mended = topology.mend(spec)
    assert mended is not None
    [note] = mended.notes
    assert note.startswith(REPAIRED[damage])
    assert others(standing(mended), note) == others(built, note)
    assert inspect(spec) == standing(mended)
    again = topology.mend(spec)
    assert again is not None
    assert (standing(again), again.notes) == (standing(mended), ())


@pytest.mark.races
def test_what_runs_in_an_environment_goes_on_when_its_link_is_made_again(lab: str) -> None:
    spec = lab_spec(lab, 1)
    topology.build(spec)
    where = topology.environment_namespace(lab, 1)
    with namespace.call(where, socket.socket) as bound:
        bound.bind(("169.254.100.2", 7007))
        ip(where, "link", "delete", "eth0")
        mended = topology.mend(spec)
        assert mended is not None
        assert mended.notes == ("environment 1 had lost its link: it has a new one",)
        assert inspect(spec) == standing(mended)
        bound.listen()
        with namespace.call(where, socket.create_connection, ("169.254.100.2", 7007), 60):
            pass


def test_an_environment_with_something_else_in_the_place_of_eth0(lab: str) -> None:
    spec = lab_spec(lab, 2)
    built = topology.build(spec)
    where = topology.environment_namespace(lab, 1)
    ip(where, "link", "delete", "eth0")
    ip(where, "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    mended = topology.mend(spec)
    assert mended is not None
    assert mended.notes == ("environment 1 was missing: it is made anew",)
    assert inspect(spec) == standing(mended)
    assert standing(mended).slots[1] == built.slots[1]


def test_what_others_have_added_stays(lab: str) -> None:
    spec = lab_spec(lab, 1)
    built = topology.build(spec)
    vpc = topology.vpc_namespace(lab, "customer")
    DAMAGE["one link more"](lab)
    namespace.path(f"hp-{lab}-env-007").touch()
    ip(vpc, "address", "add", "10.0.1.99/32", "dev", "lo")
    ip(vpc, "route", "add", "172.16.0.0/12", "dev", "eni-a")
    mended = topology.mend(spec)
    assert mended is not None
    assert (standing(mended), mended.notes) == (built, ())
    assert "10.0.1.99" in mended.found.vpcs[0].addresses
    assert mended.found.broken.foreign_links == ("more", "more2")


def test_without_a_gateway_nothing_can_be_mended(lab: str) -> None:
    spec = lab_spec(lab, 1)
    assert topology.mend(spec) is None
    topology.build(spec)
    DAMAGE["gateway gone"](lab)
    assert topology.mend(spec) is None
    assert namespace.exists(topology.environment_namespace(lab, 1))
