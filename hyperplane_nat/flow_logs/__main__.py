# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.flow_logs`: the process that writes a lab's flow logs.

The controller starts it like a service and starts it again when it dies. It runs at a low priority
and needs neither the forwarder nor the controller to answer it.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path

from hyperplane_nat.client import Client
from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.flow_logs.fields import VERSION_2, LineFormat
from hyperplane_nat.flow_logs.files import FlowLogFiles
from hyperplane_nat.flow_logs.places import Places
from hyperplane_nat.flow_logs.requested import Requested
from hyperplane_nat.flow_logs.writer import FlowLogWriter
from hyperplane_nat.scheduling import make_room
from netns import privileges
from netns.ending import leave

_API_SECONDS = 2.0
_POLL_SECONDS = 0.05


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperplane-nat-flow-logs",
        description="Writes the flow logs of one lab; started by the controller.",
    )
    parser.add_argument("--lab", required=True)
    parser.add_argument("--runtime-directory", required=True, type=Path)
    parser.add_argument("--state-file", required=True, type=Path)
    parser.add_argument("--records", required=True, type=Path, help="the forwarder's flow records")
    parser.add_argument("--directory", required=True, type=Path, help="where files go")
    parser.add_argument("--interval-ms", required=True, type=int)
    parser.add_argument("--fields", default=",".join(VERSION_2))
    parser.add_argument("--max-file-bytes", required=True, type=int)
    parser.add_argument("--files-kept", required=True, type=int)
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    return parser.parse_args(argv)


def _opened(
    arguments: argparse.Namespace, stop: threading.Event
) -> tuple[StateMap, FlowRecordRing] | None:
    """Map and ring, as soon as the forwarder has made both; None when it is time to stop."""
    while not stop.is_set():
        try:
            ring = FlowRecordRing.open(arguments.records)
            try:
                return StateMap.open(arguments.state_file), ring
            except StateMapError:
                ring.close()
        except StateMapError:
            pass
        stop.wait(_POLL_SECONDS)
    return None


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM, then write what is left of the interval."""
    arguments = _arguments(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Its group reads what is in the directory.
    os.umask(0o027)
    # Lines can wait, packets cannot.
    make_room()
    client = Client(
        arguments.lab, runtime_directory=arguments.runtime_directory, timeout=_API_SECONDS
    )
    form = LineFormat(arguments.fields.split(","))

    def unix_ms() -> int:
        return time.time_ns() // 1_000_000 + state.clock_offset_ms

    print("ready", flush=True)
    opened = _opened(arguments, stop)
    if opened is None:
        return 0
    state, ring = opened
    writer = FlowLogWriter(
        state,
        ring,
        form,
        FlowLogFiles(
            arguments.directory,
            form.header,
            max_file_bytes=arguments.max_file_bytes,
            files_kept=arguments.files_kept,
        ),
        Places(client.get, time.monotonic, interfaces_max=state.interfaces_max),
        interval_ms=arguments.interval_ms,
        now_ms=state.now_ms,
        unix_ms=unix_ms,
        requested=Requested(arguments.directory, client.get, unix_ms),
    )
    # Somebody may have removed it; behind this only what is in it can be made.
    arguments.directory.mkdir(parents=True, exist_ok=True)
    # It stays root, who owns what was written before, and alone may use the control socket.
    privileges.drop(privileges.FLOW_LOGS, uid=0, writes=arguments.directory)
    while not stop.wait(writer.tick()):
        pass
    # The controller that ends us may be busy with just that.
    writer.finish(ask=False)
    return 0


if __name__ == "__main__":
    leave(main())
