# SPDX-License-Identifier: Apache-2.0
"""Keeping a forwarder alive.

Theory of operation
-------------------
Two forwarder processes exist at any time: one moves packets, the other waits (`standby`). When the
first dies, its pidfd becomes readable, the standby is handed its `equipment`, connected to and
given the whole state. The flows are in the map, so all that is lost are the frames of some
milliseconds. What is done and when is a table (`states`), a step of which is `_step`.

A forwarder that hangs (`heartbeat`) is killed; the standby begins when it has ended, because there
is one writer to the map at a time.

The pid file of the forwarder is put in place *before* the handover: a forwarder that moves packets
always has one. Adopted is a forwarder with the command line that we would start it with, which
names the version of the program.

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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from hyperplane_nat.controller.errors import ControllerError, ForwarderError
from hyperplane_nat.controller.forwarder.client import ForwarderClient
from hyperplane_nat.controller.forwarder.equipment import Equipment
from hyperplane_nat.controller.forwarder.heartbeat import HUNG_SECONDS, Heartbeat
from hyperplane_nat.controller.forwarder.standby import Standby
from hyperplane_nat.controller.forwarder.states import FORWARDER_STATES
from hyperplane_nat.controller.forwarder.states import ForwarderEvent as Event
from hyperplane_nat.controller.forwarder.states import ForwarderState as State
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import Process, cpu_seconds, end, resident_bytes
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.model.states import following

SHORT_LIFE_SECONDS = 1.0
BACKOFF_MIN_SECONDS = 0.01
BACKOFF_MAX_SECONDS = 1.0

START_SECONDS = 60.0
"""To load everything and be configured: indexing a table of 16 million flows included, and what a
loaded machine adds."""

STATUS_SECONDS = 4.0
"""How long a status waits for the forwarder's own figures."""

SILENT_SECONDS = 1.0
"""Without a heartbeat a forwarder is not called up any more."""

_EXIT_SECONDS = 0.2
"""How long after its connection a dying forwarder may last."""

_DEATH_SECONDS = 10.0
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
        self._desired = state
        self._equip = equip
        self._clock = clock
        self._on_event = on_event
        self._on_start = on_start
        self._heartbeat = Heartbeat(heartbeat, clock=clock)
        self._standby = Standby(paths, self._command, word, clock=clock)
        self._process: Process | None = None
        self._client: ForwarderClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._state = State.ABSENT
        self._work: Mapping[State, Callable[[], Coroutine[Any, Any, Event]]] = {
            State.RETIRING: self._retire,
            State.STARTING: self._launch,
            State.JOINING: self._rejoin,
            State.UP: self._watch,
            State.LOST: self._await_end,
            State.HUNG: self._tell_of_hang,
            State.DEAD: self._bury,
        }
        self._short_lives = 0
        self._noticed: float | None = None
        """When the last forwarder was found to need a successor, or to be there."""
        self.restarts = 0
        """Forwarders started after the first, by this controller."""
        self.hangs = 0
        """Forwarders killed because they hung, by this controller."""
        self.failover_seconds: float | None = None
        """From the notice of the last death until its successor was configured."""

    @property
    def up(self) -> bool:
        """Whether a forwarder is configured and moves packets."""
        if self._state is not State.UP or self._process is None:
            return False
        if self._client is None or not self._client.connected:
            # It dies, or is joined again: noticed by whoever asked it before it is here.
            return False
        return self._process.alive and self._heartbeat.silent_seconds < SILENT_SECONDS

    @property
    def pid(self) -> int | None:
        """The forwarder that moves packets, or the one being started."""
        return self._process.pid if self._process is not None else None

    @property
    def standby_pid(self) -> int | None:
        """The forwarder that waits."""
        return self._standby.pid

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
        self._standby.prepare()

    async def start(self) -> None:
        """Start and configure a forwarder, and keep one from now on; ControllerError."""
        self._happened(Event.WANTED)
        await self._come_up()

    async def adopt(self) -> bool:
        """Take over the forwarder of a killed controller; False when there is none to take.

        One that hangs or does not answer is replaced. One of another version is ended, once
        another can begin. ControllerError when none can.
        """
        process = await in_thread(Process.adopt, self._paths.forwarder_pid, self._paths.directory)
        if process is None:
            return False
        self._process = process
        if process.command != self._command:
            self._happened(Event.FOUND_FORMER)
            await self._step()
            return False
        self._noticed = self._clock()
        self._happened(Event.FOUND)
        await self._come_up()
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
            "flow_cache": None,
        }
        if problem := self._hang():
            result |= {"problem": problem, "up": False}
            return result
        try:
            own = await self.call("status", timeout_seconds=STATUS_SECONDS)
            result["uptime_seconds"] = own.get("uptime_seconds")
            result["flow_cache"] = own.get("flow_cache")
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
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        left = await self._standby.stop()
        await self._disconnect()
        if self._process is not None:
            left.append(self._process)
        self._process, self._state = None, State.ABSENT
        return left

    # --- from state to state ---

    def _happened(self, event: Event) -> None:
        self._state = following(FORWARDER_STATES, self._state, event)

    async def _step(self) -> None:
        """Do what is done in this state, and go where it leads; ControllerError when it failed."""
        try:
            event = await self._work[self._state]()
        except ControllerError:
            self._happened(Event.FAILED)
            raise
        self._happened(event)

    async def _come_up(self) -> None:
        try:
            while self._state is not State.UP:
                await self._step()
        except ControllerError:
            # It is not kept, and must not go on.
            if self._process is not None:
                self._process.signal(signal.SIGKILL)
            raise
        self._standby.prepare()
        self._task = asyncio.create_task(self._keep(), name="forwarder supervisor")

    async def _keep(self) -> None:
        while True:
            try:
                await self._step()
            except ControllerError as error:
                log.error("%s", error)

    # --- what is done in each state ---

    async def _retire(self) -> Event:
        assert self._process is not None
        process, self._process = self._process, None
        log.info("forwarder %d is of another version and replaced", process.pid)
        try:
            await self._standby.ready()
        except BaseException:
            process.close()
            raise
        await end([process])
        return Event.EXITED

    async def _launch(self) -> Event:
        async with self._standby.starting:
            await self._standby.ensure()
            # Its predecessor's end is waited for in there.
            equipment = await self._equipment()
            self._process = process = self._standby.take()
            try:
                # Before the next standby writes the same file.
                self._paths.standby_pid.replace(self._paths.forwarder_pid)
            except OSError as error:
                equipment.handover.close()
                raise ControllerError(
                    f"cannot use {self._paths.directory}: {error.strerror} "
                    "(was it removed? hyperplane-nat down, then up)"
                ) from None
            # Somebody may have stopped it while it waited.
            process.signal(signal.SIGCONT)
            process.go(equipment.handover)
            if equipment.discarded is not None:
                self._tell({"event": "state-map-discarded", "reason": equipment.discarded})
            await self._join(process)
        self._on_start()
        if self._noticed is not None:
            seconds = self.failover_seconds = self._clock() - self._noticed
            log.warning("forwarder %s took over in %.0f ms", self.pid, seconds * 1000)
            self._tell({"event": "forwarder-restarted", "pid": self.pid, "seconds": seconds})
        return Event.JOINED

    async def _rejoin(self) -> Event:
        assert self._process is not None
        await self._disconnect()
        joined = self._join(self._process)
        try:
            return await _first({Event.JOINED: joined, Event.SILENT: self._heartbeat.until_hung()})
        except ForwarderError as error:
            log.error("forwarder %d is killed: %s", self._process.pid, error)
            return Event.REFUSED

    async def _watch(self) -> Event:
        assert self._process is not None
        assert self._client is not None
        exited, lost = self._process.wait(), self._client.lost()
        silence = self._heartbeat.until_hung()
        event = await _first(
            {Event.EXITED: exited, Event.DISCONNECTED: lost, Event.SILENT: silence}
        )
        self._noticed = self._clock()
        return event

    async def _await_end(self) -> Event:
        assert self._process is not None
        # Its connection goes first, its rings take the kernel some tens of milliseconds more.
        return await _first(
            {Event.EXITED: self._process.wait(), Event.STAYED: asyncio.sleep(_EXIT_SECONDS)}
        )

    async def _tell_of_hang(self) -> Event:
        self.hangs += 1
        log.error("forwarder %d hangs and is killed", self.pid)
        self._tell({"event": "forwarder-hung", "pid": self.pid, "seconds": HUNG_SECONDS})
        return Event.TOLD

    async def _bury(self) -> Event:
        await self._disconnect()
        lived = 0.0
        if (process := self._process) is not None:
            lived = self._clock() - process.started
            process.signal(signal.SIGKILL)
            await process.wait()
            words = await in_thread(process.last_words)
            words = f": {words}" if words else ""
            log.error(
                "forwarder %d %s after %.1f s%s", self.pid, process.describe_exit(), lived, words
            )
            self._process = None
            process.close()
        self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE_SECONDS else 0
        await asyncio.sleep(restart_delay(self._short_lives))
        self.restarts += 1
        return Event.DUE

    # --- how ---

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
        path = self._paths.forwarder_socket
        try:
            self._client = await ForwarderClient.connect(path, self._on_event)
            await self._client.call("configure", self._desired(), timeout_seconds=START_SECONDS)
        except ForwarderError as error:
            connected = self._client is not None and self._client.connected
            await self._disconnect()
            if connected:
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await process.wait()
                    reason = await in_thread(process.last_words)
                    raise ForwarderError(
                        f"the forwarder {process.describe_exit()}: "
                        f"{reason or f'see {self._paths.forwarder_log}'}"
                    ) from error
            raise
        self._heartbeat.begin()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(message)


async def _first(works: Mapping[Event, Coroutine[Any, Any, object]]) -> Event:
    """What happens first, in this order if several do; the others are broken off. Or what fails."""
    tasks = {asyncio.ensure_future(work): event for event, work in works.items()}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = next(task for task in tasks if task.done())
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)
    task.result()
    return tasks[task]
