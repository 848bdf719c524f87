# SPDX-License-Identifier: Apache-2.0
"""The sections for functions and their aliases: see `config.resources`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hyperplane_nat.config.values import (
    AbsolutePath,
    AccountNameOrId,
    AliasName,
    FieldError,
    FunctionName,
    GroupName,
    LinkName,
    Section,
    VersionWeights,
)


class Alias(Section):
    """A name for a version of a function; `invoke FUNCTION:ALIAS` and SDKs lead to that version."""

    name: AliasName = Field(description="Name of the alias, unique among the function's.")
    version: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Number of the published version that it names. If it is left out, `apply` "
        "publishes a version whenever the function has changed, and the alias names the last one.",
    )
    provisioned_concurrency: int = Field(
        default=0,
        ge=0,
        le=16383,
        description="Environments of that version that are kept initialized (AWS).",
    )
    additional_version_weights: VersionWeights = Field(
        default={},
        description='Another version and its share of the invocations: `{ "2" = 0.1 }` (AWS).',
    )


class Function(Section):
    """A Lambda function: what its execution environments are attached to."""

    name: FunctionName = Field(description="Name of the function, unique in the lab.")
    account: AccountNameOrId | None = Field(
        default=None,
        description="Account that owns it, by name or id. If it is left out, the owner of its VPC, "
        "or the first account for a function outside every VPC.",
    )
    networking: Literal["hyperplane", "none", "interface-per-environment"] = Field(
        default="hyperplane",
        description="`hyperplane`: one network interface for every function of the account with "
        "the same subnet and security groups, made when the function is. "
        "`interface-per-environment`: one for each execution environment, made during its cold "
        "start (AWS before 2019). `none`: outside every VPC, it reaches the internet only.",
    )
    vpc: LinkName | None = Field(
        default=None, description="Its VPC; the one its subnets are in if it is left out."
    )
    subnets: list[LinkName] = Field(
        default=[], description="Subnets of its VPC to be attached to (AWS: 16 at most)."
    )
    security_groups: list[GroupName] = Field(
        default=[],
        description="Security groups of its VPC that its interfaces carry (AWS: 5 at most).",
    )
    memory_mb: int = Field(
        default=128, ge=128, le=10240, description="Memory it is configured with (AWS)."
    )
    code: AbsolutePath | None = Field(
        default=None,
        description="What it runs: a directory, a zip archive or a `.py` file; in a lab file also "
        "relative to that file. It is read when an environment starts. Without any, `invoke` runs "
        "the programs it is told to.",
    )
    handler: str = Field(
        default="",
        max_length=128,
        description='Function of a module in the code, `"app.handler"`; what `provided` makes of '
        "it is the program's own affair.",
    )
    runtime: str = Field(
        default="",
        description="`python3.11`, `nodejs20.x` and the like, an interpreter of this host, or "
        "`provided`: the code has a program called `bootstrap`. The Python of hyperplane-nat "
        "itself if it is left out.",
    )
    layers: list[AbsolutePath] = Field(
        default=[],
        max_length=5,
        description="Directories and zip archives that are its `/opt`, the uppermost last; "
        "relative as `code` (AWS: 5 at most).",
    )
    environment: dict[str, str] = Field(
        default={},
        description="Environment variables of handlers and programs (AWS: 4 KB, some names are "
        "reserved).",
    )
    reserved_concurrency: int | None = Field(
        default=None,
        ge=0,
        le=16383,
        description="Invocations of it that there may be at a time; more are refused with "
        "TooManyRequestsException (AWS). Without it the pool is the limit.",
    )
    timeout_seconds: int = Field(
        default=3, ge=1, le=900, description="After so long an invocation is ended (AWS)."
    )
    ephemeral_storage_mb: int = Field(
        default=512,
        ge=512,
        le=10240,
        description="Size of the `/tmp` of a handler's environment (AWS). What is in it takes "
        "memory of `memory_mb`.",
    )
    freeze: bool = Field(
        default=True,
        description="Between invocations the processes of an environment stand still and its link "
        "is silent, as on Lambda, which has no way not to.",
    )

    alias: list[Alias] = Field(default=[])

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        yield from self._problems_of_code()
        names = [alias.name for alias in self.alias]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield FieldError("alias", f"two times alias {name!r}", "rename one")
        inside = {"vpc": self.vpc, "subnets": self.subnets, "security_groups": self.security_groups}
        if self.networking == "none":
            for field, value in inside.items():
                if value:
                    yield FieldError(
                        field,
                        'a function with networking = "none" is outside every VPC',
                        'leave it out or choose "hyperplane"',
                    )
            return
        for field in ("subnets", "security_groups"):
            if not inside[field]:
                yield FieldError(
                    field,
                    f"function {self.name!r} is in a VPC, but has none",
                    'name at least one, or choose networking = "none"',
                )

    def _problems_of_code(self) -> Iterator[FieldError]:
        if self.code is None:
            for field in ("handler", "runtime", "layers"):
                if getattr(self, field):
                    yield FieldError(
                        field, "the function has no code that it is about", "name its code"
                    )
        elif not self.handler and not self.runtime.startswith("provided"):
            yield FieldError(
                "handler", "the code has no handler to call", 'name one, like "app.handler"'
            )
