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

    def interface_names(self) -> dict[int, str]:
        """The name of its interface for each number of an address in the state map."""
        return {
            number: interface.name for interface in self.interfaces for number in interface.numbers
        }

    def environment(self, number: int) -> ExecutionEnvironment | None:
        """The environment with that number, if there is one."""
        return next((item for item in self.environments if item.number == number), None)
