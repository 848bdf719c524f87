# SPDX-License-Identifier: Apache-2.0
"""Limits of the host that a contender needs raised, put back afterwards.

The connection-tracking limits and the neighbour table's exist in the initial network namespace
only. Where this process is not in it, or the module is not loaded, there is nothing to write: the
caller is told, and goes on without what needs it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

CONNECTION_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
CONNECTION_BUCKETS = Path("/sys/module/nf_conntrack/parameters/hashsize")
NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default")


def connection_tracking(connections: int) -> dict[Path, int]:
    """What lets the kernel hold so many connections; as many buckets, so that chains stay short."""
    buckets = 1 << (connections - 1).bit_length()
    return {CONNECTION_BUCKETS: buckets, CONNECTION_MAX: connections}


def neighbours(environments: int) -> dict[Path, int]:
    """What lets the kernel know every environment's link address, from both ends."""
    wanted = 4 * environments + 256
    return {NEIGHBOURS / "gc_thresh3": 2 * wanted, NEIGHBOURS / "gc_thresh2": wanted}


@contextlib.contextmanager
def raised(limits: Mapping[Path, int]) -> Iterator[list[str]]:
    """Raise limits for a while; yields a line for each that could not be raised."""
    before: list[tuple[Path, str]] = []
    problems: list[str] = []
    try:
        for path, wanted in limits.items():
            try:
                found = path.read_text().strip()
                if int(found) < wanted:
                    path.write_text(str(wanted))
                    before.append((path, found))
            except OSError as error:
                problems.append(
                    f"cannot raise {path} to {wanted}: {error.strerror} (only the host's own "
                    "network namespace may, with the module loaded)"
                )
        yield problems
    finally:
        for path, value in reversed(before):
            try:
                path.write_text(value)
            except OSError as error:
                _log.warning("cannot set %s back to %s: %s", path, value, error.strerror)
