# SPDX-License-Identifier: Apache-2.0
"""labs."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from hyperplane_nat.config.lab import load
from hyperplane_nat.controller import record
from tests.cli.conftest import STATUS, Run
from tests.cli.fake_api import FakeApi, Refusal, serving


def test_no_lab(run: Run) -> None:
    assert run("labs").stdout == "there is no lab (start one with: hyperplane-nat up)\n"
    assert json.loads(run("labs", "--json").stdout) == []


def test_labs_that_run(run: Run, runtime: Path) -> None:
    other = STATUS | {"lab": "other", "pid": 5, "environments": 7, "uptime_seconds": 100.0}
    with (
        serving(runtime / "default" / "control.sock", FakeApi({"/v1/status": STATUS})),
        serving(runtime / "other" / "control.sock", FakeApi({"/v1/status": other})),
    ):
        rows = [line.split("\t") for line in run("labs").stdout.splitlines()]
        document = json.loads(run("labs", "--json").stdout)
    since = document[1].pop("since")
    assert 100 <= time.time() - since < 160
    assert document[1] == {
        "lab": "other",
        "state": "running",
        "pids": {"controller": 5, "forwarder": 4712, "standby": None},
        "environments": 7,
        "metrics_url": "http://127.0.0.1:9109/metrics",
    }
    assert rows[0][:4] == ["lab", "state", "controller", "forwarder"]
    assert [row[:4] for row in rows[1:]] == [
        ["default", "running", "4711", "4712"],
        ["other", "running", "5", "4712"],
    ]


def test_labs_without_a_controller_that_answers(run: Run, runtime: Path) -> None:
    for name in ("dead", "slow", "starting"):
        (runtime / name).mkdir()
    record.write(runtime / "dead" / "lab.json", load(None, {"lab.environments": 3}))
    refusing = FakeApi({"/v1/status": Refusal(500, "internal", "x (y)")})
    with (
        (runtime / "starting" / "controller.pid").open("w") as lock,
        serving(runtime / "slow" / "control.sock", refusing),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        document = json.loads(run("labs", "--json").stdout)
    assert [(row["lab"], row["state"], row["pids"]["controller"]) for row in document] == [
        ("dead", "dead", None),
        ("slow", "not answering", None),
        ("starting", "starting", os.getpid()),
    ]
    assert document[0]["environments"] == 3


def test_other_files_are_no_labs(run: Run, runtime: Path) -> None:
    (runtime / "README").touch()
    (runtime / "Not a lab").mkdir()
    assert json.loads(run("labs", "--json").stdout) == []
