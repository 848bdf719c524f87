# SPDX-License-Identifier: Apache-2.0
"""What the front of the runtime is forked with."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Opened:
    """Open sockets, and who may use one of them."""

    channel: socket.socket
    """Its end of the channel to the keeper."""
    listener: socket.socket
    """Who connects there must have the access key."""
    local: socket.socket
    """A unix socket in the lab's directory: who connects there is root."""
    access_key: str

    def close(self) -> None:
        """Close all of it."""
        for each in (self.channel, self.listener, self.local):
            each.close()
