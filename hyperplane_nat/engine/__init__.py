# SPDX-License-Identifier: Apache-2.0
"""The sans-IO NAT engine.

It holds no socket, reads no clock and opens no file: frames, the time and the memory of the
state map are handed in. The engine exists compiled only; when the extension modules are
missing, importing this package fails and says how to build them.
"""

from __future__ import annotations

try:
    from hyperplane_nat.engine.nat.engine import Engine
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("hyperplane_nat.engine."):
        raise
    raise ImportError(
        f"the compiled module {error.name} is missing: build it with 'make build' "
        "or 'pip install .'"
    ) from error
from hyperplane_nat.engine.flows.policy import Policy
from hyperplane_nat.engine.readers.state_map import StateMap, StateMapError
from hyperplane_nat.engine.state.constants import (
    Action,
    DropReason,
    EndCause,
    EventKind,
    Filtering,
    Mapping,
    NeighbourState,
    Side,
    State,
)
from hyperplane_nat.engine.state.settings import (
    Behaviour,
    Event,
    Exhaustion,
    Flow,
    HostFlow,
    Listener,
    NeighbourSettings,
    NetworkAclEntry,
    NextHop,
    Ports,
    RemotePorts,
    Rule,
    SubnetAcl,
    Target,
    Timeouts,
    Verdict,
)

__all__ = [
    "Action",
    "Behaviour",
    "DropReason",
    "EndCause",
    "Engine",
    "Event",
    "EventKind",
    "Exhaustion",
    "Filtering",
    "Flow",
    "HostFlow",
    "Listener",
    "Mapping",
    "NeighbourSettings",
    "NeighbourState",
    "NetworkAclEntry",
    "NextHop",
    "Policy",
    "Ports",
    "RemotePorts",
    "Rule",
    "Side",
    "State",
    "StateMap",
    "StateMapError",
    "SubnetAcl",
    "Target",
    "Timeouts",
    "Verdict",
]
