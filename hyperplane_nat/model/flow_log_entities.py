# SPDX-License-Identifier: Apache-2.0
"""Flow logs that somebody has asked for, as the region keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Traffic(StrEnum):
    """Which traffic a flow log is about (EC2 API, `TrafficType`)."""

    ACCEPT = "ACCEPT"
    REJECT = "REJECT"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class FlowLog:
    """A flow log of a VPC, a subnet or a network interface (EC2 API, `FlowLog`)."""

    id: str
    account_id: str
    resource_id: str
    traffic: Traffic
    fields: tuple[str, ...]
    """Of a line, in their order."""
    aggregation_seconds: int
    """The longest that an interval is to be."""
    log_group: str
    """The group of CloudWatch Logs that its lines are for."""
    created: float
    """In seconds since the epoch, by the region's clock."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def name(self) -> str:
        """Its id: it has no name."""
        return self.id

    @property
    def declared(self) -> bool:
        """Never: a lab file has one of the whole lab."""
        return False
