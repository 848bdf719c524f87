# SPDX-License-Identifier: Apache-2.0
"""What the forwarder is told to serve: the arguments of its `configure`. Pure functions.

Theory of operation: there is one form, of everything and of the parts that change. Interfaces and
slots are written by the functions here, whether the configuration or a function asked for them, and
whether a forwarder begins, is met by a new controller, or is told of one cold start.

The numbers in the state map are stable: a slot has its environment's number, from 1, and an
interface its place in the configuration, from 0, with the secondary addresses of all behind them,
so that an adopted or restarted forwarder finds its flows under the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.nat import behaviour, timeouts_ms
from hyperplane_nat.config.sections import INTERFACE_MTU
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.model import Lab
from hyperplane_nat.model.wanted import WantedInterface
from netns.topology import Interface, Slot, Topology

Item = dict[str, Any]


def everything(
    config: Config,
    lab: Lab,
    topology: Topology,
    vpc_numbers: Mapping[str, int],
    interfaces: Iterable[Item] = (),
    slots: Iterable[Item] = (),
) -> Item:
    """The lab as configured and its settings, with the interfaces and slots of functions.

    `vpc_numbers` are those of the region: VPCs of one number are one VPC.
    """
    links = {link.name: link for link in topology.interfaces}
    standing = {each.number: each for each in topology.slots}
    missing = [item.name for item in lab.interfaces if item.name not in links]
    missing += [item.name for item in lab.environments if item.number not in standing]
    if missing:
        raise ControllerError(
            f"the lab has no link for {', '.join(missing[:3])} (hyperplane-nat down, then up)"
        )
    provisioned = [
        {
            "number": item.number,
            "name": item.name,
            "ifindex": links[item.name].ifindex,
            "address": str(item.address),
            "mac": links[item.name].mac,
            "subnet": str(item.subnet.cidr),
            "router": str(item.subnet.router),
            "destinations": list(map(str, item.destinations)),
            "vpc": vpc_numbers.get(item.vpc.name, 0),
            "mtu": min(config.network_interface[item.number].mtu_bytes, item.vpc.mtu_bytes),
            "secondary": [
                {"number": number, "address": str(address)} for number, address in item.secondary
            ],
        }
        for item in lab.interfaces
    ]
    attached = [
        slot(config, standing[each.number], each.interface.number) for each in lab.environments
    ]
    neighbours = config.neighbours
    return {
        "everything": True,
        "interfaces": [*provisioned, *interfaces],
        "slots": [*attached, *slots],
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


def interface(wanted: WantedInterface, link: Interface, vpc_mtu: int) -> Item:
    """An interface of functions, with its security groups."""
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
        "mtu": min(INTERFACE_MTU, vpc_mtu),
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
