# SPDX-License-Identifier: Apache-2.0
"""What is told of hosts: flow logs at both ends and where a packet is refused, and captures."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from netns import topology
from tests.flow_logs.records import Record
from tests.live.conftest import Launch
from tests.live.lab import Lab, tcp_socket, udp_socket
from tests.live.test_capture import capturing, fields
from tests.live.test_flow_logs import Logs, toml

pytestmark = pytest.mark.live

CLIENT, STORE, ECHO = "10.0.1.20", "10.0.1.54", ("10.0.1.81", 7)
OPEN, CLOSED = 5432, 5433
TOML = f"""
[lifecycle]
time_scale = 1000.0
[pool]
size = 1
[[function]]
name = "f"
vpc = "customer"
subnets = ["a"]
security_groups = ["app"]
[[account]]
name = "payments"
id = "111122223333"
[[vpc]]
name = "customer"
account = "payments"
cidr = "10.0.0.0/16"
subnet = [{{ name = "a", cidr = "10.0.1.0/24" }}]
security_group = [
  {{ name = "app" }},
  {{ name = "db", egress = [], ingress = [{{ protocol = "tcp", ports = "5432", group = "app" }}] }},
]
host = [
  {{ name = "client", subnet = "a", address = "{CLIENT}", security_groups = ["app"] }},
  {{ name = "store", subnet = "a", address = "{STORE}", security_groups = ["db"] }},
]
service = [
  {{ name = "store", kind = "http", host = "store", port = {OPEN} }},
  {{ name = "closed", kind = "http", host = "store", port = {CLOSED} }},
  {{ name = "echo", kind = "udp-echo", address = "{ECHO[0]}", port = {ECHO[1]} }},
]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow-logs")


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, directory: Path) -> Lab:
    found = launch_shared(environments=0, toml=toml(directory, TOML))
    found.cli("wait", "--timeout", "60")
    return found


@pytest.fixture
def logs(lab: Lab, directory: Path) -> Logs:
    return Logs(lab, directory)


def host(lab: Lab, name: str) -> dict[str, Any]:
    (found,) = (row for row in lab.rows("hosts") if row["HostName"] == name)
    return found


def where(lab: Lab, name: str) -> str:
    return topology.host_namespace(lab.name, host(lab, name)["Number"])


def connect(namespace_name: str, address: str, port: int) -> int:
    """A connection, made and ended; its source port."""
    with tcp_socket(namespace_name) as connection:
        connection.connect((address, port))
        own: int = connection.getsockname()[1]
    return own


def refused(namespace_name: str, address: str, port: int) -> int:
    """A connection that stays unanswered; its source port."""
    with tcp_socket(namespace_name, seconds=0.1) as connection:
        with pytest.raises(TimeoutError):
            connection.connect((address, port))
        own: int = connection.getsockname()[1]
    return own


def function_reaches_store(lab: Lab) -> dict[str, Any]:
    """Whom the server there sees."""
    url = f"http://{STORE}:{OPEN}/peer"
    answer = lab.cli("invoke", "f", "--", "curl", "-sSf", "-m", "10", url).stdout
    peer: dict[str, Any] = json.loads(answer)
    return peer


def rows(logs: Logs, name: str, **wanted: str) -> list[Record]:
    """What there is of a host's interface, at least one row."""
    own = {"interface_id": host(logs.lab, name)["NetworkInterfaceId"], **wanted}
    logs.wait(functools.partial(logs.records, **own), f"a row with {own}")
    return logs.records(**own)


@pytest.mark.requirement("AWS-flow-logs-v2", profile="both")
def test_a_connection_between_hosts_is_in_the_rows_of_both(logs: Logs) -> None:
    port = str(connect(where(logs.lab, "client"), STORE, OPEN))
    out = {"srcaddr": CLIENT, "srcport": port, "dstaddr": STORE, "dstport": str(OPEN)}
    back = {"srcaddr": STORE, "srcport": str(OPEN), "dstaddr": CLIENT, "dstport": port}
    for name, ways in (("client", ("egress", "ingress")), ("store", ("ingress", "egress"))):
        for ends, way in zip((out, back), ways, strict=True):
            for row in rows(logs, name, **ends):
                assert (row["flow-direction"], row["action"]) == (way, "ACCEPT")
                assert (row["vpc-id"], row["subnet-id"]) == ("customer", "a")
                assert row["instance-id"] == host(logs.lab, name)["InstanceId"]
                assert (row["account-id"], row["environment"]) == ("111122223333", "-")
    told = logs.lab.cli("flow-logs", "--host", "store").stdout
    assert f" {CLIENT} {STORE} {port} {OPEN} 6 " in told


@pytest.mark.requirement("AWS-flow-logs-v2", profile="both")
def test_the_interface_that_refused_has_the_reject(logs: Logs) -> None:
    syn = {"protocol": "6", "tcp_flags": "2"}
    port = str(refused(where(logs.lab, "client"), STORE, CLOSED))
    ends = {"srcaddr": CLIENT, "srcport": port, "dstport": str(CLOSED), **syn}
    assert {row["action"] for row in rows(logs, "store", **ends)} == {"REJECT"}
    assert {row["action"] for row in rows(logs, "client", **ends)} == {"ACCEPT"}
    # Its own group lets it begin nothing.
    port = str(refused(where(logs.lab, "store"), CLIENT, OPEN))
    (row, *_) = rows(logs, "store", srcport=port, dstaddr=CLIENT, **syn)
    assert (row["action"], row["flow-direction"]) == ("REJECT", "egress")
    logs.intervals(1)
    assert not logs.records(srcport=port, action="ACCEPT")


def test_a_server_on_the_router_makes_rows_at_the_host_alone(logs: Logs) -> None:
    with udp_socket(where(logs.lab, "client")) as endpoint:
        endpoint.sendto(b"hello", ECHO)
        assert endpoint.recv(64) == b"hello"
        port = str(endpoint.getsockname()[1])
    rows(logs, "client", srcport=port, dstaddr=ECHO[0], flow_direction="egress")
    rows(logs, "client", dstport=port, srcaddr=ECHO[0], flow_direction="ingress")
    (router,) = (row for row in logs.lab.rows("interfaces") if row["kind"] == "router")
    assert not logs.records(interface_id=router["id"])


@pytest.mark.requirement("AWS-flow-logs-nat-rows", profile="both")
def test_a_function_s_connection_is_in_the_rows_of_both(logs: Logs) -> None:
    told = function_reaches_store(logs.lab)
    ends = {"srcaddr": told["address"], "srcport": str(told["port"]), "dstaddr": STORE}
    (row, *_) = rows(logs, "store", **ends)
    assert (row["flow-direction"], row["action"]) == ("ingress", "ACCEPT")
    logs.wait(lambda: logs.records(**ends, flow_direction="egress"), "the function's interface's")
    closed = f"http://{STORE}:{CLOSED}/"
    waited = logs.lab.cli("invoke", "f", "--", "curl", "-sS", "-m", "1", closed, check=False)
    assert waited.returncode == 28
    refusal = {"srcaddr": told["address"], "dstport": str(CLOSED)}
    assert {row["action"] for row in rows(logs, "store", **refusal)} == {"REJECT"}
    logs.wait(lambda: logs.records(**refusal, action="ACCEPT"), "the function's interface's")


def test_a_capture_of_hosts_has_every_side(lab: Lab, tmp_path: Path) -> None:
    options = ("--host", "client", "--host", "customer/store")
    with capturing(lab, tmp_path / "hosts.pcapng", *options) as running:
        between = connect(where(lab, "client"), STORE, OPEN)
        with udp_socket(where(lab, "client")) as endpoint:
            endpoint.sendto(b"hello", ECHO)
            assert endpoint.recv(64) == b"hello"
            outward = endpoint.getsockname()[1]
        lost = refused(where(lab, "client"), STORE, CLOSED)
        peer = function_reaches_store(lab)
        assert running.end()["dropped"] == 0
    names = ("frame.interface_name", "frame.comment", "ip.src")
    client, store = (f"host.{host(lab, name)['Number']}" for name in ("client", "store"))
    (router,) = (row["name"] for row in lab.rows("interfaces") if row["kind"] == "router")

    frames = fields(running.file, *names, wanted=f"tcp.port == {between}")
    counted = Counter((each["frame.interface_name"], each["ip.src"]) for each in frames)
    assert set(counted) == {(link, end) for link in (client, store) for end in (CLIENT, STORE)}
    assert counted[client, CLIENT] == counted[store, CLIENT] >= 3
    told = {each["frame.comment"].rpartition(" ")[0] for each in frames}
    assert told == {f"customer/client: tcp {CLIENT}:{between} -> {STORE}:{OPEN}"}

    frames = fields(running.file, *names, wanted=f"udp.port == {outward}")
    assert [each["frame.interface_name"] for each in frames] == [client, router, router, client]
    told = {each["frame.comment"].rpartition(" ")[0] for each in frames}
    assert told == {f"customer/client: udp {CLIENT}:{outward} -> {ECHO[0]}:{ECHO[1]}"}

    frames = fields(running.file, *names, wanted=f"tcp.port == {lost}")
    assert {(each["frame.interface_name"], each["frame.comment"]) for each in frames} == {
        (client, "no flow")
    }

    frames = fields(running.file, *names, wanted=f"tcp.port == {peer['port']}")
    assert {each["frame.interface_name"] for each in frames} == {store}
    (comment,) = {each["frame.comment"].rpartition(" ")[0] for each in frames}
    ends = re.escape(f"{peer['address']}:{peer['port']} -> {STORE}:{OPEN}")
    assert re.fullmatch(rf"env-[0-9]+( of f)?: tcp \S+ -> {ends}", comment)
