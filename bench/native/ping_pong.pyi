# SPDX-License-Identifier: Apache-2.0

def ping(
    descriptors: list[int],
    *,
    stream: bool,
    message_bytes: int,
    warm_up_seconds: float,
    seconds: float,
    stop_descriptor: int,
) -> dict[str, float]:
    """Round-trip times over connected, blocking sockets with a receive timeout, used in turn.

    The result has `count`, `lost` (messages) and, unless no echo came, `p50`, `p99`, `p99.9` and
    `max` in microseconds. Raises OSError when a socket fails.
    """

def echo(udp: int, tcp: int, *, stop_descriptor: int) -> None:
    """Echo datagrams and the bytes of every connection; both sockets are non-blocking."""
