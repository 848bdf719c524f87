# SPDX-License-Identifier: Apache-2.0
"""One resource at a time through the control API: what may be asked, and what it does to the
region.

Theory of operation
-------------------
`COMMANDS` has a row for each method of each path, with the model of its body and the work on
`model.commands.Commands`; `LISTS` one for each list. Routes and the OpenAPI document are both made
of them; those of what leads out of VPCs are in `gateway_commands`, of load
balancers in `balancer_commands`. Fields mean what those of the
same name in a lab file do. Names are those of users or the ids of AWS; what is in a VPC and has a
name that several VPCs have is VPC/name.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from hyperplane_nat.config.resources import Rule
from hyperplane_nat.config.values import (
    AccountId,
    Address,
    AvailabilityZone,
    FunctionName,
    GroupName,
    LinkName,
    Mtu,
    Network,
    Port,
    PublicAddress,
)
from hyperplane_nat.controller.api import descriptions, private_link_commands
from hyperplane_nat.controller.api.balancer_commands import BALANCER_COMMANDS, BALANCER_LISTS
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.controller.api.gateway_commands import GATEWAY_COMMANDS, GATEWAY_LISTS
from hyperplane_nat.controller.api.requests import Base64
from hyperplane_nat.controller.resources import rule_of
from hyperplane_nat.model import description
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.resources import (
    AVAILABILITY_ZONE,
    MEMORY_MB,
    TIMEOUT_SECONDS,
    Code,
    FunctionResource,
    HostResource,
    Networking,
    ServiceResource,
)
from hyperplane_nat.model.versions import version_of, weights_of
from hyperplane_nat.runtime.code import OWN_RUNTIME
from hyperplane_nat.runtime.uploads import Archive
from netns import namespace, topology
from netns.errors import NetnsError

Memory = Annotated[int, Field(ge=128, le=10240)]
Handler = Annotated[str, Field(max_length=128, pattern=r"^\S*$")]
Runtime = Annotated[str, Field(pattern="^[a-z][a-z0-9.]{1,31}$")]
Timeout = Annotated[int, Field(ge=1, le=900)]
Kind = Literal["http", "udp-echo"]
NetworkingName = Literal["none", "hyperplane", "interface-per-environment"]
Size = Annotated[int, Field(ge=0, le=2**40)]
NamespaceName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}$")]
Pid = Annotated[int, Field(ge=1, le=2**22)]


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
    defaults: bool = Field(
        default=False,
        description="Make its group `default` and its main route table, too, as EC2 does.",
    )


class ModifyVpc(CommandRequest):
    """PATCH /v1/vpcs/{name} (EC2 API, ModifyVpcAttribute): what is left out stays."""

    enable_dns_support: bool | None = None
    enable_dns_hostnames: bool | None = None


class CreateSubnet(CommandRequest):
    """POST /v1/subnets (EC2 API, CreateSubnet)."""

    vpc: Named
    cidr: Network
    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")
    availability_zone: AvailabilityZone = AVAILABILITY_ZONE


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


class CreateHost(CommandRequest):
    """
    POST /v1/hosts (EC2 API, RunInstances). With `namespace` or `pid` it is that network namespace,
    in which there must be no eth0 yet; without, the lab makes one.
    """

    name: LinkName
    subnet: Named
    vpc: Named | None = Field(default=None, description="That of its subnet if left out.")
    address: Address | None = Field(default=None, description="A free one if left out.")
    security_groups: list[Named] = Field(default_factory=list)
    description: str = ""
    public_address: PublicAddress = Field(
        default=False, description="`true` for a free one, or a public address."
    )
    namespace: NamespaceName | None = Field(
        default=None, description="A network namespace by its name in /run/netns."
    )
    pid: Pid | None = Field(default=None, description="A process in a network namespace.")


class ModifyHost(CommandRequest):
    """PATCH /v1/hosts/{name} (EC2 API, ModifyInstanceAttribute): what is left out stays."""

    security_groups: list[Named] | None = None
    description: str | None = None


class CreateService(CommandRequest):
    """POST /v1/services."""

    vpc: Named = Field(description='VPC that it is in, or "internet".')
    name: LinkName
    kind: Kind
    address: Address | None = Field(default=None, description="It has this or a host.")
    host: Named | None = Field(
        default=None, description="Host that it runs on, whose address it then has."
    )
    port: Port
    size_bytes: Size = 4 * 1024 * 1024
    security_groups: list[Named] = Field(default_factory=list)


class ModifyService(CommandRequest):
    """PATCH /v1/services/{name}: what is left out stays."""

    kind: Kind | None = None
    address: Address | None = None
    host: Named | None = None
    port: Port | None = None
    size_bytes: Size | None = None
    security_groups: list[Named] | None = None


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


def _modify_group(commands: Commands, name: str, asked: ModifySecurityGroup) -> Resource:
    group = commands.group(name)
    for method in ("revoke", "authorize"):
        for direction in ("ingress", "egress"):
            rules = [rule_of(rule) for rule in getattr(asked, f"{method}_{direction}")]
            work = commands.revoke if method == "revoke" else commands.authorize
            group = work(group.id, direction, rules)
    return group


def _create_host(commands: Commands, _name: str, asked: CreateHost) -> Resource:
    wanted = HostResource(
        name=asked.name,
        subnet=asked.subnet,
        address=None if asked.address is None else IPv4Address(asked.address),
        security_groups=tuple(asked.security_groups),
        description=asked.description,
        public=bool(asked.public_address),
        public_address=IPv4Address(asked.public_address)
        if isinstance(asked.public_address, str)
        else None,
    )
    return commands.create_host(wanted, vpc=asked.vpc, attached=_attached(asked))


def _attached(asked: CreateHost) -> str:
    """The file of the namespace that is to be the host; empty if the lab makes one."""
    if asked.namespace is not None and asked.pid is not None:
        raise ModelError(
            "InvalidParameterCombination", "namespace and pid exclude each other", "give one"
        )
    if asked.namespace is not None:
        file = namespace.path(asked.namespace)
    elif asked.pid is not None:
        file = Path(f"/proc/{asked.pid}/ns/net")
    else:
        return ""
    try:
        topology.check_attachable(file)
    except NetnsError as error:
        raise ModelError("InvalidParameterValue", error.cause, error.remedy) from None
    return str(file)


def _modify_host(commands: Commands, name: str, asked: ModifyHost) -> Resource:
    groups = asked.security_groups
    return commands.modify_host(
        name,
        security_groups=None if groups is None else tuple(groups),
        description=asked.description,
    )


def _create_service(commands: Commands, _name: str, asked: CreateService) -> Resource:
    wanted = ServiceResource(
        asked.name,
        asked.kind,
        None if asked.address is None else IPv4Address(asked.address),
        asked.port,
        asked.size_bytes,
        tuple(asked.security_groups),
        asked.host,
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


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/accounts",
        "Create an account",
        CreateAccount,
        descriptions.AccountDescription,
        lambda commands, _name, asked: commands.create_account(asked.name, asked.id),
    ),
    delete_command("/v1/accounts", "an account", Commands.delete_account),
    Command(
        "post",
        "/v1/vpcs",
        "Create a VPC",
        CreateVpc,
        descriptions.VpcDescription,
        lambda commands, _name, asked: commands.create_vpc(
            IPv4Network(asked.cidr),
            asked.name,
            asked.account,
            asked.mtu_bytes,
            defaults=asked.defaults,
        ),
    ),
    Command(
        "patch",
        "/v1/vpcs/{name}",
        "Change the DNS attributes of a VPC",
        ModifyVpc,
        descriptions.VpcDescription,
        lambda commands, name, asked: commands.modify_vpc(
            name, asked.model_dump(exclude={"client_token"}, exclude_none=True)
        ),
    ),
    delete_command("/v1/vpcs", "a VPC", Commands.delete_vpc),
    Command(
        "post",
        "/v1/subnets",
        "Create a subnet",
        CreateSubnet,
        descriptions.SubnetDescription,
        lambda commands, _name, asked: commands.create_subnet(
            asked.vpc, IPv4Network(asked.cidr), asked.name, asked.availability_zone
        ),
    ),
    delete_command("/v1/subnets", "a subnet", Commands.delete_subnet),
    Command(
        "post",
        "/v1/security-groups",
        "Create a security group",
        CreateSecurityGroup,
        descriptions.SecurityGroupDescription,
        lambda commands, _name, asked: commands.create_security_group(
            asked.vpc, asked.name, asked.description
        ),
    ),
    Command(
        "patch",
        "/v1/security-groups/{name}",
        "Add and take rules of a security group",
        ModifySecurityGroup,
        descriptions.SecurityGroupDescription,
        _modify_group,
    ),
    delete_command("/v1/security-groups", "a security group", Commands.delete_security_group),
    Command(
        "post",
        "/v1/hosts",
        "Create a host, or attach a namespace as one",
        CreateHost,
        descriptions.HostDescription,
        _create_host,
    ),
    Command(
        "patch",
        "/v1/hosts/{name}",
        "Change a host",
        ModifyHost,
        descriptions.HostDescription,
        _modify_host,
    ),
    delete_command("/v1/hosts", "a host, or give an attached namespace back", Commands.delete_host),
    Command(
        "post",
        "/v1/services",
        "Start a server in a VPC or in the internet",
        CreateService,
        descriptions.ServiceDescription,
        _create_service,
    ),
    Command(
        "patch",
        "/v1/services/{name}",
        "Change a server",
        ModifyService,
        descriptions.ServiceDescription,
        _modify_service,
    ),
    delete_command("/v1/services", "a server", Commands.delete_service),
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
    *GATEWAY_COMMANDS,
    *BALANCER_COMMANDS,
    *private_link_commands.COMMANDS,
)

LISTS = (
    Listing(
        "/v1/accounts", "Accounts", description.describe_accounts, descriptions.AccountDescription
    ),
    Listing("/v1/vpcs", "VPCs", description.describe_vpcs, descriptions.VpcDescription),
    Listing("/v1/subnets", "Subnets", description.describe_subnets, descriptions.SubnetDescription),
    Listing(
        "/v1/services",
        "Servers in VPCs and in the internet",
        description.describe_services,
        descriptions.ServiceDescription,
    ),
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
    Listing(
        "/v1/security-groups",
        "Security groups",
        description.describe_security_groups,
        descriptions.SecurityGroupDescription,
    ),
    *GATEWAY_LISTS,
    *BALANCER_LISTS,
    *private_link_commands.LISTS,
)


def request_of(command: Command[Any], name: str, asked: CommandRequest | None) -> Mapping[str, Any]:
    """What tells a request from others that have its client token."""
    shown = None if asked is None else asked.model_dump(mode="json", exclude={"zip_file"})
    if shown is not None and isinstance(asked, CodeRequest) and asked.archive is not None:
        # It stands for what may be megabytes.
        shown["sha256"] = asked.archive.sha256
    return {"command": f"{command.method} {command.path}", "name": name, "asked": shown}
