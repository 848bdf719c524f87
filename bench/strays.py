# SPDX-License-Identifier: Apache-2.0
"""One bench at a time, and what a killed one has left behind.

Two runs at once would measure each other. The lock is held by the process and ends with it,
however that ends; so whoever holds it may remove every lab of the bench. A run that is killed for
good (SIGKILL, out of memory) takes its workers with it, but namespaces and a daemon stay: the next
run removes them before it measures anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import processes
from bench.errors import BenchError
from bench.gateways.base import LAB_PREFIX
from bench.gateways.hyperplane import DIRECTORY_PREFIX
from netns import namespace, topology

LOCK = Path("/run/hyperplane-nat-bench.lock")
DOWN_SECONDS = 120.0
_LAB = re.compile(rf"hp-({LAB_PREFIX}[0-9a-f]{{8}})-(?:gw|vpc-.+|env-[0-9]+)")


@contextlib.contextmanager
def only_one(lock: Path = LOCK) -> Iterator[None]:
    """Hold the lock; BenchError when another run does."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(
                "another bench is running, and the two would measure each other (wait for it)"
            ) from None
        yield
        # Only now, with the lock still held: nobody waits for a file without a name.
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def labs(names: list[str]) -> list[str]:
    """The bench's labs among names of namespaces."""
    found = (_LAB.fullmatch(name) for name in names)
    return sorted({match[1] for match in found if match})


def clear() -> list[str]:
    """Remove every lab of the bench; their names. Hold the lock."""
    removed = []
    for directory in Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*"):
        runtime = directory / "run"
        for lab in sorted(runtime.iterdir()) if runtime.is_dir() else ():
            command = [
                *(sys.executable, "-m", "hyperplane_nat.cli", "--lab", lab.name),
                *("--runtime-directory", str(runtime), "down"),
            ]
            processes.run(command, "hyperplane-nat down", seconds=DOWN_SECONDS)
            removed.append(lab.name)
        shutil.rmtree(directory, ignore_errors=True)
    for name in labs(namespace.names(f"hp-{LAB_PREFIX}")):
        topology.destroy(name)
        removed.append(name)
    return removed
