# SPDX-License-Identifier: Apache-2.0
"""Sections that the labs of several modules have in common, as TOML."""

from __future__ import annotations

from tests.live.lab import ECHO, INTERFACE, INTERFACE_ADDRESS, VPC, WEB

OTHER_VPC = "other"
OTHER_INTERFACE = "eni-b"
OTHER_INTERFACE_ADDRESS = "10.1.1.10"
OTHER_ECHO = ("10.1.1.81", 7)


def service(name: str, kind: str, address: tuple[str, int]) -> str:
    """A server of a VPC, for `vpc`."""
    return f'{{ name = "{name}", kind = "{kind}", address = "{address[0]}", port = {address[1]} }}'


WEB_SERVICE = service("web", "http", WEB)
ECHO_SERVICE = service("echo", "udp-echo", ECHO)


def vpc(
    *services: str,
    name: str = VPC,
    cidr: str = "10.0.0.0/16",
    subnet: str = "private-a",
    subnet_cidr: str = "10.0.1.0/24",
    mtu_bytes: int | None = None,
) -> str:
    """A VPC with one subnet."""
    mtu = "" if mtu_bytes is None else f"mtu_bytes = {mtu_bytes}\n"
    return f"""
[[vpc]]
name = "{name}"
cidr = "{cidr}"
{mtu}subnet = [{{ name = "{subnet}", cidr = "{subnet_cidr}" }}]
service = [{", ".join(services)}]
"""


FUNCTIONS_VPC = """
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"

[[vpc.subnet]]
name = "a"
cidr = "10.0.1.0/24"

[[vpc.security_group]]
name = "functions"

[[vpc.service]]
name = "web"
kind = "http"
address = "10.0.1.80"
port = 80
size_bytes = 12345
"""
"""A VPC for functions that call a server."""


def interface(
    name: str = INTERFACE, subnet: str = "private-a", address: str = INTERFACE_ADDRESS
) -> str:
    """A network interface of environments that belong to no function."""
    return f"""
[[network_interface]]
name = "{name}"
subnet = "{subnet}"
address = "{address}"
"""


OTHER = vpc(
    service("echo", "udp-echo", OTHER_ECHO),
    name=OTHER_VPC,
    cidr="10.1.0.0/16",
    subnet="private-b",
    subnet_cidr="10.1.1.0/24",
)
"""A second VPC; its interface comes after that of the first: environments take turns at them."""

OTHER_NETWORK_INTERFACE = interface(OTHER_INTERFACE, "private-b", OTHER_INTERFACE_ADDRESS)


def function(name: str) -> str:
    """A function without a VPC."""
    return f"""
[[function]]
name = "{name}"
networking = "none"
"""


def functions(*names: str, pool: int, time_scale: float = 1.0) -> str:
    """A lab with a web server, one environment's interface, and functions without a VPC."""
    head = f"[lifecycle]\ntime_scale = {time_scale}\n\n[pool]\nsize = {pool}\n"
    return head + vpc(WEB_SERVICE) + interface() + "".join(map(function, names))
