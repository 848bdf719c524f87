# SPDX-License-Identifier: Apache-2.0
"""Gateway endpoints: who reaches AWS's services as whom, and what becomes of it when they come and
go.

The lab is the one of docs/examples/gateway-endpoint.toml, under a name of its own, with the table
at its top.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import nginx
from hyperplane_nat.cli.common import mapping
from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import Lab, patience, run, tcp_socket, udp_socket, wait_until
from tests.live.test_crash import kill_controller, kill_forwarder
from tests.live.test_host_traffic import exchange, tcp_echo, where
from tests.live.test_nat_gateways import route_states

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "gateway-endpoint.toml"
BUCKETS, SITE = "198.51.100.80", "198.51.100.90"
S3 = "com.amazonaws.us-east-1.s3"
ECHO_PORT = 7007


def example(*further: str) -> str:
    """The file without what a test's lab has of its own, and with further sections."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "gateway"\n', "")
    return "\n".join([text, *further])


def started(launch: Launch, *further: str) -> Lab:
    """A lab whose functions and NAT gateway are there."""
    lab = launch(environments=0, toml=example(*further))
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: "blackhole" not in route_states(lab), "the NAT gateway is there")
    return lab


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return started(launch_shared)


def internet(lab: Lab) -> str:
    return lab.vpc_namespace("internet")


def inside(lab: Lab, who: str, *command: str) -> str | None:
    """What a command says in a host or function; None when it fails."""
    way = ("invoke", who) if who == "archive" else ("exec", who)
    done = lab.cli(*way, "--", *command, check=False)
    return done.stdout if done.returncode == 0 else None


def seen(lab: Lab, who: str, server: str = BUCKETS, *, answered: bool = True) -> str | None:
    """The address that a server sees of a host or function; None when it is not reached."""
    limit = ("-m", patience(answered=answered))
    said = inside(lab, who, "curl", "-sS", *limit, f"http://{server}/peer")
    return None if said is None else json.loads(said)["address"]


def traced(lab: Lab, who: str) -> dict[str, Any]:
    """What a trace from there to `buckets` says."""
    asked = {"source": who, "target": BUCKETS, "port": 80, "protocol": "tcp"}
    return mapping(lab.client.get("/v1/trace", asked))


def table() -> dict[str, tuple[str | None, str | None]]:
    """What the example's table says that `buckets` and `site` see."""
    form = r"^#   (\w+) +[\w-]+-a +.*? {2,}([\d.]+) +([\d.]+|-)$"
    rows = re.findall(form, EXAMPLE.read_text(encoding="utf-8"), re.M)
    return {who: (buckets, None if site == "-" else site) for who, buckets, site in rows}


@pytest.mark.requirement("PL-gateway-endpoints", profile="both")
@pytest.mark.requirement("PL-gateway-source", profile="both")
def test_who_reaches_the_service_as_whom(lab: Lab) -> None:
    told = table()
    assert len(told) == 5
    for who, (of_buckets, of_site) in told.items():
        assert seen(lab, who, answered=of_buckets is not None) == of_buckets, who
        assert seen(lab, who, SITE, answered=of_site is not None) == of_site, who
    assert lab.verify() == []


def test_nginx_sees_private_addresses(lab: Lab) -> None:
    found = nginx.find()
    assert found is not None, "nginx is missing (apt-get install nginx-light, or make deps)"
    with nginx.serving(found, internet(lab), BUCKETS, 8080, {"object": bytes(3_000_000)}):
        for who in ("vault", "archive"):
            command = ("curl", "-sSf", "-m", "20", "-o", "/dev/null", "-w", "%{size_download}")
            assert inside(lab, who, *command, f"http://{BUCKETS}:8080/object") == "3000000"


def test_pings_and_datagrams(lab: Lab) -> None:
    run(where(lab, "vault", "shop"), "ping", "-c", "1", "-W", "5", BUCKETS)
    server = namespace.call(internet(lab), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with server, udp_socket(where(lab, "vault", "shop")) as client:
        server.settimeout(30)
        server.bind((BUCKETS, 5353))
        client.sendto(b"question", (BUCKETS, 5353))
        asked, peer = server.recvfrom(100)
        assert (asked, peer[0]) == (b"question", "10.0.2.10")
        server.sendto(b"answer", peer)
        assert client.recvfrom(100)[0] == b"answer"


@pytest.mark.requirement("PL-gateway-direction", profile="both")
def test_the_service_opens_nothing(lab: Lab) -> None:
    """Though the lab's internet knows the way to private addresses."""
    before = lab.drops().get("no_flow", 0)
    vault, at = where(lab, "vault", "shop"), ("10.0.2.10", 9000)
    with (
        namespace.call(vault, socket.create_server, at),
        tcp_socket(internet(lab), seconds=1) as client,
    ):
        client.bind((BUCKETS, 0))
        assert client.connect_ex(at) != 0
    wait_until(lambda: lab.drops().get("no_flow", 0) > before, "it is dropped")


def test_what_is_told_of_it(lab: Lab) -> None:
    lines = lab.cli("endpoints").stdout.splitlines()
    (line,) = (each for each in lines if each.startswith("shop\tstore\t"))
    assert line.startswith(f"shop\tstore\tGateway\tAvailable\t{S3}\t")
    said = lab.cli("route-tables").stdout
    assert "(s3)" in said
    assert "gateway endpoint store" in said
    (row,) = lab.rows("gateway-endpoints")
    (listed,) = lab.rows("prefix-lists")
    assert (listed["PrefixListId"], listed["Entries"]) == (row["PrefixListId"], [f"{BUCKETS}/32"])
    assert "\tgateway-endpoint\tavailable\tinternet\t" in lab.cli("interfaces").stdout
    assert "\nVPCs\tok\t" in lab.cli("doctor").stdout
    assert any(f"{row['VpcEndpointId']}" in each["message"] for each in lab.rows("events"))
    # The public name has the public address, in whatever subnet.
    name = inside(lab, "vault", "getent", "hosts", "buckets.internet.internal")
    assert name is not None
    assert name.split()[0] == BUCKETS


def test_flows_of_hosts_and_functions(lab: Lab) -> None:
    client = f"import socket; socket.create_connection(('{BUCKETS}', {ECHO_PORT})).recv(1)"
    with (
        tcp_echo(internet(lab), BUCKETS, ECHO_PORT),
        held(lab),
        lab.invoked("archive", sys.executable, "-c", client),
    ):
        wait_until(lambda: len(flows(lab)) == 2, "a flow of the host and one of the function")
        vault, archive = sorted(flows(lab), key=lambda row: row["slot"] or 0)
        assert (vault["host"], vault["remote_address"]) == ("shop/vault", BUCKETS)
        assert archive["nat_address"] == "10.0.2.4"
        (link,) = (row for row in lab.rows("interfaces") if row["kind"] == "gateway-endpoint")
        assert link["packets_out"] + link["packets_in"] > 0


def held(lab: Lab) -> socket.socket:
    """A connection of `vault`, the one that the echo server attends to from here."""
    connection = tcp_socket(where(lab, "vault", "shop"))
    connection.connect((BUCKETS, ECHO_PORT))
    exchange(connection)
    return connection


def flows(lab: Lab) -> list[dict[str, Any]]:
    return [row for row in lab.rows("flows") if row["remote_port"] == ECHO_PORT]


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("vault", ("gateway endpoint", f"available: {S3}, seen as 10.0.2.10")),
        ("archive", ("gateway endpoint", f"available: {S3}, seen as 10.0.2.4")),
        ("clerk", ("NAT gateway", "available: 10.0.0.4, public 203.0.113.10")),
    ],
)
def test_a_trace_agrees(lab: Lab, who: str, words: tuple[str, str]) -> None:
    found = traced(lab, who)
    assert found["reachable"]
    steps = {row["step"]: row for row in found["steps"]}
    assert words[1] == steps[words[0]]["text"]
    assert ("gateway endpoint" in steps) == (who != "clerk")
    if who != "clerk":
        assert "pl-" in steps["route"]["rule"]
        assert steps["route"]["text"] == "to gateway endpoint store"


@pytest.mark.races
def test_killed_processes_keep_flows(lab: Lab) -> None:
    with (
        tcp_echo(internet(lab), BUCKETS, ECHO_PORT),
        tcp_socket(where(lab, "vault", "shop")) as connection,
    ):
        connection.connect((BUCKETS, ECHO_PORT))
        exchange(connection)
        kill_forwarder(lab)
        exchange(connection)
        before = lab.rows("route-tables"), lab.rows("gateway-endpoints")
        kill_controller(lab)
        exchange(connection)
        lab.up()
        exchange(connection)
        assert (lab.rows("route-tables"), lab.rows("gateway-endpoints")) == before
    assert seen(lab, "vault") == "10.0.2.10"
    assert seen(lab, "archive") == "10.0.2.4"
    assert lab.verify() == []


@pytest.mark.requirement("PL-gateway-connections", profile="both")
def test_connections_are_cut_when_an_endpoint_comes_and_goes(lab: Lab) -> None:
    """By commands, under traffic; what else goes by the same tables is not concerned."""
    clerk = where(lab, "clerk", "shop")
    with (
        tcp_echo(internet(lab), BUCKETS, ECHO_PORT),
        tcp_echo(internet(lab), SITE, ECHO_PORT),
        tcp_socket(clerk) as concerned,
        tcp_socket(clerk) as other,
    ):
        concerned.connect((BUCKETS, ECHO_PORT))
        other.connect((SITE, ECHO_PORT))
        for connection in (concerned, other):
            exchange(connection)
        lab.cli("modify-gateway-endpoint", "shop/store", "--add-route-table", "other")
        assert is_cut(lab, concerned)
        exchange(other)
        assert seen(lab, "clerk") == "10.0.3.10"
    with tcp_echo(internet(lab), BUCKETS, ECHO_PORT), tcp_socket(clerk) as connection:
        connection.connect((BUCKETS, ECHO_PORT))
        exchange(connection)
        lab.cli("modify-gateway-endpoint", "store", "--remove-route-table", "other")
        assert is_cut(lab, connection)
    assert seen(lab, "clerk") == "203.0.113.10"
    assert lab.verify() == []


def is_cut(lab: Lab, connection: socket.socket) -> bool:
    """Whether what a connection sends is dropped as that of none."""
    before = lab.drops().get("tcp_no_flow", 0)

    def dropped() -> bool:
        try:
            connection.sendall(b"more")
        except OSError:
            return True
        return lab.drops().get("tcp_no_flow", 0) > before

    wait_until(dropped, "its segments are dropped")
    return True


def test_endpoints_come_and_go_by_apply(lab: Lab) -> None:
    text = lab.config_file.read_text(encoding="utf-8")
    bare = re.sub(r"\[\[vpc.gateway_endpoint\]\]\n(\w.*\n)*\n", "", text)
    lab.config_file.write_text(bare, encoding="utf-8")
    lab.cli("apply", str(lab.config_file))
    assert lab.rows("gateway-endpoints") == []
    assert "10.0.0.0/16" not in run(internet(lab), "ip", "route").stdout
    assert seen(lab, "vault", answered=False) is None
    assert seen(lab, "archive", answered=False) is None
    assert seen(lab, "worker") == "203.0.113.10"
    found = traced(lab, "vault")
    assert (found["reachable"], found["drop_reason"]) == (False, "no_route")
    assert "\nleftovers\tok\t" in lab.cli("doctor").stdout
    lab.config_file.write_text(text, encoding="utf-8")
    lab.cli("apply", str(lab.config_file))
    assert {who: seen(lab, who) for who in table()} == {who: row[0] for who, row in table().items()}
    assert lab.verify() == []


@pytest.mark.requirement("PL-gateway-filters", profile="both")
def test_groups_and_network_acls_are_asked(launch: Launch) -> None:
    guarded = """
[[vpc.security_group]]
name = "narrow"
egress = [{ protocol = "tcp", ports = "80", cidr = "198.51.100.0/24" }]

[[vpc.host]]
name = "guarded"
subnet = "isolated-a"
address = "10.0.2.30"
security_groups = ["narrow"]
"""
    lab = started(launch, guarded)
    assert seen(lab, "guarded") == "10.0.2.30"
    rule = {"protocol": "tcp", "ports": "80", "cidr": "198.51.100.0/24"}
    lab.client.patch("/v1/security-groups/narrow", {"revoke_egress": [rule]})
    assert seen(lab, "guarded", answered=False) is None
    assert traced(lab, "guarded")["drop_reason"] == "security_group_egress"
    assert lab.drops()["security_group_egress"] > 0
    rule = {"protocol": "tcp", "ports": "80", "prefix_list": "s3"}
    lab.client.patch("/v1/security-groups/narrow", {"authorize_egress": [rule]})
    assert seen(lab, "guarded") == "10.0.2.30"
    assert "prefix list s3" in str(traced(lab, "guarded")["steps"])
    assert "tcp 80 to prefix list com.amazonaws.us-east-1.s3" in lab.cli("security-groups").stdout
    deny = {"rule": 90, "action": "deny", "protocol": "tcp", "cidr": f"{BUCKETS}/32"}
    allow = {"rule": 100, "action": "allow", "protocol": "all", "cidr": "0.0.0.0/0"}
    lab.client.post("/v1/network-acls", {"vpc": "shop", "name": "no-store"})
    entries = [{**deny, "egress": True}, *({**allow, "egress": each} for each in (True, False))]
    asked = {"create_entries": entries, "associate": ["isolated-a"]}
    lab.client.patch("/v1/network-acls/no-store", asked)
    assert seen(lab, "vault", answered=False) is None
    assert seen(lab, "archive", answered=False) is None
    assert traced(lab, "vault")["drop_reason"] == "network_acl_egress"
    assert seen(lab, "worker") == "10.0.1.10"
    assert lab.verify() == []


def test_flow_logs_tell_by_which_way(launch: Launch, tmp_path: Path) -> None:
    fields = ("srcaddr", "dstaddr", "dstport", "traffic-path")
    lab = started(
        launch,
        "[timeouts]",
        "time_scale = 60",
        "[flow_logs]",
        "enabled = true",
        f'directory = "{tmp_path}"',
        "aggregation_seconds = 60",
        f"fields = {json.dumps(fields)}",
    )
    asked = ("worker", "archive", "clerk")
    assert {who: seen(lab, who) for who in asked} == {who: table()[who][0] for who in asked}

    def paths() -> dict[str, str]:
        rows = [each.split() for each in lab.cli("flow-logs").stdout.splitlines()]
        return {row[0]: row[3] for row in rows if row[1:3] == [BUCKETS, "80"]}

    own = {"10.0.1.10", "10.0.2.4", "10.0.3.10"}
    wait_until(lambda: own <= paths().keys(), "the rows are written")
    assert {each: paths()[each] for each in own} == {
        "10.0.1.10": "7",
        "10.0.2.4": "7",
        "10.0.3.10": "1",
    }
