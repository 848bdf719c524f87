# SPDX-License-Identifier: Apache-2.0
"""The bytes the HTTP service serves: the same everywhere, so that a client can check them.

The content is endless and repeats after `PERIOD_BYTES`. The period is a prime just below 4 MiB:
a segment that is lost, doubled or moved by any usual size changes the checksum. One period is
SHAKE-128 (FIPS 202) of a fixed text, so it does not compress and needs no file.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

PERIOD_BYTES = 4 * 1024 * 1024 - 3


@functools.cache
def period() -> bytes:
    """One period of the content."""
    return hashlib.shake_128(b"hyperplane-nat").digest(PERIOD_BYTES)


def segments(length: int, offset: int = 0) -> Iterator[tuple[int, int]]:
    """Where in the period `length` bytes of content from `offset` on are: (start, size) each."""
    while length > 0:
        start = offset % PERIOD_BYTES
        size = min(length, PERIOD_BYTES - start)
        yield start, size
        offset += size
        length -= size


def read(length: int, offset: int = 0) -> bytes:
    """`length` bytes of content from `offset` on."""
    whole = period()
    return b"".join(whole[start : start + size] for start, size in segments(length, offset))


@functools.lru_cache(maxsize=64)
def sha256(length: int) -> str:
    """Hexadecimal SHA-256 of the first `length` bytes."""
    digest = hashlib.sha256()
    whole = memoryview(period())
    for start, size in segments(length):
        digest.update(whole[start : start + size])
    return digest.hexdigest()
