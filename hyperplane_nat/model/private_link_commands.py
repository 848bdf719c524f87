# SPDX-License-Identifier: Apache-2.0
"""Commands on endpoint services and endpoints: see `commands`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hyperplane_nat.model.balancer_checks import check_node_address
from hyperplane_nat.model.balancer_commands import BalancerCommands
from hyperplane_nat.model.balancer_resources import NodeResource
from hyperplane_nat.model.changes import by_name, parts_of
from hyperplane_nat.model.entities import Vpc
from hyperplane_nat.model.gateway_endpoint_checks import (
    check_policy,
    no_route_table,
    service_of,
)
from hyperplane_nat.model.gateway_endpoints import entries_of
from hyperplane_nat.model.gateway_entities import RouteTable
from hyperplane_nat.model.private_link import Place
from hyperplane_nat.model.private_link_checks import (
    check_listeners,
    check_no_service,
    check_principal,
    check_private_dns,
    check_private_dns_name,
    check_unused,
    check_zones,
    endpoints_of,
    no_endpoint,
    no_group,
    no_service,
    no_subnet,
    service_name,
    wrong_state,
)
from hyperplane_nat.model.private_link_entities import (
    EndpointService,
    GatewayEndpoint,
    VpcEndpoint,
)
from hyperplane_nat.model.private_link_resources import ANYBODY
from hyperplane_nat.model.states import ENDPOINT_STATES, EndpointEvent

_DEFAULT_GROUP = "default"
"""The security group of an endpoint that is made without one, in a VPC that has it."""


class PrivateLinkCommands(BalancerCommands):
    """Those commands on one region."""

    # -- what is named

    def endpoint_service(self, named: str) -> EndpointService:
        """By id, service name, VPC/name or name. InvalidVpcEndpointServiceId.NotFound."""
        for service in self._tables.endpoint_services.values():
            if named == service_name(service, self._lifecycle.settings.region):
                return service
        services, code = self._tables.endpoint_services, "InvalidVpcEndpointServiceId.NotFound"
        return self._part(services, named, code, "VpcEndpointService Id")

    def endpoint(self, named: str) -> VpcEndpoint:
        """By id, VPC/name or name. InvalidVpcEndpointId.NotFound."""
        endpoints, code = self._tables.endpoints, "InvalidVpcEndpointId.NotFound"
        return self._part(endpoints, named, code, "Vpc Endpoint Id")

    # -- services

    def create_endpoint_service(
        self,
        load_balancer: str,
        name: str | None = None,
        *,
        acceptance_required: bool = True,
        principals: Iterable[str] = (),
        private_dns_name: str = "",
    ) -> EndpointService:
        """
        CreateVpcEndpointServiceConfiguration and ModifyVpcEndpointServicePermissions.

        Errors: LoadBalancerNotFound, InvalidParameter, InvalidParameterValue for a principal that
        is no account and for a taken name.
        """
        balancer = self.load_balancer(load_balancer)
        check_listeners(self._tables, balancer)
        check_private_dns_name(private_dns_name)
        vpc, services = self._tables.vpcs[balancer.vpc_id], self._tables.endpoint_services
        self._unique(services, vpc, "InvalidParameterValue", "endpoint service", name)
        service = self._private_link.make_service(
            vpc.id,
            name or "",
            balancer.id,
            acceptance_required=acceptance_required,
            principals=self._principals(principals),
            private_dns_name=private_dns_name,
        )
        return (
            service
            if name
            else self._private_link.change_service(service, replace(service, name=service.id))
        )

    def modify_endpoint_service(
        self,
        service: str,
        *,
        acceptance_required: bool | None = None,
        private_dns_name: str | None = None,
        add_principals: Iterable[str] = (),
        remove_principals: Iterable[str] = (),
    ) -> EndpointService:
        """
        ModifyVpcEndpointServiceConfiguration and ModifyVpcEndpointServicePermissions, of what is
        not None: connections stay. InvalidVpcEndpointServiceId.NotFound, InvalidParameter,
        InvalidParameterValue.
        """
        found = self.endpoint_service(service)
        if private_dns_name is not None:
            check_private_dns_name(private_dns_name)
            found_name = private_dns_name
        else:
            found_name = found.private_dns_name
        left = {*found.principals, *self._principals(add_principals)}
        left -= set(self._principals(remove_principals))
        required = found.acceptance_required if acceptance_required is None else acceptance_required
        changed = replace(
            found,
            acceptance_required=required,
            private_dns_name=found_name,
            principals=tuple(sorted(left)),
        )
        return self._private_link.change_service(found, changed)

    def delete_endpoint_service(self, service: str) -> None:
        """
        DeleteVpcEndpointServiceConfigurations: InvalidVpcEndpointServiceId.NotFound,
        ExistingVpcEndpointConnections.
        """
        found = self.endpoint_service(service)
        check_unused(self._tables, found)
        self._private_link.delete_service(found)

    def accept_endpoints(self, service: str, endpoints: Iterable[str]) -> EndpointService:
        """AcceptVpcEndpointConnections: InvalidVpcEndpoint.NotFound, InvalidState."""
        return self._decide(service, endpoints, EndpointEvent.ACCEPTED)

    def reject_endpoints(self, service: str, endpoints: Iterable[str]) -> EndpointService:
        """RejectVpcEndpointConnections: InvalidVpcEndpoint.NotFound, InvalidState."""
        return self._decide(service, endpoints, EndpointEvent.REJECTED)

    def _decide(
        self, service: str, endpoints: Iterable[str], event: EndpointEvent
    ) -> EndpointService:
        found = self.endpoint_service(service)
        own = {each.id: each for each in endpoints_of(self._tables, found)}
        for named in endpoints:
            names = [
                each
                for each in own.values()
                if named in (each.id, each.name, f"{self._vpc_name(each)}/{each.name}")
            ]
            if len(names) != 1:
                raise no_endpoint(named, found)
            [endpoint] = names
            if (endpoint.state, event) not in ENDPOINT_STATES:
                raise wrong_state(endpoint)
            accept = event is EndpointEvent.ACCEPTED
            do = self._private_link.accept if accept else self._private_link.reject
            do(endpoint)
        return found

    def _vpc_name(self, endpoint: VpcEndpoint) -> str:
        return self._tables.vpcs[endpoint.vpc_id].name

    def _principals(self, named: Iterable[str]) -> list[str]:
        return [each if each == ANYBODY else self.account(each).id for each in named]

    def delete_load_balancer(self, balancer: str) -> None:
        """The same, but ResourceInUse for one that an endpoint service needs."""
        check_no_service(self._tables, self.load_balancer(balancer))
        super().delete_load_balancer(balancer)

    # -- endpoints

    def create_endpoint(
        self,
        vpc: str,
        service: str,
        nodes: Sequence[NodeResource],
        *,
        name: str | None = None,
        security_groups: Sequence[str] | None = None,
        private_dns: bool = False,
    ) -> VpcEndpoint:
        """
        CreateVpcEndpoint, of type Interface. Without `security_groups` it has the VPC's group
        `default`, if there is one.

        Errors: InvalidVpcID.NotFound, InvalidServiceName, InvalidSubnetId.NotFound,
        InvalidSecurityGroupId.NotFound, InvalidParameter, VpcEndpointLimitExceeded.
        """
        place = self._customer_vpc(vpc)
        self._unique_endpoint(place, name)
        found = self._service_for(place, service)
        places = self._places_of(place, nodes)
        check_zones(self._tables, found, [subnet for subnet, _ in places])
        if private_dns:
            check_private_dns(self._tables, place, found)
        if security_groups is None:
            groups = parts_of(place, self._tables.groups)
            security_groups = [each.id for each in groups if each.name == _DEFAULT_GROUP]
        endpoint = self._private_link.make(
            place,
            name or "",
            found,
            places,
            group_ids=self._endpoint_groups(place, security_groups),
            private_dns=private_dns,
        )
        if name is None:
            endpoint = replace(endpoint, name=endpoint.id)
            self._tables.put(endpoint)
        return endpoint

    def modify_endpoint(
        self,
        endpoint: str,
        *,
        nodes: Sequence[NodeResource] | None = None,
        security_groups: Sequence[str] | None = None,
        private_dns: bool | None = None,
    ) -> VpcEndpoint:
        """
        ModifyVpcEndpoint, of what is not None: the errors of `create_endpoint`,
        InvalidVpcEndpointId.NotFound.
        """
        found = self.endpoint(endpoint)
        place = self._tables.vpcs[found.vpc_id]
        service = self._tables.endpoint_services.get(found.service_id)
        if service is None:
            raise no_service(found.service_id)
        places: list[Place] = [
            (self._tables.subnets[each.subnet_id], each.address) for each in found.nodes
        ]
        if nodes is not None:
            places = self._places_of(place, nodes)
            check_zones(self._tables, service, [subnet for subnet, _ in places])
        groups: Iterable[str] = found.group_ids
        if security_groups is not None:
            groups = self._endpoint_groups(place, security_groups)
        wanted = found.private_dns if private_dns is None else private_dns
        if wanted and not found.private_dns:
            check_private_dns(self._tables, place, service, found.id)
        return self._private_link.change(found, places, group_ids=groups, private_dns=wanted)

    def delete_endpoint(self, endpoint: str) -> None:
        """DeleteVpcEndpoints, of one: InvalidVpcEndpointId.NotFound."""
        self._private_link.delete(self.endpoint(endpoint))

    def _unique_endpoint(self, vpc: Vpc, name: str | None) -> None:
        code = "InvalidParameterValue"
        self._unique(self._tables.endpoints, vpc, code, "endpoint", name)
        self._unique(self._tables.gateway_endpoints, vpc, code, "endpoint", name)

    # -- gateway endpoints

    def gateway_endpoint(self, named: str) -> GatewayEndpoint:
        """By id, VPC/name or name. InvalidVpcEndpointId.NotFound."""
        endpoints, code = self._tables.gateway_endpoints, "InvalidVpcEndpointId.NotFound"
        return self._part(endpoints, named, code, "Vpc Endpoint Id")

    def create_gateway_endpoint(
        self,
        vpc: str,
        service: str,
        *,
        name: str | None = None,
        route_tables: Sequence[str] = (),
        policy: str = "",
    ) -> GatewayEndpoint:
        """
        CreateVpcEndpoint, of type Gateway: InvalidVpcID.NotFound, InvalidServiceName,
        InvalidRouteTableId.NotFound, RouteAlreadyExists, InvalidPolicyDocument,
        VpcEndpointLimitExceeded, InvalidParameter.
        """
        place = self._customer_vpc(vpc)
        self._unique_endpoint(place, name)
        found = service_of(service, self._lifecycle.settings.region)
        if not entries_of(self._tables, found):
            raise no_service(service)
        check_policy(policy)
        return self._changes.gateway_endpoints.make(
            place,
            name or "",
            found,
            self._route_tables_of(place, route_tables),
            policy=policy,
            internet=self._changes.internet(),
        )

    def modify_gateway_endpoint(
        self,
        endpoint: str,
        *,
        add_route_tables: Sequence[str] = (),
        remove_route_tables: Sequence[str] = (),
        policy: str | None = None,
    ) -> GatewayEndpoint:
        """
        ModifyVpcEndpoint: tables to add that it has, and to remove that it has not, are no error.
        InvalidVpcEndpointId.NotFound, and the errors of `create_gateway_endpoint`.
        """
        found = self.gateway_endpoint(endpoint)
        place = self._tables.vpcs[found.vpc_id]
        ids = {*found.route_table_ids}
        ids |= {each.id for each in self._route_tables_of(place, add_route_tables)}
        ids -= {each.id for each in self._route_tables_of(place, remove_route_tables)}
        if policy is not None:
            check_policy(policy)
        return self._changes.gateway_endpoints.change(
            found,
            [self._tables.route_tables[each] for each in ids],
            policy=found.policy if policy is None else policy,
        )

    def delete_gateway_endpoint(self, endpoint: str) -> None:
        """DeleteVpcEndpoints, of one: InvalidVpcEndpointId.NotFound."""
        self._changes.gateway_endpoints.delete(self.gateway_endpoint(endpoint))

    def _route_tables_of(self, vpc: Vpc, named: Sequence[str]) -> list[RouteTable]:
        """Route tables of a VPC, each once."""
        found: dict[str, RouteTable] = {}
        for (_, key), name in zip(
            self._in(vpc, self._tables.route_tables, named), named, strict=True
        ):
            table = self._tables.route_tables.get(key)
            if table is None or table.vpc_id != vpc.id:
                raise no_route_table(name)
            found[table.id] = table
        return list(found.values())

    # -- what a request says

    def _service_for(self, vpc: Vpc, named: str) -> EndpointService:
        region = self._lifecycle.settings.region
        for service in by_name(self._tables.endpoint_services.values()):
            own = self._tables.vpcs[service.vpc_id].name
            if named in (service.id, service_name(service, region), f"{own}/{service.name}"):
                check_principal(self._tables, service, vpc.account_id, named)
                return service
        raise no_service(named)

    def _places_of(self, vpc: Vpc, nodes: Sequence[NodeResource]) -> list[Place]:
        named = self._in(vpc, self._tables.subnets, [each.subnet for each in nodes])
        places: list[Place] = []
        for (_, key), node in zip(named, nodes, strict=True):
            subnet = self._tables.subnets.get(key)
            if subnet is None:
                raise no_subnet(node.subnet)
            check_node_address(subnet.cidr, node.address)
            places.append((subnet, node.address))
        return places

    def _endpoint_groups(self, vpc: Vpc, named: Sequence[str]) -> list[str]:
        keys = [key for _, key in self._in(vpc, self._tables.groups, named)]
        for name, key in zip(named, keys, strict=True):
            if key not in self._tables.groups:
                raise no_group(name)
        return sorted(set(keys))
