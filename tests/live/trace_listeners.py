# SPDX-License-Identifier: Apache-2.0
"""Servers of a traced lab, all in one thread of the test."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Sequence

from netns import namespace

PORTS = (7, 25, 53, 80, 81, 5432, 8080)


class Listeners:
    """Sockets of the test that take what comes, all over the lab, in one thread: connections end at
    once (health checks would fill the queue of a listener that accepts none), datagrams go back.
    """

    def __init__(self, draw: random.Random, places: Sequence[tuple[str, Sequence[str]]]) -> None:
        """`places` are namespaces with their addresses; some ports of them get a socket."""
        self._stack = contextlib.ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._ending, self._end = socket.socketpair()
        for where, addresses in places:
            for protocol in ("tcp", "udp"):
                for port in draw.sample(PORTS, len(PORTS) - 1):
                    address = draw.choice(("", "", "::", *addresses))
                    if protocol == "udp" and len(addresses) > 1:
                        # One at all addresses would answer from another than it was asked at.
                        address = draw.choice(addresses)
                    # A server of the lab's own may be there.
                    with contextlib.suppress(OSError):
                        self._open(where, protocol, address, port)
        self._selector.register(self._ending, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _open(self, where: str, protocol: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        opened = self._stack.enter_context(namespace.call(where, socket.socket, family, kind))
        opened.bind((address, port))
        if protocol == "tcp":
            opened.listen(512)
        opened.setblocking(False)
        answer = self._accept if protocol == "tcp" else self._echo
        self._selector.register(opened, selectors.EVENT_READ, answer)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with contextlib.suppress(OSError):
                    key.data(key.fileobj)

    @staticmethod
    def _accept(listener: socket.socket) -> None:
        listener.accept()[0].close()

    @staticmethod
    def _echo(endpoint: socket.socket) -> None:
        data, peer = endpoint.recvfrom(2048)
        endpoint.sendto(data, peer)

    def close(self) -> None:
        self._end.close()
        self._thread.join(5)
        self._ending.close()
        self._stack.close()
