# SPDX-License-Identifier: Apache-2.0
"""Sockets inside namespaces, opened in bulk for one process that plays many hosts; unix sockets.

A socket stays in the namespace it was created in, whoever uses it: a helper thread walks
through the namespaces, opens the sockets and hands them to the caller, whose own thread never
leaves its namespace. All sockets are non-blocking and closed on exec.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from netns import namespace
from netns.errors import NetnsError, from_errno

Kind = Literal["tcp", "udp", "icmp", "ping"]
"""`icmp` is a raw socket that gets all ICMP of its namespace, IPv4 header included; `ping` gets
the answers to its own echo requests only, without IPv4 header, and its bound port is the
identifier: the kernel fills in that and the checksum."""

_KINDS: dict[str, tuple[socket.SocketKind, int]] = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "ping": (socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
}
_ICMP_ECHO_REQUEST = 8
# For everything else the process has open.
_SPARE_FILES = 256


def open_each(names: Iterable[str], kind: Kind, *, port: int = 0) -> list[socket.socket]:
    """One socket in each namespace, in order; all or none.

    `port` is the local port (`ping`: the identifier) to bind to, 0 for any; the address stays
    unbound. Raises `NetnsError`.
    """
    wanted = list(names)
    ensure_files(len(wanted))
    opened: list[socket.socket] = []

    def work(name: str) -> None:
        try:
            opened.append(_open(kind, port))
        except OSError as error:
            what = f"cannot open a {kind} socket in {name}"
            raise from_errno(what, error.errno or 0) from None

    try:
        namespace.call_each(wanted, work)
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def open_one(name: str, kind: Kind, *, port: int = 0) -> socket.socket:
    """One socket in one namespace; see `open_each`."""
    return open_each([name], kind, port=port)[0]


def private_listener(path: Path, backlog: int = 128) -> socket.socket:
    """A unix socket that listens, for its owner alone, in place of one that is there; OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        # bind(2) gives the file the mode of the socket less the umask: never more than 0600.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def ensure_files(count: int) -> None:
    """Raise this process's limit of open files so that `count` more fit.

    Raises `NetnsError` when the hard limit is in the way and cannot be raised.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE_FILES
    if resource.RLIM_INFINITY in (soft, hard) or wanted <= soft:
        return
    if wanted <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        raise NetnsError(
            f"{wanted} open files are needed, {hard} are allowed",
            f"raise the hard limit: ulimit -Hn {wanted}",
        ) from None


def echo_request(identifier: int, sequence: int, payload: bytes = b"") -> bytes:
    """An ICMP echo request (RFC 792) with its checksum, for an `icmp` or `ping` socket."""
    header = struct.pack("!BBHHH", _ICMP_ECHO_REQUEST, 0, 0, identifier, sequence)
    found = checksum(header + payload)
    return header[:2] + struct.pack("!H", found) + header[4:] + payload


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _open(kind: Kind, port: int) -> socket.socket:
    form, protocol = _KINDS[kind]
    with contextlib.ExitStack() as stack:
        result = stack.enter_context(socket.socket(socket.AF_INET, form, protocol))
        result.setblocking(False)
        if port:
            if kind == "tcp":
                # The same port again soon after: the previous connection may be in TIME_WAIT.
                result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            result.bind(("", port))
        stack.pop_all()
    return result
