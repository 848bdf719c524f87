# SPDX-License-Identifier: Apache-2.0
class FairQueue:
    """Positions in buckets, served in turn; what the packet path uses without Python."""

    def __init__(self, positions: int, buckets: int) -> None: ...
    def __len__(self) -> int: ...
    def push(self, bucket: int, position: int) -> None:
        """A frame of `bucket` has arrived at a position that is not in the queue."""

    def pop(self, cost: int = 1) -> int | None:
        """The position whose turn it is; its bucket pays `cost`."""

    def shed(self, full: bool = False) -> list[tuple[int, int]]:
        """(bucket, position) of what is given up now; `full`: there is no room for more."""
