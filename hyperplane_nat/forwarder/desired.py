# SPDX-License-Identifier: Apache-2.0
"""The arguments of `configure`: what the forwarder shall serve, read and checked by itself.

With `everything` they carry the whole state (as Hyperplane's nodes load one file of maximum
size), so that its outcome does not depend on what was sent before. Without, they carry items of
the same form, to be added or changed, and numbers to be removed; what they do not name stays.

What is asked for are `attachments`. Reading is work in slices, security groups are compiled in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as _Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hyperplane_nat.engine import (
    Behaviour,
    Filtering,
    Listener,
    Mapping,
    NeighbourSettings,
    NetworkAclEntry,
    Policy,
    Ports,
    Rule,
    SubnetAcl,
    Target,
    Timeouts,
)
from hyperplane_nat.engine.state.constants import RouteTarget
from hyperplane_nat.engine.state.settings import TIMEOUT_MAX_MS
from hyperplane_nat.forwarder.attachments import (
    MTU_MAX,
    Attachment,
    Claim,
    EndpointState,
    HostState,
    InterfaceState,
    LoadBalancerNodeState,
    Meaning,
    NatGatewayState,
    NetworkAclsState,
    Route,
    RouteTableState,
    SecondaryAddress,
    SlotState,
)
from hyperplane_nat.forwarder.slices import Work

__all__ = ["NUMBERS", "Desired", "parse", "target"]

NUMBERS = 65_535
"""Slots, interfaces and hosts that a state map can have at most."""

_MTU_MIN = 68
_DESTINATIONS_MAX = 16
_SECONDARY_MAX = 7
_PUBLIC_MAX = 255
"""Further addresses that an internet gateway may have."""
_ROUTES_MAX = 1_000
_ROUTE_TABLES = 1 << 16
_LINKS = 1 << 22
_ENDPOINT_ID = re.compile(r"vpce-[0-9a-f]{17}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What ``configure`` asks for."""

    everything: bool
    attachments: dict[Claim, Attachment]
    """Interfaces first, hosts last."""
    claims: dict[Claim, Meaning]
    """Theirs."""
    gone: set[Claim]
    route_tables: dict[int, RouteTableState]
    gone_tables: set[int]
    network_acls: dict[int, NetworkAclsState]
    gone_acls: set[int]
    settings: dict[str, Any]
    """Those of `Engine.configure` that are given; the others stay."""


def parse(
    arguments: dict[str, Any],
    *,
    slots_max: int = NUMBERS,
    interfaces_max: int = NUMBERS,
    hosts_max: int = NUMBERS,
) -> Work[Desired]:
    """What is asked for; ValueError, KeyError or TypeError say what is wrong with it by itself."""
    for name in arguments:
        if name not in _FIELDS:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(_FIELDS)}")
    everything = arguments.get("everything", False)
    if not isinstance(everything, bool):
        raise TypeError(f"everything: {everything!r} is not true or false")
    attachments: dict[Claim, Attachment] = {}
    claims: dict[Claim, Meaning] = {}
    gone: set[Claim] = set()
    readers: dict[str, tuple[Callable[[_Mapping[str, Any], int], Attachment], int]] = {
        "interface": (_interface, interfaces_max),
        "nat_gateway": (_nat_gateway, interfaces_max),
        "load_balancer_node": (_load_balancer_node, interfaces_max),
        "endpoint": (_endpoint, interfaces_max),
        "slot": (_slot, slots_max),
        "host": (_host, hosts_max),
    }
    for kind, (read_item, limit) in readers.items():
        required = everything and kind in ("interface", "slot")
        for item in arguments[f"{kind}s"] if required else arguments.get(f"{kind}s", ()):
            yield
            state = read_item(item, limit)
            for claim, meaning in state.claims.items():
                if claim in claims:
                    raise ValueError(f"{claim[0]} {claim[1]} is given twice")
                claims[claim] = meaning
            attachments[state.key] = state
        for number in arguments.get(f"remove_{kind}s", ()):
            _check_number("a removed one", number, limit)
            if (kind, number) in attachments:
                raise ValueError(
                    f"{kind} {number} is both given and removed: do one after the other"
                )
            gone.add((kind, number))

    route_tables: dict[int, RouteTableState] = {}
    for item in arguments.get("route_tables", ()):
        yield
        table = _route_table(item, interfaces_max, hosts_max)
        if table.number in route_tables:
            raise ValueError(f"route table {table.number} is given twice")
        route_tables[table.number] = table
    gone_tables: set[int] = set()
    for number in arguments.get("remove_route_tables", ()):
        _check_number("a removed route table", number, _ROUTE_TABLES)
        if number in route_tables:
            raise ValueError(
                f"route table {number} is both given and removed: do one after the other"
            )
        gone_tables.add(number)
    network_acls, gone_acls = yield from _network_acls(arguments)
    settings = {
        name: read(**arguments.get(name, {}))
        for name, read in _SETTINGS.items()
        if everything or name in arguments
    }
    return Desired(
        everything=everything,
        attachments=attachments,
        claims=claims,
        gone=gone,
        route_tables=route_tables,
        gone_tables=gone_tables,
        network_acls=network_acls,
        gone_acls=gone_acls,
        settings=settings,
    )


def _behaviour(**fields: Any) -> Behaviour:
    for name, kind in (("mapping", Mapping), ("filtering", Filtering)):
        if name in fields:
            fields[name] = kind[str(fields[name]).upper()]
    return Behaviour(**fields)


_SETTINGS: _Mapping[str, Callable[..., Any]] = {
    "timeouts_ms": Timeouts,
    "ports": Ports,
    "behaviour": _behaviour,
    "neighbours": NeighbourSettings,
}
_FIELDS = (
    "everything",
    "interfaces",
    "remove_interfaces",
    "nat_gateways",
    "remove_nat_gateways",
    "load_balancer_nodes",
    "remove_load_balancer_nodes",
    "endpoints",
    "remove_endpoints",
    "route_tables",
    "remove_route_tables",
    "network_acls",
    "remove_network_acls",
    "slots",
    "remove_slots",
    "hosts",
    "remove_hosts",
    *_SETTINGS,
)


def _interface(item: _Mapping[str, Any], limit: int) -> InterfaceState:
    fields = {**item, "destinations": tuple(item["destinations"])}
    fields["secondary"] = tuple(SecondaryAddress(**each) for each in item.get("secondary", ()))
    egress = fields.pop("egress", None)
    guarded, withheld = fields.pop("guarded", ()), fields.pop("withheld", ())
    if egress is not None or guarded or withheld:
        fields["policy"] = _policy(item["address"], egress, None, guarded, withheld)
    state = InterfaceState(**fields)
    where = f"interface {state.number}"
    _check_number(where, state.number, limit)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    _check_link(where, state.ifindex, state.mtu, state.mac)
    if len(state.destinations) > _DESTINATIONS_MAX:
        raise ValueError(f"{where} has more than {_DESTINATIONS_MAX} destinations")
    for prefix in (state.subnet, *state.destinations):
        _check_network(prefix)
    _check_address(state.router)
    most = _SECONDARY_MAX
    if state.gateway_of is not None:
        _check_number(f"gateway_of of {where}", state.gateway_of, 1 << 32)
        most = _PUBLIC_MAX
    _check_addresses(where, state.addresses, limit, most)
    if not isinstance(state.gateway_endpoint, bool):
        raise TypeError(
            f"gateway_endpoint of {where}: {state.gateway_endpoint!r} is not true or false"
        )
    if state.gateway_endpoint and (state.gateway_of is not None or state.secondary):
        raise ValueError(f"{where} is that of gateway endpoints, and has more than an address")
    served: set[Claim] = set()
    for each in state.secondary:
        if each.serves is None:
            continue
        if state.gateway_of is None or len(each.served) > 1:
            raise ValueError(
                f"interface {each.number} stands for somebody: only an address of an internet "
                "gateway does, for one host, NAT gateway or load balancer node"
            )
        _check_number(f"whom interface {each.number} stands for", each.serves[1], NUMBERS)
        if each.serves in served:
            name = each.serves[0].replace("_", " ")
            raise ValueError(f"{name} {each.serves[1]} has two public addresses")
        served.add(each.serves)
    _check_route_table(where, state.route_table)
    return state


def _nat_gateway(item: _Mapping[str, Any], limit: int) -> NatGatewayState:
    fields = dict(item)
    fields["secondary"] = tuple(SecondaryAddress(**each) for each in item.get("secondary", ()))
    fields["draining"] = frozenset(item.get("draining", ()))
    state = NatGatewayState(**fields)
    where = f"NAT gateway {state.number}"
    _check_number(where, state.number, limit)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    _check_number(f"MTU of {where}", state.mtu, MTU_MAX + 1, _MTU_MIN)
    _check_addresses(where, state.addresses, limit, _SECONDARY_MAX)
    if any(each.serves for each in state.addresses):
        raise ValueError(f"{where}: its addresses stand for nobody")
    if strangers := state.draining - {each.number for each in state.addresses}:
        raise ValueError(f"{where}: draining names {min(strangers)}, which it does not have")
    _check_route_table(where, state.route_table)
    return state


def _load_balancer_node(item: _Mapping[str, Any], limit: int) -> LoadBalancerNodeState:
    fields = dict(item)
    fields["secondary"] = tuple(SecondaryAddress(**each) for each in item.get("secondary", ()))
    egress, ingress = fields.pop("egress", None), fields.pop("ingress", None)
    guarded = fields.pop("guarded", ())
    if egress is not None or ingress is not None or guarded:
        fields["policy"] = _policy(item["address"], egress, ingress, guarded)
    where = f"load balancer node {item['number']}"
    groups = [
        tuple([target(each) for each in targets]) for targets in fields.pop("target_groups", ())
    ]
    fields["listeners"] = tuple(
        _listener(where, each, groups) for each in item.get("listeners", ())
    )
    state = LoadBalancerNodeState(**fields)
    _check_number(where, state.number, limit)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    _check_number(f"interface of {where}", state.interface, limit)
    _check_number(f"MTU of {where}", state.mtu, MTU_MAX + 1, _MTU_MIN)
    _check_addresses(where, state.addresses, limit, _SECONDARY_MAX)
    if any(each.serves for each in state.addresses):
        raise ValueError(f"{where}: its addresses stand for nobody")
    at = [(each.protocol, each.port) for each in state.listeners]
    if len(set(at)) < len(at):
        raise ValueError(f"{where} has two listeners at one port")
    _check_route_table(where, state.route_table)
    return state


def _endpoint(item: _Mapping[str, Any], limit: int) -> EndpointState:
    fields = dict(item)
    for name, rules in (("policy", "ingress"), ("admission", "admission")):
        admitted = fields.pop(rules, None)
        if admitted is not None:
            fields[name] = _policy(item["address"], None, admitted, ())
    state = EndpointState(**fields)
    where = f"endpoint {state.number}"
    _check_number(where, state.number, limit)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    _check_number(f"interface of {where}", state.interface, limit)
    if state.node is not None:
        _check_number(f"node of {where}", state.node, limit)
    _check_number(f"MTU of {where}", state.mtu, MTU_MAX + 1, _MTU_MIN)
    _check_address(state.address)
    if not isinstance(state.endpoint_id, str) or not _ENDPOINT_ID.fullmatch(state.endpoint_id):
        raise ValueError(f"{where}: {state.endpoint_id!r} is no id of an endpoint")
    return state


def _listener(
    where: str, item: _Mapping[str, Any], groups: Sequence[tuple[Target, ...]]
) -> Listener:
    """A listener, whose targets are those of one of the groups, named by its place."""
    fields = {"sticky": False, **item}
    place = fields.pop("target_group")
    _check_number(f"target group of a listener of {where}", place, len(groups))
    listener = Listener(**fields, targets=groups[place])
    if listener.protocol not in ("tcp", "udp"):
        raise ValueError(f"{where}: a listener is of tcp or udp, not {listener.protocol!r}")
    _check_number(f"a listener's port of {where}", listener.port, 1 << 16, 1)
    _check_number(f"idle_ms of a listener of {where}", listener.idle_ms, TIMEOUT_MAX_MS + 1, 1)
    for name in ("sticky", "preserve_client_ip", "proxy_protocol"):
        value = getattr(listener, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} of a listener of {where}: {value!r} is not true or false")
    if listener.proxy_protocol and listener.protocol != "tcp":
        raise ValueError(f"{where}: the PROXY protocol's header goes with tcp alone")
    return listener


def target(item: _Mapping[str, Any]) -> Target:
    """A target of a listener, by address and port."""
    result = Target(**item)
    _check_address(result.address)
    _check_number("a target's port", result.port, 1 << 16, 1)
    return result


_TARGETS = {
    "internet_gateway": RouteTarget.INTERNET_GATEWAY,
    "nat_gateway": RouteTarget.NAT_GATEWAY,
    "gateway_endpoint": RouteTarget.GATEWAY_ENDPOINT,
    "host": RouteTarget.HOST,
}


def _route_table(item: _Mapping[str, Any], interfaces_max: int, hosts_max: int) -> RouteTableState:
    fields = {**item, "routes": tuple(item["routes"])}
    state = RouteTableState(**fields)
    where = f"route table {state.number}"
    _check_number("a route table", state.number, _ROUTE_TABLES)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    if len(state.routes) > _ROUTES_MAX:
        raise ValueError(f"{where} has more than {_ROUTES_MAX} routes")
    routes: dict[str, Route] = {}
    for each in item["routes"]:
        destination, *targets = sorted(each.items(), key=lambda pair: pair[0] != "destination")
        if destination[0] != "destination" or len(targets) != 1:
            raise ValueError(f"{where}: a route has a destination and one target: {dict(each)}")
        prefix, (kind, target) = destination[1], targets[0]
        _check_network(prefix)
        if prefix in routes:
            raise ValueError(f"{where} has two routes to {prefix}")
        if kind == "blackhole" and target is True:
            routes[prefix] = (prefix, RouteTarget.BLACKHOLE, 0)
            continue
        if kind not in _TARGETS:
            raise ValueError(f"{where}: a route leads to no {kind} = {target!r}")
        limit = hosts_max if kind == "host" else interfaces_max
        _check_number(f"{kind} of {where}", target, limit)
        routes[prefix] = (prefix, _TARGETS[kind], target)
    return replace(state, routes=tuple(routes.values()))


def _network_acls(
    arguments: _Mapping[str, Any],
) -> Work[tuple[dict[int, NetworkAclsState], set[int]]]:
    given: dict[int, NetworkAclsState] = {}
    for item in arguments.get("network_acls", ()):
        yield
        state = NetworkAclsState(
            **{
                **item,
                "subnets": tuple(_subnet_acl(each) for each in item["subnets"]),
                "exempt": tuple(item.get("exempt", ())),
            }
        )
        _check_number("the VPC of network ACLs", state.number, 1 << 32)
        for network in (*(each.cidr for each in state.subnets), *state.exempt):
            _check_network(network)
        if state.number in given:
            raise ValueError(f"network ACLs of VPC {state.number} are given twice")
        given[state.number] = state
    gone: set[int] = set()
    for number in arguments.get("remove_network_acls", ()):
        _check_number("the VPC of removed network ACLs", number, 1 << 32)
        if number in given:
            raise ValueError(
                f"network ACLs of VPC {number} are both given and removed: do one after the other"
            )
        gone.add(number)
    return given, gone


def _subnet_acl(item: _Mapping[str, Any]) -> SubnetAcl:
    return SubnetAcl(
        item["cidr"],
        *(tuple(_acl_entry(each) for each in item[side]) for side in ("ingress", "egress")),
    )


def _acl_entry(item: _Mapping[str, Any]) -> NetworkAclEntry:
    entry = NetworkAclEntry(**item)
    if not isinstance(entry.allow, bool):
        raise TypeError(f"allow of a network ACL's entry: {entry.allow!r} is not true or false")
    if entry.protocol not in ("tcp", "udp", "icmp", "all"):
        raise ValueError(f"a network ACL's entry is of tcp, udp, icmp or all, not {entry.protocol}")
    _check_network(entry.cidr)
    for port in (entry.first, entry.last):
        _check_number("a port of a network ACL's entry", port, 1 << 16)
    if entry.first > entry.last:
        raise ValueError(f"ports {entry.first} to {entry.last} of a network ACL's entry")
    for number in (entry.icmp_type, entry.icmp_code):
        _check_number("ICMP type or code of a network ACL's entry", number, 256, -1)
    return entry


def _slot(item: _Mapping[str, Any], limit: int) -> SlotState:
    state = SlotState(**item)
    where = f"slot {state.number}"
    _check_number(where, state.number, limit)
    if state.interface is not None:
        _check_number(f"interface of {where}", state.interface, NUMBERS)
    _check_link(where, state.ifindex, state.mtu, state.environment_mac, state.gateway_mac)
    if not isinstance(state.silent, bool):
        raise TypeError(f"silent of {where}: {state.silent!r} is not true or false")
    _check_network(state.subnet)
    for address in (state.address, state.gateway):
        _check_address(address)
    return state


def _host(item: _Mapping[str, Any], limit: int) -> HostState:
    fields = dict(item)
    egress, ingress = fields.pop("egress", None), fields.pop("ingress", None)
    guarded = fields.pop("guarded", ())
    if egress is not None or ingress is not None or guarded:
        fields["policy"] = _policy(item["address"], egress, ingress, guarded)
    state = HostState(**fields)
    where = f"host {state.number}"
    _check_number(where, state.number, limit)
    _check_number(f"interface of {where}", state.interface, NUMBERS)
    _check_number(f"vpc of {where}", state.vpc, 1 << 32)
    _check_link(where, state.ifindex, state.mtu, state.host_mac, state.gateway_mac)
    _check_network(state.subnet)
    for address in (state.address, state.router):
        _check_address(address)
    if not isinstance(state.source_check, bool):
        raise TypeError(f"source_check of {where}: {state.source_check!r} is not true or false")
    _check_route_table(where, state.route_table)
    return state


def _policy(
    address: str,
    egress: Iterable[_Mapping[str, Any]] | None,
    ingress: Iterable[_Mapping[str, Any]] | None,
    guarded: Iterable[_Mapping[str, Any]],
    withheld: Iterable[_Mapping[str, Any]] = (),
) -> Policy:
    destinations: dict[str, list[Rule]] = {}
    for item in guarded:
        if unknown := item.keys() - {"address", "ingress"}:
            raise ValueError(f"unknown field {min(unknown)!r} of a guarded address")
        _check_address(item["address"])
        if item["address"] in destinations:
            raise ValueError(f"guarded address {item['address']} is given twice")
        destinations[item["address"]] = [_rule(rule) for rule in item["ingress"]]
    _check_address(address)
    return Policy(
        address,
        egress=None if egress is None else [_rule(rule) for rule in egress],
        ingress=None if ingress is None else [_rule(rule) for rule in ingress],
        guarded=destinations,
        withheld=[_rule(rule) for rule in withheld],
    )


def _rule(item: _Mapping[str, Any]) -> Rule:
    rule = Rule(**item)
    if not (isinstance(rule.protocol, str) and isinstance(rule.cidr, str)):
        raise TypeError(f"protocol and cidr of a rule are text: {dict(item)}")
    if not (isinstance(rule.first, int) and isinstance(rule.last, int)):
        raise TypeError(f"ports of a rule are numbers: {dict(item)}")
    return rule


def _check_number(what: str, number: int, limit: int, first: int = 0) -> None:
    if not isinstance(number, int):
        raise TypeError(f"{what}: {number!r} is not a number")
    if not first <= number < limit:
        raise ValueError(f"{what}: {number} is out of range ({first} to {limit - 1})")


def _check_addresses(
    where: str, addresses: Iterable[SecondaryAddress], limit: int, most: int
) -> None:
    seen: set[int] = set()
    for each in addresses:
        _check_number(f"an address of {where}", each.number, limit)
        _check_address(each.address)
        if each.number in seen:
            raise ValueError(f"interface {each.number} is given twice")
        seen.add(each.number)
    if len(seen) > most + 1:
        raise ValueError(f"{where} has more than {most} secondary addresses")


def _check_route_table(where: str, number: int | None) -> None:
    if number is not None:
        _check_number(f"route table of {where}", number, _ROUTE_TABLES)


def _check_link(where: str, ifindex: int, mtu: int, *macs: str) -> None:
    _check_number(f"link of {where}", ifindex, _LINKS)
    if ifindex == 0:
        raise ValueError(f"link of {where}: no link has index 0")
    _check_number(f"MTU of {where}", mtu, MTU_MAX + 1, _MTU_MIN)
    for mac in macs:
        if not _MAC.fullmatch(mac):
            raise ValueError(f"{where}: {mac!r} is not a MAC address")


# Thousands of items share a few addresses and networks.
@lru_cache(4096)
def _check_network(text: str) -> None:
    ipaddress.IPv4Network(text)


@lru_cache(4096)
def _check_address(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"an address is text, not {text!r}")
    ipaddress.IPv4Address(text)
