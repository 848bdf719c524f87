# SPDX-License-Identifier: Apache-2.0
"""A network that loses, repeats, reorders and delays packets, on both sides of a NAT.

Theory of operation
-------------------
In each namespace of an end the kernel sends the packets of impaired conversations into a TUN
device; a process reads them there, decides their fate (`impairment.Line`) and writes them on the
real link to the NAT. What comes back on the link is taken by a packet socket before the kernel's
IP stack, which drops it (a `netdev` rule), and goes into the TUN device after it has met its fate.
So the ends are real stacks, which do without the link, and the NAT is none the wiser.

The server's port tells which conversation a packet belongs to: no NAT of these changes it.
Packets of no known conversation pass unchanged.

All of it is a process of its own, so that the network is as quick when the programs are busy. It
is told of a conversation before that begins, and looks for what it has been told whenever it meets
a port that it does not know: nobody needs to wait for an answer. It ends when nobody can tell it
anything any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import heapq
import itertools
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Self

from netns import namespace
from tests.differential.conversation import Conversation, End, Fault, Impairment, Segment
from tests.differential.impairment import Line, segment_of
from tests.live import wire

TUN_NAME = "lossy"
MTU = 1500

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_SO_ATTACH_FILTER = 26
_ETHERNET_BYTES = 14
_PROTOCOL_TCP = 6
_FRAME_BYTES = 1 << 16
_BATCH = 64
_ORDER_BYTES = 1 << 16

READY_SECONDS = 120.0
"""How long its start may take on a loaded machine."""


@dataclass(frozen=True)
class Port:
    """Where a side meets the NAT: a link in the namespace of an end."""

    side: End
    where: str
    link: str
    mac: str
    gateway_mac: str
    address: str
    """The server's impaired address: what a side's link brings of it is taken."""


class _Station:
    """The TUN device and the packet socket of a port."""

    def __init__(self, port: Port) -> None:
        self.side = port.side
        self.header = bytes.fromhex((port.gateway_mac + port.mac).replace(":", "")) + b"\x08\x00"
        self.tun = namespace.call(port.where, _open_tun)
        try:
            self.link = namespace.call(port.where, _open_link, port)
        except BaseException:
            os.close(self.tun)
            raise

    def to_kernel(self, packet: bytes) -> None:
        # EIO while the device is down, which is how a world ends.
        with contextlib.suppress(OSError):
            os.write(self.tun, packet)

    def to_link(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):
            self.link.send(self.header + packet)


def _open_tun() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", TUN_NAME.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_link(port: Port) -> socket.socket:
    result = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        _take_only(result, port)
        result.setsockopt(wire.SOL_PACKET, wire.PACKET_IGNORE_OUTGOING, 1)
        result.setsockopt(socket.SOL_SOCKET, wire.SO_RCVBUFFORCE, wire.CAPTURE_BUFFER_BYTES)
        result.setblocking(False)
        result.bind((port.link, wire.ETH_P_ALL))
    except BaseException:
        result.close()
        raise
    return result


def _take_only(link: socket.socket, port: Port) -> None:
    """Only IPv4 packets that come from the impaired address (at the server's side: go to it)."""
    offset = 26 if port.side is End.CLIENT else 30
    (address,) = struct.unpack("!I", socket.inet_aton(port.address))
    program = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (0x28, 0, 0, 12),  # ldh [12]
            (0x15, 0, 3, 0x0800),  # jne #0x0800, refuse
            (0x20, 0, 0, offset),  # ld [offset]
            (0x15, 0, 1, address),  # jne #address, refuse
            (0x06, 0, 0, 0xFFFF),  # ret #65535
            (0x06, 0, 0, 0),  # refuse: ret #0
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions and where they are.
    link.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)),
    )


class Network:
    """What the process does: the impaired network of one world, until `orders` is closed."""

    def __init__(self, ports: list[Port], orders: socket.socket) -> None:
        self.counts = dict.fromkeys(("passed", "lost", "repeated", "late"), 0)
        self._lines: dict[int, dict[End, Line]] = {}
        self._late: list[tuple[float, int, _Station, bool, bytes]] = []
        self._order = itertools.count()
        self._orders = orders
        self._selector = selectors.DefaultSelector()
        for port in ports:
            station = _Station(port)
            self._selector.register(station.tun, selectors.EVENT_READ, (station, True))
            self._selector.register(station.link, selectors.EVENT_READ, (station, False))
        orders.setblocking(False)
        self._selector.register(orders, selectors.EVENT_READ)

    def run(self) -> None:
        """Carry packets until nobody is there to say anything."""
        while True:
            wait = None
            if self._late:
                wait = max(0.0, self._late[0][0] - time.monotonic())
            for key, _events in self._selector.select(wait):
                if key.data is not None:
                    self._take(*key.data)
                elif not self._listen():
                    return
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _due, _order, station, outwards, packet = heapq.heappop(self._late)
                self._pass(station, outwards, packet)

    def _listen(self) -> bool:
        """Take what has been said; False when nothing more can be."""
        with contextlib.suppress(BlockingIOError):
            while text := self._orders.recv(_ORDER_BYTES):
                order = json.loads(text)
                if (given := order.get("impairment")) is not None:
                    impairment = _impairment(given)
                    self._lines[order["port"]] = {
                        side: Line(impairment, order["key"], side) for side in End
                    }
                elif "port" in order:
                    self._lines.pop(order["port"], None)
                else:
                    self._orders.send(json.dumps(self.counts).encode())
            return False
        return True

    def _take(self, station: _Station, outwards: bool) -> None:
        for _ in range(_BATCH):
            try:
                if outwards:
                    packet = os.read(station.tun, _FRAME_BYTES)
                else:
                    packet = station.link.recv(_FRAME_BYTES)[_ETHERNET_BYTES:]
            except BlockingIOError:
                return
            self._judge(station, outwards, packet)

    def _judge(self, station: _Station, outwards: bool, packet: bytes) -> None:
        fate: tuple[float, ...] = (0.0,)
        if packet[9] == _PROTOCOL_TCP:
            start = (packet[0] & 15) * 4
            # Outwards at the client's side and inwards at the server's the client has sent it.
            sender = End.CLIENT if outwards is (station.side is End.CLIENT) else End.SERVER
            at = start + (2 if sender is End.CLIENT else 0)
            port = int.from_bytes(packet[at : at + 2], "big")
            lines = self._lines.get(port)
            if lines is None:
                self._listen()
                lines = self._lines.get(port)
            if lines is not None:
                total = int.from_bytes(packet[2:4], "big")
                payload = total - start - (packet[start + 12] >> 4) * 4
                segment = segment_of(packet[start + 13], payload)
                fate = lines[station.side].fate(sender, segment, payload)
        self.counts["lost"] += not fate
        self.counts["repeated"] += len(fate) > 1
        for delay in fate:
            if delay:
                self.counts["late"] += 1
                due = time.monotonic() + delay
                heapq.heappush(self._late, (due, next(self._order), station, outwards, packet))
            else:
                self._pass(station, outwards, packet)

    def _pass(self, station: _Station, outwards: bool, packet: bytes) -> None:
        self.counts["passed"] += 1
        if outwards:
            station.to_link(packet)
        else:
            station.to_kernel(packet)


def _impairment(given: dict[str, Any]) -> Impairment:
    faults = tuple(
        Fault(
            **{
                **each,
                "side": End(each["side"]),
                "sender": End(each["sender"]),
                "segment": Segment(each["segment"]),
            }
        )
        for each in given["faults"]
    )
    return Impairment(**{**given, "faults": faults})


class Middlebox:
    """The network's process, and what it is told; it lasts while its context does."""

    def __init__(self, ports: list[Port]) -> None:
        self._ports = ports
        self.faults: tuple[Fault, ...] = ()
        """They befall every conversation of this world that is impaired, as if the NAT did it."""

    def __enter__(self) -> Self:
        self._mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            plan = json.dumps([dataclasses.asdict(port) for port in self._ports])
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), plan],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        try:
            self._mine.settimeout(READY_SECONDS)
            # It answers when it has opened everything.
            self.counts()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._mine.close()
        self._process.wait()

    def _tell(self, **order: object) -> None:
        self._mine.send(json.dumps(order).encode())

    def impair(self, conversation: Conversation, server_port: int, service: int = 0) -> None:
        """Packets from and to this port of the server fare as the conversation says from now on."""
        if (given := conversation.impairment) is not None:
            meant = (each for each in given.faults if each.service == service)
            given = dataclasses.replace(given, faults=(*meant, *self.faults))
            self._tell(port=server_port, key=conversation.key, impairment=dataclasses.asdict(given))

    def spare(self, server_port: int) -> None:
        """Packets from and to this port pass unchanged from now on."""
        self._tell(port=server_port)

    def counts(self) -> dict[str, int]:
        """Packets that were passed, lost, repeated and late, so far."""
        self._tell()
        answer = self._mine.recv(_ORDER_BYTES)
        if not answer:
            raise RuntimeError(f"the middlebox ended with status {self._process.wait()}")
        counts: dict[str, int] = json.loads(answer)
        return counts


def main(descriptor: str, plan: str) -> None:
    """The process: told through a socket it inherits, between ports that are given as JSON."""
    ports = [Port(**{**each, "side": End(each["side"])}) for each in json.loads(plan)]
    Network(ports, socket.socket(fileno=int(descriptor))).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
