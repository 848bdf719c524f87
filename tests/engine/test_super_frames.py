# SPDX-License-Identifier: Apache-2.0
"""Frames that are yet to be segmented count and leave as what they will be on a wire."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hyperplane_nat.engine import Action, DropReason, Verdict
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour, Ports, checksum, packet
from tests.reference.settings import NeighbourSettings

ENDS = (scenario.ENVIRONMENT, scenario.WEB)
DONT_FRAGMENT = 0x4000
PAYLOAD = bytes(number * 7 % 251 for number in range(3000))
EXTRAS_MAX = 512


@contextmanager
def gateway(interface_mtu: int = 65535) -> Iterator[EngineTarget]:
    target = EngineTarget(scenario.Setup(interface_mtu=interface_mtu))
    yield target
    target.close()


def datagrams(
    payload: bytes = PAYLOAD, *, fragment: int = 0, field: int | None = None, options: bytes = b""
) -> bytes:
    content = packet.udp(*ENDS, 5000, 7, payload, checksum_field=field, partial=field is None)
    body = packet.ipv4(
        *ENDS, packet.UDP, content, identification=0xFFFE, fragment=fragment, options=options
    )
    return traffic.frame_in(INSIDE, 1, body)


def send(target: EngineTarget, frame: bytes, size: int, *, partial: bool = True) -> list[Verdict]:
    """What leaves when a frame comes in segments of this size."""
    verdict = target.engine.translate(frame, INSIDE, 1, 0, partial=partial, gso_size=size)
    return [verdict, *target.engine.take_extra()]


def put_together(frames: list[Verdict]) -> list[tuple[int, bytes]]:
    """(identification, IP payload) of the datagrams that these frames are the fragments of."""
    found: list[tuple[int, bytes]] = []
    for verdict in frames:
        frame = verdict.frame
        header = (frame[14] & 15) * 4
        assert checksum.is_right(frame[14 : 14 + header])
        length, identification, field = struct.unpack_from("!HHH", frame, 16)
        assert len(frame) == 14 + length
        content = frame[14 + header :]
        if field & 0x1FFF:
            before, data = found.pop()
            assert (before, len(data)) == (identification, (field & 0x1FFF) * 8)
            content = data + content
        found.append((identification, content))
    return found


def test_what_is_counted_has_the_headers_of_every_segment() -> None:
    """RFC 791, 768, 9293: 3000 bytes in segments of 1400 are 3 packets, each with its headers."""
    with gateway() as target:
        send(target, datagrams(fragment=DONT_FRAGMENT), 1400)
        udp = 3000 + 3 * 28
        content = packet.tcp(
            *ENDS, 5001, 80, packet.SYN, options=bytes([1] * 12), payload=PAYLOAD, partial=True
        )
        frame = traffic.frame_in(INSIDE, 1, packet.ipv4(*ENDS, packet.TCP, content))
        send(target, frame, 1400)
        tcp = 3000 + 3 * 52
        flows = {
            flow.protocol: (flow.packets_out, flow.bytes_out) for flow in target.engine.flows()
        }
        assert flows == {"udp": (3, udp), "tcp": (3, tcp)}
        for way in ("in_from_source", "out_to_destination"):
            assert target.count(f"packets_{way}") == 6
            assert target.count(f"bytes_{way}") == udp + tcp
            assert target.map.interface_counters(0)[f"packets_{way}"] == 6
            assert target.map.interface_counters(0)[f"bytes_{way}"] == udp + tcp
        slot = target.map.slot_counters(1)
        assert (slot["packets_out"], slot["bytes_out"]) == (6, udp + tcp)


def test_so_is_what_comes_back() -> None:
    with gateway() as target:
        port = traffic.opened(target.engine, 1, 5000)
        back = (scenario.WEB, traffic.INTERFACE)
        content = packet.udp(*back, 7, port, PAYLOAD, partial=True)
        frame = traffic.frame_in(OUTSIDE, 0, packet.ipv4(*back, packet.UDP, content))
        target.engine.translate(frame, OUTSIDE, 0, 0, partial=True, gso_size=1000)
        (flow,) = target.engine.flows()
        assert (flow.packets_in, flow.bytes_in) == (3, 3000 + 3 * 28)
        assert target.map.slot_counters(1)["packets_in"] == 3
        assert target.count("bytes_out_to_source") == 3000 + 3 * 28


def test_no_more_datagrams_than_a_socket_makes() -> None:
    """Linux's UDP_MAX_SEGMENTS is 128; each is work for whoever sends the frame on."""
    with gateway() as target:
        assert send(target, datagrams(bytes(128)), 1)[0].action is Action.FORWARD
        (verdict,) = send(target, datagrams(bytes(129)), 1)
        assert (verdict.action, verdict.reason) == (Action.DROP, DropReason.OFFLOAD)
        assert target.count("drop_offload") == 129


def test_a_drop_counts_its_segments() -> None:
    with gateway() as target:
        content = packet.udp(scenario.ENVIRONMENT, "192.0.2.1", 5000, 7, PAYLOAD, partial=True)
        body = packet.ipv4(scenario.ENVIRONMENT, "192.0.2.1", packet.UDP, content)
        send(target, traffic.frame_in(INSIDE, 1, body), 1000)
        assert target.count("drop_no_route") == 3
        assert target.map.slot_counters(1)["drops"] == 3
        assert target.map.interface_counters(0)["drops"] == 3


def test_segments_made_smaller_are_more() -> None:
    """What came is counted as it came, what leaves as it leaves."""
    with gateway(1400) as target:
        content = packet.tcp(*ENDS, 5000, 80, packet.SYN, payload=PAYLOAD, partial=True)
        frame = traffic.frame_in(INSIDE, 1, packet.ipv4(*ENDS, packet.TCP, content))
        (verdict,) = send(target, frame, 1500)
        assert verdict.gso_size == 1360
        assert target.count("packets_in_from_source") == 2
        assert target.count("packets_out_to_destination") == 3
        assert target.count("bytes_out_to_destination") == 3000 + 3 * 40


@pytest.mark.parametrize("size", [1400, 1500, 2999, 3000, 65535])
@pytest.mark.parametrize(
    ("field", "options"), [(None, b""), (0, b""), (None, bytes([7, 7, 4, 0, 0, 0, 0, 0]))]
)
def test_datagrams_larger_than_the_link_leave_in_pieces(
    size: int, field: int | None, options: bytes
) -> None:
    """Each with its own length, checksum and identification, which counts up from that chosen."""
    with gateway(1300) as target:
        frames = send(target, datagrams(field=field, options=options), size, partial=field is None)
        assert all(each.action is Action.FORWARD for each in frames)
        assert max(len(each.frame) for each in frames) <= 14 + 1300
        assert frames[0].gso_size == 0
        whole = put_together(frames)
        parts = [PAYLOAD[start : start + size] for start in range(0, len(PAYLOAD), size)]
        first = whole[0][0]
        assert [number for number, _ in whole] == [
            (first + number) % 65536 for number in range(len(parts))
        ]
        address, port = frames[0].frame[26:30], traffic.source_port(frames[0])
        for (_, content), part in zip(whole, parts, strict=True):
            assert content[:6] == struct.pack("!HHH", port, 7, 8 + len(part))
            assert content[8:] == part
            if field is None:
                pseudo = checksum.pseudo_header(
                    address, packet.octets(scenario.WEB), packet.UDP, len(content)
                )
                assert checksum.is_right(pseudo + content)
            else:
                assert content[6:8] == b"\0\0"
        assert target.count("packets_fragmented") == sum(len(part) > 1272 for part in parts)
        assert target.count("packets_out_to_destination") == len(frames)
        (flow,) = target.engine.flows()
        assert flow.packets_out == len(parts)
        following = send(target, datagrams(bytes(1)), 0)
        assert put_together(following)[0][0] == (first + len(parts)) % 65536


def unresolved(interface_mtu: int, queue_frames: int = 8) -> EngineTarget:
    """A gateway that knows no next hop."""
    return EngineTarget(
        scenario.Setup(
            interface_mtu=interface_mtu,
            neighbours_known=False,
            neighbours=NeighbourSettings(queue_frames=queue_frames),
        )
    )


def test_those_that_wait_for_a_next_hop_all_wait() -> None:
    """Three datagrams: two pieces each of two, and of the third the only one."""
    target = unresolved(1300, queue_frames=5)
    verdict, question = send(target, datagrams(), 1400)
    assert verdict.action is Action.HOLD
    assert question.frame[12:14] == b"\x08\x06"
    assert target.count("drop_neighbour_queue_full") == 0
    (refused,) = send(target, datagrams(), 1400)
    assert refused.reason is DropReason.NEIGHBOUR_QUEUE_FULL
    assert target.count("drop_neighbour_queue_full") == 3
    target.engine.set_neighbour(0, scenario.WEB, scenario.neighbour_mac(0, scenario.WEB))
    frames = target.engine.take_extra()
    assert [each.action for each in frames] == [Action.FORWARD] * 5
    contents = [content[8:] for _, content in put_together(frames)]
    assert contents == [PAYLOAD[:1400], PAYLOAD[1400:2800], PAYLOAD[2800:]]
    target.close()


def test_a_datagram_that_waits_leaves_no_piece_behind() -> None:
    """Of two datagrams the second is whole: neither leaves before the next hop has answered."""
    target = unresolved(1300)
    frames = send(target, datagrams(bytes(1301)), 1300)
    assert [(each.action, each.frame[12:14]) for each in frames] == [
        (Action.HOLD, b"\x08\x00"),
        (Action.FORWARD, b"\x08\x06"),
    ]
    (hop,) = target.engine.next_hops()
    assert hop.waiting_frames == 3
    target.close()


def test_one_that_waited_in_vain_counts_its_segments() -> None:
    target = unresolved(65535)
    assert send(target, datagrams(), 1000)[0].action is Action.HOLD
    assert send(target, datagrams(bytes(1)), 0)[0].action is Action.HOLD
    target.engine.set_neighbour(0, scenario.WEB, None)
    assert target.count("drop_neighbour_failed") == 4
    target.close()


def test_a_segment_size_beyond_the_payload_is_one_datagram() -> None:
    """A field of 65535 asks for no more room than the datagram has pieces."""
    with gateway(68) as target:
        frames = send(target, datagrams(bytes(41)), 65535)
        assert [len(each.frame) - 34 for each in frames] == [48, 1]


def test_more_pieces_than_there_is_room_for_are_refused() -> None:
    """Of 508 bytes of IP, 48 bytes of payload at a time: 11 pieces a datagram."""
    with gateway(68) as target:
        most = EXTRAS_MAX // 11
        (verdict,) = send(target, datagrams(bytes(480 * (most + 1))), 480)
        assert (verdict.action, verdict.reason) == (Action.DROP, DropReason.FRAGMENT_QUOTA)
        assert target.count("drop_fragment_quota") == most + 1
        assert len(send(target, datagrams(bytes(480 * most)), 480)) == 11 * most


def test_the_largest_super_frame_has_room() -> None:
    with gateway(1300) as target:
        frames = send(target, datagrams(bytes(65_000)), 1472)
        assert len(put_together(frames)) == 45


def test_a_hairpin_is_cut_for_its_receiver() -> None:
    """The receiver's link is the one that counts, though the sender was not asked about it."""
    setup = scenario.Setup(
        slot_mtu=1300,
        ports=Ports(40000, 40001, 55_000),
        behaviour=Behaviour(
            endpoint_independent=True, hairpinning=True, filtering="endpoint_independent"
        ),
    )
    target = EngineTarget(setup)
    port = traffic.opened(target.engine, 2, 6000)
    address = traffic.INTERFACE
    for fragment, expected in ((0, 5), (DONT_FRAGMENT, 1)):
        content = packet.udp(scenario.ENVIRONMENT, address, 5000, port, PAYLOAD, partial=True)
        body = packet.ipv4(scenario.ENVIRONMENT, address, packet.UDP, content, fragment=fragment)
        frames = send(target, traffic.frame_in(INSIDE, 1, body), 1450)
        assert len(frames) == expected
    assert target.count("drop_mtu_exceeded") == 3
    assert target.count("packets_hairpinned") == 6
    target.close()


def test_a_hairpin_of_tcp_gets_segments_for_its_receiver() -> None:
    """Without don't-fragment; with it nobody is told, for the sender knows no such packet."""
    setup = scenario.Setup(
        slot_mtu=1300,
        ports=Ports(40000, 40001, 55_000),
        behaviour=Behaviour(
            endpoint_independent=True, hairpinning=True, filtering="endpoint_independent"
        ),
    )
    target = EngineTarget(setup)
    opened = target.engine.translate(traffic.segment(2, 6000), INSIDE, 2, 0)
    ends = (scenario.ENVIRONMENT, traffic.INTERFACE)
    content = packet.tcp(
        *ends, 5000, traffic.source_port(opened), packet.SYN, payload=PAYLOAD, partial=True
    )
    outcomes = []
    for fragment in (0, DONT_FRAGMENT):
        body = packet.ipv4(*ends, packet.TCP, content, fragment=fragment)
        (verdict,) = send(target, traffic.frame_in(INSIDE, 1, body), 1400)
        outcomes.append((verdict.action, verdict.reason, verdict.gso_size))
    assert outcomes == [
        (Action.FORWARD, DropReason.NONE, 1260),
        (Action.DROP, DropReason.MTU_EXCEEDED, 0),
    ]
    assert target.count("replies_icmp") == 0
    assert target.problems() == []
    target.close()
