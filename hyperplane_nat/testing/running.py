# SPDX-License-Identifier: Apache-2.0
"""A lab that is up, as a test sees it: the command line and the control API behind methods.

Theory of operation
-------------------
What is counted or told (`drops`, `events`) is so since the mark, which the plugin sets when a test
begins and `mark` sets again: what another test did is not seen, and asking twice gives the same.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hyperplane_nat.client import Client, ClientError
from hyperplane_nat.testing import keeper, taking
from hyperplane_nat.testing.builder import Lab
from hyperplane_nat.testing.keeper import LabError
from hyperplane_nat.testing.taking import TakenPorts
from netns import namespace
from netns.names import vpc_namespace

SECONDS = 120.0
"""How long a command may take, and a successor of the forwarder."""

P = ParamSpec("P")
T = TypeVar("T")

Source = str | os.PathLike[str] | Lab
"""A configuration: a path, TOML text (what has a `=` or a line break is text), or a `Lab`."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended."""

    returncode: int
    """Exit status; the negative number of the signal that killed it."""
    stdout: str
    stderr: str
    environment: str
    """Where it ran."""
    answer: dict[str, Any] = field(default_factory=dict, repr=False)
    """All that the control API says of an invocation: cold, timed_out, ..."""


def settings(document: dict[str, Any], directory: Path) -> list[str]:
    """
    What the plugin says on top of a configuration, as options of `up` and `apply`.

    What would meet another lab or outlive this one always; the rest only where the document does
    not say it: a lab that is up soon.
    """
    result = {"metrics.port": "0", "flow_logs.directory": str(directory / "flow-logs")}
    if document.get("function"):
        preferred = {"pool.size": "8", "lifecycle.interface_creation_seconds": "0"}
    else:
        preferred = {"lab.environments": "2"}
    for name, value in {**preferred, "flows.max": "131072"}.items():
        section, _, key = name.partition(".")
        if key not in document.get(section, {}):
            result[name] = value
    return [word for name, value in result.items() for word in ("--set", f"{name}={value}")]


def arguments(source: Source | None, directory: Path) -> tuple[list[str], list[str]]:
    """The file of a configuration, if there is one, and the options that go with it."""
    if source is None:
        return [], settings({}, directory)
    if isinstance(source, Lab):
        source = source.toml()
    if isinstance(source, str) and ("=" in source or "\n" in source):
        path = directory / "lab.toml"
        path.write_text(source, encoding="utf-8")
    else:
        path = Path(source).absolute()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # The command says what is wrong with it, and where.
        document = {}
    return [str(path)], settings(document, directory)


class RunningLab:
    """A lab that is up."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        """Its runtime directory."""
        self.client = Client(name, runtime_directory=directory)
        """The control API, for what has no method here."""
        self._drops: dict[str, int] = {}
        self._event = 0
        self.mark()

    # --- programs ---

    def cli(self, *arguments: str, timeout: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Run `hyperplane-nat ARGUMENTS` on this lab."""
        return subprocess.run(
            keeper.command(self.name, self.directory, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=keeper.environment(),
            check=False,
        )

    def exec(self, environment: str, *command: str, timeout: float = SECONDS) -> Result:
        """Run a program in an environment; subprocess.TimeoutExpired."""
        done = self.cli("exec", environment, "--", *command, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr, environment)

    def invoke(
        self, function: str, *command: str, timeout: float = SECONDS, stdin: bytes | None = None
    ) -> Result:
        """
        Run a program in an environment of a function, cold or warm; ApiError.

        After `timeout` it is killed, with all it started: `answer["timed_out"]`.
        """
        body = {
            "command": command,
            "timeout_seconds": timeout,
            "stdin": None if stdin is None else base64.b64encode(stdin).decode(),
            "client_token": None,
        }
        client = Client(self.name, runtime_directory=self.directory, timeout=timeout + SECONDS)
        answer: Any = client.post(f"/v1/functions/{function}/invocations", body)
        stdout, stderr = (
            base64.b64decode(answer[stream]).decode(errors="replace")
            for stream in ("stdout", "stderr")
        )
        return Result(answer["status"], stdout, stderr, answer["environment"], answer)

    def handle(self, function: str, payload: object = None, *, timeout: float = SECONDS) -> Any:
        """What the function's handler answers, decoded; LabError when it or its runtime fails."""
        done = self.cli("invoke", function, "--payload", json.dumps(payload), timeout=timeout)
        if done.returncode != 0:
            raise LabError(f"{function}: {done.stdout.strip() or done.stderr.strip()}")
        return json.loads(done.stdout)

    def inside(self, where: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        What `function(...)` returns in the namespace of an environment or a VPC.

        It runs in a thread of its own. Sockets stay in the namespace they were made in, so that a
        server made here (`http.server.HTTPServer`) can serve from any thread.
        """
        names = {row["name"]: row["namespace"] for row in self.environments()}
        place = names.get(where) or vpc_namespace(self.name, where)
        return namespace.call(place, function, *args, **kwargs)

    # --- what the lab tells ---

    def status(self) -> dict[str, Any]:
        """What `hyperplane-nat status --json` prints."""
        result: Any = self.client.get("/v1/status")
        return dict(result)

    def environments(self) -> list[dict[str, Any]]:
        """The environments, as `hyperplane-nat environments --json` prints them."""
        return self._rows("environments")

    def flows(self, **filters: object) -> list[dict[str, Any]]:
        """The flows that fit: environment, function, interface, remote, protocol, state, ..."""
        return self._rows("flows", **filters)

    def ports(self, **filters: object) -> dict[str, Any]:
        """Which source ports are taken, by interface and remote endpoint: interface, remote."""
        result: Any = self.client.get("/v1/ports", filters)
        return dict(result)

    def mark(self) -> None:
        """Count drops and events from here on."""
        self._drops = self.status()["drops"]
        self._event = max((row["number"] for row in self._rows("events")), default=0)

    def drops(self) -> dict[str, int]:
        """Frames dropped since the mark, by reason; reasons that did not occur are absent."""
        now = self.status()["drops"]
        before = self._drops
        return {name: more for name in now if (more := now[name] - before.get(name, 0))}

    def events(self) -> list[dict[str, Any]]:
        """What happened since the mark, the oldest first."""
        return self._rows("events", after=self._event)

    def _rows(self, what: str, **query: object) -> list[dict[str, Any]]:
        result: Any = self.client.get(f"/v1/{what}", query)
        return list(result)

    # --- what is done to it ---

    def apply(self, source: Source, *, timeout: float = SECONDS) -> list[dict[str, Any]]:
        """Have the lab hold another configuration; the plan that was carried out. LabError."""
        file, options = arguments(source, self.directory)
        done = self.cli("apply", *file, *options, "--wait", "--json", timeout=timeout)
        if done.returncode != 0:
            raise LabError(f"hyperplane-nat apply: {done.stderr.strip()}")
        plan: list[dict[str, Any]] = json.loads(done.stdout)["plan"]
        return plan

    def advance(self, seconds: float) -> None:
        """
        Have so much time pass in the lab at once; ApiError.

        What ends in it (idle flows, held ports, environments, interfaces) has ended, each at its
        own time. What the kernels of the lab time, such as keep-alives, is not advanced.
        """
        self.client.advance(seconds)

    def kill(self, process: str = "forwarder") -> None:
        """Kill the forwarder; return when its successor serves."""
        if process != "forwarder":
            raise ValueError(f"{process!r} is none of what can be killed (forwarder)")
        killed = self.status()["forwarder"]["pid"]
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + SECONDS
        while True:
            forwarder = self.status()["forwarder"]
            if forwarder["up"] and forwarder["pid"] != killed:
                return
            if time.monotonic() > deadline:
                raise LabError(f"no forwarder within {SECONDS:g} seconds (see {self.directory})")
            time.sleep(0.01)

    def exhaust_ports(
        self,
        remote: tuple[str, int] | str,
        protocol: str = "udp",
        *,
        leave: int = 0,
        environment: str | None = None,
    ) -> TakenPorts:
        """
        Take the source ports towards a remote endpoint, all but `leave`; LabError.

        They are taken from an environment, the first with an interface unless one is named, with
        a datagram or a SYN each, and come free as any do: when the flow has timed out and its port
        was held, both divided by `timeouts.time_scale`. `free` of the result, which is a context
        manager, has that time pass.
        """
        if isinstance(remote, str):
            address, _, port = remote.partition(":")
            remote = (address, int(port))
        for row in self.environments():
            if row["interface"] and environment in (None, row["name"]):
                return taking.take(self.client, row, remote, protocol, leave)
        what = environment or "no environment"
        raise LabError(f"{what} has no network interface (invoke a function first)")

    def __repr__(self) -> str:
        return f"<lab {self.name}>"


__all__ = ["ClientError", "LabError", "Result", "RunningLab", "Source", "TakenPorts", "arguments"]
