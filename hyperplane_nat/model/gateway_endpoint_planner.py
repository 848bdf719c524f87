# SPDX-License-Identifier: Apache-2.0
"""The part of a plan that is about gateway endpoints: see `planner`.

They come after all route tables and the internet's hosts. What goes, goes first: of VPCs whose
networks overlap one has some, and a route table has one of a service. An endpoint of another
service is another endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hyperplane_nat.model.changes import Changes, by_name, parts_of
from hyperplane_nat.model.entities import Vpc
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_endpoint_checks import service_of
from hyperplane_nat.model.gateway_endpoints import entries_of, service_name
from hyperplane_nat.model.private_link_checks import no_service
from hyperplane_nat.model.private_link_entities import GatewayEndpoint
from hyperplane_nat.model.private_link_resources import GatewayEndpointResource
from hyperplane_nat.model.resources import VpcResource

KIND = "gateway-endpoint"


class GatewayEndpointPlanner:
    """Those steps of one run."""

    def __init__(self, changes: Changes, line: Callable[[str, str, str, str], None]) -> None:
        """`line` takes action, kind, name and detail of a line of the plan."""
        self._changes = changes
        self._endpoints = changes.gateway_endpoints
        self._tables = changes.tables
        self._region = changes.lifecycle.settings.region
        self._line = line
        self._given_up: set[str] = set()
        """Names of endpoints that have lost a table in this run."""

    def make(self, vpcs: Mapping[str, Vpc], wanted: Iterable[VpcResource]) -> None:
        """All of them; `vpcs` by name."""
        every = list(wanted)
        self.delete_unused({vpcs[each.name].id: each for each in every})
        self._give_up_tables(vpcs, every)
        for vpc in every:
            for item in vpc.gateway_endpoints:
                name = f"{vpc.name}/{item.name}"
                try:
                    self._make(vpcs[vpc.name], item, name)
                except ModelError as error:
                    raise error.at(entry_of(KIND, name)) from None

    def _found(self, vpc: Vpc, wanted: GatewayEndpointResource) -> GatewayEndpoint | None:
        there = parts_of(vpc, self._tables.gateway_endpoints)
        return next((each for each in there if each.name == wanted.name), None)

    def _ids(self, vpc: Vpc, wanted: GatewayEndpointResource) -> list[str]:
        tables = parts_of(vpc, self._tables.route_tables)
        return sorted(each.id for each in tables if each.name in wanted.route_tables)

    def _give_up_tables(self, vpcs: Mapping[str, Vpc], wanted: Iterable[VpcResource]) -> None:
        """A table may go from one endpoint to another, whichever comes first."""
        for vpc in wanted:
            for item in vpc.gateway_endpoints:
                found = self._found(vpcs[vpc.name], item)
                if found is not None:
                    ids = self._ids(vpcs[vpc.name], item)
                    left = tuple(each for each in found.route_table_ids if each in ids)
                    if left != found.route_table_ids:
                        self._tables.put(replace(found, route_table_ids=left))
                        self._given_up.add(f"{vpc.name}/{item.name}")

    def _make(self, vpc: Vpc, wanted: GatewayEndpointResource, name: str) -> None:
        service = service_of(wanted.service, self._region)
        if not entries_of(self._tables, service):
            raise no_service(wanted.service)
        ids = self._ids(vpc, wanted)
        tables = [self._tables.route_tables[each] for each in ids]
        found = self._found(vpc, wanted)
        if found is not None and found.service != service:
            self._delete(found)
            found = None
        if found is None:
            self._endpoints.make(
                vpc,
                wanted.name,
                service,
                tables,
                policy=wanted.policy,
                internet=self._changes.internet(),
            )
            detail = f"{service_name(service, self._region)}, {len(tables)} route tables"
            self._line("create", KIND, name, detail)
            return
        kept = replace(found, declared=True)
        changed = self._endpoints.change(kept, tables, policy=wanted.policy)
        if name in self._given_up or replace(changed, declared=found.declared) != found:
            self._line("change", KIND, name, f"{len(tables)} route tables")

    def _delete(self, endpoint: GatewayEndpoint) -> None:
        self._endpoints.delete(endpoint)
        vpc = self._tables.vpcs[endpoint.vpc_id]
        self._line("delete", KIND, f"{vpc.name}/{endpoint.name}", "")

    def delete_unused(self, wanted: Mapping[str, VpcResource]) -> None:
        """What no declaration names any more; `wanted` are VPCs that stay, by id."""
        for endpoint in by_name(self._tables.gateway_endpoints.values()):
            vpc = wanted.get(endpoint.vpc_id)
            names = {each.name for each in vpc.gateway_endpoints} if vpc is not None else set()
            if endpoint.declared and endpoint.name not in names:
                self._delete(endpoint)
