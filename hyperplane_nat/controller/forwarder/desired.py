# SPDX-License-Identifier: Apache-2.0
"""What the forwarder is told to serve: the arguments of its `configure`. Pure functions.

Theory of operation
-------------------
There is one form, of everything and of the parts that change. Interfaces and slots are written by
the functions here, whether a forwarder begins, is met by a new controller, or is told of one cold
start. Their numbers in the state map are the region's, so that an adopted or restarted forwarder
finds its flows under the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.nat import behaviour, timeouts_ms
from hyperplane_nat.config.sections import INTERFACE_MTU
from hyperplane_nat.model.wanted import WantedInterface
from netns.topology import Interface, Slot

Item = dict[str, Any]


def everything(config: Config, interfaces: Iterable[Item], slots: Iterable[Item]) -> Item:
    """All interfaces and slots, and the settings."""
    neighbours = config.neighbours
    return {
        "everything": True,
        "interfaces": list(interfaces),
        "slots": list(slots),
        "timeouts_ms": timeouts_ms(config.timeouts, config.ports),
        "ports": config.ports.model_dump(exclude={"hold_seconds"}),
        "behaviour": behaviour(config.nat, config.timeouts),
        "neighbours": {
            "reachable_ms": neighbours.reachable_seconds * 1000,
            "retry_ms": neighbours.retry_milliseconds,
            "attempts": neighbours.attempts,
            "failed_ms": neighbours.failed_seconds * 1000,
            "queue_frames": neighbours.queue_frames,
        },
    }


def interface(wanted: WantedInterface, link: Interface) -> Item:
    """An interface, with its security groups."""
    return {
        "number": wanted.number,
        "name": wanted.link,
        "ifindex": link.ifindex,
        "address": wanted.address,
        "mac": link.mac,
        "subnet": wanted.subnet,
        "router": wanted.router,
        "destinations": list(wanted.destinations),
        "vpc": wanted.vpc_number,
        "mtu": min(wanted.mtu_bytes or INTERFACE_MTU, wanted.vpc_mtu_bytes),
        "secondary": [
            {"number": number, "address": address} for number, address in wanted.secondary
        ],
        **wanted.policy.document(),
    }


def slot(config: Config, standing: Slot, attached: int | None) -> Item:
    """An environment; without an interface it is pooled."""
    inside = config.environment.interface
    return {
        "number": standing.number,
        "ifindex": standing.ifindex,
        "address": str(inside.ip),
        "gateway": config.environment.gateway,
        "subnet": str(inside.network),
        "environment_mac": standing.environment_mac,
        "gateway_mac": standing.gateway_mac,
        "interface": attached,
        "mtu": config.environment.mtu_bytes,
    }
