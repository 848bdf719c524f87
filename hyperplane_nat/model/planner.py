# SPDX-License-Identifier: Apache-2.0
"""From wanted resources to changes of a region.

Theory of operation
-------------------
A plan is found by doing it. `Planner.run` makes the `Changes` that commands make, in an order in
which each is possible, and writes a line for each; `Region.plan` takes it all back, `Region.apply`
keeps it. So a plan shows what apply does, and whatever makes an apply impossible, the last
free address for a host included, is told before anything is changed. A function for whose
interfaces there is no address or quota is made all the same, and Failed; its line says so.

The order: everything that others refer to is made first, then functions are deleted, created and
changed, then what nobody refers to any more is deleted, those that refer before those referred to.
What still has a user when its turn comes is refused with DependencyViolation, as on AWS: an
interface is such a user until it is deleted, up to 20 minutes after the function. Who wants to wait
for that has it left out (`keep_used`), and runs the same plan again: what nobody wants any more is
deleted by the first run that finds it without a user.

A VPC whose network, account or MTU changes, and a subnet whose network or availability zone
changes, is another one: the old one is deleted, the new one made.

What commands have made and no declaration has named stays, unless something else is to have its
name. What a declaration names is declared from then on, whoever has made it.

Interfaces and environments of the lab file are made by the first run, without a line: they are
there when the lab is, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

from hyperplane_nat.model.balancer_planner import BalancerPlanner
from hyperplane_nat.model.changes import Changes, N, by_name, parts_of
from hyperplane_nat.model.entities import (
    Account,
    Declaration,
    Function,
    Host,
    NetworkConfig,
    Rule,
    SecurityGroup,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_planner import GatewayPlanner
from hyperplane_nat.model.group_rules import rule_of
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.resources import (
    AliasResource,
    FunctionResource,
    HostResource,
    Networking,
    Resources,
    RuleResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.states import FunctionState
from hyperplane_nat.model.validation import INTERNET, accounts_of, check_subnets, validate
from hyperplane_nat.model.versions import Versions, by_alias

CREATE = "create"
CHANGE = "change"
DELETE = "delete"


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One step of a plan."""

    action: str
    """"create", "change" or "delete"."""
    kind: str
    """"account", "vpc", "subnet", "security-group", "internet-gateway", "host", "service",
    "internet-host", "public-address", "nat-gateway", "route-table", "network-acl", "target-group",
    "listener", "load-balancer", "endpoint-service", "endpoint", "gateway-endpoint", "function",
    "version" and "alias"."""
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
        self._changes = Changes(lifecycle, declared=True)
        self._keep_used = keep_used
        self._tables = lifecycle.tables
        self._wanted = wanted
        self._lines: list[PlanLine] = []
        self._accounts: dict[str, Account] = {}
        self._vpcs: dict[str, Vpc] = {}
        self._subnets: dict[tuple[str, str], Subnet] = {}
        self._groups: dict[tuple[str, str], SecurityGroup] = {}
        self._hosts: dict[tuple[str, str], Host] = {}
        self._services: set[str] = set()
        self._gateways = GatewayPlanner(self._changes, self._line, self._still_used)
        self._balancers = BalancerPlanner(
            self._changes, self._line, self._accounts, self._subnets, self._groups, self._hosts
        )

    def run(self) -> tuple[PlanLine, ...]:
        """Do it; the lines in the order of the steps."""
        validate(self._wanted, self._lifecycle.settings)
        internet = self._changes.internet()
        self._make_accounts()
        for vpc in self._wanted.vpcs:
            self._make_vpc(vpc)
        # Its numbers are fixed; what comes behind it takes what is left.
        self._provide()
        for vpc in self._wanted.vpcs:
            self._gateways.attach(self._vpcs[vpc.name], vpc)
        for vpc in self._wanted.vpcs:
            self._make_hosts(self._vpcs[vpc.name], vpc.hosts)
        for vpc in self._wanted.vpcs:
            self._make_services(self._vpcs[vpc.name], vpc.services)
        self._make_services(internet, self._wanted.internet)
        self._delete_services()
        self._delete_hosts()
        for service in self._tables.services.values():
            self._changes.check_address(service)
        for host in self._hosts.values():
            self._changes.check_host_address(host)
        self._gateways.expose(self._hosts, self._wanted.vpcs)
        for vpc in self._wanted.vpcs:
            self._gateways.make_nat_gateways(self._vpcs[vpc.name], vpc, self._subnets)
            self._gateways.make_tables(self._vpcs[vpc.name], vpc, self._subnets, self._hosts)
            self._balancers.make(self._vpcs[vpc.name], vpc)
        self._balancers.share(self._vpcs, self._wanted.vpcs)
        self._delete_functions()
        for function in self._wanted.functions:
            try:
                self._make_function(function)
            except ModelError as error:
                raise error.at(entry_of("function", function.name)) from None
        self._lifecycle.settle()
        self._delete_unused(internet)
        if not self._applied:
            self._remember()
        return tuple(self._lines)

    def resume(self) -> None:
        """
        Delete what an earlier run has left for later. What commands have changed since stays; a
        declaration that is not the one of that run is carried out as a whole.
        """
        if not self._applied:
            self.run()
            return
        wanted = {vpc.name: vpc for vpc in self._wanted.vpcs}
        accounts = {account.name for account in accounts_of(self._wanted)}
        self._accounts = {a.name: a for a in self._tables.accounts.values() if a.name in accounts}
        for vpc in self._tables.vpcs.values():
            if vpc.name not in wanted:
                continue
            self._vpcs[vpc.name] = vpc
            subnets = {each.name for each in wanted[vpc.name].subnets}
            for subnet in parts_of(vpc, self._tables.subnets):
                if subnet.name in subnets:
                    self._subnets[vpc.name, subnet.name] = subnet
            groups = {each.name for each in wanted[vpc.name].security_groups}
            for group in parts_of(vpc, self._tables.groups):
                if group.name in groups:
                    self._groups[vpc.name, group.name] = group
        self._delete_unused(self._changes.internet())

    def _remember(self) -> None:
        if self._wanted != Resources(accounts=()):
            self._tables.put(self._declaration)
            return
        # To carry out a declaration of nothing again does nothing.
        for former in list(self._tables.declarations.values()):
            self._tables.remove(former)

    @property
    def _declaration(self) -> Declaration:
        return Declaration(sha256(repr(self._wanted).encode()).hexdigest())

    @property
    def _applied(self) -> bool:
        """Whether this declaration was the last one that was applied."""
        return self._declaration in self._tables.declarations.values()

    def _delete_unused(self, internet: Vpc) -> None:
        there = self._vpcs
        wanted = {there[vpc.name].id: vpc for vpc in self._wanted.vpcs if vpc.name in there}
        self._balancers.delete_unused(wanted)
        self._gateways.delete_unused(wanted)
        self._delete_groups()
        self._delete_subnets()
        self._delete_vpcs(internet)
        self._delete_accounts()

    def _line(self, action: str, kind: str, name: str, detail: str = "") -> None:
        self._lines.append(PlanLine(action, kind, name, detail))

    def _declared(self, item: N) -> N:
        """Something that there is, and that the declaration names."""
        if not item.declared:
            item = replace(item, declared=True)
            self._tables.put(item)
        return item

    def _make_accounts(self) -> None:
        present = {account.name: account for account in self._tables.accounts.values()}
        for wanted in accounts_of(self._wanted):
            account = present.get(wanted.name)
            if account is None or wanted.id not in (None, account.id):
                account = self._changes.make_account(wanted.name, wanted.id)
                self._line(CREATE, "account", account.name, account.id)
            self._accounts[wanted.name] = self._declared(account)

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
        dns = {
            "enable_dns_support": wanted.enable_dns_support,
            "enable_dns_hostnames": wanted.enable_dns_hostnames,
        }
        if vpc is None:
            vpc = self._changes.make_vpc(wanted.name, owner, wanted.cidr, wanted.mtu_bytes)
            self._line(CREATE, "vpc", vpc.name, str(vpc.cidr))
            vpc = self._changes.modify_vpc(vpc, dns)
        elif any(getattr(vpc, field) != value for field, value in dns.items()):
            vpc = self._changes.modify_vpc(vpc, dns)
            self._line(CHANGE, "vpc", vpc.name, "DNS attributes")
        self._vpcs[vpc.name] = vpc = self._declared(vpc)
        present = {
            item.name: item for item in self._tables.subnets.values() if item.vpc_id == vpc.id
        }
        for item in wanted.subnets:
            subnet = present.get(item.name)
            if subnet is None or (subnet.cidr, subnet.availability_zone) != (
                item.cidr,
                item.availability_zone,
            ):
                subnet = self._changes.make_subnet(
                    vpc, item.name, item.cidr, item.availability_zone
                )
                self._line(CREATE, "subnet", f"{vpc.name}/{subnet.name}", str(subnet.cidr))
            self._subnets[vpc.name, subnet.name] = self._declared(subnet)
        self._check_networks(vpc, wanted)
        self._make_groups(vpc, wanted)

    def _check_networks(self, vpc: Vpc, wanted: VpcResource) -> None:
        """What stays beside the declared subnets does not overlap them."""
        staying = [
            SubnetResource(item.name, item.cidr)
            for item in parts_of(vpc, self._tables.subnets)
            if not item.declared and not self._gone(item)
        ]
        check_subnets(replace(wanted, subnets=(*wanted.subnets, *staying)))

    def _make_groups(self, vpc: Vpc, wanted: VpcResource) -> None:
        present = {
            item.name: item for item in self._tables.groups.values() if item.vpc_id == vpc.id
        }
        # Rules refer to groups in any order: all have their ids before the first rule is made.
        for item in wanted.security_groups:
            self._groups[vpc.name, item.name] = present.get(item.name) or SecurityGroup(
                self._changes.new_id("sg"), item.name, vpc.id, item.description, (), ()
            )
        for item in wanted.security_groups:
            group = replace(
                self._groups[vpc.name, item.name],
                description=item.description,
                ingress=self._rules(vpc, item.ingress),
                egress=self._rules(vpc, item.egress),
                declared=True,
            )
            self._groups[vpc.name, item.name] = group
            name = f"{vpc.name}/{group.name}"
            rules = f"{len(group.ingress)} ingress, {len(group.egress)} egress rules"
            if group.name not in present:
                self._line(CREATE, "security-group", name, rules)
            elif replace(present[group.name], declared=True) != group:
                self._line(CHANGE, "security-group", name, rules)
            if present.get(group.name) != group:
                self._tables.put(group)

    def _rules(self, vpc: Vpc, rules: Iterable[RuleResource]) -> tuple[Rule, ...]:
        return tuple(
            rule_of(
                rule,
                None if rule.group is None else self._groups[vpc.name, rule.group].id,
                self._lifecycle.settings.region,
            )
            for rule in rules
        )

    def _make_hosts(self, vpc: Vpc, wanted: Iterable[HostResource]) -> None:
        present = {host.name: host for host in parts_of(vpc, self._tables.hosts)}
        for item in wanted:
            subnet = self._subnets[vpc.name, item.subnet]
            groups = tuple(sorted(self._groups[vpc.name, each].id for each in item.security_groups))
            old = present.get(item.name)
            name = f"{vpc.name}/{item.name}"
            if (
                old is None
                or old.attached
                or old.subnet_id != subnet.id
                or item.address not in (None, old.address)
            ):
                # Another host in the place of what has its name.
                host = self._changes.make_host(subnet, item, groups)
                self._line(CREATE, "host", name, str(host.address))
            else:
                host = replace(old, description=item.description, group_ids=groups, declared=True)
                if replace(old, declared=True) != host:
                    self._line(CHANGE, "host", name, f"{len(groups)} security groups")
                if old != host:
                    self._tables.put(host)
            self._hosts[vpc.name, item.name] = host

    def _delete_hosts(self) -> None:
        kept = {host.id for host in self._hosts.values()}
        for host in by_name(self._tables.hosts.values()):
            vpc = self._tables.vpcs[host.vpc_id]
            again = (vpc.name, host.name) in self._hosts
            if host.id in kept or not (host.declared or again):
                continue
            name = f"{vpc.name}/{host.name}"
            if user := self._changes.user_of(host):
                self._used("host", name, f"host {host.name}", host.id, user, again)
            else:
                self._changes.remove(host)
                self._line(DELETE, "host", name)

    def _make_services(self, vpc: Vpc, wanted: Iterable[ServiceResource]) -> None:
        present = {
            item.name: item for item in self._tables.services.values() if item.vpc_id == vpc.id
        }
        kind = "internet-host" if vpc.name == INTERNET else "service"
        for item in wanted:
            old = present.get(item.name)
            groups = (self._groups[vpc.name, name].id for name in item.security_groups)
            host = None if item.host is None else self._hosts[vpc.name, item.host]
            service = self._changes.service_of(vpc, item, old, groups, host)
            self._services.add(service.id)
            name = item.name if vpc.name == INTERNET else f"{vpc.name}/{item.name}"
            if old is None or service != replace(old, declared=True):
                action = CREATE if old is None else CHANGE
                self._line(action, kind, name, f"{item.kind} {service.address}:{item.port}")
            if service != old:
                self._tables.put(service)

    def _delete_services(self) -> None:
        for service in by_name(self._tables.services.values()):
            if service.declared and service.id not in self._services:
                vpc = self._tables.vpcs[service.vpc_id]
                internet = vpc.name == INTERNET
                kind = "internet-host" if internet else "service"
                name = service.name if internet else f"{vpc.name}/{service.name}"
                self._tables.remove(service)
                self._line(DELETE, kind, name)

    def _provide(self) -> None:
        """What the lab file has of its own. A state map knows it by its numbers: they are as they
        always were.
        """
        wanted = self._wanted.interfaces
        following = len(wanted)
        for number, item in enumerate(wanted):
            secondary = tuple(enumerate(item.addresses[1:], following))
            following += len(secondary)
            if item.name not in self._tables.interfaces:
                subnet = self._subnets[item.vpc, item.subnet]
                self._changes.make_interface(item, subnet, number, secondary)
        for number in range(1, self._wanted.environments + 1):
            if number not in self._tables.environments:
                self._changes.make_environment(number, wanted[(number - 1) % len(wanted)].name)

    def _config(self, wanted: FunctionResource) -> NetworkConfig:
        if wanted.networking is Networking.NONE:
            return self._changes.config_of_internet()
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

    def _make_function(self, wanted: FunctionResource) -> None:
        config = self._config(wanted)
        old = self._tables.function(wanted.name)
        if old is None:
            account = self._accounts[wanted.account].id
            made = self._changes.make_function(wanted, account, config)
            details = [wanted.networking.value]
            if made.state is FunctionState.FAILED:
                details.append(f"Failed: {made.state_reason_code}")
            self._line(CREATE, "function", wanted.name, ", ".join(details))
        elif details := self._changes.change_function(self._declared(old), wanted, config):
            self._line(CHANGE, "function", wanted.name, ", ".join(details))
        self._make_aliases(self._tables.functions[self._id_of(wanted.name)], wanted.aliases)

    def _id_of(self, function: str) -> str:
        return self._tables.function_names[function]

    def _make_aliases(self, function: Function, wanted: Iterable[AliasResource]) -> None:
        versions = Versions(self._lifecycle, declared=True)
        failed = {
            version.id
            for version in self._tables.versions(function)
            if version.state is FunctionState.FAILED
        }
        had = by_alias(function)
        names = set()
        for item in wanted:
            names.add(item.name)
            number = item.version
            if number is None:
                version = versions.publish(function)
                if version.published > function.published:
                    self._line(CREATE, "version", version.name)
                number, function = version.published, self._tables.functions[function.id]
            try:
                weights = dict(item.additional)
                function = versions.put_alias(
                    function, item.name, number, item.provisioned_concurrency, weights
                )
            except ModelError as error:
                name = f"{function.name}/{item.name}"
                raise error.at(entry_of("alias", name, "version")) from None
            old, new = had.get(item.name), by_alias(function)[item.name]
            if old is None or replace(old, declared=True) != new:
                action = CREATE if old is None else CHANGE
                detail = f"version {number}"
                if item.provisioned_concurrency:
                    detail += f", provisioned concurrency {item.provisioned_concurrency}"
                for other, weight in item.additional:
                    detail += f", {weight:.4g} of it version {other}"
                self._line(action, "alias", f"{function.name}:{item.name}", detail)
        for alias in had.values():
            if alias.declared and alias.name not in names:
                function = versions.delete_alias(function, alias.name)
                self._line(DELETE, "alias", f"{function.name}:{alias.name}")
        used = {number for alias in function.aliases for number in alias.versions}
        for version in self._tables.versions(function):
            if version.declared and version.published not in used:
                versions.delete(version)
                self._line(DELETE, "version", version.name)
            elif version.id in failed:
                self._lifecycle.configure(version, version.target)
                self._line(CHANGE, "version", version.name, "try again")

    def _delete_functions(self) -> None:
        # A function is its account's: in another account it is another function.
        kept = {(item.name, self._accounts[item.account].id) for item in self._wanted.functions}
        names = {name for name, _ in kept}
        for function in by_name(self._tables.functions.values()):
            named = function.declared or function.name in names
            # Versions are their function's.
            if (
                named
                and not function.function_id
                and (function.name, function.account_id) not in kept
            ):
                self._lifecycle.forget_function(function)
                self._line(DELETE, "function", function.name)

    def _delete_groups(self) -> None:
        gone = [group for group in by_name(self._tables.groups.values()) if self._gone(group)]
        users = self._users_of_groups(gone)
        for group in gone:
            vpc = self._tables.vpcs[group.vpc_id]
            name = f"{vpc.name}/{group.name}"
            if user := users.get(group.id):
                what = f"security group {group.name}"
                again = self._replaced(vpc) or (vpc.name, group.name) in self._groups
                self._used("security-group", name, what, group.id, user, again)
            else:
                self._tables.remove(group)
                self._line(DELETE, "security-group", name)

    def _users_of_groups(self, gone: list[SecurityGroup]) -> dict[str, str]:
        """The users of groups to be deleted, by the group's id.

        What is wanted names no such group; the rules of one that has to stay may.
        """
        going = {group.id for group in gone}
        users = {
            group.id: user
            for group in gone
            if (user := self._changes.user_of(group, besides=going))
        }
        staying = [group for group in gone if group.id in users]
        while staying:
            group = staying.pop()
            named = {rule.group_id for rule in group.ingress + group.egress}
            for other in gone:
                if other.id in named and other.id not in users:
                    users[other.id] = f"security group {group.name}"
                    staying.append(other)
        return users

    def _delete_subnets(self) -> None:
        for subnet in by_name(self._tables.subnets.values()):
            vpc = self._tables.vpcs[subnet.vpc_id]
            if not self._gone(subnet):
                continue
            name = f"{vpc.name}/{subnet.name}"
            if user := self._changes.user_of(subnet):
                again = self._replaced(vpc) or (vpc.name, subnet.name) in self._subnets
                self._used("subnet", name, f"subnet {subnet.name}", subnet.id, user, again)
            else:
                self._changes.remove(subnet)
                self._line(DELETE, "subnet", name)

    def _delete_vpcs(self, internet: Vpc) -> None:
        kept = {internet.id, *(vpc.id for vpc in self._vpcs.values())}
        for vpc in by_name(self._tables.vpcs.values()):
            if vpc.id in kept or not (vpc.declared or vpc.name in self._vpcs):
                continue
            if user := self._changes.user_of(vpc):
                self._used("vpc", vpc.name, f"VPC {vpc.name}", vpc.id, user, self._replaced(vpc))
            else:
                self._changes.remove(vpc)
                self._line(DELETE, "vpc", vpc.name)

    def _delete_accounts(self) -> None:
        kept = {account.id for account in self._accounts.values()}
        for account in by_name(self._tables.accounts.values()):
            if account.id in kept or not (account.declared or account.name in self._accounts):
                continue
            if user := self._changes.user_of(account):
                again = account.name in self._accounts
                what = f"account {account.name}"
                self._used("account", account.name, what, account.id, user, again)
            else:
                self._tables.remove(account)
                self._line(DELETE, "account", account.name)

    def _gone(self, part: Subnet | SecurityGroup) -> bool:
        """Whether a subnet or group is to be deleted: another one may have its name."""
        name = self._tables.vpcs[part.vpc_id].name
        kept: Subnet | SecurityGroup | None = (
            self._subnets.get((name, part.name))
            if isinstance(part, Subnet)
            else self._groups.get((name, part.name))
        )
        if kept is None:
            return part.declared and name != INTERNET
        return kept.id != part.id

    def _replaced(self, vpc: Vpc) -> bool:
        """Whether another VPC has its name from now on."""
        return vpc.name in self._vpcs and self._vpcs[vpc.name].id != vpc.id

    def _still_used(self, kind: str, name: str, what: str, resource: str, user: str) -> None:
        self._used(kind, name, what, resource, user, name_taken=False)

    def _used(
        self, kind: str, name: str, what: str, resource: str, user: str, name_taken: bool
    ) -> None:
        """Something to be deleted has a user: it stays for now, or nothing is done at all.

        What is to be made anew under the same name cannot stand beside it.
        """
        if name_taken or not self._keep_used:
            raise in_use(what, resource, user, entry_of(kind, name), name_taken=name_taken)
        self._lines.append(PlanLine(DELETE, kind, name, waits_for=user))


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
