# SPDX-License-Identifier: Apache-2.0
"""The life cycles of functions, network interfaces and execution environments, as tables.

Theory of operation
-------------------
Each table maps (state, event) to the next state; what is not in the table cannot happen. State
names are AWS's: "Lambda function states", EC2 "NetworkInterface" (Status).

* A function is Pending until every combination of subnet and security groups in its configuration
  has an interface, then Active. Idle for long it turns Inactive; the invocation that finds it so
  fails and makes it Pending again.
* An interface is pending, then available, and in-use while a function or an environment refers to
  it. Without a user it waits as available, where a new user finds it, and is deleting once the
  wait is over: then it only remains to be taken down.
* A NAT gateway is pending, then available or failed. It serves while it is deleting, too, and has
  nothing any more once it is deleted.
* A load balancer is provisioning, then active. Its targets are initial until their first health
  check, then healthy and unhealthy in turns, and draining once they are deregistered.
* An address of a NAT gateway is being given to it, then has succeeded, until it is taken again.
* An environment initializes, is busy and idle in turns, and terminates. It serves one invocation at
  a time. One of the lab file is provisioned, and nothing happens to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class FunctionState(StrEnum):
    """Lambda API, `State`."""

    PENDING = "Pending"
    ACTIVE = "Active"
    INACTIVE = "Inactive"
    FAILED = "Failed"


class FunctionEvent(StrEnum):
    """What happens to a function."""

    PROVISIONED = "provisioned"
    PROVISIONING_FAILED = "provisioning failed"
    RESTORING_FAILED = "restoring failed"
    RECLAIMED = "reclaimed"
    INVOKED = "invoked"
    CONFIGURED = "configured"


class UpdateStatus(StrEnum):
    """Lambda API, `LastUpdateStatus`."""

    SUCCESSFUL = "Successful"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"


class UpdateEvent(StrEnum):
    """What happens to a change of a function's configuration."""

    STARTED = "started"
    FINISHED = "finished"
    BROKEN_OFF = "broken off"


class InterfaceStatus(StrEnum):
    """EC2 API, `Status` of a network interface; `deleting` is what Lambda adds."""

    PENDING = "pending"
    AVAILABLE = "available"
    IN_USE = "in-use"
    DELETING = "deleting"


class InterfaceEvent(StrEnum):
    """What happens to an interface."""

    CREATED = "created"
    ATTACHED = "attached"
    DETACHED = "detached"
    EXPIRED = "expired"
    CREATION_FAILED = "creation failed"


class NatGatewayState(StrEnum):
    """EC2 API, `State` of a NAT gateway."""

    PENDING = "pending"
    FAILED = "failed"
    AVAILABLE = "available"
    DELETING = "deleting"
    DELETED = "deleted"


class NatGatewayEvent(StrEnum):
    """What happens to a NAT gateway."""

    CREATED = "created"
    CREATION_FAILED = "creation failed"
    DELETION_BEGUN = "deletion begun"
    DELETION_ENDED = "deletion ended"


class NatGatewayAddressStatus(StrEnum):
    """EC2 API, `Status` of a NAT gateway's address."""

    ASSIGNING = "assigning"
    ASSOCIATING = "associating"
    SUCCEEDED = "succeeded"
    UNASSIGNING = "unassigning"
    DISASSOCIATING = "disassociating"


class NatGatewayAddressEvent(StrEnum):
    """What happens to an address of a NAT gateway."""

    TAKEN = "taken"
    UNASSIGNED = "unassigned"
    DISASSOCIATED = "disassociated"


class LoadBalancerState(StrEnum):
    """Elastic Load Balancing API, `LoadBalancerStateEnum`."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"


class LoadBalancerEvent(StrEnum):
    """What happens to a load balancer."""

    PROVISIONED = "provisioned"


class EndpointState(StrEnum):
    """EC2 API, `State` of a VPC endpoint, as that writes it; AWS has others besides."""

    PENDING_ACCEPTANCE = "PendingAcceptance"
    PENDING = "Pending"
    AVAILABLE = "Available"
    REJECTED = "Rejected"


class EndpointEvent(StrEnum):
    """What happens to an endpoint."""

    ACCEPTED = "accepted"
    CREATED = "created"
    REJECTED = "rejected"


class TargetState(StrEnum):
    """Elastic Load Balancing API, `TargetHealthStateEnum`, without what follows from other things:
    `unused` and `unavailable` (`target_health`).
    """

    INITIAL = "initial"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNHEALTHY_DRAINING = "unhealthy.draining"
    DRAINING = "draining"


class TargetEvent(StrEnum):
    """What happens to a target."""

    PASSED = "passed its checks"
    FAILED = "failed its checks"
    FAILED_KEEPING = "failed, connections are kept for a while"
    KEPT = "they were kept"
    DEREGISTERED = "deregistered"
    REGISTERED = "registered"


class EnvironmentState(StrEnum):
    """State of an execution environment ("Lambda execution environment lifecycle")."""

    INITIALIZING = "initializing"
    BUSY = "busy"
    IDLE = "idle"
    TERMINATING = "terminating"
    PROVISIONED = "static"
    """Of the lab file: it is there for as long as the lab."""


class EnvironmentEvent(StrEnum):
    """What happens to an environment."""

    READY = "ready"
    PROVISIONED = "provisioned"
    BEGUN = "begun"
    ENDED = "ended"
    GIVEN_UP = "given up"


FUNCTION_STATES: Mapping[tuple[FunctionState, FunctionEvent], FunctionState] = {
    (FunctionState.PENDING, FunctionEvent.PROVISIONED): FunctionState.ACTIVE,
    (FunctionState.PENDING, FunctionEvent.PROVISIONING_FAILED): FunctionState.FAILED,
    (FunctionState.PENDING, FunctionEvent.RESTORING_FAILED): FunctionState.INACTIVE,
    (FunctionState.ACTIVE, FunctionEvent.RECLAIMED): FunctionState.INACTIVE,
    (FunctionState.INACTIVE, FunctionEvent.INVOKED): FunctionState.PENDING,
    (FunctionState.INACTIVE, FunctionEvent.RESTORING_FAILED): FunctionState.INACTIVE,
    (FunctionState.INACTIVE, FunctionEvent.CONFIGURED): FunctionState.PENDING,
    (FunctionState.FAILED, FunctionEvent.CONFIGURED): FunctionState.PENDING,
}

UPDATE_STATES: Mapping[tuple[UpdateStatus, UpdateEvent], UpdateStatus] = {
    (UpdateStatus.SUCCESSFUL, UpdateEvent.STARTED): UpdateStatus.IN_PROGRESS,
    (UpdateStatus.FAILED, UpdateEvent.STARTED): UpdateStatus.IN_PROGRESS,
    (UpdateStatus.IN_PROGRESS, UpdateEvent.FINISHED): UpdateStatus.SUCCESSFUL,
    (UpdateStatus.IN_PROGRESS, UpdateEvent.BROKEN_OFF): UpdateStatus.FAILED,
}

INTERFACE_STATES: Mapping[tuple[InterfaceStatus, InterfaceEvent], InterfaceStatus] = {
    (InterfaceStatus.PENDING, InterfaceEvent.CREATED): InterfaceStatus.AVAILABLE,
    (InterfaceStatus.PENDING, InterfaceEvent.CREATION_FAILED): InterfaceStatus.DELETING,
    (InterfaceStatus.AVAILABLE, InterfaceEvent.ATTACHED): InterfaceStatus.IN_USE,
    (InterfaceStatus.AVAILABLE, InterfaceEvent.EXPIRED): InterfaceStatus.DELETING,
    (InterfaceStatus.IN_USE, InterfaceEvent.DETACHED): InterfaceStatus.AVAILABLE,
}

ENVIRONMENT_STATES: Mapping[tuple[EnvironmentState, EnvironmentEvent], EnvironmentState] = {
    (EnvironmentState.INITIALIZING, EnvironmentEvent.READY): EnvironmentState.BUSY,
    (EnvironmentState.INITIALIZING, EnvironmentEvent.PROVISIONED): EnvironmentState.PROVISIONED,
    (EnvironmentState.INITIALIZING, EnvironmentEvent.GIVEN_UP): EnvironmentState.TERMINATING,
    (EnvironmentState.BUSY, EnvironmentEvent.ENDED): EnvironmentState.IDLE,
    (EnvironmentState.BUSY, EnvironmentEvent.GIVEN_UP): EnvironmentState.TERMINATING,
    (EnvironmentState.IDLE, EnvironmentEvent.BEGUN): EnvironmentState.BUSY,
    (EnvironmentState.IDLE, EnvironmentEvent.GIVEN_UP): EnvironmentState.TERMINATING,
}

NAT_GATEWAY_STATES: Mapping[tuple[NatGatewayState, NatGatewayEvent], NatGatewayState] = {
    (NatGatewayState.PENDING, NatGatewayEvent.CREATED): NatGatewayState.AVAILABLE,
    (NatGatewayState.PENDING, NatGatewayEvent.CREATION_FAILED): NatGatewayState.FAILED,
    (NatGatewayState.PENDING, NatGatewayEvent.DELETION_BEGUN): NatGatewayState.DELETING,
    (NatGatewayState.AVAILABLE, NatGatewayEvent.DELETION_BEGUN): NatGatewayState.DELETING,
    (NatGatewayState.DELETING, NatGatewayEvent.DELETION_BEGUN): NatGatewayState.DELETING,
    (NatGatewayState.DELETING, NatGatewayEvent.DELETION_ENDED): NatGatewayState.DELETED,
}

NAT_GATEWAY_ADDRESS_STATUSES: Mapping[
    tuple[NatGatewayAddressStatus, NatGatewayAddressEvent], NatGatewayAddressStatus
] = {
    (
        NatGatewayAddressStatus.ASSIGNING,
        NatGatewayAddressEvent.TAKEN,
    ): NatGatewayAddressStatus.SUCCEEDED,
    (
        NatGatewayAddressStatus.ASSOCIATING,
        NatGatewayAddressEvent.TAKEN,
    ): NatGatewayAddressStatus.SUCCEEDED,
    (
        NatGatewayAddressStatus.SUCCEEDED,
        NatGatewayAddressEvent.UNASSIGNED,
    ): NatGatewayAddressStatus.UNASSIGNING,
    (
        NatGatewayAddressStatus.SUCCEEDED,
        NatGatewayAddressEvent.DISASSOCIATED,
    ): NatGatewayAddressStatus.DISASSOCIATING,
}

LOAD_BALANCER_STATES: Mapping[tuple[LoadBalancerState, LoadBalancerEvent], LoadBalancerState] = {
    (LoadBalancerState.PROVISIONING, LoadBalancerEvent.PROVISIONED): LoadBalancerState.ACTIVE,
}

ENDPOINT_STATES: Mapping[tuple[EndpointState, EndpointEvent], EndpointState] = {
    (EndpointState.PENDING_ACCEPTANCE, EndpointEvent.ACCEPTED): EndpointState.PENDING,
    (EndpointState.PENDING_ACCEPTANCE, EndpointEvent.REJECTED): EndpointState.REJECTED,
    (EndpointState.PENDING, EndpointEvent.CREATED): EndpointState.AVAILABLE,
    (EndpointState.PENDING, EndpointEvent.REJECTED): EndpointState.REJECTED,
    (EndpointState.AVAILABLE, EndpointEvent.REJECTED): EndpointState.REJECTED,
    (EndpointState.REJECTED, EndpointEvent.ACCEPTED): EndpointState.PENDING,
}

TARGET_STATES: Mapping[tuple[TargetState, TargetEvent], TargetState] = {
    (TargetState.INITIAL, TargetEvent.PASSED): TargetState.HEALTHY,
    (TargetState.INITIAL, TargetEvent.FAILED): TargetState.UNHEALTHY,
    (TargetState.INITIAL, TargetEvent.FAILED_KEEPING): TargetState.UNHEALTHY,
    (TargetState.INITIAL, TargetEvent.DEREGISTERED): TargetState.DRAINING,
    (TargetState.HEALTHY, TargetEvent.FAILED): TargetState.UNHEALTHY,
    (TargetState.HEALTHY, TargetEvent.FAILED_KEEPING): TargetState.UNHEALTHY_DRAINING,
    (TargetState.HEALTHY, TargetEvent.DEREGISTERED): TargetState.DRAINING,
    (TargetState.UNHEALTHY, TargetEvent.PASSED): TargetState.HEALTHY,
    (TargetState.UNHEALTHY, TargetEvent.DEREGISTERED): TargetState.DRAINING,
    (TargetState.UNHEALTHY_DRAINING, TargetEvent.PASSED): TargetState.HEALTHY,
    (TargetState.UNHEALTHY_DRAINING, TargetEvent.KEPT): TargetState.UNHEALTHY,
    (TargetState.UNHEALTHY_DRAINING, TargetEvent.DEREGISTERED): TargetState.DRAINING,
    (TargetState.DRAINING, TargetEvent.REGISTERED): TargetState.INITIAL,
}

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


def following(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """The state after `event`. A pair that is not in the table is a fault of the caller."""
    try:
        return table[state, event]
    except KeyError:
        raise AssertionError(f"{event!r} cannot happen to something {state!r}") from None
