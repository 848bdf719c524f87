# SPDX-License-Identifier: Apache-2.0
"""A lab of its own for every live test here, removed whatever happens."""

from __future__ import annotations

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


@pytest.fixture
def lab(lab_name: str) -> Iterator[str]:
    """A lab name; whatever carries it at the end is removed."""
    yield lab_name
    topology.destroy(lab_name)
