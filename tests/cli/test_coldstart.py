# SPDX-License-Identifier: Apache-2.0
"""coldstart against an API that answers as a lab's would."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.cli import coldstart, coldstart_report, lifecycle, removal
from hyperplane_nat.cli.coldstart import Comparison
from hyperplane_nat.cli.coldstart_report import EACH, SHARED
from hyperplane_nat.cli.common import UserError
from hyperplane_nat.client import Client
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.model.description import (
    describe_environments,
    describe_functions,
    describe_interfaces,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.region import Placement, Region
from tests.cli.conftest import ENVIRONMENT, FUNCTION, INTERFACE, POOLED, Run
from tests.cli.fake_api import FakeApi, serving


class FakeLab:
    """
    A lab's model without its namespaces. What a controller does in the background happens a step at
    each question: the pool fills, environments and interfaces go.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._seconds = 0.0
        self._pool = 0
        self._slots = itertools.count(1)
        self.region = Region(
            clock=lambda: self._seconds,
            settings=lifecycle_of(config),
            take_slot=self._take_slot,
        )
        self.region.apply(self.region.plan(resources_of(config)))
        self.api = FakeApi(
            {
                "/v1/functions": self._functions,
                "/v1/interfaces": self._interfaces,
                "/v1/environments": self._environments,
                "/v1/apply": self._apply,
            }
        )
        self._add_provision()

    def _add_provision(self) -> None:
        for function in self.config.function:
            self.api.answers[f"/v1/functions/{function.name}/provision"] = functools.partial(
                self._provision, function.name
            )

    def _take_slot(self) -> int:
        if not self._pool:
            raise ModelError("TooManyRequestsException", "the pool is empty", "wait")
        self._pool -= 1
        return next(self._slots)

    def _tend(self) -> None:
        self._seconds += 0.1
        self.region.advance()
        for slot in self.region.reaped()[:400]:
            self.region.removed(slot)
        for interface in self.region.deleting()[:60]:
            self.region.release_number(self.region.interface_removed(interface))
        self._pool = min(self._pool + self.config.pool.size // 2 + 1, self.config.pool.size)

    def _apply(self, body: Any) -> dict[str, Any]:
        self.config = Config.model_validate(body["config"])
        lines = self.region.apply(self.region.plan(resources_of(self.config)))
        self._add_provision()
        return {"plan": [asdict(line) for line in lines], "applied": True}

    def _functions(self, _body: object) -> list[dict[str, Any]]:
        self._tend()
        return describe_functions(self.region)

    def _interfaces(self, _body: object) -> list[dict[str, Any]]:
        self._tend()
        return [INTERFACE | {"kind": row["Kind"]} for row in describe_interfaces(self.region)]

    def _environments(self, _body: object) -> list[dict[str, Any]]:
        self._tend()
        return [
            ENVIRONMENT | {"state": row["State"]} for row in describe_environments(self.region)
        ] + [POOLED] * self._pool

    def _provision(self, name: str, body: Any) -> dict[str, Any]:
        started: list[Placement] = []
        error = None
        for _ in range(body["count"]):
            try:
                started.append(self.region.begin(name))
            except ModelError as refused:
                error = {
                    "code": refused.code,
                    "message": f"{refused.message} ({refused.remedy})",
                }
                break
            self.region.ready(started[-1].environment)
        for placement in started:
            self.region.end(placement.environment)
        interfaces = {placement.interface for placement in started}
        return {
            "requested": body["count"],
            "started": len(started),
            "network_ready_seconds": [0.001 * (number + 1) for number in range(len(started))],
            "modelled_seconds": [placement.modelled_seconds for placement in started],
            "elapsed_seconds": 0.5,
            "interfaces": sorted(interfaces),
            "addresses": len(interfaces),
            "error": error,
        }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coldstart, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


class Labs:
    """Stands in for the start and the end of a lab's controller."""

    def __init__(self) -> None:
        self.started: list[Config] = []
        self.stopped: list[str] = []
        self.lab: FakeLab | None = None
        """The next one to be started, if a test has made it ready."""


@pytest.fixture
def labs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Labs]:
    result = Labs()
    contexts = []

    def start(config: Config, _progress: object) -> dict[str, Any]:
        result.started.append(config)
        result.lab = result.lab or FakeLab(config)
        context = serving(config.runtime_directory / "control.sock", result.lab.api)
        context.__enter__()
        contexts.append(context)
        return {}

    def stop(lab: str, _root: Path) -> bool:
        result.stopped.append(lab)
        contexts.pop().__exit__(None, None, None)
        result.lab = None
        return True

    monkeypatch.setattr(lifecycle, "start", start)
    monkeypatch.setattr(removal, "stop", stop)
    yield result
    assert not contexts, "the lab was not removed"


@pytest.mark.parametrize(
    ("environments", "sizes"),
    [(1, [1]), (10, [1, 10]), (50, [1, 10, 50]), (1000, [1, 10, 100, 1000])],
)
def test_sizes_go_up_to_what_is_asked_for(environments: int, sizes: list[int]) -> None:
    assert Comparison("cold-1", "/run", environments).sizes == sizes


@pytest.mark.parametrize("environments", [1, 1000, coldstart.ENVIRONMENTS_MAX])
def test_the_labs_configuration_is_valid(environments: int) -> None:
    config = Comparison("cold-1", "/run", environments).config(environments)
    assert {function.networking for function in config.function} == {SHARED, EACH}
    assert config.pool.size == environments
    assert len({config.vpc_of(function).name for function in config.function}) == 2


def test_both_kinds_of_every_size_are_compared(run: Run, labs: Labs) -> None:
    result = run("coldstart", "--environments", "1000", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [(row["kind"], row["requested"]) for row in found] == [
        (kind, size) for size in (1, 10, 100, 1000) for kind in (SHARED, EACH)
    ]
    assert found[-2] == {
        "kind": SHARED,
        "requested": 1000,
        "started": 1000,
        "interfaces": 1,
        "addresses": 1,
        "network_ready_p50": 0.5,
        "network_ready_p99": 0.99,
        "elapsed": 0.5,
        "modelled": 0.0002,
        "error": None,
        "message": None,
    }
    assert (found[-1]["started"], found[-1]["interfaces"], found[-1]["addresses"]) == (500,) * 3
    assert (found[-1]["modelled"], found[-1]["error"]) == (12.0, "ENILimitReachedException")


def test_the_lab_is_its_own_and_is_removed(run: Run, labs: Labs, runtime: Path) -> None:
    assert run("coldstart", "-n", "1").exit_code == 0
    assert run("coldstart", "-n", "1").exit_code == 0
    names = [config.lab.name for config in labs.started]
    assert names == labs.stopped
    assert len(set(names)) == 2
    assert {config.lab.runtime_directory for config in labs.started} == {str(runtime)}


def test_the_table_keeps_measured_and_modelled_apart(run: Run, labs: Labs) -> None:
    result = run("coldstart", "-n", "600")
    assert result.exit_code == 0, result.stderr
    cells = [line.split("\t") for line in result.stdout.splitlines()]
    rows = [row for row in cells if row[0] == "600"]
    assert rows == [
        ["600", SHARED, "600", "1", "1", "300 ms", "594 ms", "500 ms", "0.20 ms", ""],
        [
            *("600", EACH, "500", "500", "500"),
            *("250 ms", "495 ms", "500 ms", "12.0 s", "ENILimitReachedException"),
        ],
    ]
    assert f"{EACH}, 500 of 600: ENILimitReachedException: VPC each has 500" in result.stdout


def test_a_shared_interface_that_fails_is_exit_1(run: Run, labs: Labs) -> None:
    config = Comparison("cold-1", "/run", 1).config(1)
    labs.lab = FakeLab(config)
    labs.lab.api.answers["/v1/functions/hyperplane-1/provision"] = {
        "requested": 1,
        "started": 0,
        "network_ready_seconds": [],
        "modelled_seconds": [],
        "elapsed_seconds": 0.1,
        "interfaces": [],
        "addresses": 0,
        "error": {"code": "TooManyRequestsException", "message": "the pool is empty"},
    }
    result = run("coldstart", "-n", "1")
    assert result.exit_code == 1
    assert f"{SHARED}, 0 of 1: TooManyRequestsException: the pool is empty" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_removes_the_lab(run: Run, labs: Labs, number: signal.Signals) -> None:
    labs.lab = FakeLab(Comparison("cold-1", "/run", 10).config(1))

    def interrupt(_body: object) -> list[object]:
        os.kill(os.getpid(), number)
        return []

    labs.lab.api.answers["/v1/functions"] = interrupt
    assert run("coldstart", "-n", "10").exit_code != 0
    assert labs.stopped == [labs.started[0].lab.name]


def test_a_lab_that_never_settles_says_what_is_missing(runtime: Path) -> None:
    lab = FakeLab(Comparison("cold-1", str(runtime), 5).config(1))
    lab.api.answers["/v1/environments"] = [POOLED] * 3
    with serving(runtime / "cold-1" / "control.sock", lab.api):
        connection = Client("cold-1", runtime_directory=runtime)
        with pytest.raises(UserError, match="the pool has 3 of 5 environments"):
            coldstart.settle(connection, 5, timeout_seconds=0.05)


def test_a_function_that_failed_is_not_waited_for(runtime: Path) -> None:
    lab = FakeLab(Comparison("cold-1", str(runtime), 5).config(1))
    failed = FUNCTION | {"State": "Failed", "StateReason": "no addresses"}
    lab.api.answers["/v1/functions"] = [failed]
    with serving(runtime / "cold-1" / "control.sock", lab.api):
        connection = Client("cold-1", runtime_directory=runtime)
        with pytest.raises(UserError, match="checkout failed: no addresses"):
            coldstart.settle(connection, 5)


def test_a_plot_is_drawn(run: Run, labs: Labs, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "plot.png"
    result = run("coldstart", "-n", "300", "--plot", str(file))
    assert result.exit_code == 0, result.stderr
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_is_told_before_the_work(
    run: Run, labs: Labs, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    for path in (tmp_path, tmp_path / "nowhere" / "plot.png"):
        result = run("coldstart", "--plot", str(path))
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr
    assert labs.started == []


def test_without_matplotlib_the_remedy_is_named(
    run: Run, labs: Labs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("coldstart", "--plot", str(tmp_path / "plot.png"))
    assert result.exit_code == 2
    assert "pip install 'hyperplane-nat[plots]'" in result.stderr
    assert labs.started == []


def test_interfaces_that_are_named_twice_are_one() -> None:
    answer = {
        "requested": 2,
        "started": 2,
        "network_ready_seconds": [0.1, 0.2],
        "modelled_seconds": [0.0, 0.0],
        "elapsed_seconds": 0.2,
        "interfaces": ["eni-1", "eni-1"],
        "addresses": 1,
        "error": None,
    }
    assert coldstart_report.measurement(SHARED, answer).interfaces == 1
