# SPDX-License-Identifier: Apache-2.0
"""One resource at a time through the control API: what may be asked, and what it does to the
region.

Theory of operation
-------------------
`COMMANDS` has a row for each method of each path, with the model of its body and the work on
`model.commands.Commands`; `LISTS` one for each list. Routes and the OpenAPI document are both made
of them; those of functions are in `function_commands`, of what leads out of VPCs in
`gateway_commands`, of load balancers in `balancer_commands`, of endpoints in
`private_link_commands`. Fields mean what those of the same name in a lab file do. Names are those
of users or the ids of AWS; what is in a VPC and has a name that several VPCs have is VPC/name.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hyperplane_nat.config.resources import Rule
from hyperplane_nat.config.values import (
    AccountId,
    Address,
    AvailabilityZone,
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
from hyperplane_nat.controller.api.function_commands import (
    FUNCTION_COMMANDS,
    FUNCTION_LISTS,
    CodeRequest,
)
from hyperplane_nat.controller.api.gateway_commands import GATEWAY_COMMANDS, GATEWAY_LISTS
from hyperplane_nat.controller.resources import rule_of
from hyperplane_nat.model import description
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.resources import (
    AVAILABILITY_ZONE,
    HostResource,
    ServiceResource,
)
from netns import namespace, topology
from netns.errors import NetnsError

Kind = Literal["http", "udp-echo", "mailbox"]
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
    aws_service: Literal["s3", "dynamodb"] | None = Field(
        default=None,
        description="Of one in the internet: which of AWS's services it stands for; gateway "
        "endpoints lead to it.",
    )


class ModifyService(CommandRequest):
    """PATCH /v1/services/{name}: what is left out stays."""

    kind: Kind | None = None
    address: Address | None = None
    host: Named | None = None
    port: Port | None = None
    size_bytes: Size | None = None
    security_groups: list[Named] | None = None
    aws_service: Literal["s3", "dynamodb"] | None = None


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
        asked.aws_service or "",
    )
    return commands.create_service(asked.vpc, wanted)


def _modify_service(commands: Commands, name: str, asked: ModifyService) -> Resource:
    changes = asked.model_dump(exclude_none=True, exclude={"client_token"})
    if asked.address is not None:
        changes["address"] = IPv4Address(asked.address)
    return commands.modify_service(name, changes)


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
    *FUNCTION_COMMANDS,
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
        "/v1/security-groups",
        "Security groups",
        description.describe_security_groups,
        descriptions.SecurityGroupDescription,
    ),
    *FUNCTION_LISTS,
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
