# SPDX-License-Identifier: Apache-2.0
"""A sink that costs almost nothing: frames to one address are dropped as they enter the VPC.

A program of six BPF instructions at the clsact ingress of the VPC's links compares the IPv4
destination and drops; everything else, ARP for that very address included, passes. The link's
receive counter, which has counted the frame before, is the measurement (`bench.counters`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Sequence

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL
from pyroute2.netlink.rtnl import RTM_NEWQDISC, RTM_NEWTFILTER
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from netns import links, namespace, syscalls
from netns.errors import from_errno
from netns.netlink import RouteSocket, encode

PRIORITY = 2
"""Behind what sends datagrams back (`bench.mirror`)."""

_TC_ACT_OK = 0
_TC_ACT_SHOT = 2
_TC_H_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_CLSACT_INGRESS = 0xFFFFFFF2
_ETH_P_IP = 0x0800
_ACT_DIRECT = 1
_CREATE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_IPV4_DESTINATION = 14 + 16

_INSTRUCTION = struct.Struct("=BBhi")


def program(address: str) -> bytes:
    """The instructions (linux/bpf.h, struct bpf_insn): drop what goes to `address`."""
    number = int(ipaddress.IPv4Address(address))
    signed = number - (1 << 32) if number >> 31 else number

    def instruction(code: int, registers: int, offset: int, value: int) -> bytes:
        return _INSTRUCTION.pack(code, registers, offset, value)

    return b"".join(
        (
            # r6 = r1: the absolute load takes the packet from r6 (BPF_ALU64 | BPF_MOV | BPF_X).
            instruction(0xBF, 0x16, 0, 0),
            # r0 = destination, in host order (BPF_LD | BPF_ABS | BPF_W).
            instruction(0x20, 0, 0, _IPV4_DESTINATION),
            # w0 == address: skip two (BPF_JMP32 | BPF_JEQ | BPF_K).
            instruction(0x16, 0, 2, signed),
            # r0 = TC_ACT_OK; exit.
            instruction(0xB7, 0, 0, _TC_ACT_OK),
            instruction(0x95, 0, 0, 0),
            # r0 = TC_ACT_SHOT; exit.
            instruction(0xB7, 0, 0, _TC_ACT_SHOT),
            instruction(0x95, 0, 0, 0),
        )
    )


def attach(route: RouteSocket, indexes: Sequence[int], address: str) -> None:
    """Drop frames to `address` that enter these links of the namespace of `route`."""
    try:
        loaded = syscalls.load_program(syscalls.BPF_PROG_TYPE_SCHED_CLS, program(address), "bench")
    except OSError as error:
        raise from_errno("cannot load the black hole's program", error.errno or 0) from None
    try:
        messages = []
        for index in indexes:
            messages += [_qdisc(index), ingress_filter(index, loaded, PRIORITY)]
        route.request(messages, "cannot attach the black hole")
    finally:
        os.close(loaded)


def make(name: str, address: str) -> None:
    """Turn `address` into a black hole in namespace `name`, which also answers ARP for it."""

    def work() -> None:
        with RouteSocket() as route:
            own = {value.split("/")[0] for _, value in links.addresses(route)}
            if address not in own:
                message = links.address(links.LOOPBACK_INDEX, address, 32)
                route.request([message], f"cannot add {address}")
            found = [each.index for each in links.links(route).values() if each.name != "lo"]
            attach(route, found, address)

    namespace.call(name, work)


def _qdisc(index: int) -> bytes:
    message = tcmsg()
    message["index"] = index
    message["handle"] = _CLSACT_HANDLE
    message["parent"] = _TC_H_CLSACT
    message["attrs"] = [("TCA_KIND", "clsact")]
    return encode(message, RTM_NEWQDISC, _CREATE)


def filter_message(index: int, priority: int) -> tcmsg:
    """Of a filter for IPv4 at a link's ingress: which one it is."""
    message = tcmsg()
    message["index"] = index
    message["parent"] = _CLSACT_INGRESS
    # Priority in the upper half, protocol in network byte order in the lower.
    message["info"] = priority << 16 | socket.htons(_ETH_P_IP)
    return message


def ingress_filter(index: int, loaded: int, priority: int) -> bytes:
    """Have a loaded program at a link's ingress."""
    message = filter_message(index, priority)
    options = [
        ("TCA_BPF_FD", loaded),
        ("TCA_BPF_NAME", "bench"),
        ("TCA_BPF_FLAGS", _ACT_DIRECT),
    ]
    message["attrs"] = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", {"attrs": options})]
    return encode(message, RTM_NEWTFILTER, _CREATE)
