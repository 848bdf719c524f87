# SPDX-License-Identifier: Apache-2.0
def send(
    descriptors: list[int],
    *,
    payload_bytes: int,
    seconds: float,
    stop_descriptor: int,
    batch: int = 64,
    rate_per_second: int = 0,
    packets: int = 0,
) -> tuple[int, int, float]:
    """Send on connected sockets in turn, `rate_per_second` datagrams (0: at full speed).

    For `seconds`, until `packets` are sent (0: no end), or until the pipe says stop. The result is
    (datagrams sent, refused, seconds taken). Raises OSError when a socket fails for good.
    """
