# SPDX-License-Identifier: Apache-2.0

def connect_all(
    address: str,
    *,
    first_port: int,
    ports: int,
    concurrency: int,
    warm_up_seconds: float,
    seconds: float,
    stop_descriptor: int,
) -> tuple[int, int]:
    """Connect, ask, read the answer and the end, close; (completed, failed) after the warm-up.

    The sockets are made in the network namespace of the calling thread. Raises OSError when a
    connection cannot be begun at all.
    """

def serve(listeners: list[int], *, stop_descriptor: int) -> None:
    """Accept, read the request, answer, close; the listeners are non-blocking and deferred."""
