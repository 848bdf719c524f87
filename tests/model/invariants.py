# SPDX-License-Identifier: Apache-2.0
"""What is true of every region at every time, found out the long way."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hyperplane_nat.model.documents import dangling, tables_of
from hyperplane_nat.model.entities import Combination, NetworkInterface
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import (
    EnvironmentState,
    FunctionState,
    InterfaceStatus,
    UpdateStatus,
)

INDEXES = (
    "function_names",
    "tokens",
    "numbers",
    "host_numbers",
    "links",
    "_in_vpc",
    "_addresses",
    "_sharing",
    "_holders",
    "_attached",
    "_environments",
    "_idle",
    "_terminating",
    "_named",
    "_listeners",
    "_forwarding",
)


STANDING = (
    "static",
    "internet-gateway",
    "gateway-endpoint",
    "nat-gateway",
    "load-balancer",
    "vpc-endpoint",
)
"""Kinds of interfaces that do not go when nobody uses them."""


def violations(region: Region, shared_extra: set[Combination]) -> list[str]:
    """All that is wrong. `shared_extra`: combinations that have been at the connection limit."""
    return [
        *dangling(region.tables),
        *interfaces(region, shared_extra),
        *functions(region),
        *environments(region),
        *load_balancers(region),
        *indexes(region),
    ]


def references(region: Region, interface: NetworkInterface) -> int:
    count = 0
    if interface.combination is not None:
        for function in region.tables.functions.values():
            held: list[Combination] = []
            if function.state in (FunctionState.PENDING, FunctionState.ACTIVE):
                held += function.config.combinations
            if function.update is not None:
                held += function.update.combinations
            count += interface.combination in held
    return count + sum(
        environment.interface_id == interface.id
        for environment in region.tables.environments.values()
    )


def interfaces(region: Region, shared_extra: set[Combination]) -> list[str]:
    tables = region.tables
    wrong = []
    addresses = Counter(
        (item.vpc_id, address) for item in tables.interfaces.values() for address in item.addresses
    )
    addresses.update((item.vpc_id, item.address) for item in tables.hosts.values())
    addresses.update(
        {(item.vpc_id, item.address) for item in tables.services.values() if not item.host_id}
    )
    wrong += [f"{place} is taken {count} times" for place, count in addresses.items() if count > 1]
    numbers = Counter(number for item in tables.interfaces.values() for number in item.numbers)
    numbers.update(list(tables.retired_numbers))
    wrong += [f"number {number} is used twice" for number, count in numbers.items() if count > 1]
    quota = Counter(
        item.vpc_id
        for item in tables.interfaces.values()
        if item.kind not in (*STANDING, "internet", "router")
    )
    wrong += [
        f"{vpc_id} has {count} interfaces"
        for vpc_id, count in quota.items()
        if count > region.settings.interfaces_per_vpc
    ]
    shared = Counter(item.combination for item in tables.interfaces.values())
    wrong += [
        f"{combination} has {count} interfaces"
        for combination, count in shared.items()
        if combination is not None and count > 1 and combination not in shared_extra
    ]
    for item in tables.interfaces.values():
        if item.kind == "router":
            led = any(host.vpc_id == item.vpc_id for host in tables.hosts.values())
            led = led or any(each.vpc_id == item.vpc_id for each in tables.endpoints.values())
            if not (led or item.vpc_id in tables.health_checkers):
                wrong.append(f"{item.id} leads nobody to its router")
            continue
        subnet = tables.subnets[item.subnet_id]
        offset = int(item.address) - int(subnet.cidr.network_address)
        if not 4 <= offset < subnet.cidr.num_addresses - 1:
            wrong.append(f"{item.id} has reserved address {item.address}")
        if item.kind == "internet-gateway":
            mapped = {
                each.address
                for each in tables.elastic_addresses.values()
                if each.host_id or each.nat_gateway_id or each.interface_id
            }
            if (
                not set(item.addresses[1:]) <= mapped
                or not tables.internet_gateways[item.id].vpc_id
            ):
                wrong.append(f"{item.id} has addresses of nobody, or no VPC")
        if item.kind == "nat-gateway":
            (gateway,) = (
                each for each in tables.nat_gateways.values() if each.interface_id == item.id
            )
            if [each.address for each in gateway.addresses] != list(item.addresses):
                wrong.append(f"{item.id} has other addresses than {gateway.id}")
        if item.kind == "load-balancer":
            (node,) = (
                node
                for each in tables.load_balancers.values()
                for node in each.nodes
                if node.interface_id == item.id
            )
            if (node.address, node.subnet_id) != (item.address, item.subnet_id):
                wrong.append(f"{item.id} is not where its node is")
        if item.kind == "vpc-endpoint":
            (place,) = (
                place
                for each in tables.endpoints.values()
                for place in each.nodes
                if place.interface_id == item.id
            )
            if (place.address, place.subnet_id) != (item.address, item.subnet_id):
                wrong.append(f"{item.id} is not where its endpoint is")
        used = references(region, item)
        if used != region.references(item.id):
            wrong.append(f"{item.id} is used {used} times, not {region.references(item.id)}")
        right = {
            InterfaceStatus.PENDING: True,
            InterfaceStatus.AVAILABLE: used == 0 and (item.due is None) == (item.kind in STANDING),
            InterfaceStatus.IN_USE: used > 0 and item.due is None,
            InterfaceStatus.DELETING: used == 0 and item.due is None,
        }
        if not right[item.status]:
            wrong.append(f"{item.id} is {item.status} with {used} users, due {item.due}")
    return wrong


def functions(region: Region) -> list[str]:
    wrong = []
    for function in region.tables.functions.values():
        serving = {item.combination for item in region.tables.interfaces.values() if item.serves}
        if function.state is FunctionState.ACTIVE and not serving >= set(
            function.config.combinations
        ):
            wrong.append(f"{function.name} is Active without its interfaces")
        if (function.last_update_status is UpdateStatus.IN_PROGRESS) != bool(function.update):
            wrong.append(f"the update of {function.name} is {function.last_update_status}")
    return wrong


def environments(region: Region) -> list[str]:
    wrong = []
    for environment in region.tables.environments.values():
        interface = region.tables.interfaces[environment.interface_id]
        if not interface.serves and environment.state in (
            EnvironmentState.BUSY,
            EnvironmentState.IDLE,
        ):
            wrong.append(f"environment {environment.slot} is on an interface {interface.status}")
        function = region.tables.functions.get(environment.function_id)
        if environment.state is EnvironmentState.IDLE and (
            function is None or function.version != environment.version
        ):
            wrong.append(f"environment {environment.slot} waits for a function that has changed")
        if (environment.state is EnvironmentState.IDLE) != (environment.due is not None):
            wrong.append(f"environment {environment.slot} is {environment.state} and due")
    for function_id in region.tables.functions:
        idle = [region.tables.environments[slot] for slot in region.tables.idle_of(function_id)]
        dues = [environment.due or 0.0 for environment in idle]
        if dues != sorted(dues):
            wrong.append(f"the idle environments of {function_id} are in no order: {dues}")
    return wrong


def load_balancers(region: Region) -> list[str]:
    tables = region.tables
    wrong = []
    places = {each.vpc_id for each in tables.load_balancers.values()}
    if places != tables.health_checkers.keys():
        wrong.append(f"health is checked in {tables.health_checkers.keys()}, not {places}")
    owners: dict[str, set[str]] = {}
    for listener in tables.listeners.values():
        owners.setdefault(listener.target_group_id, set()).add(listener.load_balancer_id)
    wrong += [f"{key} is of {len(all_)} balancers" for key, all_ in owners.items() if len(all_) > 1]
    for group in tables.target_groups.values():
        dues = [each.due for each in group.targets if each.due is not None]
        if group.due != min(dues, default=None):
            wrong.append(f"{group.id} is due at {group.due}, its targets at {dues}")
        for each in group.targets:
            timed = each.state.value in ("draining", "unhealthy.draining")
            if (each.due is not None) != timed and not each.ending:
                wrong.append(f"{each} has no time, or one of nothing")
            if (each.state.value.startswith("unhealthy")) != bool(each.reason):
                wrong.append(f"{each} is unhealthy without a reason, or the other way round")
        if len({each.place for each in group.targets}) < len(group.targets):
            wrong.append(f"{group.id} has a target twice")
        if group.id not in owners and any(
            each.state.value not in ("initial", "draining") for each in group.targets
        ):
            wrong.append(f"{group.id} has healthy or unhealthy targets, and is not used")
    return wrong


def indexes(region: Region) -> list[str]:
    """The indexes that changes have kept are those that come from the entities afresh."""
    fresh = tables_of(region.document())
    wrong = [
        f"{name}: {plain(getattr(region.tables, name))} instead of {plain(getattr(fresh, name))}"
        for name in INDEXES
        if plain(getattr(region.tables, name)) != plain(getattr(fresh, name))
    ]
    if region.next_deadline() != fresh.next_deadline():
        wrong.append("the next deadline is not that of the entities")
    return wrong


def plain(index: Any) -> Any:
    """An index for comparison: what is empty does not count."""
    if isinstance(index, dict):
        return {key: plain(value) for key, value in index.items() if value != {}}
    return index
