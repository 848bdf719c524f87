# SPDX-License-Identifier: Apache-2.0
from array import array
from collections.abc import Sequence
from mmap import mmap

from hyperplane_nat.engine.state.settings import RemotePorts

def read_remotes(
    records: bytes, interfaces: int, least: int, address: str | None, port: int | None
) -> list[RemotePorts]: ...

class PortHolders:
    """Finds the holders of ports towards some remote endpoints.

    Each is (protocol, interface number, address, port).  ``read`` looks at ``slice_entries``
    entries from ``start`` and returns a number for every entry in use, and another one when it
    has a port towards the endpoint n: bit 0 tells that the port is held, bits 1 to 16 are the
    slot, the rest is the interface, or 65536 + n.
    """

    def __init__(
        self, endpoints: Sequence[tuple[str, int, str, int]], slice_entries: int
    ) -> None: ...
    def read(self, memory: mmap, start: int) -> array[int]: ...
