# SPDX-License-Identifier: Apache-2.0
"""Frames for tests that look at the engine alone, and what can be read from its verdicts."""

import struct
from functools import lru_cache

from hyperplane_nat.engine import Action, Engine, Verdict
from tests.engine import scenario
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import packet

INTERFACE = scenario.INTERFACE_ADDRESSES[0]


def frame_in(side: int, port: int, body: bytes) -> bytes:
    """An IPv4 packet in a frame that arrives on a slot or an interface."""
    ours, theirs = scenario.ethernet_addresses(side, port)
    return packet.ethernet(ours, theirs, packet.ETHERTYPE_IPV4, body)


def datagram(
    slot: int, port: int, *, remote: str = scenario.WEB, remote_port: int = 7, payload: bytes = b""
) -> bytes:
    """A UDP frame of an environment; without checksum, which is cheaper to build."""
    place = (INSIDE, slot)
    return _with_ports(_datagram(place, scenario.ENVIRONMENT, remote, payload), port, remote_port)


def answer(
    nat_port: int, *, remote: str = scenario.WEB, remote_port: int = 7, interface: int = 0
) -> bytes:
    """A UDP frame of a service to a NAT port."""
    address = scenario.INTERFACE_ADDRESSES[interface]
    frame = _datagram((OUTSIDE, interface), remote, address, b"")
    return _with_ports(frame, remote_port, nat_port)


@lru_cache(maxsize=1024)
def _datagram(place: tuple[int, int], source: str, destination: str, payload: bytes) -> bytes:
    """One with ports 0: tens of thousands differ in nothing else."""
    content = packet.udp(source, destination, 0, 0, payload, checksum_field=0)
    return frame_in(*place, packet.ipv4(source, destination, packet.UDP, content))


def _with_ports(frame: bytes, source: int, destination: int) -> bytes:
    """Without a checksum of UDP nothing else depends on them."""
    return frame[:34] + struct.pack("!HH", source, destination) + frame[38:]


def segment(
    slot: int,
    port: int,
    flags: int = packet.SYN,
    *,
    seq: int = 1000,
    ack: int = 0,
    remote_port: int = 80,
) -> bytes:
    """A TCP frame of an environment to WEB."""
    content = packet.tcp(
        scenario.ENVIRONMENT, scenario.WEB, port, remote_port, flags, seq=seq, ack=ack
    )
    body = packet.ipv4(scenario.ENVIRONMENT, scenario.WEB, packet.TCP, content)
    return frame_in(INSIDE, slot, body)


def segment_back(
    nat_port: int, flags: int, *, seq: int = 9000, ack: int = 0, remote_port: int = 80
) -> bytes:
    """A TCP frame of WEB to a NAT port."""
    content = packet.tcp(scenario.WEB, INTERFACE, remote_port, nat_port, flags, seq=seq, ack=ack)
    return frame_in(OUTSIDE, 0, packet.ipv4(scenario.WEB, INTERFACE, packet.TCP, content))


def source_port(verdict: Verdict) -> int:
    """The NAT port of a frame that leaves for the VPC."""
    assert verdict.action is Action.FORWARD, verdict
    (port,) = struct.unpack_from("!H", verdict.frame, 14 + (verdict.frame[14] & 0x0F) * 4)
    return int(port)


def opened(
    engine: Engine,
    slot: int,
    port: int,
    now: int = 0,
    *,
    remote: str = scenario.WEB,
    remote_port: int = 7,
) -> int:
    """Send a datagram and return the NAT port it got."""
    frame = datagram(slot, port, remote=remote, remote_port=remote_port)
    return source_port(engine.translate(frame, INSIDE, slot, now))
