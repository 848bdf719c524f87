# SPDX-License-Identifier: Apache-2.0
"""Programs with a process namespace of their own: started, waited for, killed with what they start.

Theory of operation
-------------------
Who starts a program has entered, in a thread of its own, what the program is to be in: a network
namespace, mounts. `start` has this thread's next child be the first of a new process namespace
(pid_namespaces(7)). When the first process of one ends, the kernel kills all others, wherever they
have gone (sessions, groups, other namespaces) and however fast they fork, and lets nobody start
more; its end is over when theirs is. So nothing needs to be looked for.

The first process is not the program: it would be spared signals that it does not handle, its own
`abort` included, and would have to wait for orphans. It is `init`, 20 lines of work in C that are
linked statically, so that starting it costs little and it takes some dozen kilobytes. It joins
control groups of version 1 first and has the program begin in that of version 2, so that nothing
the program does is outside of them. Of the published ones (tini, dumb-init, catatonit) none tells a
signal from an exit status above 128, or why a program cannot be run.

`init` also ends when the process that has started it does: a pipe to it is closed then.

`subprocess` uses vfork(2) here, so nothing is copied however big this process is, and the
interpreter is held only until the exec.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netns import syscalls
from netns.cgroups import Membership
from netns.errors import NetnsError, from_errno

INIT = Path(__file__).with_name("init")
"""Built from `init.c` by setup.py."""

_BEGUN = struct.Struct("@ii")
_STATUS = struct.Struct("@i")
_STEPS = ("run the program", "join its control groups", "mount /proc", "give up privileges", "fork")
_UMASK = 0o022
_ENDING_SECONDS = 20.0


@dataclass(slots=True)
class Program:
    """One that was started. `wait` for it in the end; that closes what is open of it."""

    init: subprocess.Popen[bytes]
    """The first process of its namespace, which ends when all others have."""
    _status: int = -1
    _ended: int = 0
    _ending: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def pid(self) -> int:
        """The number of the first process of its namespace."""
        return self.init.pid

    def own_pid(self) -> int:
        """The number of the program's own process, soon after it was started; 0 when it has ended.

        To be asked where the /proc is that of this process.
        """
        try:
            file = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            found = file.read_text(encoding="ascii").split()
        except OSError:
            return 0
        return int(found[0]) if found else 0

    def kill(self) -> None:
        """Kill all of it; nothing when it has ended."""
        # Popen looks whether it was waited for: its number may be another's then.
        self.init.kill()

    def wait(self, timeout: float | None = None) -> int:
        """
        Wait until nothing of it is left; its exit status, or the negative number of a signal.

        NetnsError when that takes longer than `timeout` seconds.
        """
        try:
            code = self.init.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NetnsError(
                f"process {self.init.pid} does not end",
                f"see what state it is in: ps -o pid,stat,wchan,cmd {self.init.pid}",
            ) from None
        # Whoever kills it waits for it, beside whoever waits for its end anyway.
        with self._ending:
            if self._status >= 0:
                told = os.read(self._status, _STATUS.size)
                os.close(self._status)
                self._status = -1
                if len(told) == _STATUS.size:
                    self._ended = os.waitstatus_to_exitcode(_STATUS.unpack(told)[0])
                elif code >= 0:
                    raise NetnsError(f"{INIT} has ended with status {code}", "please report this")
                else:
                    self._ended = code
            return self._ended

    def end(self) -> int:
        """Kill all of it and wait for that; how it has ended. NetnsError."""
        self.kill()
        return self.wait(_ENDING_SECONDS)


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    stdin: int,
    stdout: int,
    stderr: int,
    cwd: str | None = None,
    uid: int | None = None,
    mount_proc: bool = False,
    groups: Membership | None = None,
    init: Path = INIT,
) -> Program:
    """
    Start a program in a process namespace of its own, in all else where the calling thread is.

    The thread ends soon after: it can start no other. `env` is the whole environment of the program
    (this process's when None), in whose PATH a name without a slash is looked for. With `uid` it is
    that user and group, with no capability and no way to one, and 1,024 open files at most.
    `mount_proc`: its /proc is mounted anew, in mounts that are the thread's alone; it shows nothing
    but what the program starts. All of it is in `groups`. `init` is where a thread finds
    `INIT` that does not see where this is installed.

    OSError with the errno of execve(2) when the program cannot be run, ValueError for a null byte,
    else NetnsError.
    """
    groups = groups or Membership()
    ours, status = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, status)
        words = [
            str(init),
            str(status),
            "-" if uid is None else str(uid),
            "1" if mount_proc else "0",
            ",".join(map(str, groups.files)) or "-",
            "-" if groups.directory is None else str(groups.directory),
            *command,
        ]
        try:
            syscalls.unshare(syscalls.CLONE_NEWPID)
            process = subprocess.Popen(
                words,
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                bufsize=0,
                # Ours may keep files to ourselves; what a program writes is its own affair.
                umask=_UMASK,
                pass_fds=[status, *groups.descriptors],
            )
        except FileNotFoundError as error:
            os.close(ours)
            if not init.exists():
                raise NetnsError(f"{INIT} is missing", "build it: make build") from None
            raise error
        except BaseException:
            os.close(ours)
            raise
    program = Program(process, ours)
    _check_begun(program, ours)
    return program


def _check_begun(program: Program, status: int) -> None:
    told = os.read(status, _BEGUN.size)
    code, step = _BEGUN.unpack(told) if len(told) == _BEGUN.size else (-1, -1)
    if code == 0:
        return
    with contextlib.suppress(NetnsError):
        program.end()
    if step == 0:
        raise OSError(code, os.strerror(code))
    if step < 0:
        raise NetnsError(f"{INIT} has ended before the program began", "is there memory left?")
    raise from_errno(f"cannot {_STEPS[step]}", code)
