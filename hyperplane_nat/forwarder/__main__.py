# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.forwarder`: the process that moves packets.

It is started by the controller, loads everything, gives up every privilege, and stands by: it waits
on standard input for what it is to work with (`hyperplane_nat.io.handover`). From then on it
speaks to controllers over a socket (`commands`). Standard output carries one JSON line when it
stands by and one when it is ready, standard error the log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.readers.state_map import INTERFACES_MAX, SLOTS_MAX
from hyperplane_nat.forwarder import udp_segmentation
from hyperplane_nat.forwarder.commands import CommandServer
from hyperplane_nat.forwarder.forwarder import Forwarder
from hyperplane_nat.io.handover import Handover
from hyperplane_nat.io.packet_socket import PacketSocketError, map_ring
from hyperplane_nat.io.ring import PacketIO
from netns import NetnsError, privileges, syscalls

log = logging.getLogger("hyperplane_nat.forwarder")

_NUMBERED = (SLOTS_MAX, INTERFACES_MAX)
"""By which the controller gives links the numbers of attachments."""


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperplane-nat-forwarder",
        description="Moves packets for one lab; started by the controller.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--state-file", required=True, type=Path, help="name of the state map")
    parser.add_argument("--flow-records", type=Path, help="name of the ring of flow records")
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
    parser.add_argument(
        "--punt-link", action="store_true", help="the receive ring is that of a punt link"
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
        "--uid", type=int, default=privileges.UID, help="user and group to become; 0 stays root"
    )
    return parser.parse_args(argv)


def _say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def _parent() -> socket.socket:
    """Standard input, which is the controller's socket."""
    try:
        return socket.socket(fileno=sys.stdin.fileno())
    except OSError:
        raise ValueError(
            "standard input is no socket: it is started by the controller (hyperplane-nat up)"
        ) from None


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


def _set_priority(nice: int, microseconds: int) -> None:
    try:
        syscalls.set_time_slice(nice, microseconds)
    except PermissionError:
        raise ValueError(
            f"no permission for priority {nice}: needs CAP_SYS_NICE, or set forwarder.nice to 0"
        ) from None


async def _serve(given: Handover, arguments: argparse.Namespace, *, coalesce_udp: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    state = StateMap.of(arguments.state_file, given.state_map, writable=True)
    if arguments.punt_link and (state.slots_max, state.interfaces_max) != _NUMBERED:
        raise ValueError(f"{arguments.state_file}: attachments have other numbers than links")
    ring = map_ring(
        socket.socket(fileno=given.receiver),
        slots=arguments.ring_slots,
        slot_bytes=arguments.ring_slot_bytes,
    )
    io = PacketIO(ring, socket.socket(fileno=given.sender), punted=arguments.punt_link)
    forwarder = Forwarder(
        state,
        ring,
        io,
        batch_frames=arguments.batch_frames,
        budget_frames=arguments.budget_frames,
        spin_microseconds=arguments.spin_microseconds,
        coalesce_udp=coalesce_udp,
    )
    if given.records is not None:
        records = FlowRecordRing.of(arguments.flow_records, given.records)
        forwarder.engine.record_flows(records.memory)

    def shutdown(_arguments: dict[str, object]) -> None:
        stopping.set()

    server = CommandServer(
        socket.socket(fileno=given.commands),
        {
            "configure": forwarder.configure,
            "end_flows": forwarder.end_flows,
            "advance": forwarder.advance,
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
        parent = _parent()
        coalesce_udp = _coalesces_udp(arguments)
        _set_priority(arguments.nice, arguments.time_slice_microseconds)
        privileges.drop(privileges.FORWARDER, uid=arguments.uid)
        _say(event="standby", pid=os.getpid())
        given = Handover.receive(parent)
        if given is None:
            return 0
        uvloop.run(_serve(given, arguments, coalesce_udp=coalesce_udp))
    except (NetnsError, StateMapError, PacketSocketError, OSError, ValueError) as error:
        print(f"forwarder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
