# SPDX-License-Identifier: Apache-2.0
from typing import NamedTuple

from hyperplane_nat.engine import Engine
from hyperplane_nat.io.ring import PacketIO

class Punted(NamedTuple):
    interface: int
    arp: bool
    frame: bytes

class Datapath:
    busy: bool
    def __init__(
        self,
        engine: Engine,
        io: PacketIO,
        *,
        batch_frames: int,
        spin_microseconds: int = 0,
        coalesce_udp: bool = True,
    ) -> None: ...
    def link_slot(self, number: int, interface_index: int) -> None: ...
    def link_interface(self, number: int, interface_index: int) -> None: ...
    def unlink(self, interface_index: int) -> None: ...
    def run(self, budget: int) -> int: ...
    def take_punted(self) -> list[Punted]: ...
    def send_outside(self, interface: int, frame: bytes) -> None: ...
    def publish(self, ring_dropped: int) -> None: ...
