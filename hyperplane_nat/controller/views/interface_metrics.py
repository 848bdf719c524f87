# SPDX-License-Identifier: Apache-2.0
"""The figures of each network interface that CloudWatch has of a NAT gateway.

Theory of operation
-------------------
The forwarder counts by interface number in the state map; the addresses of an interface are numbers
of their own and are added up here. Two figures are no counters: the active connections are TCP's of
the environments attached, and the peaks come from a look every `INTERVAL_SECONDS`: of the averages
between two looks the highest of the last minute is shown. The remote endpoints with most ports are
looked for as often, in a thread: that is a walk through all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.controller.views.lab import MapReader, connections
from hyperplane_nat.engine import StateMapError
from hyperplane_nat.engine.state.settings import RemotePorts
from hyperplane_nat.metrics.cloudwatch import (
    CLOUDWATCH,
    AddressPorts,
    RemoteCount,
    RemotePortsTaken,
)

INTERVAL_SECONDS = 10.0

AVERAGES = 6
"""A minute of them."""

REMOTES = 10
"""Remote endpoints with a figure of their own: label sets stay bounded."""

_NO_ADDRESS = "0.0.0.0"
"""Of a number that no forwarder has been told of yet."""

log = logging.getLogger(__name__)

Figures = dict[str, dict[str, float]]
"""By interface, and by AWS's name of the metric."""


class InterfaceMetrics:
    """What the metrics show of each interface."""

    def __init__(
        self,
        *,
        state_map: Callable[[], MapReader | None],
        interfaces: Callable[[], Mapping[int, str]],
        attached: Callable[[], Mapping[int, str]],
        crowded: Callable[[], Sequence[RemotePorts]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        `interfaces` are the names by interface number, `attached` those by the slots of the
        environments; `crowded` looks for remote endpoints with many ports, in a thread; `clock` is
        in seconds.
        """
        self._state_map = state_map
        self._interfaces = interfaces
        self._attached = attached
        self._crowded = crowded
        self._crowded_remotes: Sequence[RemotePorts] = ()
        self._clock = clock
        self._last: tuple[float, Mapping[str, tuple[int, int]]] | None = None
        self._averages: deque[Mapping[str, tuple[float, float]]] = deque(maxlen=AVERAGES)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for peaks."""
        self._task = asyncio.create_task(self._keep(), name="peaks")

    async def stop(self) -> None:
        """End looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        while True:
            self.sample()
            try:
                await self.look_at_ports()
            except (OSError, StateMapError) as error:
                log.warning("looking for crowded remote endpoints: %s", error)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def look_at_ports(self) -> None:
        """Find the remote endpoints with most ports taken."""
        self._crowded_remotes = await in_thread(self._crowded)

    def sample(self) -> None:
        """Take the average since the last look."""
        now, totals = self._clock(), self._totals()
        if self._last is not None:
            then, former = self._last
            seconds = max(now - then, 0.001)
            self._averages.append(
                {
                    name: _rates(former[name], figures, seconds)
                    for name, figures in totals.items()
                    if name in former
                }
            )
        self._last = now, totals

    def _totals(self) -> dict[str, tuple[int, int]]:
        """Bytes and packets received on both sides, by interface."""
        return {
            name: (
                counters["bytes_in_from_source"] + counters["bytes_in_from_destination"],
                counters["packets_in_from_source"] + counters["packets_in_from_destination"],
            )
            for name, counters in self._counters().items()
        }

    def _counters(self) -> dict[str, dict[str, int]]:
        state_map = self._state_map()
        found: dict[str, dict[str, int]] = {}
        for number, name in self._interfaces().items() if state_map is not None else ():
            assert state_map is not None
            counters = found.setdefault(name, {})
            for counter, value in state_map.interface_counters(number).items():
                counters[counter] = counters.get(counter, 0) + value
        return found

    def figures(self) -> Figures:
        """Every metric of `CLOUDWATCH` for every interface; may be called in any thread."""
        state_map = self._state_map()
        counters = self._counters()
        active = {} if state_map is None else connections(state_map, self._attached(), "tcp_flows")
        averages = list(self._averages)
        result: Figures = {}
        for name, values in counters.items():
            rates = [each[name] for each in averages if name in each]
            own = {
                "ActiveConnectionCount": active.get(name, 0) + values["tcp_flows"],
                "PeakBytesPerSecond": max((rate[0] for rate in rates), default=0.0),
                "PeakPacketsPerSecond": max((rate[1] for rate in rates), default=0.0),
            }
            result[name] = {
                each.aws: own[each.aws] if each.counter is None else values[each.counter]
                for each in CLOUDWATCH
            }
        return result

    def remote_errors(self) -> list[RemoteCount]:
        """The remote endpoints towards which most flows were refused."""
        state_map, names = self._state_map(), self._interfaces()
        found: Counter[tuple[str, str, str]] = Counter()
        for each in [] if state_map is None else state_map.exhaustions():
            if each.interface in names:
                remote = remote_name(each.remote_address, each.remote_port)
                found[names[each.interface], each.protocol, remote] += each.errors
        return [RemoteCount(*key, errors) for key, errors in found.most_common(REMOTES)]

    def ports(self) -> list[AddressPorts]:
        """The ports that each address has taken."""
        state_map = self._state_map()
        if state_map is None:
            return []
        return [
            AddressPorts(name, address, state_map.interface_counters(number)["ports"])
            for number, name in self._interfaces().items()
            if (address := state_map.interface_address(number)) != _NO_ADDRESS
        ]

    def remote_ports(self) -> list[RemotePortsTaken]:
        """The remote endpoints with most ports taken, as of the last look."""
        state_map, names = self._state_map(), self._interfaces()
        if state_map is None:
            return []
        return [
            RemotePortsTaken(
                names[each.interface],
                state_map.interface_address(each.interface),
                each.protocol,
                remote_name(each.remote_address, each.remote_port),
                each.ports,
            )
            for each in self._crowded_remotes
            if each.interface in names
        ]


def remote_name(address: str, port: int) -> str:
    """A remote endpoint as a label; `any` for limits, and for the ports of mappings."""
    return "any" if (address, port) == ("0.0.0.0", 0) else f"{address}:{port}"


def _rates(
    former: tuple[int, int], figures: tuple[int, int], seconds: float
) -> tuple[float, float]:
    """Bytes and packets per second; 0 when another has the name by now and counts anew."""
    return (
        max(figures[0] - former[0], 0) / seconds,
        max(figures[1] - former[1], 0) / seconds,
    )
