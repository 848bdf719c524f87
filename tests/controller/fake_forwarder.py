# SPDX-License-Identifier: Apache-2.0
"""A forwarder that moves no packets: the command line, the handover, the socket, the state map.

In the directory `fake` beside its state map, if there is one, it looks for files that tell it to
misbehave: `hang` (no heartbeat any more), `fail-start` (its text
is the last line before exit status 2), `fail-configure`, `deaf` (accepts but never answers).
What it was configured with is written to `configured-<pid>`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from hyperplane_nat.engine import StateMap
from hyperplane_nat.io.handover import Handover


def answer(request: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The reply to one request."""
    number, command = request["id"], request["command"]
    if command == "configure":
        if (directory / "fail-configure").exists():
            return {"id": number, "ok": False, "error": "no such link"}
        if directory.exists():
            partial = directory / f"configured-{os.getpid()}.part"
            partial.write_text(json.dumps(request["arguments"]))
            partial.replace(directory / f"configured-{os.getpid()}")
        return {"id": number, "ok": True, "result": {"slots": 0, "interfaces": 0}}
    if command == "status":
        return {
            "id": number,
            "ok": True,
            "result": {"pid": os.getpid(), "uptime_seconds": 1.5, "configured": True},
        }
    if command == "verify":
        return {"id": number, "ok": True, "result": {"problems": [], "entries": 3}}
    return {"id": number, "ok": False, "error": f"unknown command {command!r}"}


async def beat(state: StateMap, directory: Path) -> None:
    """As the real one does, several times a second."""
    while True:
        if not (directory / "hang").exists():
            state.beat(time.monotonic_ns() // 1_000_000)
        await asyncio.sleep(0.1)


async def serve(listener: socket.socket, directory: Path, state: StateMap) -> None:
    """Answer until SIGTERM; `hang-up` closes the connection without dying."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                request = json.loads(line)
                if (directory / "deaf").exists():
                    continue
                if request["command"] == "hang-up":
                    break
                writer.write(b'{"event": "seen"}\n')
                writer.write(json.dumps(answer(request, directory)).encode() + b"\n")
        except ConnectionError:
            pass
        writer.close()

    await asyncio.start_unix_server(client, sock=listener, limit=1 << 24)
    print('{"event": "ready"}', flush=True)
    beating = asyncio.create_task(beat(state, directory))
    await stop.wait()
    beating.cancel()


def main() -> int:
    """Run as the real one does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-file", type=Path, required=True)
    arguments, _ = parser.parse_known_args()
    print('{"event": "standby"}', flush=True)
    given = Handover.receive(socket.socket(fileno=sys.stdin.fileno()))
    if given is None:
        return 0
    directory = arguments.state_file.parent / "fake"
    complaint = directory / "fail-start"
    if complaint.exists():
        print(complaint.read_text(), file=sys.stderr)
        return 2
    state = StateMap.of(arguments.state_file, given.state_map, writable=True)
    asyncio.run(serve(socket.socket(fileno=given.commands), directory, state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
