# SPDX-License-Identifier: Apache-2.0
"""The engine and the model side by side: same input, same output, same flows."""

import dataclasses
from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hyperplane_nat.engine import EndCause, NeighbourState
from hyperplane_nat.engine import Timeouts as EngineTimeouts
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine import scenario
from tests.engine.compiled import (
    EngineTarget,
    flow_tuple,
    result_of,
    set_host,
    set_interface,
    set_routes,
    set_slot,
)
from tests.reference import Policy, Result, Timeouts, gateways, packet
from tests.reference.flow import PROTOCOL_NAMES, Entry, FlowTuple, InsideKey
from tests.reference.hosts import name_of
from tests.reference.settings import mac_bytes

_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}

COMPARED_COUNTERS = (
    *(f"flows_created_{name}" for name in _NUMBERS),
    *(f"flows_ended_{name}_timeout" for name in _NUMBERS),
    "flows_ended_tcp_fin",
    "flows_ended_tcp_rst",
    "flows_ended_tcp_replaced",
    "icmp_errors_translated",
    "replies_arp",
    "replies_icmp",
    "fragments_forwarded",
    "packets_fragmented",
    "mss_clamped",
    "replies_tcp",
    "tcp_syns_from_source",
    "flows_established_tcp",
    "port_allocation_errors",
    "mappings_active",
    "packets_hairpinned",
    *(
        f"{unit}_{way}"
        for unit in ("packets", "bytes")
        for way in (
            "in_from_source",
            "out_to_destination",
            "in_from_destination",
            "out_to_source",
        )
    ),
)


_LEAVE_A_FLOW = (
    "neighbour_queue_full",
    "neighbour_failed",
    "hairpin_no_mapping",
    "filtered",
    "flow_held",
    "tcp_rst_window",
    "tcp_syn_unsolicited",
)
"""Why a packet may be dropped after it has begun a flow."""


def _life(flow: FlowTuple) -> tuple[Any, str, str, int, int, str, int, int]:
    """What tells one life of a flow from another: its key, its port and when it began."""
    return (*scenario.flow_key(flow), flow[8], flow[9], flow[14])


def _mapping_keys(mappings: set[FlowTuple]) -> set[tuple[int, int, int]]:
    return {(each[2], _NUMBERS[each[0]], each[5]) for each in mappings}


class Pair:
    """Drives both with one clock; every step compares them."""

    def __init__(self, setup: scenario.Setup, *, now: int = 0, seed: bytes = bytes(16)) -> None:
        self.now = now
        self.setup = setup
        self.links = dict.fromkeys(range(len(scenario.HOSTS)), 0)
        """The link of each host."""
        self.refusals: dict[tuple[str, IPv4Address, int], int] = {}
        """How often there was no port of the load balancer's node, by target."""
        self.model = scenario.reference_nat(setup, now)
        self.target = EngineTarget(setup, seed=seed, now=now)
        self.engine = self.target.engine
        self._since: int | None = None
        """When the first of the calls of `expire` was since one examined less than its budget, or
        since other timeouts.
        """

    def translate(
        self,
        frame: bytes,
        side: int,
        port: int,
        *,
        partial: bool = False,
        gso_size: int = 0,
        checksum_at: tuple[int, int] | None = None,
    ) -> Result:
        """One frame through both."""
        verdict = self.engine.translate(
            frame,
            side,
            port,
            self.now,
            partial=partial,
            gso_size=gso_size,
            checksum_at=checksum_at,
        )
        got = result_of(verdict)
        address, nat_port = self._chosen(got)
        expected = self.model.translate(
            frame,
            side,
            port,
            self.now,
            partial=partial,
            gso_size=gso_size,
            checksum_at=checksum_at,
            nat_port=nat_port,
            nat_address=address,
            identification=packet.word(got.frame, 18) if len(got.frame) >= 34 else None,
            tombstone_forgotten=got.reason == "tcp_no_flow",
            balanced_to=self._balanced(got),
        )
        assert got == expected, (
            f"frame {frame.hex(' ')} from side {side} port {port} partial {partial}:\n"
            f"engine {got.action} {got.reason} {got.side} {got.port} {got.frame.hex(' ')}\n"
            f"model  {expected.action} {expected.reason} {expected.side} {expected.port} "
            f"{expected.frame.hex(' ')}"
        )
        extra = self.target.take_extra()
        assert extra == self.model.extra, f"besides {frame.hex(' ')}: {extra}\n{self.model.extra}"
        self.compare_flows()
        return got

    def _balanced(self, result: Result) -> tuple[IPv4Address, int] | str | None:
        """Whom a packet goes to, if it went to anybody; or why it did not."""
        if result.reason == "load_balancer_port_allocation":
            return self._refused_at_node()
        if result.side not in (scenario.OUTSIDE, scenario.HOST) or result.action == "reply":
            return result.reason
        at = 14 + (result.frame[14] & 0x0F) * 4
        return IPv4Address(result.frame[30:34]), packet.word(result.frame, at + 2)

    def _refused_at_node(self) -> tuple[IPv4Address, int]:
        """Towards which target there was no port just then."""
        before = self.refusals
        self.refusals = {
            (each.protocol, IPv4Address(each.remote_address), each.remote_port): each.errors
            for each in self.target.map.exhaustions()
            if each.interface == scenario.NODE_NUMBER
        }
        [(_, address, port)] = [
            key for key, errors in self.refusals.items() if errors != before.get(key)
        ]
        return address, port

    def _chosen(self, result: Result) -> tuple[IPv4Address | None, int | None]:
        """The address and port the engine chose; for a drop, those of the flow that appeared."""
        if result.side in (scenario.OUTSIDE, scenario.HOST) and result.frame[12:14] == b"\x08\x00":
            at = 14 + (result.frame[14] & 0x0F) * 4
            icmp = result.frame[23] == packet.ICMP
            nat_port = packet.word(result.frame, at + (4 if icmp else 0))
            return IPv4Address(result.frame[26:30]), nat_port
        if result.side == scenario.INSIDE or result.reason in _LEAVE_A_FLOW:
            known = {_life(flow) for flow in self.model.flows()}
            lives = {_life(flow_tuple(flow)) for flow in self.engine.flows()}
            for *_, address, nat_port, created in lives - known:
                if created == self.now:
                    return IPv4Address(address), nat_port
        return None, None

    def expire(self, budget: int) -> int:
        """Let time do its work in both; the model checks what the engine chose to end."""
        before, mappings = self.target.flows(), self.target.mappings()
        examined = self.engine.expire(self.now, budget)
        assert 0 <= examined <= budget
        ended = scenario.ended_between(before, self.target.flows())
        keys: list[InsideKey] = [
            (slot, _NUMBERS[protocol], IPv4Address(remote), remote_port, inside_port)
            for slot, protocol, remote, remote_port, inside_port in ended
        ]
        freed = _mapping_keys(mappings) - _mapping_keys(self.target.mappings())
        self.model.expire(self.now, budget, keys, freed)
        if self._since is None:
            self._since = self.now
        if examined < budget:
            flows = self.model.due(self._since)
            held = map(self.model.mappings.__getitem__, self.model.mappings_due(self._since))
            # What was seen after that (an end counts from the deadline) has not been due then.
            late = [
                *(each for each in flows if _is_no_later(each.last_seen, self._since)),
                *(each for each in held if _is_no_later(each.last_seen, self._since)),
            ]
            assert not late, f"still there at {self.now} after expire: {late}"
            self._since = None
        assert self.engine.verify() == []
        self.compare_flows()
        return len(keys)

    def set_neighbour(self, interface: int, address: str, mac: str | None) -> None:
        """A next hop is known, or forgotten, in both."""
        self.engine.set_neighbour(interface, address, mac, self.now)
        raw = None if mac is None else mac_bytes(mac)
        left = self.model.set_neighbour(interface, IPv4Address(address), raw, self.now)
        assert (self.target.take_extra() if left else []) == left

    def resolve(self) -> None:
        """Let what is due about next hops happen in both, in whatever order."""
        due = self.engine.resolve(self.now)
        asked, expected = self.target.take_extra(), self.model.resolve(self.now)
        assert sorted(each.frame for each in asked) == sorted(each.frame for each in expected)
        assert due == min(
            (each.due for each in self.model.neighbours.known.values() if each.due is not None),
            default=None,
        )

    def compare_neighbours(self) -> None:
        """What is known of every next hop agrees, and how many frames wait for it."""
        known = {
            (interface, str(address)): (
                each.mac.hex(":") if each.mac else None,
                each.failed,
                len(each.waiting),
            )
            for (interface, address), each in self.model.neighbours.known.items()
        }
        assert known == {
            (hop.interface, hop.address): (
                hop.mac,
                hop.state is NeighbourState.FAILED,
                hop.waiting_frames,
            )
            for hop in self.engine.next_hops()
        }

    def set_policy(self, number: int, policy: Policy | None) -> None:
        """Give an interface other security groups."""
        before = self.model.interfaces[number]
        for each, primary, address in self.setup.interfaces():
            if primary == number:
                set_interface(
                    self.engine,
                    each,
                    policy,
                    primary=primary,
                    address=address,
                    mtu=before.mtu,
                    route_table=before.route_table,
                )
        self.model.set_interface(number, dataclasses.replace(before, policy=policy))

    def set_routes(self, *, black: bool) -> None:
        """Let the environments' route lead nowhere, or to the NAT gateway again."""
        if not self.setup.gateways:
            return
        set_routes(self.engine, black=black)
        scenario.set_reference_routes(self.model, black=black)

    def set_way_back(self, *, black: bool) -> None:
        """Let the route of the load balancer's node lead nowhere, or to the internet gateway."""
        target = RouteTarget.BLACKHOLE if black else RouteTarget.INTERNET_GATEWAY
        number = scenario.INTERNET_GATEWAY
        self.engine.set_route_table(scenario.OF_NODE, [("0.0.0.0/0", target, number)])
        kind = gateways.BLACKHOLE if black else gateways.INTERNET_GATEWAY
        self.model.set_route_table(scenario.OF_NODE, ((IPv4Network("0.0.0.0/0"), kind, number),))

    def set_silent(self, number: int, silent: bool) -> None:
        """Let an environment stand still, or go on."""
        slot = dataclasses.replace(self.model.slots[number], silent=silent)
        self.model.set_slot(number, slot)
        set_slot(self.engine, number, slot.interface, mtu=slot.mtu, silent=silent)

    def set_host(self, number: int, policy: Policy | None, *, anew: bool) -> None:
        """Give a host other groups; `anew`, if nothing is under way: another gets its address."""
        before = self.model.hosts[number]
        place = (scenario.HOST, number)
        if self.model.fragments or any(
            place in (flow.originator, flow.responder) for flow in self.model.plain
        ):
            anew = False
        policies = {} if policy is None else {number: policy}
        setup = dataclasses.replace(self.setup, host_policies=policies)
        self.links[number] += anew
        set_host(self.engine, setup, number, self.now, self.links[number])
        since = self.now if anew else before.since
        self.model.set_host(number, dataclasses.replace(before, policy=policy, since=since))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Let flows there are and new ones last so long."""
        self.model.timeouts = timeouts
        self._since = None
        fields = dataclasses.asdict(timeouts)
        self.engine.configure(timeouts_ms=EngineTimeouts(**fields), now_ms=self.now)

    def compare_flows(self) -> None:
        """Flows, states, counters of flows and clocks agree; so does the next deadline."""
        got, expected = self.target.flows(), self.model.flows()
        assert got == expected, f"engine only {got - expected}; model only {expected - got}"
        mappings = {mapping.as_tuple() for mapping in self.model.mappings.values()}
        assert self.target.mappings() == mappings
        deadline = self.engine.next_deadline()
        due_in = self.model.next_due_in(self.now)
        if due_in is None:
            return
        assert deadline is not None, "flows wait and nothing is scheduled"
        assert deadline - self.now <= max(due_in, 0), f"deadline {deadline} at {self.now}"

    def compare_counters(self) -> None:
        """Drops by reason and what is counted of flows agree; entries and index do, too."""
        assert self.engine.verify() == []
        counters = self.engine.counters()
        drops = {
            name.removeprefix("drop_"): value
            for name, value in counters.items()
            if name.startswith("drop_") and value
        }
        neighbours = self.model.neighbours
        expected = Counter(self.model.drops) + Counter(neighbour_failed=neighbours.lost)
        assert drops == expected
        assert counters["neighbour_requests"] == neighbours.requests
        assert counters["neighbour_failures"] == neighbours.failures
        self.compare_neighbours()
        self.model.counts["mappings_active"] = sum(
            mapping.flows > 0 for mapping in self.model.mappings.values()
        )
        for name in COMPARED_COUNTERS:
            assert counters[name] == self.model.counts.get(name, 0), name
        for protocol in _NUMBERS:
            created = counters[f"flows_created_{protocol}"]
            causes = [cause.name.lower() for cause in EndCause]
            ended = sum(counters[f"flows_ended_{protocol}_{cause}"] for cause in causes)
            assert counters[f"flows_active_{protocol}"] == created - ended
        used = len(self.model.inside) + len(self.model.mappings) + len(self.model.plain)
        used += len(self.model.orphans)
        assert counters["flows_entries_used"] == used
        exhaustions = {
            (
                _NUMBERS[each.protocol],
                each.interface,
                IPv4Address(each.remote_address),
                each.remote_port,
            ): (
                each.errors,
                each.last_ms & 0xFFFFFFFF,
                self._who(each.slot),
                each.reason.name.lower(),
            )
            for each in self.target.map.exhaustions()
        }
        assert exhaustions == {
            key: (record.errors, record.last, record.slot, record.reason)
            for key, record in self.model.exhaustions.items()
        }

    def _who(self, attachment: int) -> int | str:
        """Who was refused a port: a slot, or a place as flows name it."""
        state = self.target.map
        if attachment < state.slots_max:
            return attachment
        number = attachment - state.slots_max
        if number < state.interfaces_max:
            return name_of((scenario.OUTSIDE, number))
        return name_of((scenario.HOST, number - state.interfaces_max))

    def entries(self) -> list[Entry]:
        """The model's flows in an order that does not depend on the engine's choices."""
        return list(self.model.inside.values())

    def tcp_entries(self) -> list[Entry]:
        """Those of TCP."""
        return [entry for entry in self.entries() if entry.protocol == packet.TCP]

    def other_entries(self) -> list[Entry]:
        """Those of UDP and ICMP."""
        return [entry for entry in self.entries() if entry.protocol != packet.TCP]

    def close(self) -> None:
        del self.engine
        self.target.close()


def _is_no_later(one: int, other: int) -> bool:
    """Of two times of a clock of 32 bits."""
    return (other - one) & 0xFFFFFFFF < 1 << 31
