# SPDX-License-Identifier: Apache-2.0
"""Network ACLs through the control API: see `commands`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hyperplane_nat.config.network_acls import AclRule
from hyperplane_nat.config.values import LinkName
from hyperplane_nat.controller.api import descriptions
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.controller.api.requests import Request
from hyperplane_nat.controller.resources import acl_entry_of
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.network_acl_description import describe_network_acls


class EntryRequest(AclRule):
    """A rule, of one direction."""

    egress: bool = Field(description="Whether it is about what leaves.")


class EntryName(Request):
    """A rule by its number."""

    rule: Annotated[int, Field(ge=1, le=32766)]
    egress: bool


class CreateNetworkAcl(CommandRequest):
    """POST /v1/network-acls (EC2 API, CreateNetworkAcl): one that refuses everything."""

    vpc: Named
    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")


class ModifyNetworkAcl(CommandRequest):
    """
    PATCH /v1/network-acls/{name} (EC2 API, DeleteNetworkAclEntry, ReplaceNetworkAclEntry,
    CreateNetworkAclEntry, ReplaceNetworkAclAssociation): in this order, all of it or nothing.
    """

    delete_entries: list[EntryName] = Field(default_factory=list)
    replace_entries: list[EntryRequest] = Field(default_factory=list)
    create_entries: list[EntryRequest] = Field(default_factory=list)
    disassociate: list[Named] = Field(
        default_factory=list, description="Subnets, which then have the default network ACL."
    )
    associate: list[Named] = Field(
        default_factory=list, description="Subnets, which then have no other."
    )


def _modify(commands: Commands, name: str, asked: ModifyNetworkAcl) -> Resource:
    acl = commands.network_acl(name)
    for each in asked.delete_entries:
        acl = commands.delete_network_acl_entry(acl.id, each.rule, egress=each.egress)
    for entries, work in (
        (asked.replace_entries, commands.replace_network_acl_entry),
        (asked.create_entries, commands.create_network_acl_entry),
    ):
        for entry in entries:
            acl = work(acl.id, acl_entry_of(entry), egress=entry.egress)
    if asked.disassociate:
        acl = commands.disassociate_network_acl(acl.id, asked.disassociate)
    return commands.associate_network_acl(acl.id, asked.associate) if asked.associate else acl


NETWORK_ACL_COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/network-acls",
        "Create a network ACL",
        CreateNetworkAcl,
        descriptions.NetworkAclDescription,
        lambda commands, _name, asked: commands.create_network_acl(asked.vpc, asked.name),
    ),
    Command(
        "patch",
        "/v1/network-acls/{name}",
        "Change rules and subnets of a network ACL",
        ModifyNetworkAcl,
        descriptions.NetworkAclDescription,
        _modify,
    ),
    delete_command("/v1/network-acls", "a network ACL", Commands.delete_network_acl),
)

NETWORK_ACL_LISTS = (
    Listing(
        "/v1/network-acls",
        "Network ACLs",
        describe_network_acls,
        descriptions.NetworkAclDescription,
    ),
)
