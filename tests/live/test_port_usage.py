# SPDX-License-Identifier: Apache-2.0
"""One of two functions eats the ports towards one remote endpoint, and `ports` names it."""

from __future__ import annotations

import base64
import sys
import urllib.request
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until

pytestmark = pytest.mark.live

LIMIT = 300
MODEST = 10
TARGET = ("10.0.1.81", 7)

TOML = f"""
[lifecycle]
time_scale = 60
# The modest one's ports are its own until the test is over.
warm_idle_seconds = 36000

[pool]
size = 4

[ports]
limit_per_remote = {LIMIT}

[[account]]
name = "payments"
id = "111122223333"

[[vpc]]
name = "payments"
account = "payments"
cidr = "10.0.0.0/16"

[[vpc.subnet]]
name = "a"
cidr = "10.0.1.0/24"

[[vpc.security_group]]
name = "functions"

[[vpc.service]]
name = "echo"
kind = "udp-echo"
address = "{TARGET[0]}"
port = {TARGET[1]}

[[function]]
name = "modest"
subnets = ["a"]
security_groups = ["functions"]

[[function]]
name = "greedy"
subnets = ["a"]
security_groups = ["functions"]
"""

# A datagram from each of so many source ports to an address; prints how many were answered.
SENDER = """
import select, socket, sys
target, expected = (sys.argv[1], int(sys.argv[2])), int(sys.argv[4])
endpoints = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[3]))]
answered = 0
for endpoint in endpoints:
    endpoint.connect(target)
    endpoint.send(b"question")
    answered += bool(select.select([endpoint], [], [], 9 if answered < expected else 0.2)[0])
print(answered)
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    found = launch_shared(environments=0, toml=TOML)
    wait_until(
        lambda: {row["State"] for row in found.rows("functions")} == {"Active"},
        "the functions are Active",
    )
    return found


def send(lab: Lab, function: str, count: int, expected: int) -> tuple[int, str]:
    """How many datagrams were answered, and in which environment the function ran."""
    numbers = [str(number) for number in (TARGET[1], count, expected)]
    command = [sys.executable, "-c", SENDER, TARGET[0], *numbers]
    answer: Any = lab.client.post(f"/v1/functions/{function}/invocations", {"command": command})
    assert answer["status"] == 0, base64.b64decode(answer["stderr"])
    return int(base64.b64decode(answer["stdout"])), answer["environment"]


@pytest.mark.requirement("AWS-error-port-allocation", profile="aws")
@pytest.mark.requirement("AWS-cloudwatch-metrics", profile="aws")
def test_the_culprit_of_an_exhaustion_is_named(lab: Lab) -> None:
    assert send(lab, "modest", MODEST, MODEST)[0] == MODEST
    answered, environment = send(lab, "greedy", LIMIT - MODEST + 20, LIMIT - MODEST)
    assert answered == LIMIT - MODEST
    remote = f"{TARGET[0]}:{TARGET[1]}"

    document = lab.json("ports", "--remote", remote)
    (row,) = document["remotes"]
    assert (row["in_use"], row["held"], row["limit"]) == (LIMIT, 0, LIMIT)
    assert (row["used_percent"], row["high_water"]) == (100.0, LIMIT)
    assert row["functions"] == [
        {"function": "greedy", "in_use": LIMIT - MODEST, "held": 0},
        {"function": "modest", "in_use": MODEST, "held": 0},
    ]
    assert row["environments"][0]["environment"] == environment
    assert row["allocation_errors"] == 20 == lab.counters()["port_allocation_errors"]
    assert row["last_error_reason"] == "port_allocation"
    assert row["last_error_environment"] == environment
    assert row["last_error_seconds"] < 60
    (interface,) = document["interfaces"]
    assert (interface["in_use"], interface["allocation_errors"]) == (LIMIT, 20)

    # AWS's metric, of the interface and of the remote endpoint.
    with urllib.request.urlopen(lab.status()["metrics_url"], timeout=30) as answer:
        metrics = answer.read().decode()
    name = 'hyperplane_nat_natgateway_{}error_port_allocation_total{{interface="{}"{}}} 20.0'
    labels = f',protocol="udp",remote="{remote}"'
    assert name.format("", row["interface"], "") in metrics
    assert name.format("remote_", row["interface"], labels) in metrics

    (line,) = [line for line in lab.cli("ports").stdout.splitlines() if remote in line]
    assert f"greedy {LIMIT - MODEST}, modest {MODEST}" in line
