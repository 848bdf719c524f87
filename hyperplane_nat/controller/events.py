# SPDX-License-Identifier: Apache-2.0
"""Events of a lab: what an operator wants to know at once, told once and counted from then on.

Theory of operation
-------------------
Events that are about the same (kind, interface, remote) share a window. The first one opens it and
is shown; those that follow within `seconds` are counted. When the window ends, the newest of them
is shown with the count of the others, and a new window begins: whatever happens, an operator reads
one line in a window, and shown plus suppressed is all that happened. The windows of a kind are
bounded; beyond that its events share one without interface and remote, so that a sender who invents
remotes buys no lines.

Shown is: a JSON object in a line of the controller's log, and an entry of a bounded history, which
GET /v1/events reads. Numbers of events go up, across controllers too, because none is less than
the second since the epoch in which it was given; a reader asks for what comes after the last one
it has.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

WINDOW_SECONDS = 10.0
HISTORY = 1_000
WINDOWS_MAX = 64
"""Windows of one kind."""

log = logging.getLogger(__name__)


class Kind(StrEnum):
    """What has happened."""

    PORT_EXHAUSTION = "port-exhaustion"
    FLOW_TABLE_FULL = "flow-table-full"
    FORWARDER_RESTARTED = "forwarder-restarted"
    FORWARDER_HUNG = "forwarder-hung"
    STATE_MAP_DISCARDED = "state-map-discarded"
    INTERFACE_ADDED = "interface-added"
    INTERFACE_REMOVED = "interface-removed"
    NAT_GATEWAY = "nat-gateway"
    LOAD_BALANCER = "load-balancer"
    ENDPOINT = "endpoint"
    TARGET_HEALTH = "target-health"
    FLOW_LOG_LOSS = "flow-log-loss"
    FLOW_CACHE_OFF = "flow-cache-off"
    FLOW_CACHE_RESTORED = "flow-cache-restored"
    HANDLERS_UNBOUND = "handlers-unbound"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload-refused"
    CLOCK_ADVANCED = "clock-advanced"


LEVELS = {
    Kind.CLOCK_ADVANCED: logging.INFO,
    Kind.INTERFACE_ADDED: logging.INFO,
    Kind.INTERFACE_REMOVED: logging.INFO,
    Kind.NAT_GATEWAY: logging.INFO,
    Kind.LOAD_BALANCER: logging.INFO,
    Kind.ENDPOINT: logging.INFO,
    Kind.TARGET_HEALTH: logging.INFO,
    Kind.RELOADED: logging.INFO,
}
"""Of the log; warnings are those that are not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event as it is shown."""

    number: int = 0
    time: float = 0.0
    """Seconds since the epoch, of the host's clock."""
    kind: Kind
    message: str
    interface: str | None = None
    remote: str | None = None
    """Address and port, protocol in front: `tcp 10.0.1.80:443`; of a target without."""
    environment: str | None = None
    function: str | None = None
    suppressed: int = 0
    """Events like this one that were not shown since the last one that was."""


@dataclass(slots=True)
class _Window:
    ends: float
    suppressed: int = 0
    newest: Event | None = None


_Key = tuple[Kind, str | None, str | None]


class EventLog:
    """The events of one lab; used from one thread."""

    def __init__(
        self,
        *,
        seconds: float = WINDOW_SECONDS,
        history: int = HISTORY,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` measures windows, `wall_clock` dates events; both in seconds."""
        self._seconds = seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._windows: dict[_Key, _Window] = {}
        self._history: deque[Event] = deque(maxlen=history)
        self._number = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(map(str, Kind), 0))
        """What has happened so far, by kind, suppressed or not."""

    def report(self, event: Event, count: int = 1) -> None:
        """Something has happened `count` times; number, time and suppressed are filled in here."""
        self.flush()
        self.counts[str(event.kind)] += count
        key = self._key(event)
        window = self._windows.get(key)
        if window is None:
            self._windows[key] = _Window(self._clock() + self._seconds)
            self._show(event, count - 1)
        else:
            window.suppressed += count
            window.newest = event

    def flush(self) -> None:
        """Show what was suppressed in windows that have ended. To be called now and then."""
        now = self._clock()
        for key, window in list(self._windows.items()):
            if now < window.ends:
                continue
            if window.newest is None:
                del self._windows[key]
            else:
                self._windows[key] = _Window(now + self._seconds)
                self._show(window.newest, window.suppressed - 1)

    def rows(self, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Events with a higher number than `after`, oldest first, the newest `limit` of them."""
        found = [asdict(event) for event in self._history if event.number > after]
        return found if limit is None else found[-limit:]

    def _key(self, event: Event) -> _Key:
        key = (event.kind, event.interface, event.remote)
        if key in self._windows:
            return key
        open_windows = sum(1 for kind, _, _ in self._windows if kind is event.kind)
        return key if open_windows < WINDOWS_MAX else (event.kind, None, None)

    def _show(self, event: Event, suppressed: int) -> None:
        now = self._wall_clock()
        self._number = max(self._number + 1, int(now))
        shown = replace(event, number=self._number, time=round(now, 3), suppressed=suppressed)
        self._history.append(shown)
        told = {name: value for name, value in asdict(shown).items() if value is not None}
        log.log(LEVELS.get(shown.kind, logging.WARNING), "%s", json.dumps(told))
