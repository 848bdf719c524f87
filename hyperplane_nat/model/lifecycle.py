# SPDX-License-Identifier: Apache-2.0
"""Functions and their network interfaces over time.

Theory of operation
-------------------
A function holds a combination of subnet and security groups, never a certain interface; whoever
shares the combination shares its interfaces ("Giving Lambda functions access to resources in an
Amazon VPC", "Hyperplane ENIs"). `acquire` makes an interface for a combination that has none,
`settle` draws the consequences of whatever has changed: an interface that lost its last user starts
to wait for its deletion, a function whose combinations are all served becomes Active, a change of
configuration whose interfaces are there takes over. `expire` does what is due by time.

`now` is the time of the command or of the transition that is being applied. When the clock has
jumped over several of them, each happens at its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from hyperplane_nat.model.entities import (
    Combination,
    ExecutionEnvironment,
    Function,
    Host,
    InterfaceKind,
    NetworkConfig,
    NetworkInterface,
    RetiredHost,
    RetiredNumber,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import RandomHex, link_name, resource_id, uuid
from hyperplane_nat.model.resources import FunctionResource, Networking
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.states import (
    ENVIRONMENT_STATES,
    FUNCTION_STATES,
    INTERFACE_STATES,
    UPDATE_STATES,
    EnvironmentEvent,
    EnvironmentState,
    FunctionEvent,
    FunctionState,
    InterfaceEvent,
    InterfaceStatus,
    UpdateEvent,
    following,
)
from hyperplane_nat.model.tables import Tables

RESERVED_FIRST = 4
"""Addresses at the start of a subnet that AWS keeps, the last one aside ("Subnet CIDR blocks")."""

HOSTS_MAX = 1024
"""Numbers of hosts, 0 included, which is not used: a state map has room for so many."""

REASON_CODES = {
    "ENILimitReachedException": "EniLimitExceeded",
    "SubnetIPAddressLimitReachedException": "SubnetOutOfIPAddresses",
}
"""`StateReasonCode` of the Lambda API, by the error that stands behind it."""

_STANDING = (
    InterfaceKind.STATIC,
    InterfaceKind.ROUTER,
    InterfaceKind.INTERNET_GATEWAY,
    InterfaceKind.GATEWAY_ENDPOINT,
    InterfaceKind.NAT_GATEWAY,
    InterfaceKind.LOAD_BALANCER,
    InterfaceKind.VPC_ENDPOINT,
)
"""Interfaces that do not go when they have no user."""

CREATING = "Creating"
RESTORING = "Restoring"
IDLE = "Idle"


class Lifecycle:
    """The transitions of functions, interfaces and environments in one set of tables."""

    def __init__(
        self,
        tables: Tables,
        settings: LifecycleSettings,
        clock: Callable[[], float],
        random_hex: RandomHex,
        numbers: int,
    ) -> None:
        self.tables = tables
        self.settings = settings
        self.random_hex = random_hex
        self.now = clock()
        self.connections: dict[str, int] = {}
        """Connections by interface id, as told last."""
        self.host_numbers = HOSTS_MAX
        """How many numbers there are for hosts, as the state map has room for."""
        self._numbers = numbers

    def acquire(self, config: NetworkConfig, function_name: str) -> None:
        """Make the shared interfaces that `config` needs and that do not exist, all or none."""
        missing = [each for each in config.combinations if not self.tables.sharing(each)]
        try:
            for combination in missing:
                self.create_shared(combination, config, function_name)
        except ModelError:
            for combination in missing:
                for interface in self.tables.sharing(combination):
                    self.tables.remove(interface)
            raise

    def provide(self, function: Function, config: NetworkConfig) -> None:
        """The same for a function that has asked for it; without addresses or quota it fails, as on
        AWS, where it is told no sooner (`StateReasonCode`, `LastUpdateStatusReasonCode`).
        """
        try:
            self.acquire(config, function.function_name)
        except ModelError as error:
            if error.code not in REASON_CODES:
                raise
            code = REASON_CODES[error.code]
            self.tables.put(self._without_interfaces(function, code, error.text))

    def create_shared(
        self, combination: Combination, config: NetworkConfig, function_name: str
    ) -> NetworkInterface:
        """An interface for a combination; the one to the internet is there at once."""
        internet = config.networking is Networking.NONE
        interface = self.create_interface(
            InterfaceKind.INTERNET if internet else InterfaceKind.HYPERPLANE,
            self.tables.subnets[combination.subnet_id],
            combination.owner_id,
            combination.group_ids,
            function_name,
        )
        if internet:
            status = following(INTERFACE_STATES, interface.status, InterfaceEvent.CREATED)
            interface = replace(interface, status=status)
        else:
            seconds = self.settings.scaled(self.settings.interface_creation_seconds)
            interface = replace(interface, due=self.now + seconds)
        self.tables.put(interface)
        return interface

    def create_interface(
        self,
        kind: InterfaceKind,
        subnet: Subnet,
        owner_id: str,
        group_ids: tuple[str, ...],
        function_name: str,
    ) -> NetworkInterface:
        """A pending interface. Errors: the quota of the VPC, the addresses of the subnet."""
        vpc = self.tables.vpcs[subnet.vpc_id]
        quota = self.settings.interfaces_per_vpc
        if kind is not InterfaceKind.INTERNET and self.tables.count_in_vpc(vpc.id) >= quota:
            raise ModelError(
                "ENILimitReachedException",
                f"VPC {vpc.name} has {quota} Lambda network interfaces, as many as it may",
                "share subnets and security groups, or raise lifecycle.interfaces_per_vpc",
            )
        interface_id = self.new_interface_id()
        interface = NetworkInterface(
            id=interface_id,
            kind=kind,
            status=InterfaceStatus.PENDING,
            description=f"AWS Lambda VPC ENI-{function_name}-{uuid(self.random_hex)}",
            number=self.free_number(),
            link=link_name(interface_id),
            owner_id=owner_id,
            vpc_id=vpc.id,
            subnet_id=subnet.id,
            group_ids=group_ids,
            address=self.free_address(subnet),
        )
        self.tables.put(interface)
        return interface

    def router_interface(self, vpc: Vpc) -> NetworkInterface:
        """The interface that leads to the VPC's router, made when there is none yet.

        Its address is the fabric's: base + 3 of the VPC, which AWS reserves wherever a subnet has
        it ("Subnet CIDR blocks").
        """
        if (found := self.tables.router_interface(vpc.id)) is not None:
            return found
        interface_id = self.new_interface_id()
        interface = NetworkInterface(
            id=interface_id,
            kind=InterfaceKind.ROUTER,
            status=InterfaceStatus.AVAILABLE,
            description=f"Hosts of VPC {vpc.name}",
            number=self.free_number(),
            link=link_name(interface_id),
            owner_id=vpc.account_id,
            vpc_id=vpc.id,
            subnet_id="",
            group_ids=(),
            address=vpc.cidr.network_address + 3,
            requester_id=vpc.account_id,
        )
        self.tables.put(interface)
        return interface

    def free_host_number(self) -> int:
        """A number for a host. InstanceLimitExceeded."""
        for number in range(1, self.host_numbers):
            if number not in self.tables.host_numbers:
                return number
        room = max(self.host_numbers - 1, 0)
        raise ModelError(
            "InstanceLimitExceeded",
            f"the lab has room for {room} hosts and no more",
            "delete some" if room else "its state map is of a former version: down, and up again",
        )

    def forget_host(self, host: Host) -> None:
        """A host goes, and with the last one of its VPC the interface to the VPC's router."""
        self.tables.remove(host)
        self.tables.put(RetiredHost(host.number, host.attached))
        self.leave_router(host.vpc_id)

    def leave_router(self, vpc_id: str) -> None:
        """The interface to a VPC's router goes with the last that needs it."""
        interface = self.tables.router_interface(vpc_id)
        needed = (
            self.tables.hosts_in(vpc_id)
            or vpc_id in self.tables.health_checkers
            or any(each.vpc_id == vpc_id for each in self.tables.endpoints.values())
        )
        if interface is not None and not needed:
            self.retire(interface)

    def retire(self, interface: NetworkInterface) -> None:
        """An interface goes at once; its numbers are kept while flows may refer to them."""
        self.tables.remove(interface)
        for number in interface.numbers:
            self.tables.put(RetiredNumber(number))

    def configure(self, function: Function, config: NetworkConfig) -> None:
        """Give a function another configuration; the old one serves until the new one can."""
        refuse_while_changing(function)
        if function.state is FunctionState.ACTIVE:
            function = replace(
                function,
                update=config,
                due=None,
                last_update_status=following(
                    UPDATE_STATES, function.last_update_status, UpdateEvent.STARTED
                ),
                last_update_status_reason="The function is being updated.",
                last_update_status_reason_code=CREATING,
            )
        else:
            function = replace(
                function,
                config=config,
                version=function.version + 1,
                state=following(FUNCTION_STATES, function.state, FunctionEvent.CONFIGURED),
                state_reason="The function is being created.",
                state_reason_code=CREATING,
            )
            self._give_up_old(function)
        self.tables.put(function)
        self.provide(function, config)

    def renew(self, function: Function, wanted: FunctionResource) -> Function:
        """
        Give a function other memory, code or variables: who serves goes on to its end with what it
        has, and new environments have the new.
        """
        refuse_while_changing(function)
        function = replace(
            function,
            memory_mb=wanted.memory_mb,
            code=wanted.code,
            environment=wanted.environment,
            version=function.version + 1,
        )
        self.tables.put(function)
        self._give_up_old(function)
        return function

    def wake(self, function: Function) -> None:
        """An Inactive function was invoked: it is Pending until its interfaces are back."""
        self.tables.put(
            replace(
                function,
                state=following(FUNCTION_STATES, function.state, FunctionEvent.INVOKED),
                state_reason="The function is being restored.",
                state_reason_code=RESTORING,
                last_used=self.now,
            )
        )
        self.acquire(function.config, function.function_name)

    def wake_failed(self, function: Function, error: ModelError) -> None:
        """Its interfaces cannot be made again: it stays Inactive and says why."""
        self.tables.put(
            replace(
                function,
                state=following(FUNCTION_STATES, function.state, FunctionEvent.RESTORING_FAILED),
                state_reason=error.message,
                state_reason_code=REASON_CODES.get(error.code, "InternalError"),
            )
        )

    def forget_function(self, function: Function) -> None:
        """Delete a function and its versions: idle environments go, busy ones finish."""
        for version in self.tables.versions(function):
            self.forget_function(version)
        for slot in self.tables.idle_of(function.id):
            self.give_up(self.tables.environments[slot])
        self.tables.remove(function)

    def give_up(self, environment: ExecutionEnvironment) -> None:
        """Terminate an environment."""
        self.tables.put(
            replace(
                environment,
                state=following(ENVIRONMENT_STATES, environment.state, EnvironmentEvent.GIVEN_UP),
                token=None,
                due=None,
            )
        )

    def used(self, function: Function) -> None:
        """The function was invoked just now."""
        self.tables.put(self._aging(replace(function, last_used=self.now)))

    def add_if_full(self, interface: NetworkInterface) -> bool:
        """Another interface beside one at its limit, unless there already is one with room."""
        combination = interface.combination
        if combination is None or not interface.serves or not self.full(interface):
            return False
        if not all(self.full(other) for other in self.tables.sharing(combination)):
            return False
        holder = next(iter(self.tables.holders(combination)), None)
        if holder is None:
            return False
        config = holder.config if combination in holder.config.combinations else holder.target
        self.create_shared(combination, config, holder.function_name)
        return True

    def full(self, interface: NetworkInterface) -> bool:
        """Whether it carries as many connections as an interface may."""
        limit = self.settings.connections_per_interface
        return self.connections.get(interface.id, 0) >= limit

    def creation_failed(self, interface: NetworkInterface, code: str, reason: str) -> None:
        """A shared interface cannot be had: who waits for it and has no other fails."""
        combination = interface.combination
        status = following(INTERFACE_STATES, interface.status, InterfaceEvent.CREATION_FAILED)
        self.tables.put(replace(interface, status=status, due=None))
        if combination is None or self.tables.sharing(combination):
            return
        for function in self.tables.holders(combination):
            updating = function.update is not None and combination in function.update.combinations
            if function.state is FunctionState.PENDING or updating:
                self.tables.put(self._without_interfaces(function, code, reason))

    def _without_interfaces(self, function: Function, code: str, reason: str) -> Function:
        """What becomes of a function that is Pending or being updated and cannot have them."""
        if function.state is FunctionState.PENDING:
            restoring = function.state_reason_code == RESTORING
            event = (
                FunctionEvent.RESTORING_FAILED if restoring else FunctionEvent.PROVISIONING_FAILED
            )
            return replace(
                function,
                state=following(FUNCTION_STATES, function.state, event),
                state_reason=reason,
                state_reason_code=code,
            )
        return self._aging(
            replace(
                function,
                update=None,
                last_update_status=following(
                    UPDATE_STATES, function.last_update_status, UpdateEvent.BROKEN_OFF
                ),
                last_update_status_reason=reason,
                last_update_status_reason_code=code,
            )
        )

    def settle(self) -> None:
        """Apply what follows from the changes made so far, until nothing follows."""
        tables = self.tables
        while tables.touched_interfaces or tables.touched_functions:
            while tables.touched_interfaces:
                interface = tables.interfaces.get(tables.touched_interfaces.popitem()[0])
                if interface is not None:
                    self._settle_interface(interface)
            while tables.touched_functions:
                function = tables.functions.get(tables.touched_functions.popitem()[0])
                if function is not None:
                    self._settle_function(function)

    def expire(self, entity: object) -> None:
        """Do what is due for an entity."""
        if isinstance(entity, ExecutionEnvironment):
            self.give_up(entity)
        elif isinstance(entity, NetworkInterface):
            event = (
                InterfaceEvent.CREATED
                if entity.status is InterfaceStatus.PENDING
                else InterfaceEvent.EXPIRED
            )
            status = following(INTERFACE_STATES, entity.status, event)
            self.tables.put(replace(entity, status=status, due=None))
        elif isinstance(entity, Function):
            self._reclaim(entity)

    def _reclaim(self, function: Function) -> None:
        environments = self.tables.environments_of(function.id)
        if any(
            environment.state in (EnvironmentState.INITIALIZING, EnvironmentState.BUSY)
            or environment.provisioned
            for environment in environments
        ):
            self.used(function)
            return
        for slot in self.tables.idle_of(function.id):
            self.give_up(self.tables.environments[slot])
        self.tables.put(
            replace(
                function,
                state=following(FUNCTION_STATES, function.state, FunctionEvent.RECLAIMED),
                state_reason="The function is idle.",
                state_reason_code=IDLE,
                due=None,
            )
        )

    def _settle_interface(self, interface: NetworkInterface) -> None:
        used = self.tables.references(interface) > 0
        if interface.status is InterfaceStatus.AVAILABLE and used:
            event, due = InterfaceEvent.ATTACHED, None
        elif interface.kind in _STANDING:
            return
        elif interface.status is InterfaceStatus.IN_USE and not used:
            event, due = InterfaceEvent.DETACHED, self.now + self._deletion_seconds(interface)
        elif interface.status is InterfaceStatus.AVAILABLE and interface.due is None:
            due = self.now + self._deletion_seconds(interface)
            self.tables.put(replace(interface, due=due))
            return
        elif (
            interface.status is InterfaceStatus.PENDING
            and interface.kind is InterfaceKind.PER_ENVIRONMENT
            and not used
        ):
            event, due = InterfaceEvent.CREATION_FAILED, None
        else:
            return
        status = following(INTERFACE_STATES, interface.status, event)
        self.tables.put(replace(interface, status=status, due=due))

    def _settle_function(self, function: Function) -> None:
        if function.state is FunctionState.PENDING and self._served(function.config):
            self.tables.put(
                self._aging(
                    replace(
                        function,
                        state=following(FUNCTION_STATES, function.state, FunctionEvent.PROVISIONED),
                        state_reason="",
                        state_reason_code="",
                        last_used=self.now,
                    )
                )
            )
        elif function.update is not None and self._served(function.update):
            function = self._aging(
                replace(
                    function,
                    config=function.update,
                    update=None,
                    version=function.version + 1,
                    last_used=self.now,
                    last_update_status=following(
                        UPDATE_STATES, function.last_update_status, UpdateEvent.FINISHED
                    ),
                    last_update_status_reason="",
                    last_update_status_reason_code="",
                )
            )
            self.tables.put(function)
            self._give_up_old(function)

    def _give_up_old(self, function: Function) -> None:
        """Environments finish on the configuration they have, and are not used again."""
        for slot in self.tables.idle_of(function.id):
            environment = self.tables.environments[slot]
            if environment.version != function.version:
                self.give_up(environment)

    def _served(self, config: NetworkConfig) -> bool:
        return all(
            any(interface.serves for interface in self.tables.sharing(combination))
            for combination in config.combinations
        )

    def _aging(self, function: Function) -> Function:
        """The function with the time at which it becomes Inactive, if it can."""
        ages = (
            function.state is FunctionState.ACTIVE
            and function.update is None
            and function.config.networking is Networking.HYPERPLANE
        )
        seconds = self.settings.scaled(self.settings.function_idle_seconds)
        return replace(function, due=function.last_used + seconds if ages else None)

    def _deletion_seconds(self, interface: NetworkInterface) -> float:
        if interface.kind is InterfaceKind.PER_ENVIRONMENT:
            return self.settings.scaled(self.settings.per_environment_deletion_seconds)
        return self.settings.scaled(self.settings.interface_deletion_seconds)

    def new_interface_id(self, prefix: str = "eni") -> str:
        """An id of an interface, or of the gateway that it belongs to, whose link none has."""
        interface_id = resource_id(prefix, self.random_hex)
        while link_name(interface_id) in self.tables.links:
            interface_id = resource_id(prefix, self.random_hex)
        return interface_id

    def free_number(self) -> int:
        """A number for an address of an interface. ENILimitReachedException."""
        for number in range(self._numbers):
            if number not in self.tables.numbers:
                return number
        raise ModelError(
            "ENILimitReachedException",
            f"the lab has room for {self._numbers} network interfaces and no more",
            "delete functions, or share subnets and security groups",
        )

    def free_address(self, subnet: Subnet) -> IPv4Address:
        """The first address of a subnet that nobody has. SubnetIPAddressLimitReachedException."""
        taken: Mapping[int, int] = self.tables.addresses(subnet.vpc_id)
        first = int(subnet.cidr.network_address) + RESERVED_FIRST
        for address in range(first, int(subnet.cidr.broadcast_address)):
            if address not in taken:
                return IPv4Address(address)
        raise ModelError(
            "SubnetIPAddressLimitReachedException",
            f"subnet {subnet.name} ({subnet.cidr}) has no free address",
            "use a larger subnet or several",
        )


def free_addresses(tables: Tables, subnet: Subnet) -> int:
    """How many addresses of a subnet nobody has."""
    taken = tables.addresses(subnet.vpc_id)
    first = int(subnet.cidr.network_address) + RESERVED_FIRST
    last = int(subnet.cidr.broadcast_address)
    return last - first - sum(first <= address < last for address in taken)


def refuse_while_changing(function: Function) -> None:
    """ResourceConflictException while it is Pending, or a change is under way."""
    if function.state is FunctionState.PENDING or function.update is not None:
        raise ModelError(
            "ResourceConflictException",
            "The operation cannot be performed at this time. An update is in progress for "
            f"function {function.name}",
            "wait until it is Active and its last update Successful",
        )
