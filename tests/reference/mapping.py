# SPDX-License-Identifier: Apache-2.0
"""Who gets which address and port, and who may send to it: the rules of RFC 4787 section 4 and 5.

Without endpoint-independent mapping every flow takes a port towards its remote endpoint. With it
a flow takes none: its mapping has one towards everybody, which is written as the remote endpoint
0.0.0.0:0. A mapping lasts as long as its flows and is held for the hold time after the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from tests.reference import packet
from tests.reference.errors import DroppedError, IllegalChoiceError, RefusedError
from tests.reference.flow import PROTOCOL_NAMES, Entry, FlowTuple, InsideKey, OutsideKey
from tests.reference.packet import Datagram
from tests.reference.settings import Behaviour, Host, Interface, Ports, Slot, Timeouts

ANYBODY = IPv4Address("0.0.0.0")
CLOCK_MASK = 0xFFFFFFFF
"""The clock counts milliseconds modulo 2^32."""

MappingKey = tuple[int, int, int]
"""Slot, protocol and inside port, or interface, protocol and NAT port."""

Chosen = tuple[IPv4Address | None, int]
"""Address and port that the engine chose; without an address the first that has the port."""


@dataclass
class Mapping:
    """One inside port's address and port towards everybody; `flows` have it."""

    protocol: int
    slot: int
    interface: int
    inside_address: IPv4Address
    inside_port: int
    nat_address: IPv4Address
    nat_port: int
    created: int
    last_seen: int
    flows: int = 0

    @property
    def key(self) -> MappingKey:
        return self.slot, self.protocol, self.inside_port

    def as_tuple(self) -> FlowTuple:
        """The mapping in the order of the engine's `Flow`, without its index."""
        return (
            PROTOCOL_NAMES[self.protocol],
            "MAPPING" if self.flows else "HELD",
            self.slot,
            self.interface,
            str(self.inside_address),
            self.inside_port,
            str(ANYBODY),
            0,
            str(self.nat_address),
            self.nat_port,
            self.flows,
            0,
            0,
            0,
            self.created,
            self.last_seen,
        )


@dataclass
class Exhaustion:
    """How often, when last, for whom and why there was no port towards a remote endpoint."""

    errors: int = 0
    last: int = 0
    slot: Any = 0
    reason: str = ""


class MappingRules:
    """The part of the oracle that allocates."""

    flows_max: int
    clock: int
    behaviour: Behaviour
    ports: Ports
    timeouts: Timeouts
    interfaces: dict[int, Interface]
    slots: dict[int, Slot]
    inside: dict[InsideKey, Entry]
    outside: dict[OutsideKey, Entry]
    hosts: dict[int, Host]
    plain: Sequence[Entry]

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.mappings: dict[MappingKey, Mapping] = {}
        self.exhaustions: dict[tuple[int, int, IPv4Address, int], Exhaustion] = {}
        self.counts: dict[str, int] = {}

    def _count(self, name: str, times: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + times

    def _count_passage(self, name: str, datagram: Datagram) -> None:
        """Count what a packet is on a wire."""
        self._count(f"packets_{name}", len(datagram.segments()))
        self._count(f"bytes_{name}", sum(datagram.segments()))

    # Addresses

    def addresses(self, primary: int) -> list[int]:
        """The numbers of an interface's addresses."""
        others = [
            number
            for number, interface in self.interfaces.items()
            if interface.primary == primary and number != primary
        ]
        return [primary, *sorted(others)]

    def _number(self, primary: int, address: IPv4Address) -> int | None:
        """Which of an interface's addresses this is."""
        for number in self.addresses(primary):
            if self.interfaces[number].address == address:
                return number
        return None

    def _primary(self, number: int) -> int:
        primary = self.interfaces[number].primary
        return number if primary is None else primary

    def _attached_to(self, slot: int) -> int:
        primary = self.slots[slot].interface
        assert primary is not None
        return primary

    def _own(self, address: IPv4Address, vpc: int) -> bool:
        """Whether an interface in this VPC has the address."""
        mine = (each for each in self.interfaces.values() if each.vpc == vpc)
        return any(each.address == address for each in mine)

    def _own_number(self, address: IPv4Address, vpc: int) -> int | None:
        mine = (each for each in self.interfaces if self.interfaces[each].vpc == vpc)
        return next((each for each in mine if self.interfaces[each].address == address), None)

    def _reachable(self, target: int | None, protocol: int, port: int, now: int) -> bool:
        """Whether a mapping in use is where a packet from inside wants to go."""
        if target is None or protocol == packet.ICMP:
            return False
        mapping = self._find_mapping_outside(target, protocol, port, now)
        return mapping is not None and mapping.flows > 0

    def _attached(self, number: int) -> tuple[Slot, Interface]:
        slot = self.slots[number]
        assert slot.interface is not None
        return slot, self.interfaces[slot.interface]

    # Limits and ports

    def _admit(self, interface: int, key: InsideKey) -> None:
        """Security groups decide when a flow begins, a new one or a new life of an ended one."""
        primary = self.interfaces[self._primary(interface)]
        policy, own = primary.policy, primary.address
        _, protocol, remote_address, remote_port, _ = key
        if policy and (reason := policy.refusal(own, protocol, remote_address, remote_port)):
            raise DroppedError(reason)

    def host_at(self, address: IPv4Address, vpc: int) -> int | None:
        raise NotImplementedError

    def _welcome(self, key: InsideKey, interface: int) -> None:
        """Those of the host that an environment's flow is for, asked with its new source."""
        address = self.interfaces[interface]
        _, protocol, remote_address, remote_port, _ = key
        host = self.host_at(remote_address, address.vpc)
        policy = None if host is None else self.hosts[host].policy
        if policy and not policy.admits(protocol, address.address, remote_port):
            raise DroppedError("security_group_ingress")

    def _entries(self) -> list[Entry | Mapping]:
        return [*self.inside.values(), *self.mappings.values(), *self.plain]

    def _held_back(self, slot: int, number: int | None, wanted: int) -> str | None:
        """The limit that `wanted` more entries would break, of the slot or of an address."""
        environment, interface = self.ports.limit_per_environment, self.ports.limit_per_interface
        mine = sum(entry.slot == slot for entry in self._entries())
        if environment and mine + wanted > environment:
            return "port_limit_environment"
        there = sum(
            number in (entry.interface, getattr(entry, "hop", None)) for entry in self._entries()
        )
        if number is not None and interface and there + wanted > interface:
            return "port_limit_interface"
        return None

    def _refuse(
        self,
        slot: Any,
        protocol: int,
        remote: tuple[IPv4Address, int],
        reason: str,
        now: int,
        at: int | None = None,
    ) -> RefusedError:
        """There is no port at the slot's interface, or (`at`) at a NAT gateway or a node."""
        if not reason.endswith("port_allocation"):
            remote = (ANYBODY, 0)
        number = self._attached_to(slot) if at is None else at
        record = self.exhaustions.setdefault((protocol, number, *remote), Exhaustion())
        record.errors += 1
        record.last, record.slot, record.reason = now, slot, reason
        self._count("port_allocation_errors")
        return RefusedError(reason)

    def _taken(self, number: int, protocol: int, remote: tuple[IPv4Address, int]) -> set[int]:
        if remote == (ANYBODY, 0):
            mine = (each for each in self.mappings.values() if each.interface == number)
            return {each.nat_port for each in mine if each.protocol == protocol}
        return {key[4] for key in self.outside if key[:4] == (number, protocol, *remote)}

    def _place(
        self,
        slot: int,
        protocol: int,
        remote: tuple[IPv4Address, int],
        wanted: int,
        chosen: Chosen | None,
        now: int,
    ) -> tuple[int, int]:
        """Address and port of a new entry: the chosen ones if they are legal."""
        if reason := self._held_back(slot, None, wanted):
            raise self._refuse(slot, protocol, remote, reason, now)
        primary = self._attached_to(slot)
        numbers = self.addresses(primary)
        if self.behaviour.paired_pooling:
            numbers = [numbers[slot % len(numbers)]]
        admitted = [each for each in numbers if not self._held_back(slot, each, wanted)]
        free = self._free(admitted, protocol, remote)
        if not free:
            reason = "port_allocation" if admitted else "port_limit_interface"
            raise self._refuse(slot, protocol, remote, reason, now)
        return self._legal(free, chosen, remote)

    def _free(
        self, numbers: list[int], protocol: int, remote: tuple[IPv4Address, int]
    ) -> dict[int, list[int]]:
        """The ports towards a remote endpoint that are left, of the addresses that have any."""
        free: dict[int, list[int]] = {}
        for number in numbers:
            taken = self._taken(number, protocol, remote)
            left = [
                port for port in range(self.ports.first, self.ports.last + 1) if port not in taken
            ]
            if len(taken) < self.ports.limit_per_remote and left:
                free[number] = left
        return free

    def _legal(
        self,
        free: dict[int, list[int]],
        chosen: Chosen | None,
        remote: tuple[IPv4Address, int],
    ) -> tuple[int, int]:
        """Address and port among those that are free: the chosen ones."""
        if chosen is None:
            number = next(iter(free))
            return number, free[number][0]
        address, port = chosen
        mine = (each for each in free if self.interfaces[each].address == address)
        found = next(mine, None)
        if address is None:
            found = next((number for number in free if port in free[number]), None)
        if found is None or port not in free.get(found, ()):
            raise IllegalChoiceError(
                f"{address}:{port} towards {remote} is in use, held, over a limit or out of range"
            )
        return found, port

    def _allocated(
        self, key: InsideKey, address: IPv4Address, chosen: Chosen | None, now: int
    ) -> tuple[int, int]:
        """Interface number and port of a new flow, with its mapping made if it has one."""
        slot, protocol, remote_address, remote_port, inside_port = key
        if len(self._entries()) >= self.flows_max:
            raise RefusedError("flow_table_full")
        remote = (remote_address, remote_port)
        if not self.behaviour.endpoint_independent:
            placed = self._place(slot, protocol, remote, 1, chosen, now)
            self._welcome(key, placed[0])
            return placed
        mapping = self._find_mapping((slot, protocol, inside_port), now)
        if mapping is None:
            if len(self._entries()) + 2 > self.flows_max:
                raise RefusedError("flow_table_full")
            number, port = self._place(slot, protocol, (ANYBODY, 0), 2, chosen, now)
            nat_address = self.interfaces[number].address
            mapping = Mapping(
                protocol, slot, number, address, inside_port, nat_address, port, self.clock, now
            )
        elif reason := self._held_back(slot, mapping.interface, 1):
            raise self._refuse(slot, protocol, remote, reason, now)
        self._welcome(key, mapping.interface)
        if (mapping.interface, protocol, *remote, mapping.nat_port) in self.outside:
            raise self._refuse(slot, protocol, remote, "port_allocation", now)
        self.mappings[mapping.key] = mapping
        mapping.flows += 1
        mapping.last_seen = now
        return mapping.interface, mapping.nat_port

    # Mappings

    def _answers(self, key: InsideKey, now: int) -> bool:
        """Whether a SYN-ACK from inside may answer a SYN that a mapping let in."""
        slot, protocol, _, _, inside_port = key
        mapping = self._find_mapping((slot, protocol, inside_port), now)
        return self.behaviour.endpoint_independent and mapping is not None and mapping.flows > 0

    def _mapping_remaining(self, mapping: Mapping, now: int) -> int | None:
        """Milliseconds until a held mapping is free; None while it has flows."""
        if mapping.flows:
            return None
        return self.timeouts.hold - ((now - mapping.last_seen) & CLOCK_MASK)

    def mappings_due(self, now: int) -> list[MappingKey]:
        """The mappings whose hold time is over at `now`."""
        return [
            mapping.key
            for mapping in self.mappings.values()
            if (left := self._mapping_remaining(mapping, now)) is not None and left <= 0
        ]

    def _find_mapping(self, key: MappingKey, now: int) -> Mapping | None:
        """The mapping of an inside port, held ones too."""
        if key in self.mappings_due(now):
            del self.mappings[key]
        return self.mappings.get(key)

    def _find_mapping_outside(
        self, number: int, protocol: int, nat_port: int, now: int
    ) -> Mapping | None:
        """The mapping of a NAT port, held ones too."""
        for mapping in self.mappings.values():
            if (mapping.interface, mapping.protocol, mapping.nat_port) == (
                number,
                protocol,
                nat_port,
            ):
                return self._find_mapping(mapping.key, now)
        return None

    def _leave_mapping(self, entry: Entry, ended: int, now: int) -> None:
        """A flow is gone since `ended`; the hold time counts from the last of them."""
        mapping = self.mappings[entry.slot, entry.protocol, entry.inside_port]
        mapping.flows -= 1
        if (ended - mapping.last_seen) & CLOCK_MASK < 1 << 31:
            mapping.last_seen = ended & CLOCK_MASK
        self._find_mapping(mapping.key, now)

    def free_mappings(self, keys: set[MappingKey], now: int) -> None:
        """The engine freed these; some may have gone with their last flow already."""
        early = {key for key in keys if key in self.mappings} - set(self.mappings_due(now))
        if early:
            raise IllegalChoiceError(f"mappings freed before their time at {now}: {early}")
        for key in keys:
            self.mappings.pop(key, None)

    def _admitted(
        self, number: int, protocol: int, remote: IPv4Address, nat_port: int, now: int
    ) -> Mapping:
        """The mapping by which a packet from outside passes that belongs to no flow."""
        if not self.behaviour.endpoint_independent:
            raise DroppedError("no_flow")
        mapping = self._find_mapping_outside(number, protocol, nat_port, now)
        if mapping is None:
            raise DroppedError("no_flow")
        if not mapping.flows:
            raise DroppedError("flow_held")
        if self.filter_admits(mapping, remote):
            return mapping
        raise DroppedError("filtered")

    def filter_admits(self, mapping: Mapping, remote: IPv4Address) -> bool:
        """Whether a remote address may send to a mapping (RFC 4787 REQ-8)."""
        if self.behaviour.filtering == "endpoint_independent":
            return True
        mine = (mapping.interface, mapping.protocol, mapping.nat_port)
        return self.behaviour.filtering == "address_dependent" and any(
            entry.mapped
            and (entry.interface, entry.protocol, entry.nat_port) == mine
            and entry.remote_address == remote
            for entry in self.inside.values()
        )
