# SPDX-License-Identifier: Apache-2.0
"""Flow logs of NAT gateways and load balancers, beside captures of the same traffic.

Their interfaces have no link. A capture has every packet on the link of the client and on the one
behind them: of the internet, or of a target. Each row is to have what went over these.
"""

from __future__ import annotations

import functools
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns import namespace, topology
from tests.flow_logs.records import Record
from tests.live import test_load_balancers as balancers
from tests.live.conftest import Launch
from tests.live.lab import Lab, run, tcp_socket, udp_socket, wait_until
from tests.live.test_capture import capturing, fields
from tests.live.test_flow_logs import FIELDS, Logs, toml
from tests.live.test_host_traffic import where

pytestmark = pytest.mark.live

SITE, ELASTIC, WORKER = "198.51.100.80", "203.0.113.10", "10.0.1.20"
SHUT_IN, SHUT_OUT = 81, 82
"""Ports of servers that the gateway's subnet lets in from nobody, and out to nobody."""

TOML = f"""
[lifecycle]
time_scale = 1000.0
[pool]
size = 1
[[internet]]
name = "site"
kind = "http"
address = "{SITE}"
port = 80
[[function]]
name = "f"
vpc = "shop"
subnets = ["private"]
security_groups = ["all"]
[[vpc]]
name = "shop"
cidr = "10.0.0.0/16"
internet_gateway = true
security_group = [{{ name = "all" }}]
subnet = [
  {{ name = "public", cidr = "10.0.0.0/24", availability_zone = "a" }},
  {{ name = "private", cidr = "10.0.1.0/24", availability_zone = "a" }},
]
[[vpc.route_table]]
name = "out"
subnets = ["public"]
routes = [{{ destination = "0.0.0.0/0", internet_gateway = true }}]
[[vpc.route_table]]
name = "by-nat"
subnets = ["private"]
routes = [{{ destination = "0.0.0.0/0", nat_gateway = "out" }}]
[[vpc.nat_gateway]]
name = "out"
subnet = "public"
elastic_addresses = ["{ELASTIC}"]
[[vpc.network_acl]]
name = "border"
subnets = ["public"]
ingress = [
  {{ rule = 90, action = "deny", protocol = "tcp", ports = "{SHUT_IN}", cidr = "10.0.0.0/16" }},
  {{ rule = 100, action = "allow", cidr = "0.0.0.0/0" }},
]
egress = [
  {{ rule = 90, action = "deny", protocol = "tcp", ports = "{SHUT_OUT}", cidr = "0.0.0.0/0" }},
  {{ rule = 100, action = "allow", cidr = "0.0.0.0/0" }},
]
[[vpc.host]]
name = "worker"
subnet = "private"
address = "{WORKER}"
security_groups = ["all"]
"""
PATH_FIELDS = (*FIELDS, "traffic-path")
KEPT = "files_kept = 100000"
"""An interval is a second: none is to go while a slow machine reads them."""


class WayLogs(Logs):
    """With the interface of a NAT gateway or of a node."""

    def interface(self, kind: str, number: int = 0) -> dict[str, Any]:
        found = [row for row in self.lab.rows("interfaces") if row["kind"] == kind]
        return found[number]

    def host(self, name: str) -> dict[str, Any]:
        (found,) = (row for row in self.lab.rows("hosts") if row["HostName"] == name)
        return dict(found)

    def told(self, interface_id: str, **wanted: str) -> list[Record]:
        """The rows of an interface, when there is one at least."""
        own = {"interface_id": interface_id, **wanted}
        self.wait(functools.partial(self.records, **own), f"a row with {own}")
        return self.records(**own)


def with_paths(text: str) -> str:
    return text.replace(json.dumps(FIELDS), json.dumps(PATH_FIELDS))


@pytest.fixture(scope="module")
def logs(launch_shared: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WayLogs]:
    directory = tmp_path_factory.mktemp("flow-logs")
    lab = launch_shared(environments=0, toml=with_paths(toml(directory, KEPT, TOML)))
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: [row["State"] for row in lab.rows("nat-gateways")] == ["available"], "it is")
    wait_until(lambda: blackholes(lab) == 0, "and the route to it")
    yield WayLogs(lab, directory)
    assert lab.verify() == []


def blackholes(lab: Lab) -> int:
    tables = lab.rows("route-tables")
    return sum(route["State"] == "blackhole" for table in tables for route in table["Routes"])


def worker(logs: WayLogs) -> str:
    return topology.host_namespace(logs.lab.name, logs.host("worker")["Number"])


def internet(logs: WayLogs) -> str:
    return logs.lab.vpc_namespace("internet")


def went(file: Path, wanted: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Packets and bytes of IP by link and source."""
    packets: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for frame in fields(file, "frame.interface_name", "ip.src", "ip.len", wanted=wanted):
        key = (frame["frame.interface_name"], frame["ip.src"])
        packets[key] += 1
        size[key] += int(frame["ip.len"])
    return {key: (packets[key], size[key]) for key in packets}


def counted(records: list[Record]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Packets and bytes of rows by direction, ends, those of the packets, and path."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    names = ("flow-direction", "srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr", "traffic-path")
    for record in records:
        key = tuple(record[name] for name in names)
        packets, size = found.get(key, (0, 0))
        found[key] = (packets + int(record["packets"]), size + int(record["bytes"]))
    return found


@pytest.mark.requirement("AWS-flow-logs-nat-rows", profile="both")
@pytest.mark.requirement("AWS-flow-logs-traffic-path", profile="both")
@pytest.mark.requirement("NATGW-flow-logs", profile="both")
def test_a_nat_gateway_has_four_rows_of_what_the_links_had(logs: WayLogs, tmp_path: Path) -> None:
    gateway = logs.interface("nat-gateway")
    own, link = gateway["address"], logs.interface("internet-gateway")["name"]
    options = ("--host", "worker", "--interface", link)
    with capturing(logs.lab, tmp_path / "nat.pcapng", *options) as running:
        curl = ("curl", "-sSf", "-m", "10", f"http://{SITE}/peer")
        peer = json.loads(logs.lab.cli("exec", "worker", "--", *curl).stdout)
        assert peer["address"] == ELASTIC
        port = peer["port"]
        logs.told(gateway["id"], srcaddr=own, srcport=str(port), flow_direction="egress")
        logs.intervals(2)
        assert running.end()["dropped"] == 0
    # The client's side has another port than the far one.
    near_port = {row["srcport"] for row in logs.told(gateway["id"], srcaddr=WORKER, dstport="80")}
    on_links = went(running.file, f"tcp.port == {port} or tcp.port == {near_port.pop()}")
    assert not near_port
    host = f"host.{logs.host('worker')['Number']}"
    rows = [
        row
        for row in logs.records(interface_id=gateway["id"], protocol="6")
        if row["dstport"] in (str(port), "80") or row["srcport"] == "80"
    ]
    assert counted(rows) == {
        ("ingress", WORKER, own, WORKER, SITE, "-"): on_links[host, WORKER],
        ("egress", own, SITE, own, SITE, "2"): on_links[link, ELASTIC],
        ("ingress", SITE, own, SITE, own, "-"): on_links[link, SITE],
        ("egress", own, WORKER, SITE, WORKER, "1"): on_links[host, SITE],
    }
    assert {row["action"] for row in rows} == {"ACCEPT"}
    assert {(row["vpc-id"], row["subnet-id"]) for row in rows} == {("shop", "public")}
    assert not logs.records(srcaddr=ELASTIC) + logs.records(dstaddr=ELASTIC)
    of_worker = counted(logs.told(logs.host("worker")["NetworkInterfaceId"], protocol="6"))
    assert of_worker == {
        ("egress", WORKER, SITE, WORKER, SITE, "1"): on_links[host, WORKER],
        ("ingress", SITE, WORKER, SITE, WORKER, "-"): on_links[host, SITE],
    }


@pytest.mark.requirement("NATGW-flow-logs", profile="both")
def test_a_function_s_client_is_its_interface(logs: WayLogs) -> None:
    curl = ("curl", "-sSf", "-m", "10", f"http://{SITE}/peer")
    port = str(json.loads(logs.lab.cli("invoke", "f", "--", *curl).stdout)["port"])
    gateway, function = logs.interface("nat-gateway"), logs.interface("hyperplane")
    near, far = function["address"], gateway["address"]
    ends = {"srcaddr": near, "srcport": port, "dstport": "80", "pkt_dstaddr": SITE}
    (row, *_) = logs.told(gateway["id"], **ends, flow_direction="ingress")
    assert (row["dstaddr"], row["pkt-srcaddr"], row["environment"]) == (far, near, "-")
    logs.told(function["id"], **ends, flow_direction="egress")
    logs.told(gateway["id"], srcaddr=far, srcport=port, dstaddr=SITE, flow_direction="egress")
    back = {"dstaddr": near, "dstport": port, "pkt_srcaddr": SITE}
    logs.told(gateway["id"], srcaddr=far, **back, flow_direction="egress")
    logs.told(function["id"], srcaddr=SITE, **back, flow_direction="ingress")


def test_datagrams_and_pings_are_counted_whole(logs: WayLogs) -> None:
    """Of a flow that may be cached, too."""
    gateway = logs.interface("nat-gateway")
    server = namespace.call(internet(logs), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    peer = ("", 0)
    with server, udp_socket(worker(logs)) as client:
        server.settimeout(30)
        server.bind((SITE, 5353))
        for _ in range(200):
            client.sendto(b"question", (SITE, 5353))
            peer = server.recvfrom(100)[1]
            server.sendto(b"the answer", peer)
            assert client.recvfrom(100)[0] == b"the answer"
        own = str(client.getsockname()[1])
    pings = 5
    run(worker(logs), "ping", "-c", str(pings), "-i", "0.2", "-W", "5", SITE)
    there, ident = str(peer[1]), {"interface_id": gateway["id"], "protocol": "17"}
    for ends, size in (
        ({"srcport": own, "dstport": "5353"}, 36),
        ({"srcport": there, "dstport": "5353", "pkt_srcaddr": gateway["address"]}, 36),
        ({"srcport": "5353", "dstport": there, "pkt_dstaddr": gateway["address"]}, 38),
        ({"srcport": "5353", "dstport": own, "pkt_dstaddr": WORKER}, 38),
    ):
        logs.wait(functools.partial(reaches, logs, 200, **ident, **ends), f"200 packets of {ends}")
        found = logs.records(**ident, **ends)
        assert sum(int(row["bytes"]) for row in found) == 200 * size
    echo = {"interface_id": gateway["id"], "protocol": "1", "srcport": "0", "dstport": "0"}
    for address in (WORKER, gateway["address"], SITE):
        times = 2 if address == gateway["address"] else 1
        wanted = {**echo, "srcaddr": address}
        logs.wait(functools.partial(reaches, logs, times * pings, **wanted), f"pings: {wanted}")


def reaches(logs: Logs, count: int, **wanted: str) -> bool:
    return logs.packets(**wanted) == count


@pytest.mark.requirement("NATGW-flow-logs", profile="both")
def test_what_comes_without_a_flow_is_accept_and_dropped(logs: WayLogs) -> None:
    gateway = logs.interface("nat-gateway")
    with tcp_socket(internet(logs), seconds=0.2) as stranger:
        with pytest.raises(TimeoutError):
            stranger.connect((ELASTIC, 2222))
        port = str(stranger.getsockname()[1])
    logs.told(gateway["id"], srcport=port, dstport="2222")
    logs.intervals(1)
    names = ("interface-id", "dstaddr", "action", "flow-direction", "tcp-flags")
    found = {tuple(row[name] for name in names) for row in logs.records(srcport=port)}
    assert found == {(gateway["id"], gateway["address"], "ACCEPT", "ingress", "2")}


@pytest.mark.requirement("NATGW-flow-logs", profile="both")
@pytest.mark.parametrize("port", [SHUT_IN, SHUT_OUT])
def test_the_border_of_a_gateway_s_subnet_rejects_there(logs: WayLogs, port: int) -> None:
    gateway, host = logs.interface("nat-gateway"), logs.host("worker")
    with tcp_socket(worker(logs), seconds=0.2) as client:
        with pytest.raises(TimeoutError):
            client.connect((SITE, port))
        own = str(client.getsockname()[1])
    wanted = {"srcport": own, "dstport": str(port)}
    logs.told(gateway["id"], **wanted, action="REJECT")
    logs.told(host["NetworkInterfaceId"], **wanted)
    logs.intervals(1)
    found = {
        (row["interface-id"], row["flow-direction"], row["action"])
        for row in logs.records(**wanted)
    }
    at_gateway = {(gateway["id"], "ingress", "REJECT")}
    if port == SHUT_OUT:
        at_gateway = {(gateway["id"], "ingress", "ACCEPT"), (gateway["id"], "egress", "REJECT")}
    assert found == {(host["NetworkInterfaceId"], "egress", "ACCEPT"), *at_gateway}


@pytest.fixture(scope="module")
def balanced(launch_shared: Launch, tmp_path_factory: pytest.TempPathFactory) -> WayLogs:
    directory = tmp_path_factory.mktemp("flow-logs")
    text = balancers.EXAMPLE.read_text(encoding="utf-8")
    text = text.replace('[lab]\nname = "load-balancer"\n', "")
    lab = launch_shared(environments=0, toml=with_paths(toml(directory, KEPT, text)))
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: set(balancers.states(lab)) == {"healthy"}, "all are healthy")
    return WayLogs(lab, directory)


@pytest.mark.requirement("NLB-flow-logs", profile="both")
@pytest.mark.parametrize("port", [80, 8080])
def test_a_node_has_frontend_and_backend(balanced: WayLogs, tmp_path: Path, port: int) -> None:
    """By port 80 a target sees the client, by the other one the node."""
    node = next(
        row
        for row in balanced.lab.rows("interfaces")
        if row["kind"] == "load-balancer" and row["address"] == balancers.NODES[0]
    )
    names = [f"web-{letter}" for letter in "abc"]
    options = [option for name in ("client", *names) for option in ("--host", name)]
    with capturing(balanced.lab, tmp_path / "nlb.pcapng", *options) as running:
        with tcp_socket(where(balanced.lab, "client", "shop")) as client:
            client.connect((balancers.NODES[0], port))
            own = str(client.getsockname()[1])
            client.sendall(b"GET /peer HTTP/1.0\r\n\r\n")
            text = b""
            while piece := client.recv(65536):
                text += piece
        peer = json.loads(text.partition(b"\r\n\r\n")[2])
        seen, seen_port = peer["address"], str(peer["port"])
        balanced.told(node["id"], srcport=own, dstport=str(port))
        balanced.intervals(2)
        assert running.end()["dropped"] == 0
    assert seen == (balancers.CLIENT if port == 80 else balancers.NODES[0])
    wanted = f"(tcp.port == {port} and tcp.port == {own}) or "
    on_links = went(running.file, wanted + f"(tcp.port == 80 and tcp.port == {seen_port})")
    host = f"host.{balanced.host('client')['Number']}"
    (there,) = {link for link, _ in on_links if link != host}
    (name,) = (each for each in names if f"host.{balanced.host(each)['Number']}" == there)
    target, entrance = balancers.HOSTS[name], balancers.NODES[0]
    rows = [
        row
        for row in balanced.records(interface_id=node["id"], protocol="6")
        if {own, seen_port} & {row["srcport"], row["dstport"]}
    ]
    client_address = balancers.CLIENT
    assert counted(rows) == {
        ("ingress", client_address, entrance, client_address, entrance, "-"): on_links[
            host, client_address
        ],
        ("egress", entrance, target, seen, target, "1"): on_links[there, seen],
        ("ingress", target, entrance, target, seen, "-"): on_links[there, target],
        ("egress", entrance, client_address, entrance, client_address, "1"): on_links[
            host, entrance
        ],
    }
    (row, *_) = balanced.told(
        balanced.host(name)["NetworkInterfaceId"], srcaddr=seen, srcport=seen_port, dstport="80"
    )
    assert (row["dstaddr"], row["flow-direction"], row["action"]) == (target, "ingress", "ACCEPT")


@pytest.mark.requirement("NLB-flow-logs", profile="both")
def test_a_node_s_groups_reject_at_the_node(balanced: WayLogs) -> None:
    with tcp_socket(where(balanced.lab, "guest", "shop"), seconds=0.2) as guest:
        with pytest.raises(TimeoutError):
            guest.connect((balancers.NODES[0], 80))
        own = str(guest.getsockname()[1])
    balanced.wait(lambda: balanced.records(srcport=own, action="REJECT"), "the node's row")
    balanced.intervals(1)
    node = next(
        row["id"]
        for row in balanced.lab.rows("interfaces")
        if row["kind"] == "load-balancer" and row["address"] == balancers.NODES[0]
    )
    found = {
        (row["interface-id"], row["flow-direction"], row["action"])
        for row in balanced.records(srcport=own)
    }
    guest_interface = balanced.host("guest")["NetworkInterfaceId"]
    assert found == {(guest_interface, "egress", "ACCEPT"), (node, "ingress", "REJECT")}
