# SPDX-License-Identifier: Apache-2.0
from typing import Final

ORDERS: Final[dict[str, int]]

def send(
    descriptor: int,
    frame: bytes,
    *,
    order: str,
    first_source_port: int,
    source_ports: int,
    first_port: int,
    ports: int,
    seconds: float,
    stop_descriptor: int,
    packets: int = 0,
) -> tuple[int, int, float]:
    """Send a UDP frame (no IP options, no checksum of its own) on a bound packet socket.

    For `seconds`, until `packets` are sent (0: no end), or until the pipe says stop. The result is
    (frames sent, refused, seconds taken). Raises OSError when the socket fails for good.
    """
