# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs come, go and are taken over: by file, by command, attached and given back."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from netns import links, namespace, topology
from netns.names import PUNT_LINK
from netns.netlink import RouteSocket
from tests.live.conftest import Launch
from tests.live.lab import Lab, program, run, switched, wait_until
from tests.live.test_crash import forwarder_pid, kill_controller

pytestmark = pytest.mark.live

VPC = """
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
subnet = [{ name = "private-a", cidr = "10.0.1.0/24" }, { name = "b", cidr = "10.0.2.0/24" }]
security_group = [{ name = "app" }]
"""
LAB = f"""
{VPC}
host = [
  {{ name = "one", subnet = "private-a", security_groups = ["app"], description = "the first" }},
  {{ name = "two", subnet = "b", address = "10.0.2.50" }},
]
service = [{{ name = "web", kind = "http", host = "two", port = 80 }}]
"""


@pytest.fixture
def foreign() -> Iterator[str]:
    """A namespace that is nobody's."""
    name = f"t-{secrets.token_hex(4)}"
    namespace.create([name], lambda _name: None)
    yield name
    namespace.delete([name])


def links_of(where: str) -> set[str]:
    with namespace.call(where, RouteSocket) as route:
        return set(links.links(route))


def host(lab: Lab, name: str) -> dict[str, Any]:
    (found,) = (row for row in lab.rows("hosts") if row["HostName"] == name)
    return found


def described(lab: Lab) -> list[dict[str, Any]]:
    """All hosts without their traffic: AWS's names begin with a capital."""
    return [
        {key: value for key, value in row.items() if key[0].isupper()} for row in lab.rows("hosts")
    ]


def where(lab: Lab, name: str) -> str:
    return topology.host_namespace(lab.name, host(lab, name)["Number"])


def routes(lab: Lab) -> set[str]:
    """What the VPC's router reaches by which link."""
    return {
        f"{route['dst']} {route['dev']}"
        for route in json.loads(run(lab.vpc, "ip", "-j", "route").stdout)
    }


def router_link(lab: Lab) -> str:
    (link,) = (row["name"] for row in lab.rows("interfaces") if row["kind"] == "router")
    return str(link)


def apply(lab: Lab, toml: str, top: str = "") -> list[tuple[str, str, str]]:
    text = f'{top}[lab]\nname = "{lab.name}"\nenvironments = 0\n[metrics]\nport = 0\n{toml}'
    lab.config_file.write_text(switched(text))
    plan = lab.json("apply", str(lab.config_file))["plan"]
    return [(line["action"], line["kind"], line["name"]) for line in plan]


def test_a_lab_of_hosts_alone(launch: Launch) -> None:
    """A VPC without a function has the link to its router, too."""
    lab = launch(environments=0, toml=LAB)
    one, two = host(lab, "one"), host(lab, "two")
    assert (one["PrivateIpAddress"], two["PrivateIpAddress"]) == ("10.0.1.4", "10.0.2.50")
    assert two["Services"] == ["web"]
    assert lab.status()["hosts"] == 2
    link = router_link(lab)
    assert {f"10.0.1.4 {link}", f"10.0.2.50 {link}"} <= routes(lab)
    (row,) = (row for row in lab.json("hosts") if row["InstanceId"] == one["InstanceId"])
    assert row["Groups"][0]["GroupName"] == "app"
    table = lab.cli("hosts").stdout
    assert [word for word in ("one", "10.0.2.50", "the first", "app") if word not in table] == []
    inside = lab.cli("exec", "customer/two", "--", "ip", "-j", "route").stdout
    assert json.loads(inside)[0]["gateway"] == "10.0.2.1"
    # Its server runs in it.
    body = lab.cli("exec", "two", "--", "curl", "-sSf", "-m", "10", "http://10.0.2.50/sha256")
    assert len(body.stdout.strip()) == 64
    assert 'hyperplane_nat_hosts{vpc="customer"} 2.0' in scrape(lab)
    told = lab.cli("exec", "three", "--", "true", check=False)
    assert (told.returncode, "unknown host 'three'" in told.stderr) == (125, True)


def scrape(lab: Lab) -> str:
    done = subprocess.run(
        ["curl", "-sSf", lab.status()["metrics_url"]], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_hosts_come_and_go_by_apply(launch: Launch) -> None:
    lab = launch(environments=0, toml=VPC)
    assert [row["kind"] for row in lab.rows("interfaces")] == ["static"]
    assert ("create", "host", "customer/two") in apply(lab, LAB)
    link, two = router_link(lab), where(lab, "two")
    with program(two, "sleep", "1000") as sleeping:
        moved = apply(lab, LAB.replace('host = "two"', 'address = "10.0.1.80"'))
        assert moved == [("change", "service", "customer/web")]
        fewer = LAB.replace('  { name = "two", subnet = "b", address = "10.0.2.50" },\n', "")
        fewer = fewer.replace('host = "two"', 'address = "10.0.1.80"')
        assert apply(lab, fewer) == [("delete", "host", "customer/two")]
        # What ran in it has ended.
        assert sleeping.wait(30) == -9
    assert not namespace.exists(two)
    assert {each for each in routes(lab) if link in each} == {
        f"10.0.1.4 {link}",
        f"10.0.0.3 {link}",
    }
    assert ("delete", "host", "customer/one") in apply(lab, VPC)
    assert [row["kind"] for row in lab.rows("interfaces")] == ["static"]
    assert links_of(lab.gateway) - {PUNT_LINK} == {"lo", "eni-a"}
    assert links_of(lab.vpc) == {"lo", "eni-a"}
    # Numbers are free again when nothing refers to them.
    apply(lab, LAB)
    wait_until(lambda: len(lab.rows("hosts")) == 2, "both are back")
    assert lab.verify() == []


def test_a_vpc_goes_with_its_hosts(launch: Launch) -> None:
    lab = launch(environments=0, toml=LAB)
    done = apply(lab, "", top="vpc = []\n")
    assert ("delete", "vpc", "customer") in done
    assert set(topology.strays(lab.name)) - {topology.punt_namespace(lab.name)} == {lab.gateway}


def test_a_namespace_is_attached_and_given_back(launch: Launch, foreign: str) -> None:
    lab = launch(environments=0, toml=VPC)
    options = ("--namespace", foreign, "--vpc", "customer", "--subnet", "b")
    told = lab.cli("attach", *options, "--address", "10.0.2.9", "--group", "app", "blue").stdout
    assert told == f"/run/netns/{foreign} is host customer/blue with 10.0.2.9\n"
    assert links_of(foreign) == {"lo", "eth0"}
    assert f"10.0.2.9 {router_link(lab)}" in routes(lab)
    again = lab.cli("attach", *options, "green", check=False)
    assert (again.returncode, "which is of a lab" in again.stderr) == (2, True)
    with program(foreign, "sleep", "1000") as sleeping:
        assert lab.cli("detach", "blue").stdout == f"/run/netns/{foreign} is given back\n"
        assert links_of(foreign) == {"lo"}
        assert sleeping.poll() is None
    assert lab.rows("hosts") == []
    again = lab.cli("detach", "blue", check=False)
    assert (again.returncode, "unknown host 'blue'" in again.stderr) == (2, True)


def test_a_process_s_namespace_is_attached(launch: Launch) -> None:
    lab = launch(environments=0, toml=VPC)
    command = ["unshare", "--net", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"
        lab.cli("attach", "--pid", str(process.pid), "--vpc", "customer", "--subnet", "private-a")
        (row,) = lab.rows("hosts")
        assert row["HostName"] == f"pid-{process.pid}"
        assert links_of(topology.host_namespace(lab.name, row["Number"])) == {"lo", "eth0"}
        lab.down()
        assert process.poll() is None
        process.stdin.close()
    assert topology.strays(lab.name) == []


def test_down_leaves_an_attached_namespace(launch: Launch, foreign: str) -> None:
    lab = launch(environments=0, toml=LAB)
    lab.cli("attach", "--namespace", foreign, "--vpc", "customer", "--subnet", "private-a")
    with program(foreign, "sleep", "1000") as sleeping:
        lab.down()
        assert sleeping.poll() is None
    assert links_of(foreign) == {"lo"}
    assert topology.strays(lab.name) == []
    assert not lab.runtime_directory.exists()


def test_what_cannot_be_a_host_is_one_line(launch: Launch, foreign: str) -> None:
    lab = launch(environments=1, toml="")
    place = ("--vpc", "customer", "--subnet", "private-a")
    for words, arguments in (
        ("InvalidParameterValue: cannot open namespace", ("--namespace", "t-none", *place)),
        ("which is of a lab", ("--namespace", lab.environment(1), *place, "x")),
        ("that the lab itself runs in", ("--pid", "self", *place)),
        (
            "InvalidSubnetID.NotFound",
            ("--namespace", foreign, "--vpc", "customer", "--subnet", "z"),
        ),
        ("InvalidVpcID.NotFound", ("--namespace", foreign, "--vpc", "z", "--subnet", "private-a")),
        ("InvalidGroup.NotFound", ("--namespace", foreign, *place, "--group", "z")),
        ("InvalidIPAddress.InUse", ("--namespace", foreign, *place, "--address", "10.0.1.80")),
        ("which namespace is meant", place),
        ("cannot be the name of a host", ("--namespace", foreign, *place, "No")),
    ):
        controller = str(lab.status()["pid"])
        given = [controller if each == "self" else each for each in arguments]
        done = lab.cli("attach", *given, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
    assert lab.rows("hosts") == []
    assert links_of(foreign) == {"lo"}


@pytest.mark.races
def test_hosts_are_taken_over_and_mended(launch: Launch, foreign: str) -> None:
    lab = launch(environments=0, toml=LAB)
    lab.cli("attach", "--namespace", foreign, "--vpc", "customer", "--subnet", "private-a", "blue")
    before, pid, link = described(lab), forwarder_pid(lab), router_link(lab)
    one, two = where(lab, "one"), where(lab, "two")
    with program(one, "sleep", "1000") as sleeping:
        kill_controller(lab)
        # One has lost its link, another its namespace, and the router a route.
        with namespace.call(lab.gateway, RouteSocket) as route:
            links.delete(route, [f"host.{before[1]['Number']}"])
        namespace.delete([two])
        run(lab.vpc, "ip", "route", "delete", "10.0.2.50", "dev", link)
        lab.up()
        assert described(lab) == before
        assert forwarder_pid(lab) == pid
        assert router_link(lab) == link
        assert sleeping.poll() is None
        for name in (one, two, foreign):
            assert links_of(name) == {"lo", "eth0"}
        assert {f"10.0.1.4 {link}", f"10.0.2.50 {link}"} <= routes(lab)
        log = (lab.runtime_directory / "controller.log").read_text()
        assert log.count("was not as it was made: it gets a new link") == 2
        lab.cli("detach", "blue")
        assert links_of(foreign) == {"lo"}


@pytest.mark.races
def test_an_apply_that_a_dead_controller_began_is_ended_by_the_next(launch: Launch) -> None:
    """Hosts that nobody wants any more go, with what runs in them."""
    lab = launch(environments=0, toml=LAB)
    one = where(lab, "one")
    with program(one, "sleep", "1000") as sleeping:
        kill_controller(lab)
        text = lab.config_file.read_text()
        lab.config_file.write_text(
            text.replace(
                '{ name = "one", subnet = "private-a"', '{ name = "three", subnet = "private-a"'
            )
        )
        lab.up()
        wait_until(lambda: sleeping.poll() is not None, "what ran in the host has ended")
    assert {row["HostName"] for row in lab.rows("hosts")} == {"three", "two"}
    assert not namespace.exists(one)
    assert lab.verify() == []
