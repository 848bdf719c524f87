# SPDX-License-Identifier: Apache-2.0
"""What stands is read back as it was built, and damage has a name."""

from __future__ import annotations

import pytest

from netns import namespace, topology
from netns.survey import AlteredEnvironment, Broken, Survey
from tests.netns.conftest import inspect, lab_spec
from tests.netns.test_topology import DAMAGE


@pytest.mark.live
def test_nothing_stands(lab: str) -> None:
    assert topology.survey(lab) == Survey(None)


@pytest.mark.live
def test_what_stands_is_what_was_built(lab: str) -> None:
    built = topology.build(lab_spec(lab, 3))
    found = topology.survey(lab)
    assert found.gateway == built.gateway
    assert found.slots == built.slots
    assert found.interfaces == built.interfaces
    assert not found.broken
    assert {(each.address, each.gateway, each.mtu) for each in found.environments} == {
        ("169.254.100.2/30", "169.254.100.1", 1500)
    }
    (vpc,) = found.vpcs
    assert vpc.name == "customer"
    assert vpc.addresses == {"10.0.1.1", "10.0.1.80", "10.0.1.81"}
    assert [(sorted(each.addresses), each.mtu) for each in vpc.interfaces] == [
        (["10.0.1.10"], 1400),
        (["10.0.1.11"], 1400),
    ]


BROKEN: dict[str, Broken] = {
    "one environment more": Broken(environments=(9,)),
    "half-made environment": Broken(environments=(2,)),
    "slot gone": Broken(environments=(1,)),
    "slot down": Broken(environments=(1,)),
    "host route gone": Broken(links=("eni-a",)),
    "ingress open": Broken(environments=(1,)),
}


@pytest.mark.live
@pytest.mark.parametrize("damage", BROKEN)
def test_damage_is_named_by_what_removes_it(lab: str, damage: str) -> None:
    spec = lab_spec(lab, 2)
    topology.build(spec)
    DAMAGE[damage](lab)
    found = topology.survey(lab)
    assert found.broken == BROKEN[damage]

    topology.remove_environments(lab, found.broken.environments)
    topology.remove_interfaces(lab, found.broken.links)
    mended = topology.survey(lab)
    assert mended == Survey(found.gateway, found.environments, found.vpcs)

    standing = {slot.number for slot in mended.slots}
    topology.add_environments(spec, {1, 2} - standing)
    names = {each.name for each in mended.interfaces}
    vpc = spec.vpcs[0]
    missing = [each for each in vpc.interfaces if each.name not in names]
    topology.add_interfaces(lab, "customer", missing, mtu=vpc.mtu)
    assert inspect(spec) is not None


@pytest.mark.live
@pytest.mark.parametrize("damage", ["eth0 down", "address gone", "route gone", "other MTU"])
def test_what_an_environment_does_to_itself_is_no_damage(lab: str, damage: str) -> None:
    built = topology.build(lab_spec(lab, 2))
    DAMAGE[damage](lab)
    found = topology.survey(lab)
    assert not found.broken
    assert [each.slot for each in found.environments] == [built.slots[1]]
    assert found.altered == (AlteredEnvironment(built.slots[0], 1500),)
    assert found.served == {number: (built.slots[number - 1], 1500) for number in (1, 2)}


@pytest.mark.live
def test_links_that_others_made_are_named_apart(lab: str) -> None:
    topology.build(lab_spec(lab, 1))
    DAMAGE["one link more"](lab)
    assert topology.survey(lab).broken == Broken(foreign_links=("more", "more2"))


@pytest.mark.live
def test_without_a_gateway_all_is_broken(lab: str) -> None:
    topology.build(lab_spec(lab, 2))
    DAMAGE["gateway gone"](lab)
    assert topology.survey(lab) == Survey(None, broken=Broken((1, 2), ("customer",)))
    topology.destroy(lab)
    assert topology.survey(lab) == Survey(None)


@pytest.mark.live
@pytest.mark.parametrize("part", ["env-007", "env-0", "env-99999", "vpc-Upper", "vpc-" + "a" * 33])
def test_a_part_that_cannot_be_is_named(lab: str, part: str) -> None:
    spec = lab_spec(lab, 1)
    topology.build(spec)
    name = f"hp-{lab}-{part}"
    namespace.path(name).touch()
    found = topology.survey(lab)
    assert found.broken == Broken(namespaces=(name,))
    assert inspect(spec) is None
    assert len(found.slots) == 1


@pytest.mark.live
def test_a_half_made_vpc(lab: str) -> None:
    topology.build(lab_spec(lab, 1))
    namespace.path(topology.vpc_namespace(lab, "other")).touch()
    found = topology.survey(lab)
    assert found.broken == Broken(vpcs=("other",))
    topology.remove_vpc(lab, "other")
    assert not topology.survey(lab).broken


@pytest.mark.live
def test_links_of_a_vpc_that_lost_its_name(lab: str) -> None:
    spec = lab_spec(lab, 1)
    topology.build(spec)
    where = topology.vpc_namespace(lab, "customer")
    # Whoever holds the namespace keeps its links alive.
    with namespace.opened(where):
        DAMAGE["vpc gone"](lab)
        found = topology.survey(lab)
        assert found.broken == Broken(links=("eni-a", "eni-b"))
        topology.remove_interfaces(lab, found.broken.links)
        topology.add_vpc(lab, spec.vpcs[0])
        assert inspect(spec) is not None
