# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of, in AWS's words: plain data that knows no namespace and no packet."""

from __future__ import annotations

from hyperplane_nat.model.environment import ExecutionEnvironment
from hyperplane_nat.model.interface import NetworkInterface
from hyperplane_nat.model.lab import Lab
from hyperplane_nat.model.vpc import Subnet, Vpc

__all__ = ["ExecutionEnvironment", "Lab", "NetworkInterface", "Subnet", "Vpc"]
