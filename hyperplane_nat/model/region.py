# SPDX-License-Identifier: Apache-2.0
"""A region: accounts, VPCs, functions and their network interfaces, with all their life cycles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperplane_nat.model.resources import Resources
from hyperplane_nat.model.settings import LifecycleSettings


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One step of a plan."""

    action: str
    """"create", "change" or "delete"."""
    kind: str
    """"account", "vpc", "subnet", "security-group", "service", "function"."""
    name: str
    """With its VPC before a slash where names are unique in a VPC only: "customer/private-a"."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do, in order."""

    wanted: Resources
    lines: tuple[PlanLine, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an invocation runs."""

    environment: int
    """The environment, by its slot number."""
    cold: bool
    interface: str
    """Id of the network interface it is attached to."""
    interface_created: bool
    """Whether the interface was made for this very environment (the model before 2019)."""
    modelled_seconds: float
    """What AWS takes for the network of this start, scaled; 0 when warm."""


class Region:
    """
    Everything one lab holds. Each method does all or nothing; errors are `ModelError`.

    `clock` gives seconds that go on over a restart of the process, as `time.time` does. Nothing
    happens by itself: call `advance` at `next_deadline`.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        settings: LifecycleSettings | None = None,
        take_slot: Callable[[], int] | None = None,
        first_interface_number: int = 0,
        interface_numbers: int = 256,
        random_hex: Callable[[int], str] | None = None,
    ) -> None: ...

    def plan(self, wanted: Resources) -> Plan:
        """What `apply` would do, without doing it. Errors: whatever makes it impossible."""
        raise NotImplementedError

    def apply(self, plan: Plan) -> tuple[PlanLine, ...]:
        """Do it and return what was done."""
        raise NotImplementedError

    def begin(self, function: str, token: str | None = None) -> Placement:
        """Start an invocation: a warm environment, or a cold one with a slot of `take_slot`."""
        raise NotImplementedError

    def ready(self, environment: int) -> None:
        """The network of a cold environment is there: initializing -> busy."""
        raise NotImplementedError

    def end(self, environment: int) -> None:
        """The invocation is over: busy -> idle, or terminating when its configuration is old."""
        raise NotImplementedError

    def discard(self, environment: int) -> None:
        """Give an environment up, whatever it does: -> terminating."""
        raise NotImplementedError

    def reaped(self) -> list[int]:
        """Environments that terminate: take them down, then call `removed` for each."""
        raise NotImplementedError

    def removed(self, environment: int) -> None:
        """The environment is gone; its slot is forgotten."""
        raise NotImplementedError

    def note_connections(self, connections: Mapping[str, int]) -> tuple[str, ...]:
        """
        Tell how many connections each interface (by id) carries. One at its limit gets another
        beside it; returns a line for each that could not be made.
        """
        raise NotImplementedError

    def interface_failed(self, interface: str, code: str, reason: str) -> None:
        """An interface could not be made: functions waiting for it fail with that reason."""
        raise NotImplementedError

    def deleting(self) -> list[str]:
        """Interfaces (ids) to take down; call `interface_removed` for each."""
        raise NotImplementedError

    def interface_removed(self, interface: str) -> int:
        """It is gone: address and quota are free. Returns its number, which stays retired."""
        raise NotImplementedError

    def retired_numbers(self) -> list[int]:
        """Interface numbers that flows may still refer to."""
        raise NotImplementedError

    def release_number(self, number: int) -> None:
        """No flow refers to that interface number any more: it may be used again."""
        raise NotImplementedError

    def advance(self) -> None:
        """Apply every transition that is due."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When `advance` has something to do, in the clock's seconds."""
        raise NotImplementedError

    def document(self) -> dict[str, Any]:
        """The full state, ready for JSON."""
        raise NotImplementedError
