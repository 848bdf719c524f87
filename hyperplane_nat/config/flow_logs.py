# SPDX-License-Identifier: Apache-2.0
"""The section about flow logs. What the fields mean is AWS's: "Flow log records"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hyperplane_nat.config.nat import Timeouts
from hyperplane_nat.config.values import AbsolutePath, FieldError, Section
from hyperplane_nat.flow_logs.fields import FIELDS, VERSION_2


class FlowLogs(Section):
    """VPC flow logs: who talked to whom, in AWS's format. docs/flow-logs.md tells more."""

    enabled: bool = Field(default=False, description="Whether flow logs are written.")
    directory: AbsolutePath = Field(
        default="/var/log/hyperplane-nat",
        description="Where the files go; each lab has a directory of its name in it. They stay "
        "when the lab is taken down.",
    )
    aggregation_seconds: Literal[60, 600] = Field(
        default=600,
        description="Length of an interval (AWS: 60 or 600), divided by `timeouts.time_scale`.",
    )
    fields: list[str] = Field(
        default=list(VERSION_2),
        description="Fields of a line, in their order; the default are those of version 2.",
    )
    max_file_bytes: int = Field(
        default=75_000_000,
        ge=1024,
        le=2**40,
        description="Size at which a file is followed by another (AWS: 75 MB).",
    )
    files_kept: int = Field(
        default=144,
        ge=1,
        le=1_000_000,
        description="Files kept of each network interface; the oldest go.",
    )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if not self.fields:
            yield FieldError("fields", "no field is named", "leave it out for those of version 2")
        for number, name in enumerate(self.fields):
            location = f"fields[{number}]"
            if name not in FIELDS:
                yield FieldError(
                    location, f"{name!r} is no field of flow logs", "see docs/flow-logs.md"
                )
            if name in self.fields[:number]:
                yield FieldError(location, f"{name!r} is there twice", "remove one")


def interval_ms(flow_logs: FlowLogs, timeouts: Timeouts) -> int:
    """Length of an interval in milliseconds, scaled; at least a tenth of a second."""
    return max(round(flow_logs.aggregation_seconds * 1000 / timeouts.time_scale), 100)
