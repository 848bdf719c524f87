# SPDX-License-Identifier: Apache-2.0
"""A file that one process writes and another reads, whole or not at all.

Theory of operation
-------------------
The reader has opened it before it gave up its privileges, and could not open another one later. So
it is written in place, and its first line is a digest of the rest. What does not agree with that is
half-written, and is looked at again; as long as the first line is the same, so is the rest.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

_DIGEST_BYTES = 64


def write(path: Path, body: bytes) -> None:
    """Write it in place, if it is not so already; OSError."""
    descriptor = create(path)
    try:
        overwrite(descriptor, body)
    finally:
        os.close(descriptor)


def create(path: Path) -> int:
    """Open the file, which is made if it is not there; OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def overwrite(descriptor: int, body: bytes) -> None:
    """As `write`, of a file that is open."""
    content = sha256(body).hexdigest().encode() + b"\n" + body
    if os.pread(descriptor, len(content) + 1, 0) != content:
        written = 0
        while written < len(content):
            # As much as there is room for, and then an error.
            written += os.pwrite(descriptor, content[written:], written)
        os.ftruncate(descriptor, len(content))


class Reader:
    """One file as its reader has it."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor stays the caller's."""
        self._descriptor = descriptor
        self._seen = b""

    @property
    def first_line(self) -> bytes:
        """What tells what it says from anything else."""
        return os.pread(self._descriptor, _DIGEST_BYTES, 0)

    @property
    def changed(self) -> bool:
        """Whether it says something else than what was accepted last."""
        return self.first_line != self._seen

    def read(self) -> bytes:
        """What it says; ValueError when it is half-written or empty."""
        size = os.fstat(self._descriptor).st_size
        digest, _, body = os.pread(self._descriptor, size, 0).partition(b"\n")
        if sha256(body).hexdigest().encode() != digest:
            raise ValueError("the file is half-written")
        self._read = digest
        return body

    def accept(self) -> None:
        """What was read is understood: from now on it is nothing new."""
        self._seen = self._read
