# SPDX-License-Identifier: Apache-2.0
"""A lab that a controller has: what it consists of, what it tells and what may be asked of it.

It is what the control API (`api.LabService`) and the metrics look at; how it comes to be and how it
ends is the daemon's matter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperplane_nat import metrics
from hyperplane_nat.client import VERIFY_SECONDS
from hyperplane_nat.config.lab import Config, validated
from hyperplane_nat.controller import flow_logs, record
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.forwarder.equipment import equip
from hyperplane_nat.controller.forwarder.supervisor import STATUS_SECONDS, ForwarderSupervisor
from hyperplane_nat.controller.functions import Functions
from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.network.network import Network
from hyperplane_nat.controller.network.services import ServiceSupervisor
from hyperplane_nat.controller.observer import Observer
from hyperplane_nat.controller.parts import Parts
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.controller.views import lab as views
from hyperplane_nat.controller.views import port_usage
from hyperplane_nat.controller.views.interface_metrics import REMOTES, InterfaceMetrics
from hyperplane_nat.controller.views.port_usage import PortNames, PortQuery
from hyperplane_nat.controller.views.snapshot import Running, snapshot
from hyperplane_nat.engine import StateMapError
from hyperplane_nat.engine.state.settings import RemotePorts
from hyperplane_nat.errors import ConfigError, Problem
from hyperplane_nat.model.changes import Resource
from hyperplane_nat.model.region import Commands, Region
from netns.topology import Topology

log = logging.getLogger(__name__)


class RunningLab:
    """The parts of one lab, and what it answers; `LabService`."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self._config = config
        self._parts = parts
        self._paths = LabPaths.of(
            config.lab.name, config.lab.runtime_directory, config.lab.state_directory
        )
        self._lab = reconcile.lab_of(config)
        self._spec = reconcile.lab_spec(config, self._lab)
        self._topology: Topology | None = None
        self._map: views.MapReader | None = None
        self._metrics_url = ""
        self._metrics_port_passed_over: int | None = None
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
            reconcile.forwarder_command(config, self._paths, parts.forwarder_program),
            parts.forwarder_program[-1],
            self._forwarder_state,
            lambda: equip(config, self._paths, parts.open_sockets),
            on_event=self._heed,
            heartbeat=lambda: None if self._map is None else self._map.heartbeat,
            on_start=self._reopen,
        )
        self._services = ServiceSupervisor(self._paths, [])
        self._functions: Functions | None = None
        self._network: Network | None = None
        self._started = time.monotonic()
        self._applying = asyncio.Lock()
        self._stop = asyncio.Event()
        self._gone: asyncio.Future[None] | None = None

    def _heed(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "state-map-discarded":
            # It has the former file mapped.
            self._services.renew(flow_logs.GROUP)
        self._observer.take(message)

    def _reopen(self) -> None:
        """The file of the map may be another one: a new forwarder has begun."""
        if self._map is not None:
            # Whoever still reads the former one keeps it.
            try:
                self._map = self._parts.open_map(self._paths.state_file)
            except StateMapError as error:
                log.error("%s", error)

    def _service(self) -> Functions:
        assert self._functions is not None
        return self._functions

    def _forwarder_state(self) -> Mapping[str, object]:
        assert self._topology is not None
        assert self._network is not None
        return self._network.everything(self._lab, self._topology)

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
        region = self._service().region
        return {
            "lab": self._lab.name,
            "state": "stopping" if self._stop.is_set() else "running",
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "environments": len(self._lab.environments) + len(self._service().pool.slots),
            "interfaces": len(self._lab.interfaces) + len(region.tables.interfaces),
            "functions": len(region.tables.functions),
            "pool": {"ready": self._service().pool.ready, "size": self._service().pool.size},
            "vpcs": len(self._lab.vpcs),
            "metrics_url": self._metrics_url,
            "metrics_port_passed_over": self._metrics_port_passed_over,
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
            "privileges": views.process_privileges(
                {"forwarder": self._forwarder.pid, "standby": self._forwarder.standby_pid}
                | self._services.pids()
            ),
            **views.traffic(state_map, self._paths.state_file),
        }

    def health(self) -> Mapping[str, str]:
        """GET /healthz: a word for each of the two processes, "ok" if it does its work."""
        return {
            "controller": "stopping" if self._stop.is_set() else "ok",
            "forwarder": "ok" if self._forwarder.up else "down",
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

    def listing(self, describe: Callable[[Region], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """GET of what the region holds."""
        return describe(self._service().region)

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
            return await self._service().command(work, token=token, request=request)

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
            if (answer := self._service().repeated(token, request)) is not None:
                return answer
            config = self._applicable(document)
            if dry_run:
                return self._service().plan(config, keep_used=keep_used)
            # Before anything is changed: the disk may be full.
            kept = await in_thread(record.prepare, self._paths.config_file, config)
            try:
                result = await self._service().apply(
                    config, keep_used=keep_used, token=token, request=request
                )
            except BaseException:
                kept.unlink(missing_ok=True)
                raise
            self._config = config
            kept.replace(self._paths.config_file)
            return result

    def _applicable(self, document: Mapping[str, Any]) -> Config:
        config = validated(_as_it_is(document, self._config), "apply")
        changed = [
            field
            for field in record.differences(self._config, config)
            if record.section_of(field) not in reconcile.RESOURCES
        ]
        if changed:
            raise ConfigError.of(
                [
                    Problem(
                        source="apply",
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
        # Whoever does not answer this hangs already, which a walk would hide.
        await self._forwarder.call("status", timeout_seconds=STATUS_SECONDS)
        result = await self._forwarder.call("verify", timeout_seconds=VERIFY_SECONDS, at_rest=True)
        return dict(result)

    def config(self) -> Mapping[str, Any]:
        """GET /v1/config."""
        return self._config.model_dump(mode="json")

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


def _as_it_is(document: Mapping[str, Any], running: Config) -> dict[str, Any]:
    """The document with the static part of the running lab where it does not say it.

    With a first function, defaults would change that; a lab that runs is not asked for defaults.
    """
    result = dict(document)
    lab = result.get("lab", {})
    if not result.get("function") or not isinstance(lab, Mapping):
        return result
    result["lab"] = {"environments": running.lab.environments, **lab}
    if "network_interface" not in result:
        result["network_interface"] = [
            interface.model_dump(mode="json") for interface in running.network_interface
        ]
    return result
