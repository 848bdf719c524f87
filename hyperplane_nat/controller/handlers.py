# SPDX-License-Identifier: Apache-2.0
"""The process that runs handlers (`hyperplane_nat.runtime`) as the controller sees it.

Theory of operation
-------------------
It is one more service, which outlives this process. The controller connects to it and answers what
it asks: a place for an invocation, and what becomes of it afterwards. On each connection it says
which environments it has; what the region believes of others is put right then (`Placing.settled`),
so no message needs to be remembered by either side. A new controller asks it before it gives up
what a former one has left busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hyperplane_nat import unix_socket
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network.reconcile import module_command
from hyperplane_nat.controller.network.services import ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.model.errors import ConcurrencyError, ModelError, StateError
from netns.errors import NetnsError

PROGRAM = module_command("hyperplane_nat.runtime")

GROUP = "Lambda"
"""What it is grouped under, as servers are under their VPC; no VPC has a name like this."""

_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_LONG_PAUSE_SECONDS = 1.0
"""Between two attempts to connect where no function has a handler."""

_LINE_BYTES_MAX = 16 << 20

log = logging.getLogger(__name__)


class Placing(Protocol):
    """What the functions at work do for handlers; the errors are ModelError and StateError."""

    @property
    def has_handlers(self) -> bool:
        """Whether there is a function with a handler, and so a process for it."""

    def checked(self, function: str) -> None:
        """Refuse a function that is not there, has no handler or is not Active."""

    async def begun(self, function: str) -> Mapping[str, Any]:
        """A place for an invocation, its network ready, and the function as it is."""

    def ended(self, environment: int) -> None:
        """The invocation is over."""

    def abandoned(self, environment: int) -> None:
        """The environment serves nobody any more."""

    def settled(self, standing: Mapping[int, bool]) -> None:
        """These environments have a handler, busy or not, and no others."""


def runtime_specs(config: Config) -> list[ServiceSpec]:
    """The process that runs the handlers of a lab."""
    paths = LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)
    settings = config.aws_lambda
    command = (
        *PROGRAM,
        *("--directory", str(paths.directory)),
        *("--port", str(settings.port)),
        *("--region", settings.region),
        *("--uid", str(settings.process_uid)),
        *("--time-scale", str(config.lifecycle.time_scale)),
        *("--program", identity()),
    )
    return [ServiceSpec(GROUP, "runtime", command, PROGRAM[-1])]


async def standing(paths: LabPaths) -> dict[int, bool]:
    """What a process that a former controller has left says it has; {} when there is none."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await _connect(paths.directory)
            try:
                return _standing_in(await reader.readline())
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return {}


async def _connect(directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(
        directory / unix_socket.RUNTIME, limit=_LINE_BYTES_MAX
    )


def _standing_in(line: bytes) -> dict[int, bool]:
    return {int(number): busy for number, busy in json.loads(line)["standing"].items()}


class HandlerPlaces:
    """Answers what the process asks, for as long as this controller is there."""

    def __init__(self, paths: LabPaths, placing: Placing) -> None:
        self._paths = paths
        self._placing = placing
        self._task: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect whenever the process is there."""
        self._task = asyncio.create_task(self._keep(), name="handlers")

    async def stop(self) -> None:
        """Answer no more; the process goes on."""
        for task in [*([] if self._task is None else [self._task]), *self._answers]:
            task.cancel()
            await asyncio.wait({task})
        self._task = None

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                reader, writer = await _connect(self._paths.directory)
                try:
                    await self._serve(reader, writer)
                finally:
                    writer.close()
            expected = self._placing.has_handlers
            await asyncio.sleep(_PAUSE_SECONDS if expected else _LONG_PAUSE_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line:
            return
        self._placing.settled(_standing_in(line))
        while line := await reader.readline():
            task = asyncio.create_task(self._answer(json.loads(line), writer))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer(self, asked: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        told: dict[str, Any] = {"id": asked["id"]}
        try:
            told["result"] = await self._do(asked)
        except ConcurrencyError as error:
            told |= {"error": error.code, "message": error.text, "reason": error.reason}
        except ModelError as error:
            told |= {"error": error.code, "message": error.text}
        except (ControllerError, NetnsError, StateError) as error:
            told |= {"error": "ServiceException", "message": str(error)}
        writer.write(json.dumps(told).encode() + b"\n")

    async def _do(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        match asked["ask"]:
            case "check":
                self._placing.checked(asked["function"])
            case "begin":
                return await self._placing.begun(asked["function"])
            case "end":
                self._placing.ended(asked["environment"])
            case "discard":
                self._placing.abandoned(asked["environment"])
        return {}
