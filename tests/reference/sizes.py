# SPDX-License-Identifier: Apache-2.0
"""The part of the oracle that knows of sizes: MTUs, the MSS option, and fragments."""

from dataclasses import replace

from tests.reference import fragments, mtu, packet
from tests.reference.errors import DroppedError
from tests.reference.flow import Entry, OutsideKey
from tests.reference.gateways import RouteRules
from tests.reference.identification import Identifications, number_of, numbered
from tests.reference.mapping import Chosen, Mapping
from tests.reference.packet import Datagram
from tests.reference.reading import checked_ipv4, ports_inside, ports_outside
from tests.reference.result import REPLY, WAIT, Result
from tests.reference.tracker import INSIDE, OUTSIDE

EXPIRED_AT_ONCE = 4
"""Datagrams given up, if it is time, whenever a fragment comes."""

CLOCK_MASK = 0xFFFFFFFF
"""The clock counts milliseconds modulo 2^32."""


def _of_tcp(datagram: Datagram) -> bool:
    return bool(datagram.segment_bytes) and datagram.protocol == packet.TCP


class SizeRules(RouteRules):
    """Rules about what is too large, and about parts of datagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.extra: list[Result] = []
        """What leaves besides the result of the last `translate`."""
        self.fragments: dict[fragments.Key, fragments.Context] = {}
        self.identifications = Identifications()
        self.drops: dict[str, int] = {}
        self.link: tuple[int, int] = (INSIDE, 0)
        """Side and number of the link on which the frame came."""
        self._times = 1

    def _out_of_flow(
        self, datagram: Datagram, number: int, now: int, partial: bool, chosen: Chosen | None
    ) -> Result:
        raise NotImplementedError

    def _into_flow(
        self, datagram: Datagram, number: int, now: int, partial: bool, *, aged: bool = False
    ) -> Result:
        raise NotImplementedError

    def _leaving(self, datagram: Datagram, number: int, partial: bool = False) -> Result:
        raise NotImplementedError

    def _entering(self, datagram: Datagram, number: int, partial: bool = False) -> Result:
        raise NotImplementedError

    def _time_exceeded(self, datagram: Datagram, number: int) -> Result:
        raise NotImplementedError

    def _answered(
        self, number: int, reason: str, counter: str, answer: bytes, side: int = INSIDE
    ) -> Result:
        raise NotImplementedError

    def _too_large(
        self, datagram: Datagram, entry: Entry | Mapping, side: int, number: int
    ) -> Result | None:
        """What becomes of a packet that must not be cut and is too large for its way."""
        slot, interface = self.slots[entry.slot], self.interfaces[entry.interface]
        limit = self._ways(datagram, entry, side)[side == INSIDE]
        if not self._must_be_told(datagram, limit):
            return None
        link_side, link = self.link
        if link_side not in (INSIDE, OUTSIDE):
            answer = mtu.fragmentation_needed(datagram, self.hosts[link].router, limit)
            return self._tell_host(link, "mtu_exceeded", "replies_icmp", answer)
        source = slot.gateway if side == INSIDE else interface.address
        answer = mtu.fragmentation_needed(datagram, source, limit)
        if side == OUTSIDE:
            answer = self.identifications.identified(checked_ipv4(answer)).packed()
        return self._answered(number, "mtu_exceeded", "replies_icmp", answer, side)

    def _must_be_told(self, datagram: Datagram, limit: int) -> bool:
        """Whether a packet is too large and its sender to be told, or (DroppedError) not."""
        if max(datagram.segments()) <= limit:
            return False
        if not packet.word(datagram.header, 6) & mtu.DONT_FRAGMENT:
            if _of_tcp(datagram) and datagram.headers >= limit:
                raise DroppedError("mtu_exceeded")
            return False
        if fragments.extent(datagram)[0]:
            raise DroppedError("mtu_exceeded")
        return True

    def _ways(self, datagram: Datagram, entry: Entry | Mapping, side: int) -> tuple[int, int]:
        """MTU on the way to a flow's originator, and to its responder."""
        return self.slots[entry.slot].mtu, self.interfaces[entry.interface].mtu

    def _fitted(
        self, datagram: Datagram, entry: Entry | Mapping, side: int, partial: bool
    ) -> Datagram:
        """The packet with its MSS option and, if it is a super-frame of TCP, its segments made
        small enough.
        """
        ways = self._ways(datagram, entry, side)
        limit = ways[side == INSIDE]
        if _of_tcp(datagram) and max(datagram.segments()) > limit:
            datagram = replace(datagram, segment_bytes=limit - datagram.headers)
        opens = datagram.protocol == packet.TCP and datagram.payload[13] & packet.SYN
        if not opens or not self.behaviour.mss_clamping:
            return datagram
        datagram, count = mtu.clamped(datagram, min(ways) - 40, partial=partial)
        for _ in range(count):
            self._count("mss_clamped")
        return datagram

    def _tell_host(self, number: int, reason: str, counter: str, answer: bytes) -> Result:
        raise NotImplementedError

    def _to_host(
        self, datagram: Datagram, number: int, partial: bool, counted: str = "out_to_source"
    ) -> Result:
        raise NotImplementedError

    def _plain_ports(self, datagram: Datagram) -> tuple[int, int, int]:
        raise NotImplementedError

    def _aged(self, datagram: Datagram) -> Result:
        raise NotImplementedError

    def _out_plain(
        self, datagram: Datagram, place: tuple[int, int], now: int, partial: bool
    ) -> Result:
        raise NotImplementedError

    def _plain_piece(
        self, piece: Datagram, context: fragments.Context, place: tuple[int, int]
    ) -> None:
        raise NotImplementedError

    def _in_pieces(self, datagram: Datagram, limit: int, partial: bool) -> list[list[Datagram]]:
        """What a packet leaves as: the pieces of each of its datagrams."""
        if max(datagram.segments()) <= limit or _of_tcp(datagram):
            return [[datagram]]
        if packet.word(datagram.header, 6) & mtu.DONT_FRAGMENT:
            raise DroppedError("mtu_exceeded")
        if datagram.segment_bytes:
            return [mtu.pieces(each, limit) for each in mtu.datagrams(datagram)]
        whole = mtu.completed(datagram) if partial else mtu.finished(datagram)
        return [mtu.pieces(whole, limit)]

    def _give_up_fragments(self, now: int, budget: int) -> None:
        for key, context in list(self.fragments.items())[:budget]:
            age = (now - context.created) & CLOCK_MASK
            if age < self.behaviour.fragment_ms or age > CLOCK_MASK >> 1:
                break
            self._drop_waiting(context, "fragment_timeout")
            self._forget_fragments(key)

    def _forget_fragments(self, key: fragments.Key) -> None:
        context = self.fragments.pop(key)
        if context.holds is not None:
            self.identifications.release(*context.holds)

    def _drop_waiting(self, context: fragments.Context, reason: str) -> None:
        if context.waiting:
            self.drops[reason] = self.drops.get(reason, 0) + len(context.waiting)
        context.waiting = []

    def _fragment(
        self,
        piece: Datagram,
        side: int,
        number: int,
        now: int,
        partial: bool,
        chosen: Chosen | None,
    ) -> Result:
        fragments.check(piece, self.behaviour, partial=partial)
        first = fragments.extent(piece)[0] == 0
        if first:
            # A type of ICMP that is not translated is refused before its time to live is seen.
            if side in (INSIDE, OUTSIDE):
                ports_inside(piece) if side == INSIDE else ports_outside(piece)
            else:
                self._plain_ports(piece)
        if piece.ttl <= 1:
            if first and side == INSIDE:
                return self._time_exceeded(piece, number)
            if first and side != OUTSIDE:
                return self._aged(piece)
            raise DroppedError("ttl_exceeded")
        self._give_up_fragments(now, EXPIRED_AT_ONCE)
        key = fragments.key_of(piece, side, number)
        if key in self.fragments and self.fragments[key].is_other_than(piece):
            self._forget_fragments(key)
        context = self.fragments.setdefault(key, fragments.Context(now))
        if context.reason:
            raise DroppedError(context.reason)
        try:
            context.admit(piece)
        except DroppedError:
            if bool(context.reason):
                self._drop_waiting(context, "fragment_overlap")
            raise
        if not first and context.became is None:
            context.waiting.append(piece)
            return Result(WAIT)
        result = (
            self._first(piece, context, side, number, now, chosen)
            if first
            else self._following(piece, context, side, number)
        )
        if context.whole and (context.became or not first):
            self._forget_fragments(key)
        return result

    def _first(
        self,
        piece: Datagram,
        context: fragments.Context,
        side: int,
        number: int,
        now: int,
        chosen: Chosen | None,
    ) -> Result:
        drops = dict(self.drops)
        place = (self.link[0], number)
        try:
            if side == INSIDE:
                result = self._out_of_flow(piece, number, now, False, chosen)
            elif side == OUTSIDE:
                result = self._into_flow(piece, number, now, False)
            else:
                result = self._out_plain(piece, place, now, False)
        except DroppedError as drop:
            context.reason = str(drop)
            self._drop_waiting(context, context.reason)
            raise
        if result.action == REPLY:
            [context.reason] = (name for name in self.drops if self.drops[name] != drops.get(name))
            self._drop_waiting(context, context.reason)
            return result
        self._count("fragments_forwarded")
        context.first = piece
        context.became = checked_ipv4(result.frame[14:])
        context.left = (result.side, result.port)
        source = context.became.source
        if source != piece.source:
            left = (source, piece.destination, piece.protocol), number_of(context.became)
            self.identifications.hold(*left)
            context.holds = left
        waiting, context.waiting = context.waiting, []
        for each in waiting:
            try:
                self.extra.append(self._following(each, context, side, number))
            except DroppedError as drop:
                self.drops[str(drop)] = self.drops.get(str(drop), 0) + 1
        return result

    def _receiver(self, context: fragments.Context, number: int) -> OutsideKey:
        """The key of the flow by which a neighbour of slot `number` gets a datagram, if by one."""
        assert context.first is not None
        assert context.became is not None
        _, interface = self._attached(number)
        target = self._own_number(context.first.destination, interface.vpc)
        assert target is not None
        source_port, _ = ports_outside(context.became)
        _, nat_port = ports_outside(context.first)
        return target, context.first.protocol, context.became.source, source_port, nat_port

    def _following(
        self, piece: Datagram, context: fragments.Context, side: int, number: int
    ) -> Result:
        """A later fragment goes where the first one went."""
        assert context.first is not None
        assert context.became is not None
        out_side, out_port = context.left
        place = (self.link[0], number)
        sender = receiver = None
        if side == INSIDE:
            remote_port, port = ports_inside(context.first)
            sender = self.inside.get((number, piece.protocol, piece.destination, remote_port, port))
        elif side not in (INSIDE, OUTSIDE):
            self._plain_piece(piece, context, place)
        else:
            remote_port, port = ports_outside(context.first)
            receiver = self.outside.get((number, piece.protocol, piece.source, remote_port, port))
        if side == out_side:
            self._count("packets_hairpinned")
            receiver = self.outside.get(self._receiver(context, number))
        if sender is not None:
            sender.count_out(piece)
        if receiver is not None:
            receiver.count_in(piece)
        changed = piece.readdressed(
            source=context.became.source, destination=context.became.destination
        ).one_hop_older()
        changed = numbered(changed, number_of(context.became))
        if out_side == INSIDE:
            result = self._entering(changed, out_port, False)
        elif out_side == OUTSIDE:
            result = self._leaving(changed, out_port, False)
        else:
            counted = "out_to_destination" if side == INSIDE else "out_to_source"
            result = self._to_host(changed, out_port, False, counted)
        self._count("fragments_forwarded")
        return result
