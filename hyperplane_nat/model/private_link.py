# SPDX-License-Identifier: Apache-2.0
"""PrivateLink over time: endpoint services, and what becomes of endpoints.

Theory of operation
-------------------
An endpoint has a network interface in each of its subnets from the beginning, whose address leads
nowhere. It waits for acceptance where its service asks for that, is `Pending` for a while when it
is accepted, and then `Available`: each address leads to the node that the service's load balancer
has in its zone. Its service's owner may reject it at any time, and accept it again. Deleted, it is
gone at once, and its flows with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from hyperplane_nat.model.entities import InterfaceKind, NetworkInterface, Subnet, Vpc
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import link_name
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.private_link_entities import (
    EndpointNode,
    EndpointService,
    VpcEndpoint,
)
from hyperplane_nat.model.states import (
    ENDPOINT_STATES,
    EndpointEvent,
    EndpointState,
    InterfaceStatus,
    following,
)

Place = tuple[Subnet, IPv4Address | None]
"""A subnet, and the address there that is asked for."""


class PrivateLink:
    """Changes of endpoint services and endpoints, inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._declared = declared

    # -- services

    def make_service(
        self,
        vpc_id: str,
        name: str,
        load_balancer_id: str,
        *,
        acceptance_required: bool,
        principals: Iterable[str],
        private_dns_name: str,
    ) -> EndpointService:
        """A service; the caller has looked at it."""
        service = EndpointService(
            id=self._new_id("vpce-svc"),
            name=name,
            vpc_id=vpc_id,
            load_balancer_id=load_balancer_id,
            acceptance_required=acceptance_required,
            principals=tuple(sorted(set(principals))),
            private_dns_name=private_dns_name,
            declared=self._declared,
        )
        self._tables.put(service)
        return service

    def change_service(self, service: EndpointService, changed: EndpointService) -> EndpointService:
        """The same service, otherwise: endpoints that there are stay as they are."""
        if changed != service:
            self._tables.put(changed)
        return changed

    def delete_service(self, service: EndpointService) -> None:
        """It goes; the caller has seen that nothing but rejected endpoints are of it."""
        self._tables.remove(service)

    # -- endpoints

    def make(
        self,
        vpc: Vpc,
        name: str,
        service: EndpointService,
        places: Sequence[Place],
        *,
        group_ids: Iterable[str],
        private_dns: bool,
    ) -> VpcEndpoint:
        """
        An endpoint that waits for acceptance, or is pending. VpcEndpointLimitExceeded,
        InsufficientFreeAddressesInSubnet, InvalidParameter for an address that is taken.
        """
        quota = self._lifecycle.settings.endpoints_per_vpc
        if sum(each.vpc_id == vpc.id for each in self._tables.endpoints.values()) >= quota:
            raise ModelError(
                "VpcEndpointLimitExceeded",
                f"The maximum number of VPC endpoints has been reached: {quota}",
                "delete some, or raise lifecycle.endpoints_per_vpc",
            )
        self._lifecycle.router_interface(vpc)
        endpoint = VpcEndpoint(
            id=self._new_id("vpce"),
            name=name,
            vpc_id=vpc.id,
            service_id=service.id,
            state=EndpointState.PENDING_ACCEPTANCE,
            created=self._lifecycle.now,
            nodes=(),
            private_dns=private_dns,
            declared=self._declared,
        )
        self._tables.put(endpoint)
        endpoint = self.change(endpoint, places, group_ids=group_ids, private_dns=private_dns)
        return endpoint if service.acceptance_required else self.accept(endpoint)

    def change(
        self,
        endpoint: VpcEndpoint,
        places: Sequence[Place],
        *,
        group_ids: Iterable[str],
        private_dns: bool,
    ) -> VpcEndpoint:
        """Other subnets or security groups; errors as of `make`."""
        groups = tuple(sorted(group_ids))
        wanted = {subnet.id for subnet, _ in places}
        kept = {each.subnet_id: each for each in endpoint.nodes if each.subnet_id in wanted}
        for node in endpoint.nodes:
            if node.subnet_id not in kept:
                self._remove_node(node)
        changed = replace(
            endpoint,
            nodes=tuple(
                kept.get(subnet.id) or self._make_node(endpoint, subnet, address, groups)
                for subnet, address in places
            ),
            group_ids=groups,
            private_dns=private_dns,
        )
        for node in changed.nodes:
            interface = self._tables.interfaces[node.interface_id]
            if interface.group_ids != groups:
                self._tables.put(replace(interface, group_ids=groups))
        if changed != endpoint:
            self._tables.put(changed)
        return changed

    def _make_node(
        self,
        endpoint: VpcEndpoint,
        subnet: Subnet,
        address: IPv4Address | None,
        group_ids: tuple[str, ...],
    ) -> EndpointNode:
        if address is not None and int(address) in self._tables.addresses(subnet.vpc_id):
            raise ModelError(
                "InvalidParameter",
                f"Address {address} is in use",
                "choose another one, or leave it out",
            )
        interface_id = self._lifecycle.new_interface_id()
        owner_id = self._tables.vpcs[subnet.vpc_id].account_id
        interface = NetworkInterface(
            id=interface_id,
            kind=InterfaceKind.VPC_ENDPOINT,
            status=InterfaceStatus.AVAILABLE,
            description=f"VPC Endpoint Interface {endpoint.id}",
            number=self._lifecycle.free_number(),
            link=link_name(interface_id),
            owner_id=owner_id,
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.id,
            group_ids=group_ids,
            address=address or self._free_address(subnet),
            requester_id=owner_id,
        )
        self._tables.put(interface)
        return EndpointNode(subnet.id, interface_id, interface.address)

    def _free_address(self, subnet: Subnet) -> IPv4Address:
        try:
            return self._lifecycle.free_address(subnet)
        except ModelError as error:
            raise ModelError(
                "InsufficientFreeAddressesInSubnet", error.message, "use another subnet"
            ) from None

    def _remove_node(self, node: EndpointNode) -> None:
        self._lifecycle.retire(self._tables.interfaces[node.interface_id])

    def accept(self, endpoint: VpcEndpoint) -> VpcEndpoint:
        """It is pending now, and will be available."""
        seconds = self._lifecycle.settings.scaled(
            self._lifecycle.settings.endpoint_creation_seconds
        )
        return self._happens(endpoint, EndpointEvent.ACCEPTED, self._lifecycle.now + seconds)

    def reject(self, endpoint: VpcEndpoint) -> VpcEndpoint:
        """Nothing passes it any more."""
        return self._happens(endpoint, EndpointEvent.REJECTED)

    def expire(self, endpoint: VpcEndpoint) -> None:
        """Do what is due."""
        self._happens(endpoint, EndpointEvent.CREATED)

    def _happens(
        self, endpoint: VpcEndpoint, event: EndpointEvent, due: float | None = None
    ) -> VpcEndpoint:
        state = following(ENDPOINT_STATES, endpoint.state, event)
        changed = replace(endpoint, state=state, due=due)
        self._tables.put(changed)
        return changed

    def delete(self, endpoint: VpcEndpoint) -> None:
        """It goes at once."""
        for node in endpoint.nodes:
            self._remove_node(node)
        self._tables.remove(endpoint)
        self._lifecycle.leave_router(endpoint.vpc_id)

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}-{self._lifecycle.random_hex(17)}"
