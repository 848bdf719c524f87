# SPDX-License-Identifier: Apache-2.0
"""The sections for network ACLs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hyperplane_nat.config.values import FieldError, LinkName, Network, PortRange, Section

_NAMED = ("tcp", "udp", "icmp", "all")


def _protocol(value: str) -> str:
    number = value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= 255
    if value in _NAMED or number:
        return value
    raise FieldError(
        "", f"{value!r} is no protocol", f"use {', '.join(_NAMED)} or a number up to 255"
    )


AclProtocol = Annotated[str, AfterValidator(_protocol)]
Quota = Annotated[int, Field(ge=1, le=1_000_000)]
IcmpNumber = Annotated[int, Field(ge=0, le=255)]


class AclRule(Section):
    """A rule of a network ACL: the first one, by number, that matches a packet decides."""

    rule: Annotated[int, Field(ge=1, le=32766)] = Field(
        description="Its number, in whose order rules are asked; unique in its direction."
    )
    action: Literal["allow", "deny"] = Field(description="What becomes of a packet that matches.")
    protocol: AclProtocol = Field(
        default="all",
        description="`tcp`, `udp`, `icmp`, `all`, or a protocol's number in quotes; of others than "
        "these three the gateway carries nothing.",
    )
    cidr: Network = Field(
        description="The other side: where a packet comes from (ingress), or goes to (egress)."
    )
    ports: PortRange | None = Field(
        default=None,
        description='Destination port, `"443"`, or ports, `"1024-65535"`, of `tcp` and `udp`; '
        "every port if there are none.",
    )
    icmp_type: IcmpNumber | None = Field(
        default=None, description="Type of `icmp`; every one if it is left out."
    )
    icmp_code: IcmpNumber | None = Field(
        default=None, description="Code of that type; every one if it is left out."
    )

    @property
    def port_range(self) -> tuple[int, int]:
        """The first and the last port that match."""
        first, _, last = (self.ports or "0-65535").partition("-")
        return int(first), int(last or first)

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.ports is not None and self.protocol not in ("tcp", "udp", "6", "17"):
            yield FieldError(
                "ports", f"protocol {self.protocol!r} has no ports to choose from", "leave it out"
            )
        for field in ("icmp_type", "icmp_code"):
            if getattr(self, field) is not None and self.protocol not in ("icmp", "1"):
                yield FieldError(
                    field, f"protocol {self.protocol!r} has no ICMP types", "leave it out"
                )
        if self.icmp_code is not None and self.icmp_type is None:
            yield FieldError("icmp_code", "a code is one of a type", "name the icmp_type as well")


class NetworkAcl(Section):
    """
    A network ACL of a VPC: rules for packets that enter or leave the subnets which have it. They
    are stateless: answers need rules, too. What no rule matches is refused. Subnets that no ACL
    names have the VPC's default one, which lets everything pass unless a section says otherwise.
    """

    name: LinkName = Field(description="Name of the ACL, unique in its VPC.")
    default: bool = Field(
        default=False,
        description="Whether it is the VPC's default one, of the subnets that no ACL names; one of "
        "a VPC is.",
    )
    subnets: list[LinkName] = Field(
        default=[], description="Subnets of the VPC that have it; a subnet has one ACL."
    )
    ingress: list[AclRule] = Field(
        default=[], description="Rules for what enters; without any nothing does."
    )
    egress: list[AclRule] = Field(
        default=[], description="Rules for what leaves; without any nothing does."
    )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        for direction in ("ingress", "egress"):
            rules: list[AclRule] = getattr(self, direction)
            for place, rule in enumerate(rules):
                if any(other.rule == rule.rule for other in rules[:place]):
                    yield FieldError(
                        f"{direction}[{place}].rule",
                        f"rule {rule.rule} is there before",
                        "give each rule of a direction a number of its own",
                    )


class NetworkAclQuotas(Section):
    """Quotas of network ACLs."""

    network_acls_per_vpc: Quota = Field(
        default=200, description="Network ACLs of a VPC, the default one too (AWS: 200)."
    )
    network_acl_rules_per_direction: Quota = Field(
        default=20,
        description="Rules of a network ACL, ingress and egress apart, without the last one (AWS: "
        "20, up to 40 on request).",
    )
