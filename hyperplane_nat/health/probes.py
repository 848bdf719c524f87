# SPDX-License-Identifier: Apache-2.0
"""One health check: a connection, or a request, from a node's address.

A certificate is not looked at (AWS: "the load balancer doesn't validate these certificates").
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


def any_certificate() -> ssl.SSLContext:
    """A context that takes whatever a target shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def probe(check: Check, tls: ssl.SSLContext) -> str:
    """Why the target is bad; empty when it is good."""
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
    with _socket(check.source) as connection:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (check.address, check.port))
    return ""


async def _ask(check: Check, tls: ssl.SSLContext) -> str:
    connector = aiohttp.TCPConnector(
        socket_factory=lambda _info: _socket(check.source), force_close=True, ssl=tls
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


def _socket(source: str) -> socket.socket:
    result = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        result.setblocking(False)
        result.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        result.bind((source, 0))
    except OSError:
        result.close()
        raise
    return result
