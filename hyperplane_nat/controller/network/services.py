# SPDX-License-Identifier: Apache-2.0
"""The servers inside the customer VPCs, kept alive.

They are what the lab's traffic goes to, not part of the gateway: each is `python -m netns.services`
in its VPC's namespace, recognised again and restarted like a forwarder, without any hurry. Those
that begin with a lab are forked from one process (`controller.nursery`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.nursery import Nursery, bears
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import Process, end
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.unix_socket import mailbox

START_SECONDS = 60.0
"""For a service to say that it listens: under a second, but on a loaded machine."""

RESTART_PAUSE_SECONDS = 0.2
RESTART_PAUSE_MAX_SECONDS = 5.0

USER = "--uid"
"""The option of `netns.services` for the user that it becomes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One server to run."""

    vpc: str
    name: str
    command: tuple[str, ...]
    word: str
    """The argument by which its command line is recognised."""

    @property
    def label(self) -> str:
        """What people call it: the VPC and its name."""
        return f"{self.vpc}/{self.name}"


def serves(found: Sequence[str], wanted: Sequence[str], word: str) -> bool:
    """
    Whether a server with the command line `found` is the one that is wanted.

    What counts is what it is told behind `word`, its program: wherever that lies, and whichever
    interpreter runs it, a server that is started anew ends its connections. For the same reason
    those of 0.1.0, which are told of no user, go on as they are.
    """
    if word not in found:
        return False
    left, right = (list(line[line.index(word) :]) for line in (found, wanted))
    if USER in right and USER not in left:
        del right[right.index(USER) : right.index(USER) + 2]
    return left == right


@dataclass(slots=True)
class _Service:
    spec: ServiceSpec
    process: Process | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class ServiceSupervisor:
    """Starts or adopts the services of a lab and restarts those that die."""

    def __init__(self, paths: LabPaths, specs: Sequence[ServiceSpec]) -> None:
        self._paths = paths
        self._services = [_Service(spec) for spec in specs]
        self._nursery: asyncio.Task[Nursery] | None = None
        self._spawning = asyncio.Lock()
        """One at a time asks the nursery, so that waiting for it takes one thread."""

    def states(self) -> dict[str, tuple[bool, int]]:
        """By label: whether it runs, and how often it was restarted."""
        return {
            service.spec.label: (
                service.process is not None and service.process.alive,
                service.restarts,
            )
            for service in self._services
        }

    def pids(self) -> dict[str, int]:
        """By label: the process, of those that run."""
        return {
            service.spec.label: service.process.pid
            for service in self._services
            if service.process is not None and service.process.alive
        }

    def prepare(self, specs: Iterable[ServiceSpec]) -> None:
        """Have what these have in common loaded by the time that they begin."""
        commands = [spec.command for spec in specs if bears(spec.command)]
        if self._nursery is None and len(commands) > 1:
            self._nursery = asyncio.create_task(
                in_thread(Nursery, self._paths.directory, commands), name="nursery"
            )

    async def start(self) -> None:
        """Adopt the services that run, start the others; returns when all listen."""
        await self._start(self._services)

    async def _start(self, services: Sequence[_Service]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for service in services:
                    group.create_task(self._begin(service))
        finally:
            await self._end_nursery()
        for service in services:
            service.task = asyncio.create_task(
                self._keep(service), name=f"service {service.spec.label}"
            )

    async def follow(self, specs: Sequence[ServiceSpec]) -> None:
        """Run exactly these: end the others, start what is new; ControllerError."""
        await self.end_others(specs)
        running = {service.spec.label for service in self._services}
        added = [_Service(spec) for spec in specs if spec.label not in running]
        self._services += added
        await self._start(added)

    async def end_others(self, specs: Sequence[ServiceSpec]) -> None:
        """End all that run and are not among these."""
        wanted = {spec.label: spec for spec in specs}
        for service in list(self._services):
            if wanted.get(service.spec.label) != service.spec:
                self._services.remove(service)
                await self._end(service)

    async def _end(self, service: _Service) -> None:
        if service.task is not None:
            service.task.cancel()
            await asyncio.wait({service.task})
        if service.process is not None:
            await end([service.process])
        vpc, name = service.spec.vpc, service.spec.name
        self._paths.service_pid(vpc, name).unlink(missing_ok=True)
        (self._paths.directory / mailbox(vpc, name)).unlink(missing_ok=True)

    def renew(self, vpc: str) -> None:
        """Ask the services of a VPC to end: they are started again."""
        for service in self._services:
            if service.spec.vpc == vpc and service.process is not None:
                service.process.signal(signal.SIGTERM)

    async def let_go(self) -> None:
        """Stop supervising; the services go on."""
        for process in await self.stop():
            process.close()

    async def _end_nursery(self) -> None:
        task, self._nursery = self._nursery, None
        if task is not None:
            with contextlib.suppress(OSError):
                await in_thread((await task).close)

    async def stop(self) -> list[Process]:
        """Stop supervising; the processes that are left, for `end`."""
        await self._end_nursery()
        for service in self._services:
            if service.task is not None:
                service.task.cancel()
                await asyncio.wait({service.task})
                service.task = None
        left = [service.process for service in self._services if service.process is not None]
        for service in self._services:
            service.process = None
        return left

    async def _begin(self, service: _Service) -> None:
        spec = service.spec
        service.process = await in_thread(
            Process.adopt, self._paths.service_pid(spec.vpc, spec.name), self._paths.directory
        )
        found = service.process
        if found is not None and not serves(found.command, spec.command, spec.word):
            # Of another configuration, or of another version where the command line names it.
            await end([found])
            service.process = None
        if service.process is None:
            await self._launch(service)

    async def _launch(self, service: _Service) -> None:
        spec = service.spec
        process = await self._forked(service) or await self._spawned(service)
        deadline = time.monotonic() + START_SECONDS
        while "ready" not in process.output():
            if not process.alive and process.adopted:
                # The nursery knows how it ended; once more, by itself.
                process.close()
                process = await self._spawned(service)
            if not process.alive:
                raise ControllerError(
                    f"service {spec.label} {process.describe_exit()}: "
                    f"{process.last_words() or 'it said nothing'}"
                )
            if time.monotonic() > deadline:
                raise ControllerError(
                    f"service {spec.label} does not listen after {START_SECONDS:g} seconds "
                    f"(see {self._paths.service_log(spec.vpc, spec.name)})"
                )
            await asyncio.sleep(0.01)

    async def _forked(self, service: _Service) -> Process | None:
        """The process as the nursery's, if there is one that can and does."""
        spec, task = service.spec, self._nursery
        if task is None or not bears(spec.command):
            return None
        try:
            nursery = await asyncio.shield(task)
        except OSError as error:
            log.warning("servers are not forked: %s", error)
            return None

        def fork() -> Process | None:
            # Assigned in the thread: a cancelled caller must not lose sight of the process.
            service.process = nursery.spawn(
                spec.command,
                spec.word,
                pid_file=self._paths.service_pid(spec.vpc, spec.name),
                log=self._paths.service_log(spec.vpc, spec.name),
            )
            return service.process

        async with self._spawning:
            return await in_thread(fork)

    async def _spawned(self, service: _Service) -> Process:
        spec = service.spec

        def spawn() -> Process:
            service.process = Process.spawn(
                spec.command,
                spec.word,
                directory=self._paths.directory,
                pid_file=self._paths.service_pid(spec.vpc, spec.name),
                log=self._paths.service_log(spec.vpc, spec.name),
            )
            return service.process

        return await in_thread(spawn)

    async def _keep(self, service: _Service) -> None:
        pause = RESTART_PAUSE_SECONDS
        while True:
            process = service.process
            if process is not None:
                await process.wait()
                log.error("service %s %s", service.spec.label, process.describe_exit())
                if time.monotonic() - process.started > RESTART_PAUSE_MAX_SECONDS:
                    pause = RESTART_PAUSE_SECONDS
                service.process = None
                process.close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_PAUSE_MAX_SECONDS)
            service.restarts += 1
            try:
                await self._launch(service)
            except ControllerError as error:
                log.error("%s", error)
                if service.process is not None:
                    service.process.signal(9)
