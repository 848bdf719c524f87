# SPDX-License-Identifier: Apache-2.0
"""Invocations: which environment serves, and what its network costs.

Theory of operation
-------------------
An environment serves one invocation at a time and is kept for a while afterwards; the one that
became idle last is taken first, so that the others can age. Without one a cold start takes a slot
of the caller's pool and an interface: a shared one that exists already, or, in the model before
2019, one made for this environment alone, subject to quota and subnet.

Refusals have the names of the Lambda API. While a function is being created, Invoke answers
ResourceConflictException ("Troubleshoot invocation issues in Lambda"); one that is Failed for want
of interfaces answers ENILimitReachedException or SubnetIPAddressLimitReachedException; an Inactive
function and one that is being restored answer ResourceNotReadyException (AWS re:Post, "How do I
troubleshoot Lambda function invocation errors 502 and 500?").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperplane_nat.model.entities import (
    ExecutionEnvironment,
    Function,
    InterfaceKind,
    NetworkInterface,
)
from hyperplane_nat.model.errors import ConcurrencyError, ModelError
from hyperplane_nat.model.lifecycle import REASON_CODES, RESTORING, Lifecycle
from hyperplane_nat.model.resources import Code, Networking
from hyperplane_nat.model.states import (
    ENVIRONMENT_STATES,
    INTERFACE_STATES,
    EnvironmentEvent,
    EnvironmentState,
    FunctionState,
    InterfaceEvent,
    InterfaceStatus,
    following,
)

ERRORS = {code: error for error, code in REASON_CODES.items()}
"""What Invoke answers for a function that is Failed with one of these codes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an invocation runs."""

    environment: int
    """The environment, by its slot number."""
    cold: bool
    interface: str
    """Id of the network interface it is attached to."""
    interface_created: bool
    """Whether the interface was made for this very environment (the model before 2019)."""
    modelled_seconds: float
    """What AWS takes for the network of this start, scaled; 0 when warm."""


def not_found(named: str) -> ModelError:
    """The error of a function, version or alias that is not there."""
    return ModelError(
        "ResourceNotFoundException",
        f"Function not found: {named}",
        "hyperplane-nat functions lists those there are",
    )


def not_permitted(named: str, account: str) -> ModelError:
    """The error of a function in an account that none of the lab is permitted anything in."""
    return ModelError(
        "AccessDeniedException",
        "The user is not authorized to perform: lambda:InvokeFunction on resource: "
        f"{account}:function:{named} because no resource-based policy allows the "
        "lambda:InvokeFunction action",
        f"account {account} is not one of the lab's",
    )


def not_ready(function: Function) -> ModelError:
    """The error of an invocation of a function that is not Active."""
    if function.state is FunctionState.INACTIVE or function.state_reason_code == RESTORING:
        return ModelError(
            "ResourceNotReadyException",
            f"function {function.name} is {function.state}: "
            "its network interfaces were reclaimed and are being made again",
            "try again when it is Active",
        )
    remedy = "try again when it is Active"
    if function.state is FunctionState.FAILED and function.state_reason_code in ERRORS:
        return ModelError(
            ERRORS[function.state_reason_code],
            f"function {function.name} is {function.state}: {function.state_reason}",
            "make room, then apply again or change its subnets",
        )
    if function.state is FunctionState.FAILED:
        remedy = f"it failed with {function.state_reason_code}: apply again, or delete it"
    return ModelError(
        "ResourceConflictException",
        "The operation cannot be performed at this time. The function is currently in the "
        f"following state: {function.state}",
        remedy,
    )


class Invocations:
    """Environments and what they serve. Each method runs inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, take_slot: Callable[[], int]) -> None:
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._take_slot = take_slot

    def begin(self, function: Function, token: str | None) -> Placement:
        """Place an invocation of an Active function."""
        if function.state is not FunctionState.ACTIVE:
            raise not_ready(function)
        self._refuse_beyond_reserved(function)
        slot = self._idle(function)
        if slot is not None:
            environment = self._tables.environments[slot]
            environment = replace(
                environment,
                state=following(ENVIRONMENT_STATES, environment.state, EnvironmentEvent.BEGUN),
                invocations=environment.invocations + 1,
                token=token,
                cold=False,
                due=None,
            )
        else:
            interface = self._interface_for(function)
            environment = ExecutionEnvironment(
                slot=self._free_slot(),
                function_id=function.id,
                function_name=function.name,
                version=function.version,
                interface_id=interface.id,
                state=EnvironmentState.INITIALIZING,
                invocations=1,
                token=token,
            )
        self._tables.put(environment)
        self._lifecycle.used(function)
        return self.placement(environment)

    def provision(self, version: Function) -> Placement:
        """Place the initialization of an environment that is kept for provisioned concurrency."""
        environment = ExecutionEnvironment(
            slot=self._free_slot(),
            function_id=version.id,
            function_name=version.name,
            version=version.version,
            interface_id=self._interface_for(version).id,
            state=EnvironmentState.INITIALIZING,
            invocations=0,
            provisioned=True,
        )
        self._tables.put(environment)
        return self.placement(environment)

    def _idle(self, function: Function) -> int | None:
        """What is provisioned for a version is used before anything else."""
        if function.function_id:
            for slot in reversed(self._tables.idle_of(function.id)):
                if self._tables.environments[slot].provisioned:
                    return slot
        return self._tables.last_idle_of(function.id)

    def _refuse_beyond_reserved(self, function: Function) -> None:
        function = self._tables.functions.get(function.function_id, function)
        if function.reserved_concurrency is None:
            return
        serving = sum(
            environment.state in (EnvironmentState.INITIALIZING, EnvironmentState.BUSY)
            and environment.invocations > 0
            for each in (function, *self._tables.versions(function))
            for environment in self._tables.environments_of(each.id)
        )
        if serving >= function.reserved_concurrency:
            raise ConcurrencyError(
                "TooManyRequestsException",
                "Rate Exceeded.",
                f"function {function.name} has a reserved_concurrency of "
                f"{function.reserved_concurrency}",
            )

    def repeated(self, function: Function, token: str) -> Placement | None:
        """The placement of the invocation that runs under this token, if one does."""
        slot = self._tables.tokens.get(token)
        if slot is None:
            return None
        environment = self._tables.environments[slot]
        if environment.function_id != function.id:
            raise ModelError(
                "IdempotentParameterMismatch",
                f"client token {token!r} belongs to an invocation of {environment.function_name}",
                "use a new token for another request",
            )
        return self.placement(environment)

    def placement(self, environment: ExecutionEnvironment) -> Placement:
        """What the caller is told about an environment that serves."""
        settings = self._lifecycle.settings
        interface = self._tables.interfaces[environment.interface_id]
        own = interface.kind is InterfaceKind.PER_ENVIRONMENT
        seconds = 0.0
        if environment.cold:
            seconds = settings.scaled(
                settings.per_environment_interface_seconds
                if own
                else settings.shared_attach_seconds
            )
        return Placement(
            environment.slot, environment.cold, interface.id, own and environment.cold, seconds
        )

    def ready(self, environment: ExecutionEnvironment) -> None:
        """Its network is there, its own interface included."""
        if environment.state is not EnvironmentState.INITIALIZING:
            raise wrong_state(environment, "become ready")
        interface = self._tables.interfaces[environment.interface_id]
        if interface.status is InterfaceStatus.PENDING:
            status = following(INTERFACE_STATES, interface.status, InterfaceEvent.CREATED)
            self._tables.put(replace(interface, status=status))
        state = following(ENVIRONMENT_STATES, environment.state, EnvironmentEvent.READY)
        self._tables.put(replace(environment, state=state))

    def end(self, environment: ExecutionEnvironment) -> None:
        """Its invocation is over; it stays warm unless its function has changed or is gone."""
        if environment.state is not EnvironmentState.BUSY:
            raise wrong_state(environment, "end an invocation")
        settings = self._lifecycle.settings
        function = self._tables.functions.get(environment.function_id)
        if (
            function is None
            or function.version != environment.version
            or function.state is not FunctionState.ACTIVE
        ):
            self._lifecycle.give_up(environment)
            return
        seconds = settings.scaled(settings.warm_idle_seconds)
        self._tables.put(
            replace(
                environment,
                state=following(ENVIRONMENT_STATES, environment.state, EnvironmentEvent.ENDED),
                token=None,
                due=None if environment.provisioned else self._lifecycle.now + seconds,
            )
        )
        self._lifecycle.used(function)

    def _free_slot(self) -> int:
        slot = self._take_slot()
        assert slot not in self._tables.environments, f"slot {slot} is taken"
        return slot

    def _interface_for(self, function: Function) -> NetworkInterface:
        config = function.config
        if config.networking is Networking.INTERFACE_PER_ENVIRONMENT:
            return self._interface_of_its_own(function)
        candidates = [
            interface
            for combination in config.combinations
            for interface in self._tables.sharing(combination)
            if interface.serves
        ]
        return min(
            candidates,
            key=lambda interface: (
                self._lifecycle.full(interface),
                self._tables.attached(interface.id),
            ),
        )

    def _interface_of_its_own(self, function: Function) -> NetworkInterface:
        config = function.config
        attached = dict.fromkeys(config.subnet_ids, 0)
        # Counting costs by the environments there are; most functions have nothing to choose.
        environments = self._tables.environments_of(function.id) if len(attached) > 1 else []
        for environment in environments:
            subnet_id = self._tables.interfaces[environment.interface_id].subnet_id
            if subnet_id in attached:
                attached[subnet_id] += 1
        out_of_addresses: ModelError | None = None
        for subnet_id in sorted(attached, key=attached.__getitem__):
            try:
                return self._lifecycle.create_interface(
                    InterfaceKind.PER_ENVIRONMENT,
                    self._tables.subnets[subnet_id],
                    config.owner_id,
                    config.group_ids,
                    function.function_name,
                )
            except ModelError as error:
                out_of_addresses = error
                if error.code != "SubnetIPAddressLimitReachedException":
                    raise
        assert out_of_addresses is not None
        raise out_of_addresses


def wrong_state(environment: ExecutionEnvironment, what: str) -> ModelError:
    """The error of a step that an environment cannot take now."""
    return ModelError(
        "ResourceConflictException",
        f"environment {environment.slot} is {environment.state} and cannot {what}",
        "follow its states: initializing, busy, idle, terminating",
    )


def code_of(function: Function) -> Code:
    """The code of a function with a handler, else ModelError."""
    if function.code is None:
        raise ModelError(
            "InvalidParameterValueException",
            f"function {function.name} has no handler",
            "give it code, or name a program: invoke FUNCTION -- CMD",
        )
    return function.code


def code_with(function: Function, changes: Mapping[str, Any]) -> Code | None:
    """The code that a function has with other values of these fields, else ModelError."""
    if function.code is not None:
        return replace(function.code, **changes)
    if changes:
        raise ModelError(
            "InvalidParameterValueException",
            f"function {function.name} was made without code and handler",
            "delete it, and create it with both",
        )
    return None
