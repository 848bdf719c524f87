# SPDX-License-Identifier: Apache-2.0
"""The ways that a VPC of hyperplane-nat has besides those of functions, all in one lab.

The sender is a host, `client`; for the NAT of functions, beside which they are measured, it is an
environment. What arrives is counted, and served, in the VPC's namespace, in that of another host,
or in the internet's. Every way is one flow: a NAT gateway's and a balancer's are of a host's
packets, so each has one translation, as the NAT of functions has.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import addresses, black_hole
from bench.errors import BenchError
from bench.gateways.hyperplane import START_SECONDS, CacheOn, HyperplaneNat, configuration
from netns import namespace, topology

SITE, SITE_HOLE = "198.51.100.80", "198.51.100.82"
"""In the internet."""
CLIENT, TARGET, TARGET_HOLE = "10.0.1.50", "10.0.1.90", "10.0.1.91"
"""Hosts."""
PRESERVING = "10.0.1.101"
"""A load balancer that preserves the client's address."""
CONSUMER, ENDPOINT = "10.8.1.50", "10.8.1.100"
"""In another VPC: a host, and an endpoint of the load balancer with source NAT."""


@dataclass(frozen=True)
class Way:
    """A way through a contender, with one sender: `Ends`."""

    name: str
    sender: str
    """Name of the sender's namespace."""
    vpc: str
    """Name of the namespace in which what is sent arrives."""
    hole: str
    """Where datagrams are sent to, to be counted."""
    address: str
    """Where connections go to."""
    server: str
    """The address that the server has."""
    hole_in: str = ""
    """Name of the namespace in which datagrams arrive, where that is another one."""

    @property
    def vpc_file(self) -> str:
        """The file of the namespace in which what is sent arrives."""
        return str(namespace.path(self.vpc))

    def environment_file(self, number: int) -> str:
        """The file of the one sender's namespace."""
        return str(namespace.path(self.sender))

    @property
    def counted(self) -> Way:
        """The way of datagrams."""
        return replace(self, vpc=self.hole_in or self.vpc)


def _group(name: str, protocol: str, port: int, type_: str, *targets: str) -> str:
    preserves = f"preserve_client_ip = {str(type_ == 'instance').lower()}\n"
    return f"""
[[vpc.target_group]]
name = "{name}"
protocol = "{protocol}"
port = {port}
type = "{type_}"
target = [{", ".join(targets)}]
health_check = {{ interval_seconds = 300 }}
{preserves if protocol == "TCP" else ""}"""


def _balancer(name: str, node: str, type_: str, server: str, hole: str) -> str:
    """A load balancer, with a target group for each of its listeners."""
    udp = addresses.UDP_PORT + 1
    last = addresses.CONNECTION_PORT + addresses.BALANCED_PORTS
    ports = [addresses.IPERF_PORT, *range(addresses.CONNECTION_PORT, last)]
    listeners = [
        f'{{ protocol = "{protocol}", port = {port}, target_group = "{name}-{port}" }}'
        for protocol, port in (("UDP", udp), *(("TCP", each) for each in ports))
    ]
    kind = "host" if type_ == "instance" else "address"
    holes = [
        f'{{ {kind} = "{hole}", port = {udp + number} }}'
        for number in range(addresses.BALANCED_TARGETS)
    ]
    return f"""
[[vpc.load_balancer]]
name = "{name}"
node = [{{ subnet = "private-a", address = "{node}" }}]
listener = [{", ".join(listeners)}]
""" + "".join(
        [
            _group(f"{name}-{udp}", "UDP", udp, type_, *holes),
            *(
                _group(f"{name}-{port}", "TCP", port, type_, f'{{ {kind} = "{server}" }}')
                for port in ports
            ),
        ]
    )


SERVICES = f"""
internet_gateway = true

[[vpc.subnet]]
name = "private-a"
cidr = "{addresses.SUBNET_CIDR}"
availability_zone = "a"

[[vpc.subnet]]
name = "public-a"
cidr = "10.0.2.0/24"
availability_zone = "a"

[[vpc.route_table]]
name = "private"
subnets = ["private-a"]
routes = [{{ destination = "0.0.0.0/0", nat_gateway = "out" }}]

[[vpc.route_table]]
name = "public"
subnets = ["public-a"]
routes = [{{ destination = "0.0.0.0/0", internet_gateway = true }}]

[[vpc.nat_gateway]]
name = "out"
subnet = "public-a"
elastic_addresses = ["203.0.113.10"]

[[vpc.host]]
name = "client"
subnet = "private-a"
address = "{CLIENT}"

[[vpc.host]]
name = "target"
subnet = "private-a"
address = "{TARGET}"

[[vpc.host]]
name = "hole"
subnet = "private-a"
address = "{TARGET_HOLE}"
"""


BESIDES = f"""
[lifecycle]
time_scale = 60

[[internet]]
name = "site"
kind = "http"
address = "{SITE}"
port = 80

[[vpc]]
name = "consumer"
cidr = "10.8.0.0/16"
subnet = [{{ name = "consumer-a", cidr = "10.8.1.0/24", availability_zone = "a" }}]
host = [{{ name = "consumer", subnet = "consumer-a", address = "{CONSUMER}" }}]

[[vpc.endpoint]]
name = "front"
service = "customer/front"
node = [{{ subnet = "consumer-a", address = "{ENDPOINT}" }}]
"""

SHARED = """
[[vpc.endpoint_service]]
name = "front"
load_balancer = "front"
acceptance_required = false
"""


class Services(HyperplaneNat):
    """A VPC with a NAT gateway and two load balancers; another has an endpoint of one of them."""

    def configured(self, runtime_directory: Path) -> str:
        """The usual lab, with more in its VPC."""
        vpc = (
            SERVICES
            + _balancer("front", addresses.BALANCER, "ip", addresses.SERVER, addresses.BLACK_HOLE)
            + _balancer("seen", PRESERVING, "instance", "target", "hole")
            + SHARED
        )
        return configuration(self.lab, runtime_directory, self.options, vpc=vpc) + BESIDES

    def start(self, stack: contextlib.ExitStack) -> None:
        """`up`, until all of it serves; the other ends get their black holes."""
        super().start(stack)
        deadline = time.monotonic() + START_SECONDS
        while states := self._missing():
            if time.monotonic() > deadline:
                raise BenchError(f"hyperplane-nat: {', '.join(states)} after {START_SECONDS:g} s")
            time.sleep(0.05)
        black_hole.make(topology.vpc_namespace(self.lab, "internet"), SITE_HOLE)
        black_hole.make(self._host("hole"), TARGET_HOLE)

    def _missing(self) -> list[str]:
        return [
            each["State"]
            for path, state in (
                ("nat-gateways", "available"),
                ("load-balancers", "active"),
                ("endpoints", "Available"),
            )
            for each in self.asked(f"/v1/{path}")
            if each["State"] != state
        ]

    def _host(self, name: str) -> str:
        """Name of a host's namespace."""
        rows: list[dict[str, Any]] = self.asked("/v1/hosts")
        (number,) = (row["Number"] for row in rows if row["HostName"] == name)
        return topology.host_namespace(self.lab, number)

    def ways(self) -> dict[str, Way]:
        """By the name of a measurement's part."""
        client, internet = self._host("client"), topology.vpc_namespace(self.lab, "internet")
        environment = topology.environment_namespace(self.lab, 1)
        node, hole, server = addresses.BALANCER, addresses.BLACK_HOLE, addresses.SERVER
        return {
            "nat": Way(self.name, environment, self.vpc, hole, server, server),
            "nat_gateway": Way(self.name, client, internet, SITE_HOLE, SITE, SITE),
            "function_nat_gateway": Way(self.name, environment, internet, SITE_HOLE, SITE, SITE),
            "balancer": Way(self.name, client, self.vpc, node, node, server),
            "preserving": Way(
                *(self.name, client, self._host("target"), PRESERVING, PRESERVING, TARGET),
                hole_in=self._host("hole"),
            ),
            "endpoint": Way(
                self.name, self._host("consumer"), self.vpc, ENDPOINT, ENDPOINT, server
            ),
        }


class CachedServices(Services, CacheOn):
    """The same with the flow cache."""
