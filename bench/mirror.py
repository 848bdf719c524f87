# SPDX-License-Identifier: Apache-2.0
"""Datagrams that enter a VPC go back to who has sent them: whoever asks is answered.

A flow that nobody has answered is half one for every kind of NAT: conntrack holds it on sufferance,
and the flow cache does not have it. Load goes one way, so each flow of it is answered once before.

A program at the clsact ingress of the VPC's links, before the black hole's, changes the places of
addresses and ports, which leaves checksums as they are, and sends the frame out where it came in.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

from pyroute2.netlink import NLM_F_ACK
from pyroute2.netlink.rtnl import RTM_DELTFILTER

from bench import black_hole
from netns import links, namespace, syscalls
from netns.errors import from_errno
from netns.netlink import RouteSocket, encode

PRIORITY = 1
_INSTRUCTION = struct.Struct("=BBhi")
_PROTOCOL, _UDP = 14 + 9, 17
_SWAPS = ((0, 6), (14 + 12, 4), (14 + 20, 2))
"""Hardware addresses, addresses, ports: where the first is, and how long each."""
_STORE_BYTES, _LOAD_BYTES, _REDIRECT = 9, 26, 23
_IFINDEX = 40
"""In struct __sk_buff."""
_BUFFER = -16


def program() -> bytes:
    """The instructions (linux/bpf.h, struct bpf_insn)."""
    code: list[tuple[int, int, int, int]] = []

    def copy(register: int, source: int) -> None:
        code.append((0xBF, source << 4 | register, 0, 0))

    def number(register: int, value: int) -> None:
        code.append((0xB7, register, 0, value))

    def buffer(register: int, offset: int) -> None:
        copy(register, 10)
        code.append((0x07, register, 0, _BUFFER + offset))

    def call(helper: int) -> None:
        code.append((0x85, 0, 0, helper))

    # r6 = r1: the absolute load takes the packet from r6.
    copy(6, 1)
    code.append((0x30, 0, 0, _PROTOCOL))
    # w0 == UDP: skip two; r0 = TC_ACT_UNSPEC, which is on to the next filter.
    code.append((0x16, 0, 2, _UDP))
    number(0, -1)
    code.append((0x95, 0, 0, 0))
    for start, size in _SWAPS:
        copy(1, 6)
        number(2, start)
        buffer(3, 0)
        number(4, 2 * size)
        call(_LOAD_BYTES)
        for place, offset in ((start, size), (start + size, 0)):
            copy(1, 6)
            number(2, place)
            buffer(3, offset)
            number(4, size)
            number(5, 0)
            call(_STORE_BYTES)
    code.append((0x61, 6 << 4 | 1, _IFINDEX, 0))
    number(2, 0)
    call(_REDIRECT)
    code.append((0x95, 0, 0, 0))
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


@contextlib.contextmanager
def standing(name: str) -> Iterator[None]:
    """Every datagram that enters namespace `name` meanwhile comes back."""

    def put(route: RouteSocket) -> list[int]:
        try:
            kind = syscalls.BPF_PROG_TYPE_SCHED_CLS
            loaded = syscalls.load_program(kind, program(), "mirror")
        except OSError as error:
            raise from_errno("cannot load the mirror's program", error.errno or 0) from None
        try:
            found = [each.index for each in links.links(route).values() if each.name != "lo"]
            messages = [black_hole.ingress_filter(index, loaded, PRIORITY) for index in found]
            route.request(messages, "cannot attach the mirror")
        finally:
            os.close(loaded)
        return found

    with namespace.call(name, RouteSocket) as route:
        indexes = put(route)
        try:
            yield
        finally:
            messages = [
                encode(black_hole.filter_message(index, PRIORITY), RTM_DELTFILTER, NLM_F_ACK)
                for index in indexes
            ]
            route.request(messages, "cannot take the mirror away")
