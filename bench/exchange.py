# SPDX-License-Identifier: Apache-2.0
"""What one environment does in the demo: fetch a file, echo datagrams, ping; each answer is
checked.

The sockets were opened inside the environments (netns.sockets); one event loop in the host's
namespace drives them all. Every exchange raises `MismatchError` for a wrong answer and TimeoutError
for none.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import Callable

from netns.sockets import echo_request

RECEIVE_BYTES = 1 << 18
ANSWER_SECONDS = 2.0
"""A datagram or echo request unanswered for so long is sent again: both may be lost by right."""

ATTEMPTS = 5

ICMP_ECHO_REPLY = 0
IPV4_HEADER_BYTES = 20


class MismatchError(Exception):
    """An answer came that is not the right one."""


async def fetch(
    connection: socket.socket,
    address: tuple[str, int],
    path: str,
    sha256: str,
    progress: Callable[[int], None],
) -> int:
    """
    GET `path` and compare the body's SHA-256; the number of bytes in the body.

    `progress` is called with the size of each piece.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, address)
    request = f"GET {path} HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(connection, RECEIVE_BYTES)
        if not piece:
            raise MismatchError(f"{address[0]} closed before its answer's header was complete")
        head += piece
    header, _, body = head.partition(b"\r\n\r\n")
    status = header.split(b"\r\n")[0].decode(errors="replace")
    if " 200 " not in f"{status} ":
        raise MismatchError(f"{address[0]} answered {status!r}")
    digest = hashlib.sha256(body)
    received = len(body)
    progress(len(body))
    buffer = memoryview(bytearray(RECEIVE_BYTES))
    while count := await loop.sock_recv_into(connection, buffer):
        digest.update(buffer[:count])
        received += count
        progress(count)
    if digest.hexdigest() != sha256:
        raise MismatchError(f"{received} bytes with SHA-256 {digest.hexdigest()}, not {sha256}")
    return received


async def echo(endpoint: socket.socket, address: tuple[str, int], payload: bytes) -> None:
    """Send a datagram and wait for the same one from the same place."""
    loop = asyncio.get_running_loop()
    for attempt in range(ATTEMPTS):
        await loop.sock_sendto(endpoint, payload, address)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer, sender = await loop.sock_recvfrom(endpoint, 65536)
        except TimeoutError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if answer != payload or sender != address:
            raise MismatchError(f"echo of {payload!r} came back as {answer!r} from {sender}")
        return


async def ping(
    endpoint: socket.socket, address: str, identifier: int, sequence: int, payload: bytes
) -> None:
    """Send an ICMP echo request through a raw socket and wait for its reply."""
    loop = asyncio.get_running_loop()
    request = echo_request(identifier, sequence, payload)
    for attempt in range(ATTEMPTS):
        await loop.sock_sendto(endpoint, request, (address, 0))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await _reply(endpoint, address, identifier, sequence)
        except TimeoutError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if answer != payload:
            raise MismatchError(f"ping of {address} answered {answer!r}, not {payload!r}")
        return


async def _reply(endpoint: socket.socket, address: str, identifier: int, sequence: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        packet, (sender, _port) = await loop.sock_recvfrom(endpoint, 65536)
        start = (packet[0] & 0x0F) * 4
        if len(packet) < IPV4_HEADER_BYTES + 8:
            continue
        kind, code, _checksum, its_identifier, its_sequence = struct.unpack_from(
            "!BBHHH", packet, start
        )
        found = (kind, code, its_identifier, its_sequence)
        if sender == address and found == (ICMP_ECHO_REPLY, 0, identifier, sequence):
            return packet[start + 8 :]
