# SPDX-License-Identifier: Apache-2.0
"""Two hundred endpoints, declared at once.

Quotas are raised nowhere: ten load balancers of a VPC are endpoint services, and ten other VPCs
have two endpoints of each. A host of the last of them is the client.
"""

from __future__ import annotations

import itertools
import socket
import time
from pathlib import Path
from typing import Any

from bench import addresses
from bench.errors import BenchError
from bench.gateways.crowd import SECONDS, connects
from bench.gateways.hyperplane import HyperplaneNat, configuration
from netns import namespace, topology

BALANCERS, CONSUMERS, EACH = 10, 10, 2
"""Endpoints are `EACH` of every load balancer in every consumer's VPC."""
ENDPOINTS = BALANCERS * CONSUMERS * EACH

_PORT = 8080
_SUBNET = f"""
[[vpc.subnet]]
name = "private-a"
cidr = "{addresses.SUBNET_CIDR}"
availability_zone = "a"
"""


def _node(balancer: int) -> str:
    return f"10.0.1.{100 + balancer}"


def _endpoint(balancer: int, number: int) -> str:
    """The address of an endpoint, in whatever VPC."""
    return f"10.8.1.{100 + balancer * EACH + number}"


class EndpointCrowd(HyperplaneNat):
    """The VPC that is shared, and those that have endpoints, all of one network."""

    def configured(self, runtime_directory: Path) -> str:
        """All of it."""
        parts = [_SUBNET]
        for balancer in range(BALANCERS):
            name = f"balancer-{balancer}"
            parts.append(
                f'[[vpc.load_balancer]]\nname = "{name}"\n'
                f'node = [{{ subnet = "private-a", address = "{_node(balancer)}" }}]\n'
                f'listener = [{{ port = {_PORT}, target_group = "{name}" }}]\n'
                f'[[vpc.target_group]]\nname = "{name}"\nport = {_PORT}\ntype = "ip"\n'
                f'target = [{{ address = "{addresses.SERVER}" }}]\n'
                f'[[vpc.endpoint_service]]\nname = "{name}"\nload_balancer = "{name}"\n'
                "acceptance_required = false\n"
            )
        file = configuration(self.lab, runtime_directory, self.options, vpc="\n".join(parts))
        return "\n".join([file, *map(_consumer, range(CONSUMERS)), _LIFECYCLE])

    def wait(self) -> None:
        """Until somebody of the last VPC has come through its last endpoint to the target."""
        rows: list[dict[str, Any]] = self.asked("/v1/hosts")
        (number,) = (row["Number"] for row in rows if row["HostName"] == "client")
        client = topology.host_namespace(self.lab, number)
        place = (_endpoint(BALANCERS - 1, EACH - 1), _PORT)
        deadline = time.monotonic() + SECONDS
        with namespace.call(self.vpc, socket.create_server, (addresses.SERVER, _PORT)):
            while not namespace.call(client, connects, place):
                if time.monotonic() > deadline:
                    raise BenchError(f"nobody comes through the last endpoint in {SECONDS:g} s")


_LIFECYCLE = """
[lifecycle]
load_balancer_creation_seconds = 0
endpoint_creation_seconds = 0
"""


def _consumer(number: int) -> str:
    last = number == CONSUMERS - 1
    desk = f"desk-{number}"
    host = f'{{ name = "client", subnet = "{desk}" }}' if last else ""
    endpoints = "".join(
        f'[[vpc.endpoint]]\nname = "to-{balancer}-{each}"\n'
        f'service = "customer/balancer-{balancer}"\n'
        f'node = [{{ subnet = "{desk}", address = "{_endpoint(balancer, each)}" }}]\n'
        for balancer, each in itertools.product(range(BALANCERS), range(EACH))
    )
    return (
        f'[[vpc]]\nname = "consumer-{number}"\ncidr = "10.8.0.0/16"\n'
        f'subnet = [{{ name = "{desk}", cidr = "10.8.1.0/24", availability_zone = "a" }}]\n'
        f"host = [{host}]\n{endpoints}"
    )
