# SPDX-License-Identifier: Apache-2.0
from mmap import mmap

def convert_layout_3(entries: bytes, tracks: bytes, memory: mmap, start: int, now_ms: int) -> None:
    """Write entries of layout 3 and their tracks to the map in ``memory``, from entry ``start``.

    ``now_ms`` is the map's clock: when a flow began had 32 bits of it.
    """

def convert_layout_4(entries: bytes, tracks: bytes, memory: mmap, start: int, now_ms: int) -> None:
    """The same for layout 4, which had all bits."""

def convert_layout_5(entries: bytes, tracks: bytes, memory: mmap, start: int, now_ms: int) -> None:
    """The same for layout 5, in which slots and interfaces had numbers of their own."""
