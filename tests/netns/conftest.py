# SPDX-License-Identifier: Apache-2.0
"""A lab of its own for every live test here, removed whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from netns import topology
from netns.topology import InterfaceSpec, LabSpec, VpcSpec

MakeSpec = Callable[..., LabSpec]


def lab_spec(lab: str, environments: int = 2, **changes: object) -> LabSpec:
    """The default lab; `changes` are fields of `LabSpec`."""
    values: dict[str, object] = {
        "inside_address": "169.254.100.2",
        "inside_prefix_length": 30,
        "inside_gateway": "169.254.100.1",
        "environment_mtu": 1500,
        "vpcs": (
            VpcSpec(
                name="customer",
                mtu=1400,
                addresses=("10.0.1.1", "10.0.1.80", "10.0.1.81"),
                interfaces=(
                    InterfaceSpec("eni-a", "10.0.1.10"),
                    InterfaceSpec("eni-b", "10.0.1.11"),
                ),
            ),
        ),
    } | changes
    return LabSpec(lab=lab, environments=environments, **values)  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Return as soon as it is so; fail when it is not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until


@pytest.fixture
def lab(lab_name: str) -> Iterator[str]:
    """A lab name; whatever carries it at the end is removed."""
    yield lab_name
    topology.destroy(lab_name)
