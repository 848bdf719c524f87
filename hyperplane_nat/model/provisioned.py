# SPDX-License-Identifier: Apache-2.0
"""Provisioned concurrency: environments that are initialized before they are invoked.

Theory of operation
-------------------
It is asked for at an alias and belongs to the version that the alias names, so many environments
for all aliases of it ("Configuring provisioned concurrency"). Whoever starts environments asks what
is `missing` and starts that; one that ends is missing again. An initialization that fails is not
tried again until somebody puts the alias anew: the status is FAILED, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from hyperplane_nat.model.entities import ExecutionEnvironment, Function
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.states import EnvironmentState, FunctionState
from hyperplane_nat.model.tables import Tables


class ProvisionedStatus(StrEnum):
    """Lambda API, GetProvisionedConcurrencyConfig, `Status`."""

    IN_PROGRESS = "IN_PROGRESS"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What there is of a version's provisioned concurrency."""

    requested: int
    available: int
    """Environments that are initialized, whether they serve or not."""
    status: ProvisionedStatus
    reason: str
    """Empty unless it failed."""


def requested_of(tables: Tables, version: Function) -> int:
    """How many environments of a version all its aliases together ask for."""
    function = tables.functions.get(version.function_id)
    if function is None:
        return 0
    return sum(
        alias.provisioned_concurrency
        for alias in function.aliases
        if alias.version == version.published
    )


def kept_for(tables: Tables, version: Function) -> list[ExecutionEnvironment]:
    """The environments that are kept for it, those that initialize included."""
    return [
        each
        for each in tables.environments_of(version.id)
        if each.provisioned and each.state is not EnvironmentState.TERMINATING
    ]


def provisioned_of(tables: Tables, version: Function) -> Provisioned:
    """How far the provisioned concurrency of a version is."""
    requested = requested_of(tables, version)
    available = sum(
        each.state is EnvironmentState.IDLE or each.invocations > 0
        for each in kept_for(tables, version)
    )
    failure = version.provisioning_failure
    if not failure and version.state is FunctionState.FAILED:
        failure = version.state_reason
    status = ProvisionedStatus.IN_PROGRESS
    if failure:
        status = ProvisionedStatus.FAILED
    elif available >= requested:
        status = ProvisionedStatus.READY
    return Provisioned(requested, available, status, failure)


def missing(tables: Tables) -> Mapping[str, int]:
    """How many environments are to be started, by the name of the version."""
    found = {}
    for function in tables.functions.values():
        for number in {
            alias.version for alias in function.aliases if alias.provisioned_concurrency
        }:
            version = tables.functions[tables.function_names[f"{function.name}:{number}"]]
            count = requested_of(tables, version) - len(kept_for(tables, version))
            if (
                count > 0
                and version.state is FunctionState.ACTIVE
                and not version.provisioning_failure
            ):
                found[version.name] = count
    return found


def settle(lifecycle: Lifecycle, function: Function) -> None:
    """Aliases of a function were put: what failed is tried again, what is too much let go."""
    tables = lifecycle.tables
    for version in tables.versions(function):
        if version.provisioning_failure:
            tables.put(replace(version, provisioning_failure=""))
        kept = kept_for(tables, version)
        for environment in kept[requested_of(tables, version) :]:
            left = replace(environment, provisioned=False)
            tables.put(left)
            if left.state is EnvironmentState.IDLE:
                lifecycle.give_up(left)
