# SPDX-License-Identifier: Apache-2.0
"""Drop everything that enters through a link, behind the packet tap.

A packet socket bound to ETH_P_ALL sees a frame first, then tc ingress, then the IP stack. A
cls_bpf program that returns TC_ACT_SHOT therefore leaves the tap untouched and keeps the
namespace's own stack from ever seeing the frame. The program has two instructions and is loaded
once; every link's filter refers to it. It needs no nft or tc binary, and works where the
matchall and gact kernel modules are missing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from netns import syscalls
from netns.errors import from_errno
from netns.formats import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RTM_DELTFILTER,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    tcmsg,
)
from netns.netlink import RouteSocket, attributes, encode

PROGRAM_NAME = "hp_drop"
PRIORITY = 2

_TC_ACT_SHOT = 2
_TC_H_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_CLSACT_INGRESS = 0xFFFFFFF2
_ETH_P_ALL = 3
_TCA_BPF_FLAG_ACT_DIRECT = 1
# linux/rtnetlink.h and linux/pkt_cls.h.
_TCMSG, _TCA_OPTIONS, _TCA_BPF_NAME = struct.Struct("=16xI"), 2, 7
_LISTING = "cannot list ingress filters"
_CREATE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL

# linux/bpf.h, struct bpf_insn: r0 = TC_ACT_SHOT (BPF_ALU64 | BPF_MOV | BPF_K); exit.
_INSTRUCTION = struct.Struct("=BBhi")
_PROGRAM = _INSTRUCTION.pack(0xB7, 0, 0, _TC_ACT_SHOT) + _INSTRUCTION.pack(0x95, 0, 0, 0)


def drop(route: RouteSocket, indexes: Sequence[int]) -> None:
    """Drop all ingress of the links with these indexes in the namespace of `route`."""
    _drop(route, indexes)


def _drop(route: RouteSocket, indexes: Sequence[int], ignore: frozenset[int] = frozenset()) -> None:
    if not indexes:
        return
    try:
        program = syscalls.load_program(syscalls.BPF_PROG_TYPE_SCHED_CLS, _PROGRAM, PROGRAM_NAME)
    except OSError as error:
        raise from_errno("cannot load the ingress program", error.errno or 0) from None
    try:
        # Built once: only the link index differs, at a fixed place in the message.
        qdisc, classifier = _qdisc(), _filter(program)
        messages: list[bytes] = []
        for index in indexes:
            messages += (of_link(qdisc, index), of_link(classifier, index))
        route.request(messages, "cannot attach the ingress program", ignore=ignore)
    finally:
        os.close(program)


def put_behind(route: RouteSocket, indexes: Iterable[int]) -> None:
    """Have the drop of these links behind other filters, where a former version put it first.

    Nothing passes meanwhile.
    """
    message = tcmsg()
    message["parent"] = _CLSACT_INGRESS
    request = encode(message, RTM_GETTFILTER, NLM_F_DUMP)
    found = {
        index: max(route.dump(of_link(request, index), _priority, _LISTING), default=0)
        for index in indexes
    }
    former = [index for index, priority in found.items() if 0 < priority < PRIORITY]
    # They have the qdisc.
    _drop(route, former, frozenset((errno.EEXIST,)))
    messages = []
    for index in former:
        message = tcmsg()
        message["index"] = index
        message["parent"] = _CLSACT_INGRESS
        message["info"] = found[index] << 16 | socket.htons(_ETH_P_ALL)
        messages.append(encode(message, RTM_DELTFILTER, NLM_F_ACK))
    route.request(messages, "cannot put the ingress program behind others")


def missing(route: RouteSocket, indexes: Iterable[int]) -> list[int]:
    """Those of the link indexes whose ingress is not dropped by our program."""
    message = tcmsg()
    message["parent"] = _CLSACT_INGRESS
    request = encode(message, RTM_GETTFILTER, NLM_F_DUMP)
    return [
        index
        for index in indexes
        if not any(route.dump(of_link(request, index), _is_ours, _LISTING))
    ]


def of_link(message: bytes, index: int) -> bytes:
    """A copy of an encoded tcmsg for another link: nlmsghdr (16), family and padding (4), index."""
    return message[:20] + struct.pack("=i", index) + message[24:]


def _is_ours(payload: bytes) -> bool:
    return _priority(payload) > 0


def _priority(payload: bytes) -> int:
    """That of the filter, if it is ours; else 0."""
    for kind, value in attributes(payload, _TCMSG.size):
        if kind == _TCA_OPTIONS:
            name = dict(attributes(value, 0)).get(_TCA_BPF_NAME, b"")
            if name.rstrip(b"\0") == PROGRAM_NAME.encode():
                (information,) = _TCMSG.unpack_from(payload)
                return int(information) >> 16
    return 0


def _qdisc() -> bytes:
    message = tcmsg()
    message["handle"] = _CLSACT_HANDLE
    message["parent"] = _TC_H_CLSACT
    message["attrs"] = [("TCA_KIND", "clsact")]
    return encode(message, RTM_NEWQDISC, _CREATE)


def _filter(program: int) -> bytes:
    message = tcmsg()
    message["parent"] = _CLSACT_INGRESS
    # tcm_info: priority in the upper half, protocol in network byte order in the lower.
    message["info"] = PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    message["attrs"] = [
        ("TCA_KIND", "bpf"),
        (
            "TCA_OPTIONS",
            {
                "attrs": [
                    ("TCA_BPF_FD", program),
                    ("TCA_BPF_NAME", PROGRAM_NAME),
                    ("TCA_BPF_FLAGS", _TCA_BPF_FLAG_ACT_DIRECT),
                ]
            },
        ),
    ]
    return encode(message, RTM_NEWTFILTER, _CREATE)
