# SPDX-License-Identifier: Apache-2.0
"""
From wanted resources to changes of a region.

Theory of operation: a plan is found by doing it. `Planner.run` changes the tables, writing a line
for each step; `Region.plan` takes it all back, `Region.apply` keeps it. So a plan shows what apply
does, and whatever makes an apply impossible, a quota or the last free address included, is told
before anything is changed.

The order: everything that others refer to is made first, then functions are deleted, created and
changed, then what nobody refers to any more is deleted, those that refer before those referred to.
What still has a user when its turn comes is refused with DependencyViolation, as on AWS: an
interface is such a user until it is deleted, up to 20 minutes after the function. Who wants to wait
for that has it left out (`keep_used`), and runs the same plan again: what nobody wants any more is
deleted by the first run that finds it without a user.

A VPC whose network, account or MTU changes, and a subnet whose network changes, is another one: the
old one is deleted, the new one made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import TypeVar

from hyperplane_nat.model.entities import (
    LAMBDA_ACCOUNT_ID,
    Account,
    Function,
    NetworkConfig,
    Rule,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.identifiers import account_id, resource_id, uuid
from hyperplane_nat.model.lifecycle import CREATING, Lifecycle
from hyperplane_nat.model.resources import (
    ANYWHERE,
    FunctionResource,
    Networking,
    Resources,
    RuleResource,
    ServiceResource,
    VpcResource,
)
from hyperplane_nat.model.states import FunctionState, UpdateStatus
from hyperplane_nat.model.validation import INTERNET, INTERNET_EGRESS, accounts_of, validate

N = TypeVar("N", Account, Function, SecurityGroup, Service, Subnet, Vpc)

FUNCTION_FIELDS = {
    "ENILimitReachedException": "subnets",
    "SubnetIPAddressLimitReachedException": "subnets",
}
"""The field of a function that an error of making it is about."""

CREATE = "create"
CHANGE = "change"
DELETE = "delete"


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One step of a plan."""

    action: str
    """"create", "change" or "delete"."""
    kind: str
    """"account", "vpc", "subnet", "security-group", "service", "internet-host", "function"."""
    name: str
    """With its VPC before a slash where names are unique in a VPC only: "customer/private-a"."""
    detail: str = ""
    waits_for: str = ""
    """Of a deletion: what still uses it, so that it is not deleted yet."""


class Planner:
    """One run over the tables of a region, inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, wanted: Resources, *, keep_used: bool = False) -> None:
        """With `keep_used`, what is to be deleted and has a user is left for the next run."""
        self._lifecycle = lifecycle
        self._keep_used = keep_used
        self._tables = lifecycle.tables
        self._wanted = wanted
        self._lines: list[PlanLine] = []
        self._accounts: dict[str, Account] = {}
        self._vpcs: dict[str, Vpc] = {}
        self._subnets: dict[tuple[str, str], Subnet] = {}
        self._groups: dict[tuple[str, str], SecurityGroup] = {}
        self._services: set[str] = set()

    def run(self) -> tuple[PlanLine, ...]:
        """Do it; the lines in the order of the steps."""
        validate(self._wanted, self._lifecycle.settings)
        ensure_internet(self._lifecycle)
        self._make_accounts()
        for vpc in self._wanted.vpcs:
            self._make_vpc(vpc)
        for vpc in self._wanted.vpcs:
            self._make_services(self._vpcs[vpc.name], vpc.services)
        internet = next(vpc for vpc in self._tables.vpcs.values() if vpc.name == INTERNET)
        self._make_services(internet, self._wanted.internet)
        self._delete_services()
        self._check_addresses()
        self._delete_functions()
        for function in self._wanted.functions:
            try:
                self._make_function(function, internet)
            except ModelError as error:
                field = FUNCTION_FIELDS.get(error.code, "")
                raise error.at(entry_of("function", function.name, field)) from None
        self._lifecycle.settle()
        self._delete_groups()
        self._delete_subnets()
        self._delete_vpcs(internet)
        self._delete_accounts()
        return tuple(self._lines)

    def _line(self, action: str, kind: str, name: str, detail: str = "") -> None:
        self._lines.append(PlanLine(action, kind, name, detail))

    def _id(self, prefix: str) -> str:
        return resource_id(prefix, self._lifecycle.random_hex)

    def _make_accounts(self) -> None:
        present = {account.name: account for account in self._tables.accounts.values()}
        for wanted in accounts_of(self._wanted):
            account = present.get(wanted.name)
            if account is None or wanted.id not in (None, account.id):
                other = self._tables.accounts.get(wanted.id or "")
                if other is not None:
                    raise ModelError(
                        "InvalidParameterValue",
                        f"account id {wanted.id} of {wanted.name} is that of {other.name}",
                        "rename the account in a lab without it, or choose another id",
                        entry_of("account", wanted.name, "id"),
                    )
                account = Account(wanted.id or account_id(self._lifecycle.random_hex), wanted.name)
                self._tables.put(account)
                self._line(CREATE, "account", account.name, account.id)
            self._accounts[wanted.name] = account

    def _make_vpc(self, wanted: VpcResource) -> None:
        owner = self._accounts[wanted.account].id
        vpc = next(
            (
                vpc
                for vpc in self._tables.vpcs.values()
                if (vpc.name, vpc.account_id, vpc.cidr, vpc.mtu_bytes)
                == (wanted.name, owner, wanted.cidr, wanted.mtu_bytes)
            ),
            None,
        )
        if vpc is None:
            vpc = Vpc(
                id=self._id("vpc"),
                name=wanted.name,
                account_id=owner,
                cidr=wanted.cidr,
                mtu_bytes=wanted.mtu_bytes,
                number=free_vpc_number(self._lifecycle),
                taken=wanted.taken,
            )
            self._tables.put(vpc)
            self._line(CREATE, "vpc", vpc.name, str(vpc.cidr))
        elif vpc.taken != wanted.taken:
            vpc = replace(vpc, taken=wanted.taken)
            self._tables.put(vpc)
        self._vpcs[vpc.name] = vpc
        present = {item.name: item for item in self._tables.subnets.values() if is_in(item, vpc)}
        for item in wanted.subnets:
            subnet = present.get(item.name)
            if subnet is None or subnet.cidr != item.cidr:
                subnet = Subnet(self._id("subnet"), item.name, vpc.id, item.cidr)
                self._tables.put(subnet)
                self._line(CREATE, "subnet", f"{vpc.name}/{subnet.name}", str(subnet.cidr))
            self._subnets[vpc.name, subnet.name] = subnet
        self._make_groups(vpc, wanted)

    def _make_groups(self, vpc: Vpc, wanted: VpcResource) -> None:
        present = {item.name: item for item in self._tables.groups.values() if is_in(item, vpc)}
        # Rules refer to groups in any order: all have their ids before the first rule is made.
        for item in wanted.security_groups:
            self._groups[vpc.name, item.name] = present.get(item.name) or SecurityGroup(
                self._id("sg"), item.name, vpc.id, item.description, (), ()
            )
        for item in wanted.security_groups:
            group = replace(
                self._groups[vpc.name, item.name],
                description=item.description,
                ingress=self._rules(vpc, item.ingress),
                egress=self._rules(vpc, item.egress),
            )
            self._groups[vpc.name, item.name] = group
            name = f"{vpc.name}/{group.name}"
            rules = f"{len(group.ingress)} ingress, {len(group.egress)} egress rules"
            if group.name not in present:
                self._line(CREATE, "security-group", name, rules)
            elif present[group.name] != group:
                self._line(CHANGE, "security-group", name, rules)
            else:
                continue
            self._tables.put(group)

    def _rules(self, vpc: Vpc, rules: Iterable[RuleResource]) -> tuple[Rule, ...]:
        return tuple(
            Rule(
                rule.protocol,
                rule.first,
                rule.last,
                rule.cidr,
                None if rule.group is None else self._groups[vpc.name, rule.group].id,
            )
            for rule in rules
        )

    def _make_services(self, vpc: Vpc, wanted: Iterable[ServiceResource]) -> None:
        present = {item.name: item for item in self._tables.services.values() if is_in(item, vpc)}
        kind = "internet-host" if vpc.name == INTERNET else "service"
        for item in wanted:
            old = present.get(item.name)
            service = Service(
                id=self._id("svc") if old is None else old.id,
                name=item.name,
                vpc_id=vpc.id,
                kind=item.kind,
                address=item.address,
                port=item.port,
                size_bytes=item.size_bytes,
                group_ids=tuple(
                    sorted(self._groups[vpc.name, name].id for name in item.security_groups)
                ),
            )
            self._services.add(service.id)
            name = item.name if vpc.name == INTERNET else f"{vpc.name}/{item.name}"
            if service != old:
                action = CREATE if old is None else CHANGE
                self._line(action, kind, name, f"{item.kind} {item.address}:{item.port}")
                self._tables.put(service)

    def _delete_services(self) -> None:
        for service in _by_name(self._tables.services.values()):
            if service.id not in self._services:
                vpc = self._tables.vpcs[service.vpc_id]
                internet = vpc.name == INTERNET
                kind = "internet-host" if internet else "service"
                name = service.name if internet else f"{vpc.name}/{service.name}"
                self._tables.remove(service)
                self._line(DELETE, kind, name)

    def _check_addresses(self) -> None:
        """Services and interfaces outside the model take no address of Lambda's interfaces."""
        for service in self._tables.services.values():
            for interface in self._tables.in_vpc(service.vpc_id):
                if service.address == interface.address:
                    vpc = self._tables.vpcs[service.vpc_id]
                    raise ModelError(
                        "InvalidIPAddress.InUse",
                        f"address {service.address} of service {service.name} is that of "
                        f"interface {interface.id}",
                        "choose another one",
                        entry_of("service", f"{vpc.name}/{service.name}", "address"),
                    )
        for vpc in self._tables.vpcs.values():
            for interface in self._tables.in_vpc(vpc.id):
                if interface.address in vpc.taken:
                    raise ModelError(
                        "InvalidIPAddress.InUse",
                        f"address {interface.address} in VPC {vpc.name} is that of "
                        f"interface {interface.id}",
                        "choose another one",
                    )

    def _config(self, wanted: FunctionResource, internet: Vpc) -> NetworkConfig:
        if wanted.networking is Networking.NONE:
            subnet = next(item for item in self._tables.subnets.values() if is_in(item, internet))
            return NetworkConfig(Networking.NONE, internet.id, (subnet.id,), (), LAMBDA_ACCOUNT_ID)
        assert wanted.vpc is not None
        return NetworkConfig(
            networking=wanted.networking,
            vpc_id=self._vpcs[wanted.vpc].id,
            subnet_ids=tuple(sorted(self._subnets[wanted.vpc, name].id for name in wanted.subnets)),
            group_ids=tuple(
                sorted(self._groups[wanted.vpc, name].id for name in wanted.security_groups)
            ),
            owner_id=self._accounts[wanted.account].id,
        )

    def _make_function(self, wanted: FunctionResource, internet: Vpc) -> None:
        config = self._config(wanted, internet)
        account = self._accounts[wanted.account].id
        old = self._tables.function(wanted.name)
        if old is None:
            self._line(CREATE, "function", wanted.name, wanted.networking.value)
            function = Function(
                id=uuid(self._lifecycle.random_hex),
                name=wanted.name,
                account_id=account,
                memory_mb=wanted.memory_mb,
                config=config,
                update=None,
                version=1,
                state=FunctionState.PENDING,
                state_reason="The function is being created.",
                state_reason_code=CREATING,
                last_update_status=UpdateStatus.SUCCESSFUL,
                last_update_status_reason="",
                last_update_status_reason_code="",
                last_used=self._lifecycle.now,
            )
            self._tables.put(function)
            self._lifecycle.acquire(config, function.name)
            return
        details = []
        if old.memory_mb != wanted.memory_mb:
            details.append(f"memory {old.memory_mb} to {wanted.memory_mb} MB")
            old = replace(old, memory_mb=wanted.memory_mb)
            self._tables.put(old)
        if old.target.networking is not config.networking:
            details.append(f"networking {old.target.networking} to {config.networking}")
        elif old.target != config:
            details.append("VPC configuration")
        elif old.state is FunctionState.FAILED:
            details.append("try again")
        if old.target != config or old.state is FunctionState.FAILED:
            self._lifecycle.configure(old, config)
        if details:
            self._line(CHANGE, "function", wanted.name, ", ".join(details))

    def _delete_functions(self) -> None:
        # A function is its account's: in another account it is another function.
        kept = {(item.name, self._accounts[item.account].id) for item in self._wanted.functions}
        for function in _by_name(self._tables.functions.values()):
            if (function.name, function.account_id) not in kept:
                self._lifecycle.forget_function(function)
                self._line(DELETE, "function", function.name)

    def _delete_groups(self) -> None:
        kept = {group.id for group in self._groups.values()}
        gone = [group for group in _by_name(self._tables.groups.values()) if group.id not in kept]
        users = self._users_of_groups(gone)
        for group in gone:
            vpc = self._tables.vpcs[group.vpc_id]
            name = f"{vpc.name}/{group.name}"
            if user := users.get(group.id):
                what = f"security group {group.name}"
                self._used("security-group", name, what, group.id, user, self._replaced(vpc))
            else:
                self._tables.remove(group)
                self._line(DELETE, "security-group", name)

    def _users_of_groups(self, gone: list[SecurityGroup]) -> dict[str, str]:
        """The users of groups to be deleted, by the group's id.

        What is wanted names no such group; the rules of one that has to stay may.
        """
        users = {group.id: user for group in gone if (user := self._user_of_group(group))}
        staying = [group for group in gone if group.id in users]
        while staying:
            group = staying.pop()
            named = {rule.group_id for rule in group.ingress + group.egress}
            for other in gone:
                if other.id in named and other.id not in users:
                    users[other.id] = f"security group {group.name}"
                    staying.append(other)
        return users

    def _user_of_group(self, group: SecurityGroup) -> str | None:
        for interface in self._tables.in_vpc(group.vpc_id):
            if group.id in interface.group_ids:
                return f"interface {interface.id}"
        for function in self._tables.functions.values():
            for config in (function.config, function.update):
                if config is not None and group.id in config.group_ids:
                    return f"function {function.name}"
        return None

    def _delete_subnets(self) -> None:
        kept = {subnet.id for subnet in self._subnets.values()}
        for subnet in _by_name(self._tables.subnets.values()):
            vpc = self._tables.vpcs[subnet.vpc_id]
            if subnet.id in kept or vpc.name == INTERNET:
                continue
            name = f"{vpc.name}/{subnet.name}"
            if user := self._user_of_subnet(subnet):
                again = self._replaced(vpc) or (vpc.name, subnet.name) in self._subnets
                self._used("subnet", name, f"subnet {subnet.name}", subnet.id, user, again)
            else:
                self._tables.remove(subnet)
                self._line(DELETE, "subnet", name)

    def _user_of_subnet(self, subnet: Subnet) -> str | None:
        for interface in self._tables.in_vpc(subnet.vpc_id):
            if interface.subnet_id == subnet.id:
                return f"interface {interface.id}"
        for function in self._tables.functions.values():
            for config in (function.config, function.update):
                if config is not None and subnet.id in config.subnet_ids:
                    return f"function {function.name}"
        return None

    def _delete_vpcs(self, internet: Vpc) -> None:
        kept = {internet.id, *(vpc.id for vpc in self._vpcs.values())}
        for vpc in _by_name(self._tables.vpcs.values()):
            if vpc.id in kept:
                continue
            parts = [
                f"subnet {each.name}" for each in self._tables.subnets.values() if is_in(each, vpc)
            ]
            parts += [
                f"security group {each.name}"
                for each in self._tables.groups.values()
                if is_in(each, vpc)
            ]
            if parts:
                user = min(parts)
                self._used("vpc", vpc.name, f"VPC {vpc.name}", vpc.id, user, self._replaced(vpc))
            else:
                self._tables.remove(vpc)
                self._line(DELETE, "vpc", vpc.name)

    def _delete_accounts(self) -> None:
        kept = {account.id for account in self._accounts.values()}
        for account in _by_name(self._tables.accounts.values()):
            if account.id in kept:
                continue
            owned = (vpc for vpc in self._tables.vpcs.values() if vpc.account_id == account.id)
            if vpc := next(owned, None):
                again = account.name in self._accounts
                what = f"account {account.name}"
                self._used("account", account.name, what, account.id, f"VPC {vpc.name}", again)
            else:
                self._tables.remove(account)
                self._line(DELETE, "account", account.name)

    def _replaced(self, vpc: Vpc) -> bool:
        """Whether another VPC has its name from now on."""
        return vpc.name in self._vpcs and self._vpcs[vpc.name].id != vpc.id

    def _used(
        self, kind: str, name: str, what: str, resource: str, user: str, name_taken: bool
    ) -> None:
        """Something to be deleted has a user: it stays for now, or nothing is done at all.

        What is to be made anew under the same name cannot stand beside it.
        """
        if name_taken or not self._keep_used:
            raise in_use(what, resource, user, entry_of(kind, name), name_taken=name_taken)
        self._lines.append(PlanLine(DELETE, kind, name, waits_for=user))


def ensure_internet(lifecycle: Lifecycle) -> None:
    """The built-in VPC with the public hosts and the Lambda service's interfaces to them."""
    tables = lifecycle.tables
    if any(vpc.name == INTERNET for vpc in tables.vpcs.values()):
        return
    vpc = Vpc(
        id=resource_id("vpc", lifecycle.random_hex),
        name=INTERNET,
        account_id=LAMBDA_ACCOUNT_ID,
        cidr=ANYWHERE,
        mtu_bytes=1500,
        number=free_vpc_number(lifecycle),
    )
    tables.put(vpc)
    tables.put(
        Subnet(
            resource_id("subnet", lifecycle.random_hex),
            INTERNET,
            vpc.id,
            IPv4Network(INTERNET_EGRESS),
        )
    )


def free_vpc_number(lifecycle: Lifecycle) -> int:
    """The lowest number from 1 that no VPC has."""
    taken = {vpc.number for vpc in lifecycle.tables.vpcs.values()}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def _by_name(entities: Iterable[N]) -> list[N]:
    """A copy in an order that does not depend on how the tables came to be."""
    return sorted(entities, key=lambda entity: (entity.name, entity.id))


def is_in(item: Subnet | SecurityGroup | Service, vpc: Vpc) -> bool:
    """Whether it is part of the VPC."""
    return item.vpc_id == vpc.id


def in_use(what: str, resource: str, user: str, field: str, *, name_taken: bool) -> ModelError:
    """The error of a deletion of something that has a user."""
    remedy = (
        "keep it, or apply --wait without it first: what is made anew has its name"
        if name_taken
        else "keep it, or apply --wait, which deletes it once that is gone; interfaces go up to 20 "
        "minutes after their last user"
    )
    return ModelError(
        "DependencyViolation", f"{what} ({resource}) has a dependent object, {user}", remedy, field
    )
