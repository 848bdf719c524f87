# SPDX-License-Identifier: Apache-2.0
"""A function as one of its environments has it, from what the controller tells of a place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplane_nat.runtime.variables import Identity, of_handler


@dataclass(frozen=True, slots=True)
class Settings:
    """A function, as one of its environments has it for as long as it is there."""

    identity: Identity
    account: str
    code: Path
    handler: str
    runtime: str
    environment: dict[str, str]
    timeout_seconds: float
    ephemeral_storage_mb: int
    """Size of its `/tmp`."""
    freeze: bool = True
    """Whether it stands still between invocations."""
    ahead: bool = False
    """Whether it is initialized before it is invoked: provisioned concurrency."""
    layers: tuple[Path, ...] = ()
    """What is in its `/opt`, the uppermost last."""

    def variables(self, number: int) -> dict[str, str]:
        """The whole environment of the runtime in environment `number`, when it begins."""
        day = time.strftime("%Y/%m/%d")
        return of_handler(
            self.identity,
            self.environment,
            handler=self.handler,
            runtime=self.runtime,
            ahead=self.ahead,
            log_stream=f"{day}/[{self.identity.version}]env-{number}",
        )


def settings_of(placed: Mapping[str, Any], region: str) -> Settings:
    """From what `controller.handlers.placed` has made."""
    code = placed["code"]
    return Settings(
        identity=Identity(placed["function"], placed["memory_mb"], region, placed["version"]),
        account=placed["account"],
        code=Path(code["path"]),
        handler=code["handler"],
        runtime=code["runtime"],
        environment=dict(placed["variables"]),
        timeout_seconds=code["timeout_seconds"],
        ephemeral_storage_mb=code["ephemeral_storage_mb"],
        freeze=code["freeze"],
        ahead=placed["ahead"],
        layers=tuple(Path(each["path"]) for each in code["layers"]),
    )
