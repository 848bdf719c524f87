# SPDX-License-Identifier: Apache-2.0
"""What becomes of queries, counted in a file that outlives the resolver.

It is mapped before the resolver gives up its privileges: from then on a count is a store.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What becomes of a query. Appended to, never reordered."""

    ANSWERED = "answered"
    """With what is there, which may be nothing of the type that was asked for."""
    NO_SUCH_NAME = "no_such_name"
    """NXDOMAIN."""
    FORWARDED = "forwarded"
    """Answered by the upstream resolver."""
    UPSTREAM_FAILED = "upstream_failed"
    """SERVFAIL: it gave no answer, or too many wait for one."""
    REFUSED = "refused"
    """REFUSED: by somebody outside the VPC, or not for recursion."""
    MALFORMED = "malformed"
    """FORMERR, or silence where not even a header can be answered."""
    NOT_IMPLEMENTED = "not_implemented"
    """NOTIMP: no query."""
    RATE_LIMITED = "rate_limited"
    """Silence: over the packets of a second that a network interface has."""
    CONNECTION_LIMITED = "connection_limited"
    """A connection over those that one address, or all, may have."""


_COUNTS = struct.Struct(f"={len(Outcome)}Q")
_PLACES = {outcome: place for place, outcome in enumerate(Outcome)}


class Figures:
    """The counts of one resolver."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size != _COUNTS.size:
                os.ftruncate(descriptor, _COUNTS.size)
            self._map = mmap.mmap(descriptor, _COUNTS.size)
        finally:
            os.close(descriptor)
        self._counts = memoryview(self._map).cast("Q")

    def count(self, outcome: Outcome) -> None:
        """One more."""
        self._counts[_PLACES[outcome]] += 1

    def close(self) -> None:
        """Unmap it; the file stays."""
        self._counts.release()
        self._map.close()


def read(path: Path) -> Mapping[Outcome, int]:
    """The counts of a resolver that may be running; zeros when it has made no file yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    # A former version has counted fewer kinds.
    whole = content[: _COUNTS.size].ljust(_COUNTS.size, b"\0")
    return dict(zip(Outcome, _COUNTS.unpack(whole), strict=True))
