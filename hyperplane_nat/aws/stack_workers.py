# SPDX-License-Identifier: Apache-2.0
"""Processes that work on stacks: one that was killed is told from those that still do."""

from __future__ import annotations

import os
from pathlib import Path

Worker = list[int]
"""A process, and when it has begun: numbers of processes are used again."""


def this_process() -> Worker:
    """The one that asks."""
    return [os.getpid(), _started(os.getpid())]


def is_alive(worker: Worker | None) -> bool:
    """Whether it has not ended; False where nobody works."""
    return worker is not None and worker[1] == _started(worker[0])


def _started(pid: int) -> int:
    """When a process has begun, in ticks since boot; 0 without it (proc_pid_stat(5), field 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])
