# SPDX-License-Identifier: Apache-2.0
"""Who sends what to whom: the question of a trace, and all that its steps look at.

Theory of operation
-------------------
A trace is of one moment: the region's entities are copied, and everything else follows from the
copy, in a thread, while the region goes on. What stands (sockets, the state map) is looked at when
a step asks for it.

The sender is an environment, a host, or a function: then it is one of its environments, or would be
one that starts now, at the first of the function's interfaces.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network.resolvers import zone_of
from hyperplane_nat.controller.resources import lifecycle_of
from hyperplane_nat.controller.trace.question import Looks, Question, Step
from hyperplane_nat.controller.trace.rehearsal import SOURCE_PORT, Outcome, Packet, Rehearsal
from hyperplane_nat.engine import DropReason
from hyperplane_nat.model.balancer_wanted import WantedNode
from hyperplane_nat.model.entities import (
    Function,
    Host,
    NetworkInterface,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_endpoints import routes_of
from hyperplane_nat.model.gateway_entities import ElasticAddress, NatGateway, Route, RouteTable
from hyperplane_nat.model.gateways import route_to, vpc_of_address
from hyperplane_nat.model.identifiers import environment_name, environment_number
from hyperplane_nat.model.names import LINK_LOCAL, resolver_of
from hyperplane_nat.model.private_link_entities import GatewayEndpoint
from hyperplane_nat.model.private_link_wanted import WantedEndpoint
from hyperplane_nat.model.security_group import Compiler
from hyperplane_nat.model.states import EnvironmentState, FunctionState, InterfaceStatus
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.validation import INTERNET
from hyperplane_nat.model.wanted import Wanted, WantedVpc, wanted_of
from hyperplane_nat.resolver.zone import Zone

_LOOPBACK = IPv4Network("127.0.0.0/8")
_NOBODY = IPv4Address("0.0.0.0")
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*", re.ASCII)
"""The last label of no name."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends."""

    text: str
    """What it is called in the answer."""
    vpc: Vpc | None = None
    """None: it is nowhere."""
    interface: NetworkInterface | None = None
    """Of an environment."""
    further: int = 0
    """How many interfaces another environment of the same function could have instead."""
    slot: int | None = None
    """Of an environment that there is."""
    host: Host | None = None
    problem: str = ""
    """Why it sends nothing."""

    @property
    def member(self) -> NetworkInterface | Host | None:
        """Who has the security groups."""
        return self.host or self.interface


@dataclass
class Journey:
    """A question, the region as it is, and what becomes of the packet."""

    question: Question
    config: Config
    tables: Tables
    wanted: Wanted
    looks: Looks
    sender: Sender
    address: IPv4Address | None
    """Of the target; None: its name has none."""
    rehearsal: Rehearsal | None = None
    """None where nothing is sent."""
    sent: Outcome | None = None
    """What became of the packet."""
    far: tuple[IPv4Address, int] | None = None
    """Of a load balancer: the target that is looked at, by address and port; of a public address
    the host that has it.
    """
    taken: list[Step] = field(default_factory=list)
    """The steps until now."""

    @property
    def port(self) -> int:
        """The port of the target, 0 for ICMP."""
        return self.question.port or 0

    @property
    def end(self) -> tuple[IPv4Address | None, int]:
        """Address and port where the packet comes out, if it does."""
        return self.far or (self.address, self.port)

    @cached_property
    def endpoint(self) -> WantedEndpoint | None:
        """The endpoint's address that the target is."""
        vpc = self.sender.vpc
        for each in self.wanted.endpoints:
            if vpc is not None and (each.vpc_number, each.address) == (
                vpc.number,
                str(self.address),
            ):
                return each
        return None

    @cached_property
    def public(self) -> ElasticAddress | None:
        """The public address that the target is, of somebody, where that is in the internet."""
        vpc = self.sender.vpc
        if vpc is None or self.address is None or (self.is_local and vpc.name != INTERNET):
            return None
        for each in self.tables.elastic_addresses.values():
            if each.address == self.address and each.association_id:
                return each
        return None

    @property
    def near(self) -> DropReason | None:
        """What became of the packet before the internet forwarded it; None where none is sent."""
        if self.sent is None:
            return None
        return self.sent.reason if self.sent.outside is None else DropReason.NONE

    @cached_property
    def node(self) -> WantedNode | None:
        """The load balancer's node that the target is, or that its endpoint or public address leads
        to.
        """
        if (public := self.public) is not None:
            interface = self.tables.interfaces.get(public.interface_id)
            nodes = self.wanted.load_balancer_nodes
            return next(
                (each for each in nodes if interface and each.number == interface.number), None
            )
        if (endpoint := self.endpoint) is not None:
            nodes = self.wanted.load_balancer_nodes
            return next((each for each in nodes if each.number == endpoint.node), None)
        vpc = self.sender.vpc
        for each in self.wanted.load_balancer_nodes:
            addresses = (each.address, *(address for _, address in each.secondary))
            if vpc is not None and each.vpc_number == vpc.number and str(self.address) in addresses:
                return each
        return None

    @cached_property
    def behind(self) -> Vpc | None:
        """The VPC of that node, or of a public address; without one the sender's."""
        node, vpcs = self.node, self.tables.vpcs.values()
        if self.public is not None:
            return self.tables.vpcs[vpc_of_address(self.tables, self.public)]
        if node is None:
            return self.sender.vpc
        return next(each for each in vpcs if each.number == node.vpc_number)

    @cached_property
    def compiler(self) -> Compiler:
        """What makes policies of groups."""
        return Compiler(self.tables, lifecycle_of(self.config))

    @cached_property
    def zone(self) -> Zone | None:
        """What the resolver that the sender asks knows; None: there is none."""
        if self.sender.vpc is None:
            return None
        resolver = resolver_of(
            self.tables,
            self.sender.vpc,
            lifecycle_of(self.config).region,
            self.wanted.load_balancer_nodes,
        )
        return None if resolver is None else zone_of(self.config, resolver)

    @cached_property
    def subnet(self) -> Subnet | None:
        """Whose route table the sender's packets meet."""
        member = self.sender.member
        return None if member is None else self.tables.subnets.get(member.subnet_id)

    @cached_property
    def table(self) -> RouteTable | None:
        """The sender's route table; the internet has none."""
        return None if self.subnet is None else self.tables.route_table_of(self.subnet)

    @cached_property
    def is_local(self) -> bool:
        """Whether the local route leads to the target."""
        assert self.address is not None
        if self.sender.vpc is None:
            return False
        return self.address in self.sender.vpc.cidr or self.address == LINK_LOCAL

    @cached_property
    def route(self) -> Route | None:
        """The route to the target; None: the local one, or none."""
        if self.address is None or self.is_local or self.table is None:
            return None
        return route_to(routes_of(self.tables, self.table), self.address)

    @cached_property
    def nat_gateway(self) -> NatGateway | None:
        """The NAT gateway that the route leads to, if it is known."""
        if self.route is None:
            return None
        return self.tables.nat_gateways.get(self.route.nat_gateway_id)

    @cached_property
    def gateway_endpoint(self) -> GatewayEndpoint | None:
        """The gateway endpoint that the route leads to."""
        if self.route is None:
            return None
        return self.tables.gateway_endpoints.get(self.route.endpoint_id)

    @cached_property
    def nat_gateway_route(self) -> Route | None:
        """Where that sends it."""
        if self.nat_gateway is None or self.address is None:
            return None
        table = self.tables.route_table_of(self.tables.subnets[self.nat_gateway.subnet_id])
        # What a NAT gateway sends on goes by no endpoint.
        return None if table is None else route_to(table.routes, self.address)

    @cached_property
    def arrives_in(self) -> WantedVpc | None:
        """The VPC, or the internet, whose router the packet leaves to."""
        if self.sent is None or self.sent.interface is None:
            return None
        number = self.sent.interface
        name = next(
            each.vpc
            for each in self.wanted.interfaces
            if number == each.number or number in dict(each.secondary)
        )
        return next(each for each in self.wanted.vpcs if each.name == name)

    @cached_property
    def target_host(self) -> Host | None:
        """The host that the packet leaves to, or would."""
        if self.sent is not None and self.sent.host is not None:
            found = [each for each in self.tables.hosts.values() if each.number == self.sent.host]
            return found[0]
        if self.address is None or self.behind is None:
            return None
        hosts = self.tables.hosts_in(self.behind.id)
        return next((each for each in hosts if each.address == self.end[0]), None)

    def services_at(self, vpc_id: str) -> list[Service]:
        """The lab's servers at the target's address in a VPC."""
        return [
            each
            for each in self.tables.services.values()
            if (each.vpc_id, each.address) == (vpc_id, self.end[0])
        ]

    def send(self, number: int = 0) -> None:
        """Let the packet go, if there is one; each `number` is another flow's."""
        if self.rehearsal is None or self.address is None:
            return
        host = self.sender.host
        inside = str(self.config.environment.interface.ip)
        packet = Packet(
            protocol=self.question.protocol,
            source=inside if host is None else str(host.address),
            destination=str(self.address),
            port=self.port,
            source_port=SOURCE_PORT + number,
        )
        self.sent = self.rehearsal.send(packet, host=None if host is None else host.number)
        if self.public is not None and self.public.host_id and self.sent.outside is not None:
            self.far = self.tables.hosts[self.public.host_id].address, self.port


def journey_of(
    question: Question, config: Config, tables: Tables, slots: Container[int], looks: Looks
) -> Journey:
    """
    The question with what is known before anything is sent. `slots` are the environments there are.

    Errors: ModelError for a sender that there is not, or more than one, and for a target that only
    somebody else knows or that is the sender itself.
    """
    sender = sender_of(tables, slots, question.source)
    wanted = wanted_of(tables, lifecycle_of(config))
    journey = Journey(question, config, tables, wanted, looks, sender, None)
    journey.address = _address_of(journey)
    return journey


def _address_of(journey: Journey) -> IPv4Address | None:
    target = journey.question.target
    try:
        address: IPv4Address | None = IPv4Address(target)
    except AddressValueError:
        name = target.lower().rstrip(".")
        if _NUMBER.fullmatch(name.rpartition(".")[2]):
            # Whoever resolves it takes it for an address in another notation (inet_aton(3)).
            raise ModelError(
                "InvalidParameterValue",
                f"{target} is no IPv4 address",
                "write four decimal numbers from 0 to 255, without leading zeros",
            ) from None
        zone = journey.zone
        # Of several, which the resolver tells in any order, the first.
        found = None if zone is None else next(iter(zone.addresses(name)), None)
        upstream = journey.config.dns.upstream_endpoint
        if zone is not None and found is None and upstream and not zone.owns(name):
            raise ModelError(
                "InvalidParameterValue",
                f"{target} is not the lab's own name: the resolver asks {upstream} for it",
                "give its address",
            ) from None
        address = None if found is None else IPv4Address(found)
    host = journey.sender.host
    own = journey.config.environment.interface.ip if host is None else host.address
    if address is not None and (address in _LOOPBACK or address in (own, _NOBODY)):
        raise ModelError(
            "InvalidParameterValue",
            f"{address} is the sender's own: no packet leaves it",
            "name another address",
        )
    return address


# -- who sends


def sender_of(tables: Tables, slots: Container[int], named: str) -> Sender:
    """
    By the name of an environment, a host's name, VPC/name or id, or a function's name.

    Errors: ModelError, ResourceNotFoundException or InvalidParameterValue.
    """
    number = environment_number(named)
    if number is not None and number in slots:
        return _environment(tables, number)
    found: list[Sender] = [
        _host(tables, each)
        for each in tables.hosts.values()
        if named in (each.id, each.name, f"{tables.vpcs[each.vpc_id].name}/{each.name}")
    ]
    if (function := tables.function(named)) is not None:
        found.append(_function(tables, function))
    if not found:
        raise ModelError(
            "ResourceNotFoundException",
            f"there is no environment, host or function {named!r}",
            "hyperplane-nat environments, hosts and functions list them",
        )
    if len(found) > 1:
        raise ModelError(
            "InvalidParameterValue",
            f"several have the name {named!r}: {', '.join(each.text for each in found)}",
            "give a host's id or VPC/name, or a function's name with :$LATEST",
        )
    return found[0]


def _host(tables: Tables, host: Host) -> Sender:
    vpc = tables.vpcs[host.vpc_id]
    return Sender(f"host {vpc.name}/{host.name}", vpc, host=host)


def _environment(tables: Tables, number: int) -> Sender:
    text, used = environment_name(number), tables.environments.get(number)
    if used is None:
        return Sender(text, problem="it is in the pool and has no interface")
    if used.function_name:
        text = f"{text} of function {used.function_name}"
    if used.state is EnvironmentState.TERMINATING:
        return Sender(text, problem="it is terminating")
    return _at(tables, text, tables.interfaces[used.interface_id], slot=number)


def _function(tables: Tables, function: Function) -> Sender:
    text = f"function {function.name}"
    if function.state is not FunctionState.ACTIVE:
        why = f": {function.state_reason}" if function.state_reason else ""
        return Sender(text, problem=f"it is {function.state.value}{why}")
    for used in tables.environments_of(function.id):
        if used.state is not EnvironmentState.TERMINATING:
            interface = tables.interfaces[used.interface_id]
            others = len(_shared(tables, function)) - 1
            text = f"{text}, {environment_name(used.slot)}"
            return _at(tables, text, interface, slot=used.slot, further=max(others, 0))
    interfaces = _shared(tables, function)
    if not interfaces:
        return Sender(
            text, problem="it has no environment yet, and each gets an interface of its own"
        )
    return _at(tables, text, interfaces[0], further=len(interfaces) - 1)


def _shared(tables: Tables, function: Function) -> list[NetworkInterface]:
    """The interfaces that environments of the function are attached to."""
    return [
        each
        for combination in function.config.combinations
        for each in tables.sharing(combination)
        if each.status in (InterfaceStatus.AVAILABLE, InterfaceStatus.IN_USE)
    ]


def _at(
    tables: Tables,
    text: str,
    interface: NetworkInterface,
    *,
    slot: int | None = None,
    further: int = 0,
) -> Sender:
    vpc = tables.vpcs[interface.vpc_id]
    return Sender(text, vpc, interface, further, slot)
