# SPDX-License-Identifier: Apache-2.0
class Watch:
    """When to look for frames and when to sleep; all times in ns of one clock."""

    def __init__(self, *, spin_ns: int) -> None: ...
    def arrived(self, now: int, frames: int = 1) -> None:
        """So many frames were found together."""

    def begin(self) -> int:
        """Nothing waits: until when to look again; 0 is to sleep."""

    def end(self, now: int) -> None:
        """Nothing came in time."""
