# SPDX-License-Identifier: Apache-2.0
"""Network ACLs in a region: commands, declarations, and what the forwarder is to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.network_acl_description import describe_network_acls
from hyperplane_nat.model.network_acl_entities import NetworkAclEntry
from hyperplane_nat.model.network_acls import default_id
from hyperplane_nat.model.resources import NetworkAclResource, Resources, SubnetResource
from tests.model.support import Scene, lab, network, refusal, vpc
from tests.model.test_hosts import command, lines, refused

ALL = network("0.0.0.0/0")
WEB = NetworkAclEntry(100, True, 6, ALL, 443, 443)
DENY = NetworkAclEntry(90, False, 6, network("192.0.2.0/24"), 443, 443)
ANSWERS = NetworkAclEntry(100, True, 6, ALL, 1024, 65535)
EDGE = NetworkAclResource("edge", subnets=("a",), ingress=(WEB, DENY), egress=(ANSWERS,))


def declared(*acls: NetworkAclResource, **fields: Any) -> Resources:
    return lab(vpcs=[replace(vpc(), network_acls=acls, **fields)])


def begun(*acls: NetworkAclResource) -> Scene:
    scene = Scene()
    scene.apply(declared(*acls))
    return scene


def shown(scene: Scene) -> dict[str, list[str]]:
    """The subnets of each network ACL."""
    return {
        acl["NetworkAclName"]: [each["SubnetName"] for each in acl["Associations"]]
        for acl in describe_network_acls(scene.region)
    }


@pytest.mark.requirement("VPC-acl-default", profile="both")
def test_every_vpc_has_a_default_one_that_lets_all_pass() -> None:
    scene = begun()
    (acl,) = describe_network_acls(scene.region)
    assert (acl["IsDefault"], acl["NetworkAclName"]) == (True, "default")
    assert [each["SubnetName"] for each in acl["Associations"]] == ["a", "b"]
    assert [
        (each["Egress"], each["RuleNumber"], each["RuleAction"], each["Protocol"])
        for each in acl["Entries"]
    ] == [
        (False, 100, "allow", "-1"),
        (False, 32767, "deny", "-1"),
        (True, 100, "allow", "-1"),
        (True, 32767, "deny", "-1"),
    ]
    assert scene.region.wanted().network_acls == ()
    assert scene.region.tables.network_acls == {}


def test_a_declaration_from_its_first_line_to_its_last() -> None:
    scene = Scene()
    rest = NetworkAclResource("rest", default=True, ingress=(WEB,))
    made = lines(scene, declared(EDGE, rest))
    assert [each for each in made if each[1] == "network-acl"] == [
        ("create", "network-acl", "customer/edge", "2 ingress, 1 egress rules"),
        ("change", "network-acl", "customer/rest", "1 ingress, 0 egress rules"),
    ]
    assert lines(scene, declared(EDGE, rest)) == []
    assert shown(scene) == {"rest": ["b"], "edge": ["a"]}
    (wanted,) = scene.region.wanted().network_acls
    assert [(each.cidr, len(each.ingress)) for each in wanted.subnets] == [
        ("10.0.1.0/24", 2),
        ("10.0.2.0/24", 1),
    ]
    first, second = wanted.subnets[0].ingress
    assert (first.allow, first.cidr) == (False, "192.0.2.0/24")
    assert (second.protocol, second.first, second.last) == ("tcp", 443, 443)
    assert "10.0.0.2/32" in wanted.exempt
    assert "169.254.0.0/16" in wanted.exempt
    moved = lines(scene, declared(replace(EDGE, subnets=("b",))))
    assert moved == [
        ("change", "network-acl", "customer/edge", "2 ingress, 1 egress rules"),
        ("delete", "network-acl", "customer/rest", ""),
    ]
    assert shown(scene) == {"default": ["a"], "edge": ["b"]}
    assert lines(scene, declared()) == [("delete", "network-acl", "customer/edge", "")]
    assert scene.region.wanted().network_acls == ()
    assert lines(scene, lab(vpcs=()))[-1][:3] == ("delete", "vpc", "customer")
    assert scene.region.tables.network_acls == {}


def test_one_that_commands_have_made() -> None:
    scene = begun()
    command(scene, lambda commands: commands.create_network_acl("customer", "edge"))
    command(scene, lambda commands: commands.associate_network_acl("edge", ["a"]))
    (wanted,) = scene.region.wanted().network_acls
    assert [(each.cidr, each.ingress) for each in wanted.subnets] == [("10.0.1.0/24", ())]

    def enter(commands: Commands) -> None:
        commands.create_network_acl_entry("edge", WEB, egress=False)
        commands.create_network_acl_entry("edge", DENY, egress=False)
        commands.replace_network_acl_entry("edge", replace(WEB, first=80, last=80), egress=False)
        commands.create_network_acl_entry("edge", ANSWERS, egress=True)
        commands.delete_network_acl_entry("edge", 90, egress=False)

    command(scene, enter)
    (acl,) = scene.region.tables.network_acls.values()
    assert acl.ingress == (replace(WEB, first=80, last=80),)
    assert acl.egress == (ANSWERS,)
    # It stays at a declaration that does not name it, and what is wanted of it.
    assert lines(scene, declared()) == []
    command(scene, lambda commands: commands.disassociate_network_acl("edge", ["a"]))
    assert scene.region.wanted().network_acls == ()
    command(scene, lambda commands: commands.delete_network_acl("edge"))
    assert shown(scene) == {"default": ["a", "b"]}


def test_the_default_one_may_be_changed() -> None:
    scene = begun()
    command(
        scene,
        lambda commands: commands.create_network_acl_entry(
            "customer/default", replace(DENY, protocol=-1, first=0, last=65535), egress=False
        ),
    )
    (wanted,) = scene.region.wanted().network_acls
    assert [each.allow for each in wanted.subnets[0].ingress] == [False, True]
    assert len(wanted.subnets) == 2
    tables = tables_of(document_of(scene.region.tables))
    (acl,) = tables.network_acls.values()
    assert acl.id == default_id(
        next(each for each in tables.vpcs.values() if each.name == "customer")
    )


def test_what_the_gateway_does_not_carry_is_not_told() -> None:
    gre = NetworkAclEntry(10, True, 47, ALL)
    scene = begun(replace(EDGE, ingress=(gre, WEB)))
    (wanted,) = scene.region.wanted().network_acls
    assert [each.protocol for each in wanted.subnets[0].ingress] == ["tcp"]


def create(entry: NetworkAclEntry) -> Callable[[Commands], object]:
    return lambda commands: commands.create_network_acl_entry("edge", entry, egress=False)


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (lambda c: c.network_acl("acl-1"), "InvalidNetworkAclID.NotFound"),
        (lambda c: c.create_network_acl("nowhere"), "InvalidVpcID.NotFound"),
        (lambda c: c.create_network_acl("customer", "edge"), "InvalidParameterValue"),
        (lambda c: c.delete_network_acl("edge"), "DependencyViolation"),
        (lambda c: c.delete_network_acl("customer/default"), "InvalidParameterValue"),
        (create(replace(WEB, allow=False)), "NetworkAclEntryAlreadyExists"),
        (create(replace(WEB, rule_number=0)), "InvalidParameterValue"),
        (create(replace(WEB, rule_number=32767)), "InvalidParameterValue"),
        (create(replace(WEB, rule_number=1, first=9, last=8)), "InvalidParameterValue"),
        (create(replace(WEB, rule_number=1, protocol=47)), "InvalidParameterValue"),
        (create(replace(WEB, rule_number=1, icmp_type=8)), "InvalidParameterValue"),
        (create(NetworkAclEntry(1, True, 1, ALL, icmp_code=0)), "InvalidParameterValue"),
        (
            lambda c: c.delete_network_acl_entry("edge", 7, egress=False),
            "InvalidNetworkAclEntry.NotFound",
        ),
        (
            lambda c: c.replace_network_acl_entry("edge", WEB, egress=True),
            "InvalidNetworkAclEntry.NotFound",
        ),
        (lambda c: c.associate_network_acl("edge", ["nowhere"]), "InvalidSubnetID.NotFound"),
        (lambda c: c.disassociate_network_acl("edge", ["b"]), "InvalidAssociationID.NotFound"),
    ],
)
def test_errors_have_the_names_of_ec2(work: Callable[[Commands], object], code: str) -> None:
    scene = begun(replace(EDGE, egress=()))
    assert refused(scene, work) == code


@pytest.mark.requirement("VPC-acl-quotas", profile="both")
def test_quotas_are_those_of_ec2_and_may_be_raised() -> None:
    rules = tuple(replace(WEB, rule_number=1 + each) for each in range(21))
    assert refusal(lambda: begun(replace(EDGE, ingress=rules))) == "NetworkAclEntryLimitExceeded"
    scene = begun(replace(EDGE, ingress=rules[:20]))
    assert refused(scene, create(rules[20])) == "NetworkAclEntryLimitExceeded"
    more = Scene(network_acl_rules_per_direction=40, network_acls_per_vpc=2)
    more.apply(declared(replace(EDGE, ingress=rules)))
    assert (
        refused(more, lambda commands: commands.create_network_acl("customer"))
        == "NetworkAclLimitExceeded"
    )


@pytest.mark.parametrize(
    ("acls", "code"),
    [
        ((EDGE, EDGE), "InvalidParameterValue"),
        ((EDGE, replace(EDGE, name="other")), "Resource.AlreadyAssociated"),
        ((replace(EDGE, subnets=("nowhere",)),), "InvalidSubnetID.NotFound"),
        ((replace(EDGE, ingress=(WEB, WEB)),), "NetworkAclEntryAlreadyExists"),
        ((replace(EDGE, name="default"),), "InvalidParameterValue"),
        (
            tuple(NetworkAclResource(name, default=True) for name in "xy"),
            "InvalidParameterValue",
        ),
    ],
)
def test_declarations_that_cannot_be(acls: tuple[NetworkAclResource, ...], code: str) -> None:
    assert refusal(lambda: begun(*acls)) == code


def test_a_subnet_goes_from_its_acl() -> None:
    scene = begun()
    command(scene, lambda commands: commands.create_network_acl("customer", "edge"))
    command(scene, lambda commands: commands.associate_network_acl("edge", ["a", "b"]))
    fewer = replace(vpc(), subnets=(SubnetResource("a", network("10.0.1.0/24")),))
    scene.apply(lab(vpcs=[fewer]))
    assert shown(scene) == {"default": [], "edge": ["a"]}
    assert refused(scene, lambda commands: commands.delete_vpc("customer")) == "DependencyViolation"
