# SPDX-License-Identifier: Apache-2.0
"""Functions, their versions and aliases through the control API: see `commands`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from hyperplane_nat.config.values import FunctionName
from hyperplane_nat.controller.api import descriptions
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.controller.api.requests import Base64
from hyperplane_nat.model import description
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.resources import (
    MEMORY_MB,
    TIMEOUT_SECONDS,
    Code,
    FunctionResource,
    Networking,
)
from hyperplane_nat.model.versions import version_of, weights_of
from hyperplane_nat.runtime.code import OWN_RUNTIME
from hyperplane_nat.runtime.uploads import Archive

Memory = Annotated[int, Field(ge=128, le=10240)]
Handler = Annotated[str, Field(max_length=128, pattern=r"^\S*$")]
Runtime = Annotated[str, Field(pattern="^[a-z][a-z0-9.]{1,31}$")]
Timeout = Annotated[int, Field(ge=1, le=900)]
NetworkingName = Literal["none", "hyperplane", "interface-per-environment"]


class CodeRequest(CommandRequest):
    """What requests that bring code have in common."""

    zip_file: Base64 | None = None
    _archive: Archive | None = PrivateAttr(default=None)

    @property
    def archive(self) -> Archive | None:
        """The code, when it is kept."""
        return self._archive

    def kept(self, archive: Archive) -> None:
        """Its code is kept."""
        self._archive = archive


class CreateFunction(CodeRequest):
    """POST /v1/functions (Lambda API, CreateFunction)."""

    name: FunctionName
    networking: NetworkingName | None = Field(
        default=None, description="`hyperplane` with subnets, `none` without, if left out."
    )
    account: Named | None = Field(default=None, description="That of its VPC if left out.")
    vpc: Named | None = Field(default=None, description="That of its first subnet if left out.")
    subnets: list[Named] = Field(default_factory=list)
    security_groups: list[Named] = Field(default_factory=list)
    memory_mb: Memory = MEMORY_MB
    handler: Handler = ""
    runtime: Runtime | None = Field(
        default=None, description="The Python of hyperplane-nat if left out."
    )
    timeout_seconds: Timeout = TIMEOUT_SECONDS
    environment: dict[str, str] = Field(default_factory=dict)
    zip_file: Base64 | None = Field(
        default=None,
        description="Its code, a zip archive; without any it runs the programs that an invocation "
        "names.",
    )
    publish: bool = Field(default=False, description="Publish its first version with it.")


class UpdateFunction(CommandRequest):
    """
    PATCH /v1/functions/{name} (Lambda API, UpdateFunctionConfiguration): what is left out stays,
    and with both lists empty it leaves its VPC.
    """

    networking: NetworkingName | None = None
    subnets: list[Named] | None = None
    security_groups: list[Named] | None = None
    memory_mb: Memory | None = None
    handler: Handler | None = None
    runtime: Runtime | None = None
    timeout_seconds: Timeout | None = None
    environment: dict[str, str] | None = None


class UpdateFunctionCode(CodeRequest):
    """PUT /v1/functions/{name}/code (Lambda API, UpdateFunctionCode)."""

    zip_file: Base64 = Field(description="A zip archive.")


class PublishVersion(CommandRequest):
    """POST /v1/functions/{name}/versions (Lambda API, PublishVersion)."""


class PutAlias(CommandRequest):
    """PUT /v1/aliases/{name} (Lambda API, CreateAlias and UpdateAlias); it is FUNCTION:ALIAS."""

    version: Named = Field(description="The number of a published version, or $LATEST.")
    provisioned_concurrency: Annotated[int, Field(ge=0, le=16383)] | None = Field(
        default=None,
        description="Environments of the version that are kept initialized; as before if left out.",
    )
    additional_version_weights: dict[Named, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        default=None,
        description="Another version and its share of the invocations; as before if left out.",
    )


def _create_function(commands: Commands, _name: str, asked: CreateFunction) -> Resource:
    inside = asked.subnets or asked.security_groups
    wanted = FunctionResource(
        name=asked.name,
        networking=Networking(asked.networking or ("hyperplane" if inside else "none")),
        vpc=asked.vpc,
        subnets=tuple(asked.subnets),
        security_groups=tuple(asked.security_groups),
        memory_mb=asked.memory_mb,
        code=_code_of(asked),
        environment=tuple(sorted(asked.environment.items())),
    )
    made = commands.create_function(wanted, asked.account)
    return commands.versions.publish(made) if asked.publish else made


def _code_of(asked: CreateFunction) -> Code | None:
    if asked.archive is None:
        if asked.handler or asked.runtime:
            raise ModelError(
                "InvalidParameterValueException",
                f"function {asked.name} has no code that handler and runtime are about",
                "send its zip_file with them",
            )
        return None
    return Code(
        path=str(asked.archive.path),
        sha256=asked.archive.sha256,
        handler=asked.handler or "bootstrap",
        runtime=asked.runtime or OWN_RUNTIME,
        timeout_seconds=asked.timeout_seconds,
    )


def _update_function(commands: Commands, name: str, asked: UpdateFunction) -> Resource:
    return commands.update_function_configuration(
        name,
        memory_mb=asked.memory_mb,
        networking=None if asked.networking is None else Networking(asked.networking),
        subnets=None if asked.subnets is None else tuple(asked.subnets),
        security_groups=None if asked.security_groups is None else tuple(asked.security_groups),
        code=asked.model_dump(include={"handler", "runtime", "timeout_seconds"}, exclude_none=True),
        environment=None if asked.environment is None else tuple(sorted(asked.environment.items())),
    )


def _update_function_code(commands: Commands, name: str, asked: UpdateFunctionCode) -> Resource:
    assert asked.archive is not None
    return commands.update_function_code(name, str(asked.archive.path), asked.archive.sha256)


def _publish_version(commands: Commands, name: str, _asked: PublishVersion) -> Resource:
    return commands.versions.publish_settled(commands.versions.latest(name))


def _put_alias(commands: Commands, name: str, asked: PutAlias) -> Resource:
    function, _, alias = name.partition(":")
    latest, count = commands.versions.latest(function), asked.provisioned_concurrency
    version, weights = version_of(asked.version), weights_of(asked.additional_version_weights)
    return commands.versions.put_alias(latest, alias, version, count, weights)


def _delete_alias(commands: Commands, name: str) -> None:
    function, _, alias = name.partition(":")
    commands.versions.delete_alias(commands.versions.latest(function), alias)


FUNCTION_COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/functions",
        "Create a function",
        CreateFunction,
        descriptions.FunctionDescription,
        _create_function,
    ),
    Command(
        "patch",
        "/v1/functions/{name}",
        "Change the configuration of a function",
        UpdateFunction,
        descriptions.FunctionDescription,
        _update_function,
    ),
    Command(
        "put",
        "/v1/functions/{name}/code",
        "Give a function other code",
        UpdateFunctionCode,
        descriptions.FunctionDescription,
        _update_function_code,
    ),
    delete_command("/v1/functions", "a function, or a version of one", Commands.delete_function),
    Command(
        "post",
        "/v1/functions/{name}/versions",
        "Publish a version of a function",
        PublishVersion,
        descriptions.FunctionDescription,
        _publish_version,
    ),
    Command(
        "put",
        "/v1/aliases/{name}",
        "Have an alias of a function, FUNCTION:ALIAS, name a version",
        PutAlias,
        descriptions.FunctionDescription,
        _put_alias,
    ),
    delete_command("/v1/aliases", "an alias, FUNCTION:ALIAS", _delete_alias),
)

FUNCTION_LISTS = (
    Listing(
        "/v1/functions",
        "Functions",
        description.describe_functions,
        descriptions.FunctionDescription,
    ),
    Listing(
        "/v1/function-versions",
        "Published versions of functions",
        description.describe_versions,
        descriptions.FunctionDescription,
    ),
)
