# SPDX-License-Identifier: Apache-2.0
"""No gateway at all: each environment's link ends in the VPC. The limit of links and generators."""

from __future__ import annotations

import contextlib

from bench import host_settings, kernel_lab
from bench.gateways.base import Gateway


class Direct(Gateway):
    """A veth between environment and VPC."""

    name = "direct"
    remark = "no gateway: the environment's link ends in the VPC"

    def start(self, stack: contextlib.ExitStack) -> None:
        """Link environments to the VPC."""
        count = self.options.environments
        stack.enter_context(host_settings.raised(host_settings.neighbours(count)))
        vpc = kernel_lab.build_vpc(self.lab)
        kernel_lab.create_environments(self.lab, count)
        kernel_lab.connect_environments(self.lab, vpc, range(1, count + 1))
