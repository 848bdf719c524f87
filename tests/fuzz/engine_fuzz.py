# SPDX-License-Identifier: Apache-2.0
"""Mutated frames into the engine: `python -m tests.fuzz.engine_fuzz --frames N --seed S`.

The invariant: whatever arrives, on either side, in whatever order and at whatever time, the engine
answers with a valid verdict whose frame has sane lengths and comes from the right link; it never
reads or writes outside the frame (build it with the sanitizers to see that), and its entries,
index, ports and timers agree afterwards.

Frames start out valid, of all kinds, for flows that exist at that moment; then bits flip, ends are
cut, lengths lie and halves of two frames are spliced. Most get their checksums mended again,
because a frame with a wrong one is not looked at any further.
"""

import argparse
import dataclasses
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from random import Random

from hyperplane_nat.engine import Action, Engine, NetworkAclEntry, Side, SubnetAcl
from hyperplane_nat.engine import Ports as EnginePorts
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, configured
from tests.engine.scenario import HOST, INSIDE, OUTSIDE
from tests.fuzz import balanced_frames
from tests.fuzz.verdicts import check, check_left, check_translated, header_sum
from tests.reference import Behaviour, Policy, Ports, Rule, Timeouts, packet

VERIFY_EVERY = 5_000
RENEW_EVERY = 1_000

SETUP = scenario.Setup(
    flows_max=12,
    ports=Ports(40000, 40007, 6),
    timeouts=Timeouts(
        tcp_opening=300,
        tcp_established=900,
        tcp_half_closed=700,
        tcp_closing=200,
        tcp_reset=350,
        udp=500,
        icmp=250,
        hold=150,
    ),
    behaviour=Behaviour(tcp_fragments=True, icmp_fragments=True, fragment_ms=400),
    gateways=True,
)

NARROW = dataclasses.replace(SETUP, slot_mtu=68, interface_mtu=90)
"""The same with links that carry next to nothing."""

FILTERED = dataclasses.replace(
    SETUP,
    policies={
        0: Policy(
            egress=(Rule("tcp", IPv4Network("10.0.0.0/16"), 80, 443), Rule("icmp")),
            guarded={IPv4Address(scenario.WEB): (Rule("tcp", first=443),)},
        ),
        1: Policy(egress=()),
    },
)
"""The same with security groups, which come and go."""

OPEN = dataclasses.replace(
    SETUP,
    behaviour=Behaviour(
        endpoint_independent=True,
        filtering="address_dependent",
        hairpinning=True,
        exhaustion_icmp=True,
    ),
    secondary=((0, "10.0.1.11"),),
)
"""Mappings instead of ports by destination, two addresses, neighbours that reach each other."""


BALANCED = dataclasses.replace(SETUP, balancer=balanced_frames.LISTENERS, node_addresses=2)
"""A load balancer's node, in front of hosts and services."""

LED = dataclasses.replace(BALANCED, endpoint=True)
"""The same with an endpoint in the other VPC, which leads to the node."""

SETUPS = (SETUP, SETUP, FILTERED, OPEN, OPEN, NARROW, BALANCED, LED)

Sample = tuple[int, int, bytes]
"""Side, slot or interface, frame."""

_FLAGS = (
    packet.SYN,
    packet.SYN | packet.ACK,
    packet.ACK,
    packet.ACK | packet.PSH,
    packet.FIN | packet.ACK,
    packet.RST,
    packet.RST | packet.ACK,
)
_REMOTES = (scenario.WEB, scenario.ECHO, scenario.FAR, scenario.REMOTE, scenario.BEYOND)
_LINKS = [
    *((INSIDE, slot) for slot in scenario.ALL_SLOTS),
    *((OUTSIDE, number) for number in (0, 1, 2, scenario.INTERNET_GATEWAY)),
    *((HOST, number) for number in range(len(scenario.HOSTS))),
]
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
_LENGTH_FIELDS = (14, 16, 17, 20, 21, 38, 39, 46, 47)
"""Version and header length, total length, fragment, UDP length, TCP data offset and flags."""


def _packed(source: str, destination: str, protocol: int, content: bytes, random: Random) -> bytes:
    options = random.choice((b"", b"", b"", b"\x01\x01\x01\x01", b"\x94\x04\0\0" * 10))
    return packet.ipv4(
        source,
        destination,
        protocol,
        content,
        ttl=random.choice((64, 64, 64, 2, 1, 0)),
        identification=random.choice((0, 1, random.getrandbits(16))),
        options=options,
    )


def _content(
    protocol: int,
    ends: tuple[str, str, int, int],
    echo: int,
    random: Random,
    numbers: tuple[int, int],
) -> bytes:
    """A transport of the protocol between two ends; `numbers` are sequence and acknowledgement."""
    source, destination, source_port, destination_port = ends
    payload = random.randbytes(random.choice((0, 0, 1, 5, 40)))
    if protocol == packet.ICMP:
        identifier = source_port if echo == packet.ECHO_REQUEST else destination_port
        return packet.echo(echo, identifier, random.getrandbits(8), payload)
    if protocol == packet.UDP:
        return packet.udp(*ends, payload)
    options = random.choice((b"", b"\x03\x03\x07\x00", b"\x02\x04\x05\xb4\x01\x03\x03\x0e"))
    return packet.tcp(
        source,
        destination,
        source_port,
        destination_port,
        random.choice(_FLAGS),
        seq=numbers[0] + random.choice((0, 0, 1, -1, 1000)),
        ack=numbers[1] + random.choice((0, 0, 1, -1)),
        options=options,
        payload=payload,
    )


def _outgoing(random: Random) -> list[Sample]:
    """What environments might send, flows or not."""
    samples = []
    for _ in range(40):
        slot = random.choice(list(scenario.SLOT_INTERFACES))
        remote = random.choice(_REMOTES)
        ends = (
            scenario.ENVIRONMENT,
            remote,
            5000 + random.randrange(16),
            random.choice((7, 80, 443)),
        )
        protocol = random.choice((packet.TCP, packet.TCP, packet.UDP, packet.ICMP))
        content = _content(protocol, ends, packet.ECHO_REQUEST, random, (1000, 9000))
        body = _packed(scenario.ENVIRONMENT, remote, protocol, content, random)
        samples.append((INSIDE, slot, traffic.frame_in(INSIDE, slot, body)))
    return samples


def _of_flows(engine: Engine, random: Random) -> list[Sample]:
    """Packets of both sides of flows there are, and errors about them."""
    samples: list[Sample] = []
    protocols = {"tcp": packet.TCP, "udp": packet.UDP, "icmp": packet.ICMP}
    flows = [flow for flow in engine.flows() if flow.target is None]
    for flow in random.sample(flows, min(len(flows), 24)):
        protocol = protocols[flow.protocol]
        seen = (flow.remote_address, flow.nat_address, flow.remote_port, flow.nat_port)
        sent = (flow.inside_address, flow.remote_address, flow.inside_port, flow.remote_port)
        back = _content(protocol, seen, packet.ECHO_REPLY, random, (9000, 1001))
        body = _packed(seen[0], seen[1], protocol, back, random)
        link = flow.interface if flow.interface < 3 else 0
        if flow.hops:
            link = scenario.INTERNET_GATEWAY
        samples.append((OUTSIDE, link, traffic.frame_in(OUTSIDE, link, body)))
        slot = random.choice(list(scenario.SLOT_INTERFACES))
        turned = (scenario.ENVIRONMENT, flow.nat_address, flow.inside_port, flow.nat_port)
        content = _content(protocol, turned, packet.ECHO_REQUEST, random, (1001, 9001))
        body = _packed(turned[0], turned[1], protocol, content, random)
        samples.append((INSIDE, slot, traffic.frame_in(INSIDE, slot, body)))
        out = _content(protocol, sent, packet.ECHO_REQUEST, random, (1001, 9001))
        body = _packed(sent[0], sent[1], protocol, out, random)
        samples.append((INSIDE, flow.slot, traffic.frame_in(INSIDE, flow.slot, body)))
        # An error from the VPC quotes what we sent, one from inside what it got.
        ours = (flow.nat_address, flow.remote_address, flow.nat_port, flow.remote_port)
        quoted = _content(protocol, ours, packet.ECHO_REQUEST, random, (1001, 9001))
        body = _error("10.0.7.7", flow.nat_address, ours, protocol, quoted, random)
        samples.append((OUTSIDE, link, traffic.frame_in(OUTSIDE, link, body)))
        got = (flow.remote_address, flow.inside_address, flow.remote_port, flow.inside_port)
        quoted = _content(protocol, got, packet.ECHO_REPLY, random, (9001, 1001))
        body = _error(flow.inside_address, flow.remote_address, got, protocol, quoted, random)
        samples.append((INSIDE, flow.slot, traffic.frame_in(INSIDE, flow.slot, body)))
    return samples


def _error(
    teller: str,
    told: str,
    ends: tuple[str, str, int, int],
    protocol: int,
    quoted: bytes,
    random: Random,
) -> bytes:
    quote = _packed(ends[0], ends[1], protocol, quoted, random)
    message = packet.icmp(
        random.choice((3, 11, 12)), 1, bytes(4), quote[: random.choice((28, 36, 37, 38, 500))]
    )
    return _packed(teller, told, packet.ICMP, message, random)


def _arp(random: Random) -> list[Sample]:
    samples = []
    for side, number in _LINKS:
        ours, theirs = scenario.ethernet_addresses(side, number)
        sender, target = scenario.ENVIRONMENT, scenario.GATEWAY
        if side == HOST:
            sender, target = scenario.HOSTS[number][0], "10.0.1.1"
        elif side == OUTSIDE and number == scenario.INTERNET_GATEWAY:
            sender, target = scenario.INTERNET_ROUTER, scenario.PUBLIC
        elif side == OUTSIDE:
            sender, target = scenario.ROUTERS[number], scenario.INTERFACE_ADDRESSES[number]
        body = packet.arp(
            operation=random.choice((1, 1, 2)), sender_mac=theirs, sender=sender, target=target
        )
        destination = random.choice((ours, packet.BROADCAST))
        frame = packet.ethernet(destination, theirs, packet.ETHERTYPE_ARP, body)
        samples.append((side, number, frame))
    return samples


def _of_hosts(engine: Engine, random: Random) -> list[Sample]:
    """Packets of hosts and of the routers of their VPCs, to each other and to interfaces."""
    samples: list[Sample] = []
    numbers = range(len(scenario.HOSTS))
    for _ in range(24):
        number = random.choice(numbers)
        address, interface = scenario.HOSTS[number]
        far = random.choice(("10.0.1.50", "10.0.1.51", *_REMOTES, "10.0.1.10", "10.0.2.10"))
        ports = (random.choice((5000, 7, 80)), random.choice((5000, 7, 80, 40000, 40001)))
        protocol = random.choice((packet.TCP, packet.UDP, packet.ICMP))
        type_ = random.choice((packet.ECHO_REQUEST, packet.ECHO_REPLY))
        link, ends = (HOST, number), (address, far, *ports)
        if random.random() < 0.1:
            link = (OUTSIDE, scenario.INTERNET_GATEWAY)
            ends = (scenario.BEYOND, scenario.PUBLIC, *ports)
        elif random.random() < 0.3:
            link, ends = (OUTSIDE, interface), (far, address, *ports)
        elif random.random() < 0.2:
            slot = random.choice(list(scenario.SLOT_INTERFACES))
            link, ends = (INSIDE, slot), (scenario.ENVIRONMENT, address, *ports)
        content = _content(protocol, ends, type_, random, (1000, 9000))
        body = _packed(ends[0], ends[1], protocol, content, random)
        samples.append((*link, traffic.frame_in(*link, body)))
        back = _content(protocol, (ends[1], ends[0], ends[3], ends[2]), type_, random, (1, 2))
        body = _error(ends[0], ends[1], (ends[1], ends[0], 0, 0), protocol, back, random)
        samples.append((*link, traffic.frame_in(*link, body)))
    protocols = {"tcp": packet.TCP, "udp": packet.UDP, "icmp": packet.ICMP}
    for flow in [each for each in engine.host_flows() if each.target is None][:12]:
        link = (int(flow.responder_side), flow.responder)
        source = (flow.source_address, flow.source_port)
        destination = (flow.destination_address, flow.destination_port)
        if flow.responder_side is Side.OUTSIDE and flow.responder == scenario.PUBLIC_NUMBER:
            link = (OUTSIDE, scenario.INTERNET_GATEWAY)
            source = (flow.nat_address, flow.nat_port)
        elif flow.originator_side is Side.OUTSIDE and flow.originator == scenario.PUBLIC_NUMBER:
            destination = (flow.nat_address, flow.nat_port)
        ends = (destination[0], source[0], destination[1], source[1])
        content = _content(
            protocols[flow.protocol],
            ends,
            packet.ECHO_REPLY,
            random,
            (9000, 1001),
        )
        body = _packed(ends[0], ends[1], protocols[flow.protocol], content, random)
        samples.append((*link, traffic.frame_in(*link, body)))
    for nat in engine.flows()[:12]:
        if nat.target is None and nat.remote_address in ("10.0.1.50", "10.0.1.51"):
            ends = (nat.remote_address, nat.nat_address, nat.remote_port, nat.nat_port)
            number = 1 if ends[0] == "10.0.1.51" else (2 if nat.interface == 2 else 0)
            content = _content(protocols[nat.protocol], ends, packet.ECHO_REPLY, random, (1, 2))
            body = _packed(ends[0], ends[1], protocols[nat.protocol], content, random)
            samples.append((HOST, number, traffic.frame_in(HOST, number, body)))
    return samples


def _super_frame(random: Random) -> Sample:
    """Up to 64 KiB in one frame."""
    ends = (scenario.ENVIRONMENT, scenario.WEB, 5000, 443)
    payload = bytes(random.choice((1448, 9000, 65_000, 65_495)))
    content = packet.tcp(*ends, packet.ACK, seq=1001, ack=9001, payload=payload, partial=True)
    body = packet.ipv4(ends[0], ends[1], packet.TCP, content)
    return INSIDE, 1, traffic.frame_in(INSIDE, 1, body)


def _pieces(samples: Sequence[Sample], random: Random) -> list[Sample]:
    """Fragments of some of the frames."""
    pieces = []
    packets = [sample for sample in samples if sample[2][12:14] == b"\x08\x00"]
    for side, port, frame in random.sample(packets, 20):
        start = 14 + (frame[14] & 0x0F) * 4
        room = 8 * random.choice((1, 2, 3, 4))
        for at in range(0, min(len(frame) - start, 8 * room), room):
            part = bytearray(frame[:start] + frame[start + at : start + at + room])
            more = 0x2000 if start + at + room < len(frame) else 0
            struct.pack_into("!H", part, 16, len(part) - 14)
            struct.pack_into("!H", part, 20, more | at // 8)
            struct.pack_into("!H", part, 24, 0)
            struct.pack_into("!H", part, 24, 0xFFFF - header_sum(part[14:start]) & 0xFFFF)
            pieces.append((side, port, bytes(part)))
    return pieces


def _position(size: int, random: Random) -> int:
    """Where to do damage: seldom in the Ethernet header, behind which nothing would be seen."""
    if size <= 14 or random.random() < 0.05:
        return random.randrange(size)
    return random.randrange(14, size)


def mutated(frame: bytearray, other: bytes, random: Random) -> None:
    """Damage `frame` in place, in one of the ways frames are damaged or forged."""
    size = len(frame)
    match random.randrange(8):
        case 0 | 1:
            for _ in range(random.choice((1, 1, 2, 8))):
                if size:
                    frame[_position(size, random)] ^= 1 << random.randrange(8)
        case 2:
            del frame[_position(size + 1, random) :]
        case 3:
            at = random.choice(_LENGTH_FIELDS)
            if at < size:
                frame[at] = random.choice((*_INTERESTING, random.randrange(256)))
        case 4:
            cut = _position(min(size, len(other)) + 1, random)
            frame[cut:] = other[cut:]
        case 5:
            at = _position(size + 1, random)
            frame[at:at] = random.randbytes(random.choice((1, 2, 4, 60)))
        case 6:
            if size:
                at = _position(size, random)
                frame[at : at + 4] = random.randbytes(min(4, size - at))
        case _:
            if size > 46:
                at = random.randrange(34, size)
                frame[at] = random.choice(_INTERESTING)


def mended(frame: bytearray) -> None:
    """Make the IP header, transport and quoted header checksums of `frame` right, if it has any.

    Zero is always written as 0, which UDP then takes for "none".
    """
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return
    header = (frame[14] & 0x0F) * 4
    start = 14 + header
    if header < 20 or start > len(frame):
        return
    frame[24:26] = b"\0\0"
    struct.pack_into("!H", frame, 24, 0xFFFF - header_sum(frame[14:start]) & 0xFFFF)
    end = min(14 + int.from_bytes(frame[16:18]), len(frame))
    protocol = frame[23]
    if protocol == packet.ICMP and end - start >= 8:
        quoted = start + 8
        quoted_header = (frame[quoted] & 0x0F) * 4 if quoted < end else 0
        if frame[start] in (3, 11, 12) and 20 <= quoted_header <= end - quoted:
            frame[quoted + 10 : quoted + 12] = b"\0\0"
            value = 0xFFFF - header_sum(frame[quoted : quoted + quoted_header]) & 0xFFFF
            struct.pack_into("!H", frame, quoted + 10, value)
        frame[start + 2 : start + 4] = b"\0\0"
        struct.pack_into("!H", frame, start + 2, 0xFFFF - header_sum(frame[start:end]) & 0xFFFF)
        return
    if protocol == packet.TCP and end - start >= 20:
        at, length = start + 16, end - start
    elif protocol == packet.UDP and end - start >= 8:
        at, length = start + 6, int.from_bytes(frame[start + 4 : start + 6])
        end = min(end, start + length)
    else:
        return
    if end < at + 2:
        return
    frame[at : at + 2] = b"\0\0"
    pseudo = header_sum(frame[26:34]) + protocol + length
    struct.pack_into("!H", frame, at, 0xFFFF - (pseudo + header_sum(frame[start:end])) % 0xFFFF)


def run(frames: int, seed: int, *, report: bool = True) -> Counter[str]:
    """Send `frames` frames; returns how often each outcome was seen."""
    random = Random(seed)
    now = random.choice((0, (1 << 31) - 10_000, (1 << 32) - 20_000))
    target = EngineTarget(SETUP, seed=random.randbytes(16), now=now)
    engine = target.engine
    outcomes: Counter[str] = Counter()
    samples: list[Sample] = []
    begin = shown = time.monotonic()
    for number in range(frames):
        if number % RENEW_EVERY == 0:
            samples = _outgoing(random) + _of_flows(engine, random) + _arp(random)
            samples += _of_hosts(engine, random)
            samples += balanced_frames.samples(engine, random)
            samples.append(_super_frame(random))
            samples += _pieces(samples, random)
        if number % VERIFY_EVERY == 0:
            problems = engine.verify()
            assert problems == [], f"seed {seed}, after {number} frames: {problems}"
        if number % 100 == 0:
            _event(engine, random, now)
        side, port, original = random.choice(samples)
        frame: bytes | bytearray = original
        if random.random() < 0.65:
            frame = bytearray(original)
            for _ in range(random.choice((1, 1, 1, 2, 4))):
                mutated(frame, random.choice(samples)[2], random)
            if len(frame) < 4096 and random.random() < 0.75:
                mended(frame)
        if random.random() < 0.02:
            side, port = random.choice(_LINKS)
        partial = random.random() < 0.15
        size = random.choice((1448, 1448, 1, 17, 1000, 65535)) if partial else 0
        elsewhere = None
        if random.random() < 0.05:
            start = random.choice((14, 34, 42, 60, 84, 65535))
            elsewhere = (start, random.choice((2, 6, 16, 65535)))
        try:
            verdict = engine.translate(
                frame, side, port, now, partial=partial, gso_size=size, checksum_at=elsewhere
            )
            check(verdict, frame, side, port)
            for extra in engine.take_extra():
                assert extra.action is Action.FORWARD
                if verdict.action is Action.LEARN or extra.frame[12:14] == b"\x08\x06":
                    check_left(extra, side, port)
                else:
                    check_translated(extra, side, port)
                outcomes["extra"] += 1
        except Exception as error:
            error.add_note(
                f"seed {seed}, frame {number}, side {side} port {port} at {now} "
                f"partial {partial} size {size} checksum at {elsewhere}: "
                f"{bytes(frame[:2048]).hex()}"
            )
            raise
        outcome = verdict.reason if verdict.action is Action.DROP else verdict.action
        outcomes[outcome.name.lower()] += 1
        if random.random() < 0.2:
            now += random.choice((0, 1, 1, 3, 20, 150))
            engine.expire(now, random.choice((1, 10, 1000)))
            engine.resolve(now)
            for extra in engine.take_extra():
                assert extra.frame[12:14] == b"\x08\x06"
                check_left(extra, OUTSIDE, extra.port)
        if report and number % 1000 == 0 and time.monotonic() - shown > 5:
            shown = time.monotonic()
            rate = number / (shown - begin)
            print(f"{number} of {frames} frames, {rate:.0f}/s", flush=True)
    # A whole turn of the clock in which nothing happens frees everything.
    engine.expire(now + 10_000)
    engine.expire(now + 20_000 + engine.behaviour.fragment_ms)
    assert engine.counters()["fragments_waiting"] == 0, f"seed {seed}: fragments wait for ever"
    problems = engine.verify()
    assert problems == [], f"seed {seed}, at the end: {problems}"
    assert engine.flows() == [], f"seed {seed}: flows that never end: {engine.flows()}"
    assert engine.host_flows() == [], f"seed {seed}: flows that never end: {engine.host_flows()}"
    assert engine.counters()["flows_entries_used"] == 0, f"seed {seed}: entries that never end"
    assert engine.retiring() == ([], []), f"seed {seed}: numbers that never come back"
    target.close()
    return outcomes


def _acls(random: Random) -> list[SubnetAcl]:
    """Network ACLs of some subnets, which let most pass; or none."""

    def entries() -> tuple[NetworkAclEntry, ...]:
        port = random.choice((0, 7, 80, 5000, 40_001))
        cidr = random.choice(("0.0.0.0/0", "10.0.1.0/24", "10.0.1.50/32"))
        protocol = random.choice(("tcp", "udp", "icmp"))
        first = NetworkAclEntry(random.random() < 0.5, protocol, cidr, port, 65535)
        return (first, NetworkAclEntry(True)) if random.random() < 0.9 else (first,)

    subnets = ("10.0.1.0/28", "10.0.1.16/28", "10.0.1.50/32", "10.0.1.80/28", "10.0.2.0/24")
    return [
        SubnetAcl(each, entries(), entries())
        for each in random.sample(subnets, random.choice((0, 0, 1, 3)))
    ]


def _event(engine: Engine, random: Random, now: int) -> None:
    """What else happens to an engine: neighbours come and go, settings change, events are read."""
    interface = random.randrange(3)
    address = random.choice((*_REMOTES, "10.0.1.1"))
    mac = scenario.neighbour_mac(interface, address)
    match random.randrange(40):
        case 0 | 1 | 2:
            engine.set_neighbour(interface, address, None)
        case 3:
            engine.resolve(now)
        case 4:
            engine.drain_events()
        case 5:
            first = random.choice((1, 40000, 40004, 65535))
            last = min(first + random.choice((0, 3, 7, 100)), 65535)
            limit = random.choice((1, 6, 65535))
            ports = EnginePorts(first=first, last=last, limit_per_remote=limit)
            engine.configure(ports=ports, now_ms=now)
        case 6:
            engine.remove_slot(random.choice(list(scenario.SLOT_INTERFACES)))
        case 7:
            engine.remove_interface(interface)
        case 15:
            balanced_frames.event(engine, random, now)
        case 16:
            engine.set_network_acls(random.choice(scenario.INTERFACE_VPCS), _acls(random))
        case 8 | 9 | 10 | 11:
            engine.sweep(now)
            configured(engine, random.choice(SETUPS), now)
        case 12 | 13 | 14:
            engine.sweep(now, random.choice((1, 10, 100)))
        case _:
            engine.next_deadline()
            engine.set_neighbour(interface, address, mac, now)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer as a program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many (default 1e6)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run exactly")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else Random().getrandbits(32)
    print(f"seed {seed}", flush=True)
    begin = time.monotonic()
    outcomes = run(options.frames, seed)
    seconds = time.monotonic() - begin
    for name, count in outcomes.most_common():
        print(f"{count:>10}  {name}")
    print(f"{options.frames} frames in {seconds:.1f} s: no crash, no disagreement")
    return 0


if __name__ == "__main__":
    sys.exit(main())
