# SPDX-License-Identifier: Apache-2.0
"""How many files a process may open."""

from __future__ import annotations

import resource

FILES = 65536
"""Open files that a process allows itself when the hard limit does."""


def raise_file_limit() -> None:
    """Open as many files as are allowed, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """How many files this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES if files == resource.RLIM_INFINITY else files
