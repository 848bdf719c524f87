# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs: commands and declarations, what is refused, what the world is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.entities import Host, InterfaceKind, Service
from hyperplane_nat.model.lifecycle import HOSTS_MAX
from hyperplane_nat.model.resources import (
    HostResource,
    Resources,
    SecurityGroupResource,
    ServiceResource,
    VpcResource,
)
from hyperplane_nat.model.wanted import WantedHost
from tests.model import invariants
from tests.model.support import (
    Scene,
    address,
    function,
    lab,
    network,
    refusal,
    rule,
    service,
    vpc,
)

GROUPS = (
    SecurityGroupResource("app"),
    SecurityGroupResource(
        "db", ingress=(rule(first=5432, last=5432, group="app"),), egress=(rule(group="db"),)
    ),
)


def host(name: str, at: str | None = None, *, subnet: str = "a", **fields: Any) -> HostResource:
    return HostResource(name, subnet, None if at is None else address(at), **fields)


def with_hosts(
    *hosts: HostResource, services: Iterable[ServiceResource] = (), name: str = "customer"
) -> VpcResource:
    return replace(vpc(name, groups=GROUPS, services=services), hosts=hosts)


def on_host(name: str, where: str, port: int = 80) -> ServiceResource:
    return ServiceResource(name, "http", None, port, host=where)


def lines(scene: Scene, wanted: Resources) -> list[tuple[str, str, str, str]]:
    planned = scene.region.plan(wanted).lines
    done = scene.apply(wanted)
    assert planned == done
    assert invariants.violations(scene.region, set()) == []
    return [(each.action, each.kind, each.name, each.detail) for each in done]


def the_host(scene: Scene) -> Host:
    (found,) = scene.region.tables.hosts.values()
    return found


def wanted(scene: Scene) -> dict[str, WantedHost]:
    return {each.name: each for each in scene.region.wanted().hosts}


def command(scene: Scene, work: Callable[[Commands], object]) -> None:
    with scene.region.commands() as commands:
        work(commands)
    assert invariants.violations(scene.region, set()) == []


def refused(scene: Scene, work: Callable[[Commands], object]) -> str:
    """The error of a command, which leaves everything as it was."""
    before = document_of(scene.region.tables)
    found = refusal(lambda: command(scene, work))
    assert document_of(scene.region.tables) == before
    return found


def test_a_declared_host_has_an_address_a_number_and_a_way_to_the_router() -> None:
    scene = Scene()
    done = lines(scene, lab(vpcs=(with_hosts(host("one"), host("two", "10.0.2.9", subnet="b")),)))
    assert ("create", "host", "customer/one", "10.0.1.4") in done
    assert ("create", "host", "customer/two", "10.0.2.9") in done
    hosts = wanted(scene)
    assert [each.number for each in hosts.values()] == [1, 2]
    two = hosts["two"]
    assert (two.subnet, two.router, two.mtu_bytes) == ("10.0.2.0/24", "10.0.2.1", 1500)
    # One interface for all of a VPC, in none of its subnets, with addresses that AWS reserves.
    (interface,) = scene.region.wanted().interfaces
    assert interface.kind is InterfaceKind.ROUTER
    assert (interface.address, interface.router) == ("10.0.0.3", "10.0.0.1")
    assert (interface.subnet, interface.destinations) == ("10.0.0.0/30", ("10.0.0.0/16",))
    assert {each.interface for each in hosts.values()} == {interface.number}
    assert {each.link for each in hosts.values()} == {interface.link}
    (place,) = scene.region.wanted().vpcs
    routers = ("10.0.1.1", "10.0.2.1", "10.0.0.1")
    assert place.addresses == (*routers, "10.0.0.2", "169.254.169.253")


def test_applied_again_nothing_changes() -> None:
    scene = Scene()
    declared = lab(
        vpcs=(with_hosts(host("one"), services=(on_host("web", "one"),)),),
    )
    scene.apply(declared)
    before = document_of(scene.region.tables)
    assert lines(scene, declared) == []
    assert document_of(scene.region.tables) == before


def test_a_host_changes_in_place_or_is_another_one() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(host("one")),)))
    first = the_host(scene)
    assert lines(
        scene, lab(vpcs=(with_hosts(host("one", security_groups=("db",), description="x")),))
    ) == [("change", "host", "customer/one", "1 security groups")]
    changed = the_host(scene)
    assert (changed.id, changed.address, changed.description) == (first.id, first.address, "x")
    moved = lines(scene, lab(vpcs=(with_hosts(host("one", "10.0.1.77")),)))
    assert moved == [
        ("create", "host", "customer/one", "10.0.1.77"),
        ("delete", "host", "customer/one", ""),
    ]
    other = the_host(scene)
    assert other.id != first.id
    assert other.number != first.number
    assert scene.region.retired_hosts() == [first.number]
    scene.region.release_host(first.number)
    assert scene.region.retired_hosts() == []


def test_with_the_last_host_goes_the_way_to_the_router() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(host("one"), host("two")),)))
    (interface,) = scene.region.wanted().interfaces
    scene.apply(lab(vpcs=(with_hosts(host("two")),)))
    assert scene.region.wanted().interfaces == (interface,)
    assert lines(scene, lab(vpcs=(with_hosts(),))) == [("delete", "host", "customer/two", "")]
    assert scene.region.wanted().interfaces == ()
    assert scene.region.retired_numbers() == [interface.number]
    assert "10.0.0.1" not in scene.region.wanted().vpcs[0].addresses
    # Nothing waits for anything: the VPC can go in one go, too.
    scene.apply(lab(vpcs=(with_hosts(host("one")),)))
    done = lines(scene, lab(vpcs=()))
    assert ("delete", "vpc", "customer", "") in done


def test_the_way_to_the_router_is_no_interface_of_lambdas() -> None:
    scene = Scene(interfaces_per_vpc=1)
    scene.apply(lab(function("f"), vpcs=(with_hosts(host("one")),)))
    scene.pass_seconds(10 * 86400)
    kinds = {each.kind: each.status.value for each in scene.interfaces()}
    assert kinds == {InterfaceKind.ROUTER: "available", InterfaceKind.HYPERPLANE: "in-use"}


def test_a_service_on_a_host_has_its_address_and_moves_with_it() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(host("one"), services=(on_host("web", "one"),)),)))
    (web,) = scene.region.wanted().vpcs[0].services
    assert (web.address, web.host) == ("10.0.1.4", 1)
    assert "10.0.1.4" not in scene.region.wanted().vpcs[0].addresses
    moved = lines(
        scene, lab(vpcs=(with_hosts(host("one", "10.0.1.9"), services=(on_host("web", "one"),)),))
    )
    assert ("change", "service", "customer/web", "http 10.0.1.9:80") in moved
    to_router = lines(
        scene,
        lab(vpcs=(with_hosts(host("one", "10.0.1.9"), services=(service("web", "10.0.1.80"),)),)),
    )
    assert to_router == [("change", "service", "customer/web", "http 10.0.1.80:80")]


def test_what_a_command_has_made_stays_unless_its_name_is_wanted() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(),)))
    command(scene, lambda commands: commands.create_host(host("mine"), attached="/run/netns/x"))
    assert lines(scene, lab(vpcs=(with_hosts(),))) == []
    assert the_host(scene).attached == "/run/netns/x"
    done = lines(scene, lab(vpcs=(with_hosts(host("mine")),)))
    assert done[-1] == ("delete", "host", "customer/mine", "")
    assert the_host(scene).attached == ""
    # Whoever removes it knows that it is not the lab's to kill.
    assert scene.region.wanted().given_back == {1}


@pytest.mark.parametrize(
    ("hosts", "services", "code"),
    [
        ([host("one", subnet="z")], [], "InvalidSubnetID.NotFound"),
        ([host("one", "10.0.2.9")], [], "InvalidParameterValue"),
        ([host("one", "10.0.1.3")], [], "InvalidParameterValue"),
        ([host("one", "10.0.1.255")], [], "InvalidParameterValue"),
        ([host("one"), host("one")], [], "InvalidParameterValue"),
        ([host("one", security_groups=("none",))], [], "InvalidGroup.NotFound"),
        ([host("one", security_groups=("app", "app"))], [], "InvalidParameterValue"),
        ([host("one", "10.0.1.9"), host("two", "10.0.1.9")], [], "InvalidIPAddress.InUse"),
        ([host("one", "10.0.1.9")], [service("web", "10.0.1.9")], "InvalidIPAddress.InUse"),
        ([host("one")], [on_host("web", "two")], "InvalidInstanceID.NotFound"),
        ([host("one")], [on_host("a", "one"), on_host("b", "one")], "InvalidParameterValue"),
        ([], [ServiceResource("web", "http", None, 80)], "InvalidParameterValue"),
        (
            [host("one")],
            [replace(on_host("web", "one"), address=address("10.0.1.80"))],
            "InvalidParameterValue",
        ),
        (
            [host("one")],
            [replace(on_host("web", "one"), security_groups=("app",))],
            "InvalidParameterValue",
        ),
    ],
)
def test_what_a_declaration_cannot_ask_for(
    hosts: list[HostResource], services: list[ServiceResource], code: str
) -> None:
    scene = Scene()
    place = with_hosts(*hosts, services=services)
    assert refusal(lambda: scene.region.plan(lab(vpcs=(place,)))) == code


def test_a_full_subnet_is_said() -> None:
    scene = Scene()
    place = replace(
        vpc(subnets=(("a", "10.0.1.0/28"),)), hosts=tuple(host(f"h{n}") for n in range(12))
    )
    assert refusal(lambda: scene.apply(lab(vpcs=(place,)))) == "InsufficientFreeAddressesInSubnet"


def test_hosts_are_as_many_as_there_are_numbers() -> None:
    scene = Scene()
    assert scene.region.host_numbers == HOSTS_MAX
    scene.region.host_numbers = 20
    scene.apply(lab(vpcs=(replace(vpc(subnets=(("a", "10.0.0.0/17"),))),)))
    with scene.region.commands() as commands:
        for number in range(1, 20):
            commands.create_host(host(f"h{number}"))
    assert refused(scene, lambda commands: commands.create_host(host("more"))) == (
        "InstanceLimitExceeded"
    )


def test_a_map_of_a_former_version_has_no_room() -> None:
    scene = Scene()
    scene.region.host_numbers = 0
    assert refusal(lambda: scene.apply(lab(vpcs=(with_hosts(host("one")),)))) == (
        "InstanceLimitExceeded"
    )


def test_commands_create_change_and_delete() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(), with_hosts(name="other"))))
    tables = scene.region.tables
    subnet = next(each for each in tables.subnets.values() if each.name == "a")
    command(
        scene,
        lambda commands: commands.create_host(
            host("one", subnet=subnet.id, security_groups=("customer/db",), description="d")
        ),
    )
    made = the_host(scene)
    assert made.id.startswith("i-")
    assert (made.subnet_id, made.description, made.declared) == (subnet.id, "d", False)
    command(scene, lambda commands: commands.create_host(host("one"), vpc="other"))
    assert [each.name for each in tables.hosts.values()] == ["one", "one"]
    assert refused(scene, lambda commands: commands.delete_host("one")) == "InvalidParameterValue"
    command(scene, lambda commands: commands.delete_host("other/one"))
    command(scene, lambda commands: commands.modify_host("one", security_groups=("app",)))
    command(scene, lambda commands: commands.modify_host(made.id, description="e"))
    changed = the_host(scene)
    assert [tables.groups[each].name for each in changed.group_ids] == ["app"]
    assert changed.description == "e"
    command(scene, lambda commands: commands.create_service("customer", on_host("web", "one")))
    assert refused(scene, lambda commands: commands.delete_host("one")) == "DependencyViolation"
    for used in ("subnet", "security_group", "vpc"):
        named = {"subnet": subnet.id, "security_group": "customer/app", "vpc": "customer"}[used]

        def delete(commands: Commands, used: str = used, named: str = named) -> None:
            getattr(commands, f"delete_{used}")(named)

        assert refused(scene, delete) == "DependencyViolation"
    command(scene, lambda commands: commands.delete_service("web"))
    command(scene, lambda commands: commands.delete_host("one"))
    assert tables.hosts == {}
    assert tables.interfaces == {}


def test_a_server_moves_between_router_and_host() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(host("one"), services=(service("web", "10.0.1.80"),)),)))

    def web() -> Service:
        (found,) = scene.region.tables.services.values()
        return found

    command(scene, lambda commands: commands.modify_service("web", {"host": "one"}))
    assert (str(web().address), web().host_id) == ("10.0.1.4", the_host(scene).id)
    command(scene, lambda commands: commands.modify_service("web", {"port": 81}))
    assert (web().port, web().host_id) == (81, the_host(scene).id)
    moved = {"address": address("10.0.1.80")}
    command(scene, lambda commands: commands.modify_service("web", moved))
    assert (str(web().address), web().host_id) == ("10.0.1.80", "")


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (
            lambda commands: commands.create_host(host("one", subnet="z")),
            "InvalidSubnetID.NotFound",
        ),
        (lambda commands: commands.create_host(host("n"), vpc="none"), "InvalidVpcID.NotFound"),
        (
            lambda commands: commands.create_host(host("n", subnet="a"), vpc="other"),
            "InvalidSubnetID.NotFound",
        ),
        (lambda commands: commands.create_host(host("there")), "InvalidParameterValue"),
        (lambda commands: commands.create_host(host("n", "10.0.1.9")), "InvalidIPAddress.InUse"),
        (lambda commands: commands.create_host(host("n", "10.0.1.80")), "InvalidIPAddress.InUse"),
        (
            lambda commands: commands.create_host(host("n", subnet="internet")),
            "OperationNotPermitted",
        ),
        (lambda commands: commands.delete_host("none"), "InvalidInstanceID.NotFound"),
        (
            lambda commands: commands.modify_host("there", security_groups=("none",)),
            "InvalidGroup.NotFound",
        ),
        (
            lambda commands: commands.create_service("customer", service("s", "10.0.1.9")),
            "InvalidIPAddress.InUse",
        ),
        (
            lambda commands: commands.create_service("customer", on_host("s", "none")),
            "InvalidInstanceID.NotFound",
        ),
    ],
)
def test_what_commands_refuse(work: Callable[[Commands], object], code: str) -> None:
    scene = Scene()
    other = vpc("other", subnets=(("c", "10.0.1.0/24"),))
    there = with_hosts(host("there", "10.0.1.9"), services=(service("web", "10.0.1.80"),))
    scene.apply(lab(vpcs=(there, other)))
    assert refused(scene, work) == code


def test_groups_are_resolved_both_ways() -> None:
    scene = Scene()
    guarded = service("guarded", "10.0.1.90", groups=("db",), port=5432)
    scene.apply(
        lab(
            function("f", groups=("app",)),
            vpcs=(
                with_hosts(
                    host("client", "10.0.1.20", security_groups=("app",)),
                    host("store", "10.0.1.30", security_groups=("db",)),
                    host("open", "10.0.1.40"),
                    services=(guarded,),
                ),
            ),
        )
    )
    (lambdas,) = (each for each in scene.interfaces() if each.kind is InterfaceKind.HYPERPLANE)
    policies = {name: each.policy.document() for name, each in wanted(scene).items()}
    everything = {"protocol": "all", "cidr": "0.0.0.0/0", "first": 0, "last": 65535}
    postgres = {"protocol": "tcp", "first": 5432, "last": 5432}
    assert policies["client"]["egress"] == [everything]
    assert policies["client"]["ingress"] == []
    assert [rule["cidr"] for rule in policies["store"]["egress"]] == [
        "10.0.1.30/32",
        "10.0.1.90/32",
    ]
    # Its members are hosts and interfaces of functions.
    assert policies["store"]["ingress"] == [
        {**postgres, "cidr": f"{each}/32"}
        for each in sorted((lambdas.address, address("10.0.1.20")))
    ]
    assert (policies["open"]["egress"], policies["open"]["ingress"]) == (None, None)
    # A guarded server on the router admits by the group that a host carries.
    admitting = {name: each["guarded"][0]["ingress"] for name, each in policies.items()}
    assert admitting == {
        "client": [{**postgres, "cidr": "0.0.0.0/0"}],
        "store": [],
        "open": [],
    }
    # No interface has a guard for a host: it is judged at its own link.
    (wanted_interface,) = (
        each for each in scene.region.wanted().interfaces if each.id == lambdas.id
    )
    assert [guard.address for guard in wanted_interface.policy.guarded] == ["10.0.1.90"]


def test_policies_of_hosts_change_with_the_members_of_groups() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(host("store", "10.0.1.30", security_groups=("db",))),)))
    revision = scene.region.network_revision
    assert wanted(scene)["store"].policy.ingress == ()
    command(
        scene,
        lambda commands: commands.create_host(host("c", "10.0.1.20", security_groups=("app",))),
    )
    assert scene.region.network_revision != revision
    ingress = wanted(scene)["store"].policy.ingress
    assert ingress is not None
    assert [each.cidr for each in ingress] == ["10.0.1.20/32"]


def test_a_region_with_hosts_is_read_back() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(with_hosts(host("one"), services=(on_host("web", "one"),)),)))
    document = document_of(scene.region.tables)
    assert document_of(tables_of(document)) == document
    assert network("10.0.1.0/24") in [each.cidr for each in scene.region.tables.subnets.values()]
    for kind in ("host", "interface", "subnet"):
        damaged = {**document, "entities": {**document["entities"], kind: []}}
        with pytest.raises(Exception, match="damaged"):
            tables_of(damaged)
