# SPDX-License-Identifier: Apache-2.0
"""One resource at a time: create, change and delete, under the operation names and errors of AWS.

Theory of operation
-------------------
`Region.commands` opens a transaction and gives a `Commands`. Each method finds what it is about (an
id, or the name that a user gave; a subnet, group or service also as VPC/name), has it looked at by
the checks of `validation` as a declaration would be, and carries it out by `Changes`, as a
declaration would.

Error names: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, and
"Errors" of each operation in https://docs.aws.amazon.com/lambda/latest/api/API_Operations.html.
Ids are those that AWS would give; a name that is left out is the beginning of the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any, Literal, TypeVar

from hyperplane_nat.model.changes import Changes, P, Resource, by_name, parts_of
from hyperplane_nat.model.entities import (
    Account,
    Function,
    NetworkConfig,
    Rule,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import link_name
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.resources import (
    ALLOW_ALL,
    DEFAULT_ACCOUNT,
    DEFAULT_ACCOUNT_ID,
    AccountResource,
    FunctionResource,
    Networking,
    RuleResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.validation import (
    INTERNET,
    check_account,
    check_function,
    check_group,
    check_hosts,
    check_services,
    check_subnets,
)

Direction = Literal["ingress", "egress"]
N = TypeVar("N", Subnet, Vpc)


class Commands:
    """Commands on one region, all in one transaction. Errors: `ModelError`."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._changes = Changes(lifecycle, declared=False)

    # -- accounts

    def create_account(self, name: str, number: str | None = None) -> Account:
        """An account; `number` has twelve digits. InvalidParameterValue."""
        if any(account.name == name for account in self._tables.accounts.values()):
            raise _duplicate("InvalidParameterValue", "account", name)
        check_account(AccountResource(name, number))
        return self._changes.make_account(name, number)

    def delete_account(self, account: str) -> None:
        """DependencyViolation while it owns something."""
        self._delete(self.account(account), "account")

    # -- VPCs and subnets

    def create_vpc(
        self,
        cidr: IPv4Network,
        name: str | None = None,
        account: str | None = None,
        mtu_bytes: int = 1500,
    ) -> Vpc:
        """CreateVpc, without the default security group. InvalidParameterValue for a taken name."""
        owner = self._owner(account)
        if name == INTERNET or any(vpc.name == name for vpc in self._tables.vpcs.values()):
            raise _duplicate("InvalidParameterValue", "VPC", name or "")
        vpc = self._changes.make_vpc(name or "", owner.id, cidr, mtu_bytes)
        return self._named(vpc) if name is None else vpc

    def delete_vpc(self, vpc: str) -> None:
        """DeleteVpc: InvalidVpcID.NotFound, DependencyViolation."""
        found = self.vpc(vpc)
        if found.name == INTERNET:
            raise ModelError(
                "OperationNotPermitted", f"VPC {INTERNET} is built in", "delete its hosts instead"
            )
        self._delete(found, "VPC")

    def create_subnet(self, vpc: str, cidr: IPv4Network, name: str | None = None) -> Subnet:
        """CreateSubnet: InvalidVpcID.NotFound, InvalidSubnet.Range, InvalidSubnet.Conflict."""
        found = self._customer_vpc(vpc)
        self._unique(self._tables.subnets, found, "InvalidParameterValue", "subnet", name)
        wanted = self._as_resource(found)
        new = SubnetResource(name or str(cidr), cidr)
        check_subnets(replace(wanted, subnets=(*wanted.subnets, new)))
        subnet = self._changes.make_subnet(found, name or "", cidr)
        return self._named(subnet) if name is None else subnet

    def delete_subnet(self, subnet: str) -> None:
        """DeleteSubnet: InvalidSubnetID.NotFound, DependencyViolation."""
        found = self.subnet(subnet)
        if self._tables.vpcs[found.vpc_id].name == INTERNET:
            raise ModelError(
                "OperationNotPermitted", f"subnet {INTERNET} is built in", "leave it as it is"
            )
        self._delete(found, "subnet")

    # -- security groups

    def create_security_group(self, vpc: str, name: str, description: str = "") -> SecurityGroup:
        """CreateSecurityGroup, which lets everything out: InvalidGroup.Duplicate."""
        found = self._customer_vpc(vpc)
        self._unique(self._tables.groups, found, "InvalidGroup.Duplicate", "security group", name)
        group = SecurityGroup(
            id=self._changes.new_id("sg"),
            name=name,
            vpc_id=found.id,
            description=description,
            ingress=(),
            egress=tuple(Rule(each.protocol, 0, 65535, each.cidr) for each in ALLOW_ALL),
            declared=False,
        )
        self._tables.put(group)
        return group

    def authorize(
        self, group: str, direction: Direction, rules: Sequence[RuleResource]
    ) -> SecurityGroup:
        """
        AuthorizeSecurityGroupIngress and -Egress; flows that began before are not concerned.

        Errors: InvalidGroup.NotFound, InvalidPermission.Duplicate, InvalidPermission.Malformed,
        RulesPerSecurityGroupLimitExceeded.
        """
        found = self.group(group)
        had: tuple[Rule, ...] = getattr(found, direction)
        wanted = [self._rule(found, rule) for rule in rules]
        for number, rule in enumerate(wanted):
            if rule in had or rule in wanted[:number]:
                raise ModelError(
                    "InvalidPermission.Duplicate",
                    f"the specified rule {_rule_text(rule)} already exists in {direction} of "
                    f"security group {found.name}",
                    "leave it out",
                )
        return self._put_rules(found, direction, (*had, *wanted))

    def revoke(
        self, group: str, direction: Direction, rules: Sequence[RuleResource]
    ) -> SecurityGroup:
        """
        RevokeSecurityGroupIngress and -Egress; flows that began before go on.

        Errors: InvalidGroup.NotFound, InvalidPermission.NotFound.
        """
        found = self.group(group)
        left = list(getattr(found, direction))
        for rule in (self._rule(found, rule) for rule in rules):
            if rule not in left:
                raise ModelError(
                    "InvalidPermission.NotFound",
                    f"the specified rule {_rule_text(rule)} does not exist in {direction} of "
                    f"security group {found.name}",
                    "hyperplane-nat security-groups lists those there are",
                )
            left.remove(rule)
        return self._put_rules(found, direction, tuple(left))

    def delete_security_group(self, group: str) -> None:
        """DeleteSecurityGroup: InvalidGroup.NotFound, DependencyViolation."""
        self._delete(self.group(group), "security group")

    # -- services

    def create_service(self, vpc: str, wanted: ServiceResource) -> Service:
        """A server in a VPC, or a public host in VPC "internet"."""
        found = self._changes.internet() if vpc == INTERNET else self.vpc(vpc)
        self._unique(self._tables.services, found, "InvalidParameterValue", "service", wanted.name)
        return self._put_service(found, wanted, None)

    def modify_service(self, service: str, changes: Mapping[str, Any]) -> Service:
        """`changes` has fields of a `ServiceResource`; it keeps its name and VPC."""
        found = self.service(service)
        vpc = self._tables.vpcs[found.vpc_id]
        shown = next(item for item in self._as_resource(vpc).services if item.name == found.name)
        return self._put_service(vpc, replace(shown, **changes), found)

    def delete_service(self, service: str) -> None:
        """Connections to it end."""
        self._delete(self.service(service), "service")

    # -- functions

    def create_function(self, wanted: FunctionResource, account: str | None = None) -> Function:
        """
        CreateFunction: subnets and groups by id or name, the VPC and account those of the subnets.

        Errors: ResourceConflictException for a name that is taken, InvalidParameterValueException,
        ENILimitReachedException, SubnetIPAddressLimitReachedException.
        """
        if self._tables.function(wanted.name) is not None:
            raise ModelError(
                "ResourceConflictException",
                f"Function already exist: {wanted.name}",
                "change it, or choose another name",
            )
        owner, config = self._network_of(wanted, account)
        return self._changes.make_function(wanted, owner.id, config)

    def update_function_configuration(
        self,
        function: str,
        *,
        memory_mb: int | None = None,
        networking: Networking | None = None,
        subnets: tuple[str, ...] | None = None,
        security_groups: tuple[str, ...] | None = None,
    ) -> Function:
        """
        UpdateFunctionConfiguration: what is None stays. Without subnets and groups it leaves its
        VPC. The old configuration serves until the interfaces of the new one are there.

        Errors: ResourceNotFoundException, ResourceConflictException while a change is under way,
        those of `create_function`.
        """
        found = self.function(function)
        target = found.target
        outside = target.networking is Networking.NONE
        subnets = (() if outside else target.subnet_ids) if subnets is None else subnets
        groups = target.group_ids if security_groups is None else security_groups
        if networking is None:
            inside = Networking.HYPERPLANE if outside else target.networking
            networking = inside if subnets or groups else Networking.NONE
        wanted = FunctionResource(
            name=found.name,
            networking=networking,
            subnets=subnets,
            security_groups=groups,
            memory_mb=found.memory_mb if memory_mb is None else memory_mb,
            code=found.code,
            environment=found.environment,
            reserved_concurrency=found.reserved_concurrency,
        )
        _, config = self._network_of(wanted, found.account_id)
        self._changes.change_function(found, wanted, config)
        return self._tables.functions[found.id]

    def delete_function(self, function: str) -> None:
        """DeleteFunction: ResourceNotFoundException. What runs comes to its end."""
        self._lifecycle.forget_function(self.function(function))

    # -- what is named

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

    def service(self, named: str) -> Service:
        """By id, VPC/name or name. ResourceNotFoundException."""
        return self._part(self._tables.services, named, "ResourceNotFoundException", "service")

    def function(self, named: str) -> Function:
        """By name. ResourceNotFoundException."""
        if (function := self._tables.function(named)) is not None:
            return function
        raise ModelError(
            "ResourceNotFoundException",
            f"Function not found: {named}",
            "hyperplane-nat functions lists those there are",
        )

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
            raise _duplicate(code, what, f"{vpc.name}/{name}")

    def _delete(self, item: Resource, what: str) -> None:
        if (user := self._changes.user_of(item)) is not None:
            raise _in_use(what, item, user)
        self._tables.remove(item)

    def _as_resource(self, vpc: Vpc) -> VpcResource:
        """A VPC as a declaration would name it, but for the rules of its groups."""
        names = self._tables.groups
        return VpcResource(
            name=vpc.name,
            cidr=vpc.cidr,
            account=vpc.account_id,
            subnets=tuple(
                SubnetResource(each.name, each.cidr) for each in parts_of(vpc, self._tables.subnets)
            ),
            security_groups=tuple(
                SecurityGroupResource(each.name) for each in names.values() if each.vpc_id == vpc.id
            ),
            services=tuple(
                ServiceResource(
                    each.name,
                    each.kind,
                    each.address,
                    each.port,
                    each.size_bytes,
                    tuple(names[group_id].name for group_id in each.group_ids),
                )
                for each in parts_of(vpc, self._tables.services)
            ),
        )

    def _rule(self, group: SecurityGroup, wanted: RuleResource) -> Rule:
        other = None
        if wanted.group is not None:
            vpc = self._tables.vpcs[group.vpc_id]
            ((_, other),) = self._in(vpc, self._tables.groups, [wanted.group])
        return Rule(wanted.protocol, wanted.first, wanted.last, wanted.cidr, other)

    def _put_rules(
        self, group: SecurityGroup, direction: Direction, rules: tuple[Rule, ...]
    ) -> SecurityGroup:
        names = self._tables.groups
        wanted = tuple(
            RuleResource(
                rule.protocol,
                rule.first,
                rule.last,
                rule.cidr,
                names[rule.group_id].name if rule.group_id in names else rule.group_id,
            )
            for rule in rules
        )
        shown = SecurityGroupResource(
            group.name,
            ingress=wanted if direction == "ingress" else (),
            egress=wanted if direction == "egress" else (),
        )
        vpc = self._as_resource(self._tables.vpcs[group.vpc_id])
        check_group(vpc, shown, self._lifecycle.settings)
        changed = (
            replace(group, ingress=rules)
            if direction == "ingress"
            else replace(group, egress=rules)
        )
        self._tables.put(changed)
        return changed

    def _put_service(self, vpc: Vpc, wanted: ServiceResource, old: Service | None) -> Service:
        groups = self._in(vpc, self._tables.groups, wanted.security_groups)
        shown = replace(wanted, security_groups=tuple(group for group, _ in groups))
        there = self._as_resource(vpc)
        others = [each for each in there.services if each.name != wanted.name]
        if vpc.name == INTERNET:
            check_hosts([*others, shown])
        else:
            check_services(replace(there, services=(*others, shown)))
        service = self._changes.service_of(vpc, wanted, old, (key for _, key in groups))
        self._changes.check_address(service)
        self._tables.put(service)
        return service

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

    def _network_of(
        self, wanted: FunctionResource, account: str | None
    ) -> tuple[Account, NetworkConfig]:
        vpc = self._vpc_of(wanted)
        owner = self._owner(account if account or vpc is None else vpc.account_id)
        subnets = self._in(vpc, self._tables.subnets, wanted.subnets)
        groups = self._in(vpc, self._tables.groups, wanted.security_groups)
        shown = replace(
            wanted,
            account=owner.id,
            vpc=None if vpc is None else vpc.name,
            subnets=tuple(name for name, _ in subnets),
            security_groups=tuple(name for name, _ in groups),
        )
        known = {} if vpc is None else {vpc.name: self._as_resource(vpc)}
        check_function(shown, known, self._lifecycle.settings)
        if vpc is None:
            return owner, self._changes.config_of_internet()
        return owner, NetworkConfig(
            networking=wanted.networking,
            vpc_id=vpc.id,
            subnet_ids=tuple(sorted(key for _, key in subnets)),
            group_ids=tuple(sorted(key for _, key in groups)),
            owner_id=owner.id,
        )

    def _vpc_of(self, wanted: FunctionResource) -> Vpc | None:
        """The one that is named, or the one that its first subnet is in."""
        try:
            if wanted.vpc is not None:
                return self.vpc(wanted.vpc)
            if wanted.networking is not Networking.NONE and wanted.subnets:
                return self._tables.vpcs[self.subnet(wanted.subnets[0]).vpc_id]
        except ModelError as error:
            # Lambda has one name for whatever is wrong in a VpcConfig.
            raise ModelError(
                "InvalidParameterValueException", error.message, error.remedy
            ) from None
        return None


def _duplicate(code: str, what: str, name: str) -> ModelError:
    return ModelError(code, f"The {what} '{name}' already exists", "choose another name")


def _in_use(what: str, item: Resource, user: str) -> ModelError:
    return ModelError(
        "DependencyViolation",
        f"{what} {item.name} ({item.id}) has a dependent object, {user}",
        "delete that first; interfaces go up to 20 minutes after their last user",
    )


def _rule_text(rule: Rule) -> str:
    return f"{rule.protocol} {rule.first}-{rule.last} {rule.cidr or rule.group_id}"
