# SPDX-License-Identifier: Apache-2.0
"""Addresses, ports and frame sizes that every gateway and generator of the bench agrees on."""

from __future__ import annotations

from typing import Final

VPC_ROUTER: Final = "10.0.1.1"
VPC_CIDR: Final = "10.0.0.0/16"
SUBNET_CIDR: Final = "10.0.1.0/24"
INTERFACE: Final = "eni-a"
INTERFACE_ADDRESS: Final = "10.0.1.10"

SERVER: Final = "10.0.1.80"
"""Where the applications listen: iperf3, echo, datagram sink, connections."""

BLACK_HOLE: Final = "10.0.1.82"
"""What is sent here is counted by the link it arrives on and dropped at once."""

VPC_ADDRESSES: Final = (VPC_ROUTER, SERVER, BLACK_HOLE)

BALANCER: Final = "10.0.1.100"
"""A load balancer, which sends on to SERVER and BLACK_HOLE with an address of its own."""

BALANCED_PORTS: Final = 16
"""So many of CONNECTION_PORTS are balanced."""

BALANCED_TARGETS: Final = 4
"""Datagrams to a balancer go on to so many ports of the black hole."""

UDP_PORT: Final = 9000
"""Sender n sends to this port + n."""
ECHO_PORT: Final = 7
IPERF_PORT: Final = 5201

CONNECTION_PORT: Final = 20000
CONNECTION_PORTS: Final = 64
"""The server of connect-request-close listens on so many, for every contender."""

PAIRS_PORT: Final = 1025
"""First destination port of datagrams that are a new flow each."""

HEADER_BYTES: Final = 14 + 20 + 8
"""Ethernet without check sequence, IPv4 and UDP: how frame sizes are counted here."""


def payload_bytes(frame_bytes: int) -> int:
    """UDP payload of a frame."""
    if frame_bytes < HEADER_BYTES:
        raise ValueError(f"a UDP frame has at least {HEADER_BYTES} bytes, not {frame_bytes}")
    return frame_bytes - HEADER_BYTES
