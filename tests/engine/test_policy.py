# SPDX-License-Identifier: Apache-2.0
"""Security groups: the compiled form says what the rules say, and says it when a flow begins."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperplane_nat.engine import Action, DropReason, Engine, Policy, Rule
from tests import reference
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, compiled_policy
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import packet
from tests.reference.security_group import PROTOCOLS

OWN = "10.0.1.10"
OWN_ADDRESS = IPv4Address(OWN)

# Few values, so that rules touch, overlap and meet the edges all the time.
ports = st.one_of(st.sampled_from((0, 1, 79, 80, 81, 443, 65534, 65535)), st.integers(0, 65535))
addresses = st.one_of(
    st.sampled_from(
        tuple(
            IPv4Address(text)
            for text in ("0.0.0.0", "10.0.1.9", "10.0.1.10", "10.0.1.11", "255.255.255.255")
        )
    ),
    st.integers(0, (1 << 32) - 1).map(IPv4Address),
)
lengths = st.one_of(st.sampled_from((0, 1, 16, 24, 30, 31, 32)), st.integers(0, 32))


@st.composite
def rules(draw: st.DrawFn) -> reference.Rule:
    first, last = sorted((draw(ports), draw(ports)))
    cidr = IPv4Network((draw(addresses), draw(lengths)), strict=False)
    return reference.Rule(draw(st.sampled_from(("tcp", "udp", "icmp", "all"))), cidr, first, last)


policies = st.builds(
    reference.Policy,
    egress=st.one_of(st.none(), st.lists(rules(), max_size=12).map(tuple)),
    guarded=st.dictionaries(addresses, st.lists(rules(), max_size=4).map(tuple), max_size=4),
    withheld=st.lists(rules(), max_size=3).map(tuple),
)


def said(policy: reference.Policy, protocol: str, far: IPv4Address, port: int) -> DropReason:
    """What the rules say when they are read one by one."""
    reason = policy.refusal(OWN_ADDRESS, PROTOCOLS[protocol], far, port)
    return DropReason.NONE if reason is None else DropReason[reason.upper()]


@settings(max_examples=400)
@given(policy=policies, data=st.data())
def test_compiled_rules_say_the_same(policy: reference.Policy, data: st.DataObject) -> None:
    compiled = compiled_policy(OWN, policy)
    assert compiled is not None
    every = [*(policy.egress or ()), *policy.withheld]
    every += [rule for guard in policy.guarded.values() for rule in guard]
    edges = [edge for rule in every for edge in (rule.cidr[0], rule.cidr[-1])]
    near_ports = {
        min(max(port + step, 0), 65535)
        for rule in every
        for port in (rule.first, rule.last)
        for step in (-1, 0, 1)
    }
    targets = {*edges, *policy.guarded, data.draw(addresses), data.draw(addresses)}
    for far in sorted(targets):
        there = str(far)
        for port in {*near_ports, data.draw(ports)}:
            for protocol in PROTOCOLS:
                expected = said(policy, protocol, far, port)
                assert compiled.verdict(protocol, there, port) == expected, (protocol, far, port)


def test_three_hundred_rules() -> None:
    """Five groups of sixty: every rule admits its own, and nothing else."""
    egress = [Rule("tcp", f"10.{number}.0.0/16", number, number + 40) for number in range(250)]
    egress += [Rule("udp", f"172.16.{number}.1/32", 7, 7) for number in range(50)]
    policy = Policy(OWN, egress=egress)
    for number in range(250):
        for port in (number - 1, number, number + 40, number + 41):
            admitted = number <= port <= number + 40
            verdict = policy.verdict("tcp", f"10.{number}.3.4", max(port, 0))
            if port >= 0:
                assert (verdict is DropReason.NONE) == admitted, (number, port)
    assert policy.verdict("udp", "172.16.49.1", 7) is DropReason.NONE
    assert policy.verdict("udp", "172.16.50.1", 7) is DropReason.SECURITY_GROUP_EGRESS


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("sctp"), "protocol 'sctp'"),
        (Rule("tcp", "10.0.0.0/33"), "use a.b.c.d/n"),
        (Rule("tcp", "10.0.0.0/-1"), "use a.b.c.d/n"),
        (Rule("tcp", "10.0.0.0"), "use a.b.c.d/n"),
        (Rule("tcp", "ten/8"), "use a.b.c.d/n"),
        (Rule("tcp", "10.0.0.1/8"), "host bits"),
        (Rule("tcp", first=2, last=1), "ports 2 to 1"),
        (Rule("tcp", first=-1), "ports -1 to 65535"),
        (Rule("tcp", last=65536), "ports 0 to 65536"),
    ],
)
def test_rules_that_cannot_be(rule: Rule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(OWN, egress=[rule])
    with pytest.raises(ValueError, match=message):
        Policy(OWN, guarded={"10.0.1.80": [rule]})
    with pytest.raises(ValueError, match=message):
        Policy(OWN, withheld=[rule])


NOTHING = Policy(OWN, egress=[])
UDP_ONLY = Policy(OWN, egress=[Rule("udp")])


def given_policy(engine: Engine, policy: Policy | None) -> None:
    """Give interface 0 a policy."""
    engine.set_interface(
        0,
        address=OWN,
        mac=scenario.interface_mac(0),
        subnet=scenario.SUBNETS[0],
        router=scenario.ROUTERS[0],
        destinations=scenario.DESTINATIONS,
        policy=policy,
    )


def test_a_rule_that_goes_leaves_tracked_flows() -> None:
    """Flows go on both ways without a rule, until they end; then they cannot begin again."""
    target = EngineTarget(scenario.Setup(timeouts=reference.Timeouts(udp=1000, hold=500)), now=0)
    engine = target.engine
    port = traffic.opened(engine, 1, 5000)
    before = engine.flows()
    given_policy(engine, NOTHING)
    assert engine.flows() == before
    out = engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 900)
    assert out.action is Action.FORWARD
    assert engine.translate(traffic.answer(port), OUTSIDE, 0, 900).action is Action.FORWARD
    other = engine.translate(traffic.datagram(1, 5001), INSIDE, 1, 900)
    assert other.reason is DropReason.SECURITY_GROUP_EGRESS
    # The flow is over and its port is held: to take it up again is to begin.
    again = engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 2000)
    assert again.reason is DropReason.SECURITY_GROUP_EGRESS
    given_policy(engine, UDP_ONLY)
    assert traffic.opened(engine, 1, 5000, 2000) == port
    assert target.count("drop_security_group_egress") == 2
    assert target.map.slot_counters(1)["drops"] == 2
    assert target.problems() == []
    target.close()


def test_a_closed_connection_needs_a_rule_to_begin_again() -> None:
    target = EngineTarget(scenario.Setup())
    engine = target.engine
    port = traffic.source_port(engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0))
    reset = traffic.segment_back(port, packet.RST | packet.ACK, ack=1001)
    assert engine.translate(reset, OUTSIDE, 0, 0).action is Action.FORWARD
    given_policy(engine, UDP_ONLY)
    verdict = engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0)
    assert verdict.reason is DropReason.SECURITY_GROUP_EGRESS
    given_policy(engine, None)
    assert engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0).action is Action.FORWARD
    target.close()


def test_a_refused_flow_takes_nothing() -> None:
    """No entry and no port: a flood of refused flows does not crowd out the others."""
    target = EngineTarget(scenario.Setup(flows_max=4))
    given_policy(target.engine, NOTHING)
    for number in range(100):
        verdict = target.engine.translate(traffic.datagram(1, 1 + number), INSIDE, 1, 0)
        assert verdict.reason is DropReason.SECURITY_GROUP_EGRESS
    assert target.count("flows_entries_used") == 0
    assert target.engine.drain_events() == []
    target.close()
