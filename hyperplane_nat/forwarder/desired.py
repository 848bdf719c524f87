# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``configure`` and ``update``: what the forwarder shall serve, checked.

``configure`` carries the whole state (as Hyperplane's nodes load one file of maximum size), so its
outcome does not depend on what was sent before.  ``update`` carries items of the same form, to be
added or changed, and numbers to be removed.  Both are read here as a whole, and security groups are
compiled, before anything is changed: what is wrong with an item by itself is found here, what does
not go with what is already served is found in :mod:`configuration`.  Reading is work in slices.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from collections.abc import Mapping as _Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hyperplane_nat.engine import (
    Behaviour,
    Filtering,
    Mapping,
    NeighbourSettings,
    Policy,
    Ports,
    Rule,
    Timeouts,
)
from hyperplane_nat.forwarder.slices import Work

__all__ = [
    "Changes",
    "Desired",
    "InterfaceState",
    "SecondaryAddress",
    "SlotState",
    "parse",
    "parse_changes",
]

NUMBERS = 65_535
"""Slots and interfaces that a state map can have at most."""

MTU_MAX = 65_535
"""An MTU that limits nothing."""

_MTU_MIN = 68
_DESTINATIONS_MAX = 16
_SECONDARY_MAX = 7
_LINKS = 1 << 22
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_CHANGES = ("interfaces", "remove_interfaces", "slots", "remove_slots")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryAddress:
    """A further address of an interface, which is an interface number of its own."""

    number: int
    address: str


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
    vpc: int = 0
    """Interfaces with the same number are in one VPC; addresses of other VPCs mean nothing here."""
    policy: Policy | None = None
    """Its security groups; None lets every flow begin."""
    mtu: int = MTU_MAX
    """The largest packet it sends, in bytes."""
    secondary: tuple[SecondaryAddress, ...] = ()

    @property
    def addresses(self) -> tuple[tuple[int, str], ...]:
        """(number, address) of all its addresses, the primary first."""
        return (
            (self.number, self.address),
            *((each.number, each.address) for each in self.secondary),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """An execution environment's slot and the link it uses; in the pool it has no interface."""

    number: int
    ifindex: int
    address: str
    gateway: str
    subnet: str
    environment_mac: str
    gateway_mac: str
    interface: int | None
    mtu: int = MTU_MAX
    """The largest packet that the environment takes, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What ``configure`` asks for."""

    interfaces: dict[int, InterfaceState]
    slots: dict[int, SlotState]
    timeouts: Timeouts
    ports: Ports
    behaviour: Behaviour
    neighbours: NeighbourSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What ``update`` asks for."""

    interfaces: dict[int, InterfaceState]
    slots: dict[int, SlotState]
    remove_interfaces: frozenset[int]
    remove_slots: frozenset[int]


def parse(
    arguments: dict[str, Any], *, slots_max: int = NUMBERS, interfaces_max: int = NUMBERS
) -> Work[Desired]:
    """Check the whole state; ValueError, KeyError or TypeError say what is wrong with it."""
    interfaces = yield from _interfaces(arguments["interfaces"], interfaces_max)
    slots = yield from _slots(arguments["slots"], slots_max)
    yield from _check_links((*interfaces.values(), *slots.values()))
    for slot in slots.values():
        yield
        if slot.interface is not None and slot.interface not in interfaces:
            raise ValueError(f"slot {slot.number} names interface {slot.interface}: there is none")
    return Desired(
        interfaces=interfaces,
        slots=slots,
        timeouts=Timeouts(**arguments.get("timeouts_ms", {})),
        ports=Ports(**arguments.get("ports", {})),
        behaviour=_behaviour(arguments.get("behaviour", {})),
        neighbours=NeighbourSettings(**arguments.get("neighbours", {})),
    )


def _behaviour(item: _Mapping[str, Any]) -> Behaviour:
    fields = dict(item)
    for name, kind in (("mapping", Mapping), ("filtering", Filtering)):
        if name in fields:
            fields[name] = kind[str(fields[name]).upper()]
    return Behaviour(**fields)


def parse_changes(
    arguments: dict[str, Any], *, slots_max: int = NUMBERS, interfaces_max: int = NUMBERS
) -> Work[Changes]:
    """Check the items of an update by themselves; errors as those of :func:`parse`."""
    for name in arguments:
        if name not in _CHANGES:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(_CHANGES)}")
    changes = Changes(
        interfaces=(yield from _interfaces(arguments.get("interfaces", ()), interfaces_max)),
        slots=(yield from _slots(arguments.get("slots", ()), slots_max)),
        remove_interfaces=_numbers(arguments.get("remove_interfaces", ()), interfaces_max),
        remove_slots=_numbers(arguments.get("remove_slots", ()), slots_max),
    )
    yield from _check_links((*changes.interfaces.values(), *changes.slots.values()))
    for kind, given, removed in (
        ("interface", changes.interfaces, changes.remove_interfaces),
        ("slot", changes.slots, changes.remove_slots),
    ):
        if both := removed & given.keys():
            raise ValueError(
                f"{kind} {min(both)} is both given and removed: do one after the other"
            )
    return changes


def _interfaces(
    items: Iterable[_Mapping[str, Any]], interfaces_max: int
) -> Work[dict[int, InterfaceState]]:
    result: dict[int, InterfaceState] = {}
    seen: set[int] = set()
    for item in items:
        yield
        fields = {**item, "destinations": tuple(item["destinations"])}
        secondary = fields.pop("secondary", ())
        fields["secondary"] = tuple(SecondaryAddress(**each) for each in secondary)
        egress = fields.pop("egress", None)
        guarded = fields.pop("guarded", ())
        if egress is not None or guarded:
            fields["policy"] = _policy(item["address"], egress, guarded)
        state = InterfaceState(**fields)
        where = f"interface {state.number}"
        _check_number(where, state.number, interfaces_max)
        _check_number(f"vpc of {where}", state.vpc, 1 << 32)
        _check_link(where, state.ifindex)
        _check_mtu(where, state.mtu)
        _check_mac(where, state.mac)
        if len(state.destinations) > _DESTINATIONS_MAX:
            raise ValueError(f"{where} has more than {_DESTINATIONS_MAX} destinations")
        for prefix in (state.subnet, *state.destinations):
            _check_network(prefix)
        _check_address(state.router)
        if len(state.secondary) > _SECONDARY_MAX:
            raise ValueError(f"{where} has more than {_SECONDARY_MAX} secondary addresses")
        for number, address in state.addresses:
            _check_number(f"an address of {where}", number, interfaces_max)
            _check_address(address)
            if number in seen:
                raise ValueError(f"interface {number} is given twice")
            seen.add(number)
        result[state.number] = state
    return result


def _slots(items: Iterable[_Mapping[str, Any]], slots_max: int) -> Work[dict[int, SlotState]]:
    result: dict[int, SlotState] = {}
    for item in items:
        yield
        state = SlotState(**item)
        where = f"slot {state.number}"
        _check_number(where, state.number, slots_max)
        if state.interface is not None:
            _check_number(f"interface of {where}", state.interface, NUMBERS)
        _check_link(where, state.ifindex)
        _check_mtu(where, state.mtu)
        for mac in (state.environment_mac, state.gateway_mac):
            _check_mac(where, mac)
        _check_network(state.subnet)
        for address in (state.address, state.gateway):
            _check_address(address)
        if state.number in result:
            raise ValueError(f"{where} is given twice")
        result[state.number] = state
    return result


def _policy(
    address: str, egress: Iterable[_Mapping[str, Any]] | None, guarded: Iterable[_Mapping[str, Any]]
) -> Policy:
    destinations: dict[str, list[Rule]] = {}
    for item in guarded:
        if unknown := item.keys() - {"address", "ingress"}:
            raise ValueError(f"unknown field {min(unknown)!r} of a guarded address")
        _check_address(item["address"])
        if item["address"] in destinations:
            raise ValueError(f"guarded address {item['address']} is given twice")
        destinations[item["address"]] = [_rule(rule) for rule in item["ingress"]]
    _check_address(address)
    return Policy(
        address,
        egress=None if egress is None else [_rule(rule) for rule in egress],
        guarded=destinations,
    )


def _rule(item: _Mapping[str, Any]) -> Rule:
    rule = Rule(**item)
    if not (isinstance(rule.protocol, str) and isinstance(rule.cidr, str)):
        raise TypeError(f"protocol and cidr of a rule are text: {dict(item)}")
    if not (isinstance(rule.first, int) and isinstance(rule.last, int)):
        raise TypeError(f"ports of a rule are numbers: {dict(item)}")
    return rule


def _numbers(items: Iterable[int], limit: int) -> frozenset[int]:
    for number in items:
        _check_number("a removed one", number, limit)
    return frozenset(items)


def _check_number(what: str, number: int, limit: int) -> None:
    if not isinstance(number, int):
        raise TypeError(f"{what}: {number!r} is not a number")
    if not 0 <= number < limit:
        raise ValueError(f"{what}: {number} is out of range (0 to {limit - 1})")


def _check_link(where: str, ifindex: int) -> None:
    _check_number(f"link of {where}", ifindex, _LINKS)
    if ifindex == 0:
        raise ValueError(f"link of {where}: no link has index 0")


def _check_mtu(where: str, mtu: int) -> None:
    if not isinstance(mtu, int):
        raise TypeError(f"MTU of {where}: {mtu!r} is not a number")
    if not _MTU_MIN <= mtu <= MTU_MAX:
        raise ValueError(f"MTU of {where}: {mtu} is out of range ({_MTU_MIN} to {MTU_MAX})")


def _check_links(items: Iterable[InterfaceState | SlotState]) -> Work[None]:
    seen: set[int] = set()
    for item in items:
        yield
        if item.ifindex in seen:
            raise ValueError(f"link {item.ifindex} is given twice: each has one slot or interface")
        seen.add(item.ifindex)


def _check_mac(where: str, mac: str) -> None:
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{where}: {mac!r} is not a MAC address")


# Thousands of items share a few addresses and networks.
@lru_cache(4096)
def _check_network(text: str) -> None:
    ipaddress.IPv4Network(text)


@lru_cache(4096)
def _check_address(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"an address is text, not {text!r}")
    ipaddress.IPv4Address(text)
