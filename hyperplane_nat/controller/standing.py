# SPDX-License-Identifier: Apache-2.0
"""What a dead controller left of a lab: its configuration, and whether a forwarder goes on.

It is asked by the controller that comes next, which adopts it, and by the command line, which tells
of it. Looking changes nothing and needs no lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.sections import Lab
from hyperplane_nat.controller import record
from hyperplane_nat.controller.paths import LabPaths, lock_holder
from hyperplane_nat.controller.processes import Process, living
from hyperplane_nat.controller.record import RESOURCES, RecordError


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is of a lab beside its controller."""

    paths: LabPaths
    config: Config | None
    """As it was applied; None when nothing is kept, or nothing that can be understood."""
    problem: str | None
    """Why what is kept cannot be understood."""
    forwarder: int | None
    """The pid of the forwarder that lives."""

    @classmethod
    def of(cls, paths: LabPaths) -> Self:
        """What there is in a lab's directory."""
        config, problem = None, None
        try:
            config = record.read(paths.config_file)
        except RecordError as error:
            problem = str(error)
        return cls(
            paths,
            config,
            problem,
            living(paths.forwarder_pid, paths.directory),
        )

    @property
    def lab(self) -> str:
        """The lab's name."""
        return self.paths.lab

    def controller(self) -> int | None:
        """The pid of the controller that holds the lab's lock, or that `up` has just started.

        Takes tens of milliseconds: to list its locks, the kernel waits until nobody locks anything.
        """
        if (holder := lock_holder(self.paths)) is not None:
            return holder
        found = None
        for process in Process.controllers(self.paths.directory):
            found = process.pid
            process.close()
        return found

    def differences(self, wanted: Config) -> list[str]:
        """What keeps a controller with this configuration from taking it over, a line each."""
        if self.config is None:
            return [self.problem or f"what lab {self.lab!r} consists of is not kept"]
        return [
            name
            for name in record.differences(self.config, wanted)
            if name not in FREE and record.section_of(name) not in FREE
        ]

    def describe(self, left: Mapping[str, int]) -> str:
        """One line for whoever finds no controller, with what to do; what is left, by kind."""
        if (controller := self.controller()) is not None:
            return (
                f"the controller of lab {self.lab!r} (pid {controller}) does not answer yet "
                "(try again when it is up)"
            )
        if self.forwarder is None:
            return self._absence(left)
        return (
            f"the controller of lab {self.lab!r} is dead, its forwarder (pid {self.forwarder}) "
            f"goes on (take it over with: hyperplane-nat up{self._option}; "
            f"remove it with: hyperplane-nat down{self._option})"
        )

    def _absence(self, left: Mapping[str, int]) -> str:
        start = f"start it with: hyperplane-nat up{self._option}"
        found = ", ".join(_counted(kind, count) for kind, count in left.items() if count)
        if not found:
            return f"lab {self.lab!r} is not running ({start})"
        return (
            f"lab {self.lab!r} is not running, but of it are left: {found} "
            f"({start}; remove what is left with: hyperplane-nat down{self._option})"
        )

    def refusal(self, why: str) -> str:
        """One line for whoever would take over what cannot be taken over."""
        return (
            f"lab {self.lab!r} stands and its forwarder (pid {self.forwarder}) moves packets, but "
            f"it is not what is asked for: {why} (without a configuration, up{self._option} takes "
            "over what stands; with --replace, up removes it and all its flows first)"
        )

    @property
    def _option(self) -> str:
        return "" if self.lab == Lab().name else f" --lab {self.lab}"


FREE = (
    *RESOURCES,
    "metrics",
    "lifecycle",
    "dns",
    "forwarder",
    "lab.process_uid",
    "lab.socket_group",
)
"""The sections and fields of a configuration that a controller which takes over may change: what
`apply` may, what is its own, and how processes are started, because those started otherwise are
replaced."""


def standing(lab: str, runtime_directory: Path) -> Standing:
    """What there is of lab `lab`."""
    # Where the state file is does not matter here, and is part of what is kept.
    return Standing.of(LabPaths.of(lab, runtime_directory, ""))


def _counted(kind: str, count: int) -> str:
    plural = "es" if kind.endswith("s") else "s"
    return f"{count} {kind}{plural * (count != 1)}"
