# SPDX-License-Identifier: Apache-2.0
"""Where the controller listens: the unix socket of the control API and the port of the metrics.

The port is opened before anything is built, so that one in use costs nothing but a line. What takes
connections (`endpoint`) is another matter: until it has been loaded they wait in the backlog.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from hyperplane_nat.config.sections import Metrics
from hyperplane_nat.config.values import FieldError, group_number
from hyperplane_nat.controller.errors import ControllerError
from netns import sockets

BACKLOG = 512
"""Connections that wait to be accepted, and that are accepted before others have their turn."""

NEIGHBOURS = 64
"""Ports from the default one on that are tried before any free one is taken."""


class PortTakenError(ControllerError):
    """Another process listens there."""


def group_id(name: str | None) -> int | None:
    """The number of a group, given by name or number; ControllerError when there is none."""
    if name is None:
        return None
    try:
        return group_number(name)
    except FieldError as error:
        raise ControllerError(f"lab.socket_group: {error.what} ({error.remedy})") from None


def control_socket(path: Path, group: int | None = None) -> socket.socket:
    """
    A unix socket at `path`, for this user alone or for a group too; replaces a stale one.

    Its directory is the lab's, in which the group may look for the socket but not look around.
    """
    try:
        listener = sockets.private_listener(path, BACKLOG)
        try:
            if group is None:
                path.parent.chmod(0o700)
            else:
                for each, mode in ((path, 0o660), (path.parent, 0o710)):
                    os.chown(each, -1, group)
                    each.chmod(mode)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ControllerError(
            f"cannot listen on {path}: {error.strerror or error} "
            "(choose another lab.runtime_directory)"
        ) from None
    return listener


def metrics_ports(configured: Metrics, former: int | None) -> list[int]:
    """
    The ports to try for the metrics, in their order.

    A port that the user named is the only one. Otherwise the one that a former controller of the
    lab had, because somebody may scrape it, and then the first that is free: labs that say nothing
    about it run beside each other.
    """
    port = configured.port
    said = "port" in configured.model_fields_set
    if said and port:
        return [port]
    following = [] if said else range(port, port + NEIGHBOURS)
    return [*([] if former is None else [former]), *following, 0]


def free_metrics_socket(address: str, ports: Sequence[int]) -> socket.socket:
    """A TCP socket on the first of the ports that is free; ControllerError as `metrics_socket`."""
    *others, last = ports
    for port in others:
        with contextlib.suppress(PortTakenError):
            return metrics_socket(address, port)
    return metrics_socket(address, last)


def metrics_socket(address: str, port: int) -> socket.socket:
    """A TCP socket for the metrics; ControllerError when the address is not ours, PortTakenError
    when the port is in use.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        text = f"cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}"
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"metrics.port: {text} (choose another one, 0 for any; or leave it out, and the "
                "first free one is taken)"
            ) from None
        raise ControllerError(
            f"metrics.address: {text} (choose another metrics.address or metrics.port)"
        ) from None
    return listener
