# SPDX-License-Identifier: Apache-2.0
"""The nursery as the controller sees it: servers that begin together are forked from one process.

It is there while a lab starts. Whatever it cannot do, because it has died or a command line is too
long, is done without it: `spawn` answers None, and the process is started by itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hyperplane_nat.controller import logs
from hyperplane_nat.controller.processes import Process, environment

MODULES = ("netns.services", "hyperplane_nat.resolver")
"""Whose processes it forks."""

_COMMAND = (sys.executable, "-P", "-m")
_ANSWER_SECONDS = 60.0
"""The first answer comes when everything is loaded, which a loaded machine does slowly."""

_log = logging.getLogger(__name__)


def bears(command: Sequence[str]) -> bool:
    """Whether a command line is one that a nursery can carry out."""
    return tuple(command[:3]) == _COMMAND and command[3] in MODULES


class Nursery:
    """One process that forks; to be closed."""

    def __init__(self, directory: Path, commands: Iterable[Sequence[str]]) -> None:
        """Begin it, for the lab in `directory`; OSError. Blocks for milliseconds.

        It can carry out `commands`, and others that are not longer than the longest.
        """
        room = max(len(os.fsencode(" ".join(command))) for command in commands)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_ANSWER_SECONDS)
        with theirs:
            try:
                # What it says goes where the controller's own lines go.
                self._process = subprocess.Popen(
                    [*_COMMAND, "hyperplane_nat.nursery", "." * room],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment(directory),
                    cwd="/",
                    start_new_session=True,
                )
            except BaseException:
                self._socket.close()
                raise

    def spawn(
        self, command: Sequence[str], word: str, *, pid_file: Path, log: Path
    ) -> Process | None:
        """As `Process.spawn`; None where the process is to be started by itself.

        Blocks until the nursery has loaded everything; by one thread at a time. A nursery that does
        not answer is asked no more: what it says later would be taken for another answer.
        """
        if self._socket.fileno() < 0:
            return None
        try:
            logs.bound(log)
            with log.open("ab") as output:
                offset = output.tell()
                socket.send_fds(self._socket, [json.dumps(command).encode()], [output.fileno()])
                message, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 12, 2)
            answer = json.loads(message)
            if "error" in answer:
                return None
            pidfd, go = descriptors
        except (OSError, ValueError) as error:
            why = "has ended" if isinstance(error, ValueError) else f"does not answer: {error}"
            _log.warning("servers are started by themselves: their nursery %s", why)
            self._socket.close()
            return None
        os.set_inheritable(pidfd, False)
        process = Process(answer["pid"], pidfd, log=log, log_offset=offset)
        # Python ignores SIGPIPE; one that has died is told of by its pidfd.
        with os.fdopen(go, "wb", buffering=0) as word_of_it, contextlib.suppress(BrokenPipeError):
            process.note(pid_file, word)
            word_of_it.write(b".")
        return process

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
