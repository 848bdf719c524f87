# SPDX-License-Identifier: Apache-2.0
"""VPCs, interfaces and addresses come and go in a standing lab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from netns import NetnsError, ingress, links, namespace, topology, vpcs
from netns.netlink import RouteSocket
from netns.topology import InterfaceSpec, VpcSpec
from tests.netns.conftest import inspect, lab_spec

OTHER = VpcSpec(
    name="other",
    mtu=1400,
    addresses=("10.0.1.1", "10.0.1.80"),
    interfaces=(InterfaceSpec("eni-c", "10.0.1.10"), InterfaceSpec("eni-0123456789a", "10.0.1.11")),
)


def vpc_links(lab: str, vpc: str) -> set[str]:
    with namespace.call(topology.vpc_namespace(lab, vpc), RouteSocket) as inside:
        return set(links.links(inside))


def gateway_links(lab: str) -> set[str]:
    with namespace.call(topology.gateway_namespace(lab), RouteSocket) as inside:
        return set(links.links(inside))


@pytest.mark.live
def test_vpcs_come_and_go(lab: str) -> None:
    spec = lab_spec(lab, 1)
    built = topology.build(spec)
    # The same addresses as the first VPC has: they never meet.
    added = topology.add_vpc(lab, OTHER)
    assert [(each.name, each.vpc) for each in added] == [
        ("eni-c", "other"),
        ("eni-0123456789a", "other"),
    ]
    both = replace(spec, vpcs=(*spec.vpcs, OTHER))
    assert inspect(both) == replace(built, interfaces=(*built.interfaces, *added))

    topology.remove_vpc(lab, "other")
    assert gateway_links(lab) == {"lo", "env1", "eni-a", "eni-b"}
    topology.remove_vpc(lab, "other")
    assert inspect(spec) == built
    again = topology.add_vpc(lab, OTHER)
    # A hardware address belongs to the interface, not to one life of its link.
    assert [each.mac for each in again] == [each.mac for each in added]


@pytest.mark.live
def test_a_half_made_vpc_can_be_removed(lab: str) -> None:
    spec = lab_spec(lab, 0)
    built = topology.build(spec)
    namespace.path(topology.vpc_namespace(lab, "other")).touch()
    with pytest.raises(NetnsError, match="File exists"):
        topology.add_vpc(lab, OTHER)
    topology.remove_vpc(lab, "other")
    assert inspect(spec) == built


@pytest.mark.live
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(OTHER, name="customer"), "File exists"),
        (replace(OTHER, interfaces=(InterfaceSpec("eni-b", "10.0.1.9"),)), "eni-b: File exists"),
        (
            replace(OTHER, interfaces=(*OTHER.interfaces, InterfaceSpec("eni-d", "10.0.1.10"))),
            "File exists",
        ),
        (replace(OTHER, addresses=("10.0.1.80", "10.0.1.80")), "File exists"),
        (replace(OTHER, name="Upper"), "invalid VPC name"),
        (replace(OTHER, mtu=67), "MTU"),
        (replace(OTHER, addresses=("10.0.1",)), "IPv4 addresses"),
        (replace(OTHER, interfaces=(InterfaceSpec("env7", "10.0.1.9"),)), "cannot be named"),
        (replace(OTHER, interfaces=(InterfaceSpec("eni-0123456789-a", "10.0.1.9"),)), "16 char"),
    ],
)
def test_a_vpc_that_cannot_be_added_leaves_nothing(lab: str, change: VpcSpec, message: str) -> None:
    spec = lab_spec(lab, 1)
    built = topology.build(spec)
    with pytest.raises(NetnsError, match=message) as caught:
        topology.add_vpc(lab, change)
    assert "\n" not in str(caught.value)
    assert inspect(spec) == built


@pytest.mark.live
@pytest.mark.parametrize("stage", ["existing", "ingress"])
def test_a_failing_change_leaves_nothing(
    lab: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = lab_spec(lab, 0)
    built = topology.build(spec)

    def fail(*_arguments: object) -> None:
        raise NetnsError("made up", "for the test")

    changes: tuple[Callable[[], object], ...] = (
        lambda: topology.add_vpc(lab, OTHER),
        lambda: topology.add_interfaces(lab, "customer", OTHER.interfaces[1:], mtu=1400),
    )
    for change in changes:
        with monkeypatch.context() as patch:
            target = {"existing": (links, "existing"), "ingress": (ingress, "drop")}[stage]
            patch.setattr(*target, fail)
            with pytest.raises(NetnsError, match="made up"):
                change()
        assert inspect(spec) == built


@pytest.mark.live
def test_without_a_lab_nothing_is_added(lab: str) -> None:
    with pytest.raises(NetnsError, match="cannot open namespace"):
        topology.add_vpc(lab, OTHER)
    assert topology.strays(lab) == []
    topology.remove_vpc(lab, "other")


@pytest.mark.live
def test_interfaces_come_and_go(lab: str) -> None:
    spec = lab_spec(lab, 1)
    built = topology.build(spec)
    vpc = spec.vpcs[0]
    more = (InterfaceSpec("eni-c", "10.0.1.12"), InterfaceSpec("eni-d", "10.0.1.13"))
    added = topology.add_interfaces(lab, "customer", more, mtu=vpc.mtu)
    assert [(each.name, each.vpc) for each in added] == [
        ("eni-c", "customer"),
        ("eni-d", "customer"),
    ]
    wanted = replace(spec, vpcs=(replace(vpc, interfaces=(*vpc.interfaces, *more)),))
    assert inspect(wanted) == replace(built, interfaces=(*built.interfaces, *added))

    topology.remove_interfaces(lab, ["eni-d", "eni-c", "eni-never"])
    topology.remove_interfaces(lab, ["eni-d"])
    assert vpc_links(lab, "customer") == {"lo", "eni-a", "eni-b"}
    assert inspect(spec) == built
    assert topology.add_interfaces(lab, "customer", [], mtu=1500) == ()


@pytest.mark.live
@pytest.mark.parametrize(
    ("interfaces", "message"),
    [
        ([InterfaceSpec("eni-c", "10.0.1.12"), InterfaceSpec("eni-a", "10.0.1.13")], "File exists"),
        ([InterfaceSpec("eni-c", "10.0.1.12"), InterfaceSpec("eni-d", "10.0.1.10")], "File exists"),
        ([InterfaceSpec("eni-c", "10.0.1.12"), InterfaceSpec("eni-c", "10.0.1.13")], "two network"),
        ([InterfaceSpec("lo", "10.0.1.12")], "cannot be named"),
    ],
)
def test_interfaces_that_cannot_be_added_leave_nothing(
    lab: str, interfaces: list[InterfaceSpec], message: str
) -> None:
    spec = lab_spec(lab, 0)
    built = topology.build(spec)
    with pytest.raises(NetnsError, match=message):
        topology.add_interfaces(lab, "customer", interfaces, mtu=1400)
    assert inspect(spec) == built


@pytest.mark.live
def test_an_interface_needs_its_vpc(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    with pytest.raises(NetnsError, match="cannot open namespace"):
        topology.add_interfaces(lab, "other", [InterfaceSpec("eni-c", "10.0.1.12")], mtu=1400)
    assert gateway_links(lab) == {"lo", "eni-a", "eni-b"}


@pytest.mark.live
@pytest.mark.parametrize("name", ["lo", "env1"])
def test_a_slot_is_no_interface_to_remove(lab: str, name: str) -> None:
    with pytest.raises(NetnsError, match="cannot be named"):
        topology.remove_interfaces(lab, [name])


@pytest.mark.live
def test_addresses_come_and_go(lab: str) -> None:
    spec = lab_spec(lab, 0)
    built = topology.build(spec)
    vpc = spec.vpcs[0]
    topology.add_addresses(lab, "customer", ["10.0.1.90", "10.0.2.90"])
    more = replace(vpc, addresses=(*vpc.addresses, "10.0.1.90", "10.0.2.90"))
    assert inspect(replace(spec, vpcs=(more,))) == built

    with pytest.raises(NetnsError, match="File exists"):
        topology.add_addresses(lab, "customer", ["10.0.1.91", "10.0.1.80", "10.0.1.92"])
    assert inspect(replace(spec, vpcs=(more,))) == built

    topology.remove_addresses(lab, "customer", ["10.0.1.90", "10.0.2.90", "10.9.9.9"])
    topology.remove_addresses(lab, "customer", ["10.0.1.90"])
    assert inspect(spec) == built
    for change in (topology.add_addresses, topology.remove_addresses):
        with pytest.raises(NetnsError, match="IPv4 addresses"):
            change(lab, "customer", ["10.0.1"])


@pytest.mark.races
@pytest.mark.live
def test_a_lost_race_for_a_vpc_leaves_the_winner_alone(lab: str) -> None:
    spec = lab_spec(lab, 0)
    topology.build(spec)
    topology.add_vpc(lab, OTHER)
    found = topology.survey(lab)
    with pytest.raises(NetnsError, match="File exists"):
        topology.add_vpc(lab, replace(OTHER, interfaces=(InterfaceSpec("eni-z", "10.0.1.9"),)))
    assert topology.survey(lab) == found


def test_names_and_sizes_are_checked_before_anything_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def touch(*_arguments: object) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(vpcs, "_at_gateway", touch)
    with pytest.raises(NetnsError, match="invalid lab name"):
        topology.add_vpc("Upper", OTHER)
    with pytest.raises(NetnsError, match="invalid VPC name"):
        topology.add_interfaces("x", "Upper", OTHER.interfaces, mtu=1500)
    with pytest.raises(NetnsError, match="MTU"):
        topology.add_interfaces("x", "other", OTHER.interfaces, mtu=65536)
