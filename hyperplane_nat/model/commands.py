# SPDX-License-Identifier: Apache-2.0
"""One resource at a time: create, change and delete, under the operation names and errors of AWS.

Theory of operation
-------------------
`Region.commands` opens a transaction and gives a `Commands`. Each method finds what it is about (an
id, or the name that a user gave; what is in a VPC also as VPC/name: `lookups`), has it looked at by
the checks of `validation` as a declaration would be, and carries it out by `Changes`, as a
declaration would.

Error names: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, and
"Errors" of each operation in https://docs.aws.amazon.com/lambda/latest/api/API_Operations.html.
Ids are those that AWS would give; a name that is left out is the beginning of the id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import Any, Literal

from hyperplane_nat.model.changes import parts_of
from hyperplane_nat.model.declaration import vpc_resource
from hyperplane_nat.model.entities import (
    Account,
    Function,
    Host,
    NetworkConfig,
    Rule,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.flow_log_commands import FlowLogCommands
from hyperplane_nat.model.group_rules import rule_of
from hyperplane_nat.model.invocation import code_with
from hyperplane_nat.model.lookups import duplicate
from hyperplane_nat.model.network_acl_commands import NetworkAclCommands
from hyperplane_nat.model.private_link_commands import PrivateLinkCommands
from hyperplane_nat.model.resources import (
    ALLOW_ALL,
    AVAILABILITY_ZONE,
    AccountResource,
    FunctionResource,
    HostResource,
    Networking,
    RuleResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
)
from hyperplane_nat.model.validation import (
    INTERNET,
    check_account,
    check_function,
    check_group,
    check_host,
    check_internet_hosts,
    check_services,
    check_subnets,
)
from hyperplane_nat.model.versions import Versions

Direction = Literal["ingress", "egress"]

DEFAULT_GROUP = "default"
"""What EC2 calls the group that a VPC comes with ("Default security groups")."""
DEFAULT_DESCRIPTION = "default VPC security group"


class Commands(PrivateLinkCommands, NetworkAclCommands, FlowLogCommands):
    """Commands on one region, all in one transaction. Errors: `ModelError`."""

    # -- accounts

    def create_account(self, name: str, number: str | None = None) -> Account:
        """An account; `number` has twelve digits. InvalidParameterValue."""
        if any(account.name == name for account in self._tables.accounts.values()):
            raise duplicate("InvalidParameterValue", "account", name)
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
        *,
        defaults: bool = False,
    ) -> Vpc:
        """
        CreateVpc; with `defaults` also what EC2 makes with it, the group `default`, whose members
        reach each other, and the main route table. InvalidParameterValue for a taken name.
        """
        owner = self._owner(account)
        if name == INTERNET or any(vpc.name == name for vpc in self._tables.vpcs.values()):
            raise duplicate("InvalidParameterValue", "VPC", name or "")
        vpc = self._changes.make_vpc(name or "", owner.id, cidr, mtu_bytes)
        vpc = self._named(vpc) if name is None else vpc
        if defaults:
            self._gateways.main_route_table(vpc)
            group = self.create_security_group(vpc.id, DEFAULT_GROUP, DEFAULT_DESCRIPTION)
            self.authorize(group.id, "ingress", [RuleResource(group=group.id)])
        return vpc

    def modify_vpc(self, vpc: str, changes: Mapping[str, bool]) -> Vpc:
        """ModifyVpcAttribute: `changes` has DNS attributes of a `Vpc`. InvalidVpcID.NotFound."""
        return self._changes.modify_vpc(self._customer_vpc(vpc), changes)

    def delete_vpc(self, vpc: str) -> None:
        """DeleteVpc, with its group `default`: InvalidVpcID.NotFound, DependencyViolation."""
        found = self.vpc(vpc)
        if found.name == INTERNET:
            raise ModelError(
                "OperationNotPermitted", f"VPC {INTERNET} is built in", "delete its hosts instead"
            )
        for group in parts_of(found, self._tables.groups):
            if group.name == DEFAULT_GROUP and not group.declared:
                self._delete(group, "security group")
        self._delete(found, "VPC")

    def create_subnet(
        self,
        vpc: str,
        cidr: IPv4Network,
        name: str | None = None,
        availability_zone: str = AVAILABILITY_ZONE,
    ) -> Subnet:
        """CreateSubnet: InvalidVpcID.NotFound, InvalidSubnet.Range, InvalidSubnet.Conflict."""
        found = self._customer_vpc(vpc)
        self._unique(self._tables.subnets, found, "InvalidParameterValue", "subnet", name)
        wanted = vpc_resource(self._tables, found)
        new = SubnetResource(name or str(cidr), cidr)
        check_subnets(replace(wanted, subnets=(*wanted.subnets, new)))
        subnet = self._changes.make_subnet(found, name or "", cidr, availability_zone)
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
        RulesPerSecurityGroupLimitExceeded, InvalidPrefixListID.NotFound.
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

    # -- hosts

    def create_host(
        self, wanted: HostResource, *, vpc: str | None = None, attached: str = ""
    ) -> Host:
        """
        RunInstances, of one: subnet and groups by id or name, the VPC that of the subnet;
        `attached` is the file of a namespace that is to be the host.

        Errors: InvalidSubnetID.NotFound, InvalidGroup.NotFound, InvalidParameterValue,
        InvalidIPAddress.InUse, InsufficientFreeAddressesInSubnet, InstanceLimitExceeded,
        Gateway.NotAttached.
        """
        named = wanted.subnet
        if vpc is not None:
            ((_, named),) = self._in(self.vpc(vpc), self._tables.subnets, [named])
        place = self.subnet(named)
        found = self._customer_vpc(place.vpc_id)
        if vpc not in (None, found.id, found.name):
            raise ModelError(
                "InvalidSubnetID.NotFound",
                f"The subnet ID '{wanted.subnet}' does not exist in VPC {vpc}",
                "name another",
            )
        self._unique(self._tables.hosts, found, "InvalidParameterValue", "host", wanted.name)
        groups = self._in(found, self._tables.groups, wanted.security_groups)
        shown = replace(
            wanted, subnet=place.name, security_groups=tuple(name for name, _ in groups)
        )
        check_host(vpc_resource(self._tables, found), shown)
        host = self._changes.make_host(place, shown, (key for _, key in groups), attached)
        self._changes.check_host_address(host)
        if wanted.public:
            self._assign_public(host, wanted.public_address)
        return host

    def modify_host(
        self,
        host: str,
        *,
        security_groups: tuple[str, ...] | None = None,
        description: str | None = None,
    ) -> Host:
        """
        ModifyInstanceAttribute: what is None stays; flows that began before go on.

        Errors: InvalidInstanceID.NotFound, InvalidGroup.NotFound.
        """
        found = self.host(host)
        if description is not None:
            found = replace(found, description=description)
        if security_groups is not None:
            vpc = self._tables.vpcs[found.vpc_id]
            groups = self._in(vpc, self._tables.groups, security_groups)
            names = tuple(name for name, _ in groups)
            subnet = self._tables.subnets[found.subnet_id].name
            check_host(
                vpc_resource(self._tables, vpc),
                HostResource(found.name, subnet, security_groups=names),
            )
            found = replace(found, group_ids=tuple(sorted(key for _, key in groups)))
        self._tables.put(found)
        return found

    def delete_host(self, host: str) -> None:
        """TerminateInstances, of one: InvalidInstanceID.NotFound, DependencyViolation.

        What runs in a namespace of the lab's own ends; one that was attached is given back.
        """
        found = self.host(host)
        self._refuse_used(found, "host")
        self._changes.remove(found)

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
        shown = next(
            item for item in vpc_resource(self._tables, vpc).services if item.name == found.name
        )
        if "host" in changes:
            changes = {"address": None, "security_groups": (), **changes}
        elif "address" in changes:
            changes = {"host": None, **changes}
        return self._put_service(vpc, replace(shown, **changes), found)

    def delete_service(self, service: str) -> None:
        """Connections to it end."""
        self._delete(self.service(service), "service")

    # -- functions

    def create_function(self, wanted: FunctionResource, account: str | None = None) -> Function:
        """
        CreateFunction: subnets and groups by id or name, the VPC and account those of the subnets.

        It is Failed when there is no address or quota left for its interfaces.

        Errors: ResourceConflictException for a name that is taken, InvalidParameterValueException.
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
        code: Mapping[str, Any] = MappingProxyType({}),
        environment: tuple[tuple[str, str], ...] | None = None,
    ) -> Function:
        """
        UpdateFunctionConfiguration: what is None stays, and so do the fields of its code that are
        not in `code`. Without subnets and groups it leaves its VPC. The old configuration serves
        until the interfaces of the new one are there.

        Errors: ResourceNotFoundException, ResourceConflictException while a change is under way,
        those of `create_function`.
        """
        found = self.versions.latest(function)
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
            code=code_with(found, code),
            environment=found.environment if environment is None else environment,
            reserved_concurrency=found.reserved_concurrency,
        )
        _, config = self._network_of(wanted, found.account_id)
        self._changes.change_function(found, wanted, config)
        return self._tables.functions[found.id]

    def update_function_code(self, function: str, path: str, sha256: str) -> Function:
        """
        UpdateFunctionCode: environments that are begun from then on have it.

        Errors: ResourceNotFoundException, ResourceConflictException while a change is under way,
        InvalidParameterValueException.
        """
        return self.update_function_configuration(function, code={"path": path, "sha256": sha256})

    def delete_function(self, function: str) -> None:
        """
        DeleteFunction, of a version too: ResourceNotFoundException, ResourceConflictException while
        an alias names it. What runs comes to its end.
        """
        if (found := self.function(function)).function_id:
            self.versions.delete(found)
        else:
            self._lifecycle.forget_function(found)

    @property
    def versions(self) -> Versions:
        """Versions and aliases of functions."""
        return Versions(self._lifecycle, declared=False)

    # -- how

    def _rule(self, group: SecurityGroup, wanted: RuleResource) -> Rule:
        other = None
        if wanted.group is not None:
            vpc = self._tables.vpcs[group.vpc_id]
            ((_, other),) = self._in(vpc, self._tables.groups, [wanted.group])
        return rule_of(wanted, other, self._lifecycle.settings.region)

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
                rule.prefix_list,
            )
            for rule in rules
        )
        shown = SecurityGroupResource(
            group.name,
            ingress=wanted if direction == "ingress" else (),
            egress=wanted if direction == "egress" else (),
        )
        vpc = vpc_resource(self._tables, self._tables.vpcs[group.vpc_id])
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
        host = None
        if wanted.host is not None:
            ((name, key),) = self._in(vpc, self._tables.hosts, [wanted.host])
            host, wanted = self._tables.hosts.get(key), replace(wanted, host=name)
        shown = replace(wanted, security_groups=tuple(group for group, _ in groups))
        there = vpc_resource(self._tables, vpc)
        others = [each for each in there.services if each.name != wanted.name]
        if vpc.name == INTERNET:
            check_internet_hosts([*others, shown])
        else:
            check_services(replace(there, services=(*others, shown)))
        service = self._changes.service_of(vpc, wanted, old, (key for _, key in groups), host)
        self._changes.check_address(service)
        self._tables.put(service)
        return service

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
        known = {} if vpc is None else {vpc.name: vpc_resource(self._tables, vpc)}
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


def _rule_text(rule: Rule) -> str:
    other = rule.cidr or rule.group_id or f"prefix list {rule.prefix_list}"
    return f"{rule.protocol} {rule.first}-{rule.last} {other}"
