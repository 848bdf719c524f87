# SPDX-License-Identifier: Apache-2.0
"""The last minutes of a lab: a sample for each look, and who will run out of ports."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any

HISTORY_SECONDS = 15 * 60
SAMPLES = HISTORY_SECONDS
"""A look a second."""

TREND_SECONDS = 10.0
"""Over which it is seen how fast ports are taken."""

SERIES = (
    "packets_out_per_second",
    "packets_in_per_second",
    "bits_out_per_second",
    "bits_in_per_second",
    "flows",
    "environments",
    "cpu_percent",
    "ring_percent",
    "batch_frames",
    "port_errors_per_second",
    "used_percent",
    "hosts_packets_out_per_second",
    "hosts_packets_in_per_second",
)
"""What a sample has, besides its time and the drops."""

Sample = dict[str, Any]


def sample_of(document: Mapping[str, Any], now: float) -> Sample:
    """A sample from the page's document; `now` is in seconds since the epoch."""
    forwarder, rows, hosts = document["forwarder"], document["interfaces"], document["hosts"]
    values = {
        **document,
        "flows": document["flows"]["active"],
        "cpu_percent": forwarder["cpu_percent"],
        "ring_percent": forwarder["ring_percent"],
        "batch_frames": forwarder["batch_frames"],
        "port_errors_per_second": round(sum(row["port_errors_per_second"] for row in rows), 3),
        # A remote may have no port left while the address has thousands.
        "used_percent": max(
            (row["used_percent"] or 0.0 for row in (*rows, *document["remotes"])), default=0.0
        ),
        **{
            f"hosts_{name}": round(sum(row[name] for row in hosts), 3)
            for name in ("packets_out_per_second", "packets_in_per_second")
        },
    }
    return {
        "time": round(now, 3),
        "values": [values[name] for name in SERIES],
        "drops": document["drops_per_second"],
    }


class History:
    """The samples of one lab."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples: deque[Sample] = deque(maxlen=samples)

    def add(self, sample: Sample) -> None:
        """The newest."""
        self._samples.append(sample)

    def document(self) -> dict[str, Any]:
        """All of them, the oldest first."""
        return {"series": SERIES, "seconds": HISTORY_SECONDS, "samples": list(self._samples)}


class Trends:
    """How fast figures grow, and when they will have reached their limits."""

    def __init__(self, seconds: float = TREND_SECONDS) -> None:
        self._seconds = seconds
        self._known: dict[Hashable, deque[tuple[float, float]]] = {}

    def seconds_left(
        self, key: Hashable, moment: float, value: float, limit: float | None
    ) -> float | None:
        """Until `value` is `limit` at the present rate; None when it does not grow, or has none."""
        seen = self._known.setdefault(key, deque())
        if not seen or moment > seen[-1][0]:
            seen.append((moment, value))
        while len(seen) > 2 and seen[1][0] <= moment - self._seconds:
            seen.popleft()
        (then, former), (now, _) = seen[0], seen[-1]
        if limit is None:
            return None
        if value >= limit:
            return 0.0
        if now <= then:
            return None
        grown = (value - former) / (now - then)
        return round((limit - value) / grown, 1) if grown > 0 else None

    def forget(self, moment: float) -> None:
        """Leave aside what was not asked about for long."""
        for key, seen in list(self._known.items()):
            if seen[-1][0] < moment - 6 * self._seconds:
                del self._known[key]
