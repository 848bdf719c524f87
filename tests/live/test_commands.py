# SPDX-License-Identifier: Apache-2.0
"""Resources made, changed and deleted one by one in a lab that was started without any of them."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from hyperplane_nat.client import ApiError, Client
from tests.live.conftest import Launch
from tests.live.lab import receive, tcp_socket, wait_until

pytestmark = pytest.mark.live

FAST = 1000.0
"""Modelled time goes by so much quicker."""

BARE = f"""
[lifecycle]
time_scale = {FAST}

[pool]
size = 2

[[vpc]]
name = "bare"
cidr = "10.9.0.0/16"
"""

ADDRESS = "10.7.1.80"
PORT = 7000

# Sends a byte, waits to be told, tries another connection, and sends a byte on the first.
TALK = f"""
import socket
first = socket.create_connection(("{ADDRESS}", {PORT}), timeout=20)
first.sendall(b"a")
assert first.recv(1) == b"b"
try:
    socket.create_connection(("{ADDRESS}", {PORT}), timeout=1).close()
    print("passed")
except TimeoutError:
    print("dropped")
first.sendall(b"c")
assert first.recv(1) == b"d"
"""


def code(client: Client, path: str) -> str:
    """The code with which a deletion is refused."""
    with pytest.raises(ApiError) as caught:
        client.delete(path)
    return caught.value.code


def test_a_vpc_and_its_function_from_beginning_to_end(launch: Launch) -> None:
    lab = launch(environments=0, toml=BARE)
    assert (lab.status()["interfaces"], lab.rows("functions")) == (0, [])
    client = lab.client
    client.post("/v1/vpcs", {"name": "shop", "cidr": "10.7.0.0/16"})
    client.post("/v1/subnets", {"vpc": "shop", "name": "a", "cidr": "10.7.1.0/24"})
    client.post("/v1/security-groups", {"vpc": "shop", "name": "app"})
    # Its address is one of the VPC; the connections of the test have another port.
    server = {"vpc": "shop", "name": "web", "kind": "http", "address": ADDRESS, "port": 80}
    client.post("/v1/services", server)
    asked = {"name": "orders", "subnets": ["shop/a"], "security_groups": ["shop/app"]}
    client.post("/v1/functions", asked)

    def state() -> object:
        rows: Any = client.get("/v1/functions")
        return next(row["State"] for row in rows if row["FunctionName"] == "orders")

    wait_until(lambda: state() == "Active", "it is Active")
    answers: list[Any] = []
    patient = Client(lab.name, runtime_directory=lab.runtime_directory.parent, timeout=60)

    def invoke() -> None:
        body = {"command": ["python3", "-c", TALK], "timeout_seconds": 40}
        answers.append(patient.post("/v1/functions/orders/invocations", body))

    with tcp_socket(lab.vpc_namespace("shop"), seconds=40) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, PORT))
        listener.listen()
        thread = threading.Thread(target=invoke)
        thread.start()
        connection, _peer = listener.accept()
        with connection:
            connection.settimeout(40)
            assert receive(connection, 1) == b"a"
            everything = [{"protocol": "all", "cidr": "0.0.0.0/0"}]
            client.patch("/v1/security-groups/shop%2Fapp", {"revoke_egress": everything})
            connection.sendall(b"b")
            assert receive(connection, 1) == b"c"
            connection.sendall(b"d")
            thread.join(60)
    assert [(each["stdout"], each["status"]) for each in answers] == [("ZHJvcHBlZAo=", 0)]

    for path in ("/v1/vpcs/shop", "/v1/subnets/shop%2Fa", "/v1/security-groups/shop%2Fapp"):
        assert code(client, path) == "DependencyViolation"
    client.delete("/v1/functions/orders")
    client.delete("/v1/services/shop%2Fweb")

    def deleted(path: str) -> bool:
        try:
            client.delete(path)
        except ApiError as error:
            if error.code != "DependencyViolation":
                raise
            return False
        return True

    wait_until(lambda: deleted("/v1/security-groups/shop%2Fapp"), "the interface has gone")
    client.delete("/v1/subnets/shop%2Fa")
    client.delete("/v1/vpcs/shop")
    assert code(client, "/v1/vpcs/shop") == "InvalidVpcID.NotFound"
    assert lab.verify() == []
