# SPDX-License-Identifier: Apache-2.0
"""A region: accounts, VPCs, functions and their network interfaces, with all their life cycles.

Theory of operation
-------------------
`Region` is the one door to the model. A command first applies what is due by the clock, then runs
as a transaction of the `Tables`: it happens as a whole or raises and leaves nothing. Afterwards
`changes` names the rows to save (`store` does), so that a killed process comes back with the state
of the last command. A command that raises may have changes to save all the same: time has passed,
and an Inactive function that is invoked fails but becomes Pending.

The region knows no namespace. The controller makes the world follow `wanted`, takes down what
`deleting` and `reaped` list and says when it is gone. Interface numbers stay retired until the
controller says that no flow refers to them.

Nothing happens by itself: call `advance` at `next_deadline`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import IPv4Address
from typing import Any, Self

from hyperplane_nat.model import provisioned
from hyperplane_nat.model.balancer_entities import LoadBalancer, TargetGroup
from hyperplane_nat.model.changes import Changes
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.entities import (
    ExecutionEnvironment,
    Function,
    InterfaceKind,
    NetworkInterface,
    RetiredNumber,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import NatGateway
from hyperplane_nat.model.identifiers import RandomHex, system_hex
from hyperplane_nat.model.invocation import (
    Invocations,
    Placement,
    not_found,
    not_permitted,
    not_ready,
    wrong_state,
)
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.nat_gateways import draining
from hyperplane_nat.model.planner import PlanLine, Planner
from hyperplane_nat.model.private_link_entities import VpcEndpoint
from hyperplane_nat.model.resources import Resources
from hyperplane_nat.model.security_group import Compiler
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.states import (
    EnvironmentState,
    FunctionState,
    InterfaceStatus,
    NatGatewayState,
)
from hyperplane_nat.model.tables import Change, Tables
from hyperplane_nat.model.wanted import Parts, Wanted, WantedInterface, interface_of

__all__ = ["Commands", "Placement", "Plan", "PlanLine", "Region"]

INTERFACE_NUMBERS = 4096
"""As many as a state map has room for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do, in order."""

    wanted: Resources
    lines: tuple[PlanLine, ...] = ()
    keep_used: bool = False


def no_slot() -> int:
    """The pool of a region that was given none."""
    raise ModelError(
        "TooManyRequestsException", "the region has no pool of environments", "set pool.size"
    )


class Region:
    """
    Everything one lab holds. Each method does all or nothing; errors are `ModelError`.

    `clock` gives seconds that go on over a restart of the process, as `time.time` does. `take_slot`
    gives a free slot number for a cold start, or raises; what it raises leaves `begin` unchanged.
    Interfaces have `interface_numbers` numbers at most.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        settings: LifecycleSettings | None = None,
        take_slot: Callable[[], int] = no_slot,
        interface_numbers: int = INTERFACE_NUMBERS,
        random_hex: RandomHex = system_hex,
        tables: Tables | None = None,
    ) -> None:
        self.tables = Tables() if tables is None else tables
        """The entities, for reading."""
        self.settings = settings or LifecycleSettings()
        self._clock = clock
        self._lifecycle = Lifecycle(
            self.tables,
            self.settings,
            clock,
            random_hex,
            interface_numbers,
        )
        self._invocations = Invocations(self._lifecycle, take_slot)
        self._compiler: tuple[int, Compiler] | None = None
        self._parts = Parts(self.tables, self.settings)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], **options: Any) -> Self:
        """
        The region of a `document`; `options` are those of the constructor.

        Errors: `StateError` for a document that is damaged or of a newer program.
        """
        return cls(tables=tables_of(document), **options)

    def document(self) -> dict[str, Any]:
        """The full state, ready for JSON. Connections as told last are not part of it."""
        return document_of(self.tables)

    def changes(self) -> list[Change]:
        """Rows that differ from what was saved last."""
        return self.tables.changes()

    def mark_saved(self) -> None:
        """All changes up to now are saved."""
        self.tables.mark_saved()

    # -- what is wanted

    def plan(self, wanted: Resources, *, keep_used: bool = False) -> Plan:
        """
        What `apply` would do, without doing it.

        Errors: whatever makes it impossible, quotas and free addresses included, under AWS's name;
        DependencyViolation for the deletion of something in use, unless it is to be kept: then its
        line says what it waits for.
        """
        self.advance()
        with self.tables.transaction():
            self._lifecycle.now = self._clock()
            lines = Planner(self._lifecycle, wanted, keep_used=keep_used).run()
            self.tables.undo()
        return Plan(wanted, lines, keep_used)

    def apply(
        self, plan: Plan, commit: Callable[[tuple[PlanLine, ...]], None] | None = None
    ) -> tuple[PlanLine, ...]:
        """
        Do it, as the region now is; the lines say what was done. Errors: those of `plan`.

        `commit` is called with the lines when all is done; what it raises puts everything back.
        """
        lines: tuple[PlanLine, ...] = ()
        with self._command(None if commit is None else lambda: commit(lines)):
            lines = Planner(self._lifecycle, plan.wanted, keep_used=plan.keep_used).run()
        return lines

    def resume(self, wanted: Resources) -> None:
        """
        Go on where a former process was: `apply` with what is in use kept, unless that was done.
        Then what has lost its last user since is deleted, and what commands have changed stays.
        """
        with self._command():
            Planner(self._lifecycle, wanted, keep_used=True).resume()

    @contextmanager
    def commands(self, commit: Callable[[], None] | None = None) -> Iterator[Commands]:
        """
        Commands that are carried out together, or not at all when one of them raises.

        `commit` is called when all is done; what it raises puts everything back.
        """
        with self._command(commit):
            yield Commands(self._lifecycle)

    def wanted(self) -> Wanted:
        """What namespaces, links and the forwarder should be; what has not changed since the last
        time is the same object.
        """
        return self._parts.wanted()

    @property
    def host_numbers(self) -> int:
        """How many numbers there are for hosts, 0 included, which none has."""
        return self._lifecycle.host_numbers

    @host_numbers.setter
    def host_numbers(self, numbers: int) -> None:
        self._lifecycle.host_numbers = numbers

    @property
    def network_revision(self) -> int:
        """The `revision` of `wanted`, without the cost of it."""
        return self.tables.network_revision

    @property
    def policy_revision(self) -> int:
        """
        Changes whenever the policy of an interface that already stands may have: with groups,
        services and members of a group that an egress rule names. As long as it stays, a new
        interface is the only one whose policy the forwarder has to be told.
        """
        return self.tables.policy_revision

    def wanted_interface(self, interface: str) -> WantedInterface:
        """What one interface (by id) should be, its policy included."""
        if self._compiler is None or self._compiler[0] != self.policy_revision:
            self._compiler = (self.policy_revision, Compiler(self.tables, self.settings))
        return interface_of(self.tables, self._compiler[1], self._interface(interface))

    # -- invocations

    def begin(self, function: str, token: str | None = None) -> Placement:
        """
        Start an invocation: in a warm environment, or in a cold one with a slot of `take_slot`.

        `function` may have a qualifier, as for `function`.

        The token of an invocation that still runs gives the same placement again.

        Errors (Lambda API, "Invoke"): ResourceNotFoundException, ResourceConflictException while it
        is Pending or Failed, ResourceNotReadyException when it is Inactive, which makes it Pending,
        or being restored; ENILimitReachedException and SubnetIPAddressLimitReachedException for an
        interface per environment; whatever `take_slot` raises.
        """
        self.advance()
        found = self._serving(function, token)
        if token is not None and (placement := self._invocations.repeated(found, token)):
            return placement
        if found.state is FunctionState.INACTIVE:
            self._wake(found)
            raise not_ready(found)
        with self._command():
            return self._invocations.begin(self.function(found.name), token)

    def _serving(self, name: str, token: str | None) -> Function:
        """As `function`; of an alias with weights that of its versions whose turn it is, which for
        the same token is the same.
        """
        found = self.function(name)
        alias = self.tables.alias(name)
        if alias is None or not alias.additional:
            return found
        digits = (
            self._lifecycle.random_hex(8)
            if token is None
            else sha256(token.encode()).hexdigest()[:8]
        )
        ((number, weight),) = alias.additional
        if int(digits, 16) >= weight * 16**8:
            return found
        return self.function(f"{found.function_name}:{number}")

    def provisioning(self) -> Mapping[str, int]:
        """How many environments provisioned concurrency misses, by the name of the version."""
        return provisioned.missing(self.tables)

    def provision(self, version: str) -> Placement:
        """
        Start an environment of a version for its provisioned concurrency; `end` says that it is
        initialized. Errors: those of `begin` that are about interfaces and slots.
        """
        with self._command():
            return self._invocations.provision(self.function(version))

    def provisioning_failed(self, environment: int, reason: str) -> None:
        """It could not be initialized: it is given up, and its version has no other."""
        with self._command():
            found = self._environment(environment)
            version = self.tables.functions.get(found.function_id)
            if version is not None and found.provisioned:
                self.tables.put(replace(version, provisioning_failure=reason))
            if found.state is not EnvironmentState.TERMINATING:
                self._lifecycle.give_up(found)

    def ready(self, environment: int) -> None:
        """The network of a cold environment is there: initializing -> busy."""
        with self._command():
            self._invocations.ready(self._environment(environment))

    def end(self, environment: int) -> None:
        """
        The invocation is over: busy -> idle; terminating when its function has another
        configuration by now, or is gone.
        """
        with self._command():
            self._invocations.end(self._environment(environment))

    def discard(self, environment: int) -> None:
        """Give an environment up, whatever it does: -> terminating. Again: nothing happens."""
        with self._command():
            found = self._environment(environment)
            if found.state is not EnvironmentState.TERMINATING:
                self._lifecycle.give_up(found)

    def function(self, name: str, account: str | None = None) -> Function:
        """
        A function by its name, or what a version or alias behind a colon names of it; in that
        account, if the one who asks names one. ResourceNotFoundException, AccessDeniedException.
        """
        if account is not None and account not in self.tables.accounts:
            raise not_permitted(name, account)
        found = self.tables.function(name)
        if found is None or account not in (None, found.account_id):
            raise not_found(name if account is None else f"{account}:function:{name}")
        return found

    def keep_code(self, function_id: str, path: str) -> None:
        """The code of a version is kept at `path` from now on; nothing when there is none."""
        with self._command():
            version = self.tables.functions.get(function_id)
            if version is not None and version.code is not None:
                self.tables.put(replace(version, code=replace(version.code, path=path)))

    def served_by(self, environment: int) -> Function | None:
        """The function, or the version of it, that an environment is one of."""
        found = self.tables.environments.get(environment)
        return None if found is None else self.tables.functions.get(found.function_id)

    @property
    def has_handlers(self) -> bool:
        """Whether there is a function with code."""
        return any(each.code for each in self.tables.functions.values())

    def interrupted(self, going_on: Container[int] = ()) -> list[int]:
        """
        Give up all environments that initialize or are busy: their programs ended with the
        controller that ran them, unless they are `going_on`. Returns their slots.
        """
        with self._command():
            found = [
                environment
                for environment in self.tables.environments.values()
                if environment.state in (EnvironmentState.INITIALIZING, EnvironmentState.BUSY)
                and environment.slot not in going_on
            ]
            for environment in found:
                self._lifecycle.give_up(environment)
        return [environment.slot for environment in found]

    def reaped(self) -> list[int]:
        """Environments that terminate: take them down, then call `removed` for each."""
        return self.tables.terminating()

    def removed(self, environment: int) -> None:
        """The environment is gone; its slot is forgotten and may be taken again."""
        with self._command():
            found = self._environment(environment)
            if found.state is not EnvironmentState.TERMINATING:
                raise wrong_state(found, "be removed")
            self.tables.remove(found)

    # -- interfaces

    def references(self, interface: str) -> int:
        """How many functions and environments use an interface (by id)."""
        return self.tables.references(self._interface(interface))

    def note_connections(self, connections: Mapping[str, int]) -> tuple[str, ...]:
        """
        Tell how many connections each interface (by id) carries; who is not named has none.

        When all interfaces of a combination are at the limit, another one is made beside them
        (AWS: "after 65,000 connections"). Returns a line for each that could not be made.
        """
        self.advance()
        self._lifecycle.connections = {
            interface: count
            for interface, count in connections.items()
            if interface in self.tables.interfaces
        }
        troubles = []
        for interface in list(self._lifecycle.connections):
            try:
                with self._command():
                    self._lifecycle.add_if_full(self.tables.interfaces[interface])
            except ModelError as error:
                troubles.append(f"no interface beside {interface}: {error}")
        return tuple(troubles)

    def interface_failed(self, interface: str, code: str, reason: str) -> None:
        """
        A pending interface could not be made. Functions that wait for it become Failed, or stay on
        their old configuration with LastUpdateStatus Failed; an environment it was for terminates.

        `code` is a StateReasonCode of the Lambda API, such as "InternalError".
        """
        with self._command():
            found = self._interface(interface)
            if found.status is not InterfaceStatus.PENDING:
                raise ModelError(
                    "InvalidNetworkInterface.InUse",
                    f"interface {interface} is {found.status}, it exists already",
                    "only a pending interface can fail",
                )
            if found.kind is not InterfaceKind.PER_ENVIRONMENT:
                self._lifecycle.creation_failed(found, code, reason)
                return
            for environment in list(self.tables.environments.values()):
                if (
                    environment.interface_id == interface
                    and environment.state is not EnvironmentState.TERMINATING
                ):
                    self._lifecycle.give_up(environment)

    def deleting(self) -> list[str]:
        """Interfaces (by id) to take down; call `interface_removed` for each."""
        return [
            interface.id
            for interface in self.tables.interfaces.values()
            if interface.status is InterfaceStatus.DELETING
        ]

    def interface_removed(self, interface: str) -> int:
        """It is gone: address and quota are free. Returns its number, which stays retired."""
        with self._command():
            found = self._interface(interface)
            if found.status is not InterfaceStatus.DELETING:
                raise ModelError(
                    "InvalidNetworkInterface.InUse",
                    f"interface {interface} is {found.status}",
                    "only an interface that is deleting can be removed",
                )
            self.tables.remove(found)
            self.tables.put(RetiredNumber(found.number))
            self._lifecycle.connections.pop(interface, None)
        return found.number

    def retired_numbers(self) -> list[int]:
        """Interface numbers that flows may still refer to."""
        return sorted(self.tables.retired_numbers)

    def release_number(self, number: int) -> None:
        """No flow refers to that number any more: it may be used again. Again: nothing happens."""
        with self._command():
            retired = self.tables.retired_numbers.get(number)
            if retired is not None:
                self.tables.remove(retired)

    def retired_hosts(self) -> list[int]:
        """Numbers of hosts that are gone, which flows or namespaces may still refer to."""
        return sorted(self.tables.retired_hosts)

    def release_host(self, number: int) -> None:
        """Nothing refers to that host any more: the number may be used again."""
        with self._command():
            retired = self.tables.retired_hosts.get(number)
            if retired is not None:
                self.tables.remove(retired)

    # -- addresses of NAT gateways

    def draining_addresses(self) -> dict[int, tuple[str, IPv4Address]]:
        """
        The addresses that are given up, with the ids of their gateways, by number. One that has no
        flow any more is to be told to `addresses_unused`.
        """
        found = {}
        for gateway in self.tables.nat_gateways.values():
            if gateway.state is NatGatewayState.AVAILABLE and (going := draining(gateway)):
                interface = self.tables.interfaces[gateway.interface_id]
                for number, address in interface.secondary:
                    if address in going:
                        found[number] = (gateway.id, address)
        return found

    def addresses_unused(self, unused: Iterable[tuple[str, IPv4Address]]) -> None:
        """These take no new flows and have none: they are released before their time."""
        with self._command():
            gateways = Changes(self._lifecycle, declared=False).nat_gateways
            for gateway_id, address in unused:
                gateway = self.tables.nat_gateways.get(gateway_id)
                if gateway is not None and gateway.state is NatGatewayState.AVAILABLE:
                    gateways.release(gateway, [address])

    # -- targets of load balancers

    def targets_ended(self, ended: Iterable[tuple[str, tuple[str, int]]]) -> None:
        """The flows of targets that had drained, by group and target, were ended: they are gone."""
        with self._command():
            balancers = Changes(self._lifecycle, declared=False).balancers
            for group_id, place in ended:
                balancers.target_ended(group_id, place)

    # -- time

    def advance(self) -> None:
        """Apply every transition that is due, each at its own time."""
        now = self._clock()
        deadline = self.tables.next_deadline()
        if deadline is None or deadline > now:
            return
        with self.tables.transaction():
            while (deadline := self.tables.next_deadline()) is not None and deadline <= now:
                self._lifecycle.now = deadline
                entity = self.tables.due(now)
                changes = Changes(self._lifecycle, declared=False)
                match entity:
                    case NatGateway():
                        changes.nat_gateways.expire(entity)
                    case LoadBalancer() | TargetGroup():
                        changes.balancers.expire(entity)
                    case VpcEndpoint():
                        changes.private_link.expire(entity)
                    case _:
                        self._lifecycle.expire(entity)
                self._lifecycle.settle()

    def next_deadline(self) -> float | None:
        """When `advance` has something to do, in the clock's seconds."""
        return self.tables.next_deadline()

    @contextmanager
    def _command(self, commit: Callable[[], None] | None = None) -> Iterator[None]:
        self.advance()
        with self.tables.transaction():
            self._lifecycle.now = self._clock()
            yield
            self._lifecycle.settle()
            if commit is not None:
                commit()

    def _wake(self, function: Function) -> None:
        try:
            with self._command():
                self._lifecycle.wake(function)
        except ModelError as error:
            with self._command():
                self._lifecycle.wake_failed(function, error)

    def _environment(self, slot: int) -> ExecutionEnvironment:
        environment = self.tables.environments.get(slot)
        if environment is None:
            raise ModelError(
                "ResourceNotFoundException",
                f"there is no environment {slot}",
                "hyperplane-nat environments lists those there are",
            )
        return environment

    def _interface(self, interface: str) -> NetworkInterface:
        found = self.tables.interfaces.get(interface)
        if found is None:
            raise ModelError(
                "InvalidNetworkInterfaceID.NotFound",
                f"The networkInterface ID '{interface}' does not exist",
                "hyperplane-nat interfaces lists those there are",
            )
        return found
