# SPDX-License-Identifier: Apache-2.0
"""The reference NAT: the rules of translation in their order, on dictionaries.

Flows are found by two keys: inside (slot, protocol, remote address, remote port, inside port) and
outside (interface, protocol, remote address, remote port, NAT port). ICMP echo uses its
identifier as the port on both sides and 0 as the remote port.
"""

from collections.abc import Container, Iterable
from ipaddress import IPv4Address

from tests.reference import icmp_error, packet, tombstones, tracker
from tests.reference.balanced_flow import BalancedFlow, End, idle_of
from tests.reference.balancers import NODE, BalancerRules
from tests.reference.errors import DroppedError as _DroppedError
from tests.reference.errors import IllegalChoiceError, RefusedError
from tests.reference.flow import (
    PROTOCOL_NAMES,
    Entry,
    FlowTuple,
    InsideKey,
    OutsideKey,
    timeout_of,
)
from tests.reference.gateways import Way
from tests.reference.hosts import HOST, PlainFlow
from tests.reference.links import questions
from tests.reference.mapping import Chosen, Mapping, MappingKey
from tests.reference.packet import Datagram
from tests.reference.reading import (
    check_transport,
    checked_ipv4,
    is_error,
    ports_inside,
    ports_outside,
    quote_in,
    refuse_source_routes,
)
from tests.reference.result import DROP, HOLD, REPLY, Result
from tests.reference.rewriting import reported
from tests.reference.settings import (
    Behaviour,
    Interface,
    Ports,
    Slot,
    Timeouts,
    never_a_host,
)
from tests.reference.sizes import CLOCK_MASK
from tests.reference.tracker import INSIDE, LIVE, OUTSIDE, State, Tracker


class ReferenceNat(BalancerRules):
    """The oracle.  `translate` and `expire` take the engine's choices as hints; without them the
    model chooses for itself, so that it can be tested alone.
    """

    def __init__(self, flows_max: int) -> None:
        super().__init__()
        self.flows_max = flows_max
        self.clock = 0
        self.timeouts = Timeouts()
        self.ports = Ports()
        self.behaviour = Behaviour()
        self.interfaces: dict[int, Interface] = {}
        self.slots: dict[int, Slot] = {}
        self.inside: dict[InsideKey, Entry] = {}
        self.outside: dict[OutsideKey, Entry] = {}

    # Settings

    def configure(self, *, timeouts: Timeouts, ports: Ports, behaviour: Behaviour) -> None:
        self.timeouts = timeouts
        self.ports = ports
        self.behaviour = behaviour
        self.tombstones.room = behaviour.tombstones

    def set_interface(self, number: int, interface: Interface) -> None:
        self.interfaces[number] = interface

    def set_slot(self, number: int, slot: Slot) -> None:
        self.slots[number] = slot

    # Views

    def flows(self) -> set[FlowTuple]:
        """Every entry in use, held ones too."""
        return {entry.as_tuple() for entry in (*self.inside.values(), *self.plain)}

    def due(self, now: int) -> list[Entry]:
        """The entries whose idle time is over at `now`."""
        entries = (*self.inside.values(), *self.plain)
        return [entry for entry in entries if self._remaining(entry, now) <= 0]

    def _remaining(self, entry: Entry, now: int) -> int:
        idle = (now - entry.last_seen) & CLOCK_MASK
        timeout = idle_of(entry) or timeout_of(self.timeouts, entry.state)
        if entry.tracker.pending:
            timeout = max(timeout, self.timeouts.tcp_opening)
        return timeout - idle

    def next_due_in(self, now: int) -> int | None:
        """Milliseconds from `now` until the first entry is due; None without entries."""
        waits = [self._remaining(entry, now) for entry in (*self.inside.values(), *self.plain)]
        held = (self._mapping_remaining(each, now) for each in self.mappings.values())
        return min([*waits, *(wait for wait in held if wait is not None)], default=None)

    # Time

    def expire(
        self,
        now: int,
        budget: int,
        chosen: Iterable[InsideKey] | None = None,
        freed: Iterable[MappingKey] | None = None,
    ) -> int:
        """End what is due, `budget` entries at most; `chosen` are those the engine ended, and
        `freed` the mappings.
        """
        now &= CLOCK_MASK
        due = self.due(now)
        if chosen is None:
            keys = [e.inside_key for e in sorted(due, key=lambda e: self._remaining(e, now))]
            keys = keys[:budget]
        else:
            keys = list(chosen)
            early = set(keys) - {entry.inside_key for entry in due}
            if early:
                raise IllegalChoiceError(f"ended before their time at {now}: {early}")
            if len(keys) > budget:
                raise IllegalChoiceError(f"ended {len(keys)} entries with a budget of {budget}")
        ended = {*keys}
        for flow in [each for each in self.plain if each.inside_key in ended]:
            self._lasts(flow, now)
        for key in keys:
            if key in self.inside:
                self._settle(self.inside[key], now)
        self._free_orphans(now)
        self._give_up_fragments(now, budget)
        self.free_mappings(set(self.mappings_due(now) if freed is None else freed), now)
        return len(keys)

    def _settle(self, entry: Entry, now: int) -> bool:
        """Let what is due at `now` have happened at its own time; False when the entry is gone.

        A flow ends at its deadline whenever that is noticed: when it is looked up or by `expire`.
        """
        while self._remaining(entry, now) <= 0:
            if entry.state in LIVE:
                self._count(f"flows_ended_{PROTOCOL_NAMES[entry.protocol]}_timeout")
                if self.timeouts.hold > 0 and (entry.protocol == packet.TCP or not entry.mapped):
                    entry.last_seen = (now + self._remaining(entry, now)) & CLOCK_MASK
                    entry.state = State.HELD
                    entry.tracker.pending = False
                    continue
            if entry.state in LIVE or entry.state is State.HELD:
                self.tombstones.put(entry.tombstone_key)
            self._unlink(entry)
            del self.outside[entry.outside_key]
            if entry.mapped:
                self._leave_mapping(entry, now + self._remaining(entry, now), now)
            return False
        return True

    def _find_inside(self, key: InsideKey, now: int) -> Entry | None:
        entry = self.inside.get(key)
        return entry if entry is not None and self._settle(entry, now) else None

    def _find_outside(self, key: OutsideKey, now: int) -> Entry | None:
        entry = self.outside.get(key)
        return entry if entry is not None and self._settle(entry, now) else None

    # Packets

    def translate(
        self,
        frame: bytes,
        side: int,
        port: int,
        now: int,
        *,
        partial: bool = False,
        gso_size: int = 0,
        checksum_at: tuple[int, int] | None = None,
        nat_port: int | None = None,
        nat_address: IPv4Address | None = None,
        identification: int | None = None,
        tombstone_forgotten: bool = False,
        balanced_to: End | str | None = None,
    ) -> Result:
        """Apply the rules to one frame; `nat_port` is the port the engine chose, if it did,
        `nat_address` which of several addresses, and `identification` that of what leaves.
        """
        chosen = None if nat_port is None else (nat_address, nat_port)
        self.chosen, self.balanced_to = chosen, balanced_to
        self._segment_bytes, self._unfinished = gso_size, None
        self._times = 1
        if checksum_at is not None:
            # Counted from the IP header.
            self._unfinished = (checksum_at[0] - 14, checksum_at[1])
        self.tombstones.forgotten = tombstone_forgotten
        self.identifications.chosen = identification
        self.extra = []
        self.clock = now
        try:
            return self._translate(frame, side, port, now & CLOCK_MASK, partial, chosen)
        except _DroppedError as drop:
            reason = str(drop)
            self._dropped(reason, self._times)
            return Result(DROP, reason)
        finally:
            self.extra = [each for each in self.extra if each.action != HOLD]
            self.extra += questions(self.neighbours.asked_at_once(self.interfaces, now))

    def _translate(
        self, frame: bytes, side: int, port: int, now: int, partial: bool, chosen: Chosen | None
    ) -> Result:
        links: dict[int, Container[int]] = {
            INSIDE: self.slots,
            OUTSIDE: self.interfaces,
            HOST: self.hosts,
        }
        if port not in links[side]:
            raise _DroppedError("unknown_link")
        self.link = (side, port)
        self.way, self.astray = None, ""
        if side == INSIDE and self.slots[port].interface is None:
            raise _DroppedError("environment_unattached")
        if side == INSIDE and self.slots[port].silent:
            raise _DroppedError("environment_frozen")
        if len(frame) < 14:
            raise _DroppedError("frame_truncated")
        ethertype = packet.word(frame, 12)
        if side == HOST:
            ours = self.hosts[port].gateway_mac
        else:
            ours = self.slots[port].gateway_mac if side == INSIDE else self.interfaces[port].mac
        broadcast = frame[:6] == b"\xff" * 6
        if frame[:6] != ours and not (broadcast and ethertype == packet.ETHERTYPE_ARP):
            raise _DroppedError("not_ours")
        if ethertype == packet.ETHERTYPE_ARP:
            return self._arp(frame, side, port)
        if ethertype == packet.ETHERTYPE_IPV6:
            raise _DroppedError("ipv6")
        if ethertype != packet.ETHERTYPE_IPV4:
            raise _DroppedError("ethertype")
        datagram = checked_ipv4(frame[14:], self._segment_bytes, self._unfinished)
        self._times = len(datagram.segments())
        self._sender_mac = frame[6:12]
        if side == INSIDE:
            return self._from_inside(datagram, port, now, partial, chosen)
        if side == HOST:
            return self._from_host(datagram, port, now, partial)
        return self._from_outside(datagram, port, now, partial)

    def _from_inside(
        self, datagram: Datagram, number: int, now: int, partial: bool, chosen: Chosen | None
    ) -> Result:
        slot, interface = self._attached(number)
        if datagram.source != slot.address:
            raise _DroppedError("source_spoofed")
        self._count_passage("in_from_source", datagram)
        refuse_source_routes(datagram)
        if never_a_host(datagram.destination):
            raise _DroppedError("destination_invalid")
        if datagram.destination == slot.gateway or datagram.destination in slot.subnet:
            raise _DroppedError("destination_gateway")
        host = self.host_at(datagram.destination, interface.vpc)
        node = self.node_at(datagram.destination, interface.vpc)
        hairpin = node is None and self._own(datagram.destination, interface.vpc)
        if hairpin and not self.behaviour.hairpinning:
            raise _DroppedError("destination_hairpin")
        if (
            not hairpin
            and host is node is None
            and not any(datagram.destination in network for network in interface.destinations)
        ):
            assert slot.interface is not None
            way = self._route_away((INSIDE, number), interface.route_table, datagram.destination)
            assert isinstance(way, Way)
            self.way = way
        if datagram.fragment:
            return self._fragment(datagram, INSIDE, number, now, partial, chosen)
        check_transport(datagram, partial)
        if datagram.ttl <= 1:
            return self._time_exceeded(datagram, number)
        if node is not None:
            return self._to_node(datagram, node, (INSIDE, number), now, partial)
        if is_error(datagram):
            return self._inside_error(datagram, number, now)
        return self._out_of_flow(datagram, number, now, partial, chosen)

    def _out_of_flow(
        self, datagram: Datagram, number: int, now: int, partial: bool, chosen: Chosen | None
    ) -> Result:
        remote_port, inside_port = ports_inside(datagram)
        _, interface = self._attached(number)
        target = self._own_number(datagram.destination, interface.vpc)
        if target is not None and not self._reachable(target, datagram.protocol, remote_port, now):
            raise _DroppedError("hairpin_no_mapping")
        key = (number, datagram.protocol, datagram.destination, remote_port, inside_port)
        entry = self._find_inside(key, now)
        if datagram.protocol == packet.TCP and datagram.payload[13] & 0x17 == packet.SYN:
            self._count("tcp_syns_from_source")
        if entry is None:
            if tombstones.deserves_answer(datagram) and self._idled(key, datagram, now):
                return self._idle(datagram, number)
            try:
                entry = self._opened(key, datagram, now, chosen)
            except RefusedError as refused:
                if not self.behaviour.exhaustion_icmp:
                    raise
                return self._told(datagram, number, str(refused), 3, 13)
        else:
            host = self.host_at(datagram.destination, interface.vpc)
            if host is not None and entry.created < self.hosts[host].since:
                self._welcome(key, entry.interface)
            try:
                self._track(entry, datagram, INSIDE, now)
            except _DroppedError as drop:
                if str(drop) != "tcp_idle_timeout":
                    raise
                return self._idle(datagram, number)
        if told := self._too_large(datagram, entry, INSIDE, number):
            return told
        datagram = self._fitted(datagram, entry, INSIDE, partial)
        entry.count_out(datagram)
        changed = datagram.readdressed(source=entry.nat_address).one_hop_older()
        changed = self.identifications.identified(changed)
        changed = reported(datagram, changed, entry.nat_port, source=True, partial=partial)
        if target is not None:
            self._count("packets_hairpinned", len(changed.segments()))
            return self._into_flow(changed, target, now, partial, aged=True)
        return self._out(changed, entry.interface, partial)

    def _from_outside(self, datagram: Datagram, number: int, now: int, partial: bool) -> Result:
        found = self._number(number, datagram.destination)
        if found is None:
            found = self.node_behind(number, datagram.destination)
        if found is None:
            if self.host_behind(number, datagram.destination) is None:
                raise _DroppedError("not_ours")
            return self._from_router(datagram, number, now, partial)
        number = found
        interface = self.interfaces[number]
        self._count_passage("in_from_destination", datagram)
        refuse_source_routes(datagram)
        if never_a_host(datagram.source) or (
            not self.from_internet(self.link[1])
            and (
                self._own(datagram.source, interface.vpc)
                or self.host_at(datagram.source, interface.vpc) is not None
            )
        ):
            raise _DroppedError("source_invalid")
        if interface.serves and interface.serves[0] == "host":
            return self._unchanged(datagram, (OUTSIDE, number), now, partial)
        if interface.serves and interface.serves[0] == NODE:
            return self._at_public_node(datagram, number, now, partial)
        if datagram.fragment:
            return self._fragment(datagram, OUTSIDE, number, now, partial, None)
        check_transport(datagram, partial)
        if datagram.ttl <= 1:
            raise _DroppedError("ttl_exceeded")
        if self.node_at(datagram.destination, interface.vpc) is not None:
            return self._at_node(datagram, number, self.link, now, partial)
        if is_error(datagram):
            return self._outside_error(datagram.one_hop_older(), number, now)
        return self._into_flow(datagram, number, now, partial)

    def _into_flow(
        self, datagram: Datagram, number: int, now: int, partial: bool, *, aged: bool = False
    ) -> Result:
        """A packet to the address `number`; from a neighbour inside it is `aged` already."""
        remote_port, nat_port = ports_outside(datagram)
        key = (number, datagram.protocol, datagram.source, remote_port, nat_port)
        entry = self._find_outside(key, now)
        target: Entry | Mapping
        if entry is None:
            target = self._admitted(number, datagram.protocol, datagram.source, nat_port, now)
        elif isinstance(entry, BalancedFlow):
            return self._back(datagram, entry, now, partial)
        else:
            if self.slots[entry.slot].silent:
                raise _DroppedError("environment_frozen")
            self._track(entry, datagram, OUTSIDE, now)
            target = entry
        if told := self._too_large(datagram, target, OUTSIDE, number):
            return told
        datagram = self._fitted(datagram, target, OUTSIDE, partial)
        if entry is not None:
            entry.count_in(datagram)
        changed = datagram.readdressed(destination=target.inside_address)
        if not aged:
            changed = changed.one_hop_older()
        changed = reported(datagram, changed, target.inside_port, source=False, partial=partial)
        return self._entering(changed, target.slot, partial)

    # Flows

    def _opened(self, key: InsideKey, datagram: Datagram, now: int, chosen: Chosen | None) -> Entry:
        number, protocol, remote_address, remote_port, inside_port = key
        if protocol == packet.TCP:
            segment = packet.parse_segment(datagram.payload)
            kind = tracker.kind_of(segment.flags)
            routed = self.nat_gateway is not None
            answers = kind is tracker.Kind.SYNACK and not routed and self._answers(key, now)
            if kind is not tracker.Kind.SYN and not answers:
                raise _DroppedError("tcp_no_flow")
        self._admit(self._attached_to(number), key)
        hop, gateway = None, self.nat_gateway
        if gateway is None:
            interface, nat_port = self._allocated(key, datagram.source, chosen, now)
        else:
            interface, nat_port, hop = self._allocated_at_gateway(key, gateway, chosen, now)
        entry = Entry(
            protocol=protocol,
            slot=number,
            interface=interface,
            inside_address=datagram.source,
            inside_port=inside_port,
            remote_address=remote_address,
            remote_port=remote_port,
            nat_address=self.interfaces[interface].address,
            nat_port=nat_port,
            created=self.clock,
            last_seen=now,
            mapped=self.behaviour.endpoint_independent and hop is None,
            hop=hop,
        )
        self._begin(entry, datagram, INSIDE, now)
        self.inside[key] = entry
        self.outside[entry.outside_key] = entry
        self.tombstones.remove(key)
        return entry

    def _begin(self, entry: Entry, datagram: Datagram, side: int, now: int) -> None:
        """A new flow, or the next one behind the same port."""
        entry.created = self.clock
        entry.packets_out = entry.bytes_out = entry.packets_in = entry.bytes_in = 0
        entry.last_seen = now
        if entry.protocol == packet.TCP:
            segment = packet.parse_segment(datagram.payload)
            entry.tracker = Tracker.begin(segment, side, entry.tracker.remembered)
            syn = tracker.kind_of(segment.flags) is tracker.Kind.SYN
            entry.state = State.SYN_SENT if syn else State.SYN_RECEIVED
        else:
            entry.state = State.UDP if entry.protocol == packet.UDP else State.ICMP
        self._count(f"flows_created_{PROTOCOL_NAMES[entry.protocol]}")

    def _admit_again(self, entry: Entry) -> None:
        """Ask security groups about another flow in the place of one."""
        if isinstance(entry, PlainFlow):
            self._admit_plain_again(entry)
            return
        self._admit(self._admitting(entry), entry.inside_key)
        self._welcome(entry.inside_key, entry.interface)

    def _track(self, entry: Entry, datagram: Datagram, side: int, now: int) -> None:
        if entry.protocol == packet.TCP:
            self._track_tcp(entry, datagram, side, now)
            return
        if entry.state is State.HELD:
            if side == OUTSIDE:
                raise _DroppedError("flow_held")
            self._admit_again(entry)
            self._begin(entry, datagram, side, now)
        if entry.protocol == packet.UDP and side == OUTSIDE:
            entry.state = State.UDP_REPLIED
        entry.last_seen = now

    def _may_open(self, entry: Entry, side: int, now: int) -> bool:
        """Whether a SYN from a side may begin another connection on a flow."""
        if side == INSIDE or not entry.mapped:
            return side == INSIDE
        mapping = self._find_mapping((entry.slot, entry.protocol, entry.inside_port), now)
        return mapping is not None and self.filter_admits(mapping, entry.remote_address)

    def _track_tcp(self, entry: Entry, datagram: Datagram, side: int, now: int) -> None:
        segment = packet.parse_segment(datagram.payload)
        may_open = self._may_open(entry, side, now)
        step = tracker.step(entry.tracker, entry.state, segment, side, may_open=may_open)
        if step.drop is not None:
            raise _DroppedError(step.drop)
        if side == INSIDE and (step.restart or step.remembered):
            self._admit_again(entry)
        if step.restart:
            if entry.state in LIVE:
                self._count("flows_ended_tcp_replaced")
            self._begin(entry, datagram, side, now)
            return
        if step.remembered:
            entry.tracker.remember(segment, side)
        if entry.state is State.SYN_RECEIVED and step.state not in (entry.state, State.RESET):
            self._count("flows_established_tcp")
        if entry.state in LIVE and step.state not in LIVE:
            cause = "rst" if step.state is State.RESET else "fin"
            self._count(f"flows_ended_tcp_{cause}")
        entry.state = step.state
        if step.refresh:
            entry.last_seen = now

    # ICMP errors

    def _inside_error(self, datagram: Datagram, number: int, now: int) -> Result:
        quote = quote_in(datagram, packet.ECHO_REPLY)
        slot, interface = self._attached(number)
        if quote.inner.destination != slot.address or datagram.destination != quote.inner.source:
            raise _DroppedError("icmp_error_mismatch")
        remote_port = 0 if quote.protocol == packet.ICMP else quote.port(of_source=True)
        inside_port = quote.port(of_source=False)
        key = (number, quote.protocol, quote.inner.source, remote_port, inside_port)
        entry = self._find_inside(key, now)
        target: Entry | Mapping | None = entry
        if entry is None and self.nat_gateway is None:
            target = self._admitted_from((number, quote.protocol, inside_port), quote, now)
        if target is None:
            raise _DroppedError("icmp_error_no_flow")
        quoted = quote.rewritten(address=target.nat_address, port=target.nat_port, source=False)
        message = icmp_error.resealed(datagram.payload[:8] + quoted)
        changed = datagram.readdressed(source=target.nat_address).one_hop_older().carrying(message)
        changed = self.identifications.identified(changed)
        receiver = self._own_number(datagram.destination, interface.vpc)
        if receiver is not None:
            self._count("packets_hairpinned")
            return self._outside_error(changed, receiver, now)
        result = self._out(changed, target.interface)
        self._count("icmp_errors_translated")
        return result

    def _admitted_from(self, key: MappingKey, quote: icmp_error.Quote, now: int) -> Mapping | None:
        """The mapping that alone let in the packet which an error from inside quotes."""
        mapping = self._find_mapping(key, now)
        if mapping is not None and self.filter_admits(mapping, quote.inner.source):
            return mapping
        return None

    def _outside_error(self, datagram: Datagram, number: int, now: int) -> Result:
        quote = quote_in(datagram, packet.ECHO_REQUEST)
        if self.link[0] == HOST and quote.inner.destination != datagram.source:
            raise _DroppedError("icmp_error_mismatch")
        if quote.inner.source != self.interfaces[number].address:
            raise _DroppedError("icmp_error_mismatch")
        remote_port = 0 if quote.protocol == packet.ICMP else quote.port(of_source=False)
        nat_port = quote.port(of_source=True)
        key = (number, quote.protocol, quote.inner.destination, remote_port, nat_port)
        entry = self._find_outside(key, now)
        if entry is None:
            raise _DroppedError("icmp_error_no_flow")
        if isinstance(entry, BalancedFlow):
            return self._balanced_error(datagram, quote, entry, OUTSIDE, aged=True)
        quoted = quote.rewritten(address=entry.inside_address, port=entry.inside_port, source=True)
        message = icmp_error.resealed(datagram.payload[:8] + quoted)
        changed = datagram.readdressed(destination=entry.inside_address)
        result = self._entering(changed.carrying(message), entry.slot)
        self._count("icmp_errors_translated")
        return result

    def _time_exceeded(self, datagram: Datagram, number: int) -> Result:
        error = datagram.protocol == packet.ICMP
        if error and datagram.payload[0] in icmp_error.NEVER_ANSWERED:
            raise _DroppedError("ttl_exceeded")
        return self._told(datagram, number, "ttl_exceeded", 11, 0)

    def _told(self, datagram: Datagram, number: int, reason: str, kind: int, code: int) -> Result:
        """A drop of which the environment is told by an ICMP error."""
        slot = self.slots[number]
        answer = icmp_error.about(datagram, slot.gateway, slot.address, kind, code)
        return self._answered(number, reason, "replies_icmp", answer)

    def _idled(self, key: InsideKey, datagram: Datagram, now: int) -> bool:
        """Whether a segment without a flow is of a connection that was idle too long."""
        kind = tracker.kind_of(datagram.payload[13])
        routed = self.nat_gateway is not None
        answers = kind is tracker.Kind.SYNACK and not routed and self._answers(key, now)
        return not answers and self.tombstones.has(key)

    def _idle(self, datagram: Datagram, number: int) -> Result:
        if not self.behaviour.idle_reset:
            raise _DroppedError("tcp_idle_timeout")
        answer = tombstones.reset(datagram)
        return self._answered(number, "tcp_idle_timeout", "replies_tcp", answer)

    def _answered(
        self, number: int, reason: str, counter: str, answer: bytes, side: int = INSIDE
    ) -> Result:
        """Drop for `reason`, but with an answer to the sender."""
        self._dropped(reason, self._times)
        self._count(counter)
        if side == INSIDE:
            slot = self.slots[number]
            header = slot.environment_mac + slot.gateway_mac + b"\x08\x00"
        else:
            header = self._sender_mac + self.interfaces[number].mac + b"\x08\x00"
            number = self._primary(number)
        return Result(REPLY, None, side, number, header + answer)
