# SPDX-License-Identifier: Apache-2.0
"""What the forwarder serves, and how that is made what it shall be.

Theory of operation
-------------------
A desired state (`desired`) is read, checked as a whole against what is served, and then done
as one difference: first nothing passes any more by a claim that goes or is to mean something else,
then it is made to mean that. What is served already is left alone.

*Everything* always succeeds when it can be read: where a number is meant for another environment or
address than the one that flows still belong to, those flows are ended first, all at once. That
happens when a controller or a forwarder starts.

*Parts* are told while packets flow, and cost what they change. They are refused where they would
end flows that nobody has removed: a number that was removed is *retiring* until no flow names it
(`hyperplane_nat.engine.flows.retirement`), and the answer and `status` say which these are.

All of it is work in slices, an item at a time; packets pass between the changes, each of which
leaves the engine whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from hyperplane_nat.engine import Engine
from hyperplane_nat.forwarder import arp, desired, sliced_json
from hyperplane_nat.forwarder.attachments import (
    Attachment,
    Claim,
    EndpointState,
    HostState,
    InterfaceState,
    LoadBalancerNodeState,
    Meaning,
    NatGatewayState,
    NetworkAclsState,
    RouteTableState,
    SlotState,
)
from hyperplane_nat.forwarder.desired import Desired
from hyperplane_nat.forwarder.slices import Work

__all__ = ["Configuration"]

log = logging.getLogger(__name__)

_ENTRIES_AT_ONCE = 8192
"""Entries looked at in one go for flows to be ended: a fraction of a millisecond."""

_T = TypeVar("_T", InterfaceState, NatGatewayState, LoadBalancerNodeState, EndpointState, HostState)
_Behind = HostState | LoadBalancerNodeState | EndpointState
"""What is reached by the link to its VPC's router."""


def _served(claim: Claim | None) -> dict[str, int]:
    """For whom an address stands, as the engine is told it."""
    if claim is None:
        return {}
    return {claim[0].removeprefix("load_balancer_"): claim[1]}


class Links(Protocol):
    """The part of the packet path that is driven here."""

    def link_slot(self, number: int, interface_index: int) -> None: ...
    def link_interface(self, number: int, interface_index: int) -> None: ...
    def link_host(self, number: int, interface_index: int) -> None: ...
    def unlink(self, interface_index: int) -> None: ...
    def send_outside(self, interface: int, frame: bytes) -> None: ...


class Configuration:
    """What one forwarder serves, kept equal in engine and packet path."""

    def __init__(
        self,
        engine: Engine,
        links: Links,
        *,
        slots_max: int,
        interfaces_max: int,
        hosts_max: int = 0,
    ) -> None:
        self._engine = engine
        self._links = links
        self._limits = {
            "slots_max": slots_max,
            "interfaces_max": interfaces_max,
            "hosts_max": hosts_max,
        }
        self._owners: dict[Claim, Claim] = {}
        self.configured = False
        self.interfaces: dict[int, InterfaceState] = {}
        self.nat_gateways: dict[int, NatGatewayState] = {}
        self.nodes: dict[int, LoadBalancerNodeState] = {}
        self.endpoints: dict[int, EndpointState] = {}
        self.route_tables: dict[int, RouteTableState] = {}
        self.network_acls: dict[int, NetworkAclsState] = {}
        self.slots: dict[int, SlotState] = {}
        self.hosts: dict[int, HostState] = {}
        self._served: dict[str, dict[int, Any]] = {
            "interface": self.interfaces,
            "nat_gateway": self.nat_gateways,
            "load_balancer_node": self.nodes,
            "endpoint": self.endpoints,
            "slot": self.slots,
            "host": self.hosts,
        }

    def configure(self, arguments: dict[str, Any], now_ms: int) -> Work[None]:
        """Serve this; ValueError, KeyError or TypeError when it cannot be, and nothing changes."""
        wanted = yield from desired.parse(arguments, **self._limits)
        if not (wanted.everything or self.configured):
            raise ValueError("nothing is configured yet: send configure first, with everything")
        yield from self._check(wanted)
        self._engine.configure(**wanted.settings, now_ms=now_ms)
        yield from self._set_route_tables(wanted)
        yield from self._set_network_acls(wanted)
        yield from self._withdraw(wanted)
        if wanted.everything:
            yield from self._make_room(wanted, now_ms)
        for item in wanted.attachments.values():
            yield
            if self._known(item.key) != item:
                self._set(item, now_ms)
        if wanted.everything:
            self._engine.remove_strangers()
        self.configured = True
        yield from sliced_json.discard(wanted.attachments)
        yield from sliced_json.discard(wanted.claims)

    def describe(self) -> dict[str, Any]:
        """How much is served, and the numbers that cannot be used yet, because flows name them."""
        slots, interfaces = self._engine.retiring()
        return {
            "slots": len(self.slots),
            "interfaces": len(self.interfaces),
            "nat_gateways": len(self.nat_gateways),
            "load_balancer_nodes": len(self.nodes),
            "endpoints": len(self.endpoints),
            "route_tables": len(self.route_tables),
            "network_acls": len(self.network_acls),
            "hosts": len(self.hosts),
            "retiring": {
                "slots": slots,
                "interfaces": interfaces,
                "hosts": self._engine.retiring_hosts(),
            },
        }

    def _known(self, key: Claim) -> Any:
        kind, number = key
        return self._served[kind].get(number)

    def _check(self, wanted: Desired) -> Work[None]:
        """ValueError when what is wanted does not go with what stays."""
        for item in wanted.attachments.values():
            yield
            if not wanted.everything:
                self._check_part(item, wanted.gone)
            if isinstance(item, InterfaceState | NatGatewayState):
                continue
            if not self._will_stand(item.interface, wanted):
                raise ValueError(
                    f"{item.key[0]} {item.number} names interface {item.interface}: there is none"
                )
        leaving = {number for kind, number in wanted.gone if kind == "interface"}
        users: list[SlotState | _Behind] = [
            *self.slots.values(),
            *self.hosts.values(),
            *self.nodes.values(),
            *self.endpoints.values(),
        ]
        for user in users if leaving and not wanted.everything else ():
            yield
            if user.interface in leaving and user.key not in wanted.gone:
                kind = user.key[0].replace("_", " ")
                raise ValueError(
                    f"interface {user.interface} has {kind} {user.number} attached: "
                    "remove that first"
                )
        yield from self._check_vpcs(wanted)

    def _check_vpcs(self, wanted: Desired) -> Work[None]:
        """ValueError where what is behind an interface is in another VPC, or not alone there."""
        interfaces = self._standing(self.interfaces, wanted, InterfaceState)
        hosts = self._standing(self.hosts, wanted, HostState)
        nodes = self._standing(self.nodes, wanted, LoadBalancerNodeState)
        endpoints = self._standing(self.endpoints, wanted, EndpointState)
        if not (hosts or nodes or endpoints):
            return
        owners: dict[tuple[int, str], str] = {}
        for interface in interfaces.values():
            yield
            for each in interface.addresses:
                owners[interface.vpc, each.address] = f"interface {interface.number}"
        for gateway in self._standing(self.nat_gateways, wanted, NatGatewayState).values():
            yield
            for each in gateway.addresses:
                owners[gateway.vpc, each.address] = f"NAT gateway {gateway.number}"
        behind: list[tuple[str, _Behind, tuple[str, ...]]] = [
            (
                f"load balancer node {node.number}",
                node,
                tuple(each.address for each in node.addresses),
            )
            for node in nodes.values()
        ]
        behind += [
            (f"endpoint {each.number}", each, (each.address,)) for each in endpoints.values()
        ]
        behind += [(f"host {host.number}", host, (host.address,)) for host in hosts.values()]
        for name, item, addresses in behind:
            yield
            vpc = interfaces[item.interface].vpc
            if vpc != item.vpc:
                raise ValueError(
                    f"{name} is in VPC {item.vpc}, its interface {item.interface} in VPC {vpc}"
                )
            for address in addresses:
                owner = owners.setdefault((item.vpc, address), name)
                if owner != name:
                    raise ValueError(f"{name} has the address {address}, which is that of {owner}")

    def _standing(self, served: dict[int, _T], wanted: Desired, kind: type[_T]) -> dict[int, _T]:
        """What there will be of a kind, by number."""
        result: dict[int, _T] = {}
        if not wanted.everything:
            gone = {number for name, number in wanted.gone if self._served[name] is served}
            result = {number: item for number, item in served.items() if number not in gone}
        for item in wanted.attachments.values():
            if isinstance(item, kind):
                result[item.number] = item
        return result

    def _will_stand(self, interface: int | None, wanted: Desired) -> bool:
        if interface is None or ("interface", interface) in wanted.attachments:
            return True
        stays = interface in self.interfaces and ("interface", interface) not in wanted.gone
        return stays and not wanted.everything

    def _check_part(self, item: Attachment, gone: set[Claim]) -> None:
        """ValueError where a claim is another's, or was and has flows."""
        known = self._known(item.key)
        if known is not None and not item.continues(known):
            raise ValueError(f"{known}: remove that first")
        for claim, meaning in item.claims.items():
            kind, number = claim
            owner = self._owners.get(claim, item.key)
            if owner != item.key and kind == "interface":
                raise ValueError(
                    f"interface {number} is an address of {owner[0].replace('_', ' ')} {owner[1]}: "
                    "remove that first"
                )
            if owner != item.key and owner not in gone:
                raise ValueError(
                    f"{item.key[0]} {item.number} names link {number}, "
                    f"which is that of {owner[0]} {owner[1]}"
                )
            if not self._is_free(claim, meaning):
                known_meaning = {} if known is None else known.claims
                if known_meaning.get(claim, meaning) != meaning:
                    raise ValueError(
                        f"{kind} {number} has flows of whom it stands for: remove that first"
                    )
                raise ValueError(
                    f"{kind} {number} is retiring: wait until status no longer lists it"
                )

    def _withdraw(self, wanted: Desired) -> Work[None]:
        """Let nothing pass by a claim until it means what it shall."""
        leaving: Iterable[Attachment | None] = map(self._known, wanted.gone)
        if wanted.everything:
            leaving = [item for served in self._served.values() for item in served.values()]
        for known in leaving:
            yield
            if known is None:
                continue
            for claim, meaning in known.claims.items():
                if wanted.claims.get(claim) != meaning:
                    self._release(claim)
            if known.key not in wanted.attachments:
                del self._served[known.key[0]][known.number]
        for item in () if wanted.everything else wanted.attachments.values():
            yield
            known = self._known(item.key)
            if known is not None and isinstance(
                item, InterfaceState | NatGatewayState | LoadBalancerNodeState
            ):
                # Addresses of a gateway that are no longer named.
                for claim in known.claims.keys() - wanted.claims.keys():
                    self._release(claim)

    def _make_room(self, wanted: Desired, now_ms: int) -> Work[None]:
        """End the flows of those who had a number before; the state map remembers who that was."""
        taken = 0
        for claim, meaning in wanted.claims.items():
            yield
            if not self._is_free(claim, meaning):
                self._release(claim)
                taken += 1
        if taken:
            self._engine.sweep(now_ms)
            log.info("flows ended with %d slots, interfaces and hosts", taken)

    def _is_free(self, claim: Claim, meaning: Meaning) -> bool:
        """Whether no flow means something else by a number."""
        kind, number = claim
        if kind == "slot":
            return self._engine.admits_slot(number, *meaning)
        if kind == "host":
            vpc, link, address = meaning
            return self._engine.admits_host(number, address, vpc, link)
        if kind == "link":
            return True
        _, address, role, serves = meaning
        return self._engine.admits_interface(number, address, role, **_served(serves))

    def _release(self, claim: Claim) -> None:
        kind, number = claim
        self._owners.pop(claim, None)
        if kind == "slot":
            self._engine.remove_slot(number)
        elif kind == "interface":
            self._engine.remove_interface(number)
        elif kind == "host":
            self._engine.remove_host(number)
        else:
            self._links.unlink(number)

    def _set(self, item: Attachment, now_ms: int) -> None:
        if isinstance(item, SlotState):
            self._set_slot(item)
        elif isinstance(item, HostState):
            self._set_host(item, now_ms)
        elif isinstance(item, NatGatewayState):
            self._set_nat_gateway(item)
        elif isinstance(item, LoadBalancerNodeState):
            self._set_node(item)
        elif isinstance(item, EndpointState):
            self._set_endpoint(item)
        else:
            self._set_interface(item)
        for claim in item.claims:
            self._owners[claim] = item.key
        self._served[item.key[0]][item.number] = item

    def _set_interface(self, interface: InterfaceState) -> None:
        for each in interface.addresses:
            self._engine.set_interface(
                each.number,
                address=each.address,
                mac=interface.mac,
                subnet=interface.subnet,
                router=interface.router,
                destinations=interface.destinations,
                vpc=interface.vpc,
                policy=interface.policy,
                mtu=interface.mtu,
                primary=interface.number,
                route_table=interface.route_table,
                internet_gateway=interface.gateway_of is not None,
                gateway_endpoint=interface.gateway_endpoint,
                **_served(each.serves),
            )
        self._links.link_interface(interface.number, interface.ifindex)
        known = self.interfaces.get(interface.number)
        if known is not None and (known.mac, known.claims) == (interface.mac, interface.claims):
            return
        self._announce(interface, (each.address for each in interface.addresses))

    def _announce(self, interface: InterfaceState, addresses: Iterable[str]) -> None:
        """Have the VPC's router know that addresses are behind an interface."""
        for address in addresses:
            frame = arp.announcement(mac=interface.mac, address=address)
            self._links.send_outside(interface.number, frame)

    def _set_nat_gateway(self, gateway: NatGatewayState) -> None:
        for each in gateway.addresses:
            self._engine.set_nat_gateway(
                each.number,
                address=each.address,
                vpc=gateway.vpc,
                primary=gateway.number,
                mtu=gateway.mtu,
                draining=each.number in gateway.draining,
                route_table=gateway.route_table,
            )

    def _set_node(self, node: LoadBalancerNodeState) -> None:
        for each in node.addresses:
            self._engine.set_load_balancer_node(
                each.number,
                address=each.address,
                vpc=node.vpc,
                interface=node.interface,
                primary=node.number,
                policy=node.policy,
                mtu=node.mtu,
                listeners=node.listeners if each.number == node.number else (),
                route_table=node.route_table,
            )
        known = self.nodes.get(node.number)
        if known is not None and (known.interface, known.claims) == (node.interface, node.claims):
            return
        announced = (each.address for each in node.addresses)
        self._announce(self.interfaces[node.interface], announced)

    def _set_endpoint(self, endpoint: EndpointState) -> None:
        self._engine.set_endpoint(
            endpoint.number,
            address=endpoint.address,
            vpc=endpoint.vpc,
            interface=endpoint.interface,
            endpoint_id=endpoint.endpoint_id,
            node=endpoint.node,
            policy=endpoint.policy,
            admission=endpoint.admission,
            mtu=endpoint.mtu,
        )
        known = self.endpoints.get(endpoint.number)
        if known is None or known.interface != endpoint.interface:
            self._announce(self.interfaces[endpoint.interface], [endpoint.address])

    def end_flows(
        self, arguments: dict[str, Any], entries: int, now_ms: int
    ) -> Work[dict[str, int]]:
        """End the flows of a node's listener to a target, all among `entries`; how many it were.

        ValueError, KeyError or TypeError when there is no such node or target.
        """
        number, whom = arguments["node"], desired.target(arguments["target"])
        if number not in self.nodes:
            raise ValueError(f"there is no load balancer node {number}")
        ended = 0
        for start in range(0, entries, _ENTRIES_AT_ONCE):
            yield
            ended += self._engine.end_flows(
                number,
                arguments["protocol"],
                arguments["port"],
                whom,
                now_ms,
                start,
                _ENTRIES_AT_ONCE,
            )
        return {"ended": ended}

    def _set_route_tables(self, wanted: Desired) -> Work[None]:
        gone = wanted.gone_tables
        if wanted.everything:
            gone = self.route_tables.keys() - wanted.route_tables.keys()
        for number in gone:
            yield
            if self.route_tables.pop(number, None) is not None:
                self._engine.set_route_table(number, None)
        for table in wanted.route_tables.values():
            yield
            if self.route_tables.get(table.number) != table:
                self._engine.set_route_table(table.number, table.routes)
                self.route_tables[table.number] = table

    def _set_network_acls(self, wanted: Desired) -> Work[None]:
        gone = wanted.gone_acls
        if wanted.everything:
            gone = self.network_acls.keys() - wanted.network_acls.keys()
        for number in gone:
            yield
            if self.network_acls.pop(number, None) is not None:
                self._engine.set_network_acls(number, ())
        for acls in wanted.network_acls.values():
            yield
            if self.network_acls.get(acls.number) != acls:
                self._engine.set_network_acls(acls.number, acls.subnets, acls.exempt)
                self.network_acls[acls.number] = acls

    def _set_slot(self, slot: SlotState) -> None:
        self._engine.set_slot(
            slot.number,
            address=slot.address,
            gateway=slot.gateway,
            subnet=slot.subnet,
            environment_mac=slot.environment_mac,
            gateway_mac=slot.gateway_mac,
            interface=slot.interface,
            link=slot.ifindex,
            mtu=slot.mtu,
            silent=slot.silent,
        )
        self._links.link_slot(slot.number, slot.ifindex)

    def _set_host(self, host: HostState, now_ms: int) -> None:
        self._engine.set_host(
            host.number,
            address=host.address,
            router=host.router,
            host_mac=host.host_mac,
            gateway_mac=host.gateway_mac,
            interface=host.interface,
            vpc=host.vpc,
            link=host.ifindex,
            policy=host.policy,
            mtu=host.mtu,
            now_ms=now_ms,
            route_table=host.route_table,
            source_check=host.source_check,
        )
        self._links.link_host(host.number, host.ifindex)
        known = self.hosts.get(host.number)
        if known is not None and known.interface == host.interface and known.claims == host.claims:
            return
        self._announce(self.interfaces[host.interface], [host.address])
