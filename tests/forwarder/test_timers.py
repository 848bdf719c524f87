# SPDX-License-Identifier: Apache-2.0
"""Work that is due again goes on after a failure."""

from __future__ import annotations

import asyncio

import pytest

from hyperplane_nat.forwarder import timers
from hyperplane_nat.forwarder.timers import Timers


async def turns() -> None:
    """Let the loop do what is due."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_failure_is_told_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(timers, "FAILED_SECONDS", 0.001)

    async def body() -> tuple[int, int]:
        calls, failures = 0, 0
        done = asyncio.Event()

        def work() -> float | None:
            nonlocal calls
            calls += 1
            if calls in (1, 3):
                raise RuntimeError("broken once")
            if calls == 4:
                done.set()
                return None
            return 0.0

        def failed() -> None:
            nonlocal failures
            failures += 1

        due = Timers(asyncio.get_running_loop(), failed)
        due.do("expiry", work)
        await asyncio.wait_for(done.wait(), 60)
        return calls, failures

    assert asyncio.run(body()) == (4, 2)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all(message.startswith("expiry failed") for message in messages)


def test_work_done_early_is_due_once() -> None:
    async def body() -> int:
        calls = 0

        def work() -> float:
            nonlocal calls
            calls += 1
            return 0.0 if calls < 5 else 1000.0

        due = Timers(asyncio.get_running_loop(), lambda: None)
        for _ in range(4):
            due.do("x", work)
        await turns()
        due.cancel()
        return calls

    assert asyncio.run(body()) == 5


def test_nothing_is_due_after_cancel() -> None:
    async def body() -> int:
        calls = 0

        def work() -> float:
            nonlocal calls
            calls += 1
            return 0.0

        due = Timers(asyncio.get_running_loop(), lambda: None)
        due.do("x", work)
        due.cancel()
        await turns()
        return calls

    assert asyncio.run(body()) == 1
