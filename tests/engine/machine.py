# SPDX-License-Identifier: Apache-2.0
"""What can happen to a gateway but packets: how it starts, settings, neighbours, time.

Few slots, few ports and few entries, so that everything runs out all the time.
"""

import dataclasses
from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.engine import scenario
from tests.engine.pair import Pair
from tests.reference import Behaviour, Policy, Ports, Rule, Timeouts, packet
from tests.reference.flow import Entry
from tests.reference.settings import NeighbourSettings

neighbours = st.sampled_from((scenario.WEB, scenario.ECHO, scenario.FAR))
remotes = st.sampled_from(
    (scenario.WEB, scenario.ECHO, scenario.FAR, scenario.REMOTE, scenario.BEYOND, scenario.SERVICE)
)
time_steps = st.sampled_from((0, 1, 7, 99, 100, 101, 250, 499, 500, 501, 1000, 2000))
budgets = st.sampled_from((1, 2, 3, 1000))
narrow = st.sampled_from((65535, 65535, 68, 90))

POLICIES = (
    Policy(egress=()),
    Policy(egress=(Rule("all", IPv4Network("10.0.1.80/31"), 7, 79), Rule("tcp", first=80))),
    Policy(
        guarded={
            IPv4Address(scenario.WEB): (Rule("udp", first=7, last=7), Rule("icmp")),
            IPv4Address(scenario.FAR): (),
        }
    ),
    Policy(withheld=(Rule("tcp", first=80, last=80), Rule("icmp"))),
)

BEHAVIOURS = (
    Behaviour(endpoint_independent=True),
    Behaviour(endpoint_independent=True, filtering="address_dependent", exhaustion_icmp=True),
    Behaviour(endpoint_independent=True, filtering="endpoint_independent", paired_pooling=True),
    Behaviour(endpoint_independent=True, hairpinning=True),
    Behaviour(endpoint_independent=True, hairpinning=True, filtering="address_dependent"),
    Behaviour(endpoint_independent=True, hairpinning=True, filtering="endpoint_independent"),
)
SECONDARY = ((0, "10.0.1.11"), (0, "10.0.1.12"), (1, "10.0.2.11"))


class GatewayMachine(RuleBasedStateMachine):
    """The pair of engine and model, which are compared after each rule."""

    pair: Pair

    @initialize(
        flows_max=st.sampled_from((8, 12, 64)),
        range_size=st.sampled_from((1, 2, 4, 4, 70)),
        limit=st.sampled_from((1, 3, 55_000)),
        hold=st.sampled_from((0, 100, 500)),
        now=st.sampled_from((0, 12345, (1 << 32) - 700, (1 << 31) - 300)),
        known=st.sampled_from((True, True, True, False)),
        mtus=st.tuples(narrow, narrow, narrow),
        behaviour=st.sampled_from((Behaviour(), *BEHAVIOURS)),
        limits=st.sampled_from(((0, 0), (0, 0), (0, 0), (5, 0), (0, 4), (6, 5))),
        secondary=st.sampled_from(((), (), ((0, "10.0.1.11"),), SECONDARY)),
        gateways=st.booleans(),
        seed=st.binary(min_size=16, max_size=16),
    )
    def start(
        self,
        flows_max: int,
        range_size: int,
        limit: int,
        hold: int,
        now: int,
        known: bool,
        mtus: tuple[int, int, int],
        behaviour: Behaviour,
        limits: tuple[int, int],
        secondary: tuple[tuple[int, str], ...],
        gateways: bool,
        seed: bytes,
    ) -> None:
        setup = scenario.Setup(
            flows_max=flows_max,
            ports=Ports(40000, 40000 + range_size - 1, limit, *limits),
            timeouts=Timeouts(
                tcp_opening=500,
                tcp_established=2000,
                tcp_half_closed=1500,
                tcp_closing=400,
                udp=1000,
                icmp=250,
                hold=hold,
            ),
            neighbours_known=known,
            neighbours=NeighbourSettings(
                reachable_ms=2000, retry_ms=200, attempts=2, failed_ms=400, queue_frames=8
            ),
            behaviour=dataclasses.replace(
                behaviour, tcp_fragments=True, icmp_fragments=True, fragment_ms=500
            ),
            secondary=secondary,
            # At which of several addresses a flow by a NAT gateway is counted, no packet tells.
            gateways=gateways and not secondary,
            slot_mtu=mtus[0],
            interface_mtu=mtus[1],
            host_mtu=mtus[2],
        )
        self.pair = Pair(setup, now=now, seed=seed)

    # Security groups

    @rule(number=st.integers(0, 2), policy=st.sampled_from((None, *POLICIES)))
    def policy_changes(self, number: int, policy: Policy | None) -> None:
        self.pair.set_policy(number, policy)
        self.pair.compare_flows()

    @rule(udp=st.sampled_from((100, 1000, 5000)), hold=st.sampled_from((0, 100, 500)))
    def timeouts_change(self, udp: int, hold: int) -> None:
        timeouts = dataclasses.replace(self.pair.model.timeouts, udp=udp, hold=hold)
        self.pair.set_timeouts(timeouts)
        self.pair.compare_flows()

    @rule(number=st.sampled_from(sorted(scenario.SLOT_INTERFACES)), silent=st.booleans())
    def environment_freezes_or_thaws(self, number: int, silent: bool) -> None:
        self.pair.set_silent(number, silent)
        self.pair.compare_flows()

    @rule(black=st.booleans())
    def route_changes(self, black: bool) -> None:
        """That of the environments leads to the NAT gateway, or nowhere."""
        self.pair.set_routes(black=black)

    # Neighbours and ARP

    @rule(
        interface=st.integers(0, 2),
        remote=neighbours,
        event=st.sampled_from(("answers", "answers", "is forgotten")),
    )
    def neighbour_event(self, interface: int, remote: str, event: str) -> None:
        mac = scenario.neighbour_mac(interface, remote)
        self.pair.set_neighbour(interface, remote, mac if event == "answers" else None)

    @rule()
    def next_hops_are_asked(self) -> None:
        self.pair.resolve()
        self.pair.compare_neighbours()

    @rule(
        interface=st.integers(0, 2),
        sender=neighbours,
        operation=st.sampled_from((1, 2, 2, 2, 3)),
        ours=st.booleans(),
        which=st.integers(0, 2),
        moved=st.sampled_from((0, 0, 1, 2)),
    )
    def arp_in_the_vpc(
        self, interface: int, sender: str, operation: int, ours: bool, which: int, moved: int
    ) -> None:
        numbers = self.pair.model.addresses(interface)
        address = str(self.pair.model.interfaces[numbers[which % len(numbers)]].address)
        mac = scenario.neighbour_mac(interface + 16 * moved, sender)
        body = packet.arp(
            operation=operation,
            sender_mac=mac,
            sender=sender,
            target=address if ours else "10.0.1.99",
        )
        destination = scenario.interface_mac(interface)
        frame = packet.ethernet(destination, mac, packet.ETHERTYPE_ARP, body)
        self.pair.translate(frame, scenario.OUTSIDE, interface)

    # Time

    @rule(step=time_steps, budget=st.sampled_from((0, 1, 2, 1000)))
    def time_passes(self, step: int, budget: int) -> None:
        self.pair.now += step
        if budget:
            self.pair.expire(budget)

    @rule(early=st.sampled_from((0, 0, 1)), budget=budgets)
    def next_flow_is_due(self, early: int, budget: int) -> None:
        due_in = self.pair.model.next_due_in(self.pair.now)
        if due_in is not None:
            self.pair.now += max(due_in - early, 0)
        self.pair.expire(budget)

    @rule()
    def counters_agree(self) -> None:
        self.pair.compare_counters()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.compare_counters()
            self.pair.close()

    # Links

    def send(
        self, entry: Entry, side: int, body: bytes, *, partial: bool = False, gso_size: int = 0
    ) -> None:
        if side == scenario.INSIDE:
            self.send_from_slot(entry.slot, body, partial=partial, gso_size=gso_size)
            return
        link = self.pair.model.interfaces[entry.interface].primary
        assert link is not None
        ours, theirs = scenario.ethernet_addresses(side, link)
        frame = packet.ethernet(ours, theirs, packet.ETHERTYPE_IPV4, body)
        self.pair.translate(frame, side, link, partial=partial, gso_size=gso_size)

    def send_from_slot(
        self, slot: int, body: bytes, *, partial: bool = False, gso_size: int = 0
    ) -> None:
        ours, theirs = scenario.ethernet_addresses(scenario.INSIDE, slot)
        frame = packet.ethernet(ours, theirs, packet.ETHERTYPE_IPV4, body)
        self.pair.translate(frame, scenario.INSIDE, slot, partial=partial, gso_size=gso_size)
