# SPDX-License-Identifier: Apache-2.0
"""Namespaces, links, services and the forwarder, made to follow the region.

Theory of operation
-------------------
The region says what should be (`wanted`), `Network` remembers what is and does the difference, in
steps in whose order nothing refers to what is not there (`Network._follow`):

    step                 takes the difference between
    hosts that go        what the forwarder was told and hosts that stand, and hosts (`hosts`)
    VPCs, addresses      namespaces that stand, and VPCs
    links                links that stand, and interfaces; what cannot be made the region is told
    hosts                hosts that stand, and hosts
    the forwarder        what it was told last of each, and interfaces and hosts with a link, route
                         tables, NAT gateways and load balancers
    services             servers and resolvers that run, and services and VPCs
    VPCs that go         namespaces that stand, and VPCs

A step that fails ends it; what was done is remembered, and the next time goes on from there. An
interface that cannot be made has a name in the region (AWS, function state Failed).

Health checkers are told of many changes in a row together, a moment later than the forwarder.

The forwarder is told in parts, and everything when it starts anew, so that a part that was lost
with it is not missed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import aws, flow_logs, handlers
from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.controller.forwarder.supervisor import ForwarderSupervisor
from hyperplane_nat.controller.network import health_checks, punt, reconcile, resolvers
from hyperplane_nat.controller.network.hosts import Hosts
from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.controller.network.punt import Punt
from hyperplane_nat.controller.network.services import ServiceSpec, ServiceSupervisor
from hyperplane_nat.controller.network.ways_out import WaysOut, numbers_of
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import EnvironmentState
from hyperplane_nat.model.wanted import Wanted, WantedInterface
from netns import processes, topology
from netns.errors import NetnsError
from netns.topology import Interface, LabSpec, Slot, Survey, Topology, VpcSpec

RESTART_SECONDS = 20.0
"""How long an attach waits for a forwarder that is being restarted: tens of milliseconds, or until
a standby has loaded everything."""

TELLING_SECONDS = 0.1
"""Between two times that health checkers are told what they check, which is a file for each VPC."""

_LOOK_SECONDS = 0.01

_SERVING = (EnvironmentState.IDLE, EnvironmentState.BUSY)

_Item = Callable[[], dict[str, Any] | None]
"""What the forwarder is to be told of a slot, when it is told; None when it is gone by then."""

log = logging.getLogger(__name__)


class Network:
    """What stands for the region, and how it changes."""

    def __init__(
        self,
        config: Config,
        region: Region,
        pool: EnvironmentPool,
        forwarder: ForwarderSupervisor,
        services: ServiceSupervisor,
        service_program: tuple[str, ...],
        punt: Punt,
        resolver_program: tuple[str, ...] = resolvers.PROGRAM,
    ) -> None:
        self._config = config
        self._lab = config.lab.name
        self._paths = LabPaths.of(
            config.lab.name, config.lab.runtime_directory, config.lab.state_directory
        )
        self._health = health_checks.Orders(self._paths)
        self._named: object = None
        """The VPCs whose resolvers know all their names."""
        self._served: object = None
        """What those services are of that run."""
        self._region = region
        self._pool = pool
        self._forwarder = forwarder
        self._services = services
        self._service_program = service_program
        self._resolver_program = resolver_program
        self._vpcs: dict[str, set[str]] = {}
        self._changing = asyncio.Lock()
        self._silent: set[int] = set()
        """Environments whose links are silent, because their processes stand still."""
        self._attaching: list[tuple[int, _Item, asyncio.Future[None]]] = []
        self._attacher: asyncio.Task[None] | None = None
        self._links: dict[str, Interface] = {}
        self._told: dict[int, dict[str, Any]] = {}
        self._forwarding: set[str] = set()
        """VPCs that were let forward."""
        self._revisions = (-1, -1, False)
        self._late = False
        """Whether health checkers have yet to be told of a change."""
        self._later: asyncio.TimerHandle | None = None
        self._next_telling = 0.0
        self.poked = asyncio.Event()
        """Set when `follow` has something to do that it has left for later."""
        self._punt = punt
        self._hosts = Hosts(self._lab, punt)
        self._ways_out = WaysOut(config.timeouts.time_scale)
        self.retiring_interfaces: frozenset[int] = frozenset()

    # --- what stands already ---

    def spec(self) -> LabSpec:
        """What is to stand before a forwarder begins."""
        return reconcile.lab_spec(self._config, self._region.wanted())

    def built(self, spec: LabSpec, topology: Topology) -> None:
        """That stands, and nothing else."""
        self._vpcs = {vpc.name: set(vpc.addresses) for vpc in spec.vpcs}
        self._links = {interface.name: interface for interface in topology.interfaces}
        self._pool.add(topology.slots, ready=False)
        self._punt_all(topology.slots)

    def _punt_all(self, slots: Iterable[Slot]) -> None:
        """What stands leads to the punt link when the forwarder begins."""
        self._punt.attach(punt.slots(slots))
        numbers = {each.link: each.number for each in self._region.wanted().interfaces}
        numbers |= {each.link: each.number for each in self._deleting()}
        known = self._links.keys() & numbers.keys()
        self._punt.attach(
            punt.interfaces({self._links[name].ifindex: numbers[name] for name in known})
        )

    async def adopt(self, found: Survey, given: Collection[tuple[str, str]]) -> None:
        """Take over what a former controller left; what nobody wants is removed.

        `given` are the VPCs and addresses that it gave them: what is beside these and what is
        wanted was added by somebody else, and stays.
        """
        broken = found.broken
        if broken.environments:
            await in_thread(topology.remove_environments, self._lab, broken.environments)
        for name in broken.vpcs:
            await in_thread(topology.remove_vpc, self._lab, name)
        if broken.links:
            await in_thread(topology.remove_interfaces, self._lab, broken.links)
        await self._hosts.adopt(found, self._region.wanted())
        wanted_vpcs = {vpc.name: set(vpc.addresses) for vpc in self._region.wanted().vpcs}
        self._vpcs = {
            vpc.name: {
                address
                for address in vpc.addresses
                if (vpc.name, address) in given or address in wanted_vpcs.get(vpc.name, ())
            }
            for vpc in found.vpcs
        }
        wanted = {interface.link for interface in self._region.wanted().interfaces}
        wanted |= {interface.link for interface in self._deleting()}
        standing = {interface.name: interface for interface in found.interfaces}
        self._links = {name: standing[name] for name in standing.keys() & wanted}
        if strays := sorted(standing.keys() - wanted):
            await in_thread(topology.remove_interfaces, self._lab, strays)
        self._punt_all(slot for slot, _ in found.served.values())

    async def discard(self, numbers: Sequence[int]) -> None:
        """Remove environments that nobody uses."""
        if numbers:
            await in_thread(topology.remove_environments, self._lab, numbers)

    def _deleting(self) -> list[WantedInterface]:
        return [self._region.wanted_interface(each) for each in self._region.deleting()]

    def macs(self) -> dict[str, str]:
        """The hardware addresses of the interfaces that stand, by link."""
        return {name: interface.mac for name, interface in self._links.items()}

    # --- what the forwarder is told ---

    def everything(self) -> dict[str, Any]:
        """For a forwarder that begins, or that is not known yet."""
        wanted = self._region.wanted()
        interfaces = self._items(wanted.interfaces)
        self._told = {item["number"]: item for item in interfaces}
        numbers = {interface.id: interface.number for interface in wanted.interfaces}
        slots = []
        for slot in self._pool.slots.values():
            number = numbers.get(wanted.environments.get(slot.number, ""))
            slots.append(self._slot(slot, number if number in self._told else None))
        hosts = self._hosts.everything(wanted)
        ways = self._ways_out.everything(wanted, self._told)
        return desired.everything(self._config, interfaces, slots, hosts, **ways)

    def _items(self, interfaces: Iterable[WantedInterface]) -> list[dict[str, Any]]:
        """Those that have a link."""
        return [
            desired.interface(each, self._links[each.link])
            for each in interfaces
            if each.link in self._links
        ]

    def _slot(self, slot: Slot, interface: int | None) -> dict[str, Any]:
        silent = slot.number in self._silent
        return desired.slot(self._config, slot, interface, silent=silent)

    async def _update(self, **changes: Sequence[Any]) -> None:
        """Tell the forwarder; ForwarderError when it is being restarted, and will ask itself."""
        result = await self._forwarder.call("configure", changes)
        self.note_retiring(result["retiring"])

    async def _insist(self, **changes: Sequence[Any]) -> None:
        """Tell a forwarder, once it has been restarted if it has to be."""
        try:
            await self._update(**changes)
        except ForwarderError:
            if not await self._restarted():
                raise
            await self._update(**changes)

    async def _restarted(self) -> bool:
        """Whether the forwarder was not up and is now."""
        for look in range(round(RESTART_SECONDS / _LOOK_SECONDS)):
            if self._forwarder.up:
                return look > 0
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def note_retiring(self, retiring: Mapping[str, Iterable[int]]) -> None:
        """Numbers that the forwarder still finds in flows."""
        self._pool.retiring = frozenset(retiring["slots"])
        self.retiring_interfaces = frozenset(retiring["interfaces"])
        self._hosts.retiring = frozenset(retiring.get("hosts", ()))

    # --- environments ---

    async def fill(self, numbers: list[int]) -> None:
        """Make environments and put them into the pool."""
        spec = reconcile.lab_spec(self._config)
        slots = await in_thread(topology.add_environments, spec, numbers)
        # Known before the forwarder is told: one that starts meanwhile asks for all.
        self._pool.add(slots, ready=False)
        try:
            await in_thread(self._punt.attach, punt.slots(slots))
            await self._update(slots=[self._slot(slot, None) for slot in slots])
        except (ForwarderError, NetnsError):
            self._pool.remove(numbers)
            await in_thread(topology.remove_environments, self._lab, numbers)
            raise
        self._pool.add(slots)

    async def attach(self, number: int, interface_id: str) -> None:
        """Give a pooled environment its interface; one that is not there yet is made."""
        interface = self._region.wanted_interface(interface_id)
        slot = self._slot(self._pool.slots[number], interface.number)
        if interface.number in self._told:
            await self._tell_with_others(number, lambda: slot)
            return
        async with self._changing:
            await self._make(interface)
            items = self._items([interface])
            wanted = self._region.wanted()
            # Whose rules name a group that this interface is a member of.
            hosts = self._hosts.changed(wanted) if wanted.hosts else []
            await self._insist(
                interfaces=items, slots=[slot], **({"hosts": hosts} if hosts else {})
            )
            self._told |= {item["number"]: item for item in items}
            self._hosts.told(hosts)

    def stand_still(self, numbers: Iterable[int]) -> None:
        """The links of these are silent, for the forwarder that is told next."""
        self._silent |= set(numbers)

    async def set_silent(self, number: int, silent: bool) -> None:
        """Nothing passes the link of an environment, or what it sends and gets. ForwarderError."""
        if (number in self._silent) == silent:
            return
        if silent:
            self._silent.add(number)
        else:
            self._silent.discard(number)
        await self._tell_with_others(number, lambda: self._standing_slot(number))

    def _standing_slot(self, number: int) -> dict[str, Any] | None:
        environment = self._region.tables.environments.get(number)
        slot = self._pool.slots.get(number)
        if environment is None or slot is None or environment.state not in _SERVING:
            return None
        interface = self._region.wanted_interface(environment.interface_id)
        return self._slot(slot, interface.number) if interface.number in self._told else None

    async def _tell_with_others(self, number: int, item: _Item) -> None:
        """Tell the forwarder, in one message with all that come while it answers the last one."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attaching.append((number, item, done))
        if self._attacher is None or self._attacher.done():
            self._attacher = asyncio.create_task(self._tell_waiting(), name="attach")
        await done

    async def _tell_waiting(self) -> None:
        while self._attaching:
            batch, self._attaching = self._attaching, []
            error: Exception | None = None
            try:
                try:
                    await self._tell_slots(batch)
                except ForwarderError:
                    if not await self._restarted():
                        raise
                    await self._tell_slots(batch)
            except ForwarderError as refused:
                error = refused
            for _number, _item, done in batch:
                if not done.done():
                    done.set_result(None) if error is None else done.set_exception(error)

    async def _tell_slots(self, batch: Sequence[tuple[int, _Item, object]]) -> None:
        # Of two about the same the later one is true.
        latest = {number: item for number, item, _done in batch}
        slots = [slot for item in latest.values() if (slot := item()) is not None]
        if slots:
            await self._update(slots=slots)

    async def take_down(self, numbers: Sequence[int]) -> None:
        """Remove environments with everything that runs in them."""
        standing = [number for number in numbers if number in self._pool.slots]
        if not standing:
            return
        names = [topology.environment_namespace(self._lab, number) for number in standing]
        await self._update(remove_slots=standing)
        await in_thread(processes.kill_all, *names)
        await in_thread(topology.remove_environments, self._lab, standing)
        self._pool.remove(standing)
        self._silent.difference_update(standing)

    # --- VPCs and interfaces ---

    @property
    def changed(self) -> bool:
        """Whether `follow` has something to do."""
        return self._late or self._revisions != self._wanted_revisions()

    def _wanted_revisions(self) -> tuple[int, int, bool]:
        region = self._region
        return (region.network_revision, region.policy_revision, region.has_handlers)

    async def follow(self) -> None:
        """Make everything as the region wants it; NetnsError or ForwarderError: try again."""
        async with self._changing:
            await self._follow()

    async def _follow(self) -> None:
        region = self._region
        revisions = self._wanted_revisions()
        wanted = region.wanted()
        for step in (
            self._remove_hosts,
            self._follow_vpcs,
            self._make_or_report,
            self._hosts.make,
            self._tell,
            self.follow_services,
            self._remove_vpcs,
        ):
            await step(wanted)
        self._revisions = revisions

    async def _tell(self, wanted: Wanted) -> None:
        changed = [
            item
            for item in self._items(wanted.interfaces)
            if self._told.get(item["number"]) != item
        ]
        hosts = self._hosts.changed(wanted)
        standing = self._told.keys() | {item["number"] for item in changed}
        changes: dict[str, list[Any]] = {
            "interfaces": changed,
            "hosts": hosts,
            **self._ways_out.changes(wanted, standing),
        }
        # Each may name the others: one message, so that none is without what it names.
        if any(changes.values()):
            await self._update(**{name: items for name, items in changes.items() if items})
            self._told |= {item["number"]: item for item in changed}
            self._hosts.told(hosts)
            self._ways_out.told(wanted, standing)
        drained = []
        for node, end in self._ways_out.to_end(wanted):
            await self._forwarder.call("end_flows", desired.end_flows(node, end))
            self._ways_out.ended(node, end)
            if end.drained is not None:
                drained.append(end.drained)
        if drained:
            self._region.targets_ended(drained)

    async def _remove_hosts(self, wanted: Wanted) -> None:
        """Hosts that go, and with the last of a VPC the interface to its router."""
        if gone := self._hosts.unwanted(wanted):
            # Their servers end before what they run in.
            await self._services.end_others(self._service_specs(wanted))
            if known := self._hosts.known(gone):
                await self._update(remove_hosts=known)
                self._hosts.forgotten(known)
        await self._hosts.remove(gone, wanted)
        links = {each.link for each in (*wanted.interfaces, *self._deleting())}
        numbers = {each.number for each in (*wanted.interfaces, *self._deleting())}
        if told := sorted(self._told.keys() - numbers):
            await self._update(remove_interfaces=told)
            for number in told:
                del self._told[number]
        if left := sorted(self._links.keys() - links):
            await in_thread(topology.remove_interfaces, self._lab, left)
            for link in left:
                del self._links[link]

    def prepare_services(self) -> None:
        """Begin to load what the servers of a lab that is being made will need."""
        self._services.prepare(self._service_specs(self._region.wanted()))

    async def follow_services(self, wanted: Wanted) -> None:
        """The servers in the VPCs and on hosts, which stand, the VPCs' resolvers and health
        checkers, the writer of flow logs, AWS's endpoint, and what runs handlers.
        """
        now = (wanted.vpcs, wanted.hosts, self._hosts.standing, self._region.has_handlers)
        due = wanted.vpcs is not self._named or not self._health.knows(wanted)
        # Who begins has to find what it is told.
        early = time.monotonic() < self._next_telling and now == self._served
        self._late = due and early
        if due and not early:
            await in_thread(self._tell_services, wanted)
            self._next_telling = time.monotonic() + TELLING_SECONDS
        elif due and self._later is None:
            self._later = asyncio.get_running_loop().call_later(TELLING_SECONDS, self._tell_late)
        if now != self._served:
            # What fails half-way is neither as before nor as it is to be.
            self._served = None
            await self._services.follow(self._service_specs(wanted))
            await in_thread(resolvers.forget, self._config, wanted.vpcs)
            await in_thread(health_checks.forget, self._paths, wanted)
            self._served = now

    def _tell_late(self) -> None:
        self._later = None
        self.poked.set()

    def _tell_services(self, wanted: Wanted) -> None:
        if wanted.vpcs is not self._named:
            resolvers.tell(self._config, wanted.vpcs)
            self._named = wanted.vpcs
        self._health.tell(wanted)

    def _service_specs(self, wanted: Wanted) -> list[ServiceSpec]:
        return (
            reconcile.service_specs(
                self._config, wanted.vpcs, self._service_program, self._hosts.standing
            )
            + resolvers.resolver_specs(self._config, wanted.vpcs, self._resolver_program)
            + health_checks.checker_specs(self._config, wanted, self._hosts.standing)
            + flow_logs.writer_specs(self._config)
            + aws.endpoint_specs(self._config)
            + (handlers.runtime_specs(self._config) if self._region.has_handlers else [])
        )

    async def _follow_vpcs(self, wanted: Wanted) -> None:
        for vpc in wanted.vpcs:
            addresses = set(vpc.addresses)
            standing = self._vpcs.get(vpc.name)
            if standing is None:
                spec = VpcSpec(vpc.name, vpc.mtu_bytes, tuple(vpc.addresses), ())
                await in_thread(topology.add_vpc, self._lab, spec)
                self._vpcs[vpc.name] = addresses
                continue
            if new := sorted(addresses - standing):
                await in_thread(topology.add_addresses, self._lab, vpc.name, new)
                standing |= set(new)
            if old := sorted(standing - addresses):
                await in_thread(topology.remove_addresses, self._lab, vpc.name, old)
                standing -= set(old)

        # From one internet gateway to another.
        for name in {each.vpc for each in wanted.interfaces if each.gateway_of is not None}:
            if name not in self._forwarding:
                await in_thread(topology.forward, self._lab, name)
                self._forwarding.add(name)

    async def _remove_vpcs(self, wanted: Wanted) -> None:
        for name in self._vpcs.keys() - {vpc.name for vpc in wanted.vpcs}:
            await in_thread(topology.remove_vpc, self._lab, name)
            del self._vpcs[name]
            self._forwarding.discard(name)

    async def _make(self, interface: WantedInterface) -> None:
        if interface.link not in self._links:
            spec, mtu = reconcile.interface_spec(interface), interface.vpc_mtu_bytes
            (made,) = await in_thread(
                topology.add_interfaces, self._lab, interface.vpc, [spec], mtu=mtu
            )
            self._links[interface.link] = made
            numbers = punt.interfaces({made.ifindex: interface.number})
            await in_thread(self._punt.attach, numbers)

    async def _make_or_report(self, wanted: Wanted) -> None:
        for each in wanted.interfaces:
            try:
                await self._make(each)
            except NetnsError as error:
                log.error("interface %s cannot be made: %s", each.id, error)
                if each.status.value != "pending":
                    raise
                self._region.interface_failed(each.id, "InternalError", str(error))

    async def remove_interfaces(self) -> None:
        """Take down the interfaces that the region deletes."""
        async with self._changing:
            await self._remove_interfaces()

    async def _remove_interfaces(self) -> None:
        deleting = self._deleting()
        known = [each.number for each in deleting if each.number in self._told]
        if known:
            await self._update(remove_interfaces=known)
            for number in known:
                del self._told[number]
        links = [each.link for each in deleting if each.link in self._links]
        if links:
            await in_thread(topology.remove_interfaces, self._lab, links)
            for link in links:
                del self._links[link]
        for each in deleting:
            self._region.interface_removed(each.id)

    @property
    def retired(self) -> bool:
        """Whether there are numbers that flows may still refer to."""
        region = self._region
        return bool(region.retired_numbers() or region.retired_hosts() or self._pool.retiring)

    async def release_numbers(self) -> None:
        """Interface numbers that no flow refers to any more may be used again."""
        status = await self._forwarder.call("status")
        self.note_retiring(status["retiring"])
        known = numbers_of(self._told.values()) | self._ways_out.numbers
        for number in self._region.retired_numbers():
            if number not in self.retiring_interfaces and number not in known:
                self._region.release_number(number)
        for number in self._region.retired_hosts():
            if not self._hosts.refers_to(number):
                self._region.release_host(number)
