# SPDX-License-Identifier: Apache-2.0
"""What a forwarder begins with, opened by its controller.

Theory of operation
-------------------
A forwarder has no privilege (`netns.privileges`). Its packet sockets, the state map, the ring of
flow records and the socket for commands are opened here and handed to it (`io.handover`). A
successor gets packet sockets of its own, opened before its predecessor has quite ended: what
arrives from then on waits in its ring. The state map comes after that, locked: the lock belongs to
the open file, which only the forwarder has after the handover, so it is free when the forwarder has
ended, however that came about, and never before.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.readers.migration import migrate
from hyperplane_nat.engine.readers.state_map import DamagedMapError, open_own
from hyperplane_nat.io.handover import Handover
from hyperplane_nat.io.packet_socket import PacketSocketError, open_receiver, open_sender
from netns import NetnsError, namespace, syscalls
from netns.sockets import private_listener
from netns.topology import gateway_namespace

LOCK_SECONDS = 2.0
"""For a predecessor that was just killed to end."""

_BACKLOG = 16

log = logging.getLogger(__name__)

OpenSockets = Callable[[str, str, int, int], tuple[socket.socket, socket.socket]]
"""Receiver in a namespace and sender in another, with a ring of so many slots of so many bytes."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What one forwarder begins with."""

    handover: Handover
    discarded: str | None
    """Why the map of a predecessor could not be kept; None when it was, or there was none."""


def packet_sockets(
    receives: str, sends: str, slots: int, slot_bytes: int
) -> tuple[socket.socket, socket.socket]:
    """`OpenSockets`. NetnsError, PacketSocketError."""
    receiver = namespace.call(receives, open_receiver, slots=slots, slot_bytes=slot_bytes)
    try:
        return receiver, namespace.call(sends, open_sender)
    except BaseException:
        receiver.close()
        raise


def equip(
    config: Config,
    paths: LabPaths,
    open_sockets: OpenSockets,
    prepare: Callable[[], str],
    cache: Callable[[], Mapping[str, int]] = dict,
) -> Equipment:
    """Open everything for a forwarder that is about to begin. Blocks; ControllerError.

    `prepare` has the links as that forwarder needs them, and tells in which namespace it receives;
    `cache` opens the maps of the flow cache, by name, where there is one.
    """
    settings = config.forwarder
    with contextlib.ExitStack() as stack:
        try:
            sockets = open_sockets(
                prepare(),
                gateway_namespace(config.lab.name),
                settings.ring_slots,
                settings.ring_slot_bytes,
            )
            for each in sockets:
                stack.callback(each.close)
            state, discarded = own_map(paths.state_file, config.flows.max)
            stack.callback(os.close, state)
            records = None
            if config.flow_logs.enabled:
                records = own_records(paths.records_file)
                stack.callback(os.close, records)
            maps = cache()
            for descriptor in maps.values():
                stack.callback(os.close, descriptor)
            # Last: the name is that of a predecessor until it has ended.
            commands = private_listener(paths.forwarder_socket, _BACKLOG)
        except (NetnsError, PacketSocketError, StateMapError) as error:
            raise ControllerError(str(error)) from None
        except OSError as error:
            raise ControllerError(
                f"cannot open what a forwarder needs: {error} (hyperplane-nat down, then up)"
            ) from None
        stack.pop_all()
        receiver, sender = (each.detach() for each in sockets)
        handover = Handover(
            commands.detach(),
            state,
            receiver,
            sender,
            records,
            **{f"cache_{name}": descriptor for name, descriptor in maps.items()},
        )
        return Equipment(handover, discarded)


def refuse_disk(path: Path) -> None:
    """StateMapError unless the map is in memory: write-back of its pages would stall packets."""
    directory = path.parent
    try:
        kind = syscalls.filesystem_kind(directory)
    except OSError as error:
        raise StateMapError(
            f"lab.state_directory: {directory}: {error.strerror}: choose another one"
        ) from None
    if kind not in (syscalls.TMPFS_MAGIC, syscalls.RAMFS_MAGIC):
        raise StateMapError(
            f"lab.state_directory: {directory} is not on a tmpfs: choose a directory that "
            "is, such as /dev/shm"
        )


def make_map(path: Path, flows_max: int) -> None:
    """Make the state map ahead of its forwarder, if there is none. Blocks; StateMapError."""
    refuse_disk(path)
    if not path.exists():
        StateMap.create(path, flows_max=flows_max).close()


def own_map(path: Path, flows_max: int) -> tuple[int, str | None]:
    """The state map at `path`, locked: a new one, or that of a predecessor with its flows.

    And why what was there was discarded: a damaged map would fail every forwarder alike.
    """
    refuse_disk(path)
    discarded = None
    if os.path.lexists(path):
        descriptor = _locked(path)
        try:
            if migrate(path, now_ms=time.monotonic_ns() // 1_000_000):
                log.info("%s: brought to the layout of this version", path)
                # Another file has the name now.
                os.close(descriptor)
                descriptor = _locked(path)
            _check(path, descriptor, flows_max)
        except DamagedMapError as error:
            os.close(descriptor)
            discarded = str(error)
            log.error("%s: its flows are lost", discarded)
            path.unlink()
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor, None
    StateMap.create(path, flows_max=flows_max).close()
    return _locked(path), discarded


def own_records(path: Path) -> int:
    """The flow records at `path`, new or those of a predecessor of this version."""
    if os.path.lexists(path):
        try:
            FlowRecordRing.open(path).close()
        except StateMapError as error:
            # They are on their way and not kept; whoever reads them has the old file.
            log.warning("%s: begun anew", error)
            path.unlink()
        else:
            return open_own(path, writable=True)
    FlowRecordRing.create(path).close()
    return open_own(path, writable=True)


def _locked(path: Path) -> int:
    """The file, held alone; a predecessor that was just killed may take a moment to go."""
    descriptor = open_own(path, writable=True)
    deadline = time.monotonic() + LOCK_SECONDS
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


def _check(path: Path, descriptor: int, flows_max: int) -> None:
    """Refuse a map that cannot serve; what somebody's copying has left unallocated is allocated."""
    with contextlib.closing(StateMap.of(path, os.dup(descriptor))) as state:
        if state.flows_max != flows_max:
            raise StateMapError(
                f"{path}: made for {state.flows_max} flows, configured are {flows_max}: "
                "set flows.max back, or remove the file and its flows"
            )
        needed = state.bytes
    if os.fstat(descriptor).st_blocks * 512 < needed:
        try:
            os.posix_fallocate(descriptor, 0, needed)
        except OSError as error:
            raise StateMapError(
                f"{path}: no room for {needed} bytes ({error.strerror}): free some in {path.parent}"
            ) from error
