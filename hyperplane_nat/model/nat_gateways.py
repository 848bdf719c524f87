# SPDX-License-Identifier: Apache-2.0
"""NAT gateways over time: what they are made of, and what becomes of them.

Theory of operation
-------------------
A NAT gateway is a network interface in its subnet, whose addresses each have a number in the state
map; those of a public one are each one to one with a public address. It takes all of that when it
is asked for, is `pending` for a while and serves when it is `available`. Whatever keeps it from
being made is found when it is asked for, and known when it is `failed`, as on AWS: then it has
nothing. It serves until it is `deleted`. One that has ended is described for another hour.

An address that is given up takes no new flows and is gone when its time is over, be there flows or
not; until then nothing else is changed about addresses.

Codes and texts of failures: EC2 API, `NatGateway`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from hyperplane_nat.model.entities import InterfaceKind, NetworkInterface, RetiredNumber, Subnet
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import NatGateway, NatGatewayAddress
from hyperplane_nat.model.gateways import Gateways
from hyperplane_nat.model.identifiers import link_name
from hyperplane_nat.model.lifecycle import Lifecycle, free_addresses
from hyperplane_nat.model.route_checks import check_address_count
from hyperplane_nat.model.states import (
    NAT_GATEWAY_ADDRESS_STATUSES,
    NAT_GATEWAY_STATES,
    InterfaceStatus,
    NatGatewayAddressEvent,
    NatGatewayAddressStatus,
    NatGatewayEvent,
    NatGatewayState,
    following,
)

DRAIN_SECONDS = 350
"""`MaxDrainDurationSeconds`, where nobody says."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a NAT gateway cannot be made: `FailureCode` and `FailureMessage`."""

    code: str
    message: str


class NatGateways:
    """Changes of NAT gateways, inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, gateways: Gateways, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._gateways = gateways
        self._declared = declared

    def failure(
        self, subnet: Subnet, allocation_ids: Sequence[str] | None, count: int
    ) -> Failure | None:
        """What keeps one with so many addresses from being made; without allocations a private
        one.
        """
        if allocation_ids is not None:
            if self._tables.internet_gateway_of(subnet.vpc_id) is None:
                return Failure(
                    "Gateway.NotAttached",
                    f"Network {subnet.vpc_id} has no Internet gateway attached",
                )
            for allocation_id in allocation_ids:
                address = self._tables.elastic_addresses.get(allocation_id)
                if address is None:
                    return Failure(
                        "InvalidAllocationID.NotFound",
                        f"Elastic IP address {allocation_id} could not be associated with this "
                        "NAT gateway",
                    )
                if address.association_id:
                    return Failure(
                        "Resource.AlreadyAssociated",
                        f"Elastic IP address {allocation_id} is already associated",
                    )
        if free_addresses(self._tables, subnet) < count:
            return Failure(
                "InsufficientFreeAddressesInSubnet",
                "Subnet has insufficient free addresses to create this NAT gateway",
            )
        return None

    def make(
        self,
        subnet: Subnet,
        name: str,
        *,
        allocation_ids: Sequence[str] | None,
        count: int = 1,
        address: IPv4Address | None = None,
    ) -> NatGateway:
        """
        A pending NAT gateway with `count` addresses, `address` its primary one; with allocations,
        as many, a public one. NatGatewayLimitExceeded.
        """
        self._check_quota(subnet)
        gateway_id = self._lifecycle.new_interface_id("nat")
        failure = self.failure(subnet, allocation_ids, count)
        seconds = self._lifecycle.settings.nat_gateway_creation_seconds
        gateway = NatGateway(
            id=gateway_id,
            name=name or link_name(gateway_id),
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.id,
            public=allocation_ids is not None,
            state=NatGatewayState.PENDING,
            created=self._lifecycle.now,
            due=self._lifecycle.now + self._lifecycle.settings.scaled(seconds),
            failure_code="" if failure is None else failure.code,
            failure_message="" if failure is None else failure.message,
            declared=self._declared,
        )
        if failure is not None:
            self._tables.put(gateway)
            return gateway
        interface = NetworkInterface(
            id=self._lifecycle.new_interface_id(),
            kind=InterfaceKind.NAT_GATEWAY,
            status=InterfaceStatus.AVAILABLE,
            description=f"Interface for NAT Gateway {gateway_id}",
            number=self._lifecycle.free_number(),
            link=link_name(gateway_id),
            owner_id=self._tables.vpcs[subnet.vpc_id].account_id,
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.id,
            group_ids=(),
            address=address or self._lifecycle.free_address(subnet),
            requester_id=self._tables.vpcs[subnet.vpc_id].account_id,
        )
        self._tables.put(interface)
        status = (
            NatGatewayAddressStatus.ASSIGNING
            if allocation_ids is None
            else NatGatewayAddressStatus.ASSOCIATING
        )
        first = NatGatewayAddress(interface.address, status)
        gateway = replace(gateway, interface_id=interface.id, addresses=(first,))
        for _ in range(count - 1):
            gateway = self._with_address(gateway, status)
        gateway = self._map(gateway, allocation_ids or ())
        self._tables.put(gateway)
        return gateway

    def _check_quota(self, subnet: Subnet) -> None:
        quota = self._lifecycle.settings.nat_gateways_per_zone
        account_id = self._tables.vpcs[subnet.vpc_id].account_id
        count = 0
        for each in self._tables.nat_gateways.values():
            if each.ended:
                continue
            other = self._tables.subnets[each.subnet_id]
            same_account = self._tables.vpcs[each.vpc_id].account_id == account_id
            count += same_account and other.availability_zone == subnet.availability_zone
        if count >= quota:
            raise ModelError(
                "NatGatewayLimitExceeded",
                f"Performing this operation would exceed the limit of {quota} NAT gateways",
                f"use another availability zone than {subnet.availability_zone}, or raise "
                "lifecycle.nat_gateways_per_zone",
            )

    def _with_address(self, gateway: NatGateway, status: NatGatewayAddressStatus) -> NatGateway:
        """One more private address."""
        interface = self._tables.interfaces[gateway.interface_id]
        subnet = self._tables.subnets[gateway.subnet_id]
        further = (self._lifecycle.free_number(), self._lifecycle.free_address(subnet))
        self._tables.put(replace(interface, secondary=(*interface.secondary, further)))
        added = NatGatewayAddress(further[1], status)
        return replace(gateway, addresses=(*gateway.addresses, added))

    def _map(self, gateway: NatGateway, allocation_ids: Sequence[str]) -> NatGateway:
        """Make the last addresses one to one with these allocations."""
        first = len(gateway.addresses) - len(allocation_ids)
        addresses = list(gateway.addresses)
        for place, allocation_id in enumerate(allocation_ids, first):
            elastic = self._tables.elastic_addresses[allocation_id]
            self._gateways.map_nat_gateway(elastic, gateway)
            addresses[place] = replace(addresses[place], allocation_id=allocation_id)
        return replace(gateway, addresses=tuple(addresses))

    def add(self, gateway: NatGateway, allocation_ids: Sequence[str] | None, count: int) -> None:
        """
        More addresses of an available gateway, with as many allocations if it is public.

        Errors: IncorrectState while an address is given up, those of `failure`.
        """
        self._check_changeable(gateway)
        settings = self._lifecycle.settings
        check_address_count(gateway.id, len(gateway.addresses) + count, gateway.public, settings)
        subnet = self._tables.subnets[gateway.subnet_id]
        if (failure := self.failure(subnet, allocation_ids, count)) is not None:
            raise ModelError(failure.code, failure.message, "see what there is")
        for _ in range(count):
            gateway = self._with_address(gateway, NatGatewayAddressStatus.SUCCEEDED)
        self._tables.put(self._map(gateway, allocation_ids or ()))

    def give_up(
        self, gateway: NatGateway, addresses: Sequence[IPv4Address], drain_seconds: float
    ) -> None:
        """
        Let private addresses drain, and take them away when the time is over.

        Errors: IncorrectState while others are, InvalidParameterValue for the primary one.
        """
        self._check_changeable(gateway)
        due = self._lifecycle.now + self._lifecycle.settings.scaled(drain_seconds)
        event = (
            NatGatewayAddressEvent.DISASSOCIATED
            if gateway.public
            else NatGatewayAddressEvent.UNASSIGNED
        )
        if gateway.addresses[0].address in addresses:
            raise ModelError(
                "InvalidParameterValue",
                f"{gateway.addresses[0].address} is the primary address of {gateway.id}",
                "it cannot be given up: delete the gateway, or name another address",
            )
        changed = tuple(
            replace(
                each, status=following(NAT_GATEWAY_ADDRESS_STATUSES, each.status, event), due=due
            )
            if each.address in addresses
            else each
            for each in gateway.addresses
        )
        self._tables.put(replace(gateway, addresses=changed, due=due))

    def _check_changeable(self, gateway: NatGateway) -> None:
        if gateway.state is not NatGatewayState.AVAILABLE:
            raise ModelError(
                "IncorrectState", f"{gateway.id} is {gateway.state}", "wait until it is available"
            )
        draining = [each for each in gateway.addresses if each.due is not None]
        if draining:
            raise ModelError(
                "IncorrectState",
                f"address {draining[0].address} of {gateway.id} is {draining[0].status}",
                "wait until it is gone",
            )

    def delete(self, gateway: NatGateway) -> NatGateway:
        """It serves for a little while yet; one that has ended is gone at once."""
        if gateway.ended:
            self._tables.remove(gateway)
            return gateway
        state = following(NAT_GATEWAY_STATES, gateway.state, NatGatewayEvent.DELETION_BEGUN)
        seconds = self._lifecycle.settings.nat_gateway_deletion_seconds
        due = self._lifecycle.now + self._lifecycle.settings.scaled(seconds)
        deleting = replace(gateway, state=state, due=due)
        self._tables.put(deleting)
        return deleting

    def expire(self, gateway: NatGateway) -> None:
        """Do what is due for a gateway."""
        match gateway.state:
            case NatGatewayState.PENDING if gateway.failure_code:
                self._end(gateway, NatGatewayEvent.CREATION_FAILED)
            case NatGatewayState.PENDING:
                self._serve(gateway)
            case NatGatewayState.AVAILABLE:
                self._drained(gateway, draining(gateway))
            case NatGatewayState.DELETING:
                self._end(gateway, NatGatewayEvent.DELETION_ENDED)
            case _:
                self._tables.remove(gateway)

    def _serve(self, gateway: NatGateway) -> None:
        addresses = tuple(
            replace(
                each,
                status=following(
                    NAT_GATEWAY_ADDRESS_STATUSES, each.status, NatGatewayAddressEvent.TAKEN
                ),
            )
            for each in gateway.addresses
        )
        state = following(NAT_GATEWAY_STATES, gateway.state, NatGatewayEvent.CREATED)
        self._tables.put(replace(gateway, state=state, addresses=addresses, due=None))

    def release(self, gateway: NatGateway, unused: Collection[IPv4Address]) -> None:
        """Take away the addresses that are given up and have no flows any more."""
        if going := draining(gateway).intersection(unused):
            self._drained(gateway, going)

    def _drained(self, gateway: NatGateway, going: Collection[IPv4Address]) -> None:
        interface = self._tables.interfaces[gateway.interface_id]
        for each in gateway.addresses:
            if each.address in going and each.allocation_id:
                self._gateways.unmap(self._tables.elastic_addresses[each.allocation_id])
        left = tuple(each for each in interface.secondary if each[1] not in going)
        self._tables.put(replace(interface, secondary=left))
        for number in set(interface.numbers) - {interface.number, *(each[0] for each in left)}:
            self._tables.put(RetiredNumber(number))
        kept = tuple(each for each in gateway.addresses if each.address not in going)
        due = min((each.due for each in kept if each.due is not None), default=None)
        self._tables.put(replace(gateway, addresses=kept, due=due))

    def _end(self, gateway: NatGateway, event: NatGatewayEvent) -> None:
        """It has nothing any more, and is described for a while."""
        for each in gateway.addresses:
            if each.allocation_id:
                self._gateways.unmap(self._tables.elastic_addresses[each.allocation_id])
        if gateway.interface_id:
            self._lifecycle.retire(self._tables.interfaces[gateway.interface_id])
        now = self._lifecycle.now
        seconds = self._lifecycle.settings.nat_gateway_described_seconds
        self._tables.put(
            replace(
                gateway,
                state=following(NAT_GATEWAY_STATES, gateway.state, event),
                interface_id="",
                addresses=(),
                deleted=now if event is NatGatewayEvent.DELETION_ENDED else None,
                due=now + self._lifecycle.settings.scaled(seconds),
            )
        )


def draining(gateway: NatGateway) -> set[IPv4Address]:
    """The addresses of a gateway that are given up."""
    return {each.address for each in gateway.addresses if each.due is not None}
