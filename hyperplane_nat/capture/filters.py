# SPDX-License-Identifier: Apache-2.0
"""Capture filters: an expression of pcap-filter(7) as a program that the kernel runs.

Theory of operation
-------------------
Libpcap, the library of tcpdump, compiles the expression for Ethernet frames into classic BPF
(`struct bpf_insn`), which is what SO_ATTACH_FILTER takes (`struct sock_filter` has the same
layout). Its functions are called through ctypes, and only for a capture with a filter. Frames on
the gateway's links have no VLAN tags, so a program need not look into the metadata where the kernel
keeps them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import struct

from hyperplane_nat.capture.errors import CaptureError

LINKTYPE_ETHERNET = 1
SNAPLEN = 262_144
"""What an accepting program returns: all of any frame."""

NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A program that lets no frame pass: `ret #0`."""

_NETMASK_UNKNOWN = 0xFFFFFFFF
_INSTRUCTION_BYTES = 8
_ERROR_CHARACTERS = 200


class _Program(ctypes.Structure):
    """`struct bpf_program` of <pcap/bpf.h>."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


@functools.cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("pcap") or "libpcap.so.0.8"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        raise CaptureError(
            "a capture filter needs libpcap (apt-get install libpcap0.8, or leave --filter out)"
        ) from None
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint32,
    )
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = (ctypes.c_void_p,)
    library.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
    library.pcap_freecode.restype = None
    library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_close.restype = None
    return library


def compiled(expression: str) -> bytes:
    """
    The expression as classic BPF, 8 bytes an instruction; it returns `SNAPLEN` or 0.

    Errors: CaptureError for what does not parse, and without libpcap.
    """
    if "\0" in expression:
        raise CaptureError("the filter contains a null byte (see pcap-filter(7))")
    library = _library()
    handle = library.pcap_open_dead(LINKTYPE_ETHERNET, SNAPLEN)
    if not handle:
        raise MemoryError
    program = _Program()
    try:
        text = expression.encode("utf-8", "surrogateescape")
        if library.pcap_compile(handle, ctypes.byref(program), text, 1, _NETMASK_UNKNOWN):
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise CaptureError(_line(expression, reason))
        try:
            return ctypes.string_at(program.instructions, program.length * _INSTRUCTION_BYTES)
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


def _line(expression: str, reason: str) -> str:
    text = " ".join(f"filter {expression!r}: {reason}".split())
    if len(text) > _ERROR_CHARACTERS:
        text = f"{text[:_ERROR_CHARACTERS]}..."
    return f"{text} (see pcap-filter(7))"
