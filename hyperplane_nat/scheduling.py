# SPDX-License-Identifier: Apache-2.0
"""Who goes first: the priority of whole processes.

Theory of operation
-------------------
Where Linux groups processes by session (sched(7), "The autogroup feature", the default of most
distributions), a nice value divides a processor within a session only; sessions have equal parts,
whatever their processes' nice values. A session's own nice value is in /proc/<pid>/autogroup. Both
are set here: the one counts without autogroups or inside a control group, the other with them. Only
the leader of a session may speak for it, or a command would slow down the shell that it was started
from; a command that wants to make room takes a session of its own.

A part of a processor is not all that others lose to it: who wakes up goes to an idle processor, and
to a crowded one if there is none, though there be one with nothing but low priority on it. A
processor that runs nothing but SCHED_IDLE counts as idle there. Within a session of its own this
policy takes nothing from the session's part; outside, it would be next to none, so it is only set
together with the session's nice value.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from netns import syscalls

LOW = 10
"""
The nice value of what can wait: about a tenth of a processor that somebody else wants whole. The
lowest would be a seventieth, and whoever wants to end a capture would wait with it.
"""

AUTOGROUP = Path("/proc/self/autogroup")


def set_session_nice(nice: int) -> bool:
    """
    Set the nice value of this process's session; False where there is none to set.

    That is when it leads no session, or the kernel has no autogroups. Errors: PermissionError for a
    higher priority without CAP_SYS_NICE.
    """
    if os.getsid(0) != os.getpid():
        return False
    try:
        AUTOGROUP.write_text(str(nice), encoding="ascii")
    except PermissionError:
        raise
    except OSError:
        return False
    return True


def make_room(nice: int = LOW) -> None:
    """A lower priority for this process, and for its session if it leads one (then SCHED_IDLE)."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if set_session_nice(nice):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def in_own_session(leave: Callable[[int], None]) -> None:
    """
    Go on in a child that is a session of its own, and makes room there.

    The parent passes SIGINT and SIGTERM on, waits, and calls `leave` with the exit status as a
    shell tells it: 128 and the signal's number for one that was killed. When the parent is killed
    the child gets SIGTERM. To be called while there is one thread only.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        syscalls.set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)
        make_room()
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    leave(code if code >= 0 else 128 - code)
