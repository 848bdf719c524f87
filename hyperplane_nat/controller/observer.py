# SPDX-License-Identifier: Apache-2.0
"""Where events come from: messages of the forwarder, and what changes from one look to the next.

Theory of operation
-------------------
The forwarder speaks in numbers of slots and interfaces; here they get the names that an operator
knows, and the function that has the environment. Interfaces come and go in several places, some of
them in threads, so nobody is asked to tell: a look twice a second compares the names that there are
with those that there were, states of NAT gateways, load balancers and targets, and counters of
losses with what they were.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperplane_nat.controller.events import Event, EventLog, Kind
from hyperplane_nat.model.identifiers import environment_name

LOOK_SECONDS = 0.5

_KINDS = {
    "port_allocation": (Kind.PORT_EXHAUSTION, "no source port for a new flow"),
    "flow_table_full": (Kind.FLOW_TABLE_FULL, "a new flow was refused: raise flows.max"),
}
"""The engine's kinds; others are for its log alone."""

log = logging.getLogger(__name__)


class Observer:
    """Turns what happens in one lab into events."""

    def __init__(
        self,
        events: EventLog,
        *,
        interfaces: Callable[[], Mapping[int, str]],
        nat_gateways: Callable[[], Mapping[str, str]],
        load_balancers: Callable[[], Mapping[str, str]] = dict,
        endpoints: Callable[[], Mapping[str, str]] = dict,
        targets: Callable[[], Mapping[tuple[str, str], str]] = dict,
        function_of: Callable[[int], str | None],
        host_of: Callable[[int], str | None],
        counters: Callable[[], Mapping[str, int]],
    ) -> None:
        """
        `interfaces` names the network interfaces by number, `nat_gateways` has what each of them is
        by its name and id, and so have `load_balancers` and `endpoints`, and `targets` by the name
        of their group and address and port; `function_of` the function that has a slot, `host_of`
        the host whose flows begin under such a number; `counters` are those of the state map, empty
        while there is none.
        """
        self.events = events
        self._interfaces = interfaces
        self._stateful = (
            (Kind.NAT_GATEWAY, "NAT gateway", nat_gateways),
            (Kind.LOAD_BALANCER, "load balancer", load_balancers),
            (Kind.ENDPOINT, "endpoint", endpoints),
        )
        self._targets = targets
        self._function_of = function_of
        self._host_of = host_of
        self._counters = counters
        self._known: frozenset[str] = frozenset()
        self._states: dict[Kind, Mapping[str, str]] = {}
        self._target_states: Mapping[tuple[str, str], str] = {}
        self._lost: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._keep(), name="events")

    async def stop(self) -> None:
        """End looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def take(self, message: Mapping[str, Any]) -> None:
        """A message of the forwarder or of its supervisor; an unknown one is for the log."""
        match message:
            case {"event": "engine", "kind": str(kind), "slot": int(slot), "count": int(count)} if (
                kind in _KINDS
            ):
                self.events.report(self._of_engine(kind, slot, message), count)
            case {"event": "forwarder-restarted", "pid": int(pid), "seconds": float(seconds)}:
                text = f"forwarder {pid} took over after {seconds * 1000:.0f} ms"
                self.events.report(Event(kind=Kind.FORWARDER_RESTARTED, message=text))
            case {"event": "forwarder-hung", "pid": int(pid), "seconds": float(seconds)}:
                text = f"forwarder {pid} gave no sign of life for {seconds:g} s and was killed"
                self.events.report(Event(kind=Kind.FORWARDER_HUNG, message=text))
            case {"event": "state-map-discarded", "reason": str(reason)}:
                text = f"the state map was discarded with all flows: {reason}"
                self.events.report(Event(kind=Kind.STATE_MAP_DISCARDED, message=text))
            case _:
                log.debug("forwarder: %s", message)

    def note_missing(self, missing: Sequence[str]) -> None:
        """What the host does not offer for handlers, a line each."""
        text = f"handlers go without: {'; '.join(missing)} (see hyperplane-nat doctor)"
        self.events.report(Event(kind=Kind.HANDLERS_UNBOUND, message=text))

    def note_uncached(self, missing: Sequence[str]) -> None:
        """What the kernel lacks for the flow cache, a line each."""
        text = f"the flow cache is off: {'; '.join(missing)} (see hyperplane-nat doctor)"
        self.events.report(Event(kind=Kind.FLOW_CACHE_OFF, message=text))

    def note_restored(self, what: str) -> None:
        """Somebody has taken something of the flow cache away, and it was put back."""
        self.events.report(Event(kind=Kind.FLOW_CACHE_RESTORED, message=what))

    def _of_engine(self, kind: str, slot: int, message: Mapping[str, Any]) -> Event:
        meaning, text = _KINDS[kind]
        number, remote = message.get("interface"), message.get("remote")
        interface = None if number is None else self._interfaces().get(number, str(number))
        environment, function, host = None, None, self._host_of(slot)
        if host is None:
            environment, function = environment_name(slot), self._function_of(slot)
            whose = environment if function is None else f"{environment} of function {function}"
        else:
            whose = f"host {host}"
        if remote is not None:
            text += f" on {interface} towards {remote}"
        return Event(
            kind=meaning,
            message=f"{text} ({whose})",
            interface=interface,
            remote=remote,
            environment=environment,
            function=function,
        )

    def look(self) -> None:
        """Compare with the last look, and let the log show what it has held back."""
        # Each address of an interface has a number: they share its name.
        found = frozenset(self._interfaces().values())
        for name in sorted(self._known - found):
            self._report_interface(Kind.INTERFACE_REMOVED, name, "removed")
        for name in sorted(found - self._known):
            self._report_interface(Kind.INTERFACE_ADDED, name, "added")
        self._known = found
        self._look_at_states()
        self._look_at_targets()
        counters = self._counters()
        if counters:
            lost = counters.get("flow_records_lost", 0) + counters.get("flow_log_lines_lost", 0)
            if self._lost is not None and lost > self._lost:
                text = "flow log records or lines were lost: see SKIPDATA in the flow logs"
                event = Event(kind=Kind.FLOW_LOG_LOSS, message=text)
                self.events.report(event, lost - self._lost)
            self._lost = lost
        self.events.flush()

    def _look_at_states(self) -> None:
        for kind, what, current in self._stateful:
            states, former = current(), self._states.get(kind, {})
            for name, state in states.items():
                if former.get(name) != state:
                    text = f"{what} {name} is {state}"
                    self.events.report(Event(kind=kind, message=text, interface=name))
            self._states[kind] = states

    def _look_at_targets(self) -> None:
        targets = self._targets()
        if targets is self._target_states:
            return
        for (group, remote), state in targets.items():
            if self._target_states.get((group, remote)) != state:
                self._report_target(group, remote, f"is {state}")
        for group, remote in self._target_states.keys() - targets.keys():
            self._report_target(group, remote, "is no longer registered")
        self._target_states = targets

    def _report_target(self, group: str, remote: str, what: str) -> None:
        text = f"target {remote} of target group {group} {what}"
        event = Event(kind=Kind.TARGET_HEALTH, message=text, interface=group, remote=remote)
        self.events.report(event)

    def _report_interface(self, kind: Kind, name: str, what: str) -> None:
        text = f"network interface {name} {what}"
        self.events.report(Event(kind=kind, message=text, interface=name))

    async def _keep(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                # Events are a service to the operator: the lab goes on without.
                log.exception("looking for events")
            await asyncio.sleep(LOOK_SECONDS)
