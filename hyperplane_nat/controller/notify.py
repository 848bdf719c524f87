# SPDX-License-Identifier: Apache-2.0
"""Telling whoever started the controller how far it is: `up` through a pipe, systemd through
NOTIFY_SOCKET (sd_notify(3)).

The pipe carries one JSON object a line: `{"progress": text, "done": n, "total": n}`, and last
either `{"ready": true, "status": {...}}` or `{"error": text, "exit": n}`. A reader that goes
away is noticed (`ReadyPipe.watch`), and no reason for writing to fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Mapping


class ReadyPipe:
    """The writing end of the pipe, or nothing when nobody waits."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None
        if descriptor is not None:
            # A reader that stopped reading must not stop the controller.
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` on the running loop when the reader goes away before the pipe is closed."""
        if self._descriptor is None:
            return
        self._loop = asyncio.get_running_loop()

        def on_error() -> None:
            # A pipe without a reader is in error, epoll(7), and has nothing else to say.
            self.close()
            gone()

        self._loop.add_reader(self._descriptor, on_error)

    def progress(self, text: str, done: int, total: int) -> None:
        """How far a step is."""
        self._write({"progress": text, "done": done, "total": total})

    def ready(self, status: Mapping[str, object]) -> None:
        """Traffic can flow; nothing follows."""
        self._write({"ready": True, "status": dict(status)})
        self.close()

    def error(self, text: str, exit_status: int) -> None:
        """The start failed; nothing follows."""
        self._write({"error": text, "exit": exit_status})
        self.close()

    def close(self) -> None:
        """Close the pipe; later calls do nothing."""
        if self._descriptor is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, message: Mapping[str, object]) -> None:
        if self._descriptor is None:
            return
        try:
            # One line is below PIPE_BUF: written whole or not at all.
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except BlockingIOError:
            pass
        except OSError:
            self.close()


def monotonic_usec() -> int:
    """The time that goes with RELOADING=1, in microseconds (sd_notify(3))."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def watchdog_seconds() -> float | None:
    """How often the service manager wants to hear WATCHDOG=1, sd_watchdog_enabled(3); or None."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not usec.isdigit() or int(usec) == 0 or pid not in (None, str(os.getpid())):
        return None
    return int(usec) / 1_000_000


async def keep_alive() -> None:
    """Tell the service manager for ever that this loop turns, if it wants to know."""
    seconds = watchdog_seconds()
    if seconds is None:
        return
    while True:
        sd_notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 3)


def sd_notify(state: str) -> bool:
    """Send `state` ("READY=1") to the service manager; False when there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.connect(address)
            manager.sendall(state.encode())
        except OSError:
            return False
    return True
