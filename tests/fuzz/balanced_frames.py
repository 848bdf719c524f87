# SPDX-License-Identifier: Apache-2.0
"""Frames for a load balancer's node or endpoint, of clients and targets, and errors about them."""

from ipaddress import IPv4Address
from random import Random

from hyperplane_nat.engine import Engine, Flow, HostFlow
from tests.engine import scenario, traffic
from tests.engine.scenario import HOST, INSIDE, OUTSIDE
from tests.reference import packet
from tests.reference.settings import Listener

Sample = tuple[int, int, bytes]

NODE = scenario.NODES[scenario.NODE_NUMBER]
_TARGETS = tuple(
    (IPv4Address(address), 8080) for address in ("10.0.1.50", "10.0.1.51", scenario.WEB)
)
LISTENERS = (
    Listener(packet.TCP, 80, 600, sticky=False, preserves=True, targets=_TARGETS),
    Listener(packet.TCP, 443, 1_200, sticky=True, preserves=False, targets=_TARGETS),
    Listener(packet.TCP, 8000, 900, sticky=True, preserves=True, targets=_TARGETS, proxies=True),
    Listener(packet.UDP, 80, 300, sticky=False, preserves=False, targets=_TARGETS),
    Listener(packet.UDP, 443, 800, sticky=False, preserves=True, targets=_TARGETS),
    Listener(packet.UDP, 40_001, 800, sticky=False, preserves=False, targets=_TARGETS[:1]),
)
_CLIENTS = (
    ((INSIDE, 1), scenario.ENVIRONMENT),
    ((INSIDE, 3), scenario.ENVIRONMENT),
    ((HOST, 0), "10.0.1.50"),
    ((HOST, 1), "10.0.1.51"),
    ((OUTSIDE, 0), scenario.ECHO),
    # Of the VPC with the endpoint.
    ((INSIDE, 4), scenario.ENVIRONMENT),
    ((HOST, 2), "10.0.1.50"),
    ((OUTSIDE, scenario.BEHIND_ENDPOINT), scenario.ECHO),
)
_FLAGS = (
    *(packet.SYN, packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK),
    *(packet.FIN | packet.ACK, packet.RST),
)
_OPTIONS = (b"", b"", b"\x02\x04\x05\xb4", b"\x01\x05\x0a" + bytes(4) + b"\0\0\x04\x05")
"""The largest segment, and what has come out of order (RFC 2018), at an odd place."""


def samples(engine: Engine, random: Random) -> list[Sample]:
    """What clients send to the node, and what the targets of flows there are answer."""
    found = []
    for _ in range(20):
        place, address = random.choice(_CLIENTS)
        ends = (
            address,
            NODE,
            random.choice((5000, 5001)),
            random.choice((80, 443, 8000, 8000, 40_001, 7)),
        )
        found += _sent(place, ends, random.choice((packet.TCP, packet.UDP)), random)
    flows: list[Flow | HostFlow] = [*engine.flows(), *engine.host_flows()]
    for flow in [each for each in flows if each.target is not None][:12]:
        assert flow.target is not None
        ends = (flow.target.address, flow.nat_address, flow.target.port, flow.nat_port)
        protocol = packet.TCP if flow.protocol == "tcp" else packet.UDP
        found += _sent(_place_of(flow), ends, protocol, random)
    return found


def _place_of(flow: Flow | HostFlow) -> tuple[int, int]:
    """On which link what the target answers comes."""
    assert flow.target is not None
    if flow.target.address in ("10.0.1.50", "10.0.1.51"):
        return HOST, int(flow.target.address == "10.0.1.51")
    if isinstance(flow, Flow) and flow.nat_address not in scenario.NODES.values():
        return OUTSIDE, flow.interface if flow.interface < 3 else 0
    return OUTSIDE, 0


def _sent(
    place: tuple[int, int], ends: tuple[str, str, int, int], protocol: int, random: Random
) -> list[Sample]:
    """A packet, and an error of its sender about one that went the other way."""
    source, destination, port, far = ends
    back = (destination, source, far, port)
    if protocol == packet.UDP:
        content, quoted = packet.udp(*ends, b"1"), packet.udp(*back, b"2")
    else:
        numbers = random.choice((1000, 1001, 5000)), random.choice((1001, 1029, 9001))
        content = packet.tcp(
            *ends,
            random.choice(_FLAGS),
            seq=numbers[0],
            ack=numbers[1],
            options=random.choice(_OPTIONS),
            payload=bytes(random.choice((0, 0, 200))),
        )
        quoted = packet.tcp(*back, packet.ACK, seq=numbers[1], ack=numbers[0])
    about = packet.ipv4(destination, source, protocol, quoted)
    message = packet.icmp(random.choice((3, 3, 11)), 1, bytes(4), about)
    return [
        (*place, traffic.frame_in(*place, packet.ipv4(source, destination, which, what)))
        for which, what in ((protocol, content), (packet.ICMP, message))
    ]


def event(engine: Engine, random: Random, now: int) -> None:
    """The node goes, or the endpoint, or the flows of one of its targets end."""
    if random.random() < 0.3:
        numbers = (*scenario.NODES, scenario.ENDPOINT_NUMBER)
        engine.remove_interface(random.choice(numbers))
        return
    flows = [each for each in engine.host_flows() if each.target is not None]
    for flow in flows[:1]:
        assert flow.target is not None
        engine.end_flows(
            scenario.NODE_NUMBER, flow.protocol, flow.destination_port, flow.target, now
        )
