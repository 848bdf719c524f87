# SPDX-License-Identifier: Apache-2.0
"""The unix sockets of labs: their directory and names, how long a path they allow, and how long who
asks by them waits.
"""

from __future__ import annotations

import os
from pathlib import Path

RUNTIME_DIRECTORY = Path("/run/hyperplane-nat")
"""Where the directories of labs are, unless it is said otherwise."""

CONTROL = "control.sock"
"""Where the control API listens."""

LAMBDA = "lambda.sock"
"""Where the command line invokes functions."""

RUNTIME = "runtime.sock"
"""Where the controller speaks with the process that runs handlers."""

FORWARDER = "forwarder.sock"
"""Where the forwarder takes commands; the longest of their names."""

VERIFY_SECONDS = 60.0
"""How long the controller lets the forwarder walk its table: 16 million flows included."""

ADVANCE_SECONDS = 60.0
"""How long it waits for the forwarder, one that is being restarted included, to go through time."""

PATH_BYTES_MAX = 107
"""unix(7), `sun_path` less the terminating zero."""


def mailbox(vpc: str, service: str) -> str:
    """Where what came to a service of kind `mailbox` is read."""
    return f"service-{vpc}.{service}.sock"


def too_long(path: Path) -> str | None:
    """What is wrong when a unix socket's path does not fit into its address; None when it does."""
    size = len(os.fsencode(path))
    if size <= PATH_BYTES_MAX:
        return None
    return f"{path} has {size} bytes, the path of a unix socket at most {PATH_BYTES_MAX}"
