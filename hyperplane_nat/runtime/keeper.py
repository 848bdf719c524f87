# SPDX-License-Identifier: Apache-2.0
"""The part of the runtime's process that is root: it starts runtimes, and speaks to no stranger.

Theory of operation
-------------------
Whoever speaks HTTP, with handlers and with clients, is a process of its own without privileges
(`front`). What takes privileges is asked of this one, by the channel between both: to start a
runtime in an environment's network namespace, with the socket that it speaks to before it, to await
and to kill it, to open a function's log. Where, and what with, is never asked: it is in the *place*
that the controller has told of, whose connections come to here and are handed on line by line. So
whoever takes the front over can start the lab's functions where the controller has placed them, and
nothing else.

What a request may need is handed back as descriptors: the output of a runtime, its end (pidfd), the
files of its control group by which it stands still. So nothing of a warm invocation comes by here
but the lines to the controller and back.

Each request has a thread, for all of it blocks. When either process ends, the other one does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperplane_nat.runtime import channel as packets
from hyperplane_nat.runtime.link import LINE_BYTES_MAX
from hyperplane_nat.runtime.logs import log_path, open_log, turn_over
from hyperplane_nat.runtime.sandbox import EntrypointError, Started
from hyperplane_nat.runtime.settings import Settings, settings_of
from netns.errors import NetnsError

TIDY_SECONDS = 5.0
"""How long former code may stay in memory that nobody uses."""

_THREADS = 32
_BLOCK_BYTES = 64 << 10

log = logging.getLogger(__name__)

Answer = tuple[object, list[int]]
"""What is told, and the descriptors with it, which are closed afterwards."""


class Box(Protocol):
    """Where runtimes are started; see `sandbox.Sandbox`. All of it blocks."""

    def begin(self, name: str, number: int, settings: Settings, *, listen: bool) -> Started:
        """Start a runtime, and before it the socket of the Runtime API if there is none."""

    def kill(self, started: Started) -> None:
        """Kill it with whatever it has started."""

    def tidy(self) -> None:
        """Give back what nobody uses."""


@dataclass(slots=True)
class _Runtime:
    started: Started
    killed: bool = False
    awaited: bool = False


class Keeper:
    """Does what the front asks for, until either end."""

    def __init__(self, box: Box, *, directory: Path, region: str, channel: socket.socket) -> None:
        """Logs are in `directory`, the lab's."""
        self._box = box
        self._directory = directory
        self._region = region
        self._channel = channel
        self._places: dict[str, Mapping[str, Any]] = {}
        self._runtimes: dict[int, _Runtime] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[str, Callable[[Mapping[str, Any]], Answer]] = {
            "start": self._start,
            "wait": self._wait,
            "kill": self._kill,
            "log": self._log,
        }

    def run(self, controllers: socket.socket, stop: int, ready: Callable[[], None]) -> bool:
        """
        Serve until `stop` can be read or the front has ended; whether it was the former.

        Controllers connect to `controllers`; `ready` is called when the front serves.
        """
        wanted: list[socket.socket | int] = [self._channel, controllers, stop]
        tidied = time.monotonic()
        # Some wait for what whoever called this kills.
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="keeper")
        try:
            while True:
                found, _, _ = select.select(wanted, [], [], TIDY_SECONDS)
                if stop in found:
                    wanted.remove(stop)
                    self._tell({"stop": True})
                if controllers in found:
                    self._hand_on(controllers.accept()[0])
                if self._channel in found:
                    asked = self._received()
                    if asked is None:
                        return stop not in wanted
                    if asked.get("ready"):
                        ready()
                    else:
                        pool.submit(self._do, asked)
                if time.monotonic() - tidied >= TIDY_SECONDS:
                    tidied = time.monotonic()
                    pool.submit(self._tidy)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _received(self) -> Mapping[str, Any] | None:
        """What the front asks; None when it has ended, or sends what it would not."""
        try:
            return packets.receive(self._channel)
        except (OSError, ValueError) as error:
            log.error("what the front has sent is no request: %s", error)
            return None

    # --- requests ---

    def _do(self, asked: Mapping[str, Any]) -> None:
        told: dict[str, object] = {"id": asked.get("id")}
        files: list[int] = []
        try:
            told["result"], files = self._asked[asked["do"]](asked)
        except EntrypointError as error:
            told |= {"error": "entrypoint", "text": str(error)[: packets.TEXT_MAX]}
        except NetnsError as error:
            told |= {"error": "netns", "text": error.cause[: packets.TEXT_MAX]}
            told["remedy"] = error.remedy
        except Exception as error:
            log.exception("a request of the front")
            told |= {"error": "netns", "text": f"{type(error).__name__}", "remedy": "see the log"}
        try:
            self._tell(told, files)
        finally:
            packets.close_all(files)

    def _tell(self, message: Mapping[str, object], files: list[int] | None = None) -> None:
        # When it has ended, `run` learns it by itself.
        with contextlib.suppress(OSError):
            packets.send(self._channel, message, files or ())

    def _place(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        place = self._places.get(str(asked["namespace"]))
        if place is None:
            raise NetnsError(
                f"nothing is placed in {str(asked['namespace'])[:200]!r}", "ask the controller"
            )
        return place

    def _start(self, asked: Mapping[str, Any]) -> Answer:
        place = self._place(asked)
        settings = settings_of(place, self._region)
        started = self._box.begin(
            place["namespace"], place["environment"], settings, listen=asked.get("listen") is True
        )
        handle = next(self._numbers)
        with self._lock:
            self._runtimes[handle] = _Runtime(started)
        files = [started.output, started.watched()]
        names = ["output", "end"]
        if started.listener is not None:
            names.append("listener")
            files.append(started.listener.detach())
        if started.group is not None:
            for name, file in started.group.opened().items():
                names.append(name)
                files.append(file)
        return {
            "handle": handle,
            "pid": started.process.pid,
            "runs": started.runs,
            "files": names,
        }, files

    def _runtime(self, asked: Mapping[str, Any]) -> _Runtime:
        with self._lock:
            found = self._runtimes.get(int(asked["handle"]))
        if found is None:
            raise NetnsError("there is no such runtime", "it was killed and awaited")
        return found

    def _wait(self, asked: Mapping[str, Any]) -> Answer:
        runtime = self._runtime(asked)
        status = runtime.started.process.wait()
        runtime.awaited = True
        self._forget(int(asked["handle"]), runtime)
        return status, []

    def _kill(self, asked: Mapping[str, Any]) -> Answer:
        runtime = self._runtime(asked)
        self._box.kill(runtime.started)
        runtime.killed = True
        self._forget(int(asked["handle"]), runtime)
        return None, []

    def _forget(self, handle: int, runtime: _Runtime) -> None:
        with self._lock:
            if runtime.killed and runtime.awaited:
                self._runtimes.pop(handle, None)

    def _log(self, asked: Mapping[str, Any]) -> Answer:
        path = log_path(self._directory, self._place(asked)["function"])
        try:
            if asked.get("over"):
                turn_over(path)
            return None, [open_log(path)]
        except OSError as error:
            raise NetnsError(
                f"cannot open {path}: {error.strerror}", "is there room for it?"
            ) from None

    def _tidy(self) -> None:
        try:
            self._box.tidy()
        except NetnsError as error:
            log.error("%s", error)

    # --- controllers ---

    def _hand_on(self, controller: socket.socket) -> None:
        """Tie a controller to the front."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._tell({"controller": True}, [theirs.fileno()])
        ends = (controller, ours)
        for work in (self._tell_front, self._tell_controller):
            threading.Thread(target=_tied, args=(work, ends), daemon=True).start()

    def _tell_front(self, controller: socket.socket, front: socket.socket) -> None:
        with controller.makefile("rb") as lines:
            while line := lines.readline(LINE_BYTES_MAX):
                told = json.loads(line)
                place = told.get("initialize") or told.get("result")
                if place and "namespace" in place:
                    self._places[place["namespace"]] = place
                front.sendall(line)

    def _tell_controller(self, controller: socket.socket, front: socket.socket) -> None:
        while data := front.recv(_BLOCK_BYTES):
            controller.sendall(data)


def _tied(
    work: Callable[[socket.socket, socket.socket], None],
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Hand on until one of both has ended, and end both."""
    try:
        work(*ends)
    except (OSError, ValueError) as error:
        log.warning("a controller's connection is given up: %s", error)
    for each in ends:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
