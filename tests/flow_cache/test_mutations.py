# SPDX-License-Identifier: Apache-2.0
"""Frames of cached flows with bytes changed at random: those that arrive are those that may.

`expected` is the program's rule once more, in plain Python and by itself; whatever arrives in the
VPC has to be what it says, byte for byte.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from netns import content
from tests.flow_cache.scene import (
    INSIDE,
    INTERFACE,
    SERVICE,
    TRANSLATED,
    VPC_MTU,
    Scene,
    mac,
    ordinary,
)
from tests.live import wire
from tests.live.lab import wait_until

pytestmark = pytest.mark.live

FRAMES = 5000
PAYLOADS = (0, 1, 2, 17, 60)
PORT, SERVED = 41000, 8000
TRANSLATED_PORTS = {6: 31000, 17: 31001}
HEADERS = {6: 54, 17: 42}
CHECKS = {6: 50, 17: 40}
FIN_SYN_RST, ACK = 0x07, 0x10


def summed(data: bytes) -> int:
    """The one's complement sum of 16-bit words, RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def updated(check: int, before: bytes, after: bytes) -> int:
    """A checksum after a change, RFC 1624 equation 3."""
    inverted = bytes(255 - byte for byte in before)
    return 0xFFFF - summed(struct.pack(">H", 0xFFFF - check) + inverted + after)


def expected(scene: Scene, frame: bytes) -> bytes | None:
    """What the VPC gets of a frame of environment 1; None when it is no hit."""
    slot, interface = scene.lab.slots[0], scene.interface
    if frame[:6] != mac(slot.gateway_mac) or frame[12:14] != b"\x08\x00":
        return None
    if len(frame) < HEADERS[17]:
        return None
    protocol = frame[23]
    if frame[14] != 0x45 or frame[20:22] != b"\x40\x00" or frame[22] <= 1:
        return None
    if len(frame) < HEADERS.get(protocol, 1 << 16) or summed(frame[14:34]) != 0xFFFF:
        return None
    total = int.from_bytes(frame[16:18], "big")
    if total != len(frame) - 14 or total > VPC_MTU:
        return None
    if protocol == 6:
        words = frame[46] >> 4
        if frame[47] & FIN_SYN_RST or not frame[47] & ACK or words < 5 or 20 + 4 * words > total:
            return None
    elif int.from_bytes(frame[38:40], "big") != total - 20:
        return None
    key = socket.inet_aton(INSIDE) + socket.inet_aton(SERVICE) + struct.pack(">HH", PORT, SERVED)
    if frame[26:38] != key:
        return None
    result = bytearray(frame)
    result[:12] = mac(interface.peer_mac) + mac(interface.mac)
    result[22] -= 1
    result[26:30] = socket.inet_aton(TRANSLATED)
    result[34:36] = struct.pack(">H", TRANSLATED_PORTS[protocol])
    header = int.from_bytes(frame[24:26], "big")
    changed = slice(22, 24), slice(26, 30)
    before = b"".join(frame[each] for each in changed)
    after = b"".join(bytes(result[each]) for each in changed)
    result[24:26] = struct.pack(">H", updated(header, before, after))
    place = slice(CHECKS[protocol], CHECKS[protocol] + 2)
    check = int.from_bytes(frame[place], "big")
    if protocol == 6 or check:
        new = updated(check, frame[26:30] + frame[34:36], bytes(result[26:30] + result[34:36]))
        result[place] = struct.pack(">H", new or (0xFFFF if protocol == 17 else 0))
    return bytes(result)


def sound(scene: Scene, protocol: int, payload: bytes) -> bytes:
    """A hit, with its checksums complete."""
    slot = scene.lab.slots[0]
    layer: Packet = (
        UDP(sport=PORT, dport=SERVED)
        if protocol == 17
        else TCP(sport=PORT, dport=SERVED, flags="A", seq=1000, ack=5000)
    )
    network = IP(src=INSIDE, dst=SERVICE, flags="DF")
    ethernet = Ether(src=slot.environment_mac, dst=slot.gateway_mac)
    return bytes(ethernet / network / layer / payload)


def mutated(source: random.Random, frame: bytes) -> bytes:
    """Some bytes of its headers changed, in most cases with the header's checksum to match."""
    changed = bytearray(frame)
    for _ in range(source.choice((0, 1, 1, 2))):
        place = source.randrange(HEADERS[frame[23]])
        # Never a request to somebody who would answer it with frames of his own.
        if 12 <= place < 14:
            continue
        changed[place] ^= 1 << source.randrange(8)
    if source.random() < 0.1:
        del changed[source.randrange(15, len(changed)) :]
    if source.random() < 0.8 and len(changed) >= 34:
        changed[24:26] = b"\0\0"
        changed[24:26] = struct.pack(">H", 0xFFFF - summed(bytes(changed[14:34])))
    return bytes(changed)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_arrives_is_what_may(scene: Scene, seed: int) -> None:
    source = random.Random(seed)
    for protocol, port in TRANSLATED_PORTS.items():
        scene.add(protocol, *ordinary(PORT, port, SERVED))
    models = [
        sound(scene, protocol, content.read(size))
        for protocol in TRANSLATED_PORTS
        for size in PAYLOADS
    ]
    sent = [mutated(source, frame) for frame in source.choices(models, k=FRAMES)]
    arriving = [found for frame in sent if (found := expected(scene, frame)) is not None]
    # The test is worth something only if there are many of both.
    assert FRAMES // 5 < len(arriving) < FRAMES * 4 // 5
    capture = wire.Capture(scene.vpc, INTERFACE)
    wire.inject(scene.environment(), "eth0", sent)
    taken: list[bytes] = []

    def all_there() -> bool:
        taken.extend(capture.take())
        return len(taken) >= len(arriving)

    try:
        wait_until(all_there, lambda: f"{len(taken)} of {len(arriving)}")
        # One more that is a hit: what was before it has arrived as well.
        last = sound(scene, 17, b"the last")
        wire.inject(scene.environment(), "eth0", [last])
        arriving.append(expected(scene, last) or b"")
        wait_until(lambda: all_there() and arriving[-1] in taken, "the last frame")
    finally:
        capture.close()
    assert Counter(taken) - Counter(arriving) == Counter()
    assert Counter(arriving) - Counter(taken) == Counter()
    assert sum(scene.counts(flow)[0][0] for flow in scene.flows) == len(arriving)


@pytest.mark.parametrize("seed", [1, 2])
def test_lying_offload_headers_send_nothing_where_it_must_not(scene: Scene, seed: int) -> None:
    """Whatever a sender asks to be completed and cut up, it leaves as its flow or not at all."""
    source = random.Random(seed)
    for protocol, port in TRANSLATED_PORTS.items():
        scene.add(protocol, *ordinary(PORT, port, SERVED))
    sizes = (0, 8, 100, 1300, 2600, 9000)
    models = [
        sound(scene, protocol, content.read(size))
        for protocol in TRANSLATED_PORTS
        for size in sizes
    ]
    lies = [
        (
            wire.offload(
                flags=source.choice((0, 1, 1, 1)),
                gso_type=source.choice((0, 1, 3, 4, 5, 0x81)),
                header_length=source.choice((0, 14, 34, 42, 54, 60)),
                gso_size=source.choice((0, 1, 8, 100, 1300, 1346, 1460, 65535)),
                checksum_start=source.choice((0, 14, 20, 26, 34, 34, 34, 42, 54)),
                checksum_offset=source.choice((0, 2, 6, 6, 12, 16, 16)),
            ),
            source.choice(models),
        )
        for _ in range(3000)
    ]
    capture = wire.Capture(scene.vpc, INTERFACE)
    taken: list[bytes] = []
    try:
        assert wire.inject_offloaded(scene.environment(), "eth0", lies) > 100
        last = sound(scene, 17, b"the last")
        wire.inject(scene.environment(), "eth0", [last])
        end = expected(scene, last)

        def all_there() -> bool:
            taken.extend(capture.take())
            return end in taken

        wait_until(all_there, "the last frame")
    finally:
        capture.close()
    near = mac(scene.interface.peer_mac) + mac(scene.interface.mac)
    assert len(taken) > 100
    for frame in taken:
        port = TRANSLATED_PORTS[frame[23]]
        assert frame[:14] == near + b"\x08\x00"
        assert frame[26:34] == socket.inet_aton(TRANSLATED) + socket.inet_aton(SERVICE)
        assert frame[34:38] == struct.pack(">HH", port, SERVED)
    counted = sum(scene.counts(flow)[0][0] for flow in scene.flows)
    assert counted >= len(taken)
