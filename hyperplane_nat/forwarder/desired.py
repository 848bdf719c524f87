# SPDX-License-Identifier: Apache-2.0
"""The argument of ``configure``: everything the forwarder shall serve, checked.

The whole state is sent every time (as Hyperplane's nodes load one file of maximum size), so the
outcome does not depend on what was sent before.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from hyperplane_nat.engine import Ports, Timeouts
from hyperplane_nat.forwarder.neighbours import NeighbourSettings

__all__ = ["Desired", "InterfaceState", "SlotState", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceState:
    """A network interface and the link it uses."""

    number: int
    name: str
    ifindex: int
    address: str
    mac: str
    subnet: str
    router: str
    destinations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """An execution environment's slot and the link it uses."""

    number: int
    ifindex: int
    address: str
    gateway: str
    subnet: str
    environment_mac: str
    gateway_mac: str
    interface: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What ``configure`` asks for."""

    interfaces: dict[int, InterfaceState]
    slots: dict[int, SlotState]
    timeouts: Timeouts
    ports: Ports
    neighbours: NeighbourSettings


def parse(arguments: dict[str, Any]) -> Desired:
    """Check the argument; ValueError, KeyError or TypeError say what is wrong with it."""
    interfaces = [
        InterfaceState(**{**item, "destinations": tuple(item["destinations"])})
        for item in arguments["interfaces"]
    ]
    slots = [SlotState(**item) for item in arguments["slots"]]
    for interface in interfaces:
        for prefix in (interface.subnet, *interface.destinations):
            ipaddress.IPv4Network(prefix)
        for address in (interface.address, interface.router):
            ipaddress.IPv4Address(address)
    numbers = {interface.number for interface in interfaces}
    for slot in slots:
        ipaddress.IPv4Network(slot.subnet)
        if slot.interface not in numbers:
            raise ValueError(f"slot {slot.number} names interface {slot.interface}: there is none")
    if len(numbers) != len(interfaces) or len({slot.number for slot in slots}) != len(slots):
        raise ValueError("an interface or slot number is given twice")
    return Desired(
        interfaces={interface.number: interface for interface in interfaces},
        slots={slot.number: slot for slot in slots},
        timeouts=Timeouts(**arguments.get("timeouts_ms", {})),
        ports=Ports(**arguments.get("ports", {})),
        neighbours=NeighbourSettings(**arguments.get("neighbours", {})),
    )
