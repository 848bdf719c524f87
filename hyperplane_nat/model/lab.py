# SPDX-License-Identifier: Apache-2.0
"""Everything one lab holds."""

from __future__ import annotations

from dataclasses import dataclass

from hyperplane_nat.model.environment import ExecutionEnvironment
from hyperplane_nat.model.interface import NetworkInterface
from hyperplane_nat.model.vpc import Vpc


@dataclass(frozen=True, slots=True)
class Lab:
    """The wanted state: the controller makes namespaces and forwarder follow it."""

    name: str
    vpcs: tuple[Vpc, ...]
    interfaces: tuple[NetworkInterface, ...]
    environments: tuple[ExecutionEnvironment, ...]

    def environment(self, number: int) -> ExecutionEnvironment | None:
        """The environment with that number, if there is one."""
        return next((item for item in self.environments if item.number == number), None)
