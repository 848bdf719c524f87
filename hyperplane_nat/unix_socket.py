# SPDX-License-Identifier: Apache-2.0
"""The unix sockets of labs: their directory and names, and how long a path they allow."""

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

PATH_BYTES_MAX = 107
"""unix(7), `sun_path` less the terminating zero."""


def too_long(path: Path) -> str | None:
    """What is wrong when a unix socket's path does not fit into its address; None when it does."""
    size = len(os.fsencode(path))
    if size <= PATH_BYTES_MAX:
        return None
    return f"{path} has {size} bytes, the path of a unix socket at most {PATH_BYTES_MAX}"
