# SPDX-License-Identifier: Apache-2.0
"""A lab without namespaces: fakes of netns, and what tests need to run a controller on them."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.cleanup import Namespaces
from hyperplane_nat.controller.daemon import Daemon
from hyperplane_nat.controller.network.punt import Punt
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.service import Parts, Service
from hyperplane_nat.controller.source import Source
from netns.errors import NetnsError
from netns.survey import StandingEnvironment, StandingInterface, StandingVpc, Survey
from netns.topology import Interface, LabSpec, Mended, Slot, Topology

HERE = Path(__file__).parent
FORWARDER = (sys.executable, str(HERE / "fake_forwarder.py"))
SERVICE = (sys.executable, str(HERE / "fake_service.py"))

DEADLINE_SECONDS = 120.0
"""For what takes a second or two where nothing else runs; several processes may start in it."""

OFF = Punt("test", wanted=False)
"""Of labs whose links lead to no punt link."""


class FakeNetns:
    """Namespaces that are lines of a file, so that they outlive a killed controller."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "namespaces"
        self.fail: str | None = None
        self.pause: Callable[[], None] | None = None
        """Called by `build` between two progress reports."""

    def names(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []

    def topology(self, spec: LabSpec) -> Topology:
        return Topology(
            f"hp-{spec.lab}-gw",
            tuple(
                Slot(n, 100 + n, f"hp-{spec.lab}-env-{n}", f"02:00:00:00:01:{n:02x}", "02::1")
                for n in range(1, spec.environments + 1)
            ),
            tuple(
                Interface(interface.name, vpc.name, 50 + n, f"02:00:00:00:02:{n:02x}", "02::2")
                for vpc in spec.vpcs
                for n, interface in enumerate(vpc.interfaces)
            ),
        )

    def build(self, spec: LabSpec, progress: Callable[[int, int], None]) -> Topology:
        found = self.topology(spec)
        self.file.write_text(found.gateway)
        progress(0, spec.environments)
        if self.pause:
            self.pause()
        if self.fail:
            raise NetnsError(self.fail, "try again")
        progress(spec.environments, spec.environments)
        self.file.write_text("\n".join([found.gateway, *(slot.namespace for slot in found.slots)]))
        return found

    def mend(self, spec: LabSpec) -> Mended | None:
        found = self.topology(spec)
        missing = [slot for slot in found.slots if slot.namespace not in self.names()]
        if found.gateway not in self.names():
            return None
        if missing:
            names = [*self.names(), *(slot.namespace for slot in missing)]
            self.file.write_text("\n".join(names))
        stands = Survey(
            found.gateway,
            tuple(
                StandingEnvironment(slot, spec.inside_address, spec.inside_gateway, 1500)
                for slot in found.slots
            ),
            tuple(
                StandingVpc(
                    vpc.name,
                    frozenset(vpc.addresses),
                    tuple(
                        StandingInterface(interface, frozenset(), vpc.mtu)
                        for interface in found.interfaces
                        if interface.vpc == vpc.name
                    ),
                )
                for vpc in spec.vpcs
            ),
        )
        return Mended(stands, tuple(f"environment {slot.number}" for slot in missing))

    def strays(self, lab: str) -> list[str]:
        return [name for name in self.names() if name.startswith(f"hp-{lab}-")]

    def destroy(self, lab: str) -> None:
        left = [name for name in self.names() if not name.startswith(f"hp-{lab}-")]
        if left:
            self.file.write_text("\n".join(left))
        else:
            self.file.unlink(missing_ok=True)

    def namespaces(self) -> Namespaces:
        return Namespaces(self.strays, self.destroy, self.file.parent / "run")

    def parts(self) -> Parts:
        return Parts(
            build=self.build,
            mend=self.mend,
            namespaces=self.namespaces(),
            open_sockets=no_sockets,
            forwarder_program=FORWARDER,
            service_program=SERVICE,
            resolver_program=SERVICE,
        )


def no_sockets(
    _receives: str, _sends: str, _slots: int, _slot_bytes: int
) -> tuple[socket.socket, socket.socket]:
    """Two that move no packets."""
    return socket.socketpair()


def config_in(directory: Path, **sections: Any) -> Config:
    """A lab of five environments below `directory`, metrics on any port."""
    document: dict[str, Any] = {
        "lab": {
            "name": "test",
            "environments": 5,
            "runtime_directory": str(directory / "run"),
            "state_directory": str(directory),
        },
        "flows": {"max": 10_000},
        "metrics": {"port": 0},
    }
    for name, section in sections.items():
        document[name] = section if isinstance(section, list) else document.get(name, {}) | section
    return Config.model_validate(document)


def paths_of(config: Config) -> LabPaths:
    return LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)


async def eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """The first true value of `condition`; fails when there is none before the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} never came true"
        await asyncio.sleep(0.005)
    return value


def gone(pid: int) -> bool:
    """Whether no process with that pid runs; a zombie has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def pid_in(file: Path) -> int:
    """The pid in a pid file; 0 when there is none."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, IndexError):
        return 0


class RunningDaemon:
    """A controller in this process's event loop."""

    def __init__(
        self, config: Config, parts: Parts, *, replace: bool = False, source: Source | None = None
    ) -> None:
        self.config = config
        self.paths = paths_of(config)
        self._read, write = os.pipe()
        self._text = b""
        self.daemon = Daemon(config, ready_fd=write, replace=replace, source=source, parts=parts)
        self.task: asyncio.Task[int] = asyncio.create_task(self.daemon.run())

    async def __aenter__(self) -> Self:
        await eventually(
            lambda: self.task.done() or (self.reports()[-1:] and "ready" in self.reports()[-1]),
            "the controller's readiness",
        )
        if self.task.done():
            raise AssertionError(f"the controller ended: {self.reports()}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.daemon._stop.set()
        await self.task
        os.close(self._read)

    @property
    def service(self) -> Service:
        """What it answers."""
        return self.daemon._service

    def reports(self) -> list[dict[str, Any]]:
        """What has come through the ready pipe."""
        while select.select([self._read], [], [], 0)[0] and (piece := os.read(self._read, 65536)):
            self._text += piece
        return [json.loads(line) for line in self._text.splitlines()]


async def ask(running: RunningDaemon, path: str, method: str = "GET") -> Any:
    """What the control API answers."""
    connector = aiohttp.UnixConnector(str(running.paths.control_socket))
    async with (
        aiohttp.ClientSession("http://lab", connector=connector) as client,
        client.request(method, path) as response,
    ):
        return await response.json()


class ControllerProcess:
    """A controller in a process of its own, to be killed."""

    def __init__(self, config: Config, *module: str) -> None:
        """`module` is the Python module to run and its arguments before the ready pipe's number."""
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module, str(write)],
            cwd=HERE.parent.parent,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[write],
        )
        os.close(write)
        assert self.process.stdin is not None
        self.process.stdin.write(config.model_dump_json().encode())
        self.process.stdin.close()
        self.process.stdin = None
        with os.fdopen(read) as pipe:
            self.reports: list[dict[str, Any]] = [json.loads(line) for line in pipe]

    @classmethod
    def on_fakes(cls, config: Config, directory: Path) -> Self:
        return cls(config, "tests.controller.run_daemon", str(directory))

    @property
    def ready(self) -> bool:
        return bool(self.reports) and self.reports[-1].get("ready") is True

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; exit status and stderr."""
        self.process.send_signal(number)
        _, text = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, text.decode()


def run(work: Awaitable[None]) -> None:
    """Run a test's coroutine on the loop that the controller uses."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            await work

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(bounded())
