# SPDX-License-Identifier: Apache-2.0
"""The part of the oracle that knows of load balancers' nodes, their listeners and targets.

A balanced flow that has a port, of a node's address or of an environment's interface, is found by
what its target answers to, as any flow with a port; one that keeps its client's source is among the
flows of hosts, and found by comparing. Fragments for nodes are not in it.
"""

import copy
from dataclasses import replace
from ipaddress import IPv4Address

from tests.reference import icmp_error, packet, proxying, tombstones
from tests.reference.balanced_flow import BalancedFlow, Client, End
from tests.reference.errors import DroppedError, RefusedError
from tests.reference.flow import PROTOCOL_NAMES, Entry, InsideKey, OutsideKey
from tests.reference.hosts import HOST, HostRules, Place, PlainFlow, name_of
from tests.reference.mapping import Chosen, Mapping
from tests.reference.packet import Datagram
from tests.reference.reading import check_transport, quote_in
from tests.reference.result import Result
from tests.reference.rewriting import reported
from tests.reference.settings import Listener
from tests.reference.tracker import INSIDE, LIVE, OUTSIDE, State

NODE, ENDPOINT = "load balancer", "endpoint"
ENDPOINT_MTU = 8500


class BalancerRules(HostRules):
    """Rules about what is for a load balancer's node."""

    def __init__(self) -> None:
        super().__init__()
        self.balanced_to: End | str | None = None
        """The target that the engine chose; or why it dropped the packet, whatever it chose."""
        self.chosen: Chosen | None = None
        self.orphans: list[BalancedFlow] = []
        """Flows that are over for their clients, whose ports are held."""

    def _lasts(self, flow: PlainFlow, now: int) -> bool:
        """Let the deadline of a flow have passed; a connection is remembered for a while."""
        if not isinstance(flow, BalancedFlow):
            return super()._lasts(flow, now)
        while self._remaining(flow, now) <= 0:
            if flow.state in LIVE:
                self._count(f"flows_ended_{PROTOCOL_NAMES[flow.protocol]}_timeout")
                if flow.protocol == packet.TCP and self.timeouts.hold > 0:
                    flow.last_seen = (now + self._remaining(flow, now)) & 0xFFFFFFFF
                    flow.state = State.HELD
                    flow.tracker.pending = False
                    continue
                flow.state = State.HELD
            self._remember(flow)
            self.plain.remove(flow)
            return False
        return True

    def _find_inside(self, key: InsideKey, now: int) -> Entry | None:
        raise NotImplementedError

    def _find_outside(self, key: OutsideKey, now: int) -> Entry | None:
        raise NotImplementedError

    # Who and where

    def node_at(self, address: IPv4Address, vpc: int) -> int | None:
        """The node or endpoint with an address in a VPC."""
        number = self._own_number(address, vpc)
        known = number is not None and self.interfaces[number].role in (NODE, ENDPOINT)
        return number if known else None

    def node_behind(self, interface: int, address: IPv4Address) -> int | None:
        """The same, if the VPC's router reaches it by this interface's link."""
        node = self.node_at(address, self.interfaces[interface].vpc)
        if node is None or self.interfaces[node].behind != interface:
            return None
        return node

    def _listener(self, node: int, protocol: int, port: int) -> Listener | None:
        own = self.interfaces[node].listeners
        return next((each for each in own if (each.protocol, each.port) == (protocol, port)), None)

    def _client(self, place: Place, datagram: Datagram) -> Client:
        address = datagram.source
        if place[0] == INSIDE:
            address = self.interfaces[self._attached_to(place[1])].address
        return Client(place, address, (datagram.source, packet.word(datagram.payload, 0)))

    def _fitted(
        self, datagram: Datagram, entry: Entry | Mapping, side: int, partial: bool
    ) -> Datagram:
        by_endpoint = isinstance(entry, BalancedFlow) and entry.entrance != entry.node
        if by_endpoint and max(datagram.segments()) > ENDPOINT_MTU:
            raise DroppedError("endpoint_mtu")
        return super()._fitted(datagram, entry, side, partial)

    def _target_host(self, flow: BalancedFlow) -> int | None:
        return self.host_at(flow.target[0], self.interfaces[flow.node].vpc)

    def _exit(self, flow: BalancedFlow) -> Place:
        """On which link a flow's target is."""
        host = self._target_host(flow)
        if host is not None:
            return HOST, host
        behind = self.interfaces[flow.responder[1]].behind
        return OUTSIDE, flow.responder[1] if behind is None else behind

    def _ways(self, datagram: Datagram, entry: Entry | Mapping, side: int) -> tuple[int, int]:
        if not isinstance(entry, BalancedFlow):
            return super()._ways(datagram, entry, side)
        most = 65535 if entry.entrance == entry.node else ENDPOINT_MTU
        own, far = self._mtu_of(entry.originator), self._mtu_of(self._exit(entry))
        return min(own, most), min(far, most)

    # Arriving

    def _at_node(
        self, datagram: Datagram, node: int, place: Place, now: int, partial: bool
    ) -> Result:
        """What others than environments send to a node: a target's answer, or a client's."""
        if datagram.protocol == packet.ICMP:
            return self._error_at_node(datagram, node, place, now)
        port, own = packet.word(datagram.payload, 0), packet.word(datagram.payload, 2)
        key = (node, datagram.protocol, datagram.source, port, own)
        answered = self._find_outside(key, now)
        if answered is not None:
            assert isinstance(answered, BalancedFlow)
            return self._back(datagram, answered, now, partial)
        remembered = (name_of((OUTSIDE, node)), datagram.protocol, datagram.destination, own, port)
        if self._stray(datagram) and self.tombstones.has(remembered):
            return self._idle_reset(datagram)
        return self._to_node(datagram, node, place, now, partial)

    def _at_public_node(self, datagram: Datagram, public: int, now: int, partial: bool) -> Result:
        """What a client in the internet sends to a node's public address."""
        serves = self.interfaces[public].serves
        assert serves is not None
        if serves[1] not in self.interfaces:
            raise DroppedError("unknown_link")
        check_transport(datagram, partial)
        if datagram.ttl <= 1:
            return self._aged(datagram)
        return self._to_node(datagram, serves[1], (OUTSIDE, public), now, partial)

    def _check_way(self, node: int, client: Client | BalancedFlow) -> None:
        """A client in the internet is answered by the route table of the node's subnet."""
        side, number = client.originator if isinstance(client, BalancedFlow) else client.place
        if side == OUTSIDE and self.interfaces[number].serves:
            own = client.inside_address if isinstance(client, BalancedFlow) else client.address
            self._way_back(self.interfaces[node].route_table, own)

    @staticmethod
    def _stray(datagram: Datagram) -> bool:
        return tombstones.deserves_answer(datagram)

    def _to_node(
        self, datagram: Datagram, node: int, place: Place, now: int, partial: bool
    ) -> Result:
        """A client's packet for a node."""
        if datagram.protocol == packet.ICMP:
            return self._error_at_node(datagram, node, place, now)
        client = self._client(place, datagram)
        flow = self._flow_of_client(client, datagram, now)
        if flow is not None and self._over(flow, datagram):
            self._orphan(flow, now)
            flow = None
        shift = 0
        if flow is None:
            listener = self._listener(node, datagram.protocol, packet.word(datagram.payload, 2))
            if listener is not None and listener.proxies:
                datagram, partial = proxying.bared(datagram, partial)
            flow = self._begin_balanced(datagram, node, client, now)
            if flow is None:
                return self._reset(datagram, "load_balancer_stray")
        else:
            self._check_way(node, flow)
            if datagram.protocol == packet.TCP and datagram.payload[13] & 0x17 == packet.SYN:
                self._count("tcp_syns_from_source")
            seen = datagram
            if flow.proxied is not None:
                largest = self._mtu_of(self._exit(flow))
                datagram, partial, shift = flow.proxied.forth(datagram, largest, partial)
                seen = proxying.shifted(datagram, shift)
            try:
                self._track(flow, seen, INSIDE, now)
            except DroppedError as drop:
                if str(drop) != "tcp_idle_timeout":
                    raise
                return self._idle_reset(datagram)
        datagram = self._fitted(datagram, flow, INSIDE, partial)
        flow.count_out(datagram)
        way = self._exit(flow)
        if shift:
            datagram = proxying.sealed(proxying.shifted(datagram, shift), partial=partial)
        changed = self._rebalanced(datagram, flow, INSIDE, partial)
        if way[0] == OUTSIDE:
            return self._leaving(changed, way[1], partial)
        counted = "out_to_destination" if place[0] == INSIDE else "out_to_source"
        return self._to_host(changed, way[1], partial, counted)

    def _flow_of_client(self, client: Client, datagram: Datagram, now: int) -> BalancedFlow | None:
        remote = (datagram.destination, packet.word(datagram.payload, 2))
        own = client.place[1] if client.place[0] == INSIDE else name_of(client.place)
        found = self._find_inside((own, datagram.protocol, *remote, client.end[1]), now)
        if found is None:
            plain = self._find_plain(client.place, datagram.protocol, client.end, remote, now)
            found = None if plain is None else plain[0]
        assert found is None or isinstance(found, BalancedFlow)
        return found

    def _over(self, flow: BalancedFlow, datagram: Datagram) -> bool:
        """Whether a client's packet begins anew what is over, or as good as that."""
        if flow.protocol != packet.TCP:
            return flow.state is State.HELD
        segment = packet.parse_segment(datagram.payload)
        if segment.flags & 0x17 != packet.SYN:
            return False
        if flow.state in (State.FIN_BOTH, State.TIME_WAIT, State.RESET):
            return flow.tracker.syn is not None and flow.tracker.syn.seq != segment.seq
        return flow.state is State.HELD

    def _orphan(self, flow: BalancedFlow, now: int) -> None:
        """The client has done with a flow; its port is held."""
        if flow.state in LIVE:
            self._count(f"flows_ended_{PROTOCOL_NAMES[flow.protocol]}_removed")
            flow.last_seen = now
        flow.tracker.pending = False
        if flow in self.plain:
            self._remember(flow)
            self.plain.remove(flow)
            return
        del self.inside[flow.inside_key]
        flow.state = State.HELD
        self.orphans.append(flow)

    def _free_orphans(self, now: int) -> None:
        """Those whose time is over are gone."""
        for flow in tuple(self.orphans):
            self._find_outside(flow.outside_key, now)

    def _unlink(self, entry: Entry) -> None:
        """No packet of its originator finds a flow that had a port any more."""
        if any(entry is each for each in self.orphans):
            self.orphans = [each for each in self.orphans if each is not entry]
        else:
            del self.inside[entry.inside_key]

    def _remember(self, flow: BalancedFlow) -> None:
        if flow.state is State.HELD:
            self.tombstones.put(flow.tombstone_key)

    # Choosing

    def _begin_balanced(
        self, datagram: Datagram, node: int, client: Client, now: int
    ) -> BalancedFlow | None:
        """A new flow; None for a segment that is answered with a reset."""
        entrance = node
        if self.interfaces[entrance].role == ENDPOINT:
            node = self.interfaces[entrance].node or -1
            if node < 0:
                raise DroppedError("endpoint_unavailable")
        self._check_way(node, client)
        listener = self._listener(node, datagram.protocol, packet.word(datagram.payload, 2))
        if listener is None:
            raise DroppedError("load_balancer_no_listener")
        if datagram.protocol == packet.TCP:
            flags = datagram.payload[13] & 0x17
            if flags & packet.RST:
                raise DroppedError("load_balancer_stray")
            if flags != packet.SYN:
                return None
            self._count("tcp_syns_from_source")
        self._ask_groups(datagram, entrance, client)
        if entrance != node:
            listener = replace(listener, preserves=False)
        if not listener.targets:
            raise DroppedError("load_balancer_no_target")
        target = self._target_told(datagram, node, client, listener, now)
        flow = self._drafted(datagram, node, client, listener, target, now)
        flow.entrance = entrance
        if len(self._entries()) + len(self.orphans) >= self.flows_max:
            raise RefusedError("flow_table_full")
        self._begin(flow, datagram, INSIDE, now)
        if flow.interface < 0:
            self.plain.append(flow)
        else:
            self.inside[flow.inside_key] = flow
            self.outside[flow.outside_key] = flow
        self.tombstones.remove(flow.inside_key)
        return flow

    def _target_told(
        self, datagram: Datagram, node: int, client: Client, listener: Listener, now: int
    ) -> End:
        """The target that the engine chose, or one for which it drops the packet as it did."""
        if isinstance(self.balanced_to, tuple):
            assert self.balanced_to in listener.targets, f"no target: {self.balanced_to}"
            return self.balanced_to
        counts, exhaustions = dict(self.counts), copy.deepcopy(self.exhaustions)
        for target in listener.targets:
            try:
                self._drafted(datagram, node, client, listener, target, now)
            except DroppedError as drop:
                if str(drop) == self.balanced_to:
                    return target
            finally:
                self.counts, self.exhaustions = dict(counts), copy.deepcopy(exhaustions)
        return listener.targets[0]

    def _ask_groups(self, datagram: Datagram, node: int, client: Client) -> None:
        """Those of the client about where it sends to, and of that about the client."""
        port = packet.word(datagram.payload, 2)
        side, number = client.place
        own = None
        if side == INSIDE:
            own = self.interfaces[self._attached_to(number)].policy
        elif side == HOST:
            own = self.hosts[number].policy
        asked = (client.address, datagram.protocol, datagram.destination, port)
        if own and (reason := own.refusal(*asked)):
            raise DroppedError(reason)
        self._ask_entrance(node, datagram.protocol, client.address, port)

    def _ask_entrance(self, number: int, protocol: int, client: IPv4Address, port: int) -> None:
        own = self.interfaces[number]
        for policy in own.policy, own.admission:
            if policy and not policy.admits(protocol, client, port):
                raise DroppedError("security_group_ingress")

    def _ask_target(self, protocol: int, node: int, target: End, seen: IPv4Address) -> None:
        """Those of the node about the target, and of the target about either source."""
        own = self.interfaces[node]
        if own.policy and (reason := own.policy.refusal(own.address, protocol, *target)):
            raise DroppedError(reason)
        host = self.host_at(target[0], own.vpc)
        policy = None if host is None else self.hosts[host].policy
        if policy and not any(
            policy.admits(protocol, each, target[1]) for each in (seen, own.address)
        ):
            raise DroppedError("security_group_ingress")

    def _drafted(
        self,
        datagram: Datagram,
        node: int,
        client: Client,
        listener: Listener,
        target: End,
        now: int,
    ) -> BalancedFlow:
        if self._own(target[0], self.interfaces[node].vpc):
            raise DroppedError("load_balancer_target")
        flow = BalancedFlow(
            protocol=datagram.protocol,
            slot=client.place[1] if client.place[0] == INSIDE else -1,
            interface=-1,
            inside_address=client.end[0],
            inside_port=client.end[1],
            remote_address=datagram.destination,
            remote_port=listener.port,
            nat_address=client.end[0],
            nat_port=client.end[1],
            created=self.clock,
            last_seen=now,
            originator=client.place,
            node=node,
            target=target,
            idle=listener.idle,
        )
        self._keep_source(flow, client, now) if listener.preserves else self._take_source(flow, now)
        if listener.proxies:
            own = flow.interface if flow.hop is None else flow.hop
            inside = client.place[0] == INSIDE
            known = (self.interfaces[own].address, flow.nat_port) if inside else client.end
            flow.proxied = proxying.Proxied(known, (flow.remote_address, flow.remote_port))
        return flow

    def _keep_source(self, flow: BalancedFlow, client: Client, now: int) -> None:
        side, number = client.place
        host = self._target_host(flow)
        if side != INSIDE and flow.target[0] == client.end[0]:
            raise DroppedError("load_balancer_hairpin")
        if side == OUTSIDE and host is None:
            raise DroppedError("load_balancer_return_path")
        if side == INSIDE:
            chosen = self.chosen if isinstance(self.balanced_to, tuple) else None
            found = self._place(number, flow.protocol, flow.target, 1, chosen, now)
            flow.interface, flow.nat_port = found
            flow.nat_address = self.interfaces[flow.interface].address
            flow.responder = OUTSIDE, flow.interface
            self._ask_target(flow.protocol, flow.node, flow.target, flow.nat_address)
            return
        self._ask_target(flow.protocol, flow.node, flow.target, flow.nat_address)
        flow.responder = (OUTSIDE, self.hosts[number].interface) if host is None else (HOST, host)
        if self._find_plain(flow.responder, flow.protocol, *flow.ends_at(OUTSIDE), now, look=True):
            raise DroppedError("flow_collision")

    def _take_source(self, flow: BalancedFlow, now: int) -> None:
        own = self.interfaces[flow.node]
        self._ask_target(flow.protocol, flow.node, flow.target, own.address)
        who = flow.originator
        if who[0] == INSIDE:
            if reason := self._held_back(who[1], None, 1):
                raise self._refuse(who[1], flow.protocol, flow.target, reason, now)
            flow.hop = self._hop(flow.inside_key, now)
        numbers = self.addresses(flow.node)
        free = self._free(numbers, flow.protocol, flow.target)
        listening = {each.port for each in own.listeners if each.protocol == flow.protocol}
        if flow.node in free:
            free[flow.node] = [each for each in free[flow.node] if each not in listening]
        free = {number: ports for number, ports in free.items() if ports}
        if not free:
            reason = "load_balancer_port_allocation"
            slot = who[1] if who[0] == INSIDE else name_of(who)
            raise self._refuse(slot, flow.protocol, flow.target, reason, now, flow.node)
        chosen = self.chosen if isinstance(self.balanced_to, tuple) else None
        flow.interface, flow.nat_port = self._legal(free, chosen, flow.target)
        flow.nat_address = self.interfaces[flow.interface].address
        flow.responder = OUTSIDE, flow.interface

    def _admit_plain_again(self, flow: PlainFlow) -> None:
        if not isinstance(flow, BalancedFlow):
            super()._admit_plain_again(flow)
            return
        address, side = flow.inside_address, flow.originator[0]
        own = self.hosts[flow.originator[1]].policy if side == HOST else None
        if side == INSIDE:
            interface = self.interfaces[self._attached_to(flow.slot)]
            address, own = interface.address, interface.policy
        asked = (address, flow.protocol, flow.remote_address, flow.remote_port)
        if own and (reason := own.refusal(*asked)):
            raise DroppedError(reason)
        self._ask_entrance(flow.entrance, flow.protocol, address, flow.remote_port)

    # Answers

    def _back(self, datagram: Datagram, flow: BalancedFlow, now: int, partial: bool) -> Result:
        """What a target answers goes to the client, from the listener."""
        if flow.originator[0] == INSIDE and self.slots[flow.slot].silent:
            raise DroppedError("environment_frozen")
        try:
            self._track(flow, datagram, OUTSIDE, now)
        except DroppedError as drop:
            if str(drop) != "flow_held" or not self._resettable(datagram):
                raise
            return self._idle_reset(datagram)
        datagram = self._fitted(datagram, flow, OUTSIDE, partial)
        flow.count_in(datagram)
        if flow.proxied is not None:
            opening = flow.state in (State.SYN_SENT, State.SYN_RECEIVED)
            scale = flow.tracker.directions[OUTSIDE].scale
            datagram = flow.proxied.back(datagram, scale, opening=opening, partial=partial)
        changed = self._rebalanced(datagram, flow, OUTSIDE, partial)
        self._check_way(flow.node, flow)
        return self._to_client(flow, changed, partial)

    @staticmethod
    def _resettable(datagram: Datagram) -> bool:
        return datagram.protocol == packet.TCP and not datagram.payload[13] & packet.RST

    def _to_client(self, flow: BalancedFlow, changed: Datagram, partial: bool = False) -> Result:
        if flow.originator[0] == INSIDE:
            return self._entering(changed, flow.slot, partial)
        return self._to(flow.originator, changed, partial)

    def _rebalanced(
        self, datagram: Datagram, flow: BalancedFlow, side: int, partial: bool
    ) -> Datagram:
        """A packet of a flow as the other side has it."""
        source, destination = flow.ends_at(1 - side)[::-1]
        changed = datagram.one_hop_older()
        if destination != (datagram.destination, packet.word(datagram.payload, 2)):
            before = datagram
            changed = changed.readdressed(destination=destination[0])
            changed = reported(before, changed, destination[1], source=False, partial=partial)
        if source != (datagram.source, packet.word(datagram.payload, 0)):
            before = changed
            changed = self.identifications.identified(changed.readdressed(source=source[0]))
            changed = reported(before, changed, source[1], source=True, partial=partial)
        return changed

    def _balanced_back(
        self, datagram: Datagram, flow: PlainFlow, now: int, partial: bool
    ) -> Result | None:
        if not isinstance(flow, BalancedFlow):
            return None
        return self._back(datagram, flow, now, partial)

    def _balanced_told(
        self, datagram: Datagram, quote: icmp_error.Quote, flow: PlainFlow, side: int
    ) -> Result | None:
        if not isinstance(flow, BalancedFlow):
            return None
        return self._balanced_error(datagram, quote, flow, side)

    # Resets

    def _idle_reset(self, datagram: Datagram) -> Result:
        if not self.behaviour.idle_reset:
            raise DroppedError("tcp_idle_timeout")
        return self._reset(datagram, "tcp_idle_timeout")

    def _reset(self, datagram: Datagram, reason: str) -> Result:
        """Drop a segment, and answer it on the link that it came by."""
        side, number = self.link
        answer = tombstones.reset(datagram)
        if side == HOST:
            return self._tell_host(number, reason, "replies_tcp", answer)
        return self._answered(number, reason, "replies_tcp", answer, side)

    # ICMP errors

    def _error_at_node(self, datagram: Datagram, node: int, place: Place, now: int) -> Result:
        """What tells a node that a packet did not arrive: a target's, or a client's."""
        if datagram.payload[0] != 3:
            raise DroppedError("load_balancer_icmp")
        inside = place[0] == INSIDE
        public = place[0] == OUTSIDE and self.interfaces[place[1]].serves
        at = place[1] if public else node
        quote = quote_in(datagram, packet.ECHO_REPLY if inside else packet.ECHO_REQUEST)
        inner = quote.inner
        if place[0] == HOST and inner.destination != datagram.source:
            raise DroppedError("icmp_error_mismatch")
        if inner.source != self.interfaces[at].address or (
            inside and inner.destination != self.slots[place[1]].address
        ):
            raise DroppedError("icmp_error_mismatch")
        if quote.protocol == packet.ICMP:
            raise DroppedError("icmp_error_no_flow")
        own, far = quote.port(of_source=True), quote.port(of_source=False)
        found = None
        if not inside and not public:
            found = self._find_outside((node, quote.protocol, inner.destination, far, own), now)
        if isinstance(found, BalancedFlow):
            return self._balanced_error(datagram, quote, found, OUTSIDE)
        name = place[1] if inside else name_of(place)
        flow = self._find_inside((name, quote.protocol, inner.source, own, far), now)
        if flow is None:
            ends = ((inner.destination, far), (inner.source, own))
            plain = self._find_plain(place, quote.protocol, *ends, now)
            flow = None if plain is None else plain[0]
        if flow is None:
            raise DroppedError("icmp_error_no_flow")
        assert isinstance(flow, BalancedFlow)
        return self._balanced_error(datagram, quote, flow, INSIDE)

    def _balanced_error(
        self,
        datagram: Datagram,
        quote: icmp_error.Quote,
        flow: BalancedFlow,
        side: int,
        *,
        aged: bool = False,
    ) -> Result:
        """An error of a flow, from one of its sides; what it quotes went the other way."""
        if any(flow is each for each in self.orphans):
            raise DroppedError("icmp_error_no_flow")
        self._check_way(flow.node, flow)
        (source, source_port), (destination, port) = flow.ends_at(1 - side)
        inner = quote.rewritten(address=source, port=source_port, source=True)
        again = icmp_error.Quote(
            Datagram(inner[: len(quote.inner.header)], inner[len(quote.inner.header) :])
        )
        quoted = again.rewritten(address=destination, port=port, source=False)
        if side == OUTSIDE and flow.proxied is not None:
            quoted = proxying.told(quoted, flow.proxied)
        message = icmp_error.resealed(datagram.payload[:8] + quoted)
        older = datagram if aged else datagram.one_hop_older()
        changed = older.readdressed(destination=source)
        if destination != quote.inner.destination or port != quote.port(of_source=False):
            changed = self.identifications.identified(changed.readdressed(source=destination))
        changed = changed.carrying(message)
        if side == OUTSIDE:
            result = self._to_client(flow, changed)
        else:
            way = self._exit(flow)
            if way[0] == OUTSIDE:
                result = self._leaving(changed, way[1])
            else:
                counted = "out_to_destination" if self.link[0] == INSIDE else "out_to_source"
                result = self._to_host(changed, way[1], False, counted)
        self._count("icmp_errors_translated")
        return result
