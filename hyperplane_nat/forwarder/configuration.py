# SPDX-License-Identifier: Apache-2.0
"""What the forwarder serves, and how that changes.

Theory of operation
-------------------
``configure`` states everything and always succeeds when it can be read: what it does not name is
removed, what is served already is left alone, and where a number is meant for another environment
or interface than the one that flows still belong to, those flows are ended first, all at once.
That happens when a controller starts.

``update`` states a part, while packets flow, and costs what it changes.  It is checked as a whole
against what is served before anything is touched.  A number that was removed is *retiring* until
no flow names it (:mod:`hyperplane_nat.engine.flows.retirement`); until then it is refused, and the
answer and ``status`` say which numbers these are.  A slot is attached to an interface once, from
the pool.

Both are work in slices, an item at a time.  They are read and checked before anything is changed;
then packets pass between the changes, each of which leaves the engine whole.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from hyperplane_nat.engine import Engine
from hyperplane_nat.forwarder import arp, desired
from hyperplane_nat.forwarder.desired import Changes, Desired, InterfaceState, SlotState
from hyperplane_nat.forwarder.slices import Work

__all__ = ["Configuration"]

log = logging.getLogger(__name__)

_Owner = tuple[str, int]
"""What a link belongs to: kind and number."""

_Uplink = tuple[int, str, tuple[tuple[int, str], ...]]
"""The link of an interface, its MAC address, and its addresses with their numbers."""


class Links(Protocol):
    """The part of the packet path that is driven here."""

    def link_slot(self, number: int, interface_index: int) -> None: ...
    def link_interface(self, number: int, interface_index: int) -> None: ...
    def unlink(self, interface_index: int) -> None: ...
    def send_outside(self, interface: int, frame: bytes) -> None: ...


class Configuration:
    """Slots and interfaces of one forwarder, kept equal in engine and packet path."""

    def __init__(
        self,
        engine: Engine,
        links: Links,
        *,
        slots_max: int,
        interfaces_max: int,
    ) -> None:
        self._engine = engine
        self._links = links
        self._limits = {"slots_max": slots_max, "interfaces_max": interfaces_max}
        self._announced: dict[int, _Uplink] = {}
        self._owners: dict[int, _Owner] = {}
        self._primaries: dict[int, int] = {}
        self.configured = False
        self.interfaces: dict[int, InterfaceState] = {}
        self.slots: dict[int, SlotState] = {}

    def configure(self, arguments: dict[str, Any], now_ms: int) -> Work[dict[str, int]]:
        """Serve exactly this; returns how many slots and interfaces that are."""
        wanted = yield from desired.parse(arguments, **self._limits)
        self._engine.configure(
            timeouts_ms=wanted.timeouts,
            ports=wanted.ports,
            behaviour=wanted.behaviour,
            neighbours=wanted.neighbours,
            now_ms=now_ms,
        )
        yield from self._remove_missing(wanted)
        yield from self._make_room(wanted, now_ms)
        for interface in wanted.interfaces.values():
            yield
            if self.interfaces.get(interface.number) != interface:
                self._set_interface(interface)
        while wanted.slots:
            yield
            _, slot = wanted.slots.popitem()
            if self.slots.get(slot.number) != slot:
                self._set_slot(slot)
        self._engine.remove_strangers()
        self._announce()
        self.configured = True
        return {"slots": len(self.slots), "interfaces": len(self.interfaces)}

    def update(self, arguments: dict[str, Any]) -> Work[None]:
        """Change what is served; ValueError, KeyError or TypeError when that cannot be."""
        if not self.configured:
            raise ValueError("nothing is configured yet: send configure first")
        changes = yield from desired.parse_changes(arguments, **self._limits)
        yield from self._check(changes)
        for number in changes.remove_slots:
            yield
            self._remove_slot(number)
        for number in changes.remove_interfaces:
            yield
            self._remove_interface(number)
        for interface in changes.interfaces.values():
            yield
            self._set_interface(interface)
        if changes.interfaces or changes.remove_interfaces:
            self._announce()
        for slot in changes.slots.values():
            yield
            self._set_slot(slot)

    def retiring(self) -> dict[str, list[int]]:
        """Numbers that cannot be used yet, because flows name them."""
        slots, interfaces = self._engine.retiring()
        return {"slots": slots, "interfaces": interfaces}

    def _remove_missing(self, wanted: Desired) -> Work[None]:
        """Let nothing pass by a number until it means what it shall."""
        known, meant = _addresses(self.interfaces), _addresses(wanted.interfaces)
        for slot in list(self.slots.values()):
            yield
            new = wanted.slots.get(slot.number)
            if new is None or (new.ifindex, new.interface) != (slot.ifindex, slot.interface):
                self._remove_slot(slot.number)
        for interface in list(self.interfaces.values()):
            yield
            other = wanted.interfaces.get(interface.number)
            if other is None:
                self._remove_interface(interface.number)
            elif other.ifindex != interface.ifindex:
                self._unlink(interface.ifindex)
        for number, address in known.items():
            if meant.get(number) != address:
                self._engine.remove_interface(number)
                self._primaries.pop(number, None)

    def _make_room(self, wanted: Desired, now_ms: int) -> Work[None]:
        """End the flows of those who had a number before; the state map remembers who that was."""
        taken: list[int] = []
        renamed: list[int] = []
        for slot in wanted.slots.values():
            yield
            if not self._engine.admits_slot(slot.number, slot.interface, slot.ifindex):
                taken.append(slot.number)
        for interface in wanted.interfaces.values():
            yield
            renamed += [
                number
                for number, address in interface.addresses
                if not self._engine.admits_interface(number, address)
            ]
        for number in taken:
            self._remove_slot(number)
        for number in renamed:
            self._engine.remove_interface(number)
            self._remove_interface(number)
        if taken or renamed:
            self._engine.sweep(now_ms)
            log.info("flows ended with %d slots and %d interfaces", len(taken), len(renamed))

    def _check(self, changes: Changes) -> Work[None]:
        """ValueError when the changes do not go with what is served."""
        for interface in changes.interfaces.values():
            yield
            self._check_interface(interface)
            self._check_link("interface", interface, changes)
        for slot in changes.slots.values():
            yield
            if slot.interface is not None and (
                slot.interface in changes.remove_interfaces
                or (
                    slot.interface not in self.interfaces
                    and slot.interface not in changes.interfaces
                )
            ):
                raise ValueError(
                    f"slot {slot.number} names interface {slot.interface}: there is none"
                )
            self._check_slot(slot)
            self._check_link("slot", slot, changes)
        if changes.remove_interfaces:
            self._check_unused(changes)

    def _check_interface(self, interface: InterfaceState) -> None:
        number = interface.number
        known = self.interfaces.get(number)
        if known is not None and (known.name, known.ifindex, known.addresses) != (
            interface.name,
            interface.ifindex,
            interface.addresses,
        ):
            raise ValueError(
                f"interface {number} is {known.name} with {known.address}: remove that first"
            )
        for each, address in interface.addresses:
            owner = self._primaries.get(each, number)
            if owner != number:
                raise ValueError(
                    f"interface {each} is an address of interface {owner}: remove that first"
                )
            if not self._engine.admits_interface(each, address):
                raise ValueError(
                    f"interface {each} is retiring: wait until status no longer lists it"
                )

    def _check_slot(self, slot: SlotState) -> None:
        number = slot.number
        known = self.slots.get(number)
        if known is not None and (
            known.ifindex != slot.ifindex or known.interface not in (None, slot.interface)
        ):
            raise ValueError(f"slot {number} serves another environment: remove that first")
        if not self._engine.admits_slot(number, slot.interface, slot.ifindex):
            raise ValueError(f"slot {number} is retiring: wait until status no longer lists it")

    def _check_link(self, kind: str, item: InterfaceState | SlotState, changes: Changes) -> None:
        owner = self._owners.get(item.ifindex)
        if owner is None or owner == (kind, item.number):
            return
        other, number = owner
        removed = changes.remove_slots if other == "slot" else changes.remove_interfaces
        if number not in removed:
            raise ValueError(
                f"{kind} {item.number} names link {item.ifindex}, which is that of {other} {number}"
            )

    def _check_unused(self, changes: Changes) -> None:
        for slot in self.slots.values():
            if slot.interface in changes.remove_interfaces and (
                slot.number not in changes.remove_slots
            ):
                raise ValueError(
                    f"interface {slot.interface} has slot {slot.number} attached: remove that first"
                )

    def _set_interface(self, interface: InterfaceState) -> None:
        for number, address in interface.addresses:
            self._engine.set_interface(
                number,
                address=address,
                mac=interface.mac,
                subnet=interface.subnet,
                router=interface.router,
                destinations=interface.destinations,
                vpc=interface.vpc,
                policy=interface.policy,
                mtu=interface.mtu,
                primary=interface.number,
            )
            self._primaries[number] = interface.number
        self._links.link_interface(interface.number, interface.ifindex)
        self._owners[interface.ifindex] = ("interface", interface.number)
        self.interfaces[interface.number] = interface

    def _set_slot(self, slot: SlotState) -> None:
        self._engine.set_slot(
            slot.number,
            address=slot.address,
            gateway=slot.gateway,
            subnet=slot.subnet,
            environment_mac=slot.environment_mac,
            gateway_mac=slot.gateway_mac,
            interface=slot.interface,
            link=slot.ifindex,
            mtu=slot.mtu,
        )
        self._links.link_slot(slot.number, slot.ifindex)
        self._owners[slot.ifindex] = ("slot", slot.number)
        self.slots[slot.number] = slot

    def _remove_slot(self, number: int) -> None:
        self._engine.remove_slot(number)
        if slot := self.slots.pop(number, None):
            self._unlink(slot.ifindex)

    def _remove_interface(self, number: int) -> None:
        self._engine.remove_interface(number)
        if interface := self.interfaces.pop(number, None):
            for each, _ in interface.addresses:
                self._engine.remove_interface(each)
                self._primaries.pop(each, None)
            self._unlink(interface.ifindex)

    def _unlink(self, ifindex: int) -> None:
        self._links.unlink(ifindex)
        self._owners.pop(ifindex, None)

    def _announce(self) -> None:
        """Tell the VPC of the addresses of interfaces that are new or changed."""
        uplinks = {
            number: (each.ifindex, each.mac, each.addresses)
            for number, each in self.interfaces.items()
        }
        for number, uplink in uplinks.items():
            if self._announced.get(number) != uplink:
                _, mac, addresses = uplink
                for _, address in addresses:
                    self._links.send_outside(number, arp.announcement(mac=mac, address=address))
        self._announced = uplinks


def _addresses(interfaces: dict[int, InterfaceState]) -> dict[int, tuple[int, str]]:
    """The VPC and the address that each interface number stands for."""
    return {
        number: (each.vpc, address)
        for each in interfaces.values()
        for number, address in each.addresses
    }
