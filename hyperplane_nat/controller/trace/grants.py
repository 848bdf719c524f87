# SPDX-License-Identifier: Apache-2.0
"""Security groups in a trace: which rule of which group admits the packet.

The whole is asked of the policy that the engine has, and each rule of a policy with that rule
alone, compiled by the engine as well. What the whole admits and no rule does is the resolver's:
queries to it leave whatever the groups say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from hyperplane_nat.controller.trace.journey import Journey
from hyperplane_nat.controller.trace.question import Step
from hyperplane_nat.engine import DropReason, Policy, Rule
from hyperplane_nat.model import entities
from hyperplane_nat.model.entities import Host, NetworkInterface
from hyperplane_nat.model.resources import Protocol
from hyperplane_nat.model.security_group import Grant, PolicyRule

_WITHHELD = (DropReason.LAMBDA_PORT, DropReason.LAMBDA_ICMP)


def egress(journey: Journey) -> Step | None:
    """The egress rules of the sender's groups."""
    member, policy = journey.sender.member, _policy_of_sender(journey)
    if member is None or journey.sent is None:
        return None
    if not member.group_ids or policy is None:
        return Step("egress", True, "", "no security groups: everything may leave")

    def admits(rules: list[Rule]) -> bool:
        return _admitted(journey, Policy(str(member.address), egress=rules))

    found = _first(journey.compiler.egress_grants(member), admits)
    if found is not None:
        return Step("egress", True, _rule(journey, found), "allowed")
    # Before egress rules what is withheld is looked at, which is told by itself.
    whole = _verdict(journey, policy)
    if whole in (DropReason.NONE, DropReason.SECURITY_GROUP_INGRESS):
        return Step("egress", True, "", "queries to the resolver leave whatever the groups say")
    return Step("egress", False, _groups(journey, member), "no rule of these groups allows it")


def withheld(journey: Journey) -> Step | None:
    """The Lambda service's own rules."""
    policy = _policy_of_sender(journey)
    reason = DropReason.NONE if policy is None else _verdict(journey, policy)
    if reason not in _WITHHELD or journey.sent is None:
        return None
    if reason is DropReason.LAMBDA_ICMP:
        return Step("Lambda", False, "lambda.icmp", "Lambda carries no ICMP for functions")
    rule = f"lambda.blocked_tcp_ports {journey.port}"
    return Step("Lambda", False, rule, f"functions do not connect to TCP port {journey.port}")


def ingress(journey: Journey) -> Step | None:
    """The ingress rules of the groups of a host, or of a server on the router."""
    sent = journey.sent
    if sent is None or sent.reason not in (DropReason.NONE, DropReason.SECURITY_GROUP_INGRESS):
        return None
    if (host := journey.target_host) is not None:
        return _into_host(journey, host)
    if journey.node is not None:
        # Groups of servers on the router are asked about who sends to them, which a node is not.
        return None
    member, address = journey.sender.member, journey.address
    vpc = journey.sender.vpc
    assert member is not None
    assert address is not None
    assert vpc is not None
    group_ids = tuple(
        dict.fromkeys(
            group_id for each in journey.services_at(vpc.id) for group_id in each.group_ids
        )
    )
    if not group_ids:
        return None

    def admits(rules: list[Rule]) -> bool:
        return _admitted(journey, Policy(str(member.address), guarded={str(address): rules}))

    found = _first(journey.compiler.guard_grants(member, address), admits)
    if found is None:
        rule = _names(journey, group_ids)
        return Step("ingress", False, rule, "no rule of these groups admits the sender")
    return Step("ingress", True, _rule(journey, found), "admitted")


def _into_host(journey: Journey, host: Host) -> Step:
    assert journey.sent is not None
    assert journey.sender.member is not None
    if not host.group_ids:
        return Step(
            "ingress", True, "", f"host {host.name} has no security groups: it takes everything"
        )
    seen = journey.sent.source or _client(journey)
    sources = [seen]
    if journey.node is not None:
        # Behind an endpoint the client's address is somebody else's.
        sources = [journey.node.address] if journey.endpoint else [seen, journey.node.address]

    def admits(rules: list[Rule]) -> bool:
        policy = Policy(str(host.address), ingress=rules)
        protocol, port = journey.question.protocol, journey.end[1]
        return any(policy.admits(protocol, each, port) is DropReason.NONE for each in sources)

    found = _first(journey.compiler.ingress_grants(host), admits)
    if found is None:
        rule = _groups(journey, host)
        text = f"no rule of these groups admits {' or '.join(dict.fromkeys(sources))}"
        return Step("ingress", False, rule, text)
    return Step("ingress", True, _rule(journey, found), f"{seen} is admitted")


def into_endpoint(journey: Journey) -> Step | None:
    """The ingress rules of the groups of an endpoint, about its client."""
    if (endpoint := journey.endpoint) is None:
        return None
    interfaces = journey.tables.interfaces.values()
    interface = next(each for each in interfaces if each.number == endpoint.number)
    return _of_client(journey, "endpoint ingress", interface)


def into_node(journey: Journey, interface: NetworkInterface) -> Step | None:
    """The same of the groups of a load balancer's node."""
    # Who comes by an endpoint is in no group.
    no_groups = journey.endpoint is not None
    return _of_client(journey, "node ingress", interface, no_groups=no_groups)


def _of_client(
    journey: Journey, name: str, interface: NetworkInterface, *, no_groups: bool = False
) -> Step | None:
    if not interface.group_ids or journey.sender.member is None:
        return None
    client = _client(journey)

    def admits(rules: list[Rule]) -> bool:
        policy = Policy(str(interface.address), ingress=rules)
        protocol, port = journey.question.protocol, journey.port
        return policy.admits(protocol, client, port) is DropReason.NONE

    granted = journey.compiler.ingress_grants(interface)
    asked = (each for each in granted if not (no_groups and each.rule.group_id is not None))
    found = _first(asked, admits)
    if found is None:
        rule = _groups(journey, interface)
        return Step(name, False, rule, f"no rule of these groups admits {client}")
    return Step(name, True, _rule(journey, found), f"{client} is admitted")


def out_of_node(journey: Journey, interface: NetworkInterface) -> Step | None:
    """Their egress rules, about the target that is looked at."""
    address, port = journey.end
    if not interface.group_ids:
        return None

    def admits(rules: list[Rule]) -> bool:
        policy = Policy(str(interface.address), egress=rules)
        verdict = policy.verdict(journey.question.protocol, str(address), port)
        return verdict is DropReason.NONE

    found = _first(journey.compiler.egress_grants(interface), admits)
    if found is None:
        rule = _groups(journey, interface)
        return Step("node egress", False, rule, f"no rule of these groups lets it to {address}")
    return Step("node egress", True, _rule(journey, found), f"{address} may be sent to")


def _client(journey: Journey) -> str:
    """The sender's address where the packet comes in."""
    sent, member = journey.sent, journey.sender.member
    assert member is not None
    return str(member.address) if sent is None or sent.outside is None else sent.outside[0]


def _policy_of_sender(journey: Journey) -> Policy | None:
    sender, rehearsal = journey.sender, journey.rehearsal
    if rehearsal is None or journey.address is None:
        return None
    if sender.host is not None:
        return rehearsal.policy(host=sender.host.number)
    return rehearsal.policy(interface=None if sender.interface is None else sender.interface.number)


def _verdict(journey: Journey, policy: Policy) -> DropReason:
    return policy.verdict(journey.question.protocol, str(journey.address), journey.port)


def _admitted(journey: Journey, policy: Policy) -> bool:
    return _verdict(journey, policy) is DropReason.NONE


def _first(grants: Iterable[Grant], admits: Callable[[list[Rule]], bool]) -> Grant | None:
    return next((each for each in grants if admits(_told(each.rules))), None)


def _told(rules: Iterable[PolicyRule]) -> list[Rule]:
    return [Rule(**asdict(each)) for each in rules]


# -- words


def _rule(journey: Journey, grant: Grant) -> str:
    return f"{grant.group.name} ({grant.group.id}): {_words(journey, grant.rule)}"


def _words(journey: Journey, rule: entities.Rule) -> str:
    ports = ""
    if rule.protocol in (Protocol.TCP, Protocol.UDP):
        ports = f" {rule.first}" if rule.first == rule.last else f" {rule.first}-{rule.last}"
    other = str(rule.cidr)
    if rule.prefix_list is not None:
        other = f"prefix list {rule.prefix_list}"
    if rule.group_id is not None:
        other = f"group {journey.tables.groups[rule.group_id].name}"
    return f"{rule.protocol.value}{ports} {other}"


def _groups(journey: Journey, member: NetworkInterface | Host) -> str:
    return _names(journey, member.group_ids)


def _names(journey: Journey, group_ids: tuple[str, ...]) -> str:
    groups = journey.tables.groups
    return ", ".join(f"{groups[each].name} ({each})" for each in group_ids)
