# SPDX-License-Identifier: Apache-2.0
"""What `capture` is asked and asks; captures themselves are in the live tests."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.cli import capture
from hyperplane_nat.cli.capture import Link, Names
from hyperplane_nat.cli.common import UserError
from hyperplane_nat.client import Client
from hyperplane_nat.engine.state.constants import Side
from hyperplane_nat.engine.state.settings import Flow, HostFlow
from tests.cli.conftest import ENVIRONMENT, INTERFACE, SHARED_INTERFACE, Run
from tests.cli.fake_api import FakeApi
from tests.cli.test_hosts import HOST

FUNCTION_ENVIRONMENT = ENVIRONMENT | {
    "name": "env-4",
    "number": 4,
    "interface": SHARED_INTERFACE["id"],
    "function": "checkout",
}


@pytest.fixture
def connection(api: FakeApi, runtime: Path) -> Client:
    api.answers["/v1/environments"].append(FUNCTION_ENVIRONMENT)
    return Client("default", runtime_directory=runtime)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --environment, --interface or --host"),
        (("--environment", "1", "--interface", "eni-a"), "either --environment or --interface"),
        (("--environment", "1", "--filter", "tcp prt"), "filter 'tcp prt': "),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(
    run: Run, api: FakeApi, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = run("capture", "-w", str(tmp_path / "x.pcapng"), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x.pcapng").exists()


def test_without_root_there_is_a_remedy(
    run: Run, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = run("capture", "-w", str(tmp_path / "x"), "--environment", "1")
    assert result.exit_code == 2
    command = f"sudo hyperplane-nat capture -w {tmp_path / 'x'} --environment 1"
    assert f"capture needs root (run: {command})" in result.stderr


def flow_of(slot: int) -> Flow:
    ends = ("169.254.100.2", 40000, "10.0.1.80", 443, "10.0.1.10", 1024)
    return Flow(0, "tcp", "ESTABLISHED", slot, 0, *ends, 1, 60, 1, 60, 0, 0)


def between(
    originator: tuple[Side, int] = (Side.HOST, 7), responder: tuple[Side, int] = (Side.HOST, 8)
) -> HostFlow:
    destination = ("10.0.1.51", 443)
    source = ("10.0.1.50", 40000)
    ends = (*source, *destination, *source)
    return HostFlow(0, "tcp", "ESTABLISHED", *originator, *responder, *ends, 1, 60, 1, 60, 0, 0)


ROUTER = (Side.OUTSIDE, 3)


def chosen(connection: Client, *hosts: str, **wanted: str | None) -> list[Link]:
    given: dict[str, Any] = {"environment": None, "interface": None} | wanted
    return capture._links(connection, **given, hosts=hosts)


def links(connection: Client, **wanted: str | None) -> list[tuple[str, int | None]]:
    """Links, and the environment whose flows are wanted of each."""
    return [
        (link.name, next((slot for slot in range(9) if link.only(flow_of(slot))), -1))
        if link.only
        else (link.name, None)
        for link in chosen(connection, **wanted)
    ]


@pytest.mark.parametrize("name", ["env-1", "1"])
def test_an_environment_has_two_links(connection: Client, name: str) -> None:
    assert links(connection, environment=name) == [("env1", None), ("eni-a", 1)]


def test_one_of_a_function_has_the_link_of_its_shared_interface(connection: Client) -> None:
    assert links(connection, environment="4") == [("env4", None), (SHARED_INTERFACE["name"], 4)]


def test_one_that_waits_in_the_pool_has_one(connection: Client) -> None:
    assert links(connection, environment="env-3") == [("env3", None)]


@pytest.mark.parametrize("name", [SHARED_INTERFACE["name"], SHARED_INTERFACE["id"]])
def test_an_interface_by_name_or_id(connection: Client, name: str) -> None:
    assert links(connection, interface=name) == [(SHARED_INTERFACE["name"], None)]


def test_every_address_of_a_link_is_known(connection: Client, api: FakeApi) -> None:
    more = {"secondary_addresses": ["10.0.1.11"], "secondary_numbers": [5]}
    api.answers["/v1/interfaces"] = [INTERFACE | more]
    (link,) = chosen(connection, interface="eni-a")
    assert link.identifier._interfaces == {
        socket.inet_aton(str(INTERFACE["address"])): 0,
        socket.inet_aton("10.0.1.11"): 5,
    }


@pytest.mark.parametrize("name", ["env-9", "x", ""])
def test_unknown_environments(connection: Client, name: str) -> None:
    with pytest.raises(UserError, match="unknown environment"):
        links(connection, environment=name)


def test_unknown_interfaces(connection: Client) -> None:
    with pytest.raises(UserError, match="unknown interface 'eni-z'"):
        links(connection, interface="eni-z")


def test_an_interface_without_a_link(connection: Client, api: FakeApi) -> None:
    gateway = {"name": "nat-0a", "id": "eni-0b", "kind": "nat-gateway", "mac": None}
    api.answers["/v1/interfaces"] = [INTERFACE, INTERFACE | gateway]
    with pytest.raises(UserError, match="eni-0b is a NAT gateway's interface, which has no link"):
        links(connection, interface="eni-0b")


def test_who_comes_from_the_internet_is_not_the_router(connection: Client, api: FakeApi) -> None:
    api.answers["/v1/hosts"] = [HOST | {"Number": 8, "VpcName": "customer"}]
    names = Names(connection)
    inward = between(ROUTER)
    assert names(inward) == "router of customer"
    public = inward._replace(destination_address="203.0.113.9", nat_address="10.0.1.51")
    assert names(public) == "internet"


def test_names_are_asked_for_now_and_then(connection: Client, api: FakeApi) -> None:
    now = 100.0
    names = Names(connection, lambda: now)
    assert names(flow_of(4)) == "env-4 of checkout"
    assert names(flow_of(1)) == "env-1"
    assert names(flow_of(77)) == "env-77"
    assert api.requests == ["GET /v1/environments", "GET /v1/hosts"]
    api.answers["/v1/environments"] = [FUNCTION_ENVIRONMENT | {"function": "refund"}]
    assert names(flow_of(4)) == "env-4 of checkout"
    now += capture.NAMES_SECONDS
    assert names(flow_of(4)) == "env-4 of refund"


def test_without_a_controller_names_stay(connection: Client, api: FakeApi) -> None:
    now = 100.0
    names = Names(connection, lambda: now)
    assert names(flow_of(4)) == "env-4 of checkout"
    api.cut_short = True
    now += capture.NAMES_SECONDS
    assert names(flow_of(4)) == "env-4 of checkout"


ROUTER_INTERFACE = INTERFACE | {
    "name": "eni-r",
    "number": 3,
    "address": "10.0.0.3",
    "id": "eni-r",
    "kind": "router",
}
OTHER_HOST = HOST | {"HostName": "web", "Number": 8, "PrivateIpAddress": "10.0.1.51"}
FAR_HOST = HOST | {"VpcName": "far", "HostName": "away", "Number": 9}


@pytest.fixture
def hosts(connection: Client, api: FakeApi) -> Client:
    api.answers["/v1/hosts"] = [HOST, OTHER_HOST | {"InstanceId": "i-8"}, FAR_HOST]
    api.answers["/v1/interfaces"] = [
        INTERFACE,
        ROUTER_INTERFACE,
        ROUTER_INTERFACE | {"vpc": "far", "name": "eni-f"},
    ]
    return connection


def test_a_host_has_its_link_and_its_flows_on_the_router_s(hosts: Client) -> None:
    own, router = chosen(hosts, "customer/db")
    assert (own.name, own.only) == ("host.7", None)
    assert own.identifier._hosts == {socket.inet_aton("10.0.1.50"): 7}
    assert own.identifier._interfaces == {
        socket.inet_aton("10.0.1.10"): 0,
        socket.inet_aton("10.0.0.3"): 3,
    }
    assert router.name == "eni-r"
    assert router.only is not None
    assert router.only(between())
    assert router.only(between(ROUTER, (Side.HOST, 7)))
    assert not router.only(between((Side.HOST, 8), ROUTER))
    # A number of an interface is not a host's.
    assert not router.only(between((Side.OUTSIDE, 7), (Side.HOST, 8)))
    assert not router.only(flow_of(7))


def test_hosts_are_beside_each_other_and_beside_an_environment(hosts: Client) -> None:
    found = chosen(hosts, "web", "db", "away", "web", environment="env-1")
    names = ["env1", "eni-a", "host.8", "host.7", "host.9", "eni-r", "eni-f"]
    assert [link.name for link in found] == names
    assert found[5].description == "eni-r: the VPC's side, flows of customer/web, customer/db"


def test_a_router_s_link_is_tapped_once_and_knows_all_hosts(hosts: Client) -> None:
    router, own = chosen(hosts, "db", interface="eni-r")
    assert (router.name, router.only, own.name) == ("eni-r", None, "host.7")
    assert set(router.identifier._hosts.values()) == {7, 8}


def test_unknown_hosts(hosts: Client) -> None:
    with pytest.raises(UserError, match="unknown host 'x'"):
        chosen(hosts, "x")


def test_hosts_and_routers_have_names(hosts: Client) -> None:
    names = Names(hosts, lambda: 100.0)
    assert names(between()) == "customer/db"
    assert names(between(ROUTER, (Side.HOST, 8))) == "router of customer"
    assert names(between((Side.HOST, 77))) == "host-77"
    assert names(between(ROUTER, (Side.HOST, 77))) == "router"
