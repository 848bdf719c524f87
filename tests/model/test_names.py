# SPDX-License-Identifier: Apache-2.0
"""Names of a region: what each resolver answers for, where, and whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hyperplane_nat.model.names import LINK_LOCAL, WantedResolver, private_domain
from hyperplane_nat.model.resources import HostResource, Resources
from tests.model.support import NONE, Scene, address, function, lab, service, vpc


def host(name: str, at: str) -> HostResource:
    return HostResource(name, "a", address(at))


def resolver(scene: Scene, name: str = "customer") -> WantedResolver | None:
    return next(vpc.resolver for vpc in scene.region.wanted().vpcs if vpc.name == name)


def found(scene: Scene, name: str = "customer") -> WantedResolver:
    result = resolver(scene, name)
    assert result is not None
    return result


def test_hosts_and_services_have_names_in_their_vpc_and_the_internet_in_all() -> None:
    scene = Scene()
    one = replace(vpc(services=(service("web", "10.0.1.50"),)), hosts=(host("store", "10.0.1.54"),))
    other = replace(vpc("other", subnets=(("c", "10.0.1.0/24"),)), hosts=())
    scene.apply(
        replace(
            lab(function("out", NONE), vpcs=(one, other)),
            internet=(service("api", "203.0.113.9"),),
        )
    )
    internet = (("api", "203.0.113.9"), ("api.internet.internal", "203.0.113.9"))
    assert found(scene).names == (
        ("store.customer.internal", "10.0.1.54"),
        ("web.customer.internal", "10.0.1.50"),
        *internet,
    )
    assert found(scene, "other").names == internet
    assert found(scene, "internet").names == internet


def test_it_answers_at_base_plus_2_and_the_link_local_address() -> None:
    scene = Scene()
    scene.apply(lab(function("out", NONE)))
    assert found(scene).addresses == ("10.0.0.2", str(LINK_LOCAL))
    assert found(scene).clients == "10.0.0.0/16"
    (customer,) = (each for each in scene.region.wanted().vpcs if each.name == "customer")
    assert {"10.0.0.2", "169.254.169.253"} <= set(customer.addresses)
    # Functions outside every VPC come from the Lambda service's own addresses.
    assert found(scene, "internet").addresses == (str(LINK_LOCAL),)
    assert found(scene, "internet").clients == "192.0.2.0/24"


def test_of_a_host_and_a_service_of_one_name_it_is_the_host() -> None:
    scene = Scene()
    scene.apply(
        lab(
            vpcs=(
                replace(
                    vpc(services=(service("store", "10.0.1.50"),)),
                    hosts=(host("store", "10.0.1.54"),),
                ),
            )
        )
    )
    assert found(scene).names == (("store.customer.internal", "10.0.1.54"),)


def test_names_follow_what_comes_and_goes() -> None:
    scene = Scene()
    bare = vpc()
    scene.apply(lab(vpcs=(bare,)))
    revision = scene.region.network_revision
    assert found(scene).names == ()
    scene.apply(lab(vpcs=(replace(bare, hosts=(host("store", "10.0.1.54"),)),)))
    assert found(scene).names == (("store.customer.internal", "10.0.1.54"),)
    assert scene.region.network_revision > revision
    scene.apply(lab(vpcs=(bare,)))
    assert found(scene).names == ()


def with_dns(support: bool, hostnames: bool) -> Resources:
    return lab(vpcs=(replace(vpc(), enable_dns_support=support, enable_dns_hostnames=hostnames),))


@pytest.mark.requirement("AWS-dns-attributes", profile="both")
def test_attributes_are_those_of_aws_and_change_in_place() -> None:
    scene = Scene()
    scene.apply(lab())
    (before,) = (each for each in scene.region.wanted().vpcs if each.name == "customer")
    assert found(scene).hostnames is False
    lines = scene.apply(with_dns(True, True))
    assert [(line.action, line.kind, line.name) for line in lines] == [
        ("change", "vpc", "customer")
    ]
    assert found(scene).hostnames is True
    scene.apply(with_dns(False, True))
    (after,) = (each for each in scene.region.wanted().vpcs if each.name == "customer")
    assert after.resolver is None
    assert after.id == before.id
    assert not {"10.0.0.2", "169.254.169.253"} & set(after.addresses)
    assert scene.apply(with_dns(False, True)) == ()


def test_modify_vpc_attribute_changes_what_is_named() -> None:
    scene = Scene()
    scene.apply(lab())
    with scene.region.commands() as commands:
        commands.modify_vpc("customer", {"enable_dns_hostnames": True})
    assert found(scene).hostnames is True
    with scene.region.commands() as commands:
        commands.modify_vpc("customer", {"enable_dns_support": False})
    assert resolver(scene) is None


@pytest.mark.parametrize(
    ("region", "domain"),
    [("us-east-1", "ec2.internal"), ("eu-central-1", "eu-central-1.compute.internal")],
)
def test_private_names_end_in_the_region_but_for_the_first_one(region: str, domain: str) -> None:
    assert private_domain(region) == domain
