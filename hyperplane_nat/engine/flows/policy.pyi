# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence

from hyperplane_nat.engine.state.constants import DropReason
from hyperplane_nat.engine.state.settings import Rule

class Policy:
    def __init__(
        self,
        address: str,
        *,
        egress: Sequence[Rule] | None = None,
        ingress: Sequence[Rule] | None = None,
        guarded: Mapping[str, Sequence[Rule]] = ...,
        withheld: Sequence[Rule] = ...,
    ) -> None: ...
    def verdict(self, protocol: str, address: str, port: int = 0) -> DropReason: ...
    def admits(self, protocol: str, source: str, port: int = 0) -> DropReason: ...
