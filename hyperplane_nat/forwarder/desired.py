# SPDX-License-Identifier: Apache-2.0
"""The arguments of `configure`: what the forwarder shall serve, read and checked by itself.

With `everything` they carry the whole state (as Hyperplane's nodes load one file of maximum
size), so that its outcome does not depend on what was sent before. Without, they carry items of
the same form, to be added or changed, and numbers to be removed; what they do not name stays.

An *attachment* is a slot or an interface. What it takes for itself are *claims*: its numbers in
the state map and its link, each with what it means there. No claim is given to two attachments,
and one that is to mean something else must be free of its flows first (`configuration`).
Reading is work in slices, security groups are compiled in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as _Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Self

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
    "Attachment",
    "Claim",
    "Desired",
    "InterfaceState",
    "Meaning",
    "SecondaryAddress",
    "SlotState",
    "parse",
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

Claim = tuple[str, int]
"""Kind ("slot", "interface" or "link") and number; an attachment is known by that of its own."""

Meaning = tuple[Any, ...]


class SecondaryAddress(NamedTuple):
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

    def __str__(self) -> str:
        return f"interface {self.number} is {self.name} with {self.address}"

    @property
    def addresses(self) -> tuple[tuple[int, str], ...]:
        """(number, address) of all its addresses, the primary first."""
        return (self.number, self.address), *self.secondary

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "interface", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an address in a VPC."""
        claims: dict[Claim, Meaning] = {
            ("interface", number): (self.vpc, address) for number, address in self.addresses
        }
        claims["link", self.ifindex] = self.key
        return claims

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same interface, whatever else is new."""
        identity = known.name, known.ifindex, known.addresses
        return identity == (self.name, self.ifindex, self.addresses)


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

    def __str__(self) -> str:
        return f"slot {self.number} serves another environment"

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "slot", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an environment, known by its link, at an interface."""
        return {self.key: (self.interface, self.ifindex), ("link", self.ifindex): self.key}

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same environment; one of the pool is attached once."""
        return known.ifindex == self.ifindex and known.interface in (None, self.interface)


Attachment = InterfaceState | SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What ``configure`` asks for."""

    everything: bool
    attachments: dict[Claim, Attachment]
    """Interfaces first."""
    claims: dict[Claim, Meaning]
    """Theirs."""
    gone: set[Claim]
    settings: dict[str, Any]
    """Those of `Engine.configure` that are given; the others stay."""


def parse(
    arguments: dict[str, Any], *, slots_max: int = NUMBERS, interfaces_max: int = NUMBERS
) -> Work[Desired]:
    """What is asked for; ValueError, KeyError or TypeError say what is wrong with it by itself."""
    for name in arguments:
        if name not in _FIELDS:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(_FIELDS)}")
    everything = arguments.get("everything", False)
    if not isinstance(everything, bool):
        raise TypeError(f"everything: {everything!r} is not true or false")
    attachments: dict[Claim, Attachment] = {}
    claims: dict[Claim, Meaning] = {}
    gone: set[Claim] = set()
    for kind, limit in (("interface", interfaces_max), ("slot", slots_max)):
        for item in arguments[f"{kind}s"] if everything else arguments.get(f"{kind}s", ()):
            yield
            state = _slot(item, limit) if kind == "slot" else _interface(item, limit)
            for claim, meaning in state.claims.items():
                if claim in claims:
                    raise ValueError(f"{claim[0]} {claim[1]} is given twice")
                claims[claim] = meaning
            attachments[state.key] = state
        for number in arguments.get(f"remove_{kind}s", ()):
            _check_number("a removed one", number, limit)
            if (kind, number) in attachments:
                raise ValueError(
                    f"{kind} {number} is both given and removed: do one after the other"
                )
            gone.add((kind, number))

    settings = {
        name: read(**arguments.get(name, {}))
        for name, read in _SETTINGS.items()
        if everything or name in arguments
    }
    return Desired(
        everything=everything, attachments=attachments, claims=claims, gone=gone, settings=settings
    )


def _behaviour(**fields: Any) -> Behaviour:
    for name, kind in (("mapping", Mapping), ("filtering", Filtering)):
        if name in fields:
            fields[name] = kind[str(fields[name]).upper()]
    return Behaviour(**fields)


_SETTINGS: _Mapping[str, Callable[..., Any]] = {
    "timeouts_ms": Timeouts,
    "ports": Ports,
    "behaviour": _behaviour,
    "neighbours": NeighbourSettings,
}
_FIELDS = ("everything", "interfaces", "remove_interfaces", "slots", "remove_slots", *_SETTINGS)


def _interface(item: _Mapping[str, Any], limit: int) -> InterfaceState:
    fields = {**item, "destinations": tuple(item["destinations"])}
    fields["secondary"] = tuple(SecondaryAddress(**each) for each in item.get("secondary", ()))
    egress = fields.pop("egress", None)
    guarded = fields.pop("guarded", ())
    if egress is not None or guarded:
        fields["policy"] = _policy(item["address"], egress, guarded)
    state = InterfaceState(**fields)
    where = f"interface {state.number}"
    _check_number(where, state.number, limit)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    _check_link(where, state.ifindex, state.mtu, state.mac)
    if len(state.destinations) > _DESTINATIONS_MAX:
        raise ValueError(f"{where} has more than {_DESTINATIONS_MAX} destinations")
    for prefix in (state.subnet, *state.destinations):
        _check_network(prefix)
    _check_address(state.router)
    if len(state.secondary) > _SECONDARY_MAX:
        raise ValueError(f"{where} has more than {_SECONDARY_MAX} secondary addresses")
    seen: set[int] = set()
    for number, address in state.addresses:
        _check_number(f"an address of {where}", number, limit)
        _check_address(address)
        if number in seen:
            raise ValueError(f"interface {number} is given twice")
        seen.add(number)
    return state


def _slot(item: _Mapping[str, Any], limit: int) -> SlotState:
    state = SlotState(**item)
    where = f"slot {state.number}"
    _check_number(where, state.number, limit)
    if state.interface is not None:
        _check_number(f"interface of {where}", state.interface, NUMBERS)
    _check_link(where, state.ifindex, state.mtu, state.environment_mac, state.gateway_mac)
    _check_network(state.subnet)
    for address in (state.address, state.gateway):
        _check_address(address)
    return state


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


def _check_number(what: str, number: int, limit: int, first: int = 0) -> None:
    if not isinstance(number, int):
        raise TypeError(f"{what}: {number!r} is not a number")
    if not first <= number < limit:
        raise ValueError(f"{what}: {number} is out of range ({first} to {limit - 1})")


def _check_link(where: str, ifindex: int, mtu: int, *macs: str) -> None:
    _check_number(f"link of {where}", ifindex, _LINKS)
    if ifindex == 0:
        raise ValueError(f"link of {where}: no link has index 0")
    _check_number(f"MTU of {where}", mtu, MTU_MAX + 1, _MTU_MIN)
    for mac in macs:
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
