# SPDX-License-Identifier: Apache-2.0
"""A lab whose gateway has the flow cache and no engine: the test says what is cached.

`slow_path` stands in for the engine: it carries what the cache leaves of the flows that a test has
cached, one frame at a time, with checksums made anew. So a connection begins and ends there.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from hyperplane_nat.flow_cache.maps import FLOW_RECORDS, RECORDS, Key, Link, Rewrite, Use
from hyperplane_nat.flow_cache.program import FlowCache
from netns import topology
from netns.interior import route_socket
from netns.spec import LabSpec, Topology
from tests.live import wire
from tests.live.lab import require_program, run

Endpoint = tuple[str, int]

INSIDE, GATEWAY = "169.254.100.2", "169.254.100.1"
TRANSLATED, SERVICE = "10.0.1.10", "10.0.1.80"
VPC_MTU, ENVIRONMENT_MTU = 1400, 1500
INTERFACE, INTERFACE_ATTACHMENT = "eni-a", 5
SECOND = 1_000_000_000
ETH_P_IP = 0x0800
LIMITS = (350 * SECOND, 30 * SECOND)
FLOWS, ATTACHMENTS = 64, 8
ARMED = 1 << 63
RECORD_BYTES, PACKETS = 64, 8
"""Of a record: its length, and where it counts packets."""
_FRAME_MAX = ENVIRONMENT_MTU + 14
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Flow:
    """One cached flow."""

    line: int
    environment: int
    outward: tuple[Endpoint, Endpoint]
    """As the environment sends: source and destination."""
    beyond: tuple[Endpoint, Endpoint]
    """As the VPC gets it."""
    keys: tuple[Key, Key]


@dataclass
class Scene:
    """The lab, the cache on its links, and what is cached."""

    lab: Topology
    vpc: str
    cache: FlowCache
    flows: list[Flow] = field(default_factory=list)

    def environment(self, number: int = 1) -> str:
        """The namespace of an environment."""
        return self.lab.slots[number - 1].namespace

    def near(self, number: int = 1) -> str:
        """The gateway's end of an environment's link."""
        return topology.slot_link(number)

    def serve(self, attachment: int, *, generation: int = 1, **changes: object) -> None:
        """Have an attachment in `links`; `changes` are fields of `Link`."""
        values: dict[str, object] = {"mtu": VPC_MTU}
        if attachment == INTERFACE_ATTACHMENT:
            values |= {"index": self.interface.ifindex, "address": mac(self.interface.mac)}
        else:
            slot = self.lab.slots[attachment - 1]
            values |= {
                "index": slot.ifindex,
                "address": mac(slot.gateway_mac),
                "mtu": ENVIRONMENT_MTU,
            }
        link = Link(generation=generation, **(values | changes))  # type: ignore[arg-type]
        self.cache.maps.set_link(attachment, link)

    @property
    def interface(self) -> topology.Interface:
        """The network interface, eni-a."""
        return self.lab.interfaces[0]

    def add(
        self,
        protocol: int,
        outward: tuple[Endpoint, Endpoint],
        beyond: tuple[Endpoint, Endpoint],
        *,
        environment: int = 1,
        limit: int = 0,
        last_use: int | None = None,
        sequences: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    ) -> Flow:
        """Cache both directions of a flow; `sequences` are (end, acknowledged) of each."""
        slot = self.lab.slots[environment - 1]
        line = len(self.flows) * FLOW_RECORDS
        used = time.monotonic_ns() if last_use is None else last_use
        out = Key(environment, protocol, *outward)
        back = Key(INTERFACE_ATTACHMENT, protocol, beyond[1], beyond[0])
        self.cache.maps.put(
            line,
            out,
            Rewrite(*beyond, mac(self.interface.peer_mac), INTERFACE_ATTACHMENT, (1, 1), limit),
            Use(used, 0, 0, *sequences[0]),
        )
        self.cache.maps.put(
            line + 1,
            back,
            Rewrite(outward[1], outward[0], mac(slot.environment_mac), environment, (1, 1), limit),
            Use(used, 0, 0, *sequences[1]),
        )
        flow = Flow(line, environment, outward, beyond, (out, back))
        self.flows.append(flow)
        return flow

    def udp(self, port: int = 41000, translated: int = 31000, service: int = 8000) -> Flow:
        """An ordinary UDP flow of environment 1."""
        return self.add(17, *ordinary(port, translated, service))

    def arm(self, flow: Flow, packets: int = ARMED) -> None:
        """Have frames of the flow's originator be misses that are counted; or (0) hits again."""
        place = flow.line * RECORD_BYTES + PACKETS
        self.cache.maps.memory(RECORDS)[place : place + 8] = packets.to_bytes(8, "little")

    def use(self, flow: Flow) -> tuple[Use, Use]:
        """What both directions remember."""
        return self.cache.maps.use(flow.line), self.cache.maps.use(flow.line + 1)

    def counts(self, flow: Flow) -> tuple[tuple[int, int], tuple[int, int]]:
        """Packets and bytes of both directions."""
        out, back = self.use(flow)
        return (out.packets, out.bytes), (back.packets, back.bytes)


def ordinary(
    port: int, translated: int, service: int
) -> tuple[tuple[Endpoint, Endpoint], tuple[Endpoint, Endpoint]]:
    """What a flow through a NAT is before and after."""
    remote = (SERVICE, service)
    return ((INSIDE, port), remote), ((TRANSLATED, translated), remote)


def mac(text: str) -> bytes:
    """A MAC address as bytes."""
    return bytes.fromhex(text.replace(":", ""))


@contextlib.contextmanager
def built(spec: LabSpec) -> Iterator[Scene]:
    """The lab of a spec with the cache on its links."""
    lab = topology.build(spec)
    try:
        vpc = topology.vpc_namespace(spec.lab, spec.vpcs[0].name)
        ip = require_program("ip", "iproute2")
        for slot in lab.slots:
            neighbour(ip, slot.namespace, topology.ENVIRONMENT_LINK, GATEWAY, slot.gateway_mac)
        neighbour(ip, vpc, INTERFACE, TRANSLATED, lab.interfaces[0].mac)
        with FlowCache.load(flows=FLOWS, attachments=ATTACHMENTS) as cache:
            scene = Scene(lab, vpc, cache)
            cache.maps.set_control(LIMITS)
            with route_socket(lab.gateway) as route:
                cache.attach(route, {index: number for number, index in links(scene)})
            for number, _ in links(scene):
                scene.serve(number)
            yield scene
    finally:
        topology.destroy(spec.lab)


def undropped(scene: Scene) -> None:
    """Take away what a lab has behind the cache and lets nothing pass: `netns.ingress`."""
    tc = require_program("tc", "iproute2")
    for link in (*(scene.near(slot.number) for slot in scene.lab.slots), INTERFACE):
        run(scene.lab.gateway, tc, "filter", "del", "dev", link, "ingress", "prio", "2")


def links(scene: Scene) -> list[tuple[int, int]]:
    """Number and index of each attachment."""
    slots = [(slot.number, slot.ifindex) for slot in scene.lab.slots]
    return [*slots, (INTERFACE_ATTACHMENT, scene.interface.ifindex)]


def neighbour(ip: str, where: str, link: str, address: str, hardware: str) -> None:
    """Have a namespace know a next hop: nobody in the gateway answers ARP."""
    run(where, ip, "neigh", "add", address, "lladdr", hardware, "dev", link, "nud", "permanent")


class Witness:
    """What the gateway gets of a link behind the cache: its misses, IPv4 alone."""

    def __init__(self, scene: Scene, link: str) -> None:
        self.socket = wire._packet_socket(scene.lab.gateway, link, ETH_P_IP)
        self.socket.settimeout(30)

    def frame(self) -> bytes:
        """The next frame; fails when none comes."""
        return self.socket.recv(1 << 17)

    def nothing(self) -> bool:
        """Whether none has come."""
        readable, _, _ = select.select([self.socket], [], [], 0)
        return not readable

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def slow_path(scene: Scene) -> Iterator[list[bytes]]:
    """Carry what the cache leaves of its flows; yields the frames that were carried."""
    carried: list[bytes] = []
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        near = {scene.near(slot.number): slot.number for slot in scene.lab.slots} | {
            INTERFACE: INTERFACE_ATTACHMENT
        }
        sockets = {}
        for link, number in near.items():
            witness = Witness(scene, link)
            stack.callback(witness.close)
            sockets[number] = witness.socket

        def work() -> None:
            while not ended.is_set():
                readable, _, _ = select.select(list(sockets.values()), [], [], _POLL_SECONDS)
                for number, each in sockets.items():
                    if each in readable:
                        frame = each.recv(1 << 17)
                        found = translated(scene, number, frame)
                        if found is not None:
                            carried.append(frame)
                            out, rewritten = found
                            sockets[out].send(rewritten)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield carried
        finally:
            ended.set()
            thread.join()


def translated(scene: Scene, attachment: int, frame: bytes) -> tuple[int, bytes] | None:
    """A frame of a cached flow rewritten, and where it leaves; None for others and large ones."""
    packet = Ether(frame)
    layer = next((each for each in (TCP, UDP) if each in packet), None)
    if layer is None or len(frame) > _FRAME_MAX:
        return None
    ends = (packet[IP].src, packet[layer].sport), (packet[IP].dst, packet[layer].dport)
    for flow in scene.flows:
        slot = scene.lab.slots[flow.environment - 1]
        if attachment == flow.environment and ends == flow.outward:
            out, new = INTERFACE_ATTACHMENT, flow.beyond
            packet.src, packet.dst = scene.interface.mac, scene.interface.peer_mac
        elif attachment == INTERFACE_ATTACHMENT and ends == flow.beyond[::-1]:
            out, new = flow.environment, flow.outward[::-1]
            packet.src, packet.dst = slot.gateway_mac, slot.environment_mac
        else:
            continue
        (packet[IP].src, packet[layer].sport), (packet[IP].dst, packet[layer].dport) = new
        del packet[IP].chksum, packet[layer].chksum
        return out, bytes(packet)
    return None
