# SPDX-License-Identifier: Apache-2.0
"""The scene of most tests here, on a kernel that has what the flow cache needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperplane_nat.flow_cache import probe
from netns.spec import InterfaceSpec, LabSpec, VpcSpec
from tests.conftest import require_root
from tests.flow_cache import scene as scenes
from tests.flow_cache.scene import ENVIRONMENT_MTU, GATEWAY, INSIDE, SERVICE, TRANSLATED, VPC_MTU


@pytest.fixture(scope="session")
def offered() -> None:
    """Skip what the kernel does not offer, with its reason."""
    require_root()
    if lacking := probe.missing():
        pytest.skip("; ".join(map(str, lacking)))


@pytest.fixture
def scene(dropping: scenes.Scene) -> scenes.Scene:
    """The same, but what misses can be seen behind the cache."""
    scenes.undropped(dropping)
    return dropping


@pytest.fixture
def dropping(offered: None, lab_name: str) -> Iterator[scenes.Scene]:
    """Two environments and a VPC, the cache between them, nothing cached."""
    spec = LabSpec(
        lab=lab_name,
        environments=2,
        inside_address=INSIDE,
        inside_prefix_length=30,
        inside_gateway=GATEWAY,
        environment_mtu=ENVIRONMENT_MTU,
        vpcs=(
            VpcSpec(
                name="customer",
                mtu=VPC_MTU,
                addresses=("10.0.1.1", SERVICE),
                interfaces=(InterfaceSpec(scenes.INTERFACE, TRANSLATED),),
            ),
        ),
    )
    with scenes.built(spec) as found:
        yield found
