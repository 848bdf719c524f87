# SPDX-License-Identifier: Apache-2.0
"""``python -m hyperplane_nat.forwarder``: the process that moves packets.

It is started by the controller and speaks to it over a socket (:mod:`commands`); standard output
carries one JSON line when it stands by and one when it is ready, standard error the log.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import uvloop

from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.engine.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.migration import migrate
from hyperplane_nat.engine.state_map import DamagedMapError
from hyperplane_nat.forwarder import udp_segmentation
from hyperplane_nat.forwarder.commands import CommandServer
from hyperplane_nat.forwarder.forwarder import Forwarder, now_ms
from hyperplane_nat.io.packet_socket import (
    PacketSocketError,
    ReceiveRing,
    open_receiver,
    open_sender,
)
from hyperplane_nat.io.ring import PacketIO
from netns import NetnsError, namespace, syscalls

log = logging.getLogger("hyperplane_nat.forwarder")

_LOCK_SECONDS = 2.0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperplane-nat-forwarder",
        description="Moves packets for one lab; started by the controller.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--namespace", required=True, help="network namespace of the gateway")
    parser.add_argument("--state-file", required=True, type=Path, help="the state map, on a tmpfs")
    parser.add_argument("--socket", required=True, type=Path, help="where to listen for commands")
    parser.add_argument("--flow-records", type=Path, help="where to write flow records, if at all")
    parser.add_argument("--flows-max", type=int, default=1 << 20, help="size of a new state map")
    parser.add_argument("--ring-slots", type=int, default=4096, help="slots of the receive ring")
    parser.add_argument("--ring-slot-bytes", type=int, default=2048, help="bytes of a slot")
    parser.add_argument("--batch-frames", type=int, default=128, help="frames of a batch")
    parser.add_argument(
        "--budget-frames", type=int, default=2048, help="frames between two looks at timers"
    )
    parser.add_argument(
        "--spin-microseconds",
        type=int,
        default=100,
        help="how long to look for the next frame while traffic is dense, before sleeping",
    )
    parser.add_argument(
        "--coalesce-udp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let UDP datagrams of one flow that arrive together leave as one frame",
    )
    parser.add_argument("--nice", type=int, default=-10, help="scheduling priority, as in nice(1)")
    parser.add_argument(
        "--time-slice-microseconds",
        type=int,
        default=100,
        help="how long to run before others have their turn, 100 to 100000 (since Linux 6.12)",
    )
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    parser.add_argument(
        "--standby",
        action="store_true",
        help="load everything, then wait for a line on standard input before touching anything",
    )
    return parser.parse_args(argv)


def _say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def _coalesces_udp(arguments: argparse.Namespace) -> bool:
    if not arguments.coalesce_udp:
        return False
    try:
        if udp_segmentation.available():
            return True
    except PermissionError:
        raise ValueError(
            "no permission to make a network namespace: run as root (CAP_SYS_ADMIN, CAP_NET_RAW)"
        ) from None
    log.warning(
        "UDP datagrams leave one by one: this kernel does not cut up UDP frames of packet sockets "
        "(needs Linux 6.2, or forwarder.coalesce_udp = false)"
    )
    return False


def _lock(path: Path) -> int:
    """Hold the state map alone; a predecessor that was just killed may take a moment to go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StateMapError(
                    f"{path}: another forwarder uses this state map: stop it first"
                ) from None
            time.sleep(0.001)
        else:
            return descriptor


def _set_priority(nice: int, microseconds: int) -> None:
    try:
        syscalls.set_time_slice(nice, microseconds)
    except PermissionError:
        raise ValueError(
            f"no permission for priority {nice}: needs CAP_SYS_NICE, or set forwarder.nice to 0"
        ) from None


def _map(path: Path, flows_max: int) -> tuple[StateMap, str | None]:
    """The state map at ``path``, ours alone: new, or with the flows of a predecessor.

    And why what was there was discarded: a damaged map would fail every successor alike.
    """
    discarded = None
    if path.exists():
        _lock(path)
        try:
            if not migrate(path, now_ms=now_ms()):
                return _sized(StateMap.open(path, writable=True), flows_max), None
            # Another file has the name now.
            _lock(path)
            log.info("%s: brought to the layout of this version", path)
            return _sized(StateMap.open(path, writable=True), flows_max), None
        except DamagedMapError as error:
            discarded = str(error)
            log.error("%s: its flows are lost", discarded)
            path.unlink()
    state = StateMap.create(path, flows_max=flows_max)
    _lock(path)
    return state, discarded


def _sized(state: StateMap, flows_max: int) -> StateMap:
    if state.flows_max != flows_max:
        found = state.flows_max
        path = state.path
        state.close()
        raise StateMapError(
            f"{path}: made for {found} flows, configured are {flows_max}: "
            "set flows.max back, or remove the file and its flows"
        )
    return state


def _records(path: Path) -> FlowRecordRing:
    """The flow records at ``path``, new or those of a predecessor of this version."""
    if path.exists():
        try:
            return FlowRecordRing.open(path)
        except StateMapError as error:
            # They are on their way and not kept; whoever reads them has the old file.
            log.warning("%s: begun anew", error)
            path.unlink()
    return FlowRecordRing.create(path)


async def _serve(
    state: StateMap,
    ring: ReceiveRing,
    arguments: argparse.Namespace,
    *,
    coalesce_udp: bool,
    discarded: str | None,
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    io = PacketIO(ring, open_sender())
    forwarder = Forwarder(
        state,
        ring,
        io,
        batch_frames=arguments.batch_frames,
        budget_frames=arguments.budget_frames,
        spin_microseconds=arguments.spin_microseconds,
        coalesce_udp=coalesce_udp,
        discarded=discarded,
    )
    if arguments.flow_records is not None:
        forwarder.engine.record_flows(_records(arguments.flow_records).memory)

    def shutdown(_arguments: dict[str, object]) -> None:
        stopping.set()

    server = CommandServer(
        arguments.socket,
        {
            "configure": forwarder.configure,
            "update": forwarder.update,
            "status": forwarder.status,
            "verify": forwarder.verify,
            "neighbours": forwarder.list_neighbours,
            "shutdown": shutdown,
        },
    )
    forwarder.tell = server.broadcast
    await server.start()
    forwarder.start()
    _say(event="ready", pid=os.getpid())
    await stopping.wait()
    forwarder.stop()
    await server.close()


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; 2 with one line on standard error when that cannot be."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    arguments = _arguments(argv)
    try:
        coalesce_udp = _coalesces_udp(arguments)
        if arguments.standby:
            _say(event="standby", pid=os.getpid())
            if not sys.stdin.readline():
                return 0
        _set_priority(arguments.nice, arguments.time_slice_microseconds)
        namespace.enter(arguments.namespace)
        state, discarded = _map(arguments.state_file, arguments.flows_max)
        ring = open_receiver(slots=arguments.ring_slots, slot_bytes=arguments.ring_slot_bytes)
        uvloop.run(_serve(state, ring, arguments, coalesce_udp=coalesce_udp, discarded=discarded))
    except (NetnsError, StateMapError, PacketSocketError, OSError, ValueError) as error:
        print(f"forwarder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
