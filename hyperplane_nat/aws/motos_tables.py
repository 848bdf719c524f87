# SPDX-License-Identifier: Apache-2.0
"""moto's tables of what EC2 has to sell, which take 95 MiB as soon as its EC2 is imported.

Some of its other services import it, and nobody asks moto for any of that: `leave_out` has it find
nothing in them. Who wants one reads it here.
"""

from __future__ import annotations

from typing import Any

from moto.utilities import utils as resources

table = resources.load_resource
"""A table, by the name of its file in moto's package; FileNotFoundError."""


def _load_needed(resource: str) -> Any:
    if resource.startswith("ec2/resources/"):
        return {} if resource.endswith("/instance_types.json") else []
    return table(resource)


def leave_out() -> None:
    """From now on moto finds nothing in them. Before its services are imported."""
    resources.load_resource = _load_needed
