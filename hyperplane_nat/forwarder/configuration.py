# SPDX-License-Identifier: Apache-2.0
"""What the forwarder serves, and how that is made what it shall be.

Theory of operation
-------------------
A desired state (`desired`) is read, checked as a whole against what is served, and then done
as one difference: first nothing passes any more by a claim that goes or is to mean something else,
then it is made to mean that. What is served already is left alone.

*Everything* always succeeds when it can be read: where a number is meant for another environment or
address than the one that flows still belong to, those flows are ended first, all at once. That
happens when a controller or a forwarder starts.

*Parts* are told while packets flow, and cost what they change. They are refused where they would
end flows that nobody has removed: a number that was removed is *retiring* until no flow names it
(`hyperplane_nat.engine.flows.retirement`), and the answer and `status` say which these are.

All of it is work in slices, an item at a time; packets pass between the changes, each of which
leaves the engine whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

from hyperplane_nat.engine import Engine
from hyperplane_nat.forwarder import arp, desired, sliced_json
from hyperplane_nat.forwarder.desired import (
    Attachment,
    Claim,
    Desired,
    InterfaceState,
    Meaning,
    SlotState,
)
from hyperplane_nat.forwarder.slices import Work

__all__ = ["Configuration"]

log = logging.getLogger(__name__)


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
        self._owners: dict[Claim, Claim] = {}
        self.configured = False
        self.interfaces: dict[int, InterfaceState] = {}
        self.slots: dict[int, SlotState] = {}
        self._served: dict[str, dict[int, Any]] = {
            "interface": self.interfaces,
            "slot": self.slots,
        }

    def configure(self, arguments: dict[str, Any], now_ms: int) -> Work[None]:
        """Serve this; ValueError, KeyError or TypeError when it cannot be, and nothing changes."""
        wanted = yield from desired.parse(arguments, **self._limits)
        if not (wanted.everything or self.configured):
            raise ValueError("nothing is configured yet: send configure first, with everything")
        yield from self._check(wanted)
        self._engine.configure(**wanted.settings, now_ms=now_ms)
        yield from self._withdraw(wanted)
        if wanted.everything:
            yield from self._make_room(wanted, now_ms)
        for item in wanted.attachments.values():
            yield
            if self._known(item.key) != item:
                self._set(item)
        if wanted.everything:
            self._engine.remove_strangers()
        self.configured = True
        yield from sliced_json.discard(wanted.attachments)
        yield from sliced_json.discard(wanted.claims)

    def describe(self) -> dict[str, Any]:
        """How much is served, and the numbers that cannot be used yet, because flows name them."""
        slots, interfaces = self._engine.retiring()
        return {
            "slots": len(self.slots),
            "interfaces": len(self.interfaces),
            "retiring": {"slots": slots, "interfaces": interfaces},
        }

    def _known(self, key: Claim) -> Any:
        kind, number = key
        return self._served[kind].get(number)

    def _check(self, wanted: Desired) -> Work[None]:
        """ValueError when what is wanted does not go with what stays."""
        for item in wanted.attachments.values():
            yield
            if not wanted.everything:
                self._check_part(item, wanted.gone)
            if isinstance(item, SlotState) and not self._will_stand(item.interface, wanted):
                raise ValueError(
                    f"slot {item.number} names interface {item.interface}: there is none"
                )
        leaving = {number for kind, number in wanted.gone if kind == "interface"}
        for slot in self.slots.values() if leaving and not wanted.everything else ():
            yield
            if slot.interface in leaving and slot.key not in wanted.gone:
                raise ValueError(
                    f"interface {slot.interface} has slot {slot.number} attached: remove that first"
                )

    def _will_stand(self, interface: int | None, wanted: Desired) -> bool:
        if interface is None or ("interface", interface) in wanted.attachments:
            return True
        stays = interface in self.interfaces and ("interface", interface) not in wanted.gone
        return stays and not wanted.everything

    def _check_part(self, item: Attachment, gone: set[Claim]) -> None:
        """ValueError where a claim is another's, or was and has flows."""
        known = self._known(item.key)
        if known is not None and not item.continues(known):
            raise ValueError(f"{known}: remove that first")
        for claim, meaning in item.claims.items():
            kind, number = claim
            owner = self._owners.get(claim, item.key)
            if owner != item.key and kind == "interface":
                raise ValueError(
                    f"interface {number} is an address of interface {owner[1]}: remove that first"
                )
            if owner != item.key and owner not in gone:
                raise ValueError(
                    f"{item.key[0]} {item.number} names link {number}, "
                    f"which is that of {owner[0]} {owner[1]}"
                )
            if not self._is_free(claim, meaning):
                raise ValueError(
                    f"{kind} {number} is retiring: wait until status no longer lists it"
                )

    def _withdraw(self, wanted: Desired) -> Work[None]:
        """Let nothing pass by a claim until it means what it shall."""
        leaving: Iterable[Attachment | None] = map(self._known, wanted.gone)
        if wanted.everything:
            leaving = (*self.slots.values(), *self.interfaces.values())
        for known in leaving:
            yield
            if known is None:
                continue
            for claim, meaning in known.claims.items():
                if wanted.claims.get(claim) != meaning:
                    self._release(claim)
            if known.key not in wanted.attachments:
                del self._served[known.key[0]][known.number]

    def _make_room(self, wanted: Desired, now_ms: int) -> Work[None]:
        """End the flows of those who had a number before; the state map remembers who that was."""
        taken = 0
        for claim, meaning in wanted.claims.items():
            yield
            if not self._is_free(claim, meaning):
                self._release(claim)
                taken += 1
        if taken:
            self._engine.sweep(now_ms)
            log.info("flows ended with %d slots and interfaces", taken)

    def _is_free(self, claim: Claim, meaning: Meaning) -> bool:
        """Whether no flow means something else by a number."""
        kind, number = claim
        if kind == "slot":
            return self._engine.admits_slot(number, *meaning)
        return kind == "link" or self._engine.admits_interface(number, meaning[1])

    def _release(self, claim: Claim) -> None:
        kind, number = claim
        self._owners.pop(claim, None)
        if kind == "slot":
            self._engine.remove_slot(number)
        elif kind == "interface":
            self._engine.remove_interface(number)
        else:
            self._links.unlink(number)

    def _set(self, item: Attachment) -> None:
        if isinstance(item, SlotState):
            self._set_slot(item)
        else:
            self._set_interface(item)
        for claim in item.claims:
            self._owners[claim] = item.key
        self._served[item.key[0]][item.number] = item

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
        self._links.link_interface(interface.number, interface.ifindex)
        known = self.interfaces.get(interface.number)
        if known is not None and (known.mac, known.claims) == (interface.mac, interface.claims):
            return
        for _, address in interface.addresses:
            frame = arp.announcement(mac=interface.mac, address=address)
            self._links.send_outside(interface.number, frame)

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
