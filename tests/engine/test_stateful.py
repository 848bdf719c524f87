# SPDX-License-Identifier: Apache-2.0
"""Arbitrary interleavings of packets, time and expiry: the engine does what the model does.

Sequence numbers are drawn around those the tracker waits for, because random ones would only ever
be out of window.
"""

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.engine import scenario
from tests.engine.host_machine import HostMachine
from tests.engine.machine import remotes
from tests.reference import packet
from tests.reference.flow import Entry
from tests.reference.tracker import State

EXAMPLES = int(os.environ.get("HYPERPLANE_NAT_EXAMPLES", "120"))

slots = st.sampled_from(sorted(scenario.SLOT_INTERFACES))
remote_ports = st.sampled_from((7, 80))
inside_ports = st.sampled_from((5000, 5001))
identifiers = st.sampled_from((0, 77, 0xFFFF))
payloads = st.one_of(st.just(b""), st.binary(max_size=5), st.just(b"\xff\xff"))
ip_options = st.sampled_from(
    (b"", b"\x01\x01\x01\x01", b"\x94\x04\0\0", b"\x07\x27\x04" + bytes(36))
)
paddings = st.sampled_from((b"", bytes(18), b"\xff"))
ttls = st.sampled_from((64, 64, 64, 255, 2, 1, 0))
identifications = st.integers(0, 0xFFFF)
segment_sizes = st.sampled_from((0, 0, 0, 1, 2, 1448, 65535))
flag_sets = st.sampled_from(
    (
        packet.SYN,
        packet.SYN | packet.ACK,
        packet.ACK,
        packet.ACK | packet.PSH,
        packet.FIN | packet.ACK,
        packet.FIN,
        packet.RST,
        packet.RST | packet.ACK,
        packet.SYN | packet.FIN,
        packet.URG,
    )
)
likely_flags = st.one_of(
    st.sampled_from((packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST)), flag_sets
)
offsets = st.sampled_from((0, 0, 0, 1, -1, 2, 1000, 1001, 65535, 65536, 1 << 31, (1 << 31) - 1))
cuts = st.sampled_from((0, 0, 8, 16, 24, 32, 40))
scales = st.sampled_from((None, None, 0, 2, 14, 15, 255))
windows = st.sampled_from((0, 1, 1000, 65535))
starts = st.sampled_from((0, 1000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF))


def _tcp_options(scale: int | None) -> bytes:
    if scale is None:
        return b""
    return b"\x02\x04\x05\xb4\x01" + bytes((3, 3, scale))


def _part(
    ends: tuple[str, str],
    protocol: int,
    content: bytes,
    identification: int,
    part: tuple[int, int],
    ttl: int = 64,
) -> bytes:
    """A fragment: from the first number of `part`, as many bytes as the second says, or all."""
    start, size = part
    end = start + size if size else len(content)
    more = 0x2000 if end < len(content) else 0
    return packet.ipv4(
        *ends,
        protocol,
        content[start:end],
        ttl=ttl,
        identification=identification,
        fragment=more | start // 8,
    )


class EngineMachine(HostMachine):
    """What is sent: by environments, by the VPC on flows there are, and about them."""

    # What environments send

    @rule(
        slot=slots,
        remote=remotes,
        remote_port=remote_ports,
        port=inside_ports,
        payload=payloads,
        partial=st.booleans(),
        blank=st.booleans(),
        options=ip_options,
        padding=paddings,
        ttl=ttls,
        identification=identifications,
    )
    def datagram_out(
        self,
        slot: int,
        remote: str,
        remote_port: int,
        port: int,
        payload: bytes,
        partial: bool,
        blank: bool,
        options: bytes,
        padding: bytes,
        ttl: int,
        identification: int,
    ) -> None:
        field = 0 if blank and not partial else None
        datagram = packet.udp(
            scenario.ENVIRONMENT,
            remote,
            port,
            remote_port,
            payload,
            checksum_field=field,
            partial=partial,
        )
        body = packet.ipv4(
            scenario.ENVIRONMENT,
            remote,
            packet.UDP,
            datagram,
            ttl=ttl,
            options=options,
            identification=identification,
        )
        self.send_from_slot(slot, body + padding, partial=partial)

    @rule(
        slot=slots,
        remote=remotes,
        size=st.integers(0, 200),
        gso_size=st.sampled_from((1, 20, 41, 70, 150, 65535)),
        protocol=st.sampled_from((packet.UDP, packet.UDP, packet.TCP)),
        blank=st.booleans(),
        whole=st.booleans(),
        identification=identifications,
    )
    def super_frame_out(
        self,
        slot: int,
        remote: str,
        size: int,
        gso_size: int,
        protocol: int,
        blank: bool,
        whole: bool,
        identification: int,
    ) -> None:
        ends = (scenario.ENVIRONMENT, remote)
        payload = bytes(range(size))
        if protocol == packet.UDP:
            field = 0 if blank else None
            content = packet.udp(*ends, 5000, 7, payload, checksum_field=field, partial=not blank)
        else:
            content = packet.tcp(*ends, 5000, 80, packet.SYN, payload=payload, partial=True)
        body = packet.ipv4(
            *ends,
            protocol,
            content,
            identification=identification,
            fragment=0x4000 if whole else 0,
        )
        partial = protocol == packet.TCP or not blank
        self.send_from_slot(slot, body, partial=partial, gso_size=gso_size)

    @rule(
        slot=slots,
        remote=remotes,
        protocol=st.sampled_from((packet.UDP, packet.UDP, packet.ICMP, packet.TCP)),
        identification=st.sampled_from((1, 2)),
        part=st.tuples(cuts, cuts),
        ttl=ttls,
    )
    def fragment_out(
        self,
        slot: int,
        remote: str,
        protocol: int,
        identification: int,
        part: tuple[int, int],
        ttl: int,
    ) -> None:
        payload = bytes(range(40))
        ends = (scenario.ENVIRONMENT, remote)
        if protocol == packet.UDP:
            content = packet.udp(*ends, 5000, 7, payload)
        elif protocol == packet.ICMP:
            content = packet.echo(packet.ECHO_REQUEST, 77, 1, payload)
        else:
            content = packet.tcp(*ends, 5000, 80, packet.SYN, seq=1000, payload=payload[:28])
        body = _part(ends, protocol, content, identification, part, ttl)
        self.send_from_slot(slot, body)

    @rule(slot=slots, remote=remotes, identifier=identifiers, payload=payloads, ttl=ttls)
    def echo_out(self, slot: int, remote: str, identifier: int, payload: bytes, ttl: int) -> None:
        message = packet.echo(packet.ECHO_REQUEST, identifier, 1, payload)
        body = packet.ipv4(scenario.ENVIRONMENT, remote, packet.ICMP, message, ttl=ttl)
        self.send_from_slot(slot, body)

    @rule(
        slot=slots,
        remote=remotes,
        remote_port=remote_ports,
        port=inside_ports,
        seq=starts,
        scale=scales,
        window=windows,
        partial=st.booleans(),
        flags=st.sampled_from((packet.SYN, packet.SYN, packet.SYN, packet.ACK)),
    )
    def open_connection(
        self,
        slot: int,
        remote: str,
        remote_port: int,
        port: int,
        seq: int,
        scale: int | None,
        window: int,
        partial: bool,
        flags: int,
    ) -> None:
        segment = packet.tcp(
            scenario.ENVIRONMENT,
            remote,
            port,
            remote_port,
            flags,
            seq=seq,
            window=window,
            options=_tcp_options(scale),
            partial=partial,
        )
        body = packet.ipv4(scenario.ENVIRONMENT, remote, packet.TCP, segment)
        self.send_from_slot(slot, body, partial=partial)

    # What happens on flows there are

    @precondition(lambda self: self.pair.tcp_entries())
    @rule(
        data=st.data(),
        side=st.integers(0, 1),
        flags=likely_flags,
        seq_offset=offsets,
        ack_offset=offsets,
        from_window=st.booleans(),
        window=windows,
        scale=scales,
        payload=payloads,
        partial=st.booleans(),
        ttl=ttls,
        options=ip_options,
        gso_size=segment_sizes,
    )
    def segment(
        self,
        data: st.DataObject,
        side: int,
        flags: int,
        seq_offset: int,
        ack_offset: int,
        from_window: bool,
        window: int,
        scale: int | None,
        payload: bytes,
        partial: bool,
        ttl: int,
        options: bytes,
        gso_size: int,
    ) -> None:
        entry = data.draw(st.sampled_from(self.pair.tcp_entries()))
        mine, theirs = entry.tracker.directions[side], entry.tracker.directions[1 - side]
        base = theirs.ack if from_window else mine.seq_end
        if from_window and seq_offset > 1:
            base += entry.tracker.window(1 - side) - 1000
        source, destination, source_port, destination_port = _ends(entry, side)
        segment = packet.tcp(
            source,
            destination,
            source_port,
            destination_port,
            flags,
            seq=base + seq_offset,
            ack=theirs.seq_end + ack_offset,
            window=window,
            options=_tcp_options(scale if flags & packet.SYN else None),
            payload=payload,
            partial=partial,
        )
        body = packet.ipv4(source, destination, packet.TCP, segment, ttl=ttl, options=options)
        self.send(entry, side, body, partial=partial, gso_size=gso_size)

    @precondition(lambda self: self.pair.tcp_entries())
    @rule(data=st.data(), steps=st.integers(1, 6), first_fin=st.integers(0, 1))
    def proceed(self, data: st.DataObject, steps: int, first_fin: int) -> None:
        """The next segments of a connection that goes well, so that late states are reached."""
        entry = data.draw(st.sampled_from(self.pair.tcp_entries()))
        for _ in range(steps):
            step = _NEXT.get(entry.state.name)
            if entry.state is State.ESTABLISHED:
                step = (first_fin, packet.FIN | packet.ACK)
            if step is None:
                return
            side, flags = step
            mine, theirs = entry.tracker.directions[side], entry.tracker.directions[1 - side]
            source, destination, source_port, destination_port = _ends(entry, side)
            segment = packet.tcp(
                source,
                destination,
                source_port,
                destination_port,
                flags,
                seq=mine.seq_end,
                ack=theirs.seq_end,
                window=1000,
            )
            self.send(entry, side, packet.ipv4(source, destination, packet.TCP, segment))

    @precondition(lambda self: self.pair.tcp_entries())
    @rule(
        data=st.data(),
        side=st.integers(0, 1),
        port=remote_ports,
        flags=st.sampled_from((packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.RST)),
    )
    def stranger(self, data: st.DataObject, side: int, port: int, flags: int) -> None:
        """A client from outside of a port that a connection is open from, and the answer."""
        entry = data.draw(st.sampled_from(self.pair.tcp_entries()))
        source, destination, source_port, destination_port = _ends(entry, side)
        if side == scenario.OUTSIDE:
            source_port = port + 1
        else:
            destination_port = port + 1
        segment = packet.tcp(source, destination, source_port, destination_port, flags, seq=77)
        self.send(entry, side, packet.ipv4(source, destination, packet.TCP, segment))

    @precondition(lambda self: self.pair.entries())
    @rule(
        data=st.data(),
        slot=slots,
        port=inside_ports,
        off=st.sampled_from((0, 0, 0, 1)),
        flags=st.sampled_from((packet.SYN, packet.SYN | packet.ACK, packet.ACK)),
        partial=st.booleans(),
        ttl=ttls,
    )
    def hairpin(
        self,
        data: st.DataObject,
        slot: int,
        port: int,
        off: int,
        flags: int,
        partial: bool,
        ttl: int,
    ) -> None:
        """A packet to where a flow is seen from outside, of whoever is a neighbour or not."""
        entry = data.draw(st.sampled_from(self.pair.entries()))
        source, destination = scenario.ENVIRONMENT, str(entry.nat_address)
        ends = (source, destination, port, entry.nat_port + off)
        match entry.protocol:
            case packet.TCP:
                content = packet.tcp(*ends, flags, seq=1, ack=1, partial=partial)
            case packet.UDP:
                content = packet.udp(*ends, b"hello", partial=partial)
            case _:
                partial = False
                content = packet.echo(packet.ECHO_REQUEST, entry.nat_port, 1, b"hello")
        body = packet.ipv4(source, destination, entry.protocol, content, ttl=ttl)
        self.send_from_slot(slot, body, partial=partial)

    @precondition(lambda self: self.pair.entries())
    @rule(
        data=st.data(),
        slot=slots,
        port=inside_ports,
        identification=st.sampled_from((1, 2)),
        part=st.tuples(cuts, cuts),
        ttl=ttls,
    )
    def hairpin_fragment(
        self,
        data: st.DataObject,
        slot: int,
        port: int,
        identification: int,
        part: tuple[int, int],
        ttl: int,
    ) -> None:
        entry = data.draw(st.sampled_from(self.pair.entries()))
        addresses = (scenario.ENVIRONMENT, str(entry.nat_address))
        ends = (*addresses, port, entry.nat_port)
        payload = bytes(range(40))
        match entry.protocol:
            case packet.TCP:
                content = packet.tcp(*ends, packet.SYN, seq=1, payload=payload[:28])
            case packet.UDP:
                content = packet.udp(*ends, payload)
            case _:
                content = packet.echo(packet.ECHO_REQUEST, entry.nat_port, 1, payload)
        body = _part(addresses, entry.protocol, content, identification, part, ttl)
        self.send_from_slot(slot, body)

    @precondition(lambda self: self.pair.other_entries())
    @rule(data=st.data(), identification=st.sampled_from((1, 2)), part=st.tuples(cuts, cuts))
    def fragment_in(self, data: st.DataObject, identification: int, part: tuple[int, int]) -> None:
        entry = data.draw(st.sampled_from(self.pair.other_entries()))
        source, destination, source_port, destination_port = _ends(entry, scenario.OUTSIDE)
        payload = bytes(range(40))
        if entry.protocol == packet.ICMP:
            content = packet.echo(packet.ECHO_REPLY, destination_port, 1, payload)
        else:
            content = packet.udp(source, destination, source_port, destination_port, payload)
        ends = (source, destination)
        body = _part(ends, entry.protocol, content, identification, part)
        self.send(entry, scenario.OUTSIDE, body)

    @precondition(lambda self: self.pair.other_entries())
    @rule(
        data=st.data(),
        payload=payloads,
        partial=st.booleans(),
        blank=st.booleans(),
        stranger=st.sampled_from(("", "", "", "port", "address")),
        ttl=ttls,
        sequence=st.sampled_from((0, 1)),
        gso_size=segment_sizes,
    )
    def answer(
        self,
        data: st.DataObject,
        payload: bytes,
        partial: bool,
        blank: bool,
        stranger: str,
        ttl: int,
        sequence: int,
        gso_size: int,
    ) -> None:
        entry = data.draw(st.sampled_from(self.pair.other_entries()))
        source, destination, source_port, destination_port = _ends(entry, scenario.OUTSIDE)
        match stranger:
            case "address":
                source = "10.0.7.7"
            case "port":
                source_port += 1
        if entry.protocol == packet.ICMP:
            partial = False
            content = packet.echo(packet.ECHO_REPLY, destination_port, sequence, payload)
        else:
            field = 0 if blank and not partial else None
            content = packet.udp(
                source,
                destination,
                source_port,
                destination_port,
                payload,
                checksum_field=field,
                partial=partial,
            )
        protocol = packet.ICMP if entry.protocol == packet.ICMP else packet.UDP
        body = packet.ipv4(source, destination, protocol, content, ttl=ttl)
        self.send(entry, scenario.OUTSIDE, body, partial=partial, gso_size=gso_size)

    @precondition(lambda self: self.pair.entries())
    @rule(
        data=st.data(),
        side=st.integers(0, 1),
        kind=st.sampled_from((3, 11, 12, 4)),
        quoted_octets=st.sampled_from((100, 100, 28, 36, 37, 38, 27)),
        options=ip_options,
        value=st.sampled_from((None, None, 0, 0xFFFF, 0x1234)),
        router=st.booleans(),
        ttl=ttls,
    )
    def icmp_error(
        self,
        data: st.DataObject,
        side: int,
        kind: int,
        quoted_octets: int,
        options: bytes,
        value: int | None,
        router: bool,
        ttl: int,
    ) -> None:
        entry = data.draw(st.sampled_from(self.pair.entries()))
        # What is quoted went the other way: from the far end of this side.
        source, destination, source_port, destination_port = _ends(entry, 1 - side)
        if side == scenario.INSIDE:
            destination, destination_port = scenario.ENVIRONMENT, entry.inside_port
            source, source_port = str(entry.remote_address), entry.remote_port
        else:
            source, source_port = str(entry.nat_address), entry.nat_port
            destination, destination_port = str(entry.remote_address), entry.remote_port
        match entry.protocol:
            case packet.TCP:
                content = packet.tcp(
                    source,
                    destination,
                    source_port,
                    destination_port,
                    packet.ACK,
                    payload=b"abc",
                    checksum_field=value,
                )
            case packet.UDP:
                content = packet.udp(
                    source,
                    destination,
                    source_port,
                    destination_port,
                    b"abc",
                    checksum_field=value,
                )
            case _:
                echo = packet.ECHO_REPLY if side == scenario.INSIDE else packet.ECHO_REQUEST
                identifier = entry.inside_port if side == scenario.INSIDE else entry.nat_port
                content = packet.echo(echo, identifier, 1, b"abc", checksum_field=value)
        quote = packet.ipv4(source, destination, entry.protocol, content, options=options)
        message = packet.icmp(kind, 1, bytes(4), quote[: quoted_octets + len(options)])
        if side == scenario.INSIDE:
            teller, told = scenario.ENVIRONMENT, source
        else:
            teller, told = ("10.0.7.7" if router else destination), source
        self.send(entry, side, packet.ipv4(teller, told, packet.ICMP, message, ttl=ttl))


_NEXT = {
    "SYN_SENT": (scenario.OUTSIDE, packet.SYN | packet.ACK),
    "SYN_RECEIVED": (scenario.INSIDE, packet.ACK),
    "FIN_OUTSIDE": (scenario.INSIDE, packet.FIN | packet.ACK),
    "FIN_INSIDE": (scenario.OUTSIDE, packet.FIN | packet.ACK),
    "FIN_BOTH": (scenario.OUTSIDE, packet.ACK),
}


def _ends(entry: Entry, side: int) -> tuple[str, str, int, int]:
    """Source, destination and their ports of a packet of this flow that arrives on `side`."""
    if side == scenario.INSIDE:
        remote = str(entry.remote_address)
        return scenario.ENVIRONMENT, remote, entry.inside_port, entry.remote_port
    return (
        str(entry.remote_address),
        str(entry.nat_address),
        entry.remote_port,
        entry.nat_port,
    )


TestEngineAndModel = EngineMachine.TestCase
TestEngineAndModel.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
