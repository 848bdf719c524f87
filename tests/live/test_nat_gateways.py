# SPDX-License-Identifier: Apache-2.0
"""Ways out of a VPC: who reaches whom through what, and what becomes of flows and routes.

The lab is the one of docs/examples/nat-gateway.toml, under a name of its own, with the table at its
top.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import Lab, difference, patience, run, tcp_socket, udp_socket, wait_until
from tests.live.test_crash import kill_controller, kill_forwarder
from tests.live.test_host_traffic import exchange, refused, tcp_echo, where

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nat-gateway.toml"
SITE = "198.51.100.80"
BASTION, OUT = "203.0.113.9", "203.0.113.10"
SEEN = {"bastion": BASTION, "worker": OUT, "caller": OUT}
"""Whom `site` sees; who is not here does not reach it."""

ECHO_PORT = 7007


def example() -> str:
    """The file without what a test's lab has of its own."""
    return EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "nat-gateway"\n', "")


def started(launch: Launch) -> Lab:
    """A lab whose functions and NAT gateways are there."""
    lab = launch(environments=0, toml=example())
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: states(lab) == ["available", "available"], "both NAT gateways are there")
    wait_until(lambda: "blackhole" not in route_states(lab), "and the routes to them")
    return lab


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return started(launch_shared)


def states(lab: Lab) -> list[str]:
    return [row["State"] for row in lab.rows("nat-gateways")]


def route_states(lab: Lab) -> list[str]:
    return [route["State"] for table in lab.rows("route-tables") for route in table["Routes"]]


def internet(lab: Lab) -> str:
    return lab.vpc_namespace("internet")


def seen_by_site(lab: Lab, who: str, *, answered: bool = True) -> str | None:
    """The address that `site` sees of a host or function; None when it is not reached."""
    inside = ("invoke", who) if who in ("caller", "stranded") else ("exec", who)
    curl = ("curl", "-sS", "-m", patience(answered=answered), f"http://{SITE}/peer")
    done = lab.cli(*inside, "--", *curl, check=False)
    return json.loads(done.stdout)["address"] if done.returncode == 0 else None


@pytest.mark.requirement("NATGW-one-to-one", profile="both")
@pytest.mark.requirement("NATGW-private", profile="both")
@pytest.mark.requirement("VPC-route-choice", profile="both")
@pytest.mark.requirement("VPC-internet-gateway", profile="both")
@pytest.mark.requirement("VPC-lambda-internet-gateway", profile="both")
def test_who_reaches_the_internet_as_whom(lab: Lab) -> None:
    rows = re.findall(r"^#   (\w+) +\S+ +.*? {2,}([\d.]+|-) +(?:yes|-)$", EXAMPLE.read_text(), re.M)
    assert {who: address for who, address in rows if address != "-"} == SEEN
    before = lab.drops()
    assert {who: seen_by_site(lab, who, answered=who in SEEN) for who, _ in rows} == {
        who: SEEN.get(who) for who, _ in rows
    }
    found = difference(before, lab.drops())
    reasons = {"no_public_address", "nat_gateway_private", "no_route"}
    assert reasons <= found.keys(), found
    assert lab.verify() == []


@pytest.mark.requirement("NATGW-ping", profile="both")
@pytest.mark.requirement("VPC-internet-gateway", profile="both")
def test_a_public_address_is_its_host_and_no_other_is_reached(lab: Lab) -> None:
    url = f"http://{BASTION}/peer"
    peer = json.loads(run(internet(lab), "curl", "-sSf", "-m", "10", url).stdout)
    assert peer["address"].startswith("192.0.2.") or peer["address"] == SITE
    assert refused(internet(lab), OUT, 80)
    # Nor does the gateway answer a ping, though the host does.
    run(internet(lab), "ping", "-c", "1", "-W", "5", BASTION)
    assert run(internet(lab), "ping", "-c", "1", "-W", "1", OUT, check=False).returncode == 1


def test_datagrams_and_pings_pass_a_nat_gateway(lab: Lab) -> None:
    run(where(lab, "worker", "shop"), "ping", "-c", "1", "-W", "5", SITE)
    server = namespace.call(internet(lab), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with server, udp_socket(where(lab, "worker", "shop")) as client:
        server.settimeout(30)
        server.bind((SITE, 5353))
        client.sendto(b"question", (SITE, 5353))
        asked, peer = server.recvfrom(100)
        assert (asked, peer[0]) == (b"question", OUT)
        server.sendto(b"answer", peer)
        assert client.recvfrom(100)[0] == b"answer"


def test_a_gateway_without_a_link_is_shown_and_is_in_order(lab: Lab) -> None:
    assert "\tnat-gateway\tavailable\tshop\tpublic-a\t" in lab.cli("interfaces").stdout
    # Its exit code is 1 for a lab in which something is missing.
    assert "\nVPCs\tok\t" in lab.cli("doctor").stdout


def test_flows_and_ports_have_both_hops(lab: Lab) -> None:
    (gateway,) = (row for row in lab.rows("nat-gateways") if row["NatGatewayName"] == "out")
    private = gateway["NatGatewayAddresses"][0]["PrivateIp"]
    interface = gateway["NetworkInterfaceId"]
    client = f"import socket; socket.create_connection(('{SITE}', {ECHO_PORT})).recv(1)"
    with (
        tcp_echo(internet(lab), SITE, ECHO_PORT),
        held(lab, "worker"),
        lab.invoked("caller", sys.executable, "-c", client),
    ):
        wait_until(lambda: len(flows(lab)) == 2, "a flow of the host and one of the function")
        worker, caller = sorted(flows(lab), key=lambda row: row["slot"] or 0)
        for flow in (worker, caller):
            assert flow["nat_address"] == OUT
            assert flow["hops"][-1] == {
                "interface": interface,
                "address": private,
                "port": flow["nat_port"],
            }
        assert (worker["host"], worker["slot"]) == ("shop/worker", None)
        assert len(caller["hops"]) == 2
        # The function's flow counts at its own interface, too.
        taken = {row["interface"]: row["in_use"] for row in ports(lab)}
        assert taken[interface] >= 2
        assert taken[caller["hops"][0]["interface"]] == 1


def flows(lab: Lab) -> list[dict[str, Any]]:
    return [row for row in lab.rows("flows") if row["remote_port"] == ECHO_PORT]


def ports(lab: Lab) -> list[dict[str, Any]]:
    document: Any = lab.client.get("/v1/ports")
    rows: list[dict[str, Any]] = document["interfaces"]
    return rows


def held(lab: Lab, who: str) -> socket.socket:
    """A connection of a host to the echo server at `site`."""
    connection = tcp_socket(where(lab, who, "shop"))
    connection.connect((SITE, ECHO_PORT))
    exchange(connection)
    return connection


@pytest.mark.races
def test_killed_processes_keep_flows(lab: Lab) -> None:
    with (
        tcp_echo(internet(lab), SITE, ECHO_PORT),
        held(lab, "worker") as connection,
    ):
        kill_forwarder(lab)
        exchange(connection)
        tables, gateways = lab.rows("route-tables"), lab.rows("nat-gateways")
        kill_controller(lab)
        exchange(connection)
        lab.up()
        exchange(connection)
        assert (lab.rows("route-tables"), lab.rows("nat-gateways")) == (tables, gateways)
    assert seen_by_site(lab, "worker") == OUT
    assert seen_by_site(lab, "bastion") == BASTION
    assert lab.verify() == []


def test_ways_out_come_and_go_by_apply(lab: Lab) -> None:
    """The internet gateway goes with all that needs it, and comes back under the same numbers."""
    text = lab.config_file.read_text(encoding="utf-8")
    bare = re.sub(r"\[\[vpc.(route_table|nat_gateway)\]\]\n(\w.*\n)*\n", "", text)
    bare = bare.replace("internet_gateway = true\n", "")
    bare = bare.replace(f'public_address = "{BASTION}"\n', "")
    lab.config_file.write_text(bare, encoding="utf-8")
    lab.cli("apply", "--wait", "--timeout", "60", str(lab.config_file))
    assert lab.rows("internet-gateways") == []
    assert [row["kind"] for row in lab.rows("interfaces") if row["kind"].endswith("gateway")] == []
    assert seen_by_site(lab, "bastion", answered=False) is None
    assert BASTION not in run(internet(lab), "ip", "route").stdout
    # The internet is part of the lab, though no interface is in it.
    assert "\nleftovers\tok\t" in lab.cli("doctor").stdout
    lab.config_file.write_text(text, encoding="utf-8")
    lab.cli("apply", "--wait", "--timeout", "60", str(lab.config_file))
    wait_until(lambda: "blackhole" not in route_states(lab), "the NAT gateways are there again")
    assert {who: seen_by_site(lab, who) for who in SEEN} == SEEN
    assert lab.verify() == []


@pytest.mark.requirement("NATGW-deletion", profile="both")
@pytest.mark.requirement("VPC-route-state", profile="both")
def test_a_deleted_gateway_leaves_a_blackhole(lab: Lab) -> None:
    """The last one: the lab has another gateway then."""
    with (
        tcp_echo(internet(lab), SITE, ECHO_PORT),
        held(lab, "worker") as connection,
    ):
        lab.client.delete("/v1/nat-gateways/out")
        wait_until(lambda: "blackhole" in route_states(lab), "the gateway is deleted")
        assert route_states(lab).count("blackhole") == 1

        def dropped() -> int:
            connection.sendall(secrets.token_bytes(10))
            return lab.drops().get("route_blackhole", 0)

        wait_until(dropped, "packets are dropped for the blackhole")
    assert seen_by_site(lab, "worker", answered=False) is None
    assert seen_by_site(lab, "bastion") == BASTION
    # A route that goes round it serves at once.
    made: Any = lab.client.post("/v1/addresses", {})
    asked = {"subnet": "public-a", "name": "again", "allocations": [made["AllocationId"]]}
    lab.client.post("/v1/nat-gateways", asked)
    route = {"destination": "0.0.0.0/0", "nat_gateway": "again"}
    lab.client.patch("/v1/route-tables/private", {"replace_routes": [route]})
    wait_until(lambda: "blackhole" not in route_states(lab), "the new gateway is there")
    assert seen_by_site(lab, "worker") == made["PublicIp"]
    assert lab.verify() == []


@pytest.mark.requirement("NATGW-drain", profile="both")
@pytest.mark.requirement("NATGW-metrics", profile="both")
def test_an_address_is_gone_with_its_last_flow(launch: Launch) -> None:
    lab = started(launch)
    allocated: Any = lab.client.post("/v1/addresses", {})
    lab.client.patch("/v1/nat-gateways/out", {"associate": [allocated["AllocationId"]]})
    second = allocated["PublicIp"]

    def gateway() -> dict[str, Any]:
        (row,) = (row for row in lab.rows("nat-gateways") if row["NatGatewayName"] == "out")
        return row

    def public() -> set[str]:
        return {each["PublicIp"] for each in gateway()["NatGatewayAddresses"]}

    def of_interface() -> dict[str, Any]:
        key = gateway()["NetworkInterfaceId"]
        (row,) = (row for row in lab.rows("interfaces") if row["id"] == key)
        return row

    assert public() == {OUT, second}
    # Nobody need accept them.
    with namespace.call(internet(lab), socket.create_server, (SITE, ECHO_PORT)):
        connections = [tcp_socket(where(lab, "worker", "shop")) for _ in range(16)]
        try:
            for connection in connections:
                connection.connect((SITE, ECHO_PORT))
            assert {row["nat_address"] for row in flows(lab)} == {OUT, second}
            assert of_interface()["flows"] == len(connections)
            asked = {"give_up": [second], "max_drain_seconds": 4000}
            lab.client.patch("/v1/nat-gateways/out", asked)
            lab.client.advance(30)
            assert public() == {OUT, second}
            linger = struct.pack("@ii", 1, 0)
            for connection in connections:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        finally:
            for connection in connections:
                connection.close()
        wait_until(lambda: public() == {OUT}, "the address is gone")
    assert of_interface()["flows"] == 0
    assert lab.verify() == []
