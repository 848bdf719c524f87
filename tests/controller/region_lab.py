# SPDX-License-Identifier: Apache-2.0
"""A lab for the API: a real region on a clock that is set by hand, without a network below it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError

from hyperplane_nat.config.lab import Config, ConfigError
from hyperplane_nat.controller.api import endpoint, listeners
from hyperplane_nat.controller.api import service as api
from hyperplane_nat.controller.cold_starts import ColdStarts
from hyperplane_nat.controller.events import Event, EventLog, Kind
from hyperplane_nat.controller.listings import Describe
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.controller.trace.question import Looks, Question
from hyperplane_nat.controller.trace.verdict import traced
from hyperplane_nat.controller.views.lab import (
    EnvironmentFilter,
    FlowFilter,
    FlowReader,
    attached_interfaces,
    encode_rows,
    hosts,
    interface_id,
    interfaces,
    process_privileges,
    slots_of,
)
from hyperplane_nat.controller.views.port_usage import PortQuery
from hyperplane_nat.model.description import (
    describe,
    describe_environments,
    describe_hosts,
    describe_interfaces,
)
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import environment_name, seeded_hex
from hyperplane_nat.model.region import Commands, Region
from hyperplane_nat.runtime import uploads
from hyperplane_nat.runtime.code import CodeError
from hyperplane_nat.runtime.uploads import Archive
from netns.execution import Output, ProgramError
from tests.controller.flow_map import NOW, new_map
from tests.controller.support import run
from tests.model.support import START, Clock, Slots

NO_TRAFFIC = {"packets_out": 0, "bytes_out": 0, "packets_in": 0, "bytes_in": 0}
STATIC = 2
"""Environments of the configuration; those of functions come after them."""

POOL = 20

TRAFFIC = {"packets_out": 4, "bytes_out": 300, "packets_in": 3, "bytes_in": 200, "drops": 0}

FUNCTIONS: list[dict[str, Any]] = [
    {"name": "orders", "subnets": ["a"], "security_groups": ["app"]},
    {
        "name": "reports",
        "networking": "interface-per-environment",
        "subnets": ["small"],
        "security_groups": ["app", "db"],
    },
    {"name": "hook", "networking": "none"},
]


def document_of(**sections: Any) -> dict[str, Any]:
    """A configuration with a static interface and a function of each kind, as the API takes it."""
    document: dict[str, Any] = {
        "lab": {"name": "test", "environments": STATIC},
        "vpc": [
            {
                "name": "customer",
                "cidr": "10.0.0.0/16",
                "subnet": [
                    {"name": "a", "cidr": "10.0.1.0/24"},
                    {"name": "small", "cidr": "10.0.2.0/28"},
                ],
                "security_group": [
                    {"name": "app"},
                    {
                        "name": "db",
                        "ingress": [{"protocol": "tcp", "ports": "5432", "group": "app"}],
                    },
                ],
            }
        ],
        "network_interface": [{"name": "eni-a", "subnet": "a", "address": "10.0.1.10"}],
        "function": FUNCTIONS,
    }
    return Config.model_validate(document | sections).model_dump(mode="json")


@functools.cache
def _beginning() -> tuple[str, Config]:
    """The first configuration, as JSON and as a model; it is read a thousand times over."""
    document = document_of()
    return json.dumps(document), Config.model_validate(document)


def _write(pipes: Sequence[int], data: bytes) -> None:
    for descriptor in pipes:
        with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
            pipe.write(data)


class RegionLab:
    """Answers what the API asks. Everything that takes AWS time is over at the next request."""

    def __init__(self) -> None:
        self.readers: list[FlowReader] = []
        self.wanted: list[FlowFilter] = []
        self.wanted_ports: list[PortQuery] = []
        self.flows = 10
        self.fail: Exception | None = None
        self.reset()

    def reset(self) -> None:
        """As it was in the beginning."""
        self.tokens: dict[str, Mapping[str, Any]] = {}
        self.events = EventLog()
        self.cold_starts = ColdStarts()
        for networking in ("hyperplane", "interface-per-environment", "none"):
            self.cold_starts.note("orders", networking, 0.001, 0.5)
        for number in range(3):
            text = "no source port is left"
            event = Event(kind=Kind.PORT_EXHAUSTION, message=text, interface=f"eni-{number}")
            self.events.report(event)
        text, config = _beginning()
        self.document: dict[str, Any] = json.loads(text)
        self.clock = Clock()
        self.slots = Slots(STATIC + 1, POOL)
        self.region = Region(
            clock=self.clock,
            settings=lifecycle_of(config),
            take_slot=self._take_slot,
            random_hex=seeded_hex(1),
        )
        self.region.apply(self.region.plan(resources_of(config)))
        self.settle()

    def settle(self) -> None:
        """Until every interface that is being made is there."""
        self.clock.pass_seconds(self.region.settings.interface_creation_seconds)
        self.region.advance()

    def _take_slot(self) -> int:
        try:
            return self.slots()
        except LookupError:
            raise ModelError(
                "TooManyRequestsException", "no environment is free", "raise pool.size"
            ) from None

    def _raise(self) -> None:
        if self.fail:
            raise self.fail

    # --- LabService ---

    async def status(self) -> Mapping[str, Any]:
        self._raise()
        return {
            "lab": "test",
            "state": "running",
            "pid": 1,
            "uptime_seconds": 1.5,
            "environments": STATIC,
            "interfaces": 1,
            "vpcs": 1,
            "hosts": 0,
            "metrics_url": "http://127.0.0.1:9109/metrics",
            "forwarder": {
                "pid": 2,
                "up": True,
                "restarts": 0,
                "rss_bytes": 1 << 20,
                "cpu_seconds": 0.5,
                "uptime_seconds": 1.0,
                "standby_pid": None,
                "failover_seconds": None,
                "hangs": 0,
                "punt_link": False,
                "flow_cache": None,
            },
            "services": {"customer/web": {"up": True, "restarts": 0}},
            "privileges": process_privileges({"standby": os.getpid()}),
            "flows": {"tcp": 1, "udp": 2, "icmp": 3, "entries": 6, "max": 100},
            "traffic": NO_TRAFFIC,
            "drops": {"no_flow": 1},
            "counters": {"drop_no_flow": 1},
            "state_file": {"path": "/dev/shm/map", "bytes": 1000, "bytes_per_flow": 10.0},
        }

    async def environments(self, wanted: EnvironmentFilter) -> bytes:
        pooled = [
            self._environment(slot, None, None, None, "pooled") for slot in sorted(self.slots.free)
        ]
        tables = self.region.tables
        own = [
            self._environment(
                row["Slot"],
                tables.interfaces[row["NetworkInterfaceId"]].link,
                str(tables.interfaces[row["NetworkInterfaceId"]].address),
                row["FunctionName"] or None,
                row["State"],
            )
            for row in describe_environments(self.region)
        ]
        rows = sorted(pooled + own, key=lambda row: int(row["number"]))
        return encode_rows(wanted.of(rows))

    def environment_sums(self) -> list[dict[str, Any]]:
        sums = {"tcp_flows": 0, "flows": STATIC, **TRAFFIC}
        row = {"function": None, "interface": "eni-a", "states": {"static": STATIC}}
        return [row | {"environments": STATIC} | sums]

    @staticmethod
    def _environment(
        number: int, interface: str | None, address: str | None, function: str | None, state: str
    ) -> dict[str, Any]:
        name = environment_name(number)
        return TRAFFIC | {
            "name": name,
            "number": number,
            "namespace": f"hp-test-{name}",
            "address": "169.254.100.2",
            "interface": interface,
            "interface_address": address,
            "flows": 1,
            "function": function,
            "state": state,
        }

    async def interfaces(self) -> bytes:
        rows = describe_interfaces(self.region)
        macs = {row["Link"]: "02:00:00:00:02:01" for row in rows}
        with contextlib.closing(new_map(1)) as state_map:
            return encode_rows(
                interfaces(rows, attached_interfaces(self.region), macs, state_map, 0)
            )

    async def hosts(self) -> bytes:
        with contextlib.closing(new_map(1)) as state_map:
            return encode_rows(hosts(describe_hosts(self.region), state_map))

    async def verify(self) -> Mapping[str, Any]:
        return {"problems": [], "entries": 3}

    def config(self) -> Mapping[str, Any]:
        return self.document

    def open_flows(self, wanted: FlowFilter) -> FlowReader:
        self.wanted.append(wanted)
        self.readers.append(
            FlowReader(new_map(self.flows), wanted, {0: "eni-a", 1: "eni-b"}, lambda: NOW)
        )
        return self.readers[-1]

    async def trace(self, question: Question) -> Mapping[str, Any]:
        self._raise()
        looks = Looks(lambda *_place: True, lambda: new_map(1))
        return traced(
            question,
            Config.model_validate(self.document),
            self.region.tables.copy(),
            range(1, STATIC + POOL + 1),
            looks,
            Path("/dev/shm"),
        )

    async def ports(self, wanted: PortQuery) -> Mapping[str, Any]:
        self._raise()
        self.wanted_ports.append(wanted)
        figures = {
            "interface": "eni-a",
            "address": "10.0.1.10",
            "in_use": 3,
            "held": 1,
            "limit": 55_000,
            "used_percent": 0.0,
            "allocation_errors": 0,
            "last_error_seconds": None,
            "last_error_reason": None,
            "last_error_environment": None,
            "last_error_host": None,
            "functions": [{"function": "orders", "in_use": 3, "held": 1}],
            "environments": [
                {
                    "environment": "env-3",
                    "host": None,
                    "function": "orders",
                    "in_use": 3,
                    "held": 1,
                }
            ],
        }
        remote = {
            "protocol": "tcp",
            "remote_address": wanted.address or "10.0.1.80",
            "remote_port": wanted.port or 80,
            "high_water": 5,
        }
        return {"interfaces": [figures], "remotes": [figures | remote]}

    def interface_id(self, named: str) -> str | None:
        return interface_id(self.region, named)

    def has_environment(self, number: int) -> bool:
        return number <= STATIC + POOL

    def slots_of(self, function: str) -> frozenset[int] | None:
        return slots_of(self.region, function)

    async def listing(self, describe: Describe) -> bytes:
        self._raise()
        return encode_rows(describe(self.region))

    @contextlib.asynccontextmanager
    async def keeping(self, content: bytes) -> AsyncIterator[Archive]:
        self._raise()
        with tempfile.TemporaryDirectory() as directory:
            try:
                archive = uploads.keep(Path(directory), content)
            except CodeError as error:
                code = "InvalidParameterValueException"
                raise ModelError(code, str(error), "send another archive") from None
            yield archive

    async def command(
        self, work: Callable[[Commands], Resource | None], *, token: str | None, request: object
    ) -> Mapping[str, Any]:
        self._raise()
        if token is not None and token in self.tokens:
            return self.tokens[token]
        with self.region.commands() as commands:
            about = work(commands)
        result = {} if about is None else describe(self.region, about)
        if token is not None:
            self.tokens[token] = result
        return result

    async def apply(
        self,
        document: Mapping[str, Any],
        *,
        dry_run: bool,
        keep_used: bool,
        token: str | None,
    ) -> Mapping[str, Any]:
        self._raise()
        try:
            config = Config.model_validate(document)
        except ValidationError as error:
            raise ConfigError(f"config: {error.errors()[0]['msg']} (mend it)") from None
        plan = self.region.plan(resources_of(config), keep_used=keep_used)
        lines = plan.lines if dry_run else self.region.apply(plan)
        if not dry_run:
            self.document = config.model_dump(mode="json")
        return {"plan": [asdict(line) for line in lines], "applied": not dry_run}

    async def advance(self, seconds: float, *, token: str | None) -> Mapping[str, Any]:
        self._raise()
        if token is None or token not in self.tokens:
            self.clock.pass_seconds(seconds)
            self.region.advance()
        answer = {"clock_offset_seconds": self.clock.now - START}
        return answer if token is None else self.tokens.setdefault(token, answer)

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
        """Programs called true, cat and sleep there are; with `output` cat is tee /dev/stderr."""
        self._raise()
        if token in self.tokens:
            return self.tokens[token]
        placement = self.region.begin(name, token)
        if placement.cold:
            self.region.ready(placement.environment)
        self.region.end(placement.environment)
        if command[0] not in ("true", "cat", "sleep"):
            code = errno.EACCES if command[0] == "/etc/passwd" else errno.ENOENT
            raise ProgramError(f"cannot run {command[0]!r}", "check the name", code=code)
        slept = command[0] == "sleep"
        if output is not None:
            output.started.set_result(None)
            written = (stdin or b"") if command[0] == "cat" else b""
            await asyncio.to_thread(_write, output.theirs(), written)
        result = {
            "status": -9 if slept else 0,
            "stdout": (stdin or b"") if command[0] == "cat" else b"",
            "stderr": b"",
            "truncated": False,
            "timed_out": slept,
            "environment": environment_name(placement.environment),
            "cold": placement.cold,
            "interface": placement.interface,
            "interface_created": placement.interface_created,
            "network_ready_seconds": 0.001,
            "modelled_seconds": placement.modelled_seconds,
            "elapsed_seconds": timeout_seconds if slept and timeout_seconds else 0.002,
        }
        if token is not None:
            self.tokens[token] = result
        return result

    async def provision(self, name: str, count: int) -> Mapping[str, Any]:
        self._raise()
        placements = []
        refused: ModelError | None = None
        for _ in range(count):
            try:
                placements.append(self.region.begin(name))
            except ModelError as error:
                if not placements:
                    raise
                refused = error
                break
        for placement in placements:
            if placement.cold:
                self.region.ready(placement.environment)
            self.region.end(placement.environment)
        interfaces = sorted({placement.interface for placement in placements})
        return {
            "requested": count,
            "started": len(placements),
            "network_ready_seconds": [0.001] * len(placements),
            "modelled_seconds": [placement.modelled_seconds for placement in placements],
            "elapsed_seconds": 0.1,
            "interfaces": interfaces,
            "addresses": len(interfaces),
            "error": refused and {"code": refused.code, "message": refused.message},
        }

    async def hold(self, number: int, pid: int) -> None:
        self._raise()
        os.close(os.pidfd_open(pid))

    async def shut_down(self) -> None:
        self._raise()


def talk(
    directory: Path,
    lab: RegionLab,
    work: Callable[[aiohttp.ClientSession], Awaitable[None]],
    connections_max: int = 100,
) -> None:
    """Let `work` ask a server that serves `lab`."""

    async def body() -> None:
        path = directory / "control.sock"
        listener = listeners.control_socket(path)
        served = await endpoint.serve(api.application(lab), listener, connections_max)
        try:
            connector = aiohttp.UnixConnector(str(path))
            async with aiohttp.ClientSession("http://lab", connector=connector) as client:
                await work(client)
        finally:
            await served.close()

    run(body())


@contextmanager
def served(path: Path, lab: RegionLab) -> Iterator[None]:
    """Serve `lab` on a socket at `path` from a thread, for clients that block."""
    ready = threading.Event()
    loop = asyncio.SelectorEventLoop()
    end = asyncio.Event()

    async def serve() -> None:
        listener = listeners.control_socket(path)
        served = await endpoint.serve(api.application(lab), listener, 100)
        ready.set()
        await end.wait()
        await served.close()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work, name="api")
    thread.start()
    assert ready.wait(120)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
