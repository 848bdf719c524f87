# SPDX-License-Identifier: Apache-2.0
"""The tables of a region: entities by key, what follows from them, and transactions.

Theory of operation
-------------------
Every change goes through `put` and `remove`. They keep the indexes right, write down the entity as
it was (so that a transaction that fails puts everything back), and note the key as changed (so that
the store writes rows and not regions). Indexes are derived from entities alone and never stored.

Timers are a heap of (due, kind, key). An entry counts only while the entity it names still has
that `due`; others are dropped when they come up, and the heap is made anew when most of it is such.

`touched_interfaces` and `touched_functions` collect what the changes may have consequences for; the
life cycle settles them at the end of a transaction.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from hyperplane_nat.model.balancer_entities import (
    HealthChecker,
    Listener,
    LoadBalancer,
    TargetGroup,
)
from hyperplane_nat.model.derived import Derived
from hyperplane_nat.model.entities import (
    KIND_OF,
    KINDS,
    LATEST,
    WITHOUT_LINK,
    Account,
    Alias,
    Combination,
    Declaration,
    Entity,
    ExecutionEnvironment,
    Function,
    Host,
    InterfaceKind,
    NetworkInterface,
    RetiredHost,
    RetiredNumber,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.flow_log_entities import FlowLog
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    RouteTable,
)
from hyperplane_nat.model.network_acl_entities import NetworkAcl
from hyperplane_nat.model.private_link_entities import (
    EndpointService,
    GatewayEndpoint,
    VpcEndpoint,
)
from hyperplane_nat.model.states import EnvironmentState, InterfaceStatus

Key = str | int
T = TypeVar("T")
NETWORK_KINDS = frozenset(
    {
        "vpc",
        "subnet",
        "security_group",
        "host",
        "service",
        "route_table",
        "network_acl",
        "internet_gateway",
        "elastic_address",
        "nat_gateway",
        "target_group",
        "load_balancer",
        "listener",
        "health_checker",
        "endpoint_service",
        "vpc_endpoint",
        "gateway_endpoint",
    }
)
"""What `network_revision` counts the changes of, besides interfaces."""

_TIMED = (
    "nat_gateway",
    "target_group",
    "load_balancer",
    "vpc_endpoint",
    "function",
    "interface",
    "environment",
)
"""What has a time at which something happens to it by itself."""


@dataclass(frozen=True, slots=True)
class Change:
    """A row to write: the entity, or None when it is to be deleted."""

    kind: str
    key: Key
    entity: Entity | None


class Tables:
    """All entities of a region. Dictionaries are for reading; `put` and `remove` change them."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Key, Entity]] = {kind: {} for kind in KINDS}
        self.accounts = cast("dict[str, Account]", self._rows["account"])
        self.vpcs = cast("dict[str, Vpc]", self._rows["vpc"])
        self.subnets = cast("dict[str, Subnet]", self._rows["subnet"])
        self.groups = cast("dict[str, SecurityGroup]", self._rows["security_group"])
        self.hosts = cast("dict[str, Host]", self._rows["host"])
        self.services = cast("dict[str, Service]", self._rows["service"])
        self.route_tables = cast("dict[str, RouteTable]", self._rows["route_table"])
        self.network_acls = cast("dict[str, NetworkAcl]", self._rows["network_acl"])
        self.internet_gateways = cast("dict[str, InternetGateway]", self._rows["internet_gateway"])
        self.elastic_addresses = cast("dict[str, ElasticAddress]", self._rows["elastic_address"])
        self.nat_gateways = cast("dict[str, NatGateway]", self._rows["nat_gateway"])
        self.target_groups = cast("dict[str, TargetGroup]", self._rows["target_group"])
        self.load_balancers = cast("dict[str, LoadBalancer]", self._rows["load_balancer"])
        self.listeners = cast("dict[str, Listener]", self._rows["listener"])
        self.health_checkers = cast("dict[str, HealthChecker]", self._rows["health_checker"])
        self.endpoint_services = cast("dict[str, EndpointService]", self._rows["endpoint_service"])
        self.endpoints = cast("dict[str, VpcEndpoint]", self._rows["vpc_endpoint"])
        self.gateway_endpoints = cast("dict[str, GatewayEndpoint]", self._rows["gateway_endpoint"])
        self.functions = cast("dict[str, Function]", self._rows["function"])
        self.interfaces = cast("dict[str, NetworkInterface]", self._rows["interface"])
        self.environments = cast("dict[int, ExecutionEnvironment]", self._rows["environment"])
        self.retired_numbers = cast("dict[int, RetiredNumber]", self._rows["retired_number"])
        self.retired_hosts = cast("dict[int, RetiredHost]", self._rows["retired_host"])
        self.flow_logs = cast("dict[str, FlowLog]", self._rows["flow_log"])
        self.declarations = cast("dict[int, Declaration]", self._rows["declaration"])

        self.function_names: dict[str, str] = {}
        self.tokens: dict[str, int] = {}
        self.numbers: set[int] = set()
        self.host_numbers: set[int] = set()
        self.links: set[str] = set()
        self.network_revision = 0
        """Counts changes of VPCs, groups and services, and interfaces that come and go."""
        self.policy_revision = 0
        """Counts what may change the policy of an interface that already stands."""
        self.touched_interfaces: dict[str, None] = {}
        self.touched_functions: dict[str, None] = {}
        self._in_vpc: dict[str, dict[str, None]] = defaultdict(dict)
        self._addresses: dict[str, dict[int, int]] = defaultdict(dict)
        self._sharing: dict[Combination, dict[str, None]] = defaultdict(dict)
        self._holders: dict[Combination, dict[str, None]] = defaultdict(dict)
        self._attached: dict[str, dict[int, None]] = defaultdict(dict)
        self._environments: dict[str, dict[int, None]] = defaultdict(dict)
        self._idle: dict[str, dict[int, None]] = defaultdict(dict)
        self._terminating: dict[int, None] = {}
        self._named: dict[str, dict[str, None]] = defaultdict(dict)
        """Groups that egress rules name, and the groups with these rules."""
        self._listeners: dict[str, dict[str, None]] = defaultdict(dict)
        self._by_port: dict[str, tuple[Listener, ...]] = {}
        """Those of a load balancer, once they were asked for."""
        self._forwarding: dict[str, dict[str, None]] = defaultdict(dict)

        self._revisions = dict.fromkeys(KINDS, 0)
        self.derived = Derived(self.revisions)
        self._timers: list[tuple[float, str, Key]] = []
        self._timed = 0
        self._journal: list[Change] | None = None
        self._changed: dict[tuple[str, Key], None] = {}

    def put(self, entity: Entity) -> None:
        """Add the entity, or replace the one of its kind and key."""
        kind = KIND_OF[type(entity)]
        self._set(kind, entity.key, entity)

    def remove(self, entity: Entity) -> None:
        """Take the entity out."""
        self._set(KIND_OF[type(entity)], entity.key, None)

    def copy(self) -> Tables:
        """The entities as they are, for whoever looks at them for longer."""
        result = Tables()
        for rows in self._rows.values():
            for entity in rows.values():
                result.put(entity)
        return result

    def rows(self, kind: str) -> Iterable[Entity]:
        """All entities of a kind, in the order in which they came."""
        return self._rows[kind].values()

    def revisions(self, kinds: Iterable[str]) -> tuple[int, ...]:
        """How often something of each of these kinds has changed."""
        return tuple([self._revisions[kind] for kind in kinds])

    def in_vpc(self, vpc_id: str) -> list[NetworkInterface]:
        """The interfaces in a VPC, those being deleted included: they count for the quota."""
        return [self.interfaces[key] for key in self._in_vpc.get(vpc_id, ())]

    def count_in_vpc(self, vpc_id: str) -> int:
        """How many interfaces Lambda has in a VPC."""
        others = {InterfaceKind.STATIC, InterfaceKind.ROUTER, *WITHOUT_LINK}
        return sum(each.kind not in others for each in self.in_vpc(vpc_id))

    def router_interface(self, vpc_id: str) -> NetworkInterface | None:
        """The interface that leads to the router of a VPC with hosts."""
        known: dict[str, NetworkInterface | None]
        known = self.derived.get("routers", ("interface",), dict)
        if vpc_id not in known:
            own = (each for each in self.in_vpc(vpc_id) if each.kind is InterfaceKind.ROUTER)
            known[vpc_id] = next(own, None)
        return known[vpc_id]

    def hosts_in(self, vpc_id: str) -> list[Host]:
        """The hosts of a VPC."""
        return [host for host in self.hosts.values() if host.vpc_id == vpc_id]

    def main_route_table(self, vpc_id: str) -> RouteTable | None:
        """The main route table of a VPC."""
        for table in self.route_tables.values():
            if table.vpc_id == vpc_id and table.main:
                return table
        return None

    def route_table_of(self, subnet: Subnet) -> RouteTable | None:
        """The route table of a subnet: its own, or the main one of its VPC."""
        for table in self.route_tables.values():
            if subnet.id in table.subnet_ids:
                return table
        return self.main_route_table(subnet.vpc_id)

    def internet_gateway_of(self, vpc_id: str) -> InternetGateway | None:
        """The internet gateway that is attached to a VPC."""
        for gateway in self.internet_gateways.values():
            if gateway.vpc_id == vpc_id:
                return gateway
        return None

    def public_address_of(self, host_id: str) -> ElasticAddress | None:
        """The public address that is associated with a host."""
        for address in self.elastic_addresses.values():
            if address.host_id == host_id:
                return address
        return None

    def nat_gateways_in(self, vpc_id: str) -> list[NatGateway]:
        """The NAT gateways of a VPC that have not ended."""
        return [
            each for each in self.nat_gateways.values() if each.vpc_id == vpc_id and not each.ended
        ]

    def listeners_of(self, balancer_id: str) -> tuple[Listener, ...]:
        """The listeners of a load balancer, by port."""
        if (known := self._by_port.get(balancer_id)) is None:
            own = [self.listeners[key] for key in self._listeners.get(balancer_id, ())]
            known = tuple(sorted(own, key=lambda each: each.port))
            self._by_port[balancer_id] = known
        return known

    def listener_to(self, group_id: str) -> Listener | None:
        """A listener that forwards to a target group."""
        return next((self.listeners[key] for key in self._forwarding.get(group_id, ())), None)

    def addresses(self, vpc_id: str) -> dict[int, int]:
        """Addresses that interfaces, services and others have, as numbers."""
        return self._addresses.get(vpc_id, {})

    def sharing(self, combination: Combination) -> list[NetworkInterface]:
        """The interfaces of a combination that are not being deleted."""
        return [self.interfaces[key] for key in self._sharing.get(combination, ())]

    def holders(self, combination: Combination) -> list[Function]:
        """The functions that hold the interfaces of a combination."""
        return [self.functions[key] for key in self._holders.get(combination, ())]

    def attached(self, interface_id: str) -> int:
        """How many environments an interface has, terminating ones included."""
        return len(self._attached.get(interface_id, ()))

    def references(self, interface: NetworkInterface) -> int:
        """Functions and environments that use an interface."""
        combination = interface.combination
        holders = len(self._holders.get(combination, ())) if combination is not None else 0
        return holders + self.attached(interface.id)

    def environments_of(self, function_id: str) -> list[ExecutionEnvironment]:
        """All environments of a function."""
        return [self.environments[slot] for slot in self._environments.get(function_id, ())]

    def idle_of(self, function_id: str) -> list[int]:
        """Slots of the idle environments of a function, the one idle for longest first."""
        return list(self._idle.get(function_id, ()))

    def last_idle_of(self, function_id: str) -> int | None:
        """Slot of the environment of a function that became idle last."""
        idle = self._idle.get(function_id)
        return next(reversed(idle)) if idle else None

    def terminating(self) -> list[int]:
        """Slots of the environments to take down."""
        return list(self._terminating)

    def function(self, name: str) -> Function | None:
        """The function of that name, or what a qualifier behind a colon names of it."""
        key = self.function_names.get(name)
        if key is not None:
            return self.functions[key]
        own_name, _, qualifier = name.partition(":")
        key = self.function_names.get(own_name)
        if key is None or not qualifier:
            return None
        function = self.functions[key]
        if qualifier == LATEST:
            return function
        alias = self.alias(name)
        if alias is None:
            return None
        return (
            self.functions[self.function_names[f"{own_name}:{alias.version}"]]
            if (alias.version)
            else function
        )

    def alias(self, name: str) -> Alias | None:
        """The alias that is named behind a colon, if it is one."""
        own_name, _, qualifier = name.partition(":")
        key = self.function_names.get(own_name)
        aliases = () if key is None else self.functions[key].aliases
        return next((each for each in aliases if each.name == qualifier), None)

    def versions(self, function: Function) -> list[Function]:
        """What was published of a function, in the order of the numbers."""
        found = [each for each in self.functions.values() if each.function_id == function.id]
        return sorted(found, key=lambda each: each.published)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made inside, or none when an exception leaves it. They do not nest."""
        assert self._journal is None, "a transaction inside another"
        self._journal = []
        try:
            yield
        except BaseException:
            journal, self._journal = self._journal, None
            self.rollback(journal)
            raise
        finally:
            self._journal = None

    def undo(self) -> None:
        """Put back everything that the running transaction has changed so far."""
        assert self._journal is not None
        journal, self._journal = self._journal, None
        self.rollback(journal)
        self._journal = []

    def rollback(self, journal: list[Change]) -> None:
        """Put entities back as they were, the last change first."""
        for change in reversed(journal):
            self._set(change.kind, change.key, change.entity)
        self._order_idle(
            {
                change.entity.function_id
                for change in journal
                if isinstance(change.entity, ExecutionEnvironment)
            }
        )
        self.touched_interfaces.clear()
        self.touched_functions.clear()

    def changes(self) -> list[Change]:
        """What has changed since `mark_saved`."""
        return [Change(kind, key, self._rows[kind].get(key)) for kind, key in self._changed]

    def mark_saved(self) -> None:
        """Everything up to now is in the store."""
        self._changed.clear()

    def due(self, now: float) -> Entity | None:
        """An entity whose time has come, the earliest first; None when there is no other."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        _, kind, key = heapq.heappop(self._timers)
        return self._rows[kind][key]

    def next_deadline(self) -> float | None:
        """When the first entity is due."""
        while self._timers:
            due, kind, key = self._timers[0]
            entity = self._rows[kind].get(key)
            if entity is not None and _due(entity) == due:
                return due
            heapq.heappop(self._timers)
        return None

    def _set(self, kind: str, key: Key, entity: Entity | None) -> None:
        rows = self._rows[kind]
        old = rows.get(key)
        if self._journal is not None:
            self._journal.append(Change(kind, key, old))
        if old is not None:
            self._unindex(kind, old)
        if entity is None:
            rows.pop(key, None)
        else:
            rows[key] = entity
            self._index(kind, entity)
        self._count_revision(kind, old, entity)
        self._changed[kind, key] = None
        self._set_timer(kind, key, old, entity)

    def _order_idle(self, function_ids: Iterable[str]) -> None:
        """Idle environments in the order in which they became idle: putting back loses it."""
        for function_id in function_ids:
            if idle := self._idle.get(function_id):
                slots = sorted(idle, key=lambda slot: self.environments[slot].due or 0.0)
                self._idle[function_id] = dict.fromkeys(slots)

    def _count_revision(self, kind: str, old: Entity | None, new: Entity | None) -> None:
        self._revisions[kind] += 1
        if kind in NETWORK_KINDS:
            self.network_revision += 1
            self.policy_revision += 1
        elif kind == "interface" and _stands(old) != _stands(new):
            self.network_revision += 1
            interface = cast("NetworkInterface", old if new is None else new)
            if any(group_id in self._named for group_id in interface.group_ids):
                self.policy_revision += 1

    def _set_timer(self, kind: str, key: Key, old: Entity | None, new: Entity | None) -> None:
        before = None if old is None else _due(old)
        after = None if new is None else _due(new)
        self._timed += (after is not None) - (before is not None)
        if after is not None and after != before:
            heapq.heappush(self._timers, (after, kind, key))
            if len(self._timers) > 2 * self._timed + 64:
                self._timers = [
                    (due, kind, key)
                    for kind in _TIMED
                    for key, entity in self._rows[kind].items()
                    if (due := _due(entity)) is not None
                ]
                heapq.heapify(self._timers)

    def _index(self, kind: str, entity: Entity) -> None:
        if isinstance(entity, NetworkInterface):
            self.numbers.update(entity.numbers)
            self.links.add(entity.link)
            self._in_vpc[entity.vpc_id][entity.id] = None
            for address in entity.addresses:
                self._take(entity.vpc_id, int(address))
            if (combination := entity.combination) is not None:
                self._sharing[combination][entity.id] = None
            self._touch_interface(entity)
        elif isinstance(entity, ExecutionEnvironment):
            self._attached[entity.interface_id][entity.slot] = None
            self._environments[entity.function_id][entity.slot] = None
            if entity.state is EnvironmentState.IDLE:
                self._idle[entity.function_id][entity.slot] = None
            elif entity.state is EnvironmentState.TERMINATING:
                self._terminating[entity.slot] = None
            if entity.token is not None:
                self.tokens[entity.token] = entity.slot
            self.touched_interfaces[entity.interface_id] = None
        elif isinstance(entity, Function):
            self.function_names[entity.name] = entity.id
            for combination in entity.combinations:
                self._holders[combination][entity.id] = None
                self._touch_sharing(combination)
            self.touched_functions[entity.id] = None
        elif isinstance(entity, SecurityGroup):
            for rule in entity.egress:
                if rule.group_id is not None:
                    self._named[rule.group_id][entity.id] = None
        elif isinstance(entity, Listener):
            self._listeners[entity.load_balancer_id][entity.id] = None
            self._by_port.pop(entity.load_balancer_id, None)
            self._forwarding[entity.target_group_id][entity.id] = None
        elif isinstance(entity, Host):
            self._take(entity.vpc_id, int(entity.address))
            self.host_numbers.add(entity.number)
        elif isinstance(entity, Service):
            self._take(entity.vpc_id, int(entity.address))
        elif isinstance(entity, ElasticAddress):
            self._take(entity.internet_id, int(entity.address))
        elif isinstance(entity, RetiredNumber):
            self.numbers.add(entity.number)
        elif isinstance(entity, RetiredHost | HealthChecker):
            self.host_numbers.add(entity.number)

    def _unindex(self, kind: str, entity: Entity) -> None:
        if isinstance(entity, NetworkInterface):
            self.numbers.difference_update(entity.numbers)
            self.links.discard(entity.link)
            _drop(self._in_vpc, entity.vpc_id, entity.id)
            for address in entity.addresses:
                self._release(entity.vpc_id, int(address))
            if (combination := entity.combination) is not None:
                _drop(self._sharing, combination, entity.id)
        elif isinstance(entity, ExecutionEnvironment):
            _drop(self._attached, entity.interface_id, entity.slot)
            _drop(self._environments, entity.function_id, entity.slot)
            _drop(self._idle, entity.function_id, entity.slot)
            self._terminating.pop(entity.slot, None)
            if entity.token is not None:
                self.tokens.pop(entity.token, None)
            self.touched_interfaces[entity.interface_id] = None
        elif isinstance(entity, Function):
            self.function_names.pop(entity.name, None)
            for combination in entity.combinations:
                _drop(self._holders, combination, entity.id)
                self._touch_sharing(combination)
        elif isinstance(entity, SecurityGroup):
            for rule in entity.egress:
                if rule.group_id is not None:
                    _drop(self._named, rule.group_id, entity.id)
        elif isinstance(entity, Listener):
            _drop(self._listeners, entity.load_balancer_id, entity.id)
            self._by_port.pop(entity.load_balancer_id, None)
            _drop(self._forwarding, entity.target_group_id, entity.id)
        elif isinstance(entity, Host):
            self._release(entity.vpc_id, int(entity.address))
            self.host_numbers.discard(entity.number)
        elif isinstance(entity, Service):
            self._release(entity.vpc_id, int(entity.address))
        elif isinstance(entity, ElasticAddress):
            self._release(entity.internet_id, int(entity.address))
        elif isinstance(entity, RetiredNumber):
            self.numbers.discard(entity.number)
        elif isinstance(entity, RetiredHost | HealthChecker):
            self.host_numbers.discard(entity.number)

    def _touch_interface(self, interface: NetworkInterface) -> None:
        self.touched_interfaces[interface.id] = None
        if (combination := interface.combination) is not None:
            for function_id in self._holders.get(combination, ()):
                self.touched_functions[function_id] = None

    def _touch_sharing(self, combination: Combination) -> None:
        for interface_id in self._sharing.get(combination, ()):
            self.touched_interfaces[interface_id] = None

    def _take(self, vpc_id: str, address: int) -> None:
        taken = self._addresses[vpc_id]
        taken[address] = taken.get(address, 0) + 1

    def _release(self, vpc_id: str, address: int) -> None:
        taken = self._addresses[vpc_id]
        taken[address] -= 1
        if not taken[address]:
            _drop(self._addresses, vpc_id, address)


def _due(entity: Entity) -> float | None:
    return getattr(entity, "due", None) if KIND_OF[type(entity)] in _TIMED else None


def _stands(entity: Entity | None) -> bool:
    """Whether it is an interface that is to exist."""
    return isinstance(entity, NetworkInterface) and entity.status is not InterfaceStatus.DELETING


def _drop(index: dict[Any, dict[Any, T]], key: object, item: object) -> None:
    items = index.get(key)
    if items is not None:
        items.pop(item, None)
        if not items:
            del index[key]
