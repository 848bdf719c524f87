# SPDX-License-Identifier: Apache-2.0
"""The processes that run handlers: what they may do, and what outlives whom."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netns import privileges
from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until
from tests.live.test_handlers import client, invoke, invoke_log, is_in, replaced, started

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return started(launch_shared, tmp_path_factory.mktemp("code"))


def test_an_invocation_outlives_the_controller(lab: Lab) -> None:
    before = invoke(lab)["payload"]
    asking = client(lab)
    answers: list[dict[str, Any]] = []

    def call() -> None:
        event = json.dumps({"do": "wait", "seconds": 1.5, "mark": before["calls"]})
        answer = asking.invoke(FunctionName="orders", Payload=event)
        answers.append(json.loads(answer["Payload"].read()))

    thread = threading.Thread(target=call)
    thread.start()
    mark = f'"mark": {before["calls"]}'
    wait_until(lambda: mark in invoke_log(lab), "the handler has begun")
    pid = lab.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the controller is gone")
    thread.join()
    (answer,) = answers
    assert answer["namespace"] == before["namespace"]
    lab.up()
    after = invoke(lab)["payload"]
    assert after["namespace"] == before["namespace"]
    assert after["calls"] == answer["calls"] + 1


def keeper_pid(lab: Lab) -> int:
    """The part of the runtime's process that starts runtimes."""
    return int((lab.runtime_directory / "service-Lambda.runtime.pid").read_text().split()[0])


def front_pid(lab: Lab) -> int:
    """The part that speaks HTTP: a fork of the other."""
    keeper = keeper_pid(lab)
    program = Path(f"/proc/{keeper}/cmdline").read_bytes()
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    (front,) = [
        int(each) for each in children if Path(f"/proc/{each}/cmdline").read_bytes() == program
    ]
    return front


def test_who_speaks_http_has_no_privileges(lab: Lab) -> None:
    invoke(lab)
    found = privileges.of(front_pid(lab))
    assert found is not None
    assert found.dropped
    assert (found.uid, found.gid) == (privileges.UID, privileges.UID)


@pytest.mark.parametrize("part", [keeper_pid, front_pid])
def test_a_runtime_process_that_is_killed_is_started_again(
    lab: Lab, part: Callable[[Lab], int]
) -> None:
    before = invoke(lab)["payload"]
    endpoint = lab.status()["lambda_endpoint"]
    restarts = lab.status()["services"]["Lambda/runtime"]["restarts"]
    parts = [keeper_pid(lab), front_pid(lab)]
    log = lab.runtime_directory / "service-Lambda.runtime.log"
    times = log.read_text().count("ready")
    os.kill(part(lab), signal.SIGKILL)
    wait_until(lambda: log.read_text().count("ready") == times + 1, "it listens again")
    expected = {"up": True, "restarts": restarts + 1}
    wait_until(lambda: lab.status()["services"]["Lambda/runtime"] == expected, "it is told")
    wait_until(lambda: not any(map(privileges.of, parts)), "both parts have ended")
    wait_until(
        lambda: not [pid for pid in os.listdir("/proc") if is_in(pid, before["namespace"])],
        "what the former one has started is gone",
    )
    assert lab.status()["lambda_endpoint"] == endpoint
    assert replaced(lab)["payload"]["namespace"] != before["namespace"]
