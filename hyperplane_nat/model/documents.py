# SPDX-License-Identifier: Apache-2.0
"""Entities as JSON, and a whole region as one document.

Theory of operation
-------------------
Pydantic reads the fields of the entities' dataclasses; there is no second description of them.
`SCHEMA` counts the shapes that have existed: a state of a newer one is refused with a remedy, never
guessed at. A document is checked for references that lead nowhere before a region is made of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hyperplane_nat.model.entities import (
    KINDS,
    Entity,
    ExecutionEnvironment,
    Host,
    InterfaceKind,
    SecurityGroup,
    Service,
    Subnet,
)
from hyperplane_nat.model.errors import StateError
from hyperplane_nat.model.gateway_entities import RouteTable
from hyperplane_nat.model.network_acl_entities import NetworkAcl
from hyperplane_nat.model.tables import Tables

SCHEMA = 5
_READ = (1, 2, 3, 4, SCHEMA)
"""Schema 4 has neither network ACLs nor endpoints, schema 3 no route tables either and nothing that
they lead to, schema 2 no hosts either. Schema 1 has neither interfaces nor environments of the lab
file; they come with the declaration. Its VPCs name the addresses of these interfaces, which is
ignored.
"""
_START_AGAIN = "move it away and apply the lab file again"


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    # Made when there is an entity of that kind: a controller that starts waits for it.
    return TypeAdapter(KINDS[kind])


def encode(kind: str, entity: Entity) -> str:
    """The JSON of one entity."""
    return _adapter(kind).dump_json(entity).decode()


def document_of(tables: Tables) -> dict[str, Any]:
    """All entities, each kind in the order of its keys."""
    return {
        "schema": SCHEMA,
        "entities": {
            kind: [
                _adapter(kind).dump_python(entity, mode="json")
                for entity in sorted(tables.rows(kind), key=lambda entity: entity.key)
            ]
            for kind in KINDS
        },
    }


def check_schema(schema: object) -> None:
    """Raise unless this program can read a state of that schema."""
    if schema in _READ:
        return
    if isinstance(schema, int) and schema > SCHEMA:
        raise StateError(
            f"the saved state has schema {schema}, this program knows {SCHEMA}",
            f"use the newer program, or {_START_AGAIN}",
        )
    raise StateError(f"the saved state has unknown schema {schema!r}", _START_AGAIN)


def tables_of(document: Mapping[str, Any]) -> Tables:
    """The tables of a document. Errors: `StateError` for one that is newer or damaged."""
    check_schema(document.get("schema"))
    tables = Tables()
    try:
        entities: list[Entity] = [
            _adapter(kind).validate_python(item)
            for kind in KINDS
            for item in document["entities"].get(kind, ())
        ]
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        what = (
            f"{error.title}: {error.errors()[0]['msg']}"
            if isinstance(error, ValidationError)
            else f"{error}"
        )
        raise StateError(f"the saved state is damaged: {what}", _START_AGAIN) from None
    with tables.transaction():
        for entity in sorted(entities, key=_idle_order):
            tables.put(entity)
        tables.touched_interfaces.clear()
        tables.touched_functions.clear()
    tables.mark_saved()
    for line in dangling(tables):
        raise StateError(f"the saved state is damaged: {line}", _START_AGAIN)
    return tables


def canonical(value: object) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def dangling(tables: Tables) -> Iterable[str]:
    """References that lead nowhere, one line each."""
    parts: list[Subnet | SecurityGroup | Host | Service | RouteTable | NetworkAcl] = []
    parts += tables.subnets.values()
    parts += [*tables.groups.values(), *tables.hosts.values(), *tables.services.values()]
    parts += [*tables.route_tables.values(), *tables.network_acls.values()]
    for part in parts:
        if part.vpc_id not in tables.vpcs:
            yield f"{part.id} is in missing {part.vpc_id}"
    for interface in tables.interfaces.values():
        placed = interface.kind is InterfaceKind.ROUTER or interface.subnet_id in tables.subnets
        if interface.vpc_id not in tables.vpcs or not placed:
            yield f"{interface.id} is in missing {interface.subnet_id}"
        for group_id in interface.group_ids:
            if group_id not in tables.groups:
                yield f"{interface.id} has missing {group_id}"
    for host in tables.hosts.values():
        if host.subnet_id not in tables.subnets:
            yield f"{host.id} is in missing {host.subnet_id}"
        if tables.router_interface(host.vpc_id) is None:
            yield f"{host.id} has no interface to its VPC's router"
        for group_id in host.group_ids:
            if group_id not in tables.groups:
                yield f"{host.id} has missing {group_id}"
    for service in tables.services.values():
        if service.host_id and service.host_id not in tables.hosts:
            yield f"{service.id} is on missing {service.host_id}"
    owners: list[RouteTable | NetworkAcl] = [*tables.route_tables.values()]
    owners += tables.network_acls.values()
    for table in owners:
        for subnet_id in table.subnet_ids:
            if subnet_id not in tables.subnets:
                yield f"{table.id} is that of missing {subnet_id}"
    for gateway in tables.internet_gateways.values():
        if gateway.vpc_id and (
            gateway.vpc_id not in tables.vpcs or gateway.id not in tables.interfaces
        ):
            yield f"{gateway.id} has no interface, or is attached to missing {gateway.vpc_id}"
    for address in tables.elastic_addresses.values():
        if address.association_id and not (
            address.host_id in tables.hosts
            or address.nat_gateway_id in tables.nat_gateways
            or address.interface_id in tables.interfaces
        ):
            holder = address.host_id or address.nat_gateway_id or address.interface_id
            yield f"{address.id} is associated with missing {holder}"
    for nat_gateway in tables.nat_gateways.values():
        if nat_gateway.subnet_id not in tables.subnets:
            yield f"{nat_gateway.id} is in missing {nat_gateway.subnet_id}"
        if nat_gateway.interface_id and nat_gateway.interface_id not in tables.interfaces:
            yield f"{nat_gateway.id} has missing {nat_gateway.interface_id}"
        for each in nat_gateway.addresses:
            if each.allocation_id and each.allocation_id not in tables.elastic_addresses:
                yield f"{nat_gateway.id} has missing {each.allocation_id}"
    for balancer in tables.load_balancers.values():
        for node in balancer.nodes:
            if node.subnet_id not in tables.subnets or node.interface_id not in tables.interfaces:
                yield f"{balancer.id} is in missing {node.subnet_id}, or has no interface there"
            if node.allocation_id and node.allocation_id not in tables.elastic_addresses:
                yield f"{balancer.id} has missing {node.allocation_id}"
        if balancer.vpc_id not in tables.health_checkers:
            yield f"{balancer.id} has no health checker"
    for listener in tables.listeners.values():
        if listener.load_balancer_id not in tables.load_balancers:
            yield f"{listener.id} is of missing {listener.load_balancer_id}"
        if listener.target_group_id not in tables.target_groups:
            yield f"{listener.id} forwards to missing {listener.target_group_id}"
    for target_group in tables.target_groups.values():
        if target_group.vpc_id not in tables.vpcs:
            yield f"{target_group.id} is in missing {target_group.vpc_id}"
        for target in target_group.targets:
            if target.id.startswith("i-") and target.id not in tables.hosts:
                yield f"{target_group.id} has missing {target.id}"
    for endpoint in tables.endpoints.values():
        for place in endpoint.nodes:
            if place.subnet_id not in tables.subnets or place.interface_id not in tables.interfaces:
                yield f"{endpoint.id} is in missing {place.subnet_id}, or has no interface there"
    for gateway_endpoint in tables.gateway_endpoints.values():
        if gateway_endpoint.interface_id not in tables.interfaces:
            yield f"{gateway_endpoint.id} has missing {gateway_endpoint.interface_id}"
        for table_id in gateway_endpoint.route_table_ids:
            if table_id not in tables.route_tables:
                yield f"{gateway_endpoint.id} is that of missing {table_id}"
    for endpoint_service in tables.endpoint_services.values():
        if endpoint_service.load_balancer_id not in tables.load_balancers:
            yield f"{endpoint_service.id} is of missing {endpoint_service.load_balancer_id}"
    for function in tables.functions.values():
        for subnet_id in function.target.subnet_ids + function.config.subnet_ids:
            if subnet_id not in tables.subnets:
                yield f"function {function.name} is in missing {subnet_id}"
    for group in tables.groups.values():
        for rule in group.ingress + group.egress:
            if rule.group_id is not None and rule.group_id not in tables.groups:
                yield f"{group.id} names missing {rule.group_id}"
    for environment in tables.environments.values():
        if environment.interface_id not in tables.interfaces:
            yield f"environment {environment.slot} is on missing {environment.interface_id}"


def _idle_order(entity: Entity) -> float:
    # Environments are taken in the order in which they became idle; all else keeps its place.
    if isinstance(entity, ExecutionEnvironment) and entity.due is not None:
        return entity.due
    return float("-inf")
