# SPDX-License-Identifier: Apache-2.0
class CoalescingQueue:
    """What a batch of frames becomes; each has its virtio-net header in front."""

    def __init__(self, *, enabled: bool = True) -> None: ...
    def send(self, frame: bytes, interface_index: int) -> None:
        """Queue a frame; ValueError when it is too short, or more than a batch."""

    def take(self) -> list[tuple[int, bytes]]:
        """The messages that would be sent: interface and bytes; the queue is empty afterwards."""
