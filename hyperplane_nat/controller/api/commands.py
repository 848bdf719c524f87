# SPDX-License-Identifier: Apache-2.0
"""One resource at a time through the control API: what may be asked, and what it does to the
region.

Theory of operation
-------------------
`COMMANDS` has a row for each method of each path, with the model of its body and the work on
`model.commands.Commands`; `LISTS` one for each list. Routes and the OpenAPI document are both made
of them. Fields mean what those of the same name in a lab file do. Names are those of users or the
ids of AWS; a subnet, group or service of a name that several VPCs have is VPC/name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from hyperplane_nat.config.resources import Rule
from hyperplane_nat.config.values import (
    AccountId,
    Address,
    FunctionName,
    GroupName,
    LinkName,
    Mtu,
    Network,
    Port,
)
from hyperplane_nat.controller.api import answers
from hyperplane_nat.controller.api.requests import ClientToken, Request
from hyperplane_nat.controller.resources import rule_of
from hyperplane_nat.model import description
from hyperplane_nat.model.changes import Resource
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import (
    MEMORY_MB,
    FunctionResource,
    Networking,
    ServiceResource,
)

Named = Annotated[str, Field(pattern="^[ -~]{1,272}$", description="An id or a name.")]
Memory = Annotated[int, Field(ge=128, le=10240)]
Kind = Literal["http", "udp-echo"]
NetworkingName = Literal["none", "hyperplane", "interface-per-environment"]
Size = Annotated[int, Field(ge=0, le=2**40)]


class CommandRequest(Request):
    """What all bodies of commands have in common."""

    client_token: ClientToken | None = Field(
        default=None,
        description="A name for this request: sent again, it is answered again and not done again.",
    )


class CreateAccount(CommandRequest):
    """POST /v1/accounts."""

    name: LinkName
    id: AccountId | None = Field(default=None, description="Twelve digits; made up if left out.")


class CreateVpc(CommandRequest):
    """POST /v1/vpcs (EC2 API, CreateVpc)."""

    cidr: Network
    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")
    account: Named | None = Field(default=None, description="The first one if left out.")
    mtu_bytes: Mtu = 1500


class CreateSubnet(CommandRequest):
    """POST /v1/subnets (EC2 API, CreateSubnet)."""

    vpc: Named
    cidr: Network
    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")


class CreateSecurityGroup(CommandRequest):
    """POST /v1/security-groups (EC2 API, CreateSecurityGroup)."""

    vpc: Named
    name: GroupName
    description: str = ""


class GroupRule(Rule):
    """A rule; the group that it names may be named by its id."""

    group: Named | None = None


class ModifySecurityGroup(CommandRequest):
    """PATCH /v1/security-groups/{name}: rules are taken first, then added; all of it or nothing."""

    revoke_ingress: list[GroupRule] = Field(default_factory=list)
    revoke_egress: list[GroupRule] = Field(default_factory=list)
    authorize_ingress: list[GroupRule] = Field(default_factory=list)
    authorize_egress: list[GroupRule] = Field(default_factory=list)


class CreateService(CommandRequest):
    """POST /v1/services."""

    vpc: Named = Field(description='VPC that it is in, or "internet".')
    name: LinkName
    kind: Kind
    address: Address
    port: Port
    size_bytes: Size = 4 * 1024 * 1024
    security_groups: list[Named] = Field(default_factory=list)


class ModifyService(CommandRequest):
    """PATCH /v1/services/{name}: what is left out stays."""

    kind: Kind | None = None
    address: Address | None = None
    port: Port | None = None
    size_bytes: Size | None = None
    security_groups: list[Named] | None = None


class CreateFunction(CommandRequest):
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


class UpdateFunction(CommandRequest):
    """
    PATCH /v1/functions/{name} (Lambda API, UpdateFunctionConfiguration): what is left out stays,
    and with both lists empty it leaves its VPC.
    """

    networking: NetworkingName | None = None
    subnets: list[Named] | None = None
    security_groups: list[Named] | None = None
    memory_mb: Memory | None = None


R = TypeVar("R", bound=CommandRequest)


@dataclass(frozen=True, slots=True)
class Command(Generic[R]):
    """One method of one path."""

    method: str
    path: str
    summary: str
    body: type[R] | None
    answer: type[BaseModel] | None
    work: Callable[[Commands, str, R], Resource | None]
    """With the name in the path, empty if there is none."""


@dataclass(frozen=True, slots=True)
class Listing:
    """GET of one path."""

    path: str
    summary: str
    describe: Callable[[Region], list[dict[str, Any]]]
    answer: type[BaseModel]


def _modify_group(commands: Commands, name: str, asked: ModifySecurityGroup) -> Resource:
    group = commands.group(name)
    for method in ("revoke", "authorize"):
        for direction in ("ingress", "egress"):
            rules = [rule_of(rule) for rule in getattr(asked, f"{method}_{direction}")]
            work = commands.revoke if method == "revoke" else commands.authorize
            group = work(group.id, direction, rules)
    return group


def _create_service(commands: Commands, _name: str, asked: CreateService) -> Resource:
    wanted = ServiceResource(
        asked.name,
        asked.kind,
        IPv4Address(asked.address),
        asked.port,
        asked.size_bytes,
        tuple(asked.security_groups),
    )
    return commands.create_service(asked.vpc, wanted)


def _modify_service(commands: Commands, name: str, asked: ModifyService) -> Resource:
    changes = asked.model_dump(exclude_none=True, exclude={"client_token"})
    if asked.address is not None:
        changes["address"] = IPv4Address(asked.address)
    return commands.modify_service(name, changes)


def _create_function(commands: Commands, _name: str, asked: CreateFunction) -> Resource:
    inside = asked.subnets or asked.security_groups
    wanted = FunctionResource(
        name=asked.name,
        networking=Networking(asked.networking or ("hyperplane" if inside else "none")),
        vpc=asked.vpc,
        subnets=tuple(asked.subnets),
        security_groups=tuple(asked.security_groups),
        memory_mb=asked.memory_mb,
    )
    return commands.create_function(wanted, asked.account)


def _update_function(commands: Commands, name: str, asked: UpdateFunction) -> Resource:
    return commands.update_function_configuration(
        name,
        memory_mb=asked.memory_mb,
        networking=None if asked.networking is None else Networking(asked.networking),
        subnets=None if asked.subnets is None else tuple(asked.subnets),
        security_groups=None if asked.security_groups is None else tuple(asked.security_groups),
    )


def _delete(path: str, what: str, work: Callable[[Commands, str], None]) -> Command[Any]:
    return Command(
        "delete",
        f"{path}/{{name}}",
        f"Delete {what}",
        None,
        None,
        lambda commands, name, _asked: work(commands, name),
    )


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/accounts",
        "Create an account",
        CreateAccount,
        answers.AccountDescription,
        lambda commands, _name, asked: commands.create_account(asked.name, asked.id),
    ),
    _delete("/v1/accounts", "an account", Commands.delete_account),
    Command(
        "post",
        "/v1/vpcs",
        "Create a VPC",
        CreateVpc,
        answers.VpcDescription,
        lambda commands, _name, asked: commands.create_vpc(
            IPv4Network(asked.cidr), asked.name, asked.account, asked.mtu_bytes
        ),
    ),
    _delete("/v1/vpcs", "a VPC", Commands.delete_vpc),
    Command(
        "post",
        "/v1/subnets",
        "Create a subnet",
        CreateSubnet,
        answers.SubnetDescription,
        lambda commands, _name, asked: commands.create_subnet(
            asked.vpc, IPv4Network(asked.cidr), asked.name
        ),
    ),
    _delete("/v1/subnets", "a subnet", Commands.delete_subnet),
    Command(
        "post",
        "/v1/security-groups",
        "Create a security group",
        CreateSecurityGroup,
        answers.SecurityGroupDescription,
        lambda commands, _name, asked: commands.create_security_group(
            asked.vpc, asked.name, asked.description
        ),
    ),
    Command(
        "patch",
        "/v1/security-groups/{name}",
        "Add and take rules of a security group",
        ModifySecurityGroup,
        answers.SecurityGroupDescription,
        _modify_group,
    ),
    _delete("/v1/security-groups", "a security group", Commands.delete_security_group),
    Command(
        "post",
        "/v1/services",
        "Start a server in a VPC or in the internet",
        CreateService,
        answers.ServiceDescription,
        _create_service,
    ),
    Command(
        "patch",
        "/v1/services/{name}",
        "Change a server",
        ModifyService,
        answers.ServiceDescription,
        _modify_service,
    ),
    _delete("/v1/services", "a server", Commands.delete_service),
    Command(
        "post",
        "/v1/functions",
        "Create a function",
        CreateFunction,
        answers.FunctionDescription,
        _create_function,
    ),
    Command(
        "patch",
        "/v1/functions/{name}",
        "Change the configuration of a function",
        UpdateFunction,
        answers.FunctionDescription,
        _update_function,
    ),
    _delete("/v1/functions", "a function", Commands.delete_function),
)

LISTS = (
    Listing("/v1/accounts", "Accounts", description.describe_accounts, answers.AccountDescription),
    Listing("/v1/vpcs", "VPCs", description.describe_vpcs, answers.VpcDescription),
    Listing("/v1/subnets", "Subnets", description.describe_subnets, answers.SubnetDescription),
    Listing(
        "/v1/services",
        "Servers in VPCs and in the internet",
        description.describe_services,
        answers.ServiceDescription,
    ),
    Listing(
        "/v1/functions", "Functions", description.describe_functions, answers.FunctionDescription
    ),
    Listing(
        "/v1/security-groups",
        "Security groups",
        description.describe_security_groups,
        answers.SecurityGroupDescription,
    ),
)


def request_of(command: Command[Any], name: str, asked: CommandRequest | None) -> Mapping[str, Any]:
    """What tells a request from others that have its client token."""
    return {
        "command": f"{command.method} {command.path}",
        "name": name,
        "asked": None if asked is None else asked.model_dump(mode="json"),
    }
