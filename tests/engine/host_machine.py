# SPDX-License-Identifier: Apache-2.0
"""What hosts send, and what is sent to them, by whoever may and by whoever may not."""

from ipaddress import IPv4Network

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.engine import scenario
from tests.engine.machine import GatewayMachine
from tests.reference import Policy, Rule, packet
from tests.reference.hosts import PlainFlow

hosts = st.integers(0, len(scenario.HOSTS) - 1)
ports = st.sampled_from((5000, 7, 80))
protocols = st.sampled_from(("udp", "udp", "syn", "ack", "rst", "request", "reply"))
lifetimes = st.sampled_from((64, 64, 64, 2, 1))
fields = st.sampled_from((0, 0x4000))
sizes = st.sampled_from((0, 0, 1, 60))
parts = st.sampled_from(((0, 0), (0, 0), (0, 24), (24, 24), (48, 24), (16, 24)))
far_ends = st.sampled_from(
    (
        "10.0.1.50",
        "10.0.1.51",
        scenario.WEB,
        scenario.FAR,
        "10.0.1.10",
        "10.0.2.10",
        "224.0.0.9",
        "8.8.8.8",
        scenario.REMOTE,
        scenario.BEYOND,
        scenario.SERVICE,
        scenario.ELASTIC,
    )
)

HOST_POLICIES = (
    Policy(egress=()),
    Policy(ingress=()),
    Policy(
        egress=(Rule("all", IPv4Network("10.0.1.0/24"), 7, 80),),
        ingress=(Rule("udp", first=7, last=7), Rule("tcp", IPv4Network("10.0.1.51/32"))),
    ),
    Policy(ingress=(Rule("all", IPv4Network("10.0.1.8/29")), Rule("icmp"))),
)


def transport(kind: str, ends: tuple[str, str], ports: tuple[int, int], payload: bytes) -> bytes:
    """The payload of a packet between two ends, of a protocol and kind."""
    match kind:
        case "udp":
            return packet.udp(*ends, *ports, payload)
        case "request" | "reply":
            number = packet.ECHO_REQUEST if kind == "request" else packet.ECHO_REPLY
            return packet.icmp(number, 0, ports[0].to_bytes(2) + bytes(2), payload)
        case _:
            flags = {"syn": packet.SYN, "ack": packet.ACK, "rst": packet.RST}[kind]
            return packet.tcp(*ends, *ports, flags, seq=1000, ack=1, payload=payload)


PROTOCOLS = {"udp": packet.UDP, "request": packet.ICMP, "reply": packet.ICMP}


class HostMachine(GatewayMachine):
    """Rules about hosts; flows are compared after each of them."""

    def send_from(self, place: tuple[int, int], body: bytes) -> None:
        side, number = place
        if side == scenario.OUTSIDE:
            place = (side, self.pair.model.interfaces[number].primary or 0)
        ours, theirs = scenario.ethernet_addresses(*place)
        self.pair.translate(packet.ethernet(ours, theirs, packet.ETHERTYPE_IPV4, body), *place)

    @rule(number=hosts, policy=st.sampled_from((None, *HOST_POLICIES)), moves=st.booleans())
    def host_changes(self, number: int, policy: Policy | None, moves: bool) -> None:
        """Other groups; or it goes, and another comes with its address, when it has no flow."""
        self.pair.set_host(number, policy, anew=moves)
        self.pair.compare_flows()

    @rule(
        number=hosts,
        own=st.sampled_from((True, True, True, True, False)),
        far=far_ends,
        kind=protocols,
        ends=st.tuples(ports, ports),
        size=sizes,
        part=parts,
        ttl=lifetimes,
        field=fields,
        identification=st.integers(0, 2),
    )
    def host_sends(
        self,
        number: int,
        own: bool,
        far: str,
        kind: str,
        ends: tuple[int, int],
        size: int,
        part: tuple[int, int],
        ttl: int,
        field: int,
        identification: int,
    ) -> None:
        source = scenario.HOSTS[number][0] if own else "10.0.1.77"
        protocol = PROTOCOLS.get(kind, packet.TCP)
        content = transport(kind, (source, far), ends, bytes(size))
        start, length = part
        end = start + length if length else len(content)
        if length and start < len(content):
            field = (0x2000 if end < len(content) else 0) | start // 8
            content = content[start:end]
        body = packet.ipv4(
            source,
            far,
            protocol,
            content,
            ttl=ttl,
            fragment=field,
            identification=identification,
        )
        self.send_from((scenario.HOST, number), body)

    @rule(
        interface=st.integers(0, 2),
        source=st.sampled_from((scenario.WEB, scenario.FAR, "10.0.1.51", "10.0.1.10")),
        number=hosts,
        kind=protocols,
        ends=st.tuples(ports, ports),
        size=sizes,
        ttl=lifetimes,
        field=fields,
    )
    def router_sends(
        self,
        interface: int,
        source: str,
        number: int,
        kind: str,
        ends: tuple[int, int],
        size: int,
        ttl: int,
        field: int,
    ) -> None:
        address = scenario.HOSTS[number][0]
        content = transport(kind, (source, address), ends, bytes(size))
        protocol = PROTOCOLS.get(kind, packet.TCP)
        body = packet.ipv4(source, address, protocol, content, ttl=ttl, fragment=field)
        self.send_from((scenario.OUTSIDE, interface), body)

    @precondition(lambda self: self.pair.setup.gateways)
    @rule(
        source=st.sampled_from((scenario.REMOTE, scenario.BEYOND, scenario.PUBLIC)),
        address=st.sampled_from(
            (scenario.PUBLIC, scenario.PUBLIC, scenario.ELASTIC, "192.0.2.10", "192.0.2.11")
        ),
        kind=protocols,
        ends=st.tuples(ports, ports),
        size=sizes,
        ttl=lifetimes,
        field=fields,
        part=parts,
    )
    def internet_sends(
        self,
        source: str,
        address: str,
        kind: str,
        ends: tuple[int, int],
        size: int,
        ttl: int,
        field: int,
        part: tuple[int, int],
    ) -> None:
        content = transport(kind, (source, address), ends, bytes(size))
        protocol = PROTOCOLS.get(kind, packet.TCP)
        start, length = part
        end = start + length if length else len(content)
        if length and start < len(content):
            field = (0x2000 if end < len(content) else 0) | start // 8
            content = content[start:end]
        body = packet.ipv4(source, address, protocol, content, ttl=ttl, fragment=field)
        self.send_from((scenario.OUTSIDE, scenario.INTERNET_GATEWAY), body)

    @precondition(lambda self: self.pair.setup.gateways)
    @rule(
        address=st.sampled_from(
            (
                scenario.HOSTS[0][0],
                scenario.INTERFACE_ADDRESSES[0],
                scenario.ENDPOINTS_ADDRESS,
                scenario.NAT_ADDRESS,
                "10.0.1.99",
            )
        ),
        source=st.sampled_from((scenario.SERVICE, scenario.SERVICE, scenario.HOSTS[1][0])),
        kind=protocols,
        ends=st.tuples(ports, ports),
        ttl=lifetimes,
    )
    def service_sends(
        self, address: str, source: str, kind: str, ends: tuple[int, int], ttl: int
    ) -> None:
        """By the link of gateway endpoints, to whoever has asked or not."""
        content = transport(kind, (source, address), ends, b"")
        protocol = PROTOCOLS.get(kind, packet.TCP)
        body = packet.ipv4(source, address, protocol, content, ttl=ttl)
        self.send_from((scenario.OUTSIDE, scenario.ENDPOINTS_NUMBER), body)

    @rule(
        slot=st.sampled_from(sorted(scenario.SLOT_INTERFACES)),
        number=hosts,
        kind=protocols,
        ends=st.tuples(ports, ports),
        size=sizes,
        field=fields,
    )
    def environment_sends_to_host(
        self, slot: int, number: int, kind: str, ends: tuple[int, int], size: int, field: int
    ) -> None:
        address = scenario.HOSTS[number][0]
        content = transport(kind, (scenario.ENVIRONMENT, address), ends, bytes(size))
        protocol = PROTOCOLS.get(kind, packet.TCP)
        body = packet.ipv4(scenario.ENVIRONMENT, address, protocol, content, fragment=field)
        self.send_from((scenario.INSIDE, slot), body)

    @precondition(lambda self: self.pair.entries())
    @rule(
        data=st.data(),
        number=hosts,
        flags=st.sampled_from((packet.SYN | packet.ACK, packet.ACK, packet.RST | packet.ACK)),
        size=sizes,
        tells=st.sampled_from((False, False, True)),
    )
    def host_answers(
        self, data: st.DataObject, number: int, flags: int, size: int, tells: bool
    ) -> None:
        """An answer to an interface's address and port, by a host that was or was not asked."""
        entry = data.draw(st.sampled_from(self.pair.entries()))
        host, nat = scenario.HOSTS[number][0], str(entry.nat_address)
        ends = (host, nat, entry.remote_port, entry.nat_port)
        protocol = entry.protocol
        if tells:
            asked = (nat, host)
            kind = {packet.UDP: "udp", packet.ICMP: "request"}.get(protocol, "syn")
            content = transport(kind, asked, (entry.nat_port, entry.remote_port), b"")
            quote = packet.ipv4(*asked, protocol, content)
            content, protocol = packet.icmp(3, 3, bytes(4), quote), packet.ICMP
        elif protocol == packet.TCP:
            mine, theirs = entry.tracker.directions[1], entry.tracker.directions[0]
            content = packet.tcp(*ends, flags, seq=mine.seq_end, ack=theirs.seq_end, window=1000)
        elif protocol == packet.UDP:
            content = packet.udp(*ends, bytes(size))
        else:
            identifier = entry.nat_port.to_bytes(2) + bytes(2)
            content = packet.icmp(packet.ECHO_REPLY, 0, identifier, bytes(size))
        self.send_from((scenario.HOST, number), packet.ipv4(host, nat, protocol, content))

    @precondition(lambda self: self.pair.model.plain)
    @rule(
        data=st.data(),
        side=st.integers(0, 1),
        flags=st.sampled_from(
            (
                packet.SYN,
                packet.SYN | packet.ACK,
                packet.ACK,
                packet.FIN | packet.ACK,
                packet.RST | packet.ACK,
            )
        ),
        offset=st.sampled_from((0, 0, 0, 1, 1001)),
        tells=st.sampled_from((False, False, False, True)),
        size=sizes,
        field=fields,
    )
    def plain_flow_goes_on(
        self,
        data: st.DataObject,
        side: int,
        flags: int,
        offset: int,
        tells: bool,
        size: int,
        field: int,
    ) -> None:
        flow: PlainFlow = data.draw(st.sampled_from(self.pair.model.plain))
        here, there = ((str(address), port) for address, port in flow.ends_at(side))
        ends, protocol = (here[0], there[0]), flow.protocol
        if tells:
            kind = {packet.UDP: "udp", packet.ICMP: "reply" if side == 0 else "request"}
            turned = transport(
                kind.get(protocol, "ack"), ends[::-1], (there[1] or here[1], here[1]), b""
            )
            quote = packet.ipv4(*ends[::-1], protocol, turned)
            content, protocol = packet.icmp(11, 0, bytes(4), quote), packet.ICMP
        elif protocol == packet.TCP:
            mine, theirs = flow.tracker.directions[side], flow.tracker.directions[1 - side]
            content = packet.tcp(
                *ends,
                here[1],
                there[1],
                flags,
                seq=mine.seq_end + offset,
                ack=theirs.seq_end,
                window=1000,
            )
        else:
            kind = {packet.ICMP: "request" if side == 0 else "reply"}
            numbers = (here[1] or there[1], there[1])
            content = transport(kind.get(protocol, "udp"), ends, numbers, bytes(size))
        place = flow.originator if side == 0 else flow.responder
        self.send_from(place, packet.ipv4(*ends, protocol, content, fragment=field))
