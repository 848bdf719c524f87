# SPDX-License-Identifier: Apache-2.0
"""An internet-facing load balancer: who reaches its targets as whom, and what may stand in the way.

The lab is the one of docs/examples/internet-facing.toml, under a name of its own, with the table at
its top.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
from pathlib import Path

import pytest

from bench import nginx
from hyperplane_nat.client import ClientError
from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import Lab, difference, patience, require_program, run, tcp_socket, wait_until
from tests.live.test_crash import kill_controller, kill_forwarder
from tests.live.test_host_traffic import where

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "internet-facing.toml"
SITE, FACES = "198.51.100.80", ("203.0.113.81", "203.0.113.82")
TARGETS = {"web-a": "10.0.11.11", "web-b": "10.0.12.12"}
NGINX_PORT, LISTENS = 9000, 9001
ANYWHERE = "0.0.0.0/0"


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The example, when its targets are healthy and its NAT gateways there."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "internet-facing"\n', "")
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: ready(lab), lambda: f"{lab.rows('target-health')}")
    return lab


def ready(lab: Lab) -> bool:
    states = {row["State"] for row in lab.rows("target-health")}
    gateways = {row["State"] for row in lab.rows("nat-gateways")}
    return (states, gateways) == ({"healthy"}, {"available"})


def inside(lab: Lab, who: str, *command: str) -> subprocess.CompletedProcess[str]:
    if who == "site":
        return namespace_run(lab.vpc_namespace("internet"), *command)
    return lab.cli("invoke" if who == "webhook" else "exec", who, "--", *command, check=False)


def namespace_run(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", name, *command], capture_output=True, text=True, check=False
    )


def seen(lab: Lab, who: str, place: str, *, answered: bool = True) -> str | None:
    """The address that a target sees of who asks; None when nobody answers."""
    source = ("--interface", SITE) if who == "site" else ()
    options = ("-m", patience(answered=answered), *source)
    done = inside(lab, who, "curl", "-sS", *options, f"http://{place}/peer")
    return str(json.loads(done.stdout)["address"]) if done.returncode == 0 else None


def word(lab: Lab, address: str | None) -> str:
    """An address as the example's table has it."""
    (row,) = lab.rows("load-balancers")
    nodes = [each["PrivateIPv4Address"] for each in row["AvailabilityZones"]]
    outside = [each["address"] for each in lab.rows("interfaces") if each["vpc"] == "internet"]
    if address is None:
        return "-"
    return "node" if address in nodes else "interface" if address in outside else address


@pytest.mark.requirement("NLB-nodes", profile="both")
def test_who_reaches_the_targets_as_whom(lab: Lab) -> None:
    rows = re.findall(r"^#   ([\w-]+) +(\S+) +(\S+)$", EXAMPLE.read_text(), re.M)
    assert len(rows) == 6
    for place in (*FACES, "front.shop.internal"):
        found = []
        for who, *expected in rows:
            # site is no program of the lab's, and has no resolver.
            at = FACES[0] if who == "site" else place
            answers = [
                word(lab, seen(lab, who, f"{at}:{port}", answered=each != "-"))
                for port, each in zip((80, 8080), expected, strict=True)
            ]
            found.append((who, *answers))
        assert found == rows
    assert lab.verify() == []


@pytest.mark.requirement("NLB-names", profile="both")
def test_its_names_are_public_everywhere(lab: Lab) -> None:
    dig = require_program("dig", "bind9-dnsutils")
    (row,) = lab.rows("load-balancers")
    assert [each["IpAddress"] for each in row["AvailabilityZones"]] == list(FACES)

    def asked(who: str, name: str) -> list[str]:
        return sorted(inside(lab, who, dig, "+short", name).stdout.split())

    for who in ("web-a", "teller", "webhook"):
        assert asked(who, row["DNSName"]) == sorted(FACES)
        assert asked(who, f"us-east-1b.{row['DNSName']}") == [FACES[1]]
    assert FACES[0] in lab.cli("load-balancers").stdout


def test_nginx_serves_the_internet(lab: Lab) -> None:
    found = nginx.find()
    assert found is not None, "nginx is missing (apt-get install nginx-light, or make deps)"
    group = {
        "vpc": "shop",
        "name": "nginx",
        "port": NGINX_PORT,
        "targets": [{"host": name} for name in TARGETS],
    }
    listener = {"load_balancer": "front", "port": LISTENS, "target_group": "nginx"}
    rule = {"protocol": "tcp", "ports": str(NGINX_PORT), "cidr": f"{SITE}/32"}
    with contextlib.ExitStack() as stack:
        for name, address in TARGETS.items():
            files = {"name": name.encode()}
            place = where(lab, name, "shop")
            stack.enter_context(nginx.serving(found, place, address, NGINX_PORT, files))
        lab.client.post("/v1/target-groups", group)
        stack.callback(lab.client.delete, "/v1/target-groups/nginx")
        lab.client.post("/v1/listeners", listener)
        stack.callback(lab.client.delete, f"/v1/listeners/front:{LISTENS}")
        url = f"http://{FACES[0]}:{LISTENS}/name"
        site = lab.vpc_namespace("internet")
        curl = ["curl", "-sS", "-m", "2", "--interface", SITE, url]
        # The targets' group has a rule for port 80 alone.
        assert namespace_run(site, *curl).returncode != 0
        path = "/v1/security-groups/web"
        stack.callback(lab.client.patch, path, {"revoke_ingress": [rule]})
        lab.client.patch(path, {"authorize_ingress": [rule]})
        wait_until(lambda: namespace_run(site, *curl).stdout == "web-a", "a target serves")


def connected(lab: Lab) -> socket.socket:
    """A connection of `site`, by the first node."""
    connection = tcp_socket(lab.vpc_namespace("internet"))
    connection.bind((SITE, 0))
    connection.settimeout(30)
    connection.connect((FACES[0], 80))
    return connection


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /peer HTTP/1.1\r\nHost: front\r\n\r\n")
    return connection.recv(2000)


def test_connections_outlive_both_processes(lab: Lab) -> None:
    with contextlib.closing(connected(lab)) as held:
        assert SITE.encode() in ask(held)
        kill_forwarder(lab)
        assert SITE.encode() in ask(held)
        rows = lab.rows("load-balancers"), lab.rows("addresses")
        kill_controller(lab)
        assert SITE.encode() in ask(held)
        lab.up()
        assert SITE.encode() in ask(held)
        assert (lab.rows("load-balancers"), lab.rows("addresses")) == rows
    assert seen(lab, "teller", FACES[1]) == "203.0.113.11"
    assert lab.verify() == []


def test_the_node_s_route_table_is_asked(lab: Lab) -> None:
    (table,) = (row for row in lab.rows("route-tables") if row["RouteTableName"] == "public")
    path = f"/v1/route-tables/{table['RouteTableId']}"
    to_gateway = [{"destination": ANYWHERE, "internet_gateway": "shop"}]
    before = lab.counters()
    lab.client.patch(path, {"delete_routes": [ANYWHERE]})
    try:
        wait_until(
            lambda: seen(lab, "site", FACES[0], answered=False) is None, "the node has no way back"
        )
        assert difference(before, lab.counters())["drop_no_route"] > 0
        told = lab.cli("trace", "teller", f"{FACES[0]}:80", check=False)
        assert (told.returncode, "no way back" in told.stdout) == (1, True)
    finally:
        lab.client.patch(path, {"create_routes": to_gateway})
    wait_until(lambda: seen(lab, "site", FACES[0], answered=False) == SITE, "it has one again")


def test_what_is_seen_of_them(lab: Lab) -> None:
    with contextlib.closing(connected(lab)) as held:
        assert ask(held)
        source = held.getsockname()[1]
        flows = json.loads(lab.cli("flows", "--json").stdout)
        (flow,) = (each for each in flows if str(source) in json.dumps(each))
        assert "10.0.1." in json.dumps(flow["hops"])
        assert any(address in json.dumps(flow["target"]) for address in TARGETS.values())
    (row,) = (each for each in lab.rows("addresses") if each["PublicIp"] == FACES[1])
    assert row["LoadBalancerName"] == "shop/front"


def test_trace_agrees_with_what_is_sent(lab: Lab) -> None:
    for who, place, port in (
        ("bastion", "front.shop.internal", 80),
        ("worker", FACES[1], 8080),
        ("teller", FACES[0], 80),
        ("teller", "203.0.113.9", 80),
        ("teller", FACES[0], 81),
        ("webhook", FACES[0], 80),
        ("web-a", FACES[0], 80),
    ):
        traced = lab.cli("trace", who, f"{place}:{port}", check=False)
        limit = ("-m", patience(answered=traced.returncode == 0))
        done = inside(lab, who, "curl", "-sS", *limit, f"http://{place}:{port}/peer")
        assert (traced.returncode == 0) == (done.returncode == 0), traced.stdout
    assert run(lab.vpc_namespace("internet"), "true").returncode == 0
    with pytest.raises(ClientError, match="AuthFailure"):
        lab.client.patch(f"/v1/addresses/{FACES[0]}", {"host": None})
    assert namespace.names(lab.vpc_namespace("internet"))
