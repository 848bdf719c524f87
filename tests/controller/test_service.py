# SPDX-License-Identifier: Apache-2.0
"""What a lab that is up tells and does, while parts of it die, hang or are made anew."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from hyperplane_nat.flow_cache.probe import Missing
from tests.controller.support import (
    FakeNetns,
    RunningDaemon,
    ask,
    config_in,
    eventually,
    pid_in,
    run,
)
from tests.controller.test_daemon import assert_nothing_left

pytestmark = pytest.mark.races


def test_environments_in_sums_and_selected(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            rows = await ask(running, "/v1/environment-sums")
            assert [
                (row["interface"], row["environments"], row["states"], row["flows"]) for row in rows
            ] == [("eni-a", 5, {"static": 5}, 0)]
            selected = await ask(running, "/v1/environments?interface=eni-a&after=2&limit=2")
            assert [row["name"] for row in selected] == ["env-3", "env-4"]
            (interface,) = await ask(running, "/v1/interfaces")
            assert (interface["ports"], interface["port_allocation_errors"]) == ([0], 0)
            assert (await ask(running, "/v1/status"))["traffic"]["packets_out"] == 0

    run(work())


def test_dead_service_is_restarted(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            file = running.paths.service_pid("customer", "web")
            pid = pid_in(file)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: pid_in(file) not in (0, pid))
            services = (await ask(running, "/v1/status"))["services"]
            assert services["customer/web"]["restarts"] == 1
            assert services["customer/echo"] == {"up": True, "restarts": 0}

    run(work())


def test_who_maps_a_discarded_map_is_started_again(
    directory: Path, netns: FakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the place of the writer of flow logs, which would need a real forwarder.
    monkeypatch.setattr("hyperplane_nat.controller.flow_logs.GROUP", "customer")

    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            file = running.paths.service_pid("customer", "web")
            pid = pid_in(file)
            running.service._heed({"event": "state-map-discarded", "reason": "damaged header"})
            await eventually(lambda: pid_in(file) not in (0, pid))
            events = await ask(running, "/v1/events")
            assert "state-map-discarded" in {event["kind"] for event in events}

    run(work())


def test_forwarder_is_restarted_and_counted(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            pid = (await ask(running, "/v1/status"))["forwarder"]["pid"]
            os.kill(pid, signal.SIGKILL)
            forwarder = running.service.forwarder
            await eventually(lambda: forwarder.up and forwarder.pid != pid)
            status = await ask(running, "/v1/status")
            assert status["forwarder"]["restarts"] == 1
            async with (
                aiohttp.ClientSession() as client,
                client.get(status["metrics_url"]) as response,
            ):
                assert "hyperplane_nat_forwarder_restarts_total 1.0" in await response.text()

    run(work())


def test_status_of_a_forwarder_that_does_not_answer(
    directory: Path, netns: FakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperplane_nat.controller.forwarder.supervisor.STATUS_SECONDS", 0.05)

    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            deaf = directory / "fake" / "deaf"
            deaf.write_text("")
            status = await ask(running, "/v1/status")
            assert "no answer within" in status["forwarder"]["problem"]
            assert status["forwarder"]["pid"]
            deaf.unlink()

    run(work())


def test_a_kernel_without_what_the_flow_cache_takes(directory: Path, netns: FakeNetns) -> None:
    """The lab is up as without the switch, and says why."""
    lacking = [Missing("mapped BPF arrays (Linux 5.5)", "Invalid argument")]

    async def work() -> None:
        config = config_in(directory, forwarder={"flow_cache": True})
        parts = replace(netns.parts(), lacking=lambda: lacking)
        async with RunningDaemon(config, parts) as running:
            status = await ask(running, "/v1/status")
            assert status["forwarder"]["up"]
            assert status["forwarder"]["punt_link"] is False
            assert b"--punt-link" not in arguments_of(status["forwarder"]["pid"])
            events = await ask(running, "/v1/events")
            (event,) = [each for each in events if each["kind"] == "flow-cache-off"]
            assert "mapped BPF arrays (Linux 5.5): Invalid argument" in event["message"]

    run(work())
    assert_nothing_left(directory, netns)


def arguments_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
