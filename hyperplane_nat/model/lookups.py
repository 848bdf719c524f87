# SPDX-License-Identifier: Apache-2.0
"""What commands name, found by id or name, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from hyperplane_nat.model.changes import Changes, P, by_name, parts_of
from hyperplane_nat.model.entities import (
    Account,
    Function,
    Host,
    Resource,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    RouteTable,
)
from hyperplane_nat.model.identifiers import link_name
from hyperplane_nat.model.invocation import not_found
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.resources import DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_ID
from hyperplane_nat.model.validation import INTERNET

N = TypeVar("N", Subnet, Vpc, RouteTable)


class Lookups:
    """The resources of one region. Errors: `ModelError`."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._changes = Changes(lifecycle, declared=False)
        self._gateways = self._changes.gateways
        self._nat_gateways = self._changes.nat_gateways
        self._balancers = self._changes.balancers
        self._private_link = self._changes.private_link

    def account(self, named: str) -> Account:
        """By id or name. InvalidParameterValue."""
        for account in self._tables.accounts.values():
            if named in (account.id, account.name):
                return account
        raise ModelError(
            "InvalidParameterValue", f"there is no account {named!r}", "create it, or name another"
        )

    def vpc(self, named: str) -> Vpc:
        """By id or name. InvalidVpcID.NotFound."""
        for vpc in self._tables.vpcs.values():
            if named in (vpc.id, vpc.name):
                return vpc
        raise ModelError(
            "InvalidVpcID.NotFound", f"The vpc ID '{named}' does not exist", "name another"
        )

    def subnet(self, named: str) -> Subnet:
        """By id, VPC/name or name. InvalidSubnetID.NotFound."""
        return self._part(self._tables.subnets, named, "InvalidSubnetID.NotFound", "subnet ID")

    def group(self, named: str) -> SecurityGroup:
        """By id, VPC/name or name. InvalidGroup.NotFound."""
        return self._part(self._tables.groups, named, "InvalidGroup.NotFound", "security group")

    def host(self, named: str) -> Host:
        """By id, VPC/name or name. InvalidInstanceID.NotFound."""
        return self._part(self._tables.hosts, named, "InvalidInstanceID.NotFound", "instance ID")

    def service(self, named: str) -> Service:
        """By id, VPC/name or name. ResourceNotFoundException."""
        return self._part(self._tables.services, named, "ResourceNotFoundException", "service")

    def route_table(self, named: str) -> RouteTable:
        """By id, VPC/name or name. InvalidRouteTableID.NotFound."""
        tables = self._tables.route_tables
        return self._part(tables, named, "InvalidRouteTableID.NotFound", "routeTable ID")

    def internet_gateway(self, named: str) -> InternetGateway:
        """By id or name. InvalidInternetGatewayID.NotFound."""
        for gateway in by_name(self._tables.internet_gateways.values()):
            if named in (gateway.id, gateway.name):
                return gateway
        raise ModelError(
            "InvalidInternetGatewayID.NotFound",
            f"The internetGateway ID '{named}' does not exist",
            "name another",
        )

    def nat_gateway(self, named: str) -> NatGateway:
        """By id, or of one that has not ended by VPC/name or name. NatGatewayNotFound."""
        known = {
            key: each
            for key, each in self._tables.nat_gateways.items()
            if key == named or not each.ended
        }
        return self._part(known, named, "NatGatewayNotFound", "NAT gateway")

    def address(self, named: str) -> ElasticAddress:
        """By allocation id, association id or address. InvalidAllocationID.NotFound."""
        for address in self._tables.elastic_addresses.values():
            if named in (address.id, address.association_id, str(address.address)) and named:
                return address
        raise ModelError(
            "InvalidAllocationID.NotFound",
            f"The allocation ID '{named}' does not exist",
            "allocate one, or name another",
        )

    def function(self, named: str) -> Function:
        """By name, a version with its number behind a colon. ResourceNotFoundException."""
        if (key := self._tables.function_names.get(named)) is not None:
            return self._tables.functions[key]
        raise not_found(named)

    def _part(self, parts: Mapping[str, P], named: str, code: str, what: str) -> P:
        found = [
            part
            for part in by_name(parts.values())
            if named in (part.id, part.name, f"{self._tables.vpcs[part.vpc_id].name}/{part.name}")
        ]
        if not found:
            raise ModelError(code, f"The {what} '{named}' does not exist", "name another")
        if len(found) > 1:
            raise ModelError(
                "InvalidParameterValue",
                f"there are {len(found)} of the name {named!r}",
                "give the id, or VPC/name",
            )
        return found[0]

    # -- how

    def _named(self, item: N) -> N:
        item = replace(item, name=link_name(item.id))
        self._tables.put(item)
        return item

    def _owner(self, account: str | None) -> Account:
        """The one that is named, or the first; a region without any gets the default one."""
        if account is not None:
            return self.account(account)
        if self._tables.accounts:
            return next(iter(self._tables.accounts.values()))
        return self._changes.make_account(DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_ID)

    def _customer_vpc(self, named: str) -> Vpc:
        vpc = self.vpc(named)
        if vpc.name == INTERNET:
            raise ModelError(
                "OperationNotPermitted", f"VPC {INTERNET} is nobody's", "name one of an account's"
            )
        return vpc

    def _unique(
        self, parts: Mapping[str, P], vpc: Vpc, code: str, what: str, name: str | None
    ) -> None:
        if any(part.name == name for part in parts_of(vpc, parts)):
            raise duplicate(code, what, f"{vpc.name}/{name}")

    def _delete(self, item: Resource, what: str) -> None:
        self._refuse_used(item, what)
        self._changes.remove(item)

    def _refuse_used(self, item: Resource, what: str) -> None:
        if (user := self._changes.user_of(item)) is not None:
            raise in_use(what, item, user)

    def _in(
        self, vpc: Vpc | None, parts: Mapping[str, P], named: Iterable[str]
    ) -> list[tuple[str, str]]:
        """Names and ids of parts of a VPC; the checks refuse what is not found by its name."""
        known: dict[str, tuple[str, str]] = {}
        if vpc is not None:
            for part in parts_of(vpc, parts):
                for name in (part.name, f"{vpc.name}/{part.name}", part.id):
                    known[name] = (part.name, part.id)
        return [known.get(name, (name, name)) for name in named]


def duplicate(code: str, what: str, name: str) -> ModelError:
    """A name that is taken."""
    return ModelError(code, f"The {what} '{name}' already exists", "choose another name")


def in_use(what: str, item: Resource, user: str) -> ModelError:
    """Something that cannot be deleted yet."""
    return ModelError(
        "DependencyViolation",
        f"{what} {getattr(item, 'name', item.id)} ({item.id}) has a dependent object, {user}",
        "delete that first; interfaces go up to 20 minutes after their last user",
    )
