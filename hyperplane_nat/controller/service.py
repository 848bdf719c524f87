# SPDX-License-Identifier: Apache-2.0
"""A lab that a controller has: what it consists of, what it tells and what may be asked of it.

Theory of operation
-------------------
The control API (`api.LabService`) and the metrics look at nothing else. How the lab comes to be and
ends is the daemon's matter, which says so here: it tells `network` what stands, calls `open_map`
and `start` when the forwarder runs, `halt` and `close_map` at the end. What the API asks of the
daemon is one thing, the end: it sets `stop` and waits for `gone`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperplane_nat import model, runtime
from hyperplane_nat.config.lab import Config, validated
from hyperplane_nat.controller import aws, cleanup, flow_logs, record
from hyperplane_nat.controller import views as answers
from hyperplane_nat.controller.clock import ClockAdvance
from hyperplane_nat.controller.draining import DrainingAddresses
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.events import Event, EventLog, Kind
from hyperplane_nat.controller.forwarder import equipment
from hyperplane_nat.controller.forwarder.supervisor import STATUS_SECONDS, ForwarderSupervisor
from hyperplane_nat.controller.functions import Functions
from hyperplane_nat.controller.handlers import HandlerPlaces
from hyperplane_nat.controller.health import HealthWatch
from hyperplane_nat.controller.listings import Listings
from hyperplane_nat.controller.network import punt, reconcile, resolvers
from hyperplane_nat.controller.network.health_checks import Place
from hyperplane_nat.controller.network.network import Network
from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.controller.network.services import ServiceSupervisor
from hyperplane_nat.controller.observer import Observer
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.resources import lifecycle_of
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.controller.views import lab as views
from hyperplane_nat.engine import RemotePorts, StateMap, StateMapError
from hyperplane_nat.engine.readers.state_map import INTERFACES_MAX
from hyperplane_nat.errors import ConfigError, Problem
from hyperplane_nat.model.clock import LabClock
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.model.names import LINK_LOCAL
from hyperplane_nat.model.region import Commands, Region
from hyperplane_nat.model.store import Store
from hyperplane_nat.model.validation import INTERNET
from hyperplane_nat.runtime.places import Endpoint
from hyperplane_nat.unix_socket import ADVANCE_SECONDS, VERIFY_SECONDS
from netns import files, topology
from netns.errors import from_errno
from netns.topology import LabSpec, Mended, Topology

if TYPE_CHECKING:
    from hyperplane_nat import metrics
    from hyperplane_nat.controller.trace.question import Question
    from netns.execution import Output

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a controller is made of besides itself, functions and programs; tests replace some."""

    build: Callable[[LabSpec, Callable[[int, int], None]], Topology] = topology.build
    mend: Callable[[LabSpec], Mended | None] = topology.mend
    namespaces: cleanup.Namespaces = field(default_factory=cleanup.Namespaces)
    open_map: views.MapOpener = StateMap.open
    open_sockets: equipment.OpenSockets = equipment.packet_sockets
    lacking: Callable[[], Sequence[object]] = punt.lacking
    """What the kernel lacks for the flow cache."""
    forwarder_program: tuple[str, ...] = reconcile.module_command("hyperplane_nat.forwarder")
    service_program: tuple[str, ...] = reconcile.module_command("netns.services")
    resolver_program: tuple[str, ...] = resolvers.PROGRAM


class Service:
    """The parts of one lab, and what it answers; `LabService`."""

    def __init__(
        self,
        config: Config,
        paths: LabPaths,
        parts: Parts,
        *,
        stop: asyncio.Event,
        gone: asyncio.Future[None],
    ) -> None:
        """Of the region that is on disk, or a new one; StateError when it cannot be read."""
        self._config = config
        self._parts = parts
        self._paths = paths
        self._stop = stop
        self._gone = gone
        self._map: views.MapReader | None = None
        self.metrics_url = ""
        self.metrics_port_passed_over: int | None = None
        self._started = time.monotonic()
        self._applying = asyncio.Lock()
        self._clock = LabClock()
        self.events = EventLog()
        self._pool = EnvironmentPool(size=config.pool.size, batch=config.pool.refill_batch)
        store, self._region = self._open_region()
        self.listing = Listings(self._region).encoded
        self._observer = Observer(
            self.events,
            interfaces=self._interface_names,
            nat_gateways=lambda: views.nat_gateway_states(self._region),
            load_balancers=lambda: answers.balancing.load_balancer_states(self._region),
            endpoints=lambda: answers.private_link.endpoint_states(self._region),
            targets=lambda: self._targets(),
            function_of=self._function_of,
            host_of=lambda number: (
                None if self._map is None else views.host_at(self._region, self._map, number)
            ),
            counters=lambda: flow_logs.counters(self._map, self._paths.records_file),
        )
        self.punt = punt.Punt(
            paths.lab,
            wanted=config.forwarder.flow_cache,
            flows=config.forwarder.flow_cache_flows,
            missing=parts.lacking,
            on_restored=self._observer.note_restored,
        )
        self.forwarder = ForwarderSupervisor(
            paths,
            reconcile.forwarder_command(
                config, paths, parts.forwarder_program, punted=self.punt.on
            ),
            parts.forwarder_program[-1],
            self._forwarder_state,
            lambda: equipment.equip(
                config, paths, parts.open_sockets, self.punt.prepare, self.punt.opened
            ),
            on_event=self._heed,
            heartbeat=lambda: None if self._map is None else self._map.heartbeat,
            on_start=self._reopen,
        )
        self.services = ServiceSupervisor(paths, [])
        self.network = Network(
            config,
            self._region,
            self._pool,
            self.forwarder,
            self.services,
            parts.service_program,
            self.punt,
            parts.resolver_program,
        )
        draining = DrainingAddresses(self._region, self._unused)
        self.at_work = Functions(
            config,
            self._region,
            store,
            self._pool,
            self.network,
            self._connections,
            self._clock,
            [(draining.drained, draining.release)],
        )
        """The functions at work, and the region behind them."""
        self.cold_starts = self.at_work.cold_starts
        self._health = HealthWatch(paths, self._region, self._note_health)
        self._places = HandlerPlaces(paths, self.at_work, self._observer.note_missing)
        self.at_work.provisioning.runtime = self._places
        self._advance = ClockAdvance(
            self._clock,
            self._region,
            store,
            lambda offset_ms: self.forwarder.call(
                "advance", {"clock_offset_ms": offset_ms}, timeout_seconds=ADVANCE_SECONDS
            ),
            self.at_work.settle_now,
            lambda: self._open().clock_offset_ms,
        )

    def _open_region(self) -> tuple[Store, Region]:
        settings = lifecycle_of(self._config)
        store = Store(self._paths.region_file, settings=settings)
        try:
            self._clock.offset_ms = store.clock_offset_ms
            region = store.load_region(
                clock=self._clock,
                settings=settings,
                take_slot=self._pool.take,
                interface_numbers=INTERFACES_MAX,
            )
        except StateError:
            store.close()
            raise
        return store, region

    # --- what the daemon says ---

    def start(self) -> None:
        """Look after what happens in the lab, which is up."""
        self._observer.start()
        self.punt.start()
        if self.punt.missing:
            self._observer.note_uncached(self.punt.missing)
        self._figures.start()
        self._places.start()
        self._health.start()

    async def halt(self) -> None:
        """Stop whatever happens by itself; the processes are not touched."""
        await self._observer.stop()
        await self.punt.stop()
        await self._figures.stop()
        await self._places.stop()
        await self._health.stop()
        await self.at_work.stop()

    async def open_map(self) -> None:
        """Read the state map from now on; StateMapError."""
        self._map = await in_thread(self._parts.open_map, self._paths.state_file)
        self._region.host_numbers = self._map.hosts_max

    def close_map(self) -> None:
        """The lab is being removed."""
        if self._map is not None:
            state_map, self._map = self._map, None
            with contextlib.suppress(BufferError):
                state_map.close()

    async def start_services(self) -> None:
        """The servers of the VPCs, the writer of flow logs, and what runs handlers; before these
        what they show programs of /etc. NetnsError.
        """
        await in_thread(self._write_files)
        await self.network.follow_services(self._region.wanted())

    def _write_files(self) -> None:
        directory = self._paths.directory
        hostname = str(self._config.environment.interface.ip)
        try:
            files.write(directory, nameserver=str(LINK_LOCAL), hostname=hostname)
        except OSError as error:
            raise from_errno(f"cannot write in {directory}", error.errno or 0) from None

    async def reapply(self, config: Config) -> Mapping[str, Any]:
        """Make the running lab what a configuration says; what it changed, as `apply`."""
        return await self.apply(record.said(config), dry_run=False, keep_used=False, token=None)

    # --- what its parts ask ---

    def _heed(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "state-map-discarded":
            # It has the former file mapped.
            self.services.renew(flow_logs.GROUP)
        self._observer.take(message)

    def _reopen(self) -> None:
        """The file of the map may be another one: a new forwarder has begun."""
        if self._map is not None:
            # Whoever still reads the former one keeps it.
            try:
                self._map = self._parts.open_map(self._paths.state_file)
            except StateMapError as error:
                log.error("%s", error)

    def _forwarder_state(self) -> Mapping[str, object]:
        return {**self.network.everything(), "clock_offset_ms": self._advance.offset_ms}

    async def _note_health(self, found: Mapping[str, Mapping[Place, str]]) -> object:
        return await self.at_work.command(
            lambda commands: commands.note_health(found), token=None, request=None
        )

    def _connections(self, attached: Mapping[int, str]) -> Mapping[str, int]:
        return {} if self._map is None else views.connections(self._map, attached)

    def _unused(self, number: int) -> bool:
        return self._map is not None and not self._map.interface_counters(number)["flows"]

    # --- what the metrics show ---

    @functools.cached_property
    def _figures(self) -> answers.interface_metrics.InterfaceMetrics:
        return answers.interface_metrics.InterfaceMetrics(
            state_map=lambda: self._map,
            interfaces=self._interface_names,
            attached=self._attached,
            crowded=self._crowded,
        )

    @functools.cached_property
    def _targets(self) -> answers.balancing.TargetStates:
        return answers.balancing.TargetStates(self._region)

    def snapshot(self) -> metrics.LabSnapshot:
        """What GET /metrics shows."""
        running = answers.snapshot.Running(
            self.forwarder, self.services, self.at_work, self._figures, self.events
        )
        return answers.snapshot.snapshot(self._paths, self._open(), self._port_names(), running)

    def _port_names(self) -> answers.port_usage.PortNames:
        return answers.port_usage.port_names(self._config, self._region)

    def _crowded(self) -> Sequence[RemotePorts]:
        return answers.port_usage.crowded_in(
            self._paths.state_file, self._port_names(), answers.interface_metrics.REMOTES
        )

    def _attached(self) -> dict[int, str]:
        return views.attached_interfaces(self._region)

    def _open(self) -> views.MapReader:
        if self._map is None:
            raise ControllerError("the lab is being removed (nothing to do)")
        return self._map

    # --- what the control API shows: LabService ---

    def facts(self) -> dict[str, Any]:
        """What is known without asking anybody."""
        region = self._region
        endpoint = Endpoint.read(self._paths.directory) if self.at_work.has_handlers else None
        return {
            "lab": self._paths.lab,
            "state": "stopping" if self._stop.is_set() else "running",
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "environments": len(self._pool.slots),
            "interfaces": len(region.tables.interfaces),
            "functions": sum(not each.function_id for each in region.tables.functions.values()),
            "pool": {"ready": self._pool.ready, "size": self._pool.size},
            "hosts": len(region.tables.hosts),
            "vpcs": sum(vpc.name != INTERNET for vpc in region.tables.vpcs.values()),
            "metrics_url": self.metrics_url,
            "metrics_port_passed_over": self.metrics_port_passed_over,
            "lambda_endpoint": None if endpoint is None else endpoint.url,
            "aws_endpoint": aws.url(self._config),
            "clock_offset_seconds": self._advance.offset_ms / 1000,
        }

    async def status(self) -> Mapping[str, Any]:
        """GET /v1/status."""
        state_map = self._open()
        return self.facts() | {
            "forwarder": await self.forwarder.status() | {"punt_link": self.punt.on},
            "services": {
                name: {"up": up, "restarts": restarts}
                for name, (up, restarts) in self.services.states().items()
            },
            "privileges": views.process_privileges(
                {"forwarder": self.forwarder.pid, "standby": self.forwarder.standby_pid}
                | self.services.pids()
            ),
            **views.traffic(state_map, self._paths.state_file),
        }

    def health(self) -> Mapping[str, str]:
        """GET /healthz: a word for each of the two processes, "ok" if it does its work."""
        return {
            "controller": "stopping" if self._stop.is_set() else "ok",
            "forwarder": "ok" if self.forwarder.up else "down",
        }

    async def environments(self, wanted: views.EnvironmentFilter) -> bytes:
        """GET /v1/environments, encoded."""
        address = str(self._config.environment.interface.ip)
        state_map = self._open()
        return await in_thread(
            lambda: views.encode_rows(
                wanted.of(views.environments(self._region, self._pool, state_map, address))
            )
        )

    def environment_sums(self) -> list[dict[str, Any]]:
        """GET /v1/environment-sums."""
        return answers.sums.environment_sums(self._region, self._pool, self._open())

    async def interfaces(self) -> bytes:
        """GET /v1/interfaces, encoded."""
        state_map, macs = self._open(), self.network.macs()
        rows, attached = model.description.describe_interfaces(self._region), self._attached()
        limit = self._config.ports.limit_per_interface
        return await in_thread(
            lambda: views.encode_rows(views.interfaces(rows, attached, macs, state_map, limit))
        )

    async def hosts(self) -> bytes:
        """GET /v1/hosts, encoded."""
        rows, state_map = model.description.describe_hosts(self._region), self._open()
        return await in_thread(lambda: views.encode_rows(views.hosts(rows, state_map)))

    @contextlib.asynccontextmanager
    async def keeping(self, content: bytes) -> AsyncIterator[runtime.uploads.Archive]:
        """The archive of a request, until a function has it: ModelError."""
        with self.at_work.published.keeping() as note:
            try:
                archive = await in_thread(runtime.uploads.keep, self._paths.directory, content)
            except runtime.code.CodeError as error:
                raise ModelError(
                    "InvalidParameterValueException", str(error), "send another archive"
                ) from None
            except OSError as error:
                raise ControllerError(
                    f"cannot keep the archive: {error.strerror} (is {self._paths.directory} full?)"
                ) from None
            note(archive)
            yield archive

    async def command(
        self, work: Callable[[Commands], Resource | None], *, token: str | None, request: object
    ) -> Mapping[str, Any]:
        """One resource created, changed or deleted: ModelError, StateError."""
        return await asyncio.shield(self._command(work, token, request))

    async def _command(
        self, work: Callable[[Commands], Resource | None], token: str | None, request: object
    ) -> Mapping[str, Any]:
        async with self._applying:
            self._open()
            return await self.at_work.command(work, token=token, request=request)

    async def apply(
        self,
        document: Mapping[str, Any],
        *,
        dry_run: bool,
        keep_used: bool,
        token: str | None,
    ) -> Mapping[str, Any]:
        """POST /v1/apply: ConfigError, ModelError; what is not a resource must be as it is."""
        # A client that goes away does not leave a plan half done.
        return await asyncio.shield(self._apply(document, dry_run, keep_used, token))

    async def _apply(
        self, document: Mapping[str, Any], dry_run: bool, keep_used: bool, token: str | None
    ) -> Mapping[str, Any]:
        # One after the other: each plan is about what the one before has left.
        async with self._applying:
            self._open()
            request = {"apply": document, "dry_run": dry_run, "keep_used": keep_used}
            if (answer := self.at_work.repeated(token, request)) is not None:
                return answer
            config = self._applicable(document)
            if dry_run:
                return self.at_work.plan(config, keep_used=keep_used)
            # Before anything is changed: the disk may be full.
            kept = await in_thread(record.prepare, self._paths.config_file, config)
            try:
                result = await self.at_work.apply(
                    config, keep_used=keep_used, token=token, request=request
                )
            except BaseException:
                kept.unlink(missing_ok=True)
                raise
            self._config = config
            kept.replace(self._paths.config_file)
            return result

    async def advance(self, seconds: float, *, token: str | None) -> Mapping[str, Any]:
        """POST /v1/advance: ModelError, StateError, ForwarderError."""
        return await asyncio.shield(self._advance_clock(seconds, token))

    async def _advance_clock(self, seconds: float, token: str | None) -> Mapping[str, Any]:
        async with self._applying:
            self._open()
            before = self._advance.offset_ms
            try:
                return await self._advance.advance(
                    seconds, token=token, request={"advance": seconds}
                )
            finally:
                if (offset_ms := self._advance.offset_ms) != before:
                    text = (
                        f"the clock was advanced by {(offset_ms - before) / 1000:.12g} s and is "
                        f"{offset_ms / 1000:.12g} s ahead of the host's"
                    )
                    self.events.report(Event(kind=Kind.CLOCK_ADVANCED, message=text))

    def _applicable(self, document: Mapping[str, Any]) -> Config:
        config = validated(record.as_it_is(document, self._config), "")
        changed = [
            field
            for field in record.differences(self._config, config)
            if record.section_of(field) not in record.RESOURCES
        ]
        if changed:
            raise ConfigError.of(
                [
                    Problem(
                        source="",
                        line=None,
                        entry="",
                        field=field,
                        what="cannot change while the lab runs",
                        remedy="leave it as it is, or hyperplane-nat down and up with the new file",
                    )
                    for field in changed
                ]
            )
        return config

    async def invoke(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_seconds: float | None,
        stdin: bytes | None,
        token: str | None = None,
        output: Output | None = None,
    ) -> Mapping[str, Any]:
        """POST /v1/functions/NAME/invocations, and where output comes meanwhile."""
        self._open()
        return await self.at_work.invoke(
            name, command, timeout_seconds=timeout_seconds, stdin=stdin, token=token, output=output
        )

    async def hold(self, number: int, pid: int) -> None:
        """POST /v1/holds."""
        self._open()
        await self.at_work.stillness.hold_while(number, pid)

    async def provision(self, name: str, count: int) -> Mapping[str, Any]:
        """POST /v1/functions/NAME/provision."""
        self._open()
        return await self.at_work.provision(name, count)

    async def verify(self) -> Mapping[str, Any]:
        """GET /v1/verify."""
        # Whoever does not answer this hangs already, which a walk would hide.
        await self.forwarder.call("status", timeout_seconds=STATUS_SECONDS)
        result = await self.forwarder.call("verify", timeout_seconds=VERIFY_SECONDS, at_rest=True)
        return dict(result)

    def config(self) -> Mapping[str, Any]:
        """GET /v1/config."""
        return self._config.model_dump(mode="json")

    def open_flows(self, wanted: views.FlowFilter) -> views.FlowReader:
        """A reader with a mapping of its own."""
        self._open()
        names = self._interface_names()
        hosts = views.host_names(self._region)
        state_map = self._parts.open_map(self._paths.state_file)
        return views.FlowReader(state_map, wanted, names, hosts=hosts)

    async def ports(self, wanted: answers.port_usage.PortQuery) -> Mapping[str, Any]:
        """GET /v1/ports."""
        self._open()
        names = self._port_names()
        return await in_thread(answers.port_usage.usage_in, self._paths.state_file, wanted, names)

    async def trace(self, question: Question) -> Mapping[str, Any]:
        """GET /v1/trace."""
        # Few ask for it, and a lab is not to wait for what it needs at its start.
        from hyperplane_nat.controller.trace import verdict

        self._open()
        return await in_thread(
            verdict.traced_in,
            self._paths.state_file,
            question,
            self._config,
            self._region.tables.copy(),
            frozenset(self._pool.slots),
            forwards=self.forwarder.up,
        )

    def interface_id(self, named: str) -> str | None:
        """The id of the network interface with that id or name."""
        return views.interface_id(self._region, named)

    def slots_of(self, function: str) -> frozenset[int] | None:
        """Numbers of a function's environments; None when there is no such function."""
        return views.slots_of(self._region, function)

    def _interface_names(self) -> dict[int, str]:
        return views.interface_names(self._region)

    def _function_of(self, slot: int) -> str | None:
        used = self._region.tables.environments.get(slot)
        return None if used is None else used.function_name or None

    def has_environment(self, number: int) -> bool:
        """Whether there is an environment with that number."""
        return number in self._pool.slots

    async def shut_down(self) -> None:
        """Remove the lab and return when it is gone."""
        self._stop.set()
        await asyncio.shield(self._gone)
