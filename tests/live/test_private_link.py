# SPDX-License-Identifier: Apache-2.0
"""An endpoint between two accounts with the same network: who reaches the service by which name,
before and after acceptance, and what is seen of it.

The lab is the one of docs/examples/private-link.toml, under a name of its own, with the table at
its top.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest

from hyperplane_nat.client import ClientError
from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import Lab, difference, patience, require_program, tcp_socket, wait_until
from tests.live.test_crash import kill_controller, kill_forwarder
from tests.live.test_host_traffic import refused, where

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "private-link.toml"
ENDPOINT, NODES = ("10.0.1.100", "10.0.2.200"), ("10.0.1.100", "10.0.2.100")
TARGET = "10.0.1.11"
NAMES = ("orders.bank.internal", "orders.example.com", "front.shop.internal")


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The example, when its targets are healthy; nobody has accepted the endpoint."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "private-link"\n', "")
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: health(lab) == {"healthy"}, lambda: f"health: {health(lab)}")
    return lab


def health(lab: Lab) -> set[str]:
    return {row["State"] for row in lab.rows("target-health")}


def state(lab: Lab) -> str:
    (row,) = lab.rows("endpoints")
    return str(row["State"])


def inside(lab: Lab, who: str, *command: str) -> subprocess.CompletedProcess[str]:
    verb = "invoke" if who == "ledger" else "exec"
    return lab.cli(verb, who, "--", *command, check=False)


def seen(lab: Lab, who: str, where_to: str, *, answered: bool = True) -> str | None:
    """The address that a host sees of who asks; None when nobody answers."""
    limit = ("-m", patience(answered=answered))
    done = inside(lab, who, "curl", "-sS", *limit, f"http://{where_to}/peer")
    return str(json.loads(done.stdout)["address"]) if done.returncode == 0 else None


def word(lab: Lab, address: str | None) -> str:
    """An address as the example's table has it."""
    hosts = {
        row["PrivateIpAddress"]: row["HostName"]
        for row in lab.rows("hosts")
        if row["VpcName"] == "shop"
    }
    if address is None:
        return "-"
    return "node" if address in NODES else hosts.get(address, address)


def accept(lab: Lab) -> None:
    if state(lab) in ("PendingAcceptance", "Rejected"):
        lab.cli("endpoint-services", "--accept", "bank/orders")
    wait_until(lambda: state(lab) == "Available", lambda: f"the endpoint is {state(lab)}")
    wait_until(lambda: seen(lab, "teller", ENDPOINT[0], answered=False), "the endpoint leads there")


@pytest.mark.requirement("PL-acceptance", profile="both")
@pytest.mark.requirement("PL-before-acceptance", profile="both")
def test_nobody_passes_before_acceptance_nor_after_rejection(lab: Lab) -> None:
    teller = where(lab, "teller", "bank")
    assert state(lab) == "PendingAcceptance"
    before = lab.drops()
    assert refused(teller, ENDPOINT[0], 80)
    wait_until(lambda: difference(before, lab.drops()).get("endpoint_unavailable"), "a drop")
    accept(lab)
    assert seen(lab, "teller", ENDPOINT[0]) == NODES[0]
    with pytest.raises(ClientError, match="ExistingVpcEndpointConnections"):
        lab.client.delete("/v1/endpoint-services/shop%2Forders")
    with pytest.raises(ClientError, match="ResourceInUse"):
        lab.client.delete("/v1/load-balancers/front")
    lab.cli("endpoint-services", "--reject", "bank/orders")
    assert state(lab) == "Rejected"
    wait_until(lambda: refused(teller, ENDPOINT[0], 80), "it is rejected")
    accept(lab)
    # What follows within seconds is one event.
    messages = [row["message"] for row in lab.rows("events") if row["kind"] == "endpoint"]
    assert any("endpoint bank/orders" in each for each in messages), messages
    assert lab.verify() == []


@pytest.mark.requirement("PL-source", profile="both")
@pytest.mark.requirement("PL-overlap", profile="both")
@pytest.mark.requirement("PL-endpoint", profile="both")
@pytest.mark.requirement("PL-private-dns", profile="both")
def test_who_reaches_the_service_by_which_name(lab: Lab) -> None:
    accept(lab)
    rows = re.findall(r"^#   (\w+) +(\S+) +(\S+) +(\S+)$", EXAMPLE.read_text(), re.M)
    assert [who for who, *_ in rows] == ["teller", "ledger", "guest", "clerk"]
    for who, *expected in rows:
        found = [
            word(lab, seen(lab, who, name, answered=each != "-"))
            for name, each in zip(NAMES, expected, strict=True)
        ]
        assert found == expected, who
    # The client has the address of the target in the other VPC.
    (row,) = (each for each in lab.rows("hosts") if each["HostName"] == "teller")
    assert row["PrivateIpAddress"] == TARGET
    assert lab.verify() == []


@pytest.mark.requirement("PL-names", profile="both")
@pytest.mark.requirement("PL-path", profile="both")
def test_names_and_zones(lab: Lab) -> None:
    accept(lab)
    dig = require_program("dig", "bind9-dnsutils")
    (row,) = lab.rows("endpoints")

    def asked(name: str) -> list[str]:
        return sorted(inside(lab, "teller", dig, "+short", name).stdout.split())

    regional, *zonal = row["DnsEntries"]
    assert re.fullmatch(
        r"vpce-[0-9a-f]{17}\.vpce-svc-[0-9a-f]{17}\.us-east-1\.vpce\.amazonaws\.com", regional
    )
    assert asked(regional) == asked("orders.example.com") == sorted(ENDPOINT)
    for name, address, node in zip(zonal, ENDPOINT, NODES, strict=True):
        assert asked(name) == [address]
        # The node of the same zone is the source at the target.
        assert seen(lab, "teller", name) == node
    assert inside(lab, "clerk", dig, "+short", "orders.example.com").stdout == ""


@pytest.mark.requirement("PL-metrics", profile="both")
def test_what_is_told_of_a_flow(lab: Lab) -> None:
    accept(lab)

    def figures() -> dict[str, float]:
        with urllib.request.urlopen(lab.status()["metrics_url"]) as answer:
            text = answer.read().decode()
        found = re.findall(r"^hyperplane_nat_(privatelink\w+)\{(.*)\} (\S+)$", text, re.M)
        return {f"{name} {labels}": float(value) for name, labels, value in found}

    endpoint, service = 'endpoint="bank/orders",zone="a"', 'service="shop/orders"'
    before = figures()
    with tcp_socket(where(lab, "teller", "bank")) as held:
        held.connect((ENDPOINT[0], 80))
        (flow,) = (
            row
            for row in lab.rows("flows")
            if row["inside_port"] == held.getsockname()[1] and row["remote_port"] == 80
        )
        assert (flow["host"], flow["remote_address"]) == ("bank/teller", ENDPOINT[0])
        assert flow["target"] == {"address": TARGET, "port": 80}
        assert [hop["address"] for hop in flow["hops"]] == [ENDPOINT[0], NODES[0]]
        assert flow["hops"][1]["port"] > 0
        # The node has the port, and the endpoint none.
        interfaces = {row["id"]: row for row in lab.rows("interfaces")}
        holders = {
            interfaces[row["interface"]]["kind"]
            for row in json.loads(lab.cli("ports", "--json").stdout)["interfaces"]
            if row["in_use"]
        }
        assert "load-balancer" in holders
        assert "vpc-endpoint" not in holders
        found = figures()
        key = f"privatelinkendpoints_active_connections {endpoint}"
        assert found[key] >= 1
        for name in ("new_connections_total", "bytes_processed_total"):
            for key in (
                f"privatelinkendpoints_{name} {endpoint}",
                f"privatelinkservices_{name} {service}",
            ):
                assert found[key] > before[key]


def reset(connection: socket.socket) -> bool:
    """Whether who sends is told that the connection is no more."""
    try:
        connection.sendall(b"late")
        return not connection.recv(10)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.races
def test_killed_processes_keep_connections(lab: Lab) -> None:
    accept(lab)
    place = where(lab, "web-a", "shop")
    listener = namespace.call(place, socket.create_server, (TARGET, 8080))
    sides: list[socket.socket] = []
    thread = threading.Thread(target=lambda: sides.append(listener.accept()[0]), daemon=True)
    thread.start()
    group = {
        "vpc": "shop",
        "name": "own",
        "port": 8080,
        "targets": [{"host": "web-a"}],
        "health_check": {"port": 80},
    }
    rule = {"protocol": "tcp", "ports": "8080", "group": "tellers"}
    lab.client.patch("/v1/security-groups/bank%2Forders", {"authorize_ingress": [rule]})
    lab.client.post("/v1/target-groups", group)
    try:
        own = {"load_balancer": "front", "port": 8080, "target_group": "own"}
        lab.client.post("/v1/listeners", own)
        with listener, tcp_socket(where(lab, "teller", "bank")) as held:
            wait_until(lambda: health(lab) == {"healthy"}, "the target is healthy")
            held.connect((ENDPOINT[0], 8080))
            thread.join(60)
            (side,) = sides
            with side:
                assert side.getpeername()[0] == NODES[0]
                for kill in (kill_forwarder, kill_controller):
                    kill(lab)
                    held.sendall(b"ping")
                    assert side.recv(4) == b"ping"
                    side.sendall(b"pong")
                    assert held.recv(4) == b"pong"
                lab.up()
                held.sendall(b"ping")
                assert side.recv(4) == b"ping"
                lab.cli("advance", "360")
                wait_until(lambda: reset(held), "the client is told")
    finally:
        lab.client.delete("/v1/listeners/front:8080")
        lab.client.delete("/v1/target-groups/own")
    assert lab.verify() == []


def test_all_of_it_goes_and_comes_back_by_apply(lab: Lab) -> None:
    """The last one: the endpoint is another one then."""
    text = lab.config_file.read_text(encoding="utf-8")
    bare = re.sub(r"\[\[vpc\.endpoint(_service)?\]\]\n(\w.*\n|    .*\n|\]\n)*", "", text)
    assert "endpoint" not in re.sub("#.*", "", bare)
    # The endpoint goes before its service in one go.
    _apply(lab, bare)
    assert lab.rows("endpoints") == lab.rows("endpoint-services") == []
    assert "\nleftovers\tok\t" in lab.cli("doctor").stdout
    _apply(lab, text)
    accept(lab)
    assert seen(lab, "teller", "orders.example.com") in NODES
    assert lab.verify() == []


def _apply(lab: Lab, text: str) -> None:
    lab.config_file.write_text(text, encoding="utf-8")
    lab.cli("apply", "--wait", "--timeout", "60", str(lab.config_file))
