# SPDX-License-Identifier: Apache-2.0
"""One health check: a connection, or a request, from a node's address.

A certificate is not looked at (AWS: "the load balancer doesn't validate these certificates"). With
the PROXY protocol the connection begins with a header that names no client (AWS: "with health check
connections, the client connection information is not sent in the proxy protocol header").
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import aiohttp

from hyperplane_nat.health.checks import FAILED, MISMATCH, TIMEOUT, Check

_BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of <linux/in.h>: a port may be that of several destinations."""

_USER_AGENT = "ELB-HealthChecker/2.0"

_ASKED_MAX = 3
"""How often a target is asked for one check: where it is always late, too, there is a verdict."""

_OVERDUE_SECONDS = 0.05
"""How late a time-out may be noticed."""

_NO_CLIENT = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
"""The PROXY protocol's header, version 2, command LOCAL: "health-checks sent by the proxy"."""


class _Connected(socket.socket):
    """A socket for whoever wants to connect it and is too late."""

    def connect(self, _address: object, /) -> None:
        """It is."""


def any_certificate() -> ssl.SSLContext:
    """A context that takes whatever a target shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def probe(check: Check, tls: ssl.SSLContext) -> str:
    """
    Why the target is bad; empty when it is good.

    A time-out that this process notices late, for want of a processor, may be that of an answer
    which was there in time and not looked at: then the target is asked again.
    """
    loop = asyncio.get_running_loop()
    for _ in range(_ASKED_MAX):
        begun = loop.time()
        found = await _probe(check, tls)
        overdue = loop.time() - begun - check.timeout_seconds
        if found != TIMEOUT or overdue < _OVERDUE_SECONDS:
            return found
    return TIMEOUT


async def _probe(check: Check, tls: ssl.SSLContext) -> str:
    try:
        async with asyncio.timeout(check.timeout_seconds):
            if check.protocol == "TCP":
                return await _connect(check)
            return await _ask(check, tls)
    except TimeoutError:
        return TIMEOUT
    except (OSError, aiohttp.ClientError, ValueError):
        return FAILED


async def _connect(check: Check) -> str:
    (await _connected(check)).close()
    return ""


async def _ask(check: Check, tls: ssl.SSLContext) -> str:
    connection = await _connected(check)
    connector = aiohttp.TCPConnector(
        socket_factory=lambda _info: connection, force_close=True, ssl=tls
    )
    scheme = check.protocol.lower()
    headers = {"Host": check.host, "User-Agent": _USER_AGENT}
    url: Any = f"{scheme}://{check.address}:{check.port}{check.path}"
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session,
        session.get(url, headers=headers, allow_redirects=False) as answer,
    ):
        return "" if check.good(answer.status) else MISMATCH


async def _connected(check: Check) -> socket.socket:
    """A connection to the target on which what comes before everything was sent."""
    loop = asyncio.get_running_loop()
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        plain.bind((check.source, 0))
        await loop.sock_connect(plain, (check.address, check.port))
        if check.proxy_protocol:
            await loop.sock_sendall(plain, _NO_CLIENT)
    except BaseException:
        plain.close()
        raise
    result = _Connected(fileno=plain.detach())
    result.setblocking(False)
    return result
