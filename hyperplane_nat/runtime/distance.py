# SPDX-License-Identifier: Apache-2.0
"""Runtimes and logs as the front has them: started and opened by the keeper, for descriptors.

Methods that ask the keeper block, in a thread of their own; answers come by the event loop, which
waits for none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from hyperplane_nat.runtime import channel as packets
from hyperplane_nat.runtime.logs import FILE_BYTES_MAX
from hyperplane_nat.runtime.sandbox import EntrypointError, Started
from hyperplane_nat.runtime.settings import Settings
from netns.cgroups import OpenGroup
from netns.errors import NetnsError

Told = tuple[Any, list[int]]


class Distance:
    """What the keeper is asked; an `environment.Box`."""

    def __init__(
        self, channel: socket.socket, on_event: Callable[[Mapping[str, Any], list[int]], None]
    ) -> None:
        """`on_event` is told, in the event loop, what comes unasked, and owns its descriptors; an
        empty message is the end.
        """
        self._channel = channel
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Told]] = {}
        self._lock = threading.Lock()
        self._ended = False

    def attach(self) -> None:
        """Begin to take answers, by the running event loop."""
        asyncio.get_running_loop().add_reader(self._channel, self._take)

    def say(self, message: Mapping[str, object]) -> None:
        """Tell something that has no answer."""
        with contextlib.suppress(OSError):
            packets.send(self._channel, message)

    def _take(self) -> None:
        try:
            found = packets.receive_files(self._channel)
        except BlockingIOError:
            return
        except OSError:
            found = None
        if found is None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._end()
            self._on_event({}, [])
            return
        told, files = found
        number = told.get("id")
        if number is None:
            self._on_event(told, files)
            return
        with self._lock:
            waiting = self._waiting.pop(number, None)
        if waiting is None:
            packets.close_all(files)
        elif "error" in told:
            waiting.set_exception(_error(told))
        else:
            waiting.set_result((told["result"], files))

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            left, self._waiting = self._waiting, {}
        for each in left.values():
            each.set_exception(_gone())

    def _start_asking(self, what: str, arguments: Mapping[str, object]) -> Future[Told]:
        future: Future[Told] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._ended:
                raise _gone()
            self._waiting[number] = future
        try:
            packets.send(self._channel, {"id": number, "do": what, **arguments})
        except OSError:
            raise _gone() from None
        return future

    def _ask(self, what: str, **arguments: object) -> Told:
        return self._start_asking(what, arguments).result()

    # --- `environment.Box` ---

    def start(self, name: str, _number: int, _settings: Settings, *, listen: bool) -> Started:
        """See `Box`; the keeper knows the rest."""
        told, handed = self._ask("start", namespace=name, listen=listen)
        files = dict(zip(told["files"], handed, strict=True))
        output, end = files.pop("output"), files.pop("end")
        os.set_blocking(output, False)
        listener = None
        if "listener" in files:
            listener = socket.socket(fileno=files.pop("listener"))
            listener.setblocking(False)
        process = _Process(self, told["handle"], told["pid"])
        group = OpenGroup(files)
        return Started(process, output, told["runs"], group, end=end, listener=listener)

    def kill(self, started: Started) -> None:
        """See `Box`."""
        started.process.kill()
        if started.group is not None:
            started.group.remove()

    # --- logs ---

    def open_log(self, name: str, _function: str) -> HandedFile:
        """The log of the function that is placed in network namespace `name`."""
        _, (file,) = self._ask("log", namespace=name)
        return HandedFile(
            file, lambda: self._start_asking("log", {"namespace": name, "over": True})
        )


@dataclass(slots=True)
class _Process:
    """See `sandbox.Process`."""

    distance: Distance
    handle: int
    pid: int
    killed: bool = False

    def kill(self) -> None:
        """Kill all of it, and return when it has ended."""
        if not self.killed:
            self.killed = True
            self.distance._ask("kill", handle=self.handle)

    def wait(self, _timeout: float | None = None) -> int:
        """How it has ended; to be asked once."""
        status: int = self.distance._ask("wait", handle=self.handle)[0]
        return status


class HandedFile:
    """A log that another process opens; see `logs.LogFile`. For the event loop's thread."""

    def __init__(self, descriptor: int, turn_over: Callable[[], Future[Told]]) -> None:
        """`turn_over` has it be the former one; the answer has the descriptor of the next."""
        self._descriptor = descriptor
        self._turn_over = turn_over
        self._next: Future[Told] | None = None

    def append(self, text: bytes) -> None:
        """See `LogFile`."""
        if self._next is not None and self._next.done():
            self._replace(self._next)
        os.write(self._descriptor, text)
        if self._next is None and os.fstat(self._descriptor).st_size > FILE_BYTES_MAX:
            with contextlib.suppress(NetnsError):
                self._next = self._turn_over()

    def _replace(self, told: Future[Told]) -> None:
        self._next = None
        with contextlib.suppress(NetnsError):
            _, (file,) = told.result()
            os.close(self._descriptor)
            self._descriptor = file


def _gone() -> NetnsError:
    return NetnsError("what starts runtimes has ended", "it is started again")


def _error(told: Mapping[str, Any]) -> Exception:
    if told["error"] == "entrypoint":
        return EntrypointError(told["text"])
    return NetnsError(told["text"], told["remedy"])
