# SPDX-License-Identifier: Apache-2.0
"""One capture from its first frame to its last: taps, flows, and the file they become.

Theory of operation
-------------------
A tap has a frame before the forwarder has it, so a flow's first frame is here before the flow is.
Frames therefore wait, in the order of their times whatever link they are of, at least
`HOLD_SECONDS`, so that the other tap's earlier ones come before them, and until their flow is
found, but not longer than `PATIENCE_SECONDS`: what then has no flow never had one. What waits is
bounded in bytes; beyond that the oldest go out as they are. The comment tells the state that the
flow has at that moment.

A source may be limited to some flows: of a shared interface, the frames of other environments are
not written, nor are those of other hosts on the link to their VPC's router.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from hyperplane_nat.capture import tap as taps
from hyperplane_nat.capture.errors import CaptureError
from hyperplane_nat.capture.flows import AnyFlow, FlowFinder
from hyperplane_nat.capture.identity import Datagram, Identifier
from hyperplane_nat.capture.pcapng import Writer
from hyperplane_nat.capture.tap import LinkGoneError, Tap, Tapped
from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.settings import HostFlow

HOLD_SECONDS = 0.02
PATIENCE_SECONDS = 0.25
WAITING_BYTES_MAX = 64 << 20
PROGRESS_SECONDS = 0.5

_BURST = 256
_IDLE_SECONDS = 0.1
_BUSY_SECONDS = 0.005


class End(StrEnum):
    """Why a capture ended."""

    COUNT = "count"
    SECONDS = "seconds"
    INTERRUPTED = "interrupted"
    LINK_GONE = "link-gone"
    READER_GONE = "reader-gone"


class Output(Protocol):
    """Where the file goes."""

    def write(self, data: bytes, /) -> int:
        """Take all of `data`."""

    def flush(self) -> None:
        """Send on what was taken."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a capture ends by itself; None: never."""

    count: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Source:
    """A tapped link."""

    tap: Tap
    identifier: Identifier
    description: str
    only: Callable[[AnyFlow], bool] | None = None
    """Write the frames of these flows only."""
    number: int = 0
    written: int = 0


@dataclass(order=True, slots=True)
class _Waiting:
    time_ns: int
    order: int
    arrived: float = field(compare=False)
    source: Source = field(compare=False)
    frame: Tapped = field(compare=False)
    noted: SearchKey | Datagram | None = field(compare=False)


class Session:
    """A capture of some links into `output`."""

    def __init__(
        self,
        sources: Sequence[Source],
        finder: FlowFinder,
        output: Output,
        *,
        application: str,
        name_of: Callable[[AnyFlow], str],
        filter_text: str | None = None,
        limits: Limits | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name_of` is who began a flow, in comments; `progress` is given the summary so far."""
        self._sources = sources
        self._finder = finder
        self._output = output
        self._name_of = name_of
        self._limits = limits or Limits()
        self._progress = progress
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._unknown: set[SearchKey] = set()
        self._order = 0
        self._written = 0
        self._end: End | None = None
        self._started = clock()
        self._started_ns = time.time_ns()
        self._writer = Writer(output, application)
        for source in sources:
            source.number = self._writer.interface(source.tap.link, source.description, filter_text)

    def stop(self, reason: End = End.INTERRUPTED) -> None:
        """End soon; the first reason counts. May be called from a signal handler."""
        if self._end is None:
            self._end = reason

    def run(self) -> dict[str, Any]:
        """
        Capture until something ends it; the summary.

        Errors: CaptureError when the file cannot be written.
        """
        try:
            self._run()
        except BrokenPipeError:
            self._end = End.READER_GONE
        except OSError as error:
            raise CaptureError(
                f"cannot write the capture: {error.strerror or error} "
                "(free some space or choose another file)"
            ) from None
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """What was captured so far."""
        for source in self._sources:
            source.tap.count()
        return {
            "frames": self._written,
            "bytes": self._writer.bytes,
            "seconds": round(self._clock() - self._started, 3),
            "dropped": sum(source.tap.dropped for source in self._sources),
            "ended": self._end,
            "links": [
                {
                    "name": source.tap.link,
                    "received": source.tap.received,
                    "dropped": source.tap.dropped,
                    "written": source.written,
                }
                for source in self._sources
            ],
        }

    def _run(self) -> None:
        self._output.flush()
        listening = [source.tap for source in self._sources]
        next_progress = self._clock() + PROGRESS_SECONDS
        while self._end is None:
            taps.wait(listening, self._pause())
            self._read(_BURST)
            self._release()
            now = self._clock()
            if self._limits.seconds is not None and now >= self._started + self._limits.seconds:
                self.stop(End.SECONDS)
            if now >= next_progress:
                next_progress = now + PROGRESS_SECONDS
                self._output.flush()
                if self._progress is not None:
                    self._progress(self.summary())
        if self._end is not End.COUNT:
            self._finish()
        end_ns = time.time_ns()
        for source in self._sources:
            source.tap.count()
            self._writer.statistics(
                source.number,
                self._started_ns,
                end_ns,
                received=source.tap.received,
                dropped=source.tap.dropped,
            )
        self._output.flush()

    def _finish(self) -> None:
        """What arrived before the end, and what still waits."""
        until = time.time_ns()
        ending = self._clock() + PATIENCE_SECONDS
        while self._read(_BURST, until) and self._clock() < ending:
            self._release()
        while self._waiting and not self._full:
            self._release()
            if self._waiting:
                time.sleep(_BUSY_SECONDS)

    @property
    def _full(self) -> bool:
        return self._limits.count is not None and self._written >= self._limits.count

    def _pause(self) -> float:
        pause = _BUSY_SECONDS if self._waiting else _IDLE_SECONDS
        if self._limits.seconds is not None:
            pause = min(pause, self._started + self._limits.seconds - self._clock())
        return max(pause, 0.0)

    def _read(self, limit: int, until_ns: int | None = None) -> bool:
        """Take frames from the taps; whether there were any."""
        found = False
        for source in self._sources:
            try:
                frames = source.tap.read(limit)
            except LinkGoneError:
                self.stop(End.LINK_GONE)
                continue
            arrived = self._clock()
            for frame in frames:
                if until_ns is not None and frame.time_ns > until_ns:
                    continue
                found = True
                noted = source.identifier.note(frame.data, frame.outgoing)
                if isinstance(noted, SearchKey):
                    self._unknown.add(noted)
                self._order += 1
                waiting = _Waiting(frame.time_ns, self._order, arrived, source, frame, noted)
                heapq.heappush(self._waiting, waiting)
                self._waiting_bytes += len(frame.data)
        return found

    def _release(self) -> None:
        """Write what has waited long enough."""
        if self._unknown:
            self._finder.search(self._unknown)
            self._unknown = {key for key in self._unknown if not self._finder.knows(key)}
        now = self._clock()
        while self._waiting and not self._full:
            first = self._waiting[0]
            age = now - first.arrived
            crowded = self._waiting_bytes > WAITING_BYTES_MAX
            if age < HOLD_SECONDS and not crowded:
                return
            noted = first.noted
            if noted is None or isinstance(noted, SearchKey):
                key = noted
            else:
                key = first.source.identifier.fragment(noted)
            flow = None if key is None else self._finder.flow(key)
            if flow is None and noted is not None and age < PATIENCE_SECONDS and not crowded:
                if key is not None:
                    self._unknown.add(key)
                return
            heapq.heappop(self._waiting)
            if key is not None:
                self._unknown.discard(key)
            self._waiting_bytes -= len(first.frame.data)
            self._write(first, flow)
        if self._full:
            self.stop(End.COUNT)

    def _write(self, waiting: _Waiting, flow: AnyFlow | None) -> None:
        source, frame = waiting.source, waiting.frame
        if source.only is not None and (flow is None or not source.only(flow)):
            return
        comment = "" if waiting.noted is None else "no flow"
        if flow is not None:
            comment = comment_of(flow, self._name_of(flow))
        self._writer.packet(
            source.number, frame.time_ns, frame.data, outbound=frame.outgoing, comment=comment
        )
        source.written += 1
        self._written += 1


def comment_of(flow: AnyFlow, name: str) -> str:
    """A flow in a line: whose, from where, as what if it is translated, to where, and its state."""
    if isinstance(flow, HostFlow):
        source = f"{flow.source_address}:{flow.source_port}"
        destination = f"{flow.destination_address}:{flow.destination_port}"
        way = [source, destination]
        if flow.translated:
            way.insert(2 if flow.to_public_address else 1, f"{flow.nat_address}:{flow.nat_port}")
        return f"{name}: {flow.protocol} {' -> '.join(way)} {flow.state}"
    anybody = flow.remote_address == "0.0.0.0"
    remote = "any" if anybody else f"{flow.remote_address}:{flow.remote_port}"
    return (
        f"{name}: {flow.protocol} {flow.inside_address}:{flow.inside_port}"
        f" -> {flow.nat_address}:{flow.nat_port}"
        f" -> {remote} {flow.state}"
    )
