# SPDX-License-Identifier: Apache-2.0
"""Checksums of what leaves, computed by scapy from nothing, for random packets."""

import struct
from random import Random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from hyperplane_nat.engine import Action
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, checksum, packet

ROUNDS = 60


def _rebuilt(frame: bytes) -> bytes:
    """The frame with every checksum left to scapy."""
    parsed = Ether(frame)
    del parsed[IP].chksum
    for layer in (TCP, UDP, ICMP):
        if layer in parsed:
            del parsed[layer].chksum
    return bytes(parsed)


def _completed(frame: bytes) -> bytes:
    """What a device does with a partial frame: sum from the transport header on and complement."""
    start = 14 + (frame[14] & 0x0F) * 4
    at = start + (16 if frame[23] == packet.TCP else 6)
    value = ~checksum.ones_sum(frame[start:]) & 0xFFFF
    if frame[23] == packet.UDP and value == 0:
        value = 0xFFFF
    return frame[:at] + struct.pack("!H", value) + frame[at + 2 :]


def _transport(kind: str, source: Random, inside: bool, nat_port: int | None) -> Packet:
    """A random TCP, UDP or ICMP layer; towards inside it is addressed to `nat_port`."""
    local = source.randrange(65536) if nat_port is None else nat_port
    payload = Raw(source.randbytes(source.choice((0, 1, 2, 7, 100, 1399))))
    sport, dport = (local, 443) if inside else (443, local)
    if kind == "tcp":
        return (
            TCP(
                sport=sport,
                dport=dport,
                flags="S" if inside else "SA",
                seq=source.getrandbits(32),
                ack=source.getrandbits(32),
                window=source.getrandbits(16),
                options=[("MSS", 1460), ("Timestamp", (source.getrandbits(32), 0))],
            )
            / payload
        )
    if kind == "udp":
        return UDP(sport=sport, dport=dport) / payload
    return ICMP(type=8 if inside else 0, id=local, seq=source.getrandbits(16)) / payload


@pytest.mark.parametrize(
    ("kind", "partial"),
    [("tcp", False), ("udp", False), ("icmp", False), ("tcp", True), ("udp", True)],
)
def test_random_packets(kind: str, partial: bool) -> None:
    source = Random(f"{kind} {partial}")
    setup = scenario.Setup(flows_max=4096, ports=Ports(1024, 65535, 55_000))
    target = EngineTarget(setup)
    for number in range(ROUNDS):
        slot = source.choice((1, 2, 5))
        remote = f"10.0.{source.randrange(3, 255)}.{source.randrange(1, 255)}"
        ours, theirs = scenario.ethernet_addresses(INSIDE, slot)
        out = bytes(
            Ether(dst=ours, src=theirs)
            / IP(
                src=scenario.ENVIRONMENT,
                dst=remote,
                id=source.getrandbits(16),
                tos=source.getrandbits(8),
                ttl=source.randrange(2, 256),
            )
            / _transport(kind, source, True, None)
        )
        sent = _made_partial(out) if partial else out
        verdict = target.engine.translate(sent, INSIDE, slot, number, partial=partial)
        assert verdict.action is Action.FORWARD
        whole = _completed(verdict.frame) if partial else verdict.frame
        assert whole == _rebuilt(whole)
        nat_port = Ether(whole)[ICMP].id if kind == "icmp" else traffic.source_port(verdict)

        ours, theirs = scenario.ethernet_addresses(OUTSIDE, 0)
        back = bytes(
            Ether(dst=ours, src=theirs)
            / IP(src=remote, dst=traffic.INTERFACE, id=source.getrandbits(16))
            / _transport(kind, source, False, nat_port)
        )
        sent = _made_partial(back) if partial else back
        verdict = target.engine.translate(sent, OUTSIDE, 0, number, partial=partial)
        assert verdict.action is Action.FORWARD, verdict
        assert (verdict.side, verdict.port) == (INSIDE, slot)
        whole = _completed(verdict.frame) if partial else verdict.frame
        assert whole == _rebuilt(whole)
        assert Ether(whole)[IP].dst == scenario.ENVIRONMENT
    target.close()


def _made_partial(frame: bytes) -> bytes:
    """The frame as a sender with checksum offload hands it over."""
    header = (frame[14] & 0x0F) * 4
    content = frame[14 + header :]
    pseudo = checksum.pseudo_header(frame[26:30], frame[30:34], frame[23], len(content))
    at = 14 + header + (16 if frame[23] == packet.TCP else 6)
    return frame[:at] + struct.pack("!H", checksum.ones_sum(pseudo)) + frame[at + 2 :]


@pytest.mark.parametrize("size", [1, 1400, 20_000, 65_495])
@pytest.mark.parametrize("partial", [False, True])
def test_super_frames(size: int, partial: bool) -> None:
    """A segment of 64 KiB passes whole, its checksum partial or complete."""
    target = EngineTarget(scenario.Setup())
    engine = target.engine
    nat_port = traffic.source_port(engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0))
    engine.translate(
        traffic.segment_back(nat_port, packet.SYN | packet.ACK, ack=1001), OUTSIDE, 0, 0
    )
    content = packet.tcp(
        scenario.ENVIRONMENT,
        scenario.WEB,
        5000,
        80,
        packet.ACK,
        seq=1001,
        ack=9001,
        payload=Random(size).randbytes(size),
        partial=partial,
    )
    body = packet.ipv4(scenario.ENVIRONMENT, scenario.WEB, packet.TCP, content)
    frame = traffic.frame_in(INSIDE, 1, body)
    verdict = engine.translate(frame, INSIDE, 1, 1, partial=partial, gso_size=1448)
    assert verdict.action is Action.FORWARD
    assert len(verdict.frame) == len(frame)
    whole = _completed(verdict.frame) if partial else verdict.frame
    assert whole == _rebuilt(whole)
    target.close()


def test_every_sum() -> None:
    """Each of the 65536 sums a UDP payload can bring about is translated right, both zeros too."""
    target = EngineTarget(scenario.Setup())
    for value in range(65536):
        payload = value.to_bytes(2)
        content = packet.udp(scenario.ENVIRONMENT, scenario.WEB, 5000, 7, payload)
        body = packet.ipv4(
            scenario.ENVIRONMENT, scenario.WEB, packet.UDP, content, identification=value
        )
        frame = traffic.frame_in(INSIDE, 1, body)
        verdict = target.engine.translate(frame, INSIDE, 1, 0)
        assert verdict.action is Action.FORWARD
        out = verdict.frame
        pseudo = checksum.pseudo_header(out[26:30], out[30:34], packet.UDP, 10)
        assert checksum.is_right(out[14:34])
        assert out[24:26] != b"\xff\xff"
        assert checksum.is_right(pseudo + out[34:44])
        assert out[40:42] != b"\0\0"
    target.close()
