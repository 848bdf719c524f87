# SPDX-License-Identifier: Apache-2.0
"""The flow cache's program: loaded, attached to links, taken off, and found again.

It is a cls_bpf filter in direct-action mode at the ingress of clsact, before all others there. What
the filter says by its class id is the attachment's number. Nothing is pinned: the filter has the id
of its program, the program those of its maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import CONTROL, KEYS, LINKS, RECORDS, VALUES, Maps
from netns import syscalls
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
from netns.ingress import of_link
from netns.netlink import RouteSocket, attributes, encode

OBJECT = Path(__file__).with_name("flow_cache.bpf.o")
NAME = "hp_flow_cache"
PRIORITY = 1
"""Before `netns.ingress.PRIORITY`, that of what lets nothing pass."""

_BPF_PROG_GET_FD_BY_ID, _BPF_MAP_GET_FD_BY_ID, _BPF_OBJ_GET_INFO_BY_FD = 13, 14, 15
_LOG_BYTES = 1 << 20
_LOG_LINES = 12
_TC_H_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_CLSACT_INGRESS = 0xFFFFFFF2
_ETH_P_ALL = 3
_DIRECT_ACTION = 1
# Of our filter among those of its priority.
_HANDLE = 0x6870
# Stands for an attachment's number while a form is made.
_ANY_NUMBER = 0x7EAD_BEEF
# linux/rtnetlink.h and linux/pkt_cls.h.
_TCMSG, _TCA_OPTIONS = struct.Struct("=BxxxiIII"), 2
_TCA_BPF_CLASSID, _TCA_BPF_NAME, _TCA_BPF_ID = 3, 7, 11
# linux/bpf.h: struct bpf_prog_info up to map_ids, struct bpf_map_info up to name.
_PROGRAM_INFO = struct.Struct("=II8sIIQQQIIQ")
_MAP_INFO = struct.Struct("=IIIIII16s")


@dataclass(frozen=True, slots=True)
class Attached:
    """The program as a link has it."""

    program: int
    """The kernel's id of it."""
    attachment: int


@dataclass(slots=True)
class FlowCache:
    """A loaded program and its maps; a context that closes both. Links go on with it without."""

    descriptor: int
    maps: Maps

    @classmethod
    def load(cls, *, flows: int, attachments: int, path: Path = OBJECT) -> Self:
        """A new one with empty maps, attached to nothing.

        Raises `FlowCacheError`, with the verifier's last lines when it is that which refuses.
        """
        # pyelftools takes 40 ms to import, and a lab without the flow cache loads nothing.
        from hyperplane_nat.flow_cache import elf

        read = elf.read(path)
        sizes = {name: kind.value_bytes for name, kind in read.maps.items()}
        if sizes != VALUES:
            raise FlowCacheError(f"{path} has maps of another form: build it with `make bpf`")
        maps = Maps.create(read.maps, flows=flows, attachments=attachments)
        try:
            return cls(_load(read.linked(maps.descriptors)), maps)
        except BaseException:
            maps.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> int:
        """The kernel's id of the program."""
        return int(self._information()[1])

    @property
    def tag(self) -> bytes:
        """What the kernel tells programs apart by: a digest of the instructions."""
        return bytes(self._information()[2])

    def _information(self) -> tuple[Any, ...]:
        blank = _PROGRAM_INFO.pack(*(0, 0, b"", 0, 0, 0, 0, 0, 0, 0, 0))
        return _PROGRAM_INFO.unpack(_information(self.descriptor, blank))

    def close(self) -> None:
        """Close program and maps; twice is fine."""
        self.maps.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def attach(self, route: RouteSocket, numbers: Mapping[int, int]) -> None:
        """Have frames that arrive on links of the namespace of `route` be those of attachments.

        `numbers` are these by the link's index. A link that has a program of ours, whichever, has
        this one from then on, and no frame passes between the two. Raises `NetnsError`: a link is
        gone. The others have it all the same.
        """
        message = tcmsg()
        message["handle"] = _CLSACT_HANDLE
        message["parent"] = _TC_H_CLSACT
        message["attrs"] = [("TCA_KIND", "clsact")]
        # Built once: index and number are put in their places.
        qdisc = encode(message, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
        message = _filter(0)
        options = [
            ("TCA_BPF_FD", self.descriptor),
            ("TCA_BPF_NAME", NAME),
            ("TCA_BPF_FLAGS", _DIRECT_ACTION),
            ("TCA_BPF_CLASSID", _ANY_NUMBER),
        ]
        message["attrs"] = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", {"attrs": options})]
        classifier = encode(message, RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE)
        before, _, after = classifier.partition(struct.pack("=I", _ANY_NUMBER))
        messages: list[bytes] = []
        for index, number in numbers.items():
            numbered = before + struct.pack("=I", number) + after
            messages += (of_link(qdisc, index), of_link(numbered, index))
        ignore = frozenset((errno.EEXIST,))
        route.request(messages, "cannot attach the flow cache", ignore=ignore)


def detach(route: RouteSocket, index: int) -> None:
    """Take the program off a link, leaving other filters; none there is no error."""
    message = _filter(index)
    message["attrs"] = [("TCA_KIND", "bpf")]
    route.request(
        [encode(message, RTM_DELTFILTER, NLM_F_ACK)],
        f"cannot take the flow cache off link {index}",
        ignore=frozenset((errno.ENOENT, errno.EINVAL, errno.ENODEV)),
    )


def attached(route: RouteSocket, index: int) -> Attached | None:
    """What a link of the namespace of `route` has of us."""
    message = tcmsg()
    message["index"] = index
    message["parent"] = _CLSACT_INGRESS
    found = route.dump(
        encode(message, RTM_GETTFILTER, NLM_F_DUMP), _read_filter, "cannot list ingress filters"
    )
    return next((each for each in found if each is not None), None)


def find(route: RouteSocket, index: int) -> FlowCache | None:
    """The program that a link has and its maps, whoever loaded it; None when it has none.

    Raises `FlowCacheError` when that program is not as ours are: of another version, say.
    """
    there = attached(route, index)
    if there is None:
        return None
    try:
        descriptor = _by_id(_BPF_PROG_GET_FD_BY_ID, there.program)
    except OSError as error:
        raise FlowCacheError(f"cannot open program {there.program}: {error.strerror}") from None
    try:
        return FlowCache(descriptor, _maps_of(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def _load(code: bytes) -> int:
    kind = syscalls.BPF_PROG_TYPE_SCHED_CLS
    try:
        return syscalls.load_program(kind, code, NAME)
    except OSError as error:
        reason = error.strerror
    log = bytearray(_LOG_BYTES)
    try:
        return syscalls.load_program(kind, code, NAME, log)
    except OSError:
        said = log.partition(b"\0")[0].decode(errors="replace").splitlines()[-_LOG_LINES:]
        text = "\n".join((f"the kernel does not take the flow cache: {reason}", *said))
        raise FlowCacheError(text) from None


def _filter(index: int) -> tcmsg:
    message = tcmsg()
    message["index"] = index
    message["handle"] = _HANDLE
    message["parent"] = _CLSACT_INGRESS
    # tcm_info: priority in the upper half, protocol in network byte order in the lower.
    message["info"] = PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    return message


def _read_filter(payload: bytes) -> Attached | None:
    for kind, value in attributes(payload, _TCMSG.size):
        if kind == _TCA_OPTIONS:
            found = dict(attributes(value, 0))
            if found.get(_TCA_BPF_NAME, b"").rstrip(b"\0") == NAME.encode():
                # The kernel does not tell a class id of 0.
                program, attachment = (
                    int.from_bytes(found.get(each, b""), sys.byteorder)
                    for each in (_TCA_BPF_ID, _TCA_BPF_CLASSID)
                )
                return Attached(program, attachment)
    return None


def _by_id(command: int, number: int) -> int:
    return syscalls.bpf(command, struct.pack("=III", number, 0, 0))


def _information(descriptor: int, content: bytes) -> bytes:
    """BPF_OBJ_GET_INFO_BY_FD: the beginning of what the kernel knows, filled in over `content`."""
    buffer = ctypes.create_string_buffer(content, len(content))
    request = struct.pack("=IIQ", descriptor, len(content), ctypes.addressof(buffer))
    syscalls.bpf(_BPF_OBJ_GET_INFO_BY_FD, request)
    return buffer.raw


@contextmanager
def _closed_on_failure(descriptors: dict[str, int]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise


def _maps_of(program: int) -> Maps:
    wanted = {f"hp_{name}": name for name in (KEYS, RECORDS, LINKS, CONTROL)}
    ids = (ctypes.c_uint32 * len(wanted))()
    content = _PROGRAM_INFO.pack(0, 0, b"", 0, 0, 0, 0, 0, 0, len(wanted), ctypes.addressof(ids))
    count = _PROGRAM_INFO.unpack(_information(program, content))[9]
    found: dict[str, int] = {}
    entries: dict[str, int] = {}
    with _closed_on_failure(found):
        for number in ids[: min(count, len(wanted))]:
            descriptor = _by_id(_BPF_MAP_GET_FD_BY_ID, number)
            found[str(number)] = descriptor
            _, _, _, size, most, _, label = _MAP_INFO.unpack(
                _information(descriptor, bytes(_MAP_INFO.size))
            )
            name = wanted.get(label.rstrip(b"\0").decode(errors="replace"))
            if name is None or size != VALUES[name]:
                raise FlowCacheError("the link has a flow cache of another version")
            found[name] = found.pop(str(number))
            entries[name] = most
        if count != len(wanted) or found.keys() != set(wanted.values()):
            raise FlowCacheError("the link has a flow cache of another version")
    return Maps(found, entries)
