# SPDX-License-Identifier: Apache-2.0
"""A host in the VPC whose every packet is written by the test.

Its address belongs to nobody and its MAC address to no link, so no kernel answers in its place: it
hears what arrives on the interface's link, answers ARP for its address whenever it is asked to
receive, and says what it is told to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

from tests.live import wire
from tests.live.lab import INTERFACE, INTERFACE_ADDRESS, Lab, wait_until

ADDRESS = "10.0.1.200"
MAC = "02:de:ad:be:ef:c8"


class Peer:
    """`speaking` makes one."""

    def __init__(self, lab: Lab, capture: wire.Capture) -> None:
        self._where = lab.vpc
        self._gateway_mac = wire.mac_of(lab.gateway, INTERFACE)
        self._capture = capture
        self._heard: list[Any] = []
        self.port: int | None = None
        """The one TCP port that it listens to; None: all."""

    def send(self, packet: Any) -> None:
        """A packet from this address to the interface, but for what it says otherwise."""
        whole = IP(src=ADDRESS, dst=INTERFACE_ADDRESS) / packet if IP not in packet else packet
        self._inject(Ether(src=MAC, dst=self._gateway_mac) / whole)

    def _inject(self, frame: Any) -> None:
        wire.inject(self._where, INTERFACE, [bytes(frame)])

    def _listen(self) -> None:
        for frame in map(Ether, self._capture.take()):
            if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == ADDRESS:
                answer = ARP(
                    op=2, hwsrc=MAC, psrc=ADDRESS, hwdst=frame[ARP].hwsrc, pdst=frame[ARP].psrc
                )
                self._inject(Ether(src=MAC, dst=frame.src) / answer)
            elif IP in frame and frame[IP].dst == ADDRESS and self._meant(frame):
                self._heard.append(frame[IP])

    def _meant(self, frame: Any) -> bool:
        """A connection of before, whose end was not acknowledged, is sent again for minutes."""
        return self.port is None or TCP not in frame or bool(frame[TCP].dport == self.port)

    def receive(self, wanted: Callable[[Any], object], what: str) -> Any:
        """The next packet to this address for which `wanted` is true; others before are skipped."""

        def found() -> Any:
            self._listen()
            while self._heard:
                packet = self._heard.pop(0)
                if wanted(packet):
                    return packet
            return None

        return wait_until(found, what)

    def segment(self, flags: str, what: str = "a segment") -> Any:
        """The next TCP segment with exactly these of the flags S, A, F and R."""

        def wanted(packet: Any) -> bool:
            return TCP in packet and set(str(packet[TCP].flags)) & set("SAFR") == set(flags)

        return self.receive(wanted, f"{what} with {flags}")[TCP]

    def silent(self, settle: Callable[[], object]) -> bool:
        """Whether nothing has arrived; `settle` makes sure that everything has gone through."""
        settle()
        self._listen()
        return not self._heard


@contextlib.contextmanager
def speaking(lab: Lab) -> Iterator[Peer]:
    """A peer in the VPC called customer while the context lasts."""
    with wire.capturing((lab.vpc, INTERFACE)) as (capture,):
        yield Peer(lab, capture)
