# SPDX-License-Identifier: Apache-2.0
"""The writer of flow logs: from state map and flow records to lines in files.

Theory of operation
-------------------
The writer reads what others write and holds nobody up: the state map is read without locks, and
the ring of flow records loses rather than waits. `tick` is called again and again: it takes what
the ring has, and when an aggregation interval is over it goes through the map in slices and writes
the interval's lines. An interface of which there is nothing to tell gets NODATA; one whose records
or lines were lost since its last line gets SKIPDATA (AWS, "Flow log records": log-status).

Times are those that the flow table keeps, of the lab's clock: `end` is a flow's last packet;
`start` is when the flow began, or the interval when that was later. The interval in which the clock
is advanced is written then, and the next one begins where that was to end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from hyperplane_nat.engine import StateMap
from hyperplane_nat.engine.readers.flow_deltas import FlowDeltas, read_lost
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.flow_logs.aggregation import Gathering, Row, at_host
from hyperplane_nat.flow_logs.fields import UNSENT, LineFormat, Place
from hyperplane_nat.flow_logs.files import FlowLogFiles
from hyperplane_nat.flow_logs.places import Places
from hyperplane_nat.flow_logs.requested import Requested

SLICE_ENTRIES = 4096
"""Entries of the flow table between two looks at the ring: some tens of milliseconds."""

RECORDS_AT_ONCE = 4096
IDLE_SECONDS = 0.25
BUSY_SECONDS = 0.01
BUSY_RECORDS = 2048
"""With more records than these at a time, the ring is looked at again soon."""

_DRAINS_MAX = 64


class FlowLogWriter:
    """Writes the flow logs of one lab."""

    def __init__(
        self,
        state: StateMap,
        ring: FlowRecordRing,
        form: LineFormat,
        files: FlowLogFiles,
        places: Places,
        *,
        interval_ms: int,
        now_ms: Callable[[], int],
        unix_ms: Callable[[], int],
        requested: Requested,
    ) -> None:
        """`now_ms` is the state map's clock, `unix_ms` the same since the epoch; `requested` is
        told every line's row, too.
        """
        self._state = state
        self._ring = ring
        self._form = form
        self._files = files
        self._places = places
        self._requested = requested
        self._interval_ms = interval_ms
        self._now_ms = now_ms
        self._unix_ms = unix_ms
        self._deltas = FlowDeltas(state.flows_max, state.slots_max, state.interfaces_max)
        self._gathering = Gathering()
        self._told: set[Place] = set()
        self._skipped: set[Place] = set()
        self._lost = read_lost(ring.memory)
        self._missed = not ring.attach()
        if self._missed:
            self._deltas.begin_late(now_ms())
        self._start = unix_ms()
        self._end = self._start // interval_ms * interval_ms + interval_ms
        self._files.begin(self._start // interval_ms * interval_ms)

    def tick(self) -> float:
        """Do what is due; how long to wait until the next time, in seconds."""
        taken = self._drain()
        self._places.keep_known()
        now = self._unix_ms()
        if now >= self._end:
            self.finish()
            now = self._unix_ms()
        wait = BUSY_SECONDS if taken > BUSY_RECORDS else IDLE_SECONDS
        return min(wait, max(self._end - now, 0) / 1000)

    def finish(self, *, ask: bool = True) -> None:
        """Write the interval that is going on, whether it is over or not, and begin the next.

        `ask` is whether to ask the controller for the interfaces first.
        """
        self._drain()
        gathered, self._gathering = self._gathering, Gathering()
        if ask:
            self._places.refresh()
            self._requested.refresh()
        for start in range(0, self._state.entries_watermark, SLICE_ENTRIES):
            now = self._now_ms()
            live = self._deltas.live(self._state.memory, start, SLICE_ENTRIES, now)
            self._write(gathered.claim(live))
            self._drain()
        self._write(gathered.rest())
        self._deltas.forget()
        self._note_losses()
        self._write_statuses()
        self._settle(self._files.flush())
        self._next_interval()

    def _drain(self) -> int:
        """Take what the ring has; how many records that were."""
        before = self._ring.figures.taken
        for _ in range(_DRAINS_MAX):
            found, unknown = self._deltas.ended(self._ring.memory, RECORDS_AT_ONCE)
            for number in unknown:
                self._skipped |= self._places.around(number)
            self._gathering.gather(found)
            if self._gathering.full:
                self._write(self._gathering.rest())
            figures = self._ring.figures
            if figures.recorded == figures.taken:
                break
        return self._ring.figures.taken - before

    def _write(self, rows: Iterable[Row]) -> None:
        now, unix = self._now_ms(), self._unix_ms()
        lines: defaultdict[Place, list[str]] = defaultdict(list)
        for key, sums in rows:
            place = self._places.of(key.place)
            if place is None:
                continue
            start = max(unix - max(now - sums.first_ms, 0), self._start)
            end = max(min(unix - max(now - sums.last_ms, 0), self._end), start)
            times = (start // 1000, end // 1000)
            if key.view != UNSENT:
                lines[place].append(self._form.line(place, key, sums, *times))
                self._requested.tell(place, key, sums, *times)
            number = self._places.host_at(place, key.remote_address)
            row = None if number is None else at_host(key, number)
            if row is not None and (host := self._places.of(row.place)) is not None:
                lines[host].append(self._form.line(host, row, sums, *times))
                self._requested.tell(host, row, sums, *times)
        self._write_requested()
        for place, texts in lines.items():
            self._append(place, texts)

    def _append(self, place: Place, lines: list[str]) -> None:
        self._told.add(place)
        lost = self._files.write(place, lines)
        self._ring.count_lines(len(lines), 0)
        if lost:
            self._lose(place, lost)

    def _lose(self, place: Place, lines: int) -> None:
        self._ring.count_lines(-lines, lines)
        self._skipped.add(place)

    def _note_losses(self) -> None:
        """Which interfaces the ring had no room for since the last time."""
        lost = read_lost(self._ring.memory)
        for number, count in lost.items():
            if count != self._lost.get(number):
                self._skipped |= self._places.around(number)
        self._lost = lost
        if self._missed:
            self._skipped |= set(self._places.present.values())
            self._missed = False

    def _write_statuses(self) -> None:
        start, end = self._start // 1000, self._end // 1000
        skipped, self._skipped = self._skipped, set()
        for place in skipped:
            self._write_status(place, start, end, "SKIPDATA")
        for place in set(self._places.present.values()) - self._told:
            self._write_status(place, start, end, "NODATA")
        self._write_requested()

    def _write_status(self, place: Place, start: int, end: int, status: str) -> None:
        self._append(place, [self._form.without_data(place, start, end, status)])
        self._requested.tell_status(place, start, end, status)

    def _write_requested(self) -> None:
        if lost := self._requested.flush():
            self._ring.count_lines(0, lost)

    def _settle(self, lost: dict[str, int]) -> None:
        """Lines lost by interface id: the next interval tells so."""
        for place in self._told:
            if count := lost.get(place.interface_id):
                self._lose(place, count)

    def _next_interval(self) -> None:
        self._told.clear()
        self._places.next_interval()
        now = self._unix_ms()
        self._start = self._end
        if now < self._start:
            self._start = now
        self._end = max(self._start, now) // self._interval_ms * self._interval_ms
        self._end += self._interval_ms
        self._files.begin(self._start // self._interval_ms * self._interval_ms)
