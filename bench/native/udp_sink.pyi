# SPDX-License-Identifier: Apache-2.0

def receive(
    descriptors: list[int], *, warm_up_seconds: float, seconds: float, stop_descriptor: int
) -> int:
    """Datagrams received in `seconds` after the warm-up; -1 when the pipe said stop before."""
