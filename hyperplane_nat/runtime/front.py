# SPDX-License-Identifier: Apache-2.0
"""The part of the runtime's process that speaks HTTP, with handlers and with clients: unprivileged.

It is forked from the other part (`keeper`) with the sockets that clients connect to, gives up all
privileges before it reads a byte from anybody, and asks the keeper for what takes any.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

from hyperplane_nat.runtime.api import served
from hyperplane_nat.runtime.distance import Distance
from hyperplane_nat.runtime.handlers import Handlers
from hyperplane_nat.runtime.link import LINE_BYTES_MAX
from hyperplane_nat.runtime.opened import Opened
from netns import privileges, syscalls


def run(opened: Opened, *, uid: int, region: str, time_scale: float) -> None:
    """Give up privileges and serve until the keeper says stop, or ends. NetnsError."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # The keeper is told, and tells.
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        privileges.drop(privileges.HANDLERS, uid=uid)
        syscalls.set_parent_death_signal(signal.SIGKILL)
        runner.run(_serve(opened, region, time_scale))


async def _serve(opened: Opened, region: str, time_scale: float) -> None:
    loop = asyncio.get_running_loop()
    begin: asyncio.Future[list[str]] = loop.create_future()
    stop = asyncio.Event()
    talks: set[asyncio.Task[None]] = set()

    def heed(told: Mapping[str, Any], files: list[int]) -> None:
        if not told:
            # What it has started has ended with it.
            os._exit(1)
        if "begin" in told:
            begin.set_result(told["begin"])
        elif "controller" in told:
            task = asyncio.create_task(_talk(handlers, files[0]))
            talks.add(task)
            task.add_done_callback(talks.discard)
        else:
            stop.set()

    distance = Distance(opened.channel, heed)
    distance.attach()
    missing = await begin
    handlers = Handlers(
        distance,
        open_log=distance.open_log,
        region=region,
        time_scale=time_scale,
        missing=missing,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(handlers.close)
        for socket_, key in ((opened.listener, opened.access_key), (opened.local, None)):
            await stack.enter_async_context(served(handlers, key, socket_))
        distance.say({"ready": True})
        await stop.wait()


async def _talk(handlers: Handlers, file: int) -> None:
    controller = socket.socket(fileno=file)
    reader, writer = await asyncio.open_connection(sock=controller, limit=LINE_BYTES_MAX)
    await handlers.link.talk(reader, writer)
