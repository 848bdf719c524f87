# SPDX-License-Identifier: Apache-2.0
"""A forwarder is started, replaced and adopted, whatever becomes of it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.controller.errors import ControllerError, ForwarderError
from hyperplane_nat.controller.forwarder.equipment import equip
from hyperplane_nat.controller.forwarder.heartbeat import HUNG_SECONDS
from hyperplane_nat.controller.forwarder.supervisor import ForwarderSupervisor, restart_delay
from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import terminate
from hyperplane_nat.engine import StateMap
from tests.controller.support import (
    FORWARDER,
    config_in,
    eventually,
    gone,
    no_sockets,
    paths_of,
    pid_in,
    run,
)

pytestmark = pytest.mark.races

STATE = {"slots": [], "interfaces": [{"number": 0}]}

heard: list[Mapping[str, Any]] = []
"""What the supervisor has told."""


def supervisor(directory: Path, **sections: Any) -> tuple[ForwarderSupervisor, LabPaths]:
    config = config_in(directory, **sections)
    paths = paths_of(config)
    paths.directory.mkdir(parents=True, exist_ok=True)
    command = reconcile.forwarder_command(config, paths, FORWARDER)
    keeper = ForwarderSupervisor(
        paths,
        command,
        FORWARDER[-1],
        lambda: STATE,
        lambda: equip(config_in(directory), paths, no_sockets, lambda: ""),
        on_event=heard.append,
    )
    return keeper, paths


def supervised(
    directory: Path, work: Callable[[ForwarderSupervisor, LabPaths], Awaitable[None]]
) -> None:
    async def body() -> None:
        keeper, paths = supervisor(directory)
        try:
            await work(keeper, paths)
        finally:
            terminate(await keeper.stop())

    run(body())


def configured(paths: LabPaths, pid: int | None) -> Any:
    file = paths.state_file.parent / "fake" / f"configured-{pid}"
    return json.loads(file.read_text()) if file.exists() else None


def pid_of(keeper: ForwarderSupervisor) -> int:
    assert keeper.pid is not None
    return keeper.pid


def replaced(keeper: ForwarderSupervisor, pid: int) -> bool:
    return keeper.up and keeper.pid != pid


async def settled(keeper: ForwarderSupervisor) -> None:
    await eventually(lambda: keeper.up and keeper.standby_pid, "a forwarder and a standby")


def test_started_configured_and_a_standby_behind(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        await keeper.start()
        assert keeper.up
        assert configured(paths, keeper.pid) == STATE
        assert pid_in(paths.forwarder_pid) == keeper.pid
        await settled(keeper)
        assert pid_in(paths.standby_pid) == keeper.standby_pid != keeper.pid
        assert (await keeper.call("status"))["pid"] == keeper.pid
        assert keeper.resident_bytes > 1 << 20
        assert keeper.restarts == 0

    supervised(directory, work)


def test_killed_forwarder_is_replaced_by_the_standby(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        await keeper.start()
        for count in range(1, 4):
            await settled(keeper)
            dead, heir = pid_of(keeper), keeper.standby_pid
            os.kill(dead, signal.SIGKILL)
            await eventually(functools.partial(replaced, keeper, dead))
            assert keeper.pid == heir
            assert configured(paths, heir) == STATE
            assert pid_in(paths.forwarder_pid) == heir
            assert keeper.restarts == count
            assert keeper.failover_seconds is not None
            assert gone(dead)
            assert heard[-1] == {
                "event": "forwarder-restarted",
                "pid": heir,
                "seconds": keeper.failover_seconds,
            }

    supervised(directory, work)


def test_both_killed_at_once(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        await keeper.start()
        await settled(keeper)
        dead, standby = pid_of(keeper), keeper.standby_pid
        assert standby is not None
        os.kill(standby, signal.SIGKILL)
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: keeper.up and keeper.pid not in (dead, standby))
        await settled(keeper)
        assert configured(paths, keeper.pid) == STATE

    supervised(directory, work)


def test_dead_standby_is_replaced_and_the_forwarder_left_alone(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, _paths: LabPaths) -> None:
        await keeper.start()
        await settled(keeper)
        pid, standby = keeper.pid, keeper.standby_pid
        assert standby is not None
        os.kill(standby, signal.SIGKILL)
        await eventually(lambda: keeper.standby_pid not in (None, standby))
        assert (keeper.pid, keeper.restarts) == (pid, 0)

    supervised(directory, work)


def test_call_while_it_is_restarted(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, _paths: LabPaths) -> None:
        with pytest.raises(ForwarderError, match="being restarted"):
            await keeper.call("status")

    supervised(directory, work)


def test_lost_connection_is_made_again_without_a_restart(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        await keeper.start()
        pid = keeper.pid
        (paths.state_file.parent / "fake" / f"configured-{pid}").unlink()
        with pytest.raises(ForwarderError):
            await keeper.call("hang-up")
        # Whoever asks again when it is up has not to ask on the connection that is lost.
        assert not keeper.up
        await eventually(lambda: keeper.up and configured(paths, pid))
        assert (keeper.pid, keeper.restarts) == (pid, 0)

    supervised(directory, work)


def test_first_start_that_fails_says_the_forwarders_own_words(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        (paths.state_file.parent / "fake" / "fail-start").write_text(
            "forwarder: no packet sockets (run as root)"
        )
        with pytest.raises(ControllerError) as failure:
            await keeper.start()
        assert str(failure.value) == (
            "the forwarder exited with status 2: forwarder: no packet sockets (run as root)"
        )

    supervised(directory, work)


def test_refused_configuration_fails_the_start(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        (paths.state_file.parent / "fake" / "fail-configure").write_text("")
        with pytest.raises(ControllerError, match="configure: no such link"):
            await keeper.start()

    supervised(directory, work)


def test_forwarder_that_cannot_start_is_tried_until_it_can(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        await keeper.start()
        await settled(keeper)
        (paths.state_file.parent / "fake" / "fail-start").write_text("no")
        os.kill(pid_of(keeper), signal.SIGKILL)
        await eventually(lambda: keeper.restarts >= 4, "four attempts")
        assert not keeper.up
        (paths.state_file.parent / "fake" / "fail-start").unlink()
        await eventually(lambda: keeper.up)
        assert configured(paths, keeper.pid) == STATE

    supervised(directory, work)


def test_living_forwarder_is_adopted(directory: Path) -> None:
    async def work() -> None:
        first, paths = supervisor(directory)
        await first.start()
        pid = pid_of(first)
        await settled(first)
        # What a killed controller leaves: it runs, nobody is connected, the standby ends.
        standby = first.standby_pid or 0
        for process in await first.stop():
            process.close()
        await eventually(lambda: gone(standby), "the standby reads end-of-file")
        (paths.state_file.parent / "fake" / f"configured-{pid}").unlink()
        second, _ = supervisor(directory)
        assert await second.adopt()
        assert second.pid == pid
        assert configured(paths, pid) == STATE
        await settled(second)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: second.up and second.pid != pid)
        assert second.restarts == 1
        terminate(await second.stop())

    run(work())


def test_forwarder_of_another_version_is_replaced_on_its_map(directory: Path) -> None:
    async def work(first: ForwarderSupervisor, paths: LabPaths) -> None:
        await first.start()
        former = pid_of(first)
        inode = paths.state_file.stat().st_ino
        await first.let_go()
        assert not gone(former)
        keeper, _ = supervisor(directory, forwarder={"batch_frames": 64})
        try:
            assert not await keeper.adopt()
            assert gone(former)
            assert keeper.standby_pid is not None
            heir = keeper.standby_pid
            await keeper.start()
            assert keeper.pid == heir
            assert configured(paths, heir) == STATE
            assert paths.state_file.stat().st_ino == inode
            assert keeper.restarts == 0
        finally:
            terminate(await keeper.stop())

    supervised(directory, work)


def test_forwarder_of_another_version_goes_on_when_ours_cannot_start(directory: Path) -> None:
    async def work(first: ForwarderSupervisor, paths: LabPaths) -> None:
        await first.start()
        former = pid_of(first)
        await first.let_go()
        command = (FORWARDER[0], "-c", "import sys; sys.exit('no compiled module')")
        opening = functools.partial(equip, config_in(directory), paths, no_sockets, lambda: "")
        keeper = ForwarderSupervisor(paths, command, "-c", lambda: STATE, opening)
        try:
            with pytest.raises(ControllerError, match="no compiled module"):
                await keeper.adopt()
            assert not gone(former)
        finally:
            terminate(await keeper.stop())
        again, _ = supervisor(directory)
        assert await again.adopt()
        assert again.pid == former
        terminate(await again.stop())

    supervised(directory, work)


def watched(
    directory: Path,
    work: Callable[[ForwarderSupervisor, int], Awaitable[None]],
    begun: list[int | None],
) -> None:
    """`work` with a supervisor that reads the heartbeat, and the pid of a forwarder to adopt."""

    async def body(unwatched: ForwarderSupervisor, paths: LabPaths) -> None:
        await unwatched.start()
        pid = pid_of(unwatched)
        await unwatched.let_go()
        state = StateMap.open(paths.state_file)
        command = reconcile.forwarder_command(config_in(directory), paths, FORWARDER)
        keeper = ForwarderSupervisor(
            paths,
            command,
            FORWARDER[-1],
            lambda: STATE,
            lambda: equip(config_in(directory), paths, no_sockets, lambda: ""),
            on_event=heard.append,
            heartbeat=lambda: state.heartbeat,
            on_start=lambda: begun.append(keeper.pid),
        )
        heard.clear()
        try:
            await work(keeper, pid)
        finally:
            terminate(await keeper.stop())
            state.close()

    supervised(directory, body)


def told() -> list[Mapping[str, Any]]:
    """What was heard of forwarders."""
    return [message for message in heard if message["event"].startswith("forwarder-")]


def test_hung_forwarder_is_killed_and_its_end_awaited(directory: Path) -> None:
    """Stopped as a whole, it still has its connection; only the heartbeat tells."""
    begun: list[int | None] = []

    async def work(keeper: ForwarderSupervisor, hung: int) -> None:
        assert await keeper.adopt()
        await settled(keeper)
        heir = keeper.standby_pid
        os.kill(hung, signal.SIGSTOP)
        await eventually(lambda: not keeper.up, "the silence")
        status = await keeper.status()
        assert "no sign of life" in status["problem"]
        await eventually(lambda: keeper.up and keeper.pid == heir)
        assert gone(hung)
        assert (keeper.hangs, keeper.restarts) == (1, 1)
        assert begun == [heir]
        assert told()[0] == {"event": "forwarder-hung", "pid": hung, "seconds": HUNG_SECONDS}
        assert told()[1]["event"] == "forwarder-restarted"

    watched(directory, work, begun)


def test_forwarder_that_hangs_when_it_is_found_is_replaced_as_ever(directory: Path) -> None:
    begun: list[int | None] = []

    async def work(keeper: ForwarderSupervisor, hung: int) -> None:
        os.kill(hung, signal.SIGSTOP)
        assert await keeper.adopt()
        assert keeper.up
        assert gone(hung)
        assert begun == [keeper.pid]
        assert (keeper.hangs, keeper.restarts) == (1, 1)
        assert told() == [
            {"event": "forwarder-hung", "pid": hung, "seconds": HUNG_SECONDS},
            {
                "event": "forwarder-restarted",
                "pid": keeper.pid,
                "seconds": keeper.failover_seconds,
            },
        ]

    watched(directory, work, begun)


def test_forwarder_that_refuses_what_it_is_found_for_is_replaced(directory: Path) -> None:
    begun: list[int | None] = []

    async def work(keeper: ForwarderSupervisor, refusing: int) -> None:
        complaint = paths_of(config_in(directory)).state_file.parent / "fake" / "fail-configure"
        complaint.write_text("")
        with pytest.raises(ControllerError, match="configure: no such link"):
            await keeper.adopt()
        assert gone(refusing)
        complaint.unlink()

    watched(directory, work, begun)


def test_dead_forwarder_is_not_adopted(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        assert not await keeper.adopt()
        paths.forwarder_pid.write_text(f"{os.getpid()} 1 something\n")
        assert not await keeper.adopt()
        await keeper.start()
        assert keeper.up

    supervised(directory, work)


def test_nothing_is_left_when_stopped_at_any_moment(directory: Path) -> None:
    async def work() -> None:
        for turns in range(0, 40, 3):
            keeper, paths = supervisor(directory)
            start = asyncio.create_task(keeper.start())
            for _ in range(turns):
                await asyncio.sleep(0.003)
            start.cancel()
            await asyncio.wait({start})
            left = await keeper.stop()
            pids = {process.pid for process in left}
            terminate(left)
            for file in (paths.forwarder_pid, paths.standby_pid):
                pids.add(pid_in(file))
                file.unlink(missing_ok=True)
            assert all(gone(pid) for pid in pids if pid)

    # The `directory` fixture looks for processes that nobody knows of.
    run(work())


def test_directory_removed_by_somebody_else(directory: Path) -> None:
    async def work(keeper: ForwarderSupervisor, paths: LabPaths) -> None:
        await keeper.start()
        await settled(keeper)
        hidden = paths.directory.with_name("hidden")
        paths.directory.rename(hidden)
        os.kill(pid_of(keeper), signal.SIGKILL)
        await eventually(lambda: keeper.restarts >= 3, "three attempts")
        hidden.rename(paths.directory)
        await eventually(lambda: keeper.up)

    supervised(directory, work)


def test_restart_delay() -> None:
    delays = [restart_delay(count) for count in range(12)]
    assert delays[:4] == [0, 0, 0.01, 0.02]
    assert delays == sorted(delays)
    assert restart_delay(10**6) == delays[-1] == 1.0
