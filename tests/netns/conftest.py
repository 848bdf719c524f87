# SPDX-License-Identifier: Apache-2.0
"""A lab of its own for every live test here, removed whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from netns import topology
from netns.topology import InterfaceSpec, LabSpec, Survey, Topology, VpcSpec, survey

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


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as it is so; fail when it is not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        # What is waited for needs the processor, too.
        time.sleep(0.005)


def inspect(spec: LabSpec) -> Topology | None:
    """The lab as it stands; None unless it is exactly what the spec asks for."""
    found = survey(spec.lab)
    damaged = found.broken or found.altered
    if found.gateway is None or damaged or not _is_what_was_asked(found, spec):
        return None
    by_name = {each.name: each for each in found.interfaces}
    return Topology(
        gateway=found.gateway,
        slots=found.slots,
        interfaces=tuple(by_name[each.name] for vpc in spec.vpcs for each in vpc.interfaces),
    )


def _is_what_was_asked(found: Survey, spec: LabSpec) -> bool:
    if [each.slot.number for each in found.environments] != list(range(1, spec.environments + 1)):
        return False
    address = f"{spec.inside_address}/{spec.inside_prefix_length}"
    inside = (address, spec.inside_gateway, spec.environment_mtu)
    if any((each.address, each.gateway, each.mtu) != inside for each in found.environments):
        return False
    stands = {
        vpc.name: (
            vpc.addresses,
            {(each.interface.name, each.addresses, each.mtu) for each in vpc.interfaces},
        )
        for vpc in found.vpcs
    }
    return stands == {
        vpc.name: (
            frozenset(vpc.addresses),
            {(each.name, each.addresses, vpc.mtu) for each in vpc.interfaces},
        )
        for vpc in spec.vpcs
    }


@pytest.fixture
def lab(lab_name: str) -> Iterator[str]:
    """A lab name; whatever carries it at the end is removed."""
    yield lab_name
    topology.destroy(lab_name)
