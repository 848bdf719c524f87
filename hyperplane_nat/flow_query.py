# SPDX-License-Identifier: Apache-2.0
"""The words by which flows are selected and sorted: for the control API and its callers alike."""

from __future__ import annotations

from typing import Literal

Protocol = Literal["tcp", "udp", "icmp"]
"""What is translated."""

FlowState = Literal[
    "SYN_SENT",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "FIN_INSIDE",
    "FIN_OUTSIDE",
    "FIN_BOTH",
    "TIME_WAIT",
    "RESET",
    "UDP",
    "UDP_REPLIED",
    "ICMP",
    "HELD",
]
"""As flows are listed (`engine.constants.State`)."""

FlowField = Literal[
    "age",
    "idle",
    "packets_out",
    "bytes_out",
    "packets_in",
    "bytes_in",
    "packets",
    "bytes",
    "environment",
    "remote",
    "inside_port",
    "nat_port",
]
"""What flows can be sorted by."""
