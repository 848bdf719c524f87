# SPDX-License-Identifier: Apache-2.0
"""Hosts through the control API, in what the forwarder is told, and where their servers run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.network.hosts import Hosts
from netns import namespace
from netns.topology import Host, host_namespace
from tests.controller.region_lab import RegionLab, talk
from tests.controller.support import OFF, config_in
from tests.controller.test_api_commands import ask, done, refused
from tests.controller.test_reconcile import config, network_of, region_of

FIGURES = ("packets_out", "bytes_out", "packets_in", "bytes_in", "drops", "flows")

VPC: dict[str, Any] = {
    "name": "one",
    "cidr": "10.0.0.0/16",
    "mtu_bytes": 1400,
    "subnet": [{"name": "a", "cidr": "10.0.1.0/24"}],
    "security_group": [
        {"name": "app"},
        {"name": "db", "ingress": [{"protocol": "tcp", "ports": "5432", "group": "app"}]},
    ],
    "host": [
        {"name": "client", "subnet": "a", "security_groups": ["app"]},
        {"name": "store", "subnet": "a", "address": "10.0.1.50", "security_groups": ["db"]},
    ],
    "service": [
        {"name": "web", "kind": "http", "host": "store", "port": 80},
        {"name": "echo", "kind": "udp-echo", "address": "10.0.1.81", "port": 7},
    ],
}


@pytest.fixture
def foreign() -> Iterator[str]:
    name = f"t-{secrets.token_hex(4)}"
    namespace.create([name], lambda _name: None)
    yield name
    namespace.delete([name])


def test_the_forwarder_is_told_of_hosts_that_stand(directory: Path) -> None:
    lab = config_in(directory, lab={"environments": 0}, vpc=[VPC])
    wanted = region_of(lab).wanted()
    hosts = Hosts("test", OFF)
    assert hosts.everything(wanted) == []
    hosts._standing[2] = Host(2, 9, "02:00:00:00:00:02", "02:00:00:00:00:01")
    (item,) = hosts.changed(wanted)
    assert item == {
        "number": 2,
        "name": "store",
        "ifindex": 9,
        "address": "10.0.1.50",
        "host_mac": "02:00:00:00:00:02",
        "gateway_mac": "02:00:00:00:00:01",
        "router": "10.0.1.1",
        "subnet": "10.0.1.0/24",
        "interface": wanted.hosts[1].interface,
        "vpc": wanted.hosts[1].vpc_number,
        "mtu": 1400,
        "egress": [
            {"protocol": "all", "cidr": "0.0.0.0/0", "first": 0, "last": 65535},
            # To the resolver, whatever the groups say.
            {"protocol": "udp", "cidr": "10.0.0.2/32", "first": 53, "last": 53},
            {"protocol": "tcp", "cidr": "10.0.0.2/32", "first": 53, "last": 53},
            {"protocol": "udp", "cidr": "169.254.169.253/32", "first": 53, "last": 53},
            {"protocol": "tcp", "cidr": "169.254.169.253/32", "first": 53, "last": 53},
        ],
        "ingress": [{"protocol": "tcp", "cidr": "10.0.1.4/32", "first": 5432, "last": 5432}],
        "guarded": [],
    }
    hosts.told([item])
    assert hosts.changed(wanted) == []
    assert hosts.unwanted(
        region_of(config_in(directory, lab={"environments": 0}, vpc=[])).wanted()
    ) == [2]
    assert hosts.refers_to(2)
    assert not hosts.refers_to(1)


def test_labs_without_hosts_are_told_as_ever(directory: Path) -> None:
    assert "hosts" not in network_of(config(directory)).everything()


def test_servers_run_on_hosts_that_stand(directory: Path) -> None:
    lab = config_in(directory, lab={"environments": 0}, vpc=[VPC])
    vpcs = region_of(lab).wanted().vpcs
    before = reconcile.service_specs(lab, vpcs, ("services",))
    assert [spec.label for spec in before] == ["one/echo"]
    web, _echo = reconcile.service_specs(lab, vpcs, ("services",), {2})
    assert web.label == "one/web"
    assert host_namespace("test", 2) in web.command
    assert "10.0.1.50" in web.command


def test_a_host_from_its_creation_to_its_end(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"name": "one", "vpc": "customer", "subnet": "a", "security_groups": ["app"]}
        made = await done(client, "POST", "/v1/hosts", asked)
        assert (made["HostName"], made["Attached"], made["Declared"]) == ("one", None, False)
        (row,) = (await ask(client, "GET", "/v1/hosts"))[1]
        assert row == made | dict.fromkeys(FIGURES, 0)
        path = f"/v1/hosts/{made['InstanceId']}"
        changed = await done(client, "PATCH", path, {"security_groups": [], "description": "d"})
        assert changed == made | {"Groups": [], "Description": "d"}
        server = {"vpc": "customer", "name": "web", "kind": "http", "host": "one", "port": 80}
        service = await done(client, "POST", "/v1/services", server)
        assert service["HostName"] == "one"
        assert service["PrivateIpAddress"] == made["PrivateIpAddress"]
        assert await refused(client, "DELETE", path) == (400, "DependencyViolation")
        await done(client, "DELETE", "/v1/services/web")
        await done(client, "DELETE", "/v1/hosts/customer%2Fone")
        assert await refused(client, "DELETE", path) == (400, "InvalidInstanceID.NotFound")

    talk(directory, lab, work)


@pytest.mark.live
def test_a_namespace_is_attached(directory: Path, foreign: str) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"name": "one", "subnet": "a", "namespace": foreign}
        made = await done(client, "POST", "/v1/hosts", asked)
        assert made["Attached"] == f"/run/netns/{foreign}"
        both = {"name": "two", "subnet": "a", "namespace": foreign, "pid": 1}
        assert await refused(client, "POST", "/v1/hosts", both) == (
            400,
            "InvalidParameterCombination",
        )
        for other in ({"namespace": "t-none"}, {"pid": 2**22}):
            body = {"name": "two", "subnet": "a", **other}
            assert await refused(client, "POST", "/v1/hosts", body) == (
                400,
                "InvalidParameterValue",
            )
        bad = {"name": "two", "subnet": "a", "namespace": "../etc"}
        assert await refused(client, "POST", "/v1/hosts", bad) == (
            400,
            "InvalidParameterValueException",
        )
        assert len((await ask(client, "GET", "/v1/hosts"))[1]) == 1

    talk(directory, RegionLab(), work)
