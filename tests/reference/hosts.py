# SPDX-License-Identifier: Apache-2.0
"""The part of the oracle that knows of hosts: packets of a VPC that are tracked and not translated.

Where a packet comes from and goes to is a place: a side and a number. Flows of hosts are in a
list, and are found by comparing; environments' flows to hosts are the NAT's as any others, and
leave by another link.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.reference import arp, fragments, icmp_error, packet, tombstones
from tests.reference.errors import DroppedError, RefusedError
from tests.reference.flow import PROTOCOL_NAMES, Entry, FlowTuple, InsideKey
from tests.reference.gateways import Way
from tests.reference.links import LinkRules
from tests.reference.mapping import Mapping
from tests.reference.packet import Datagram
from tests.reference.reading import (
    check_transport,
    checked_ipv4,
    is_error,
    quote_in,
    refuse_source_routes,
)
from tests.reference.result import FORWARD, LEARN, REPLY, Result
from tests.reference.rewriting import reported
from tests.reference.settings import Host, Slot, never_a_host
from tests.reference.tracker import INSIDE, LIVE, OUTSIDE

HOST = 2
PLAIN = 3
"""In place of a side, for fragments that are not translated: from an interface, or one more."""

Place = tuple[int, int]

_NAMES = {OUTSIDE: "interface", HOST: "host"}


def name_of(place: Place) -> str:
    """A place as flows name it."""
    side, number = place
    return f"{_NAMES[side]} {number}"


@dataclass
class PlainFlow(Entry):
    """A flow of which nothing is translated, between two places."""

    originator: Place = (HOST, 0)
    responder: Place = (HOST, 0)
    far_source: IPv4Address | None = None
    """What its responder sees as the source's address, where that is public."""
    far_destination: IPv4Address | None = None
    """What its responder, a host, has for the public address at which the flow began."""

    def ends_at(self, side: int) -> tuple[tuple[IPv4Address, int], tuple[IPv4Address, int]]:
        """Source and destination of what comes from a side."""
        if side == INSIDE:
            return (
                (self.inside_address, self.inside_port),
                (self.remote_address, self.remote_port),
            )
        return (
            (self.far_destination or self.remote_address, self.remote_port),
            (self.far_source or self.inside_address, self.inside_port),
        )

    @property
    def inside_key(self) -> InsideKey:
        remote = (self.remote_address, self.remote_port)
        return (name_of(self.originator), self.protocol, *remote, self.inside_port)

    def as_tuple(self) -> FlowTuple:
        own = super().as_tuple()
        return (*own[:2], name_of(self.originator), name_of(self.responder), *own[4:])


class HostRules(LinkRules):
    """Rules about hosts of VPCs."""

    def __init__(self) -> None:
        super().__init__()
        self.tombstones = tombstones.Tombstones()
        self.hosts: dict[int, Host] = {}
        self.plain: list[PlainFlow] = []

    def set_host(self, number: int, host: Host) -> None:
        """Make or change a host."""
        self.hosts[number] = host

    def _begin(self, entry: Entry, datagram: Datagram, side: int, now: int) -> None:
        raise NotImplementedError

    def _track(self, entry: Entry, datagram: Datagram, side: int, now: int) -> None:
        raise NotImplementedError

    def _remaining(self, entry: Entry, now: int) -> int:
        raise NotImplementedError

    def _outside_error(self, datagram: Datagram, number: int, now: int) -> Result:
        raise NotImplementedError

    def node_at(self, address: IPv4Address, vpc: int) -> int | None:
        raise NotImplementedError

    def _at_node(
        self, datagram: Datagram, node: int, place: Place, now: int, partial: bool
    ) -> Result:
        raise NotImplementedError

    def _balanced_back(
        self, datagram: Datagram, flow: PlainFlow, now: int, partial: bool
    ) -> Result | None:
        """What becomes of a target's answer, if the flow is balanced."""
        raise NotImplementedError

    def _balanced_told(
        self, datagram: Datagram, quote: icmp_error.Quote, flow: PlainFlow, side: int
    ) -> Result | None:
        """What becomes of an ICMP error, if the flow is balanced."""
        raise NotImplementedError

    def _idle_reset(self, datagram: Datagram) -> Result:
        raise NotImplementedError

    # Who and where

    def host_at(self, address: IPv4Address, vpc: int) -> int | None:
        """The host with an address in a VPC."""
        mine = (each for each, host in self.hosts.items() if host.vpc == vpc)
        return next((each for each in mine if self.hosts[each].address == address), None)

    def host_behind(self, interface: int, address: IPv4Address) -> int | None:
        """The host that the VPC's router reaches by this interface's link, or a service by that of
        gateway endpoints.
        """
        found = self.host_at(address, self.interfaces[interface].vpc)
        if found is not None and interface in (self.hosts[found].interface, self._endpoints()):
            return found
        return None

    def _endpoints(self) -> int | None:
        """The interface of gateway endpoints whose link the packet came by."""
        side, number = self.link
        return number if side == OUTSIDE and self.is_endpoint(number) else None

    def _mtu_of(self, place: Place) -> int:
        side, number = place
        if side == INSIDE:
            return self.slots[number].mtu
        return self.hosts[number].mtu if side == HOST else self.interfaces[number].mtu

    def _ways(self, datagram: Datagram, entry: Entry | Mapping, side: int) -> tuple[int, int]:
        """MTU on the way to a flow's originator, and to its responder."""
        if isinstance(entry, PlainFlow):
            return self._mtu_of(entry.originator), self._mtu_of(entry.responder)
        own, far = super()._ways(datagram, entry, side)
        host = None
        if side == INSIDE:
            vpc = self.interfaces[entry.interface].vpc
            host = self.host_at(datagram.destination, vpc)
        elif self.link[0] == HOST:
            host = self.link[1]
        return own, far if host is None else self.hosts[host].mtu

    # Links

    def _host_arp(self, frame: bytes, number: int) -> tuple[str | None, bytes]:
        host = self.hosts[number]
        alike = Slot(
            address=host.address,
            subnet=host.subnet,
            gateway=host.router,
            environment_mac=host.host_mac,
            gateway_mac=host.gateway_mac,
            interface=host.interface,
        )
        return arp.on_slot(frame, alike)

    def _arp(self, frame: bytes, side: int, port: int) -> Result:
        if side == INSIDE:
            reason, reply = arp.on_slot(frame, self.slots[port])
        elif side == HOST:
            reason, reply = self._host_arp(frame, port)
        else:
            ours = {self.interfaces[number].address for number in self.addresses(port)}

            def seen(address: IPv4Address, mac: bytes, answer: bool) -> bool:
                if answer and self.neighbours.answered(port, address, mac, self.clock):
                    self.extra += self.set_neighbour(port, address, mac, self.clock)
                    return True
                self.neighbours.hinted(port, address, mac, self.clock)
                return False

            vpc = self.interfaces[port].vpc
            hosts = [host for host in self.hosts.values() if host.vpc == vpc]
            behind = {host.address for host in hosts if host.interface == port}
            nodes = [each for each in self.interfaces.values() if each.behind is not None]
            behind |= {each.address for each in nodes if each.behind == port}
            linkless = {each.address for each in hosts}
            linkless |= {each.address for each in nodes if each.vpc == vpc}
            reason, reply = arp.on_interface(
                frame,
                self.interfaces[port],
                ours | behind,
                ours | linkless,
                seen,
            )
        if reason is not None:
            raise DroppedError(reason)
        if not reply:
            return Result(LEARN)
        self._count("replies_arp")
        return Result(REPLY, None, side, port, reply)

    def _out(self, datagram: Datagram, interface: int, partial: bool = False) -> Result:
        """A translated packet of an environment leaves, by the interface's link or a host's."""
        host = self.host_at(datagram.destination, self.interfaces[interface].vpc)
        if host is None:
            way = self.gateway_endpoint
            return self._leaving(datagram, interface if way is None else way, partial)
        return self._to_host(datagram, host, partial, "out_to_destination")

    def _to_host(
        self, datagram: Datagram, number: int, partial: bool, counted: str = "out_to_source"
    ) -> Result:
        host = self.hosts[number]
        header = host.host_mac + host.gateway_mac + b"\x08\x00"
        left = []
        for pieces in self._in_pieces(datagram, host.mtu, partial):
            self._count("packets_fragmented", len(pieces) > 1)
            for each in pieces:
                self._count_passage(counted, each)
                left.append(Result(FORWARD, None, HOST, number, header + each.packed()))
        first, *others = left
        self.extra += others
        return first

    def _to(self, place: Place, datagram: Datagram, partial: bool = False) -> Result:
        if place[0] == HOST:
            return self._to_host(datagram, place[1], partial)
        return self._leaving(datagram, place[1], partial)

    def _tell_host(self, number: int, reason: str, counter: str, answer: bytes) -> Result:
        """Drop a packet with an answer to the host that sent it."""
        host = self.hosts[number]
        self._dropped(reason, self._times)
        self._count(counter)
        frame = host.host_mac + host.gateway_mac + b"\x08\x00" + answer
        return Result(REPLY, None, HOST, number, frame)

    def _tell(self, datagram: Datagram, reason: str, kind: int, code: int, mtu: int = 0) -> Result:
        """Drop a plain packet and tell whoever sent it."""
        side, number = self.link
        if side == HOST:
            source = self.hosts[number].router
        else:
            found = self._number(number, datagram.destination)
            source = self.interfaces[number if found is None else found].address
        quoted = datagram.header + datagram.payload[:8]
        message = packet.icmp(kind, code, bytes(2) + mtu.to_bytes(2), quoted)
        answer = packet.ipv4(
            str(source), str(datagram.source), packet.ICMP, message, ttl=64, tos=0xC0
        )
        if side == HOST:
            return self._tell_host(number, reason, "replies_icmp", answer)
        answer = self.identifications.identified(checked_ipv4(answer)).packed()
        return self._answered(number, reason, "replies_icmp", answer, OUTSIDE)

    # Packets

    def _from_host(self, datagram: Datagram, number: int, now: int, partial: bool) -> Result:
        host = self.hosts[number]
        if datagram.source != host.address:
            raise DroppedError("source_spoofed")
        own = self._own_number(datagram.destination, host.vpc)
        if own is not None:
            # As if it had come by the interface's link.
            self._count_passage("in_from_destination", datagram)
            refuse_source_routes(datagram)
            if datagram.fragment:
                return self._fragment(datagram, OUTSIDE, own, now, partial, None)
            check_transport(datagram, partial)
            if datagram.ttl <= 1:
                raise DroppedError("ttl_exceeded")
            if self.node_at(datagram.destination, host.vpc) is not None:
                return self._at_node(datagram, own, (HOST, number), now, partial)
            if is_error(datagram):
                return self._outside_error(datagram.one_hop_older(), own, now)
            return self._into_flow(datagram, own, now, partial)
        self._count_passage("in_from_source", datagram)
        refuse_source_routes(datagram)
        target = self.host_at(datagram.destination, host.vpc)
        if never_a_host(datagram.destination) or target == number:
            raise DroppedError("destination_invalid")
        interface = self.interfaces[host.interface]
        if target is None and not any(
            datagram.destination in network for network in interface.destinations
        ):
            self._route_host(number, datagram.destination)
        return self._unchanged(datagram, (HOST, number), now, partial)

    def _route_host(self, number: int, destination: IPv4Address) -> None:
        """By which gateway a host's packet leaves; if by none, it may be a target's answer yet."""
        table = self.hosts[number].route_table
        try:
            way = self._route_away((HOST, number), table, destination)
        except DroppedError as drop:
            self.astray = str(drop)
        else:
            assert isinstance(way, Way)
            self.way = way

    def _from_router(self, datagram: Datagram, number: int, now: int, partial: bool) -> Result:
        """From the link of interface `number`, to a host."""
        self._count_passage("in_from_destination", datagram)
        refuse_source_routes(datagram)
        vpc = self.interfaces[number].vpc
        if (
            self._own(datagram.source, vpc)
            or self.host_at(datagram.source, vpc) is not None
            or never_a_host(datagram.source)
        ):
            raise DroppedError("source_invalid")
        return self._unchanged(datagram, (OUTSIDE, number), now, partial)

    def _unchanged(self, datagram: Datagram, place: Place, now: int, partial: bool) -> Result:
        if datagram.fragment:
            # A place has its number on one side, of which a host's are told apart.
            side = PLAIN if place[0] == OUTSIDE else PLAIN + 1
            return self._fragment(datagram, side, place[1], now, partial, None)
        check_transport(datagram, partial)
        if datagram.ttl <= 1:
            if self._endpoints() is not None:
                raise DroppedError("ttl_exceeded")
            return self._aged(datagram)
        if is_error(datagram):
            return self._plain_error(datagram, place, now)
        return self._out_plain(datagram, place, now, partial)

    def _aged(self, datagram: Datagram) -> Result:
        data = datagram.payload
        silent = (*icmp_error.NEVER_ANSWERED, packet.ECHO_REPLY)
        if datagram.protocol == packet.ICMP and data[0] in silent:
            raise DroppedError("ttl_exceeded")
        return self._tell(datagram, "ttl_exceeded", 11, 0)

    def _plain_ports(self, datagram: Datagram) -> tuple[int, int, int]:
        """Source and destination port, and from which end of a flow a packet is without one."""
        data = datagram.payload
        if datagram.protocol != packet.ICMP:
            return packet.word(data, 0), packet.word(data, 2), INSIDE
        if data[0] not in (packet.ECHO_REQUEST, packet.ECHO_REPLY) or data[1]:
            raise DroppedError("icmp_type")
        number = packet.word(data, 4)
        return (number, 0, INSIDE) if data[0] == packet.ECHO_REQUEST else (0, number, OUTSIDE)

    def _find_plain(
        self,
        place: Place,
        protocol: int,
        source: tuple[IPv4Address, int],
        destination: tuple[IPv4Address, int],
        now: int,
        *,
        look: bool = False,
    ) -> tuple[PlainFlow, int] | None:
        """The flow of a packet from a place, and from which of its ends that is; one whose time is
        over is gone, unless this is just a `look`.
        """
        for flow in [each for each in self.plain if each.protocol == protocol]:
            for side, own in ((INSIDE, flow.originator), (OUTSIDE, flow.responder)):
                if (own, *flow.ends_at(side)) == (place, source, destination):
                    return (flow, side) if look or self._lasts(flow, now) else None
        return None

    def _lasts(self, flow: PlainFlow, now: int) -> bool:
        """Let the deadline of a flow have passed; False when it is gone. Nothing is held for it."""
        if self._remaining(flow, now) > 0:
            return True
        if flow.state in LIVE:
            self._count(f"flows_ended_{PROTOCOL_NAMES[flow.protocol]}_timeout")
        self.plain.remove(flow)
        return False

    def _target(self, datagram: Datagram, place: Place) -> Place:
        side, number = place
        if side == OUTSIDE and (serves := self.interfaces[number].serves):
            return HOST, serves[1]
        if self.way is not None:
            return OUTSIDE, self.way.interface
        home = self.hosts[number] if side == HOST else self.interfaces[number]
        host = self.host_at(datagram.destination, home.vpc)
        if host is not None:
            return HOST, host
        assert isinstance(home, Host)
        return OUTSIDE, home.interface

    def _admit_plain(
        self, datagram: Datagram, place: Place, target: Place, port: int, *, far: bool
    ) -> None:
        """Security groups of who sends, or (far) of whom it is for."""
        side, number = target if far else place
        policy = self.hosts[number].policy if side == HOST else None
        if policy is None:
            return
        own = datagram.source
        if far and not policy.admits(datagram.protocol, own, port):
            raise DroppedError("security_group_ingress")
        reason = policy.refusal(own, datagram.protocol, datagram.destination, port)
        if not far and reason:
            raise DroppedError(reason)

    def _admit_plain_again(self, flow: PlainFlow) -> None:
        """The same for another connection on the flow's addresses and ports."""
        side, number = flow.originator
        policy = self.hosts[number].policy if side == HOST else None
        ends = (flow.inside_address, flow.protocol, flow.remote_address, flow.remote_port)
        if policy and (reason := policy.refusal(*ends)):
            raise DroppedError(reason)
        side, number = flow.responder
        policy = self.hosts[number].policy if side == HOST else None
        if policy and not policy.admits(flow.protocol, flow.inside_address, flow.remote_port):
            raise DroppedError("security_group_ingress")

    def _open_plain(
        self, datagram: Datagram, place: Place, target: Place, ports: tuple[int, int], now: int
    ) -> PlainFlow:
        source_port, port = ports
        if datagram.protocol == packet.TCP and datagram.payload[13] & 0x17 != packet.SYN:
            raise DroppedError("tcp_no_flow")
        self._admit_plain(datagram, place, target, port, far=False)
        if len(self._entries()) >= self.flows_max:
            raise RefusedError("flow_table_full")
        self._admit_plain(datagram, place, target, port, far=True)
        limit = self.ports.limit_per_environment
        mine = sum(place in (flow.originator, flow.responder) for flow in self.plain)
        if place[0] == HOST and limit and mine >= limit:
            raise RefusedError("port_limit_environment")
        flow = PlainFlow(
            protocol=datagram.protocol,
            slot=-1,
            interface=-1,
            inside_address=datagram.source,
            inside_port=source_port,
            remote_address=datagram.destination,
            remote_port=port,
            nat_address=datagram.source,
            nat_port=source_port,
            created=self.clock,
            last_seen=now,
            originator=place,
            responder=target,
        )
        if self.way is not None and self.gateway_endpoint is None:
            flow.nat_address = flow.far_source = self.interfaces[self.way.interface].address
        elif place[0] == OUTSIDE and self.interfaces[place[1]].serves:
            flow.nat_address = flow.far_destination = self.hosts[target[1]].address
            flow.nat_port = port
        if self._find_plain(target, flow.protocol, *flow.ends_at(OUTSIDE), now, look=True):
            raise DroppedError("flow_collision")
        self._begin(flow, datagram, INSIDE, now)
        self.plain.append(flow)
        self.tombstones.remove(flow.inside_key)
        return flow

    def _out_plain(self, datagram: Datagram, place: Place, now: int, partial: bool) -> Result:
        source_port, port, side = self._plain_ports(datagram)
        ends = ((datagram.source, source_port), (datagram.destination, port))
        found = self._find_plain(place, datagram.protocol, *ends, now)
        syn = datagram.protocol == packet.TCP and datagram.payload[13] & 0x17 == packet.SYN
        if self._endpoints() is not None:
            if datagram.protocol == packet.ICMP and side == INSIDE:
                raise DroppedError("icmp_type")
            if found is None:
                raise DroppedError("no_flow")
        if syn and not self.astray and (found is None or found[1] == INSIDE):
            self._count("tcp_syns_from_source")
        if found is not None:
            flow, side = found
            if side == OUTSIDE and (back := self._balanced_back(datagram, flow, now, partial)):
                return back
            self._refuse_astray()
            self._track(flow, datagram, side, now)
        else:
            remembered = (
                name_of(place),
                datagram.protocol,
                datagram.destination,
                port,
                source_port,
            )
            if tombstones.deserves_answer(datagram) and self.tombstones.has(remembered):
                return self._idle_reset(datagram)
            self._refuse_astray()
            if side == OUTSIDE:
                raise DroppedError("no_flow")
            target = self._target(datagram, place)
            try:
                flow = self._open_plain(datagram, place, target, (source_port, port), now)
            except RefusedError as refused:
                if not self.behaviour.exhaustion_icmp:
                    raise
                return self._tell(datagram, str(refused), 3, 13)
        limit = self._ways(datagram, flow, side)[side == INSIDE]
        if self._must_be_told(datagram, limit):
            return self._tell(datagram, "mtu_exceeded", 3, 4, limit)
        datagram = self._fitted(datagram, flow, side, partial)
        flow.count_out(datagram) if side == INSIDE else flow.count_in(datagram)
        way = flow.responder if side == INSIDE else flow.originator
        return self._to(way, self._readdressed(datagram, flow, side, partial), partial)

    def _readdressed(
        self, datagram: Datagram, flow: PlainFlow, side: int, partial: bool
    ) -> Datagram:
        """A packet of a flow as the other side has it: one of its addresses may be public."""
        (source, _), (destination, _) = flow.ends_at(1 - side)
        changed = datagram.one_hop_older()
        if destination != datagram.source:
            changed = changed.readdressed(source=destination)
            changed = self.identifications.identified(changed)
        elif source != datagram.destination:
            changed = changed.readdressed(destination=source)
        else:
            return changed
        own = destination != datagram.source
        at = 0 if own else 2
        if datagram.protocol == packet.ICMP:
            at = 4
        port = packet.word(datagram.payload, at)
        return reported(datagram, changed, port, source=own, partial=partial)

    def _plain_error(self, datagram: Datagram, place: Place, now: int) -> Result:
        data = datagram.payload
        at = 8 + (data[8] & 0x0F) * 4 if len(data) > 8 else 0
        reply = len(data) > at and data[at] == packet.ECHO_REPLY
        quote = quote_in(datagram, packet.ECHO_REPLY if reply else packet.ECHO_REQUEST)
        inner = quote.inner
        if self.link[0] == HOST and inner.destination != datagram.source:
            raise DroppedError("icmp_error_mismatch")
        if inner.source != datagram.destination:
            raise DroppedError("icmp_error_mismatch")
        source_port, port = quote.port(of_source=True), quote.port(of_source=False)
        if quote.protocol == packet.ICMP:
            source_port, port = (0, port) if reply else (source_port, 0)
        ends = ((inner.destination, port), (inner.source, source_port))
        found = self._find_plain(place, quote.protocol, *ends, now)
        if found is None:
            self._refuse_astray()
            raise DroppedError("icmp_error_no_flow")
        flow, side = found
        if told := self._balanced_told(datagram, quote, flow, side):
            return told
        self._refuse_astray()
        way = flow.responder if side == INSIDE else flow.originator
        (source_address, _), (destination_address, _) = flow.ends_at(1 - side)
        changed = datagram.one_hop_older()
        if destination_address != inner.destination:
            # What is quoted went the other way.
            number = quote.port(of_source=False)
            if quote.protocol == packet.ICMP:
                number = quote.port(of_source=True)
            quoted = quote.rewritten(address=destination_address, port=number, source=False)
            message = icmp_error.resealed(data[:8] + quoted)
            changed = changed.readdressed(source=destination_address).carrying(message)
            changed = self.identifications.identified(changed)
        elif source_address != inner.source:
            number = quote.port(of_source=True)
            quoted = quote.rewritten(address=source_address, port=number, source=True)
            message = icmp_error.resealed(data[:8] + quoted)
            changed = changed.readdressed(destination=source_address).carrying(message)
        result = self._to(way, changed)
        self._count("icmp_errors_translated")
        return result

    # Fragments

    def _plain_piece(self, piece: Datagram, context: fragments.Context, place: Place) -> None:
        """Count a later piece at the flow of the first."""
        assert context.first is not None
        source_port, port, _ = self._plain_ports(context.first)
        ends = ((piece.source, source_port), (piece.destination, port))
        for flow in self.plain:
            if flow.protocol != piece.protocol:
                continue
            if (flow.originator, *flow.ends_at(INSIDE)) == (place, *ends):
                flow.count_out(piece)
            elif (flow.responder, *flow.ends_at(OUTSIDE)) == (place, *ends):
                flow.count_in(piece)
