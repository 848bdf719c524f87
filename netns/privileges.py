# SPDX-License-Identifier: Apache-2.0
"""What a process may do, given up for good: user, capabilities, system calls.

Theory of operation
-------------------
A program of ours that talks to strangers opens what it needs, or is given it, then calls `drop` and
only then begins to serve. From there it has another user, no capability in any set, nothing to gain
by execve(2), and the system calls of its `Program`, which is a list of names (seccomp(2), through
libseccomp).

Whatever is not on the list is answered with ENOSYS and noted in the kernel's audit log. It is not
ended by a signal: a libc or an interpreter that is newer than the list asks for something new and,
on ENOSYS, goes back to what it did before, so an update of the host costs a line in the log and not
the service. Whoever has taken the process over gets as little from ENOSYS as from the signal. What
a library asks for in every process (`Program.unnoted`) would fill the audit log: it gets the same
answer from a list of its own, which notes nothing. The kernel takes the strictest of two answers.

Two things are in the lists of few. Memory that can be executed: code is loaded before, but for
`AWS`, whose libraries load theirs with the first question about it. And files opened for writing,
which `FLOW_LOGS` and `AWS` do: what the others write was opened before. Paths are nothing that a
list can tell apart, so whoever opens files for writing is bounded to a directory by landlock(7).

To be called while there is one thread: the kernel keeps capabilities per thread. `drop` looks at
every thread and raises where one has kept something.
"""

from __future__ import annotations

import errno
import importlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netns import syscalls
from netns.errors import NetnsError, from_errno
from netns.users import UID as UID

# What the standard library imports when it is first needed, from where `UID` may not read: the
# interpreter is often in somebody's home.
_LOADED_LATER = (
    "concurrent.futures.thread",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "traceback",
)
_ENDING_SECONDS = 1.0
_CLONE_THREAD = 0x00010000
_PROT_EXEC = 4
_PRCTLS = {"PR_SET_PDEATHSIG": 1, "PR_SET_NAME": 15}
_IOCTLS = {
    "TCGETS": 0x5401,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
    # CPython asks for the name of the link that each frame of a packet socket came by.
    "SIOCGIFNAME": 0x8910,
}
# Maps that were opened before: one key, many keys, the next key. No program, no new map, no link.
_BPF_COMMANDS = {
    "BPF_MAP_LOOKUP_ELEM": 1,
    "BPF_MAP_UPDATE_ELEM": 2,
    "BPF_MAP_DELETE_ELEM": 3,
    "BPF_MAP_GET_NEXT_KEY": 4,
    "BPF_MAP_LOOKUP_AND_DELETE_ELEM": 21,
    "BPF_MAP_LOOKUP_BATCH": 24,
    "BPF_MAP_LOOKUP_AND_DELETE_BATCH": 25,
    "BPF_MAP_UPDATE_BATCH": 26,
    "BPF_MAP_DELETE_BATCH": 27,
}


@dataclass(frozen=True, slots=True)
class Program:
    """The system calls that a kind of program is allowed."""

    name: str
    calls: frozenset[str]
    families: frozenset[int] = frozenset()
    """Address families of the sockets it may open."""
    threads: bool = False
    """Whether it may start threads; none starts processes."""
    writes_files: bool = False
    """Whether it may open files for writing."""
    loads_code: bool = False
    """Whether it may load compiled modules when they are first needed."""
    maps: bool = False
    """Whether it uses BPF maps that it was given."""
    unnoted: frozenset[str] = frozenset()
    """What it is refused without a line in the audit log."""


def _calls(text: str) -> frozenset[str]:
    return frozenset(text.split())


# An interpreter, a libc and an event loop on descriptors that are there, with files that are read.
_COMMON = _calls(
    """
    brk munmap mremap madvise
    read readv pread64 preadv write writev pwrite64 pwritev lseek close close_range
    fstat newfstatat stat lstat statx fstatfs statfs access faccessat faccessat2 readlink readlinkat
    getcwd getdents64 fcntl dup dup2 dup3 fadvise64
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
    epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6
    eventfd2 pipe pipe2 timerfd_create timerfd_settime
    futex set_robust_list get_robust_list rseq membarrier sched_yield sched_getaffinity getcpu
    restart_syscall exit exit_group
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending sigaltstack
    getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups
    uname sysinfo getrusage getrandom times getrlimit
    recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg shutdown
    getsockname getpeername getsockopt setsockopt
    """
)

FORWARDER = Program(
    "forwarder",
    # An event loop listens again on a socket that listens already.
    _COMMON | {"accept", "accept4", "listen"},
    maps=True,
    # libuv tries it for each loop, whatever UV_USE_IO_URING says, and goes on without.
    unnoted=frozenset({"io_uring_setup"}),
)

SERVICE = Program(
    "service",
    # Its socket is bound by then; asyncio sets it to listening once more.
    _COMMON | {"accept", "accept4", "listen", "sendfile"},
    threads=True,
)

HANDLERS = Program(
    "handlers",
    # Sockets that listen are handed to it while it serves.
    _COMMON | {"accept", "accept4", "listen"},
    threads=True,
)

_FILES = _calls(
    """
    flock fsync fdatasync ftruncate
    mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir
    """
)

FLOW_LOGS = Program(
    "flow-logs",
    _COMMON | _FILES | {"connect"},
    families=frozenset({socket.AF_UNIX}),
    threads=True,
    writes_files=True,
)

UI = Program(
    "ui",
    _COMMON | {"accept", "accept4", "listen", "connect"},
    families=frozenset({socket.AF_UNIX}),
    threads=True,
)

AWS = Program(
    "aws",
    _COMMON | _FILES | {"accept", "accept4", "listen", "connect", "chmod", "fchmod", "umask"},
    # Of the controller and of the Runtime API; libraries ask whether there is IPv6.
    families=frozenset({socket.AF_UNIX, socket.AF_INET}),
    threads=True,
    writes_files=True,
    loads_code=True,
)

HEALTH_CHECKS = Program(
    "health-checks",
    # What it finds goes into a file that is open by then.
    _COMMON | {"bind", "connect", "ftruncate"},
    families=frozenset({socket.AF_INET}),
    threads=True,
)

CAPTURE = Program(
    "capture",
    # The file is open by then; names are asked of the control API.
    _COMMON | {"connect"},
    families=frozenset({socket.AF_UNIX}),
)


@dataclass(frozen=True, slots=True)
class Privileges:
    """What a process may do, as /proc/PID/status tells it."""

    uid: int
    gid: int
    capabilities: int
    """All that it has in any set, the bounding set too: 0 when there are none to come by."""
    effective: int
    """The capabilities that it uses (CapEff)."""
    no_new_privs: bool
    seccomp: int
    """0 without, 1 strict, 2 with a list."""

    @property
    def dropped(self) -> bool:
        """Whether no capability is left or to be had, and the system calls are those of a list."""
        return self.capabilities == 0 and self.no_new_privs and self.seccomp == 2


def of(pid: int) -> Privileges | None:
    """What process `pid` has; None when there is no such process."""
    try:
        return _read(Path(f"/proc/{pid}/status"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def drop(program: Program, *, uid: int, writes: Path | None = None) -> None:
    """Become `uid` (its group too) with nothing but what `program` is allowed.

    0 keeps the user: root without capabilities, who still owns root's files. NetnsError where it
    cannot be done; the process is not to go on then. `writes` is the only directory below which it
    changes files, where the kernel offers Landlock. Whatever is imported later must be readable
    for `uid`, and a parent death signal is lost with the user: it is set after this.
    """
    # While it can be read.
    load()
    lists = _lists(program)
    if program.threads:
        syscalls.load_unwinder()
    _wait_for_ended_threads()
    try:
        syscalls.drop_bounding_set()
        if uid != 0:
            _become(uid)
            syscalls.set_undumpable()
        syscalls.drop_capabilities()
        syscalls.set_no_new_privs()
        if writes is not None and syscalls.landlock_version():
            syscalls.change_only_below(writes)
        for each in lists:
            each.load()
    except OSError as error:
        raise from_errno("cannot give up privileges", error.errno or 0) from None
    for task in Path("/proc/self/task").iterdir():
        left = _read(task / "status")
        if not left.dropped or left.uid != (uid or left.uid):
            raise NetnsError(
                f"thread {task.name} of {program.name} has kept privileges: {left}",
                "drop them while there is one thread",
            )


def load() -> None:
    """Import what `drop` and whoever has dropped needs; NetnsError where it is not to be had."""
    for module in _LOADED_LATER:
        importlib.import_module(module)
    _seccomp()


def _wait_for_ended_threads() -> None:
    """A thread that was joined is in the kernel for a moment longer."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.0005)


def _become(uid: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        # EINVAL: a user namespace (a container without root) that has no such user.
        raise NetnsError(
            f"cannot become user {uid}: {error.strerror}",
            "lab.process_uid = 0 keeps root, without capabilities",
            code=error.errno,
        ) from None


def _read(status: Path) -> Privileges:
    fields = dict(
        line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if line
    )
    sets = [int(fields[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    return Privileges(
        uid=int(fields["Uid"].split()[1]),
        gid=int(fields["Gid"].split()[1]),
        capabilities=sets[0] | sets[1] | sets[2] | sets[3] | sets[4],
        effective=sets[2],
        no_new_privs=fields["NoNewPrivs"].strip() == "1",
        # A kernel without seccomp has no such line.
        seccomp=int(fields.get("Seccomp", "0")),
    )


def _seccomp() -> Any:
    try:
        # Here, not above: loading it runs ldconfig, and who only reads has no need of it.
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise NetnsError(
            f"no list of system calls: {error}", "install libseccomp: apt install libseccomp2"
        ) from None
    return pyseccomp


def _lists(program: Program) -> list[Any]:
    """What `program` is refused without a note, and the list of what it is allowed."""
    pyseccomp = _seccomp()
    Arg, eq, masked = pyseccomp.Arg, pyseccomp.EQ, pyseccomp.MASKED_EQ  # noqa: N806
    # What is not noted is let through by one list, and refused by the other.
    calls = sorted(program.calls | program.unnoted)
    rules: list[tuple[str, tuple[Any, ...]]] = [(name, ()) for name in calls]
    executable = () if program.loads_code else (Arg(2, masked, _PROT_EXEC, 0),)
    rules += [(name, executable) for name in ("mmap", "mprotect")]
    rules += [("ioctl", (Arg(1, eq, number),)) for number in _IOCTLS.values()]
    rules += [("prctl", (Arg(0, eq, number),)) for number in _PRCTLS.values()]
    # Its own limits are read, nobody's are changed; its own threads are signalled (abort(3)).
    rules += [("prlimit64", (Arg(0, eq, 0), Arg(2, eq, 0))), ("tgkill", (Arg(0, eq, os.getpid()),))]
    rules += [("socketpair", (Arg(0, eq, socket.AF_UNIX),))]
    rules += [("socket", (Arg(0, eq, family),)) for family in sorted(program.families)]
    if program.threads:
        # glibc goes back to it from clone3, whose flags no list can see.
        rules += [
            ("clone", (Arg(0, masked, _CLONE_THREAD, _CLONE_THREAD),)),
            ("set_tid_address", ()),
        ]
    if program.writes_files:
        rules += [("openat", ()), ("open", ())]
    else:
        rules += [
            ("openat", (Arg(2, masked, os.O_ACCMODE | os.O_CREAT | os.O_TRUNC, os.O_RDONLY),))
        ]
    if program.maps:
        rules += [("bpf", (Arg(0, eq, number),)) for number in _BPF_COMMANDS.values()]
    refusal = pyseccomp.ERRNO(errno.ENOSYS)
    quiet = [(name, ()) for name in sorted(program.unnoted)]
    try:
        lists = []
        for default, action, entries in (
            (pyseccomp.ALLOW, refusal, quiet),
            (refusal, pyseccomp.ALLOW, rules),
        ):
            made = pyseccomp.SyscallFilter(default)
            made.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
            made.set_attr(pyseccomp.Attr.CTL_LOG, int(default is refusal))
            # Linux before 5.16 takes a filter as a reason to slow down what follows a store,
            # against code that a process runs without trusting it; ours runs none.
            made.set_attr(pyseccomp.Attr.CTL_SSB, 1)
            for name, arguments in entries:
                number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
                # A name that this libseccomp does not know, or this machine does not have, stays
                # out.
                if number >= 0:
                    made.add_rule_exactly(action, number, *arguments)
            lists.append(made)
        return lists
    except OSError as error:
        raise from_errno(f"no list of system calls for {program.name}", error.errno or 0) from None
