# SPDX-License-Identifier: Apache-2.0
from typing import Final

ORDERS: Final[dict[str, int]]

def send(
    descriptors: list[int],
    *,
    address: str,
    first_port: int,
    ports: int,
    order: str,
    payload_bytes: int,
    seconds: float,
    stop_descriptor: int,
    batch: int = 64,
    rate_per_second: int = 0,
    packets: int = 0,
) -> tuple[int, int, float]:
    """Send for `seconds`, until `packets` are sent (0: no end), or until the pipe says stop.

    The result is (datagrams sent, refused, seconds taken); `rate_per_second` 0 is full speed.
    Raises OSError when a socket fails for good.
    """
