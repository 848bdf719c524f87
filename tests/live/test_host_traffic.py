# SPDX-License-Identifier: Apache-2.0
"""What hosts of VPCs reach and what reaches them: each other, the router's servers, functions.

Two VPCs have the same addresses. In `customer` the host `client` carries the group "app", `store`
the group "db" that lets in "app" on port 5432 and sends to nobody, `open` none.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from netns import namespace, topology
from tests.live.conftest import Launch
from tests.live.lab import Lab, receive, run, tcp_socket, udp_socket, wait_until
from tests.live.test_crash import forwarder_pid, kill_controller

pytestmark = pytest.mark.live

CLIENT, STORE, OPEN = "10.0.1.20", "10.0.1.54", "10.0.1.60"
WEB, GUARDED, ECHO = ("10.0.1.80", 80), ("10.0.1.90", 80), ("10.0.1.81", 7)
REFUSED_SECONDS = 0.5

TOML = f"""
[lifecycle]
time_scale = 1000.0
[pool]
size = 2
[[function]]
name = "f"
vpc = "customer"
subnets = ["a"]
security_groups = ["app"]
[[function]]
name = "g"
vpc = "customer"
subnets = ["a"]
security_groups = ["other"]
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
subnet = [{{ name = "a", cidr = "10.0.1.0/24" }}, {{ name = "b", cidr = "10.0.2.0/24" }}]
security_group = [
  {{ name = "app" }},
  {{ name = "other" }},
  {{ name = "db", ingress = [{{ protocol = "tcp", ports = "5432", group = "app" }}], egress = [] }},
  {{ name = "guard", ingress = [{{ protocol = "tcp", ports = "80", group = "app" }}] }},
]
host = [
  {{ name = "client", subnet = "a", address = "{CLIENT}", security_groups = ["app"] }},
  {{ name = "store", subnet = "a", address = "{STORE}", security_groups = ["db"] }},
  {{ name = "open", subnet = "a", address = "{OPEN}" }},
  {{ name = "far", subnet = "b", address = "10.0.2.60" }},
]
service = [
  {{ name = "web", kind = "http", address = "{WEB[0]}", port = 80, size_bytes = 1000 }},
  {{ name = "g", kind = "http", address = "{GUARDED[0]}", port = 80, security_groups = ["guard"] }},
  {{ name = "echo", kind = "udp-echo", address = "{ECHO[0]}", port = 7 }},
  {{ name = "store", kind = "http", host = "store", port = 5432, size_bytes = 5000 }},
  {{ name = "closed", kind = "http", host = "store", port = 5433 }},
]
[[vpc]]
name = "same"
cidr = "10.0.0.0/16"
subnet = [{{ name = "c", cidr = "10.0.1.0/24" }}]
host = [
  {{ name = "client", subnet = "c", address = "{CLIENT}" }},
  {{ name = "open", subnet = "c", address = "{OPEN}" }},
]
service = [{{ name = "web", kind = "http", address = "{WEB[0]}", port = 80, size_bytes = 2000 }}]
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    found = launch_shared(environments=0, toml=TOML)
    found.cli("wait", "--timeout", "60")
    return found


def where(lab: Lab, name: str, vpc: str = "customer") -> str:
    (row,) = (row for row in lab.rows("hosts") if (row["VpcName"], row["HostName"]) == (vpc, name))
    return topology.host_namespace(lab.name, row["Number"])


def fetch(namespace_name: str, address: str, port: int) -> dict[str, Any]:
    """Who the server there sees, by curl."""
    url = f"http://{address}:{port}/peer"
    document: dict[str, Any] = json.loads(
        run(namespace_name, "curl", "-sSf", "-m", "10", url).stdout
    )
    return document


def size(namespace_name: str, address: str, port: int) -> int:
    """How much the server there serves."""
    url = f"http://{address}:{port}/file"
    options = ("-sSf", "-m", "10", "-o", "/dev/null", "-w", "%{size_download}")
    return int(run(namespace_name, "curl", *options, url).stdout)


def refused(namespace_name: str, address: str, port: int) -> bool:
    """Whether a connection stays unanswered."""
    with tcp_socket(namespace_name, seconds=REFUSED_SECONDS) as connection:
        try:
            connection.connect((address, port))
        except TimeoutError:
            return True
    return False


@contextlib.contextmanager
def tcp_echo(namespace_name: str, address: str, port: int) -> Iterator[None]:
    """A TCP echo server for one connection at a time."""
    server = namespace.call(namespace_name, socket.create_server, (address, port))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    while data := connection.recv(65536):
                        connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def exchange(connection: socket.socket) -> None:
    piece = secrets.token_bytes(30_000)
    connection.sendall(piece)
    assert receive(connection, len(piece)) == piece


def test_a_host_reaches_another_by_its_own_address(lab: Lab) -> None:
    assert fetch(where(lab, "client"), STORE, 5432)["address"] == CLIENT
    with (
        tcp_echo(where(lab, "far"), "10.0.2.60", 7007),
        tcp_socket(where(lab, "open")) as connection,
    ):
        connection.connect(("10.0.2.60", 7007))
        exchange(connection)
    run(where(lab, "open"), "ping", "-c", "1", "-W", "5", "10.0.2.60")
    assert lab.verify() == []


def test_a_host_and_a_server_on_the_router(lab: Lab) -> None:
    for name, address in (("client", CLIENT), ("open", OPEN), ("far", "10.0.2.60")):
        assert fetch(where(lab, name), *WEB)["address"] == address
    with udp_socket(where(lab, "open")) as datagrams:
        datagrams.sendto(b"x" * 1200, ECHO)
        assert datagrams.recvfrom(2000) == (b"x" * 1200, ECHO)
    # The router itself is somebody, too, and a program beside the servers.
    with tcp_echo(where(lab, "open"), OPEN, 7007), tcp_socket(lab.vpc) as connection:
        connection.bind((WEB[0], 0))
        connection.connect((OPEN, 7007))
        exchange(connection)


def test_a_function_reaches_a_host_that_admits_its_group(lab: Lab) -> None:
    url = f"http://{STORE}:5432/peer"
    told = lab.cli("invoke", "f", "--", "curl", "-sSf", "-m", "10", url).stdout
    interfaces = {row["address"] for row in lab.rows("interfaces") if row["kind"] == "hyperplane"}
    assert json.loads(told)["address"] in interfaces
    other = lab.cli("invoke", "g", "--", "curl", "-sS", "-m", "1", url, check=False)
    # 28: curl has waited in vain.
    assert other.returncode == 28
    with tcp_echo(where(lab, "open"), OPEN, 7008):
        script = (
            f"import socket; s = socket.create_connection(('{OPEN}', 7008), 5); s.sendall(b'hi');"
            "print(s.recv(2).decode())"
        )
        assert lab.cli("invoke", "g", "--", "python3", "-c", script).stdout == "hi\n"


def test_groups_refuse_both_ways(lab: Lab) -> None:
    # Ingress: another port, and somebody without the group, in the same subnet.
    assert refused(where(lab, "client"), STORE, 5433)
    assert refused(where(lab, "open"), STORE, 5432)
    # Egress: nothing leaves the store but answers.
    assert refused(where(lab, "store"), *WEB)
    assert refused(where(lab, "store"), OPEN, 9)
    # A server on the router with groups of its own.
    assert fetch(where(lab, "client"), *GUARDED)["address"] == CLIENT
    assert refused(where(lab, "open"), *GUARDED)
    assert lab.drops()


def test_a_rule_that_changes_concerns_new_flows(lab: Lab) -> None:
    store, opened = where(lab, "store"), where(lab, "open")
    rule = {"protocol": "tcp", "ports": "7009", "cidr": f"{OPEN}/32"}
    path = "/v1/security-groups/customer%2Fdb"
    with tcp_echo(store, STORE, 7009), tcp_socket(opened) as connection:
        assert refused(opened, STORE, 7009)
        lab.client.patch(path, {"authorize_ingress": [rule]})
        connection.connect((STORE, 7009))
        exchange(connection)
        lab.client.patch(path, {"revoke_ingress": [rule]})
        exchange(connection)
        assert refused(opened, STORE, 7009)


def test_vpcs_with_the_same_addresses_never_meet(lab: Lab) -> None:
    assert size(where(lab, "client"), *WEB) == 1000
    assert size(where(lab, "client", "same"), *WEB) == 2000
    with tcp_echo(where(lab, "open", "same"), OPEN, 7010):
        # The host of this address in its own VPC has nobody who listens, and says so.
        with pytest.raises(ConnectionRefusedError), tcp_socket(where(lab, "far")) as stranger:
            stranger.connect((OPEN, 7010))
        with tcp_socket(where(lab, "client", "same")) as connection:
            connection.connect((OPEN, 7010))
            exchange(connection)


def test_nothing_reaches_an_environment(lab: Lab) -> None:
    with lab.invoked("f", "sleep", "60"):
        (row,) = wait_until(
            lambda: [row for row in lab.rows("environments") if row["state"] == "busy"],
            "an environment at work",
        )
        with tcp_echo(lab.environment(row["number"]), row["address"], 7011):
            assert refused(where(lab, "open"), row["address"], 7011)
            assert refused(where(lab, "open"), row["interface_address"], 7011)


def test_an_attached_namespace_is_a_host_like_others(lab: Lab) -> None:
    name = f"t-{secrets.token_hex(4)}"
    namespace.create([name], lambda _name: None)
    try:
        place = ("--namespace", name, "--vpc", "customer", "--subnet", "b")
        lab.cli("attach", *place, "--address", "10.0.2.99", "--group", "app", "blue")
        assert fetch(name, *WEB)["address"] == "10.0.2.99"
        # The store admits it as a member of the group.
        assert fetch(name, STORE, 5432)["address"] == "10.0.2.99"
        with tcp_echo(name, "10.0.2.99", 7012):
            assert refused(where(lab, "open"), "10.0.2.99", 7012)
        lab.cli("detach", "blue")
        with pytest.raises(OSError, match="unreachable"), tcp_socket(name) as connection:
            connection.connect(WEB)
        assert fetch(where(lab, "client"), STORE, 5432)["address"] == CLIENT
    finally:
        namespace.delete([name])


@pytest.mark.races
def test_a_connection_outlives_the_controller(lab: Lab) -> None:
    pid = forwarder_pid(lab)
    with (
        tcp_echo(where(lab, "far"), "10.0.2.60", 7013),
        tcp_socket(where(lab, "open")) as connection,
        tcp_socket(where(lab, "client")) as other,
    ):
        connection.connect(("10.0.2.60", 7013))
        other.connect((STORE, 5432))
        exchange(connection)
        kill_controller(lab)
        exchange(connection)
        lab.up()
        assert forwarder_pid(lab) == pid
        exchange(connection)
        other.sendall(b"GET /peer HTTP/1.0\r\n\r\n")
        assert b"200 OK" in other.recv(100)
    assert lab.verify() == []


def test_three_megabytes_each_way(lab: Lab) -> None:
    with (
        tcp_echo(where(lab, "far"), "10.0.2.60", 7014),
        tcp_socket(where(lab, "open"), seconds=30) as connection,
    ):
        connection.connect(("10.0.2.60", 7014))
        for _ in range(100):
            exchange(connection)


def test_metrics_and_processes(lab: Lab) -> None:
    text = subprocess.run(
        ["curl", "-sSf", lab.status()["metrics_url"]], capture_output=True, text=True, check=True
    ).stdout
    assert 'hyperplane_nat_hosts{vpc="same"} 2.0' in text
    check = next(row for row in lab.json("doctor")["checks"] if row["name"] == "hosts")
    assert check["outcome"] == "ok"
