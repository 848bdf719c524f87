# SPDX-License-Identifier: Apache-2.0
"""`handlers`: what handlers wait for the lab, and what an idle environment takes of the memory.

A cold start has the environment, its interface and the Runtime API up to the first request for an
invocation, which are ours, and the interpreter with its client and the code, which are not. What is
ours is the whole start of a runtime that takes no time of its own (`native/bootstrap.c`), measured
where the client is; the rest of a start in Python is the interpreter's. Both begin in environments
of a full pool and end after one invocation, so that the next is cold as well.

What standing still costs is the difference of two warm starts after the same pause, of an
environment that has stood still and of one that has not. Many cold starts at once are invocations
that begin in the same moment, each on a connection of its own, in a pool that has room for all. The
lab's clock is advanced by what idle connections have, twice: the first leaves all of the flows, the
second ends them.

An environment of the pool has a namespace and its link, and no process. Its memory is what the
lab's processes and the kernel have more with twice as many: the proportional share of each process
(smaps_rollup), and of /proc/meminfo what network namespaces are made of.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import processes
from bench.errors import BenchError
from bench.gateways.base import LAB_PREFIX, Options
from bench.gateways.hyperplane import DIRECTORY_PREFIX, HyperplaneNat
from bench.load import fill
from bench.report.table import number
from hyperplane_nat.cli.coldstart import FOREVER_SECONDS, temporary_lab
from hyperplane_nat.client import Client
from hyperplane_nat.config.lab import Config
from hyperplane_nat.runtime.code import OWN_RUNTIME
from hyperplane_nat.runtime.places import Endpoint

BOOTSTRAP = Path(__file__).parent / "native" / "bootstrap.c"

HANDLER = """
import os, threading
def handler(event, context):
    if "end" in event:
        # After the answer.
        threading.Timer(0.1, os._exit, [0]).start()
    return {}
"""
KINDS = {"native": "provided", "python": OWN_RUNTIME}
STILL = "still"
"""The function of native code whose environments stand still between two invocations."""

WARM_LEAST, POOL_SIZE = 100, 4
PAUSE_SECONDS = 0.05
"""After which an environment stands still."""

IDLE_SECONDS = 350
FLOW_SOCKETS, FLOW_PORTS = 4, 25_000
FLOWS_MAX = 1 << 17

READY_SECONDS, GONE_SECONDS, ANSWER_SECONDS = 120.0, 10.0, 60.0

_KERNEL = ("Slab", "Percpu", "VmallocUsed", "PageTables")
_INIT = re.compile(r"Init Duration: ([0-9.]+) ms")

Invoke = Callable[[str, object], "Invocation"]


@dataclass(frozen=True, slots=True)
class Times:
    """Of many, in milliseconds."""

    values: tuple[float, ...]

    def at(self, share: float) -> float:
        """The value that so great a share of them does not exceed."""
        ordered = sorted(self.values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One that was answered, in milliseconds."""

    cold: bool
    total: float
    init: float
    """0 when it is warm."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a lab with so many environments has taken, in KiB."""

    environments: int
    processes: int
    kernel: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured."""

    cold: dict[str, Times]
    """By kind of runtime."""
    init: dict[str, Times]
    """From when a runtime is to be started until it asks for an invocation, of the same."""
    network: Times
    """Until environments were attached, as the controller tells it, of the same."""
    warm: dict[str, Times]
    paused: dict[str, Times]
    """Warm starts after a pause, of `native` and of `STILL`."""
    crowd: Times | None
    """Until the network was ready for each of many cold starts at once; None: not measured."""
    advances: tuple[float, ...]
    """How long it took to advance the clock with many flows, in milliseconds."""
    memory: tuple[Memory, ...]

    def per_environment(self) -> Memory | None:
        """What an environment takes more, in bytes; None when only one lab was measured."""
        if len(self.memory) < 2:
            return None
        first, last = self.memory[0], self.memory[-1]
        more = last.environments - first.environments
        return Memory(
            1,
            (last.processes - first.processes) * 1024 // more,
            (last.kernel - first.kernel) * 1024 // more,
        )

    def thaw(self) -> float:
        """What standing still adds to a warm start, in milliseconds at p50."""
        return self.paused[STILL].at(0.5) - self.paused["native"].at(0.5)

    def document(self) -> dict[str, Any]:
        """For `--json`; times in milliseconds, memory in bytes."""
        each = self.per_environment()
        return {
            "cold": {kind: _figures(times) for kind, times in self.cold.items()},
            "init": {kind: _figures(times) for kind, times in self.init.items()},
            "network": _figures(self.network),
            "interpreter_p50": self.cold["python"].at(0.5) - self.cold["native"].at(0.5),
            "warm": {kind: _figures(times) for kind, times in self.warm.items()},
            "paused": {kind: _figures(times) for kind, times in self.paused.items()},
            "thaw_p50": self.thaw(),
            "crowd": None
            if self.crowd is None
            else {**_figures(self.crowd), "longest": self.crowd.at(1)},
            "advance": list(self.advances),
            "environment_bytes": None
            if each is None
            else {"processes": each.processes, "kernel": each.kernel},
        }


def _figures(times: Times) -> dict[str, float]:
    return {"p50": times.at(0.5), "p99": times.at(0.99), "count": len(times.values)}


def measure(rounds: int, environments: int, crowd: int = 0, *, flows: bool = False) -> Report:
    """So many cold starts of each kind, `crowd` at once, a clock that is advanced with `flows`, and
    labs with so many and twice as many environments; what is 0 is not measured. BenchError,
    NetnsError.
    """
    processes.require("cc")
    # What a former lab had, the kernel may keep for the next one.
    before = kernel_kib()
    counts = (environments, 2 * environments) if environments else ()
    memory = tuple(memory_of(count, before) for count in counts)
    with _directory() as directory:
        code = make_code(directory)
        with _lab(directory, {**_FUNCTIONS, "function": functions(code)}, POOL_SIZE) as connection:
            processes.wait_for(lambda: _active(connection), READY_SECONDS, "functions are Active")
            invoke = invoker(connection)
            found = {kind: cold_starts(connection, invoke, kind, rounds) for kind in KINDS}
            rows: Any = connection.get("/v1/cold-starts", {"limit": 2 * rounds})
            count = max(10 * rounds, WARM_LEAST)
            warm = {kind: warm_starts(invoke, kind, count) for kind in KINDS}
            paused = {
                kind: warm_starts(invoke, kind, WARM_LEAST, PAUSE_SECONDS)
                for kind in ("native", STILL)
            }
        together = cold_starts_at_once(directory, code, crowd) if crowd else None
    advances = advance_with_flows() if flows else ()
    return Report(
        {kind: Times(tuple(each.total for each in starts)) for kind, starts in found.items()},
        {kind: Times(tuple(each.init for each in starts)) for kind, starts in found.items()},
        Times(tuple(row["network_ready_seconds"] * 1000 for row in rows)),
        warm,
        paused,
        together,
        advances,
        memory,
    )


_FUNCTIONS = {
    "vpc": [
        {
            "name": "customer",
            "cidr": "10.0.0.0/16",
            "subnet": [{"name": "a", "cidr": "10.0.0.0/20"}],
            "security_group": [{"name": "functions"}],
        }
    ],
}


def functions(code: dict[str, Path]) -> list[dict[str, Any]]:
    """A function of each kind, as of the configuration."""
    return [
        {
            "name": name,
            "networking": "hyperplane",
            "vpc": "customer",
            "subnets": ["a"],
            "security_groups": ["functions"],
            "code": str(code[kind]),
            "runtime": KINDS[kind],
            "handler": "app.handler",
            "timeout_seconds": 30,
            # So that it can end by itself; one that is asked again and again does not stand still.
            "freeze": name == STILL,
        }
        for name, kind in (*((kind, kind) for kind in KINDS), (STILL, "native"))
    ]


def make_code(directory: Path) -> dict[str, Path]:
    """The code of each function, in directories that everybody may read."""
    made = {kind: directory / kind for kind in KINDS}
    for path in made.values():
        path.mkdir(mode=0o755)
    program = made["native"] / "bootstrap"
    processes.run(["cc", "-O2", "-o", str(program), str(BOOTSTRAP)], "cc")
    (made["python"] / "app.py").write_text(HANDLER, encoding="utf-8")
    return made


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _lab(directory: Path, sections: dict[str, Any], pool: int) -> Iterator[Client]:
    runtime = directory / "run"
    config = Config.model_validate(
        {
            "lab": {
                "name": f"{LAB_PREFIX}{secrets.token_hex(4)}",
                "environments": 0,
                "runtime_directory": str(runtime),
            },
            "pool": {"size": pool},
            "metrics": {"port": 0},
            "lifecycle": {
                "interface_creation_seconds": 0.0,
                "interface_deletion_seconds": 0.0,
                "warm_idle_seconds": FOREVER_SECONDS,
            },
            **sections,
        }
    )
    with temporary_lab(config, lambda _what, _done, _total: None) as connection:
        yield connection


def _active(connection: Client) -> bool:
    rows: Any = connection.get("/v1/functions")
    return all(row["State"] == "Active" for row in rows)


def invoker(connection: Client) -> Invoke:
    """Invokes over the loopback port, on one connection, as an SDK does."""
    endpoint = Endpoint.read(connection.path.parent)
    if endpoint is None:
        raise BenchError("the process that runs handlers has not come (see controller.log)")
    server = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=ANSWER_SECONDS)
    key = f"AWS4-HMAC-SHA256 Credential={endpoint.access_key_id}/any"
    headers = {"Authorization": key, "X-Amz-Log-Type": "Tail"}

    def invoke(name: str, event: object) -> Invocation:
        begin = time.perf_counter()
        path = f"/2015-03-31/functions/{name}/invocations"
        server.request("POST", path, json.dumps(event), headers)
        answer = server.getresponse()
        body = answer.read()
        total = (time.perf_counter() - begin) * 1000
        if answer.status != 200 or answer.headers["X-Amz-Function-Error"]:
            raise BenchError(f"{name}: {answer.status} {body.decode(errors='replace')[:200]}")
        found = _INIT.search(base64.b64decode(answer.headers["X-Amz-Log-Result"]).decode())
        cold = answer.headers["X-Hyperplane-Start"] == "cold"
        return Invocation(cold, total, 0.0 if found is None else float(found[1]))

    return invoke


def cold_starts(connection: Client, invoke: Invoke, kind: str, rounds: int) -> list[Invocation]:
    """So many, one after the other, each with a full pool and no environment of the function."""
    found = []
    for _ in range(rounds):
        processes.wait_for(lambda: _only_pool(connection, kind), GONE_SECONDS, "the pool is full")
        one = invoke(kind, {"end": True})
        if not one.cold:
            raise BenchError(f"{kind}: a warm start where a cold one was to be")
        found.append(one)
    processes.wait_for(lambda: _only_pool(connection, kind), GONE_SECONDS, "the pool is full")
    return found


def _only_pool(connection: Client, kind: str) -> bool:
    rows: Any = connection.get("/v1/environments")
    pooled = sum(row["state"] == "pooled" for row in rows)
    return pooled >= POOL_SIZE and not any(row["function"] == kind for row in rows)


def warm_starts(invoke: Invoke, kind: str, count: int, pause_seconds: float = 0.0) -> Times:
    """So many, one after the other with a pause before each, in one environment."""
    invoke(kind, {})
    found = []
    for _ in range(count):
        time.sleep(pause_seconds)
        found.append(invoke(kind, {}))
    if any(each.cold for each in found):
        raise BenchError(f"{kind}: a cold start where a warm one was to be")
    return Times(tuple(each.total for each in found))


def cold_starts_at_once(directory: Path, code: dict[str, Path], count: int) -> Times:
    """So many in the same moment: what each has waited until its network was ready."""
    place = directory / "crowd"
    place.mkdir(mode=0o755)
    begin = threading.Barrier(count)
    with _lab(place, {**_FUNCTIONS, "function": functions(code)}, count) as connection:
        processes.wait_for(lambda: _active(connection), READY_SECONDS, "functions are Active")
        processes.wait_for(lambda: _pool_is_full(connection), READY_SECONDS, "the pool is full")

        def one(invoke: Invoke) -> bool:
            begin.wait(ANSWER_SECONDS)
            return invoke("native", {"end": True}).cold

        with ThreadPoolExecutor(count) as threads:
            each = [threads.submit(one, invoker(connection)) for _ in range(count)]
            if not all(future.result() for future in each):
                raise BenchError("a warm start where a cold one was to be")
        rows: Any = connection.get("/v1/cold-starts", {"limit": count})
    return Times(tuple(row["network_ready_seconds"] * 1000 for row in rows))


def advance_with_flows() -> tuple[float, ...]:
    """How long it took to advance the clock of a lab with many flows, twice, in milliseconds."""
    with HyperplaneNat(Options(flows_max=FLOWS_MAX)) as gateway:
        wanted = FLOW_SOCKETS * FLOW_PORTS
        held = fill(gateway, sockets=FLOW_SOCKETS, ports=FLOW_PORTS, wanted=wanted)
        if held < wanted:
            raise BenchError(f"the lab holds {held} flows, not {wanted}")
        client = Client(gateway.lab, runtime_directory=gateway.directory / "run")
        found = []
        for _ in range(2):
            begin = time.perf_counter()
            client.advance(IDLE_SECONDS)
            found.append((time.perf_counter() - begin) * 1000)
        return tuple(found)


def memory_of(environments: int, before: int) -> Memory:
    """What a lab with a pool of so many and nothing else takes; `before` as of `kernel_kib`."""
    with _directory() as directory, _lab(directory, {}, environments) as connection:
        processes.wait_for(lambda: _pool_is_full(connection), READY_SECONDS, "the pool is full")
        pids = _processes(connection.path.parent)
        return Memory(environments, sum(map(_share_kib, pids)), kernel_kib() - before)


def _pool_is_full(connection: Client) -> bool:
    status: Any = connection.get("/v1/status")
    return len(set(status["pool"].values())) == 1


def _processes(directory: Path) -> list[int]:
    """The lab's processes: each is told its directory or has a file with its number there."""
    files = directory.glob("*.pid")
    return sorted({int(file.read_text(encoding="ascii").split()[0]) for file in files})


def _share_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(text.partition("\nPss:")[2].split()[0])


def kernel_kib() -> int:
    """What the kernel has for itself, in KiB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return sum(sizes[name] for name in _KERNEL)


def show(report: Report, console: Console) -> None:
    """The tables."""
    table = Table("milliseconds", "p50", "p99", "of")
    for label, times in (
        ("cold start, ours alone", report.cold["native"]),
        ("  until the network is ready", report.network),
        ("  until the runtime asks", report.init["native"]),
        (f"cold start, {OWN_RUNTIME}", report.cold["python"]),
        ("warm, a runtime of no time", report.warm["native"]),
        (f"warm, {OWN_RUNTIME}", report.warm["python"]),
        ("warm after a pause, a runtime of no time", report.paused["native"]),
        ("  which has stood still", report.paused[STILL]),
        *(() if report.crowd is None else (("network of cold starts at once", report.crowd),)),
    ):
        table.add_row(label, number(times.at(0.5)), number(times.at(0.99)), str(len(times.values)))
    console.print(table)
    console.print(f"the interpreter's: {number(report.document()['interpreter_p50'])} ms at p50")
    console.print(f"to go on after standing still: {number(report.thaw())} ms at p50")
    if report.crowd is not None:
        console.print(
            f"{len(report.crowd.values)} cold starts at once: the longest wait for the network is "
            f"{number(report.crowd.at(1))} ms"
        )
    if report.advances:
        first, second = map(number, report.advances)
        console.print(
            f"advance({IDLE_SECONDS}) with {FLOW_SOCKETS * FLOW_PORTS:,} flows: {first} ms, and "
            f"{second} ms when it ends them"
        )
    for memory in report.memory:
        console.print(
            f"{memory.environments} environments without a process: processes "
            f"{number(memory.processes / 1024)} MiB, kernel {number(memory.kernel / 1024)} MiB"
        )
    if each := report.per_environment():
        total = number((each.processes + each.kernel) / 2**20)
        console.print(
            f"each: {total} MiB ({number(each.processes / 1024)} KiB in processes, "
            f"{number(each.kernel / 1024)} KiB in the kernel)"
        )
