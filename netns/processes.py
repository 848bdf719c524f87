# SPDX-License-Identifier: Apache-2.0
"""The processes of a namespace: found by where they are, and killed.

A process is found by its network namespace in /proc, because nothing else holds on to it: a
program may fork, make a session or a process group of its own, close every descriptor, clear its
environment and outlive its parent, yet its descendants are in the same namespace. Only one that
leaves it (unshare, setns; both need CAP_SYS_ADMIN) is out of sight, and so is one of another user
when this process lacks CAP_SYS_PTRACE.

A scan looks at every process of the host, about ten microseconds each. For what started a short
while ago it looks only at the process numbers given out since, which is nothing on a quiet host;
numbers are given out in order and start again from the bottom, so this holds as long as the host
cannot have used up all of them. A process that forks and ends may escape a scan, yet a number is
given out by that: a scan that found none, during which none was given out, proves that none is
left. Otherwise the next scan looks at what was given out meanwhile, which is soon done. On a host
so busy that this never ends, the namespace is taken for empty after a few such scans.

Signals go through a process descriptor that is opened before the last look, so that a process
whose number was given to another one meanwhile never gets a signal meant for its predecessor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from netns import namespace
from netns.errors import NetnsError

# The kernel ends a process within milliseconds, unless a device or a debugger keeps it, or hundreds
# of others want the processor as well.
_PATIENCE_SECONDS = 20.0
_SCANS_IN_VAIN = 16
_FORK_SECONDS_MIN = 5e-6
# With more numbers than this between two moments, listing /proc is quicker than trying each.
_NUMBERS_MAX = 256


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that processes started before or after."""

    ticks: int
    """Clock ticks since boot, as `start_time`."""
    last: int
    """The process number given out last."""
    seconds: float
    """On the monotonic clock."""


def kill_all(*names: str) -> int:
    """Kill every process in these namespaces but the calling one; how many it were.

    One scan serves all of them. When it returns, no process is left in any, those included that
    were forked meanwhile. A namespace that is not there has none. Raises `NetnsError` when a
    privilege is missing or a process does not end within five seconds.
    """
    with contextlib.ExitStack() as stack:
        # Open: its number is not given to a new namespace before this is over.
        found = [
            stack.enter_context(namespace.opened(name))
            for name in names
            if namespace.is_complete(name)
        ]
        return kill([identity(descriptor) for descriptor in found])


def identity(descriptor: int) -> str:
    """What /proc/<pid>/ns/net reads like for the namespace behind an open descriptor."""
    return f"net:[{os.fstat(descriptor).st_ino}]"


def now() -> Moment:
    """This moment."""
    ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    return Moment(ticks, _last(), time.monotonic())


def _last() -> int:
    """The process number given out last (proc(5), loadavg)."""
    with open("/proc/loadavg", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[4])


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22)."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        # The name in parentheses may itself contain any character.
        return int(file.read().rpartition(b")")[2].split()[19])


def kill(identities: Collection[str], since: Moment | None = None) -> int:
    """Kill every process in these namespaces that started at `since` or later; all when None.

    See `kill_all`; the caller keeps the namespaces open.
    """
    if not identities:
        return 0
    deadline = time.monotonic() + _PATIENCE_SECONDS
    ticks = 0 if since is None else since.ticks
    killed = scans_in_vain = 0
    newer_than = since
    while scans_in_vain < _SCANS_IN_VAIN:
        begin = now()
        found = {pid for pid in _numbers(newer_than, begin.last) if _is_inside(pid, identities)}
        count = _kill(found, identities, ticks, deadline)
        if count:
            # A fork that was under way may have given out an old number: once more from the start.
            killed, scans_in_vain, newer_than = killed + count, 0, since
        elif _last() == begin.last:
            break
        else:
            scans_in_vain, newer_than = scans_in_vain + 1, begin
        if time.monotonic() > deadline:
            raise NetnsError(
                f"{len(found)} processes are left and fork quicker than they are killed",
                "end them by hand: see ip netns pids",
            )
    return killed


def _numbers(since: Moment | None, last: int) -> Iterable[int]:
    """The process numbers to look at: those given out since, or all in use."""
    if since is None or not _is_recent(since):
        return _in_use()
    if since.last <= last <= since.last + _NUMBERS_MAX:
        return range(since.last + 1, last + 1)
    if since.last <= last:
        return (pid for pid in _in_use() if since.last < pid <= last)
    return (pid for pid in _in_use() if pid > since.last or pid <= last)


def _in_use() -> Iterable[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _is_recent(since: Moment) -> bool:
    """Whether the host cannot have given out all process numbers since."""
    numbers = int(Path("/proc/sys/kernel/pid_max").read_text())
    quickest = numbers * _FORK_SECONDS_MIN / (os.cpu_count() or 1)
    return time.monotonic() - since.seconds < quickest


def _kill(found: Iterable[int], identities: Collection[str], ticks: int, deadline: float) -> int:
    """Kill those of the processes that are still there and wait for their end; how many."""
    with contextlib.ExitStack() as stack:
        ending = select.poll()
        left: dict[int, int] = {}
        for pid in _processes(found) - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                if start_time(pid) < ticks or not _is_inside(pid, identities):
                    continue
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                ending.register(descriptor, select.POLLIN)
                left[descriptor] = pid
        count = len(left)
        while left:
            ready = ending.poll(max(0.0, deadline - time.monotonic()) * 1000)
            for descriptor, _ in ready:
                ending.unregister(descriptor)
                del left[descriptor]
            if not ready:
                pids = " ".join(map(str, left.values()))
                raise NetnsError(
                    f"processes do not end: {pids}",
                    "see what state they are in: ps -o pid,stat,wchan,cmd",
                )
    return count


def _processes(numbers: Iterable[int]) -> set[int]:
    """The processes with these numbers; a thread has a number too, and ends with its process."""
    result: set[int] = set()
    for number in numbers:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            status = Path(f"/proc/{number}/status").read_bytes()
            # proc(5), status, Tgid.
            result.add(int(status.partition(b"\nTgid:")[2].split(maxsplit=1)[0]))
    return result


def _is_inside(pid: int, identities: Collection[str]) -> bool:
    """Whether a process is in one of these namespaces; one that has ended is not."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") in identities  # noqa: PTH115
    except PermissionError:
        # It is gone since it was looked up (proc_ns_readlink in fs/proc/namespaces.c), or it may do
        # more than this process, so this process did not start it.
        return False
    except (FileNotFoundError, ProcessLookupError):
        pass
    # It has ended, or only its first thread has.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                path = f"/proc/{pid}/task/{thread}/ns/net"
                if os.readlink(path) in identities:  # noqa: PTH115
                    return True
    return False
