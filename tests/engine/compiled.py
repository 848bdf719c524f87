# SPDX-License-Identifier: Apache-2.0
"""The compiled engine behind the same face as the model."""

import ctypes
import dataclasses
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hyperplane_nat.engine import (
    Behaviour,
    DropReason,
    Engine,
    Filtering,
    Flow,
    HostFlow,
    Listener,
    NeighbourSettings,
    Policy,
    Ports,
    Rule,
    Side,
    StateMap,
    Target,
    Timeouts,
    Verdict,
)
from hyperplane_nat.engine import Mapping as NatMapping
from hyperplane_nat.engine.readers.flow_deltas import FlowDeltas
from hyperplane_nat.engine.state.constants import RouteTarget
from tests import reference
from tests.engine import scenario
from tests.reference import Result, packet
from tests.reference.flow import FlowTuple

SEED = bytes(range(16))
MEMORY_DIRECTORY = Path("/dev/shm")


def flow_tuple(flow: Flow) -> FlowTuple:
    """A flow as the model writes it: without its index."""
    return (
        flow.protocol,
        flow.state,
        flow.slot,
        flow.interface,
        flow.inside_address,
        flow.inside_port,
        flow.remote_address,
        flow.remote_port,
        flow.nat_address,
        flow.nat_port,
        flow.packets_out,
        flow.bytes_out,
        flow.packets_in,
        flow.bytes_in,
        flow.created_ms,
        flow.last_seen_ms,
    )


def plain_tuple(flow: HostFlow) -> FlowTuple:
    """The same of a host's flow."""
    return (
        flow.protocol,
        flow.state,
        f"{'host' if flow.originator_side is Side.HOST else 'interface'} {flow.originator}",
        f"{'host' if flow.responder_side is Side.HOST else 'interface'} {flow.responder}",
        flow.source_address,
        flow.source_port,
        flow.destination_address,
        flow.destination_port,
        flow.nat_address,
        flow.nat_port,
        flow.packets_out,
        flow.bytes_out,
        flow.packets_in,
        flow.bytes_in,
        flow.created_ms,
        flow.last_seen_ms,
    )


def result_of(verdict: Verdict) -> Result:
    """A verdict as the model writes it."""
    action = verdict.action.name.lower()
    reason = verdict.reason.name.lower() if verdict.reason is not DropReason.NONE else None
    if action in ("drop", "wait", "learn"):
        return Result(action, reason)
    return Result(action, reason, int(verdict.side), verdict.port, verdict.frame)


def compiled_policy(address: str, policy: reference.Policy | None) -> Policy | None:
    """The engine's form of a policy of an interface with this address."""
    if policy is None:
        return None

    def rules(items: Iterable[reference.Rule]) -> list[Rule]:
        return [Rule(each.protocol, str(each.cidr), each.first, each.last) for each in items]

    return Policy(
        address,
        egress=None if policy.egress is None else rules(policy.egress),
        ingress=None if policy.ingress is None else rules(policy.ingress),
        guarded={str(far): rules(items) for far, items in policy.guarded.items()},
        withheld=rules(policy.withheld),
    )


def set_host(engine: Engine, setup: scenario.Setup, number: int, now: int, link: int = 0) -> None:
    """Make a host of the scenario."""
    address, interface = scenario.HOSTS[number]
    ours, theirs = scenario.host_macs(number)
    engine.set_host(
        number,
        address=address,
        router=scenario.ROUTERS[interface],
        host_mac=theirs,
        gateway_mac=ours,
        interface=interface,
        vpc=scenario.INTERFACE_VPCS[interface],
        link=link,
        policy=compiled_policy(address, setup.host_policies.get(number)),
        mtu=setup.host_mtu,
        now_ms=now,
        route_table=scenario.BY_INTERNET if interface == 0 and setup.gateways else None,
    )


def set_interface(
    engine: Engine,
    number: int,
    policy: reference.Policy | None = None,
    *,
    primary: int | None = None,
    address: str | None = None,
    mtu: int = 65535,
    route_table: int | None = None,
) -> None:
    """Make an interface of the scenario, or a further address of one."""
    link = number if primary is None else primary
    address = address or scenario.INTERFACE_ADDRESSES[number]
    engine.set_interface(
        number,
        address=address,
        mac=scenario.interface_mac(link),
        subnet=scenario.SUBNETS[link],
        router=scenario.ROUTERS[link],
        destinations=scenario.DESTINATIONS,
        vpc=scenario.INTERFACE_VPCS[link],
        policy=compiled_policy(address, policy),
        mtu=mtu,
        primary=primary,
        route_table=route_table,
    )


def set_gateways(engine: Engine, setup: scenario.Setup) -> None:
    """The gateways of the scenario, and the route tables."""
    public: list[tuple[int, str, dict[str, Any]]] = [
        (scenario.INTERNET_GATEWAY, "192.0.2.10", {}),
        (scenario.PUBLIC_NUMBER, scenario.PUBLIC, {"host": 0}),
        (scenario.ELASTIC_NUMBER, scenario.ELASTIC, {"nat_gateway": scenario.NAT_NUMBER}),
    ]
    if setup.internet_facing:
        node = {"node": scenario.NODE_NUMBER}
        public.append((scenario.PUBLIC_NODE_NUMBER, scenario.PUBLIC_NODE, node))
    for number, address, serves in public:
        engine.set_interface(
            number,
            address=address,
            mac=scenario.interface_mac(scenario.INTERNET_GATEWAY),
            subnet="192.0.2.0/24",
            router=scenario.INTERNET_ROUTER,
            destinations=("0.0.0.0/0",),
            vpc=scenario.INTERNET,
            primary=scenario.INTERNET_GATEWAY,
            mtu=setup.interface_mtu,
            internet_gateway=True,
            **serves,
        )
    engine.set_interface(
        scenario.ENDPOINTS_NUMBER,
        address=scenario.ENDPOINTS_ADDRESS,
        mac=scenario.interface_mac(scenario.ENDPOINTS_NUMBER),
        subnet="192.0.2.0/24",
        router=scenario.INTERNET_ROUTER,
        destinations=("0.0.0.0/0",),
        vpc=scenario.NAT_VPC,
        mtu=setup.interface_mtu,
        gateway_endpoint=True,
    )
    engine.set_nat_gateway(
        scenario.NAT_NUMBER,
        address=scenario.NAT_ADDRESS,
        vpc=scenario.NAT_VPC,
        mtu=setup.interface_mtu,
        route_table=scenario.OF_NAT,
    )
    to_internet = ("0.0.0.0/0", RouteTarget.INTERNET_GATEWAY, scenario.INTERNET_GATEWAY)
    engine.set_route_table(scenario.OF_NODE, [to_internet])
    set_routes(engine, black=False)


def set_nodes(engine: Engine, setup: scenario.Setup) -> None:
    """The load balancer's node of the scenario, which listens to what the model's does."""
    listeners = [
        Listener(
            "tcp" if each.protocol == packet.TCP else "udp",
            each.port,
            each.idle,
            each.sticky,
            each.preserves,
            tuple(Target(str(address), port) for address, port in each.targets),
            each.proxies,
        )
        for each in setup.balancer
    ]
    for number, address in tuple(scenario.NODES.items())[: setup.node_addresses]:
        engine.set_load_balancer_node(
            number,
            address=address,
            interface=scenario.BEHIND_NODES,
            primary=scenario.NODE_NUMBER,
            policy=compiled_policy(address, setup.node_policy),
            listeners=listeners if number == scenario.NODE_NUMBER else (),
            route_table=scenario.OF_NODE if setup.internet_facing else None,
        )
    if setup.endpoint:
        address = scenario.NODES[scenario.NODE_NUMBER]
        policy, admission = (compiled_policy(address, each) for each in setup.endpoint_policies)
        engine.set_endpoint(
            scenario.ENDPOINT_NUMBER,
            address=address,
            vpc=scenario.INTERFACE_VPCS[scenario.BEHIND_ENDPOINT],
            interface=scenario.BEHIND_ENDPOINT,
            endpoint_id="vpce-0123456789abcdef0",
            node=scenario.NODE_NUMBER,
            policy=policy,
            admission=admission,
        )


def set_routes(engine: Engine, *, black: bool) -> None:
    """The route tables of the scenario; that of the environments may lead nowhere."""
    to_nat = ("0.0.0.0/0", RouteTarget.NAT_GATEWAY, scenario.NAT_NUMBER)
    nowhere = ("0.0.0.0/0", RouteTarget.BLACKHOLE, 0)
    to_internet = ("0.0.0.0/0", RouteTarget.INTERNET_GATEWAY, scenario.INTERNET_GATEWAY)
    to_service = (
        f"{scenario.SERVICE}/32",
        RouteTarget.GATEWAY_ENDPOINT,
        scenario.ENDPOINTS_NUMBER,
    )
    engine.set_route_table(scenario.BY_NAT, [nowhere] if black else [to_nat, to_service])
    engine.set_route_table(scenario.BY_INTERNET, [to_internet, to_service])
    engine.set_route_table(scenario.OF_NAT, [to_internet, to_service])


def set_slot(
    engine: Engine, number: int, interface: int | None, *, mtu: int, silent: bool = False
) -> None:
    """One slot of the scenario."""
    engine.set_slot(
        number,
        address=scenario.ENVIRONMENT,
        gateway=scenario.GATEWAY,
        subnet=scenario.ENVIRONMENT_SUBNET,
        environment_mac=scenario.environment_mac(number),
        gateway_mac=scenario.gateway_mac(number),
        interface=interface,
        mtu=mtu,
        silent=silent,
    )


def engine_behaviour(behaviour: reference.Behaviour) -> Behaviour:
    """The engine's form of what the model was told."""
    fields = dataclasses.asdict(behaviour)
    independent = fields.pop("endpoint_independent")
    fields["filtering"] = Filtering[fields["filtering"].upper()]
    mapping = NatMapping.ENDPOINT_INDEPENDENT if independent else NatMapping(0)
    return Behaviour(mapping=mapping, **fields)


def configured(engine: Engine, setup: scenario.Setup, now: int) -> None:
    """Tell an engine the scenario."""
    timeouts, ports = setup.timeouts, setup.ports
    engine.configure(
        timeouts_ms=Timeouts(**dataclasses.asdict(timeouts)),
        ports=Ports(**dataclasses.asdict(ports)),
        behaviour=engine_behaviour(setup.behaviour),
        neighbours=NeighbourSettings(**dataclasses.asdict(setup.neighbours)),
        now_ms=now,
    )
    for number, primary, address in setup.interfaces():
        policy = setup.policies.get(primary)
        set_interface(
            engine,
            number,
            policy,
            primary=primary,
            address=address,
            mtu=setup.interface_mtu,
            route_table=scenario.BY_NAT if primary == 0 and setup.gateways else None,
        )
    if setup.gateways:
        set_gateways(engine, setup)
    for number, interface in scenario.ALL_SLOTS.items():
        set_slot(engine, number, interface, mtu=setup.slot_mtu)
    for number in range(len(scenario.HOSTS)):
        set_host(engine, setup, number, setup.hosts_since)
    if setup.balancer:
        set_nodes(engine, setup)
    for interface, neighbour, mac in scenario.neighbours(setup):
        engine.set_neighbour(interface, neighbour, mac, now)


def first_link(engine: Engine) -> ctypes.c_uint32:
    """What follows entry 0 in the list that it is in: memory of the engine's own, to be damaged.

    The object has its structure behind its own head and table of methods; that begins with the
    addresses of header, entries, tracks and links.
    """
    nat = ctypes.c_uint64.from_address(id(engine) + 24)
    links = ctypes.c_uint64.from_address(nat.value + 24)
    return ctypes.c_uint32.from_address(links.value)


def deltas_of(state: StateMap) -> FlowDeltas:
    """What its flows do from now on, nothing of which was seen."""
    return FlowDeltas(state.flows_max, state.slots_max, state.interfaces_max)


class EngineTarget:
    """An engine on a state map of its own, removed by `close`."""

    def __init__(
        self, setup: scenario.Setup, *, seed: bytes = SEED, now: int = 0, slots_max: int = 64
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(dir=MEMORY_DIRECTORY)
        self.path = Path(self._directory.name) / "state.map"
        self.map = StateMap.create(
            self.path,
            flows_max=setup.flows_max,
            slots_max=slots_max,
            interfaces_max=14,
            hosts_max=4,
        )
        self.engine = Engine(self.map, seed=seed, now_ms=now)
        configured(self.engine, setup, now)

    def translate(
        self,
        frame: bytes,
        side: int,
        port: int,
        now: int,
        *,
        partial: bool = False,
        gso_size: int = 0,
        checksum_at: tuple[int, int] | None = None,
    ) -> Result:
        return result_of(
            self.engine.translate(
                frame, side, port, now, partial=partial, gso_size=gso_size, checksum_at=checksum_at
            )
        )

    def take_extra(self) -> list[Result]:
        return [result_of(verdict) for verdict in self.engine.take_extra()]

    def expire(self, now: int, budget: int) -> int:
        before = self.flows()
        examined = self.engine.expire(now, budget)
        ended = len(scenario.ended_between(before, self.flows()))
        assert ended <= examined <= budget
        return ended

    def flows(self) -> set[FlowTuple]:
        flows = [flow_tuple(flow) for flow in self.engine.flows()]
        flows += [plain_tuple(flow) for flow in self.engine.host_flows()]
        assert len(set(flows)) == len(flows), "an entry is listed twice"
        return set(flows)

    def mappings(self) -> set[FlowTuple]:
        return {flow_tuple(mapping) for mapping in self.engine.mappings()}

    def problems(self) -> list[str]:
        return self.engine.verify()

    def counters(self) -> Mapping[str, int]:
        return self.engine.counters()

    def count(self, name: str) -> int:
        return self.engine.counters()[name]

    def close(self) -> None:
        # The memory is unmapped with the last reference: a test may still hold the engine.
        del self.engine, self.map
        self._directory.cleanup()
