# SPDX-License-Identifier: Apache-2.0
"""Counting what arrives in a VPC: the receive counters of its links.

A veth counts a frame when its peer hands it over, before anything in the VPC sees it, so nothing
can be lost between the gateway and this counter. It counts frames as they are handed over: a frame
that stands for several datagrams (UDP GSO) counts once, with one set of headers. The bytes are
counted too, and all datagrams of a measurement have one size, so `Window.datagrams` knows how many
there were.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.addresses import HEADER_BYTES
from netns import namespace

_DEVICES = Path("/proc/thread-self/net/dev")
_READ_BYTES = 1 << 18


@dataclass(frozen=True)
class Window:
    """What arrived between two readings."""

    packets: int
    bytes: int
    seconds: float

    def datagrams(self, payload_bytes: int) -> float:
        """UDP datagrams of this payload, however many of them came as one frame."""
        return (self.bytes - self.packets * HEADER_BYTES) / payload_bytes


@dataclass(frozen=True)
class Reading:
    """The counters at a moment (time.monotonic)."""

    packets: int
    bytes: int
    moment: float

    def since(self, earlier: Reading) -> Window:
        """What arrived since an earlier reading."""
        return Window(
            self.packets - earlier.packets,
            self.bytes - earlier.bytes,
            self.moment - earlier.moment,
        )


def parse(text: str) -> tuple[int, int]:
    """Packets and bytes received by all links but the loopback, from /proc/net/dev."""
    packets = size = 0
    for line in text.splitlines()[2:]:
        name, _, values = line.partition(":")
        if name.strip() != "lo":
            fields = values.split()
            size += int(fields[0])
            packets += int(fields[1])
    return packets, size


class ReceiveCounters:
    """The receive counters of a namespace; the file stays open, a reading is one system call."""

    def __init__(self, name: str) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._descriptor = namespace.call(name, os.open, _DEVICES, flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def read(self) -> Reading:
        """The counters now."""
        text = os.pread(self._descriptor, _READ_BYTES, 0).decode()
        moment = time.monotonic()
        packets, size = parse(text)
        return Reading(packets, size, moment)

    def watch(self, warm_up_seconds: float, seconds: float) -> Window:
        """What arrives in `seconds`, after a warm-up."""
        time.sleep(warm_up_seconds)
        start = self.read()
        time.sleep(seconds)
        return self.read().since(start)
