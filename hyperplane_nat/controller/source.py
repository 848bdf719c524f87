# SPDX-License-Identifier: Apache-2.0
"""Where the configuration of a controller came from, to be read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hyperplane_nat.config import lab as configuration
from hyperplane_nat.config.lab import Config


@dataclass(frozen=True)
class Source:
    """Where a configuration came from."""

    path: Path
    overrides: Mapping[str, object] = field(default_factory=dict)
    """The command line's, by dotted names."""

    def load(self) -> Config:
        """What it says now; ConfigError."""
        return configuration.load(self.path, self.overrides)

    def encode(self) -> str:
        """A word of a command line for `decode`."""
        return json.dumps({"path": str(self.path), "overrides": dict(self.overrides)})

    @classmethod
    def decode(cls, word: str) -> Self:
        """What `encode` has made a word of."""
        document = json.loads(word)
        return cls(Path(document["path"]), document["overrides"])
