# SPDX-License-Identifier: Apache-2.0
"""What a forwarder is handed: its open files, over the socket that is its standard input.

The controller opens all that takes a privilege or a name in a file system and sends the descriptors
(SCM_RIGHTS, unix(7)); the forwarder, which by then has neither, receives them when it is to begin.
One message is one handover: the names in JSON, the descriptors in the same order.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, fields
from typing import Self

__all__ = ["Handover"]

_MESSAGE_BYTES_MAX = 4096


@dataclass(slots=True)
class Handover:
    """Descriptors; who has a handover closes what it does not keep."""

    commands: int
    """A unix socket that listens for commands."""
    state_map: int
    """The state map, for writing, with its lock held."""
    receiver: int
    """A packet socket with a receive ring."""
    sender: int
    """A packet socket to send frames with a virtio-net header by."""
    records: int | None = None
    """The ring of flow records, for writing."""
    cache_keys: int | None = None
    """The maps of the flow cache, all four or none."""
    cache_records: int | None = None
    cache_links: int | None = None
    cache_control: int | None = None

    @property
    def _open(self) -> dict[str, int]:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: number for name, number in found.items() if number is not None}

    def send(self, peer: socket.socket) -> None:
        """Send all of them; they stay open here. OSError when nobody is there to receive them."""
        given = self._open
        socket.send_fds(peer, [json.dumps(list(given)).encode()], list(given.values()))

    @classmethod
    def receive(cls, peer: socket.socket) -> Self | None:
        """Wait for a handover; None when the sender is gone. ValueError for anything else."""
        message, descriptors, _, _ = socket.recv_fds(peer, _MESSAGE_BYTES_MAX, len(fields(cls)))
        if not message:
            return None
        names = json.loads(message)
        if len(names) != len(descriptors):
            raise ValueError(f"{len(descriptors)} descriptors came for {', '.join(names)}")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return cls(**dict(zip(names, descriptors, strict=True)))

    def close(self) -> None:
        """Close all of them here."""
        for number in self._open.values():
            os.close(number)
