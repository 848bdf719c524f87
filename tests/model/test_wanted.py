# SPDX-License-Identifier: Apache-2.0
"""What is asked of whoever makes namespaces, links and the forwarder's state."""

from __future__ import annotations

from hyperplane_nat.model.wanted import wanted_of
from tests.model.support import NONE, Scene, function, lab, service, vpc


def test_a_vpc_has_its_routers_and_services() -> None:
    scene = Scene()
    services = (
        service("web", "10.0.1.80"),
        service("echo", "10.0.1.80", kind="udp-echo", port=7),
    )
    scene.apply(lab(vpcs=(vpc(services=services),)))
    (wanted,) = scene.region.wanted().vpcs
    assert (wanted.name, wanted.cidr) == ("customer", "10.0.0.0/16")
    resolver = ("10.0.0.2", "169.254.169.253")
    assert wanted.addresses == ("10.0.1.1", "10.0.2.1", *resolver, "10.0.1.80")
    assert [item.name for item in wanted.services] == ["web", "echo"]


def test_an_interface_has_what_the_forwarder_needs() -> None:
    scene = Scene(function("orders"))
    (wanted,) = scene.region.wanted().interfaces
    assert wanted == scene.region.wanted_interface(wanted.id)
    assert (wanted.vpc, wanted.subnet, wanted.router, wanted.address, wanted.destinations) == (
        "customer",
        "10.0.1.0/24",
        "10.0.1.1",
        "10.0.1.4",
        ("10.0.0.0/16",),
    )
    assert (wanted.number, wanted.status) == (0, "pending")
    assert len(wanted.link) <= 15


def test_the_internet_is_there_when_somebody_needs_it() -> None:
    scene = Scene()
    scene.apply(lab())
    assert [item.name for item in scene.region.wanted().vpcs] == ["customer"]
    scene.apply(lab(internet=(service("host", "198.51.100.1"),)))
    assert "internet" in [item.name for item in scene.region.wanted().vpcs]
    scene.apply(lab(function("public", NONE)))
    wanted = scene.region.wanted()
    (interface,) = wanted.interfaces
    assert (interface.vpc, interface.destinations, interface.address) == (
        "internet",
        ("0.0.0.0/0",),
        "192.0.2.4",
    )
    numbers = {item.name: item.number for item in wanted.vpcs}
    assert interface.vpc_number == numbers["internet"] != numbers["customer"]


def test_environments_until_they_terminate() -> None:
    scene = Scene(function("orders"))
    scene.active()
    one, other = scene.region.begin("orders"), scene.region.begin("orders")
    assert scene.region.wanted().environments == {
        one.environment: one.interface,
        other.environment: other.interface,
    }
    scene.region.discard(one.environment)
    assert list(scene.region.wanted().environments) == [other.environment]


def test_the_revision_ignores_environments_and_states() -> None:
    scene = Scene(function("orders"))
    revision = scene.region.wanted().revision
    scene.active()
    scene.region.end(scene.run("orders").environment)
    assert scene.region.network_revision == revision
    scene.apply(lab(function("orders"), function("mail", groups=("db",))))
    assert scene.region.network_revision != revision


def test_a_copy_of_the_tables_asks_for_the_same_and_stays_as_it_is() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.run("orders")
    copy, before = scene.region.tables.copy(), scene.region.wanted()
    assert copy.environments == scene.region.tables.environments
    scene.apply(lab(function("mail", groups=("db",))))
    found = wanted_of(copy, scene.region.settings)
    assert (found.interfaces, found.vpcs) == (before.interfaces, before.vpcs)
    assert found.environments == before.environments
    assert scene.region.wanted().interfaces != before.interfaces
