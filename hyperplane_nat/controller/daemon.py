# SPDX-License-Identifier: Apache-2.0
"""The life of a controller, from the lock to the last file removed.

Theory of operation
-------------------
Start: take the lock, open the metrics port, then either *adopt* or *build*. Adopted is what a
killed controller left when its `lab.json` is the wanted configuration and `inspect` finds every
namespace, link and address in place: then only what died with it is started anew, and flows do not
notice. Anything else that bears the lab's name is a stray and is removed before building.

A start that fails or is interrupted removes all that was made; so does the end, asked for by a
signal or by the API. Both are `_tear_down`, which goes on after an error, because what is left
should be as little as possible. SIGKILL is the one way to leave the lab standing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from aiohttp import web

from hyperplane_nat import metrics
from hyperplane_nat.config import Config, ConfigError, validated
from hyperplane_nat.controller import (
    api,
    cleanup,
    endpoint,
    flow_logs,
    port_usage,
    reconcile,
    views,
)
from hyperplane_nat.controller.errors import ControllerError, first_failure
from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.functions import Functions
from hyperplane_nat.controller.interface_metrics import REMOTES, InterfaceMetrics
from hyperplane_nat.controller.network import Network
from hyperplane_nat.controller.notify import ReadyPipe, sd_notify
from hyperplane_nat.controller.observer import Observer
from hyperplane_nat.controller.parts import Parts
from hyperplane_nat.controller.paths import LabLock, LabPaths, read_json, write_json
from hyperplane_nat.controller.pool import EnvironmentPool
from hyperplane_nat.controller.port_usage import PortNames, PortQuery
from hyperplane_nat.controller.processes import end
from hyperplane_nat.controller.resources import lifecycle_of
from hyperplane_nat.controller.services import ServiceSupervisor
from hyperplane_nat.controller.snapshot import Running, snapshot
from hyperplane_nat.controller.supervisor import ForwarderSupervisor
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.engine import StateMapError
from hyperplane_nat.engine.settings import RemotePorts
from hyperplane_nat.engine.state_map import INTERFACES_MAX
from hyperplane_nat.model.description import describe_functions, describe_security_groups
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.model.store import Store
from netns.errors import NetnsError
from netns.topology import Survey, Topology

VERIFY_SECONDS = 60.0
"""Walking a table of 16 million flows included."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = logging.getLogger(__name__)


class _InterruptedError(Exception):
    """A signal came before the lab was ready."""


def main(config: Config, *, ready_fd: int | None = None) -> int:
    """Run the lab until a signal or the API ends it; the exit status.

    Progress and outcome of the start are written to `ready_fd`, one JSON object a line, and an
    error to stderr where nobody reads that. 0: the lab was removed as asked; 1: it was, but not
    completely, or a signal ended the start; 2: it could not be started and nothing is left.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # pyroute2 refuses uvloop, whatever policy somebody may have installed.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(Daemon(config, ready_fd=ready_fd).run())


class Daemon:
    """One controller of one lab."""

    def __init__(
        self, config: Config, *, ready_fd: int | None = None, parts: Parts | None = None
    ) -> None:
        self._config = config
        self._document: dict[str, Any] = config.model_dump(mode="json")
        self._parts = parts or Parts()
        self._foreground = ready_fd is None
        self._pipe = ReadyPipe(ready_fd)
        self._paths = LabPaths.of(
            config.lab.name, config.lab.runtime_directory, config.lab.state_directory
        )
        self._lock = LabLock(self._paths)
        self._lab = reconcile.lab_of(config)
        self._spec = reconcile.lab_spec(config, self._lab)
        self._topology: Topology | None = None
        self._map: views.MapReader | None = None
        self._metrics_listener: socket.socket | None = None
        self._metrics_url = ""
        self._runners: list[web.AppRunner] = []
        self.events = EventLog()
        self._figures = InterfaceMetrics(
            state_map=lambda: self._map,
            interfaces=self._interface_names,
            attached=self._attached,
            crowded=self._crowded,
        )
        self._observer = Observer(
            self.events,
            interfaces=self._interface_names,
            function_of=self._function_of,
            counters=lambda: flow_logs.counters(self._map, self._paths.records_file),
        )
        self._forwarder = ForwarderSupervisor(
            self._paths,
            reconcile.forwarder_command(config, self._paths, self._parts.forwarder_program),
            self._parts.forwarder_program[-1],
            self._forwarder_state,
            on_event=self._observer.take,
        )
        self._services = ServiceSupervisor(self._paths, [])
        self._found: Survey | None = None
        self._functions: Functions | None = None
        self._network: Network | None = None
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._aborted = threading.Event()
        self._gone: asyncio.Future[None] | None = None

    # --- life ---

    async def run(self) -> int:
        """Start, serve and remove the lab; the exit status as for `main`."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        self._gone = loop.create_future()
        try:
            return await self._run()
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            self._pipe.close()

    async def _run(self) -> int:
        try:
            self._lock.acquire()
        except ControllerError as error:
            return self._fail(str(error), 2)
        try:
            self._open_region()
        except StateError as error:
            # What stands may be in use, and its state may be saved by hand.
            self._lock.release()
            return self._fail(str(error), 2)
        try:
            await self._start_or_stop()
        except (ControllerError, NetnsError, StateMapError, ModelError, StateError) as error:
            return self._fail(str(error), await self._after_failure(2))
        except _InterruptedError:
            text = f"lab {self._lab.name!r}: stopped before it was ready (start it again)"
            return self._fail(text, await self._after_failure(1))
        except Exception as error:
            log.exception("start failed")
            text = f"the controller failed: {type(error).__name__}: {error} (please report this)"
            return self._fail(" ".join(text.split()), await self._after_failure(2))
        self._announce()
        await self._stop.wait()
        log.info("stopping")
        sd_notify("STOPPING=1")
        problems = await self._tear_down()
        assert self._gone is not None
        if problems:
            self._gone.set_exception(ControllerError(problems[0]))
            # Nobody may be waiting.
            self._gone.exception()
        else:
            self._gone.set_result(None)
        await self._stop_serving()
        return 1 if problems else 0

    def _open_region(self) -> None:
        """The region that a killed controller of this very lab left, or a new one."""
        config, paths = self._config, self._paths
        self._kept = read_json(paths.config_file) == self._document
        if not self._kept:
            cleanup.remove_region(paths)
        settings = lifecycle_of(config)
        static = len(self._lab.interface_names())
        pool = EnvironmentPool(
            first=config.lab.environments + 1,
            size=config.pool.size,
            batch=config.pool.refill_batch,
        )
        store = Store(paths.region_file, settings=settings)
        try:
            region = store.load_region(
                settings=settings,
                take_slot=pool.take,
                first_interface_number=static,
                interface_numbers=INTERFACES_MAX - static,
            )
        except StateError:
            store.close()
            raise
        self._network = Network(
            config,
            self._spec,
            region,
            pool,
            self._forwarder,
            self._services,
            self._parts.service_program,
        )
        self._functions = Functions(config, region, store, pool, self._network, self._connections)

    def _fail(self, text: str, status: int) -> int:
        self._pipe.error(text, status)
        if self._foreground:
            sys.stderr.write(f"{text}\n")
        return status

    async def _after_failure(self, status: int) -> int:
        for problem in await self._tear_down():
            log.error("%s", problem)
        await self._stop_serving()
        return status

    def _announce(self) -> None:
        seconds = time.monotonic() - self._started
        log.info(
            "lab %s is up after %.2f s: %d environments, metrics at %s",
            self._lab.name,
            seconds,
            len(self._lab.environments),
            self._metrics_url,
        )
        self._pipe.ready(self._facts() | {"ready_seconds": round(seconds, 3)})
        sd_notify("READY=1")

    async def _start_or_stop(self) -> None:
        start = asyncio.create_task(self._start(), name="start")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if start.done():
            start.result()
            return
        # Building happens in a thread, which only its progress report can stop.
        self._aborted.set()
        start.cancel()
        await asyncio.wait({start})
        if not start.cancelled() and (error := start.exception()):
            log.warning("the start also failed: %s", error)
        raise _InterruptedError

    async def _start(self) -> None:
        metrics_config = self._config.metrics
        self._metrics_listener = endpoint.metrics_socket(
            metrics_config.address, metrics_config.port
        )
        host, port = self._metrics_listener.getsockname()[:2]
        self._metrics_url = f"http://{host}:{port}/metrics"
        self._topology = await self._adopt()
        adopted = self._topology is not None
        if not adopted:
            await self._build()
        functions = self._service()
        await functions.recover(self._found)
        self._pipe.progress("starting services and forwarder", 0, 1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_services())
                group.create_task(self._start_forwarder(adopted))
        except ExceptionGroup as failures:
            raise first_failure(failures) from None
        self._pipe.progress("starting services and forwarder", 1, 1)
        self._map = await in_thread(self._parts.open_map, self._paths.state_file)
        await functions.start(self._fill_progress)
        await self._serve()

    def _service(self) -> Functions:
        assert self._functions is not None
        return self._functions

    async def _start_services(self) -> None:
        wanted = self._service().region.wanted()
        mine = {vpc.name for vpc in self._config.vpc}
        # Others' namespaces may not stand yet.
        vpcs = [vpc for vpc in wanted.vpcs if vpc.name in mine]
        program = self._parts.service_program
        await self._services.follow(
            reconcile.service_specs(self._lab.name, vpcs, program)
            + flow_logs.writer_specs(self._config)
        )

    def _fill_progress(self, done: int, total: int) -> None:
        self._pipe.progress("filling the pool", done, total)

    async def _adopt(self) -> Topology | None:
        """What a killed controller left, if it is exactly what is wanted."""
        if not self._kept:
            return None
        try:
            if self._config.pool.size or self._config.function:
                self._found = await in_thread(self._parts.survey, self._lab.name)
                found = reconcile.static_part(self._found, self._spec)
            else:
                found = await in_thread(self._parts.inspect, self._spec)
        except NetnsError as error:
            log.warning("the lab that is there cannot be adopted: %s", error)
            return None
        if found is None:
            self._found = None
            log.warning("the lab that is there is incomplete: it is built anew")
        else:
            log.info("adopting the lab that a former controller left")
        return found

    async def _build(self) -> None:
        removed = await in_thread(cleanup.sweep, self._paths, self._parts.namespaces)
        if removed:
            log.warning("removed what a former controller left: %s", ", ".join(removed[:20]))
        # Starting an interpreter takes as long as building a small lab: both at once.
        self._forwarder.prepare()
        self._topology = await in_thread(self._parts.build, self._spec, self._build_progress)
        await in_thread(write_json, self._paths.config_file, self._document)
        self._found = None

    def _build_progress(self, done: int, total: int) -> None:
        if self._aborted.is_set():
            raise _InterruptedError
        self._pipe.progress("creating environments", done, total)

    async def _start_forwarder(self, adopted: bool) -> None:
        if adopted and await self._forwarder.adopt():
            return
        await self._forwarder.start()

    async def _serve(self) -> None:
        control = endpoint.control_socket(self._paths.control_socket)
        self._runners.append(await endpoint.serve(api.application(self), control))
        assert self._metrics_listener is not None
        registry = metrics.registry(self._snapshot)
        self._runners.append(
            await endpoint.serve(endpoint.metrics_application(registry), self._metrics_listener)
        )
        self._metrics_listener = None
        self._observer.start()
        self._figures.start()

    async def _stop_serving(self) -> None:
        """End connections; answers that wait for the end of the lab are sent first."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _tear_down(self) -> list[str]:
        """Remove everything; what could not be removed, a line each."""
        problems: list[str] = []

        async def step(what: str, work: Awaitable[object]) -> None:
            try:
                await work
            except (ControllerError, NetnsError) as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"cannot remove {what}: {error} (hyperplane-nat down again)")

        for runner in self._runners:
            for site in list(runner.sites):
                await site.stop()
        if self._metrics_listener is not None:
            self._metrics_listener.close()
        await self._observer.stop()
        await self._figures.stop()
        if self._functions is not None:
            await self._functions.stop()
        processes = [*await self._forwarder.stop(), *await self._services.stop()]
        await step("processes", end(processes))
        if self._map is not None:
            state_map, self._map = self._map, None
            with contextlib.suppress(BufferError):
                state_map.close()
        await step("strays", in_thread(cleanup.sweep, self._paths, self._parts.namespaces))
        if not problems:
            await step("directory", in_thread(cleanup.remove_directory, self._paths))
        self._lock.release()
        return problems

    def _forwarder_state(self) -> Mapping[str, object]:
        assert self._topology is not None
        assert self._network is not None
        numbers = {vpc.name: vpc.number for vpc in self._service().region.wanted().vpcs}
        state = reconcile.forwarder_state(self._config, self._lab, self._topology, numbers)
        interfaces, slots = self._network.items()
        state["interfaces"] += interfaces
        state["slots"] += slots
        return state

    def _connections(self, attached: Mapping[int, str]) -> Mapping[str, int]:
        return {} if self._map is None else views.connections(self._map, attached)

    # --- what the metrics show ---

    def _snapshot(self) -> metrics.LabSnapshot:
        running = Running(
            self._forwarder, self._services, self._service(), self._figures, self.events
        )
        return snapshot(self._lab, self._paths, self._open(), self._port_names(), running)

    def _port_names(self) -> PortNames:
        return port_usage.port_names(self._config, self._lab, self._service().region)

    def _crowded(self) -> Sequence[RemotePorts]:
        return port_usage.crowded_in(self._paths.state_file, self._port_names(), REMOTES)

    def _attached(self) -> dict[int, str]:
        return views.attached_interfaces(self._lab, self._service().region)

    def _open(self) -> views.MapReader:
        if self._map is None:
            raise ControllerError("the lab is being removed (nothing to do)")
        return self._map

    # --- what the control API shows: LabService ---

    def _facts(self) -> dict[str, Any]:
        return {
            "lab": self._lab.name,
            "state": "stopping" if self._stop.is_set() else "running",
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "environments": len(self._lab.environments),
            "interfaces": len(self._lab.interfaces),
            "functions": len(self._service().region.tables.functions),
            "pool": {"ready": self._service().pool.ready, "size": self._service().pool.size},
            "vpcs": len(self._lab.vpcs),
            "metrics_url": self._metrics_url,
        }

    async def status(self) -> Mapping[str, Any]:
        """GET /v1/status."""
        state_map = self._open()
        return self._facts() | {
            "forwarder": await self._forwarder.status(),
            "services": {
                name: {"up": up, "restarts": restarts}
                for name, (up, restarts) in self._services.states().items()
            },
            **views.traffic(state_map, self._paths.state_file),
        }

    async def environments(self) -> bytes:
        """GET /v1/environments, encoded."""
        state_map, found = self._open(), self._topology
        assert found is not None
        address = str(self._config.environment.interface.ip)
        more = views.function_environments(
            self._lab.name, self._service().region, self._service().pool, state_map, address
        )
        return await in_thread(
            lambda: views.encode_rows(
                views.environments(self._lab, found, state_map, address) + more
            )
        )

    async def interfaces(self) -> bytes:
        """GET /v1/interfaces, encoded."""
        state_map, found = self._open(), self._topology
        assert found is not None
        assert self._network is not None
        macs = self._network.macs()
        more = views.function_interfaces(self._service().region, macs, state_map)
        return await in_thread(
            lambda: views.encode_rows(views.interfaces(self._lab, found, state_map) + more)
        )

    def functions(self) -> list[dict[str, Any]]:
        """GET /v1/functions."""
        return describe_functions(self._service().region)

    def security_groups(self) -> list[dict[str, Any]]:
        """GET /v1/security-groups."""
        return describe_security_groups(self._service().region)

    async def apply(
        self, document: Mapping[str, Any], *, dry_run: bool, token: str | None
    ) -> Mapping[str, Any]:
        """POST /v1/apply: ConfigError, ModelError; what is not a resource must be as it is."""
        self._open()
        request = {"apply": document}
        if (answer := self._service().repeated(token, request)) is not None:
            return answer
        config = validated(dict(document), "apply")
        changed = reconcile.fixed_differences(self._config, config)
        if changed:
            raise ConfigError(
                f"apply: {changed[0]}: cannot change while the lab runs "
                "(hyperplane-nat down, then up with the new file)"
            )
        # A client that goes away does not leave a plan half done.
        return await asyncio.shield(self._apply(config, dry_run, token, request))

    async def _apply(
        self, config: Config, dry_run: bool, token: str | None, request: object
    ) -> Mapping[str, Any]:
        result = await self._service().apply(config, dry_run=dry_run, token=token, request=request)
        if not dry_run:
            self._document = config.model_dump(mode="json")
            await in_thread(write_json, self._paths.config_file, self._document)
        return result

    async def invoke(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_seconds: float | None,
        stdin: bytes | None,
        token: str | None,
    ) -> Mapping[str, Any]:
        """POST /v1/functions/NAME/invocations."""
        self._open()
        return await self._service().invoke(
            name, command, timeout_seconds=timeout_seconds, stdin=stdin, token=token
        )

    async def provision(self, name: str, count: int) -> Mapping[str, Any]:
        """POST /v1/functions/NAME/provision."""
        self._open()
        return await self._service().provision(name, count)

    async def verify(self) -> Mapping[str, Any]:
        """GET /v1/verify."""
        result = await self._forwarder.call("verify", timeout_seconds=VERIFY_SECONDS)
        return dict(result)

    def config(self) -> Mapping[str, Any]:
        """GET /v1/config."""
        return self._document

    def open_flows(self, wanted: views.FlowFilter) -> views.FlowReader:
        """A reader with a mapping of its own."""
        self._open()
        names = self._interface_names()
        return views.FlowReader(self._parts.open_map(self._paths.state_file), wanted, names)

    async def ports(self, wanted: PortQuery) -> Mapping[str, Any]:
        """GET /v1/ports."""
        self._open()
        names = self._port_names()
        return await in_thread(port_usage.usage_in, self._paths.state_file, wanted, names)

    def has_interface(self, name: str) -> bool:
        """Whether there is a network interface with that name or id."""
        return name in self._interface_names().values()

    def slots_of(self, function: str) -> frozenset[int] | None:
        """Numbers of a function's environments; None when there is no such function."""
        return views.slots_of(self._service().region, function)

    def _interface_names(self) -> dict[int, str]:
        return views.interface_names(self._lab, self._service().region)

    def _function_of(self, slot: int) -> str | None:
        used = self._service().region.tables.environments.get(slot)
        return None if used is None else used.function_name

    def has_environment(self, number: int) -> bool:
        """Whether there is an environment with that number."""
        known = self._lab.environment(number) is not None
        return known or number in self._service().pool.slots

    async def shut_down(self) -> None:
        """Remove the lab and return when it is gone."""
        self._stop.set()
        assert self._gone is not None
        await asyncio.shield(self._gone)
