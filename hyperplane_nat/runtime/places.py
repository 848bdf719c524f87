# SPDX-License-Identifier: Apache-2.0
"""Where a lab's functions are invoked, and with which credentials: a file of its runtime's."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


def endpoint_path(directory: Path) -> Path:
    """The file in a lab's directory."""
    return directory / "lambda.json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an SDK has to know."""

    port: int
    region: str
    access_key_id: str
    secret_access_key: str
    """Of no use but that SDKs want one to sign with."""

    @property
    def url(self) -> str:
        """As `endpoint_url`."""
        return f"http://127.0.0.1:{self.port}"

    def document(self) -> dict[str, Any]:
        """For the file."""
        return asdict(self)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """What the runtime of the lab in `directory` has written; None without one."""
        try:
            return cls(**json.loads(endpoint_path(directory).read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            return None


def uploads_path(directory: Path) -> Path:
    """Where archives are, in a lab's directory."""
    return directory / "code"
