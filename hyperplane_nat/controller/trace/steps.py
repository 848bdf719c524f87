# SPDX-License-Identifier: Apache-2.0
"""What a packet meets on its way, in order: a function for each step, in one list.

Theory of operation
-------------------
A step looks at a journey and says what decides there and how, or None where the way does not lead
by it. Whatever the engine decides is asked of it: routes and gateways by the packet that was sent,
rules of groups one by one by policies of their own (`grants`). What it drops for a reason that no
step has told, the step `gateway` tells, so that a packet that is dropped never passes here. Which
route is named is worked out beside it (`model.gateways.route_to`): whether one passes is not.

Who comes behind the gateway is looked at only when the packet leaves it: then steps know by which
link, and from which address.

To add a step, add a function to `NEAR` or `FAR`, where the packet meets it. Of a load balancer's
node `FAR` is gone through for each target (`balancers`).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Literal

from hyperplane_nat.controller.forwarder.desired import DNS_PORT
from hyperplane_nat.controller.resources import lifecycle_of
from hyperplane_nat.controller.trace import balancers, borders, grants, room
from hyperplane_nat.controller.trace.journey import Journey
from hyperplane_nat.controller.trace.question import Step
from hyperplane_nat.engine import DropReason
from hyperplane_nat.model.entities import Host, Vpc
from hyperplane_nat.model.gateway_endpoints import prefix_list_id, routes_of, service_name
from hyperplane_nat.model.gateway_entities import NatGateway, Route, RouteTable
from hyperplane_nat.model.gateways import BLACKHOLE, route_state, route_to
from hyperplane_nat.model.names import LINK_LOCAL
from hyperplane_nat.model.validation import INTERNET
from netns.errors import NetnsError
from netns.topology import host_namespace, vpc_namespace

StepFunction = Callable[[Journey], Step | None]


def take(journey: Journey) -> None:
    """Take the steps of a journey; those behind the gateway only if its packet leaves it."""
    for function in NEAR:
        if (step := function(journey)) is not None:
            journey.taken.append(step)
    if journey.node is not None and _is_at_node(journey):
        balancers.take(journey, FAR)
        return
    for function in FAR:
        if (step := function(journey)) is not None:
            journey.taken.append(step)


def _is_at_node(journey: Journey) -> bool:
    """Whether the packet gets to the node that is asked for."""
    sent = journey.sent
    if sent is None or journey.public is None:
        return sent is not None
    return sent.outside is not None and sent.reason not in _UNROUTED


# -- before the gateway


def name(journey: Journey) -> Step | None:
    """What the resolver says of the target's name."""
    target, vpc = journey.question.target, journey.sender.vpc
    if str(journey.address) == target or vpc is None:
        return None
    if journey.zone is None:
        return Step("name", False, vpc.id, _without_resolver(vpc))
    where = f"resolver of VPC {vpc.name}"
    if journey.address is None:
        return Step("name", False, where, f"there is no address of {target} (NXDOMAIN or empty)")
    namespace = vpc_namespace(journey.config.lab.name, vpc.name)
    if why := _deaf(journey, namespace, "udp", str(LINK_LOCAL), DNS_PORT):
        return Step("name", False, where, f"the resolver does not run: {why}")
    return Step("name", True, where, f"{target} is {journey.address}")


def source(journey: Journey) -> Step | None:
    """By which interface, and from which address, the sender sends."""
    sender = journey.sender
    if sender.problem:
        return Step("source", False, "", f"{sender.text} sends nothing: {sender.problem}")
    if sender.host is not None:
        return Step(
            "source", True, sender.host.interface_id, f"{sender.text}, {sender.host.address}"
        )
    assert sender.interface is not None
    text = f"{sender.text} leaves by the interface with {sender.interface.address}"
    if sender.further:
        text += f"; others of the function may leave by {sender.further} more"
    return Step("source", True, sender.interface.id, text)


_UNROUTED = (DropReason.NO_ROUTE, DropReason.ROUTE_BLACKHOLE)


def route(journey: Journey) -> Step | None:
    """Which route of which table leads to the target."""
    sent, table, found = journey.sent, journey.table, journey.route
    if sent is None or table is None:
        return None
    where = f"{table.name} ({table.id})"
    if journey.address == LINK_LOCAL:
        if sent.reason is DropReason.DESTINATION_INVALID:
            assert journey.sender.vpc is not None
            return Step(
                "route", False, journey.sender.vpc.id, _without_resolver(journey.sender.vpc)
            )
        return Step("route", True, "", "the resolver of the VPC, whatever its route tables say")
    if journey.is_local:
        assert journey.sender.vpc is not None
        rule = f"{where}: {journey.sender.vpc.cidr} local"
        return Step("route", True, rule, f"{journey.address} is in the VPC")
    rule = where if found is None else f"{where}: {_destination(journey, found)} {_target(found)}"
    beyond = journey.nat_gateway is not None and journey.nat_gateway.serves
    if journey.near in _UNROUTED and not beyond:
        subnet = "" if journey.subnet is None else journey.subnet.name
        return Step("route", False, rule, f"{_why_not(journey, table, found)}, subnet {subnet}")
    if found is None:
        # It is dropped before a route is looked for: `gateway` tells why.
        return None
    return Step("route", True, rule, _leads_to(journey))


def nat_gateway(journey: Journey) -> Step | None:
    """Whether the NAT gateway that the route leads to sends it on."""
    gateway, sent = journey.nat_gateway, journey.sent
    if sent is None or gateway is None or not gateway.serves:
        return None
    what = f"{gateway.name} ({gateway.id})"
    onward, tables = journey.nat_gateway_route, journey.tables
    table = tables.route_table_of(tables.subnets[gateway.subnet_id])
    if journey.near is DropReason.NAT_GATEWAY_PRIVATE:
        text = "it is private: what it sends to an internet gateway is dropped"
        return Step("NAT gateway", False, what, text)
    if journey.near in _UNROUTED:
        assert table is not None
        subnet = tables.subnets[gateway.subnet_id].name
        where = f"{table.name} ({table.id}), subnet {subnet}"
        return Step("NAT gateway", False, what, f"{_why_not(journey, table, onward)}, {where}")
    return Step("NAT gateway", True, what, f"{gateway.state.value}: {_addresses(journey, gateway)}")


def internet_gateway(journey: Journey) -> Step | None:
    """Whether the sender, or its NAT gateway, has a public address at the internet gateway."""
    sent, host = journey.sent, journey.sender.host
    last = journey.nat_gateway_route if journey.nat_gateway is not None else journey.route
    gateway = None if last is None else journey.tables.internet_gateways.get(last.gateway_id)
    if (
        sent is None
        or gateway is None
        or journey.near in (*_UNROUTED, DropReason.NAT_GATEWAY_PRIVATE)
    ):
        return None
    what = f"{gateway.name} ({gateway.id})"
    if sent.reason is DropReason.NO_PUBLIC_ADDRESS:
        text = "the interface of a function has no public address: it needs a NAT gateway"
        if host is not None:
            text = f"host {host.name} has no public address"
        return Step("internet gateway", False, what, text)
    source = sent.source if sent.outside is None else sent.outside[0]
    seen = f", seen as {source}" if source else ""
    return Step("internet gateway", True, what, f"attached{seen}")


def gateway_endpoint(journey: Journey) -> Step | None:
    """By which gateway endpoint it leaves, and with which address."""
    endpoint, sent = journey.gateway_endpoint, journey.sent
    if sent is None or endpoint is None or sent.reason in _UNROUTED:
        return None
    service = service_name(endpoint.service, lifecycle_of(journey.config).region)
    seen = f", seen as {sent.source}" if sent.source else ""
    return Step(
        "gateway endpoint", True, f"{endpoint.name} ({endpoint.id})", f"available: {service}{seen}"
    )


def public_address(journey: Journey) -> Step | None:
    """Whose public address it is that the internet leads to, and whether that can answer."""
    sent, public, vpc = journey.sent, journey.public, journey.behind
    if sent is None or sent.outside is None or public is None or vpc is None:
        return None
    tables = journey.tables
    rule = f"{public.address} ({public.id})"
    text = f"that of a NAT gateway of VPC {vpc.name}"
    if public.host_id:
        host = tables.hosts[public.host_id]
        text = f"that of host {vpc.name}/{host.name}"
        if sent.answer in _UNROUTED:
            text += f", whose subnet's route table has no way back to {sent.outside[0]}"
            return Step("public address", False, rule, text)
        arrived = sent.reason is DropReason.NONE
        if arrived and not sent.answered and sent.answer not in borders.REFUSED:
            back = _way_back(journey, host, IPv4Address(sent.outside[0]))
            text += f", whose answers leave {back}, not as {public.address}"
            return Step("public address", False, rule, text)
    elif (interface := tables.interfaces.get(public.interface_id)) is not None:
        subnet = tables.subnets[interface.subnet_id]
        text = f"that of a load balancer's node in subnet {subnet.name} of VPC {vpc.name}"
        if sent.reason in _UNROUTED:
            text += f", whose route table has no way back to {sent.outside[0]}"
            return Step("public address", False, rule, text)
        if journey.node is None:
            return Step("public address", False, rule, f"{text}, which is not active yet")
    return Step("public address", True, rule, text)


# -- behind it


def target(journey: Journey) -> Step | None:
    """Whose the address is where the packet comes out."""
    sent, host = journey.sent, journey.target_host
    if sent is None or sent.reason not in (DropReason.NONE, DropReason.SECURITY_GROUP_INGRESS):
        return None
    tables = journey.tables
    if host is not None:
        text = f"host {tables.vpcs[host.vpc_id].name}/{host.name}"
        if host.address == journey.end[0]:
            return Step("target", True, host.id, text)
        return Step("target", False, host.id, f"{text} gets it, and has another address")
    if (vpc := journey.arrives_in) is None:
        return None
    if str(journey.end[0]) in vpc.addresses:
        services = [each.name for each in journey.services_at(vpc.id)]
        text = f"{'services' if len(services) > 1 else 'service'} {', '.join(services)}"
        if not services:
            text = (
                "the router"
                if vpc.name == INTERNET
                else f"the router of VPC {vpc.name}, or its resolver"
            )
        return Step("target", True, vpc.id, text if vpc.name != INTERNET else f"internet: {text}")
    where = "the internet" if vpc.name == INTERNET else f"VPC {vpc.name}"
    return Step("target", False, vpc.id, f"nobody in {where} has {journey.end[0]}")


def gateway(journey: Journey) -> Step | None:
    """What else keeps the engine from sending it on."""
    sent = journey.sent
    if not journey.looks.forwards:
        return Step("gateway", False, "forwarder", "the forwarder does not run: status tells why")
    if sent is None or sent.reason is DropReason.NONE:
        return None
    if not all(each.passes for each in journey.taken):
        return None
    reason = sent.reason.name.lower()
    return Step("gateway", False, reason, _WORDS.get(sent.reason, "the gateway drops it"))


def way_back(journey: Journey) -> Step | None:
    """Whether what comes back is an answer to the sender, where no other step tells why not."""
    sent = journey.sent
    if sent is None or sent.reason is not DropReason.NONE or sent.answered:
        return None
    if not all(each.passes for each in journey.taken):
        return None
    if sent.answer is DropReason.NONE:
        return Step("way back", False, "", f"what comes back does not come from {journey.address}")
    return Step("way back", False, sent.answer.name.lower(), "the gateway drops an answer to it")


_WORDS = {
    DropReason.DESTINATION_GATEWAY: "the environment's own gateway answers nothing",
    DropReason.DESTINATION_HAIRPIN: "it is the address of a network interface, and nothing opens "
    "a flow to who is behind one",
    DropReason.HAIRPIN_NO_MAPPING: "no environment has a mapping there, as far as an empty gateway "
    "can tell",
    DropReason.DESTINATION_INVALID: "no host can have this address, or it is the sender's own; "
    "nothing is forwarded to 169.254.168.0/22",
    DropReason.NO_FLOW: "it is the address of a network interface, and only answers reach who is "
    "behind one",
    DropReason.TCP_NO_FLOW: "it is the address of a network interface, and only answers reach who "
    "is behind one",
    DropReason.LOAD_BALANCER_ICMP: "a load balancer's node answers no pings",
    DropReason.LOAD_BALANCER_TARGET: "the target's address is one of a network interface",
    DropReason.LOAD_BALANCER_HAIRPIN: "with client IP preservation a target that is its own client "
    "times out",
    DropReason.LOAD_BALANCER_RETURN_PATH: "its answers would not come back by the load balancer",
    DropReason.PORT_ALLOCATION: "no address of the NAT gateway takes new flows",
}


def listener(journey: Journey) -> Step | None:
    """Whether somebody answers at that port."""
    sent, host, vpc, lab = (
        journey.sent,
        journey.target_host,
        journey.arrives_in,
        journey.config.lab.name,
    )
    if sent is None or sent.reason is not DropReason.NONE:
        return None
    address, port = journey.end
    if host is not None and host.address == address:
        where = host_namespace(lab, host.number)
    elif host is None and vpc is not None and str(address) in vpc.addresses:
        where = vpc_namespace(lab, vpc.name)
    else:
        return None
    protocol = journey.question.protocol
    if protocol == "icmp":
        return Step("listener", True, where, "its kernel answers echo requests")
    if why := _deaf(journey, where, protocol, str(address), port):
        return Step("listener", False, where, why)
    text = f"a socket takes {protocol} {address}:{port}"
    return Step("listener", True, where, text)


def _deaf(
    journey: Journey, where: str, protocol: Literal["tcp", "udp"], address: str, port: int
) -> str:
    """Why nobody in a namespace takes what comes there; empty when somebody does."""
    try:
        if journey.looks.listening(where, protocol, address, port):
            return ""
    except NetnsError as error:
        return str(error)
    return f"no socket takes {protocol} {address}:{port}"


NEAR: tuple[StepFunction, ...] = (
    name,
    source,
    grants.egress,
    grants.withheld,
    route,
    nat_gateway,
    internet_gateway,
    gateway_endpoint,
    public_address,
    balancers.endpoint,
    room.limits,
)
"""What is so of any target that a load balancer chooses."""

FAR: tuple[StepFunction, ...] = (
    target,
    grants.ingress,
    borders.there,
    borders.back,
    gateway,
    way_back,
    listener,
)


# -- words


def _way_back(journey: Journey, host: Host, address: IPv4Address) -> str:
    """How the route table of a host's subnet leads to an address."""
    tables = journey.tables
    if address in tables.vpcs[host.vpc_id].cidr:
        return "inside its VPC"
    table = tables.route_table_of(tables.subnets[host.subnet_id])
    found = None if table is None else route_to(routes_of(tables, table), address)
    if found is None:
        return "by no route"
    gateway = tables.nat_gateways.get(found.nat_gateway_id)
    return f"by {_target(found)}" if gateway is None else f"by {gateway.name} ({gateway.id})"


def _without_resolver(vpc: Vpc) -> str:
    return f"VPC {vpc.name} has no resolver: enableDnsSupport is false"


def _destination(journey: Journey, route: Route) -> str:
    """As the table has it, and of a prefix list the entry."""
    endpoint = journey.gateway_endpoint
    if endpoint is None:
        return str(route.destination)
    listed = prefix_list_id(endpoint.service, lifecycle_of(journey.config).region)
    return f"{listed} ({route.destination})"


def _target(route: Route) -> str:
    return route.gateway_id or route.nat_gateway_id or route.instance_id or route.endpoint_id


def _leads_to(journey: Journey) -> str:
    if journey.nat_gateway is not None:
        return f"to NAT gateway {journey.nat_gateway.name}"
    if journey.gateway_endpoint is not None:
        return f"to gateway endpoint {journey.gateway_endpoint.name}"
    if journey.route is not None and journey.route.instance_id:
        return "to a host"
    return "to the internet gateway"


def _why_not(journey: Journey, table: RouteTable, route: Route | None) -> str:
    if route is None:
        return f"no route to {journey.address}"
    if route_state(journey.tables, table, route) == BLACKHOLE:
        return f"{route.destination} is a blackhole: {_gone(journey, route)}"
    return f"{route.destination} leads to no internet gateway, the one way on from a NAT gateway"


def _gone(journey: Journey, route: Route) -> str:
    gateway = journey.tables.nat_gateways.get(route.nat_gateway_id)
    if gateway is not None:
        why = (
            f" ({gateway.failure_code}: {gateway.failure_message})" if gateway.failure_code else ""
        )
        return f"NAT gateway {gateway.name} is {gateway.state.value}{why}"
    if route.gateway_id in journey.tables.internet_gateways:
        return "the internet gateway is not attached to this VPC"
    return f"{_target(route)} does not exist"


def _addresses(journey: Journey, gateway: NatGateway) -> str:
    known = journey.tables.elastic_addresses
    pairs = [
        f"{each.address}, public {known[each.allocation_id].address}"
        if each.allocation_id in known
        else str(each.address)
        for each in gateway.addresses
    ]
    return "; ".join(pairs)
