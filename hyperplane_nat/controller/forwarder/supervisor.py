# SPDX-License-Identifier: Apache-2.0
"""Keeping a forwarder alive.

Theory of operation
-------------------
Two forwarder processes exist at any time. One moves packets. The other, the standby, has imported
everything, has given up every privilege, and waits on its stdin for what it is to work with, so it
holds nothing and needs no configuration. When the first dies, its pidfd becomes readable, the
standby is handed its `equipment`, connected to and given the whole state; a new standby is started
once that is done. The flows are in the map, so all that is lost are the frames of some
milliseconds.

A forwarder that hangs (`heartbeat`) is killed; the standby begins when it has ended, because there
is one writer to the map at a time.

A standby whose controller dies reads end-of-file instead and exits. The pid file of the forwarder
is put in place *before* the handover: a forwarder that moves packets always has one.

Adopted is a forwarder with the command line that we would start it with, which names the version of
the program. Another one goes on until the standby stands by; then it is ended, and the standby
begins as after a death.

A forwarder that dies within `SHORT_LIFE_SECONDS` of its start is restarted at once for the first
time, then after a delay that doubles up to `BACKOFF_MAX_SECONDS`: a forwarder that cannot run must
not take the machine with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperplane_nat.controller.errors import ControllerError, ForwarderError
from hyperplane_nat.controller.forwarder.client import ForwarderClient
from hyperplane_nat.controller.forwarder.equipment import Equipment
from hyperplane_nat.controller.forwarder.heartbeat import HUNG_SECONDS, Heartbeat
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import Process, cpu_seconds, end, resident_bytes
from hyperplane_nat.controller.threads import in_thread

SHORT_LIFE_SECONDS = 1.0
BACKOFF_MIN_SECONDS = 0.01
BACKOFF_MAX_SECONDS = 1.0

START_SECONDS = 15.0
"""To stand by, and to be configured: indexing a table of 16 million flows included."""

STATUS_SECONDS = 2.0
"""How long a status waits for the forwarder's own figures."""

SILENT_SECONDS = 1.0
"""Without a heartbeat a forwarder is not called up any more."""

_EXIT_SECONDS = 0.2
"""How long after its connection a dying forwarder may last."""

_DEATH_SECONDS = 2.0
"""How long one that has failed may take to say why."""

log = logging.getLogger(__name__)


def restart_delay(short_lives: int) -> float:
    """Seconds to wait before a restart after so many short lives in a row."""
    if short_lives < 2:
        return 0.0
    # Beyond 2^7 times the minimum the maximum holds: no huge powers.
    return min(BACKOFF_MAX_SECONDS, BACKOFF_MIN_SECONDS * 2.0 ** min(short_lives - 2, 16))


class ForwarderSupervisor:
    """Starts, adopts, restarts and describes the forwarder of a lab."""

    def __init__(
        self,
        paths: LabPaths,
        command: Sequence[str],
        word: str,
        state: Callable[[], Mapping[str, object]],
        equip: Callable[[], Equipment],
        *,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        heartbeat: Callable[[], int | None] = lambda: None,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        """
        `command` starts a forwarder and contains `word`; `state()` is what to configure; `equip()`
        blocks and opens what it begins with, ControllerError where it cannot; `on_event` is given
        the forwarder's messages and our own: `forwarder-restarted`, `forwarder-hung`,
        `state-map-discarded`. `heartbeat` reads the state map, whose file may be another one when
        `on_start` is called: a forwarder has begun.
        """
        self._paths = paths
        self._command = list(command)
        self._word = word
        self._state = state
        self._equip = equip
        self._clock = clock
        self._on_event = on_event
        self._on_start = on_start
        self._heartbeat = Heartbeat(heartbeat, clock=clock)
        self._process: Process | None = None
        self._client: ForwarderClient | None = None
        self._standby: Process | None = None
        self._standby_task: asyncio.Task[None] | None = None
        self._standby_taken = asyncio.Event()
        self._spawning = asyncio.Lock()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._dying: dict[asyncio.Task[None], Process] = {}
        self._up = False
        self.restarts = 0
        """Forwarders started after the first, by this controller."""
        self.hangs = 0
        """Forwarders killed because they hung, by this controller."""
        self.failover_seconds: float | None = None
        """From the notice of the last death until its successor was configured."""

    @property
    def up(self) -> bool:
        """Whether a forwarder is configured and moves packets."""
        alive = self._up and self._process is not None and self._process.alive
        return alive and self._heartbeat.silent_seconds < SILENT_SECONDS

    @property
    def pid(self) -> int | None:
        """The forwarder that moves packets, or the one being started."""
        return self._process.pid if self._process is not None else None

    @property
    def standby_pid(self) -> int | None:
        """The forwarder that waits."""
        return self._standby.pid if self._standby is not None else None

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the forwarder, the touched part of the state map included."""
        return resident_bytes(self._process.pid) if self._process is not None else 0

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the forwarder has used."""
        return cpu_seconds(self._process.pid) if self._process is not None else 0.0

    def prepare(self) -> None:
        """Begin to start a standby, so that `start` finds it ready."""
        if self._standby_task is None:
            self._settled.set()
            self._standby_task = asyncio.create_task(self._keep_standby(), name="standby")

    async def start(self) -> None:
        """Start and configure a forwarder, and keep one from now on; ControllerError."""
        self.prepare()
        await self._launch()
        self._task = asyncio.create_task(self._keep(), name="forwarder supervisor")

    async def adopt(self) -> bool:
        """Take over the forwarder of a killed controller; False when there is none to take.

        One that hangs or does not answer is replaced. One of another version is ended, once
        another can begin. ControllerError when none can.
        """
        process = await in_thread(Process.adopt, self._paths.forwarder_pid, self._paths.directory)
        if process is None:
            return False
        if process.command != self._command:
            log.info("forwarder %d is of another version and replaced", process.pid)
            try:
                self.prepare()
                await self._stand_by()
            except BaseException:
                process.close()
                raise
            await end([process])
            return False
        self._process = process
        found = self._clock()
        if not await self._join_again(process):
            process.close()
            self._process = None
            self.restarts += 1
            await self.start()
            self._tell_of_successor(found)
            return True
        self._up = True
        self.prepare()
        self._task = asyncio.create_task(self._keep(), name="forwarder supervisor")
        return True

    async def call(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_seconds: float = 10.0,
        at_rest: bool = False,
    ) -> Any:
        """The result of a forwarder command; ForwarderError, also while it is restarted.

        `at_rest`: packets rest while it is carried out.
        """
        if self._client is None:
            raise ForwarderError("the forwarder is being restarted (try again)")
        with self._heartbeat.at_rest() if at_rest else contextlib.nullcontext():
            return await self._client.call(command, arguments, timeout_seconds=timeout_seconds)

    async def status(self) -> dict[str, Any]:
        """What GET /v1/status tells of the forwarder."""
        result: dict[str, Any] = {
            "pid": self.pid,
            "up": self.up,
            "restarts": self.restarts,
            "hangs": self.hangs,
            "rss_bytes": self.resident_bytes,
            "cpu_seconds": self.cpu_seconds,
            "uptime_seconds": None,
            "standby_pid": self.standby_pid,
            "failover_seconds": self.failover_seconds,
        }
        if problem := self._hang():
            result |= {"problem": problem, "up": False}
            return result
        try:
            own = await self.call("status", timeout_seconds=STATUS_SECONDS)
            result["uptime_seconds"] = own.get("uptime_seconds")
        except ForwarderError as error:
            # The figures of a forwarder that does not answer are what a status is asked for.
            result["problem"] = self._hang() or str(error)
            result["up"] = False
        return result

    def _hang(self) -> str | None:
        silent = self._heartbeat.silent_seconds
        if silent < SILENT_SECONDS:
            return None
        return (
            f"it hangs: no sign of life for {silent:.1f} s "
            f"(after {HUNG_SECONDS:g} s it is killed and replaced)"
        )

    async def let_go(self) -> None:
        """Stop supervising; the forwarder goes on, the standby ends."""
        moving = self._process
        for process in await self.stop():
            if process is moving:
                process.close()
            else:
                await end([process])

    async def stop(self) -> list[Process]:
        """Stop supervising; the processes that are left, for `end`."""
        for task in (self._task, self._standby_task):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._task = self._standby_task = None
        self._up = False
        await self._disconnect()
        left = [process for process in (self._process, self._standby) if process is not None]
        for task, process in list(self._dying.items()):
            task.cancel()
            await asyncio.wait({task})
            if process.fileno() >= 0:
                left.append(process)
        self._process = self._standby = None
        return left

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _spawn(self) -> Process:
        return Process.spawn(
            self._command,
            self._word,
            directory=self._paths.directory,
            pid_file=self._paths.standby_pid,
            log=self._paths.forwarder_log,
            held=True,
        )

    async def _keep_standby(self) -> None:
        while True:
            # A starting interpreter must not compete with a forwarder that is being configured.
            await self._settled.wait()
            try:
                async with self._spawning:
                    if not self._settled.is_set():
                        continue
                    self._standby_taken.clear()
                    process = await self._ensure_standby()
            except ControllerError as error:
                log.error("%s", error)
                await asyncio.sleep(BACKOFF_MAX_SECONDS)
                continue
            exited = asyncio.ensure_future(process.wait())
            taken = asyncio.ensure_future(self._standby_taken.wait())
            try:
                await asyncio.wait({exited, taken}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                exited.cancel()
                taken.cancel()
            if not self._standby_taken.is_set():
                log.error("standby forwarder %s: %s", process.describe_exit(), process.last_words())
                # It failed by itself: the next one may do the same.
                await asyncio.sleep(BACKOFF_MAX_SECONDS)

    async def _ensure_standby(self) -> Process:
        """The standby, started if there is none alive; under the lock."""

        def spawn() -> Process:
            # Assigned in the thread: a cancelled caller must not lose sight of the process.
            self._standby = self._spawn()
            return self._standby

        if self._standby is not None:
            if self._standby.alive:
                return self._standby
            self._standby.close()
            self._standby = None
        return await in_thread(spawn)

    async def _stand_by(self) -> None:
        """Return when the standby has loaded everything; ControllerError when it cannot."""
        deadline = self._clock() + START_SECONDS
        async with self._spawning:
            process = await self._ensure_standby()
        while process.alive and not await in_thread(process.says, "standby"):
            if self._clock() > deadline:
                raise ControllerError(
                    f"the standby forwarder is not ready after {START_SECONDS:g} seconds "
                    f"(see {self._paths.forwarder_log})"
                )
            await asyncio.sleep(0.01)
        if not process.alive:
            raise ControllerError(
                f"the standby forwarder {process.describe_exit()}: {process.last_words()}"
            )

    async def _launch(self) -> None:
        """Put the standby to work; ControllerError when it does not come up."""
        async with self._spawning:
            process = await self._ensure_standby()
            # Its predecessor's end is waited for in there.
            equipment = await self._equipment()
            self._process, self._standby = process, None
            self._settled.clear()
            self._standby_taken.set()
            try:
                # Before the lock is free: the next standby writes the same file.
                self._paths.standby_pid.replace(self._paths.forwarder_pid)
            except OSError as error:
                self._settled.set()
                equipment.handover.close()
                process.signal(signal.SIGKILL)
                raise ControllerError(
                    f"cannot use {self._paths.directory}: {error.strerror} "
                    "(was it removed? hyperplane-nat down, then up)"
                ) from None
        try:
            # Somebody may have stopped it while it waited.
            process.signal(signal.SIGCONT)
            process.go(equipment.handover)
            if equipment.discarded is not None:
                self._tell({"event": "state-map-discarded", "reason": equipment.discarded})
            await self._join(process)
            self._on_start()
            self._up = True
        except ForwarderError:
            process.signal(signal.SIGKILL)
            raise
        finally:
            self._settled.set()

    async def _equipment(self) -> Equipment:
        """What `equip` opens; ControllerError."""
        opened: list[Equipment] = []
        try:
            await in_thread(lambda: opened.append(self._equip()))
        except asyncio.CancelledError:
            # What the thread has opened meanwhile is nobody's.
            for each in opened:
                each.handover.close()
            raise
        return opened[0]

    async def _join(self, process: Process) -> None:
        """Connect to a forwarder that runs or is about to begin, and configure it."""
        try:
            self._client = await self._connect()
            await self._client.call("configure", self._state(), timeout_seconds=START_SECONDS)
        except ForwarderError as error:
            connected = self._client is not None and self._client.connected
            await self._disconnect()
            if not connected and await self._ends(process, _DEATH_SECONDS):
                reason = await in_thread(process.last_words) or f"see {self._paths.forwarder_log}"
                raise ForwarderError(
                    f"the forwarder {process.describe_exit()}: {reason}"
                ) from error
            raise
        self._heartbeat.begin()

    async def _connect(self) -> ForwarderClient:
        path = self._paths.forwarder_socket
        try:
            return await ForwarderClient.connect(path, self._on_event)
        except OSError as error:
            raise ForwarderError(f"cannot connect to {path}: {error.strerror}") from None

    async def _keep(self) -> None:
        short_lives = 0
        while True:
            hung = await self._until_lost()
            noticed = self._clock()
            self._up = False
            if hung:
                await self._kill_hung()
            elif await self._rejoin():
                continue
            await self._disconnect()
            while True:
                process, self._process = self._process, None
                lived = 0.0 if process is None else self._clock() - process.started
                short_lives = short_lives + 1 if lived < SHORT_LIFE_SECONDS else 0
                if process is not None:
                    task = asyncio.create_task(_bury(process, lived), name="forwarder burial")
                    self._dying[task] = process
                    task.add_done_callback(self._dying.pop)
                if delay := restart_delay(short_lives):
                    await asyncio.sleep(delay)
                self.restarts += 1
                try:
                    await self._launch()
                except ControllerError as error:
                    log.error("%s", error)
                else:
                    break
            self._tell_of_successor(noticed)

    def _tell_of_successor(self, noticed: float) -> None:
        seconds = self.failover_seconds = self._clock() - noticed
        log.warning("forwarder %s took over in %.0f ms", self.pid, seconds * 1000)
        self._tell({"event": "forwarder-restarted", "pid": self.pid, "seconds": seconds})

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(message)

    async def _until_lost(self) -> bool:
        """Return when the forwarder has exited, its connection is gone, or it hangs: then True."""
        assert self._process is not None
        assert self._client is not None
        hung = asyncio.ensure_future(self._heartbeat.until_hung())
        tasks = {
            asyncio.ensure_future(self._process.wait()),
            asyncio.ensure_future(self._client.lost()),
            hung,
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return done == {hung}

    async def _kill_hung(self) -> None:
        """End a forwarder that hangs; return when it has ended."""
        process = self._process
        assert process is not None
        self.hangs += 1
        log.error("forwarder %d hangs and is killed", process.pid)
        self._tell({"event": "forwarder-hung", "pid": process.pid, "seconds": HUNG_SECONDS})
        process.signal(signal.SIGKILL)
        await process.wait()

    async def _rejoin(self) -> bool:
        """Connect again to a forwarder that lives but closed its connection."""
        process = self._process
        assert process is not None
        if await self._ends(process, _EXIT_SECONDS):
            return False
        await self._disconnect()
        self._up = await self._join_again(process)
        return self._up

    async def _join_again(self, process: Process) -> bool:
        """Connect to a forwarder that was at work before; False when it had to be killed."""
        joining = asyncio.create_task(self._join(process), name="forwarder join")
        hung = asyncio.create_task(self._heartbeat.until_hung(), name="forwarder heartbeat")
        tasks = {joining, hung}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if joining.cancelled():
            await self._disconnect()
            await self._kill_hung()
            return False
        try:
            joining.result()
        except ForwarderError as error:
            log.error("forwarder %d is killed: %s", process.pid, error)
            process.signal(signal.SIGKILL)
            await process.wait()
            return False
        return True

    async def _ends(self, process: Process, seconds: float) -> bool:
        """Whether a forwarder whose connection is gone ends within so long."""
        deadline = self._clock() + seconds
        # Its connection goes first, its rings take the kernel some tens of milliseconds more.
        while process.alive:
            if self._clock() > deadline:
                return False
            await asyncio.sleep(0.002)
        return True


async def _bury(process: Process, lived: float) -> None:
    """See a dying forwarder to its end and say how it went."""
    await process.wait()
    words = await in_thread(process.last_words)
    log.error(
        "forwarder %d %s after %.1f s%s",
        process.pid,
        process.describe_exit(),
        lived,
        f": {words}" if words else "",
    )
    process.close()
