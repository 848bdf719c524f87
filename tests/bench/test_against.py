# SPDX-License-Identifier: Apache-2.0
"""Two builds compared: the arithmetic, the order of rounds, and whose modules are imported."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.against import (
    LEAST_ROUNDS,
    Contest,
    Plan,
    bootstrap,
    compare,
    speed_ratio,
)
from bench.application import app
from bench.errors import BenchError
from bench.gateways import BUILDS, OTHER, OURS
from bench.gateways.hyperplane import Build, build_of, isolated
from bench.progress import Display
from bench.report import comparison
from bench.result import Measurement
from bench.session import QUICK, Profile, Session
from bench.workloads import Workload
from tests.bench.figures import HOST


def measurement(
    ours: Sequence[float], other: Sequence[float], *, better: bool = True, name: str = "speed"
) -> Measurement:
    result = Measurement(name, f"about {name}", "things/s", better, "udp")
    result.runs = {OURS: list(ours), OTHER: list(other)}
    return result


def test_more_than_one_is_faster_whatever_is_measured() -> None:
    assert speed_ratio([1, 30, 20], [10, 5, 40], higher_is_better=True) == 2
    assert speed_ratio([1, 30, 20], [10, 5, 40], higher_is_better=False) == 0.5
    with pytest.raises(BenchError, match="nothing to compare with"):
        speed_ratio([1], [0], higher_is_better=True)


def test_values_that_never_differ_have_an_interval_without_width() -> None:
    found = bootstrap([6] * 5, [4] * 5, higher_is_better=True)
    assert (found.low, found.high) == (1.5, 1.5)


def test_both_values_of_a_round_are_drawn_together() -> None:
    # Rounds differ a hundredfold, the two of a round by a tenth: the ratio is always the same.
    other = [10.0, 1000.0, 100.0, 20.0, 500.0]
    found = bootstrap([1.1 * each for each in other], other, higher_is_better=True)
    assert found.low == pytest.approx(1.1)
    assert found.high == pytest.approx(1.1)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(7)
    trials, held, width = 200, 0, 0.0
    for _ in range(trials):
        ours = [generator.gauss(103, 5) for _ in range(20)]
        other = [generator.gauss(100, 5) for _ in range(20)]
        found = bootstrap(ours, other, higher_is_better=True, resamples=400)
        held += found.low <= 1.03 <= found.high
        width += found.half_width
    # That of a median of few values errs on the wide side.
    assert held >= 0.95 * trials
    # Of a median of n normal values: 1.25 sigma / sqrt(n).
    assert width / trials == pytest.approx(1.96 * 1.25 * 0.05 * (2 / 20) ** 0.5, rel=0.25)


def test_few_rounds_have_no_interval_and_are_never_enough() -> None:
    few = compare(measurement([1.0] * (LEAST_ROUNDS - 1), [1.0] * (LEAST_ROUNDS - 1)))
    assert few is not None
    assert few.interval is None
    assert not few.settled(0.5)
    enough = compare(measurement([1.0] * LEAST_ROUNDS, [1.0] * LEAST_ROUNDS))
    assert enough is not None
    assert enough.settled(0.01)
    assert compare(measurement([], [1.0])) is None


def test_tails_are_not_waited_for() -> None:
    wild = [1.0, 9.0, 2.0, 30.0, 4.0]
    found = compare(measurement(wild, wild[::-1], better=False, name="latency_p99"))
    assert found is not None
    assert found.settled(0.001)


class Scripted(Workload):
    """Values from a script; 0 stands for a measurement that fails."""

    name = "udp"
    summary = "scripted"

    def __init__(self, ours: Sequence[float], other: Sequence[float]) -> None:
        self.script = {OURS: list(ours), OTHER: list(other)}
        self.order: list[str] = []
        self.now = 0.0

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        return 1.0

    def run(self, session: Session) -> None:
        found = session.measurements.declare("speed", "speed", "things/s", group=self.name)
        for name in session.contenders:
            self.order.append(name)
            self.now += 1
            if value := self.script[name].pop(0):
                found.add(name, value)


def contest(workload: Scripted, plan: Plan) -> Contest:
    console = Console(quiet=True)
    session = Session(QUICK, BUILDS, Display(console, 1), {})
    return Contest(session, [workload], plan, lambda: workload.now)


def test_the_order_changes_every_round_and_failures_take_their_counterpart_along() -> None:
    workload = Scripted([10, 20, 0, 40], [1, 0, 3, 4])
    (found,) = contest(workload, Plan(4, None, 1000)).run()
    assert workload.order == [OURS, OTHER, OTHER, OURS] * 2
    assert (found.ours, found.other) == ([10, 40], [1, 4])
    assert found.ratio == 10


def test_it_goes_on_until_it_is_known() -> None:
    wild, calm = [100, 200, 50, 150, 80], [100] * 95
    workload = Scripted([*wild, *calm], [*wild[::-1], *calm])
    running = contest(workload, Plan(LEAST_ROUNDS, 0.05, 1000))
    (found,) = running.run()
    assert found.interval is not None
    assert found.interval.half_width <= 0.05
    assert LEAST_ROUNDS < len(found.ours) < 100
    assert not running.stopped_early


def test_it_ends_in_time_whatever_is_known() -> None:
    workload = Scripted([100, 1] * 50, [1, 100] * 50)
    running = contest(workload, Plan(LEAST_ROUNDS, 0.05, 21))
    (found,) = running.run()
    # Two seconds each: the eleventh would end at 22.
    assert len(found.ours) == 10
    assert running.stopped_early


def test_the_report_has_both_builds_and_every_figure() -> None:
    found = compare(measurement([110.0] * 5, [100.0] * 5))
    assert found is not None
    document = comparison.document(
        [found],
        host=HOST,
        builds=(Build("0.2.0", "/new"), Build("0.1.0", "/old")),
        seconds=1.5,
        stopped_early=False,
        warnings=["odd"],
    )
    document = json.loads(json.dumps(document))
    assert document["other"] == {"version": "0.1.0", "directory": "/old"}
    (entry,) = document["comparisons"]
    assert entry["ratio"] == pytest.approx(1.1)
    assert entry["interval"] == pytest.approx([1.1, 1.1])
    assert entry["ours"]["runs"] == [110.0] * 5
    console = Console(record=True, width=200, file=io.StringIO())
    comparison.show([found], console)
    assert "1.100 – 1.100" in console.export_text()


WHO = "import decoy_module; print(decoy_module.__file__)"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_the_other_interpreter_and_its_children_see_nothing_of_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decoy_module.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for code in ([WHO], [CHILD, WHO]):
        seen, unseen = (
            subprocess.run([*command, "-c", *code], capture_output=True, text=True, check=False)
            for command in ([sys.executable], isolated(Path(sys.executable)))
        )
        assert seen.stdout.strip() == str(tmp_path / "decoy_module.py")
        assert unseen.stdout == ""
        assert "No module named 'decoy_module'" in unseen.stderr


def test_an_interpreter_by_a_relative_path_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    # The link and not what it points to: an environment is known by it.
    assert isolated(Path("python"))[-1] == str(tmp_path / "python")


def test_an_interpreter_without_a_build_is_an_error(tmp_path: Path) -> None:
    script = f'#!/bin/sh\nexec {sys.executable} -S "$@"\n'
    (tmp_path / "python").write_text(script)
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(BenchError, match="No module named 'hyperplane_nat'"):
        build_of(isolated(tmp_path / "python"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flow-table"], "no workload 'flow_table' to compare"),
        (["udp"], "runs this very build"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["against", "--python", sys.executable, *arguments])
    assert result.exit_code == 2
    assert message in result.output
