# SPDX-License-Identifier: Apache-2.0
"""The life of a controller, from the lock to the last file removed.

Theory of operation
-------------------
Start: take the lock, open the metrics port, then either *adopt* or *build*. Adopted is what a
killed controller left (`Standing`), when the configuration that is kept means what is wanted and
what stands can be worked with: then only what died with it is started anew, and flows do not
notice. What cannot be adopted is never destroyed while a forwarder moves its packets: the start is
refused, unless it was asked to replace it. Without a forwarder, what bears the lab's name is a
stray and is removed before building. What the lab is and answers is the `Service`'s matter, made
when it is settled whose region it has.

A start that fails or is interrupted removes what it has made (`_tear_down`), and leaves alone what
stood before it (`_let_go`). The end, asked for by SIGTERM, SIGINT or the API, removes everything;
it goes on after an error, because what is left should be as little as possible. SIGKILL is the one
way to leave the lab standing; SIGHUP ends nothing (`reload`). A start whose client has gone is
interrupted: nobody waits for the lab, and somebody may have been told that there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from hyperplane_nat import metrics, private_files
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import aws, cleanup, flow_logs, handlers, logs, record
from hyperplane_nat.controller.api import listeners
from hyperplane_nat.controller.claim import Claim
from hyperplane_nat.controller.errors import ControllerError, first_failure
from hyperplane_nat.controller.forwarder.equipment import make_map, refuse_disk
from hyperplane_nat.controller.log_keeper import LogKeeper
from hyperplane_nat.controller.notify import ReadyPipe, keep_alive, sd_notify
from hyperplane_nat.controller.paths import LabLock, LabPaths
from hyperplane_nat.controller.processes import end
from hyperplane_nat.controller.reload import Reloader
from hyperplane_nat.controller.service import Parts, Service
from hyperplane_nat.controller.source import Source
from hyperplane_nat.controller.standing import Standing
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.engine import StateMapError
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.open_files import raise_file_limit
from hyperplane_nat.private_files import NotPrivateError
from netns import lazy_modules
from netns.errors import NetnsError
from netns.topology import Survey

if TYPE_CHECKING:
    from hyperplane_nat.controller.api.endpoint import Endpoint

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


class _InterruptedError(Exception):
    """A signal came before the lab was ready."""


def main(
    config: Config,
    *,
    ready_fd: int | None = None,
    replace: bool = False,
    source: Source | None = None,
) -> int:
    """Run the lab until a signal or the API ends it; the exit status. SIGHUP reads `source` again.

    Progress and outcome of the start are written to `ready_fd`, one JSON object a line, and an
    error to stderr where nobody reads that. With `replace`, what stands of the lab is removed
    first. 0: the lab was removed as asked; 1: it was, but not completely, or a signal ended the
    start; 2: it could not be started, and nothing is left but what stood before.
    """
    os.umask(private_files.UMASK)
    logs.configure()
    raise_file_limit()
    # pyroute2 refuses uvloop, whatever policy somebody may have installed.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        daemon = Daemon(config, ready_fd=ready_fd, replace=replace, source=source)
        try:
            return runner.run(daemon.run())
        finally:
            # What it has kept from the collector is not to outlive it where a process has several.
            gc.unfreeze()


class Daemon:
    """One controller of one lab."""

    def __init__(
        self,
        config: Config,
        *,
        ready_fd: int | None = None,
        replace: bool = False,
        source: Source | None = None,
        parts: Parts | None = None,
    ) -> None:
        self._config = config
        self._parts = parts or Parts()
        self._paths = LabPaths.of(
            config.lab.name, config.lab.runtime_directory, config.lab.state_directory
        )
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._gone: asyncio.Future[None]
        self._service: Service
        """From when the lab is ours and its region is read."""
        self._foreground = ready_fd is None
        self._pipe = ReadyPipe(ready_fd)
        self._lock = LabLock(self._paths)
        self._claim = Claim(self._paths, self._parts.namespaces.claims)
        self._group: int | None = None
        """The group that may use the control socket."""
        self._metrics_listener: socket.socket | None = None
        self._control_listener: socket.socket | None = None
        """Until it is served."""
        self._endpoints: list[Endpoint] = []
        self._replace = replace
        self._reloader = Reloader(source)
        self._watchdog: asyncio.Task[None] | None = None
        self._adopting = False
        """Whether what stands is a former controller's, which a failed start leaves alone."""
        self._found: Survey | None = None
        self._former: Config | None = None
        """What a former controller has applied."""
        self._aborted = threading.Event()
        self._logs = LogKeeper(self._paths)

    # --- life ---

    async def run(self) -> int:
        """Start, serve and remove the lab; the exit status as for `main`."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        self._pipe.watch(self._stop.set)
        self._gone = loop.create_future()
        try:
            return await self._run()
        finally:
            for number in (*_SIGNALS, signal.SIGHUP):
                loop.remove_signal_handler(number)
            self._pipe.close()

    async def _run(self) -> int:
        try:
            self._refuse_others_places()
            refuse_disk(self._paths.state_file)
            self._group = listeners.group_id(self._config.lab.socket_group)
            self._claim.check()
            self._lock.acquire()
        except (ControllerError, StateMapError) as error:
            return self._fail(str(error), 2)
        with contextlib.suppress(OSError):
            logs.restore(self._paths.log)
        try:
            self._claim.take()
            self._look()
            self._open_region()
        except (ControllerError, StateError) as error:
            # What stands may be in use, and its state may be saved by hand.
            self._lock.release()
            return self._fail(str(error), 2)
        try:
            await self._start_or_stop()
            self._announce()
            self._service.start()
            self._logs.start()
            await self._serve()
        except (ControllerError, NetnsError, StateMapError, ModelError, StateError) as error:
            return self._fail(str(error), await self._after_failure(2))
        except _InterruptedError:
            text = f"lab {self._config.lab.name!r}: stopped before it was ready (start it again)"
            return self._fail(text, await self._after_failure(1))
        except Exception as error:
            log.exception("start failed")
            text = f"the controller failed: {type(error).__name__}: {error} (please report this)"
            return self._fail(" ".join(text.split()), await self._after_failure(2))
        await self._stop.wait()
        log.info("stopping")
        sd_notify("STOPPING=1")
        problems = await self._tear_down()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if problems:
            self._gone.set_exception(ControllerError(problems[0]))
            # Nobody may be waiting.
            self._gone.exception()
        else:
            self._gone.set_result(None)
        await self._stop_serving()
        return 1 if problems else 0

    def _look(self) -> None:
        """Decide whether to adopt; ControllerError when what stands must not be touched."""
        if self._replace:
            return
        standing = Standing.of(self._paths)
        differing = standing.differences(self._config)
        if differing and standing.forwarder is not None:
            raise ControllerError(standing.refusal(", ".join(differing[:3])))
        self._adopting = not differing
        self._former = standing.config

    def _refuse_others_places(self) -> None:
        """ControllerError when somebody else has a say where files of the lab are to be."""
        try:
            private_files.refuse_replaceable(self._paths.state_file)
        except NotPrivateError as error:
            raise ControllerError(
                f"lab.state_directory: {error} (choose another directory)"
            ) from None
        except OSError as error:
            raise ControllerError(
                f"lab.state_directory: cannot use {self._paths.state_file.parent}: "
                f"{error.strerror} (choose another directory)"
            ) from None
        flow_logs.make_directory(self._config)
        aws.refuse_missing(self._config)

    def _open_region(self) -> None:
        """The region that a killed controller of this very lab left, or a new one."""
        if not self._adopting:
            _note_removed(cleanup.remove_region(self._paths))
        self._service = Service(
            self._config, self._paths, self._parts, stop=self._stop, gone=self._gone
        )

    def _fail(self, text: str, status: int) -> int:
        self._pipe.error(text, status)
        if self._foreground:
            sys.stderr.write(f"{logs.error_line(text)}\n")
        return status

    async def _after_failure(self, status: int) -> int:
        if self._adopting:
            await self._let_go()
        else:
            for problem in await self._tear_down():
                log.error("%s", problem)
        await self._stop_serving()
        return status

    def _announce(self) -> None:
        seconds = time.monotonic() - self._started
        log.info(
            "lab %s is up after %.2f s: %d environments, metrics at %s",
            self._config.lab.name,
            seconds,
            self._config.lab.environments,
            self._service.metrics_url,
        )
        self._pipe.ready(self._service.facts() | {"ready_seconds": round(seconds, 3)})
        sd_notify("READY=1")
        self._reloader.start(self._service.reapply, self._service.events)
        self._watchdog = asyncio.create_task(keep_alive(), name="watchdog")

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
        self._listen_for_metrics()
        found = await handlers.standing(self._paths) if self._adopting else handlers.Standing()
        self._service.at_work.resume(found.environments)
        self._service.network.stand_still(found.still)
        adopted = self._adopting and await self._adopt()
        if not adopted:
            await self._build()
        service = self._service
        await service.at_work.recover(self._found, self._former)
        self._pipe.progress("starting services and forwarder", 0, 1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(service.start_services())
                group.create_task(self._start_forwarding(adopted))
        except ExceptionGroup as failures:
            raise first_failure(failures) from None
        self._pipe.progress("starting services and forwarder", 1, 1)
        await service.at_work.start(self._fill_progress)
        if adopted:
            # As this version keeps it, with what may differ.
            await in_thread(record.write, self._paths.config_file, self._config)
        self._control_listener = listeners.control_socket(self._paths.control_socket, self._group)
        self._keep_metrics_port()

    def _listen_for_metrics(self) -> None:
        configured = self._config.metrics
        ports = listeners.metrics_ports(configured, self._former_metrics_port())
        self._metrics_listener = listeners.free_metrics_socket(configured.address, ports)
        host, port = self._metrics_listener.getsockname()[:2]
        self._service.metrics_url = f"http://{host}:{port}/metrics"
        if configured.port not in (0, port):
            self._service.metrics_port_passed_over = configured.port

    def _former_metrics_port(self) -> int | None:
        if not self._adopting:
            return None
        try:
            port = int(self._paths.metrics_port_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return port if 0 < port <= 65535 else None

    def _keep_metrics_port(self) -> None:
        assert self._metrics_listener is not None
        port = self._metrics_listener.getsockname()[1]
        try:
            self._paths.metrics_port_file.write_text(f"{port}\n", encoding="ascii")
        except OSError as error:
            log.warning("the next controller may choose another metrics port: %s", error)

    def _fill_progress(self, done: int, total: int) -> None:
        self._pipe.progress("filling the pool", done, total)

    async def _adopt(self) -> bool:
        """Take over what a killed controller left; False when there is nothing to take over.

        ControllerError when it cannot be taken over and a forwarder moves its packets.
        """
        problem = "it has no gateway"
        try:
            mended = await in_thread(self._parts.mend, self._service.network.spec())
        except NetnsError as error:
            mended, problem = None, str(error)
        if mended is not None:
            log.info("adopting the lab that a former controller left")
            for note in mended.notes:
                log.warning("%s", note)
            self._found = mended.found
            return True
        standing = await in_thread(Standing.of, self._paths)
        if standing.forwarder is not None:
            raise ControllerError(standing.refusal(problem))
        log.warning("the lab that is there cannot be adopted and is built anew: %s", problem)
        self._adopting = False
        return False

    async def _build(self) -> None:
        _note_removed(await in_thread(cleanup.sweep, self._paths, self._parts.namespaces))
        # Starting an interpreter takes as long as building a small lab: both at once.
        self._service.forwarder.prepare()
        self._service.network.prepare_services()
        # So does having the kernel allocate a large state map.
        made = asyncio.create_task(
            in_thread(make_map, self._paths.state_file, self._config.flows.max)
        )
        network = self._service.network
        spec = network.spec()
        try:
            network.built(spec, await in_thread(self._parts.build, spec, self._build_progress))
        finally:
            await asyncio.gather(made, return_exceptions=True)
        await made
        await in_thread(record.write, self._paths.config_file, self._config)

    def _build_progress(self, done: int, total: int) -> None:
        if self._aborted.is_set():
            raise _InterruptedError
        self._pipe.progress("creating environments", done, total)

    async def _start_forwarding(self, adopted: bool) -> None:
        await self._start_forwarder(adopted)
        await self._service.open_map()
        if not adopted:
            # While servers start. Which numbers an adopted lab's flows still have is not known yet.
            await self._service.at_work.fill(self._fill_progress)

    async def _start_forwarder(self, adopted: bool) -> None:
        if adopted:
            # Its heartbeat tells whether there is anything to wait for.
            with contextlib.suppress(StateMapError):
                await self._service.open_map()
            if await self._service.forwarder.adopt():
                await in_thread(self._service.punt.prepare)
                return
        await self._service.forwarder.start()

    async def _serve(self) -> None:
        """Answer what has come to the sockets meanwhile, and whatever comes."""
        # What it takes to answer is loaded when the lab goes on: a third of a start.
        gc.disable()
        from hyperplane_nat.controller.api import connections, endpoint
        from hyperplane_nat.controller.api import service as api

        lazy_modules.load()
        gc.freeze()
        gc.enable()
        control, self._control_listener = self._control_listener, None
        listener, self._metrics_listener = self._metrics_listener, None
        assert control is not None
        assert listener is not None
        control_connections, metrics_connections = connections.file_shares()
        self._endpoints.append(
            await endpoint.serve(api.application(self._service), control, control_connections)
        )
        application = endpoint.metrics_application(
            functools.cache(lambda: metrics.registry(self._service.snapshot)),
            self._service.health,
            self._config.metrics.hosts,
        )
        self._endpoints.append(await endpoint.serve(application, listener, metrics_connections))

    async def _stop_serving(self) -> None:
        """End connections; answers that wait for the end of the lab are sent first."""
        for each in self._endpoints:
            await each.close()
        self._endpoints.clear()

    async def _halt(self) -> None:
        """Stop listening and whatever happens by itself; the processes are not touched."""
        for each in self._endpoints:
            each.stop_listening()
        for listener in (self._control_listener, self._metrics_listener):
            if listener is not None:
                listener.close()
        await self._reloader.stop()
        await self._logs.stop()
        await self._service.halt()

    async def _let_go(self) -> None:
        """End without a trace: what stands goes on as a former controller left it."""
        await self._halt()
        await self._service.forwarder.let_go()
        await self._service.services.let_go()
        self._service.close_map()
        self._paths.control_socket.unlink(missing_ok=True)
        self._lock.release()

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

        await self._halt()
        processes = [*await self._service.forwarder.stop(), *await self._service.services.stop()]
        await step("processes", end(processes))
        self._service.close_map()
        await step("strays", in_thread(cleanup.sweep, self._paths, self._parts.namespaces))
        if not problems:
            await step("claim", in_thread(self._claim.drop))
            await step("directory", in_thread(cleanup.remove_directory, self._paths))
        self._lock.release()
        return problems


def _note_removed(removed: Sequence[str]) -> None:
    if removed:
        log.warning("removed what a former controller left: %s", ", ".join(removed[:20]))
