# SPDX-License-Identifier: Apache-2.0
"""Execution environments: where functions run, all with the same inside address."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyperplane_nat.model.interface import NetworkInterface

_NAME = re.compile(r"(?:env-?)?([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class ExecutionEnvironment:
    """One environment; its number is also the number of its slot in the gateway."""

    number: int
    interface: NetworkInterface

    @property
    def name(self) -> str:
        """What people and the control API call it."""
        return environment_name(self.number)


def environment_name(number: int) -> str:
    """The name of environment `number`, counted from 1."""
    return f"env-{number}"


def environment_number(name: str) -> int | None:
    """The number in `env-7`, `env7` or `7`; None when it is none of these."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None
