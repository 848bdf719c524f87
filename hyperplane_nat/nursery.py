# SPDX-License-Identifier: Apache-2.0
"""Where the servers and resolvers of a lab are born: `python -m hyperplane_nat.nursery ROOM`.

Theory of operation
-------------------
A server spends nine tenths of its start on importing what all of them import. This process has
imported it, and forks for each server that its controller asks for over the socket that is its
standard input; what it has loaded they share until they change it. A request is the command line in
JSON with the log's descriptor, the answer the number of the process with a pidfd and the end of a
pipe.

A child goes the way of a process that was started by that command line: a session of its own, the
command line in /proc (the argument ROOM is the room for it, whatever it says), output to its log,
`main` of its module. Before that it waits for a byte in the pipe, which its controller writes when
the pid file is there: one that nobody could find again, because its controller was killed or has
given it up, meets end-of-file and ends. It gives up its privileges itself. Nothing is begun before
a fork that a child would have to know of: no thread, no event loop, no descriptor but the socket.

End-of-file ends the nursery, and its children become init's. What is worth a fork is started when
a lab is; a server that has to be started again begins as a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from hyperplane_nat.resolver import __main__ as resolver
from netns import content, privileges, services, syscalls
from netns.ending import leave
from netns.errors import NetnsError

SERVERS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "netns.services": services.main,
    "hyperplane_nat.resolver": resolver.main,
}
"""By module: what is called with the arguments behind it."""

_MESSAGE_BYTES_MAX = 1 << 16


def main() -> int:
    """Fork until the controller has gone."""
    controller = socket.socket(fileno=os.dup(0))
    # A process that comes to grief over this says so itself.
    with contextlib.suppress(NetnsError):
        privileges.load()
    content.period()
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(controller, _MESSAGE_BYTES_MAX, 1)
        if not message:
            return 0
        (log,) = descriptors
        command: list[str] = json.loads(message)
        try:
            syscalls.set_command_line(command)
        except OSError as error:
            controller.send(json.dumps({"error": str(error)}).encode())
            os.close(log)
            continue
        word, go = os.pipe()
        child = os.fork()
        if child == 0:
            controller.close()
            os.close(go)
            _live(command, log, word)
        os.close(log)
        os.close(word)
        pidfd = os.pidfd_open(child)
        try:
            socket.send_fds(controller, [json.dumps({"pid": child}).encode()], [pidfd, go])
        except BrokenPipeError:
            return 0
        os.close(pidfd)
        os.close(go)


def _live(command: Sequence[str], log: int, word: int) -> NoReturn:
    """Be the process of that command line, which ends in -m, a module and its arguments.

    What is read from `word` says that it is wanted.
    """
    status = 1
    try:
        os.setsid()
        if not os.read(word, 1):
            leave(status)
        os.close(word)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, log, log)):
            os.dup2(descriptor, number)
        os.close(nothing)
        os.close(log)
        module, *arguments = command[command.index("-m") + 1 :]
        status = SERVERS[module](arguments)
    except BaseException:
        # What goes on behind a fork is the parent's.
        sys.excepthook(*sys.exc_info())
    leave(status)


if __name__ == "__main__":
    leave(main())
