# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable, Sequence
from mmap import mmap

from hyperplane_nat.engine.flows.policy import Policy
from hyperplane_nat.engine.readers.state_map import StateMap
from hyperplane_nat.engine.state.constants import Role, RouteTarget, Side
from hyperplane_nat.engine.state.settings import (
    Behaviour,
    Event,
    Flow,
    HostFlow,
    Listener,
    NeighbourSettings,
    NextHop,
    Ports,
    SubnetAcl,
    Target,
    Timeouts,
    Verdict,
)

class Engine:
    timeouts: Timeouts
    ports: Ports
    behaviour: Behaviour
    neighbour_settings: NeighbourSettings
    def __init__(self, state: StateMap, *, seed: bytes | None = None, now_ms: int = 0) -> None: ...
    def configure(
        self,
        *,
        timeouts_ms: Timeouts | None = None,
        ports: Ports | None = None,
        behaviour: Behaviour | None = None,
        neighbours: NeighbourSettings | None = None,
        now_ms: int = 0,
    ) -> None: ...
    def set_interface(
        self,
        number: int,
        *,
        address: str,
        mac: str,
        subnet: str,
        router: str,
        destinations: Sequence[str],
        vpc: int = 0,
        policy: Policy | None = None,
        mtu: int = 65535,
        primary: int | None = None,
        route_table: int | None = None,
        internet_gateway: bool = False,
        gateway_endpoint: bool = False,
        host: int | None = None,
        nat_gateway: int | None = None,
        node: int | None = None,
    ) -> None: ...
    def set_nat_gateway(
        self,
        number: int,
        *,
        address: str,
        vpc: int = 0,
        primary: int | None = None,
        mtu: int = 65535,
        draining: bool = False,
        route_table: int | None = None,
    ) -> None: ...
    def set_load_balancer_node(
        self,
        number: int,
        *,
        address: str,
        interface: int,
        vpc: int = 0,
        primary: int | None = None,
        policy: Policy | None = None,
        mtu: int = 65535,
        listeners: Iterable[Listener] = (),
        route_table: int | None = None,
    ) -> None: ...
    def set_endpoint(
        self,
        number: int,
        *,
        address: str,
        interface: int,
        endpoint_id: str,
        vpc: int = 0,
        node: int | None = None,
        policy: Policy | None = None,
        admission: Policy | None = None,
        mtu: int = 65535,
    ) -> None: ...
    def end_flows(
        self,
        number: int,
        protocol: str,
        port: int,
        target: Target,
        now_ms: int,
        start: int = 0,
        limit: int = 0xFFFFFFFF,
    ) -> int: ...
    def admits_interface(
        self,
        number: int,
        address: str,
        role: Role | int = 0,
        host: int | None = None,
        nat_gateway: int | None = None,
        node: int | None = None,
    ) -> bool: ...
    def set_route_table(
        self, number: int, routes: Iterable[tuple[str, RouteTarget, int]] | None
    ) -> None: ...
    def set_network_acls(
        self, vpc: int, subnets: Iterable[SubnetAcl], exempt: Iterable[str] = ()
    ) -> None: ...
    def remove_interface(self, number: int) -> None: ...
    def set_slot(
        self,
        number: int,
        *,
        address: str,
        gateway: str,
        subnet: str | None = None,
        environment_mac: str,
        gateway_mac: str,
        interface: int | None,
        link: int = 0,
        mtu: int = 65535,
        silent: bool = False,
    ) -> None: ...
    def admits_slot(self, number: int, interface: int | None, link: int = 0) -> bool: ...
    def remove_slot(self, number: int) -> None: ...
    def set_host(
        self,
        number: int,
        *,
        address: str,
        router: str,
        host_mac: str,
        gateway_mac: str,
        interface: int,
        vpc: int = 0,
        link: int = 0,
        policy: Policy | None = None,
        mtu: int = 65535,
        now_ms: int = 0,
        route_table: int | None = None,
        source_check: bool = True,
    ) -> None: ...
    def admits_host(self, number: int, address: str, vpc: int = 0, link: int = 0) -> bool: ...
    def remove_host(self, number: int) -> None: ...
    def retiring_hosts(self) -> list[int]: ...
    def remove_strangers(self) -> None: ...
    def retiring(self) -> tuple[list[int], list[int]]: ...
    def sweep(self, now_ms: int, budget: int = ...) -> int: ...
    def set_neighbour(
        self, interface: int, address: str, mac: str | None, now_ms: int = 0
    ) -> None: ...
    def resolve(self, now_ms: int) -> int | None: ...
    def next_hops(self) -> list[NextHop]: ...
    def translate(
        self,
        frame: bytes | bytearray,
        side: Side | int,
        port: int,
        now_ms: int,
        *,
        partial: bool = False,
        gso_size: int = 0,
        checksum_at: tuple[int, int] | None = None,
        counted: bool = False,
    ) -> Verdict: ...
    def take_extra(self) -> list[Verdict]: ...
    def record_flows(self, ring: mmap | None) -> None: ...
    def next_deadline(self) -> int | None: ...
    def expire(self, now_ms: int, budget: int = ...) -> int: ...
    def drain_events(self) -> list[Event]: ...
    def flows(self) -> list[Flow]: ...
    def host_flows(self) -> list[HostFlow]: ...
    def mappings(self) -> list[Flow]: ...
    def counters(self) -> dict[str, int]: ...
    def add_to_counter(self, name: str, amount: int = 1) -> None: ...
    def verify(self) -> list[str]: ...
