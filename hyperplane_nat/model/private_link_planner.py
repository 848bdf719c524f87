# SPDX-License-Identifier: Apache-2.0
"""The part of a plan that is about endpoint services and endpoints: see `planner`.

Services come after the load balancers of their VPC, endpoints after all services. What goes, goes
the other way round. A load balancer that is another one keeps its services. An endpoint of another
service, or with another address in a subnet, is another endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hyperplane_nat.model.changes import Changes, by_name, parts_of
from hyperplane_nat.model.entities import Account, SecurityGroup, Subnet, Vpc
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_endpoint_planner import GatewayEndpointPlanner
from hyperplane_nat.model.private_link import Place
from hyperplane_nat.model.private_link_checks import (
    check_listeners,
    check_principal,
    check_private_dns,
    check_unused,
    check_zones,
    no_service,
    service_name,
)
from hyperplane_nat.model.private_link_entities import EndpointService, VpcEndpoint
from hyperplane_nat.model.private_link_resources import (
    ANYBODY,
    EndpointResource,
    EndpointServiceResource,
)
from hyperplane_nat.model.resources import VpcResource

Line = Callable[[str, str, str, str], None]
"""Action, kind, name and detail of a line of the plan."""


class PrivateLinkPlanner:
    """Those steps of one run."""

    def __init__(
        self,
        changes: Changes,
        line: Line,
        accounts: Mapping[str, Account],
        subnets: Mapping[tuple[str, str], Subnet],
        groups: Mapping[tuple[str, str], SecurityGroup],
    ) -> None:
        """What the declaration names: accounts by name, the others by that of their VPC, too."""
        self._private_link = changes.private_link
        self._tables = changes.tables
        self._region = changes.lifecycle.settings.region
        self._line = line
        self._accounts = accounts
        self._subnets = subnets
        self._groups = groups
        self._gateway_endpoints = GatewayEndpointPlanner(changes, line)

    def make(self, vpcs: Mapping[str, Vpc], wanted: Iterable[VpcResource]) -> None:
        """All services, then all endpoints, those of type Gateway last; `vpcs` by name."""
        every = list(wanted)
        for vpc in every:
            self._make_services(vpcs[vpc.name], vpc)
        for vpc in every:
            self._make_endpoints(vpcs[vpc.name], vpc)
        self._gateway_endpoints.make(vpcs, every)

    def _make_services(self, vpc: Vpc, wanted: VpcResource) -> None:
        for item in wanted.endpoint_services:
            name = f"{vpc.name}/{item.name}"
            try:
                self._make_service(vpc, item, name)
            except ModelError as error:
                raise error.at(entry_of("endpoint-service", name)) from None

    def _make_service(self, vpc: Vpc, wanted: EndpointServiceResource, name: str) -> None:
        balancer = next(
            each
            for each in parts_of(vpc, self._tables.load_balancers)
            if each.name == wanted.load_balancer
        )
        check_listeners(self._tables, balancer)
        principals = tuple(sorted({self._principal(each) for each in wanted.principals}))
        there = parts_of(vpc, self._tables.endpoint_services)
        found = next((each for each in there if each.name == wanted.name), None)
        if found is None:
            made = self._private_link.make_service(
                vpc.id,
                wanted.name,
                balancer.id,
                acceptance_required=wanted.acceptance_required,
                principals=principals,
                private_dns_name=wanted.private_dns_name,
            )
            self._line("create", "endpoint-service", name, service_name(made, self._region))
            return
        changed = replace(
            found,
            load_balancer_id=balancer.id,
            acceptance_required=wanted.acceptance_required,
            principals=principals,
            private_dns_name=wanted.private_dns_name,
            declared=True,
        )
        if changed != replace(found, declared=True):
            self._line("change", "endpoint-service", name, f"load balancer {balancer.name}")
        self._private_link.change_service(found, changed)

    def _principal(self, named: str) -> str:
        if named == ANYBODY:
            return named
        for account in (*self._accounts.values(), *self._tables.accounts.values()):
            if named in (account.name, account.id):
                return account.id
        raise ModelError(
            "InvalidParameterValue",
            f"there is no account {named!r}",
            "declare it, or name another",
        )

    def _make_endpoints(self, vpc: Vpc, wanted: VpcResource) -> None:
        for item in wanted.endpoints:
            name = f"{vpc.name}/{item.name}"
            try:
                self._make_endpoint(vpc, item, name)
            except ModelError as error:
                raise error.at(entry_of("endpoint", name)) from None

    def _make_endpoint(self, vpc: Vpc, wanted: EndpointResource, name: str) -> None:
        service = self._service(wanted.service)
        places: list[Place] = [
            (self._subnets[vpc.name, each.subnet], each.address) for each in wanted.nodes
        ]
        group_ids = sorted(self._groups[vpc.name, each].id for each in wanted.security_groups)
        there = parts_of(vpc, self._tables.endpoints)
        found = next((each for each in there if each.name == wanted.name), None)
        if found is not None and not self._continues(found, service, places):
            self._delete(found)
            found = None
        if found is None:
            check_principal(self._tables, service, vpc.account_id, wanted.service)
        check_zones(self._tables, service, [subnet for subnet, _ in places])
        if wanted.private_dns:
            check_private_dns(self._tables, vpc, service, None if found is None else found.id)
        if found is None:
            made = self._private_link.make(
                vpc,
                wanted.name,
                service,
                places,
                group_ids=group_ids,
                private_dns=wanted.private_dns,
            )
            self._line("create", "endpoint", name, f"of {wanted.service}, {made.state}")
            return
        kept = replace(found, declared=True)
        changed = self._private_link.change(
            kept, places, group_ids=group_ids, private_dns=wanted.private_dns
        )
        if changed != kept:
            self._line("change", "endpoint", name, f"{len(changed.nodes)} zones")
        elif not found.declared:
            self._tables.put(kept)

    @staticmethod
    def _continues(found: VpcEndpoint, service: EndpointService, places: list[Place]) -> bool:
        """Whether it is the same endpoint, whatever can be changed of it."""
        there = {each.subnet_id: each.address for each in found.nodes}
        return found.service_id == service.id and all(
            address is None or there.get(subnet.id, address) == address
            for subnet, address in places
        )

    def _service(self, named: str) -> EndpointService:
        for each in by_name(self._tables.endpoint_services.values()):
            own = f"{self._tables.vpcs[each.vpc_id].name}/{each.name}"
            if named in (own, each.id, service_name(each, self._region)):
                return each
        raise no_service(named)

    def _delete(self, endpoint: VpcEndpoint) -> None:
        self._private_link.delete(endpoint)
        vpc = self._tables.vpcs[endpoint.vpc_id]
        self._line("delete", "endpoint", f"{vpc.name}/{endpoint.name}", "")

    def delete_unused(self, wanted: Mapping[str, VpcResource]) -> None:
        """What no declaration names any more; `wanted` are VPCs that stay, by id."""
        self._gateway_endpoints.delete_unused(wanted)
        for endpoint in by_name(self._tables.endpoints.values()):
            vpc = wanted.get(endpoint.vpc_id)
            names = {each.name for each in vpc.endpoints} if vpc is not None else set()
            if endpoint.declared and endpoint.name not in names:
                self._delete(endpoint)
        for service in by_name(self._tables.endpoint_services.values()):
            vpc = wanted.get(service.vpc_id)
            names = {each.name for each in vpc.endpoint_services} if vpc is not None else set()
            if service.declared and service.name not in names:
                check_unused(self._tables, service)
                self._private_link.delete_service(service)
                name = f"{self._tables.vpcs[service.vpc_id].name}/{service.name}"
                self._line("delete", "endpoint-service", name, "")
