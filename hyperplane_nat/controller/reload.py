# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: the configuration file is read again and applied, as `hyperplane-nat apply` does.

Theory of operation
-------------------
The controller knows where its configuration came from (`Source`): a file, and what the command line
said besides it, which goes on to count. One that was started without a file has nothing to read
again and says so; SIGHUP, which a terminal sends when it goes, never ends a lab. What became of it
is an event, and the service manager's status line: nobody waits for an answer. A signal during the
start is heeded after it, several at once are one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.events import Event, EventLog, Kind
from hyperplane_nat.controller.notify import monotonic_usec, sd_notify
from hyperplane_nat.controller.source import Source
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.errors import ConfigError
from hyperplane_nat.model.errors import ModelError, StateError
from netns.errors import NetnsError

Apply = Callable[[Config], Awaitable[Mapping[str, Any]]]

log = logging.getLogger(__name__)


class Reloader:
    """Heeds SIGHUP."""

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Read the file again, as soon as the lab is up."""
        self._asked.set()

    def start(self, apply: Apply, events: EventLog) -> None:
        """The lab is up; `apply` makes it what a file says, and returns what it changed."""
        self._task = asyncio.create_task(self._heed(apply, events), name="reload")

    async def stop(self) -> None:
        """Heed no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _heed(self, apply: Apply, events: EventLog) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._source is None:
                log.info("SIGHUP: the lab was started without a file, there is none to read again")
                continue
            sd_notify(f"RELOADING=1\nMONOTONIC_USEC={monotonic_usec()}")
            event = await _reload(self._source, apply)
            events.report(event)
            sd_notify(f"READY=1\nSTATUS={event.message}")


async def _reload(source: Source, apply: Apply) -> Event:
    try:
        wanted = await in_thread(source.load)
        plan = (await apply(wanted))["plan"]
    except (ConfigError, ModelError, StateError, ControllerError, NetnsError) as error:
        return Event(kind=Kind.RELOAD_REFUSED, message=f"nothing was changed: {error}")
    except Exception as error:
        log.exception("reload")
        return Event(kind=Kind.RELOAD_REFUSED, message=f"{type(error).__name__}: {error}")
    message = f"{source.path} was read again, {len(plan)} changes"
    return Event(kind=Kind.RELOADED, message=message)
