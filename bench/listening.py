# SPDX-License-Identifier: Apache-2.0
"""Whether something listens."""

from __future__ import annotations

from pathlib import Path

_STATE_LISTEN = "0A"


def listening(file: str, port: int) -> bool:
    """Whether something in the namespace of the calling thread listens on a TCP port."""
    rows = Path(file).read_text().splitlines()[1:]
    wanted = f":{port:04X}"
    return any(row.split()[1].endswith(wanted) and row.split()[3] == _STATE_LISTEN for row in rows)
