# SPDX-License-Identifier: Apache-2.0
"""What the forwarder is told to serve: the arguments of its `configure`. Pure functions.

Theory of operation
-------------------
There is one form, of everything and of the parts that change. Interfaces, slots, hosts, route
tables, NAT gateways, nodes of load balancers and endpoints are written by the functions here,
whether a forwarder begins, is met by a new controller, or is told of one cold start. Their numbers
in the state map are the region's, so that an adopted or restarted forwarder finds its flows under
the same ones.

What a route or a public address leads to may be gone by then, or not be there yet: the forwarder
looks for it when a packet comes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict
from ipaddress import IPv4Interface
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.nat import behaviour, timeouts_ms
from hyperplane_nat.config.sections import INTERFACE_MTU
from hyperplane_nat.model.balancer_wanted import Endpoint, WantedEnd, WantedNode
from hyperplane_nat.model.names import LINK_LOCAL
from hyperplane_nat.model.network_acls import WantedNetworkAcls
from hyperplane_nat.model.private_link_wanted import WantedEndpoint
from hyperplane_nat.model.wanted import (
    WantedHost,
    WantedInterface,
    WantedNatGateway,
    WantedRouteTable,
)
from netns.topology import Host, Interface, Slot

Item = dict[str, Any]

DNS_PORT = 53


def everything(
    config: Config,
    interfaces: Iterable[Item],
    slots: Iterable[Item],
    hosts: Iterable[Item] = (),
    **further: Iterable[Item],
) -> Item:
    """All interfaces, slots, hosts and what else there is of some, and the settings."""
    neighbours = config.neighbours
    listed = {"hosts": list(hosts), **{name: list(items) for name, items in further.items()}}
    return {
        "everything": True,
        "interfaces": list(interfaces),
        "slots": list(slots),
        **{name: items for name, items in listed.items() if items},
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
        "destinations": [*wanted.destinations, *([f"{LINK_LOCAL}/32"] if wanted.resolver else [])],
        # That of gateway endpoints is in the VPC whose routes lead to it.
        "vpc": wanted.vpc_number if wanted.endpoints_of is None else wanted.endpoints_of,
        "mtu": min(wanted.mtu_bytes or INTERFACE_MTU, wanted.vpc_mtu_bytes),
        "secondary": [
            {
                "number": number,
                "address": address,
                **_given(
                    host=wanted.mapped.get(address),
                    nat_gateway=wanted.translated.get(address),
                    load_balancer_node=wanted.balanced.get(address),
                ),
            }
            for number, address in wanted.secondary
        ],
        **_given(route_table=wanted.route_table, gateway_of=wanted.gateway_of),
        **({} if wanted.endpoints_of is None else {"gateway_endpoint": True}),
        **_with_resolver(wanted.policy.document(), wanted.resolver),
    }


def route_table(wanted: WantedRouteTable) -> Item:
    """A route table, without the local route."""
    return {
        "number": wanted.number,
        "vpc": wanted.vpc_number,
        "routes": [
            {
                "destination": each.destination,
                **(
                    _given(
                        internet_gateway=each.interface,
                        nat_gateway=each.nat_gateway,
                        host=each.host,
                        gateway_endpoint=each.gateway_endpoint,
                    )
                    or {"blackhole": True}
                ),
            }
            for each in wanted.routes
        ],
    }


def network_acls(wanted: WantedNetworkAcls) -> Item:
    """The network ACLs of a VPC's subnets."""
    return {
        "number": wanted.vpc_number,
        "subnets": [
            {
                "cidr": subnet.cidr,
                "ingress": [asdict(each) for each in subnet.ingress],
                "egress": [asdict(each) for each in subnet.egress],
            }
            for subnet in wanted.subnets
        ],
        "exempt": list(wanted.exempt),
    }


def nat_gateway(wanted: WantedNatGateway) -> Item:
    """A NAT gateway, which has no link."""
    return {
        "number": wanted.number,
        "name": wanted.name,
        "address": wanted.address,
        "vpc": wanted.vpc_number,
        "mtu": INTERFACE_MTU,
        "secondary": [
            {"number": number, "address": address} for number, address in wanted.secondary
        ],
        **({"draining": list(wanted.draining)} if wanted.draining else {}),
        **_given(route_table=wanted.route_table),
    }


def load_balancer_node(wanted: WantedNode, time_scale: float) -> Item:
    """A node of a load balancer, which has no link. `time_scale` is that of idle time-outs."""
    policy = {
        name: rules for name, rules in wanted.policy.document().items() if rules not in (None, [])
    }
    for name, rules in (
        ("ingress", wanted.policy.ingress),
        ("egress", wanted.policy.outward.egress),
    ):
        # Without any rule nothing is let through.
        if rules is not None:
            policy.setdefault(name, [])
    # Many listeners may have the same targets, which are told once.
    groups: dict[tuple[Endpoint, ...], int] = {}
    listeners = [
        {
            "protocol": each.protocol,
            "port": each.port,
            "idle_ms": max(round(each.idle_seconds * 1000 / time_scale), 1),
            "sticky": each.sticky,
            "preserve_client_ip": each.preserve_client_ip,
            "proxy_protocol": each.proxy_protocol,
            "target_group": groups.setdefault(each.targets, len(groups)),
        }
        for each in wanted.listeners
    ]
    return {
        "number": wanted.number,
        "name": wanted.name,
        "address": wanted.address,
        "vpc": wanted.vpc_number,
        "interface": wanted.interface,
        "mtu": INTERFACE_MTU,
        "secondary": [
            {"number": number, "address": address} for number, address in wanted.secondary
        ],
        **_given(route_table=wanted.route_table),
        **policy,
        "listeners": listeners,
        "target_groups": [
            [{"address": address, "port": port} for address, port in targets] for targets in groups
        ],
    }


def endpoint(wanted: WantedEndpoint) -> Item:
    """An endpoint's address, which has no link."""
    policies = {"ingress": wanted.ingress, "admission": wanted.admission}
    return {
        "number": wanted.number,
        "name": wanted.name,
        "endpoint_id": wanted.endpoint_id,
        "address": wanted.address,
        "vpc": wanted.vpc_number,
        "interface": wanted.interface,
        "mtu": INTERFACE_MTU,
        **_given(node=wanted.node),
        **{
            name: [asdict(rule) for rule in rules]
            for name, rules in policies.items()
            if rules is not None
        },
    }


def end_flows(node: int, end: WantedEnd) -> Item:
    """The arguments of `end_flows`: what is between a node's listener and a target ends."""
    address, port = end.target
    return {
        "node": node,
        "protocol": end.protocol,
        "port": end.port,
        "target": {"address": address, "port": port},
    }


def _given(**numbers: int | None) -> Item:
    return {name: number for name, number in numbers.items() if number is not None}


def slot(config: Config, standing: Slot, attached: int | None, *, silent: bool = False) -> Item:
    """An environment; without an interface it is pooled. `silent`: it stands still."""
    address, subnet = _inside(config.environment.address)
    return {
        "number": standing.number,
        "ifindex": standing.ifindex,
        "address": address,
        "gateway": config.environment.gateway,
        "subnet": subnet,
        "environment_mac": standing.environment_mac,
        "gateway_mac": standing.gateway_mac,
        "interface": attached,
        "mtu": config.environment.mtu_bytes,
        **({"silent": True} if silent else {}),
    }


@functools.cache
def _inside(address: str) -> tuple[str, str]:
    """The address that all environments of a lab have, and its network."""
    found = IPv4Interface(address)
    return str(found.ip), str(found.network)


def host(wanted: WantedHost, standing: Host) -> Item:
    """A host, with its security groups."""
    return {
        "number": wanted.number,
        "name": wanted.name,
        "ifindex": standing.ifindex,
        "address": wanted.address,
        "host_mac": standing.host_mac,
        "gateway_mac": standing.gateway_mac,
        "router": wanted.router,
        "subnet": wanted.subnet,
        "interface": wanted.interface,
        "vpc": wanted.vpc_number,
        "mtu": wanted.mtu_bytes,
        **_given(route_table=wanted.route_table),
        **({} if wanted.checks_from is None else {"source_check": False}),
        **_with_resolver(wanted.policy.document(), wanted.resolver),
    }


def _with_resolver(policy: Item, addresses: Iterable[str]) -> Item:
    """A policy that lets queries to the resolver out, whatever the security groups say.

    Source: "Security groups", traffic to and from the Route 53 Resolver is not filtered.
    """
    if policy["egress"] is None:
        return policy
    rules = [
        {"protocol": protocol, "cidr": f"{address}/32", "first": DNS_PORT, "last": DNS_PORT}
        for address in addresses
        for protocol in ("udp", "tcp")
    ]
    return {**policy, "egress": [*policy["egress"], *rules]}
