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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hyperplane_nat import unix_socket
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network.reconcile import module_command
from hyperplane_nat.controller.network.services import ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.model.entities import Function
from hyperplane_nat.model.errors import ConcurrencyError, ModelError, StateError
from hyperplane_nat.model.resources import Code
from netns import topology
from netns.errors import NetnsError

PROGRAM = module_command("hyperplane_nat.runtime")

GROUP = "Lambda"
"""What it is grouped under, as servers are under their VPC; no VPC has a name like this."""

_ANSWER_SECONDS = 15.0
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

    def checked(self, function: str, account: str | None) -> None:
        """Refuse a function that is not there (in `account`, if one is named), has no handler or
        is not Active.
        """

    async def begun(self, function: str, account: str | None) -> Mapping[str, Any]:
        """A place for an invocation, its network ready, and the function as it is."""

    def ended(self, environment: int) -> None:
        """The invocation is over."""

    def abandoned(self, environment: int) -> None:
        """The environment serves nobody any more."""

    def failed(self, environment: int, reason: str) -> None:
        """An environment that was to be initialized ahead could not be."""

    def settled(self, standing: Mapping[int, bool]) -> None:
        """These environments have a handler, busy or not, and no others."""

    def stilled(self, environment: int) -> None:
        """The processes of an environment stand still."""


def placed(
    lab: str, environment: int, function: Function, code: Code, *, cold: bool, ahead: bool = False
) -> Mapping[str, Any]:
    """What the process is to know of a place; `ahead`: of one for provisioned concurrency."""
    return {
        "environment": environment,
        "namespace": topology.environment_namespace(lab, environment),
        "cold": cold,
        "ahead": ahead,
        "function": function.function_name,
        "version": function.qualifier,
        "account": function.account_id,
        "memory_mb": function.memory_mb,
        "code": asdict(code),
        "variables": dict(function.environment),
    }


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
        *("--front-uid", str(config.lab.process_uid)),
        *("--time-scale", str(config.lifecycle.time_scale)),
        *("--program", identity()),
    )
    return [ServiceSpec(GROUP, "runtime", command, PROGRAM[-1])]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the process says first."""

    environments: Mapping[int, bool] = field(default_factory=dict)
    """Those that have a handler, and whether each is busy."""
    still: Sequence[int] = ()
    """Those of them that stand still."""
    missing: Sequence[str] = ()
    """What the host does not offer for handlers, a line each."""

    @classmethod
    def read(cls, line: bytes) -> Standing:
        """From the line that says it; ValueError."""
        told = json.loads(line)
        environments = {int(number): busy for number, busy in told["standing"].items()}
        # One of a former version, which is about to be ended, tells no more.
        return cls(environments, told.get("still", ()), told.get("missing", ()))


async def standing(paths: LabPaths) -> Standing:
    """What a process that a former controller has left says it has; nothing when there is none."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await _connect(paths.directory)
            try:
                return Standing.read(await reader.readline())
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return Standing()


async def _connect(directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(
        directory / unix_socket.RUNTIME, limit=_LINE_BYTES_MAX
    )


class HandlerPlaces:
    """Answers what the process asks, for as long as this controller is there."""

    def __init__(
        self, paths: LabPaths, placing: Placing, on_missing: Callable[[Sequence[str]], None]
    ) -> None:
        """`on_missing` is told what the host does not offer for handlers."""
        self._paths = paths
        self._placing = placing
        self._on_missing = on_missing
        self._task: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

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
        found = Standing.read(line)
        self._placing.settled(found.environments)
        for environment in found.still:
            self._placing.stilled(environment)
        if found.missing:
            self._on_missing(found.missing)
        self._writer = writer
        try:
            while line := await reader.readline():
                task = asyncio.create_task(self._answer(json.loads(line), writer))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
        finally:
            self._writer = None

    @property
    def connected(self) -> bool:
        """Whether the process is there, and knows of this controller."""
        return self._writer is not None

    def initialize(self, place: Mapping[str, Any]) -> None:
        """Have it initialize an environment; what it does not hear is put right by `settled`."""
        if self._writer is not None:
            self._writer.write(json.dumps({"initialize": place}).encode() + b"\n")

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
                self._placing.checked(asked["function"], asked.get("account"))
            case "begin":
                return await self._placing.begun(asked["function"], asked.get("account"))
            case "end":
                self._placing.ended(asked["environment"])
            case "still":
                self._placing.stilled(asked["environment"])
            case "failed":
                self._placing.failed(asked["environment"], asked["reason"])
            case "discard":
                self._placing.abandoned(asked["environment"])
        return {}
