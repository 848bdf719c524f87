# SPDX-License-Identifier: Apache-2.0
"""All sections together, with what follows from what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from hyperplane_nat.config.dns import Dns
from hyperplane_nat.config.flow_logs import FlowLogs
from hyperplane_nat.config.functions import Function
from hyperplane_nat.config.nat import Flows, Nat, Ports, Timeouts, with_profile
from hyperplane_nat.config.resources import (
    POOL_SIZE,
    Account,
    InternetHost,
    Lifecycle,
    Pool,
    Subnet,
    Vpc,
)
from hyperplane_nat.config.resources import (
    Service as Service,
)
from hyperplane_nat.config.sections import (
    INTERFACES_MAX,
    Aws,
    Environment,
    Forwarder,
    Lab,
    Metrics,
    Neighbours,
    NetworkInterface,
)
from hyperplane_nat.config.values import (
    Section,
)
from hyperplane_nat.errors import ConfigError as ConfigError


def _default_accounts() -> list[Account]:
    return [Account.model_construct(name="default", id="111122223333")]


def _default_vpcs() -> list[Vpc]:
    return [
        Vpc.model_construct(
            name="customer",
            cidr="10.0.0.0/16",
            subnet=[Subnet.model_construct(name="private-a", cidr="10.0.1.0/24")],
            service=[
                Service.model_construct(name="web", kind="http", address="10.0.1.80", port=80),
                Service.model_construct(name="echo", kind="udp-echo", address="10.0.1.81", port=7),
            ],
        )
    ]


def _default_interfaces() -> list[NetworkInterface]:
    return [NetworkInterface.model_construct(name="eni-a", subnet="private-a", address="10.0.1.10")]


def _without_subnets(vpcs: object) -> bool:
    """Whether VPCs are given, and no place for an interface in any of them."""
    return isinstance(vpcs, list) and not any(
        isinstance(vpc, dict) and vpc.get("subnet") for vpc in vpcs
    )


def _with_hosts(vpcs: object) -> bool:
    """Whether there is a host in one of the VPCs that are given."""
    return isinstance(vpcs, list) and any(isinstance(vpc, dict) and vpc.get("host") for vpc in vpcs)


class Whole(Section):
    """All sections; what only several of them show together is not checked here."""

    lab: Lab = Field(default_factory=Lab.left_out)
    environment: Environment = Field(default_factory=Environment.left_out)
    account: list[Account] = Field(default_factory=_default_accounts, min_length=1)
    vpc: list[Vpc] = Field(default_factory=_default_vpcs)
    internet: list[InternetHost] = Field(default=[])
    network_interface: list[NetworkInterface] = Field(
        default_factory=_default_interfaces, max_length=INTERFACES_MAX
    )
    function: list[Function] = Field(default=[])
    pool: Pool = Field(default_factory=Pool.left_out)
    lifecycle: Lifecycle = Field(default_factory=Lifecycle.left_out)
    nat: Nat = Field(default_factory=Nat.left_out)
    flows: Flows = Field(default_factory=Flows.left_out)
    timeouts: Timeouts = Field(default_factory=Timeouts.left_out)
    ports: Ports = Field(default_factory=Ports.left_out)
    neighbours: Neighbours = Field(default_factory=Neighbours.left_out)
    forwarder: Forwarder = Field(default_factory=Forwarder.left_out)
    dns: Dns = Field(default_factory=Dns.left_out)
    flow_logs: FlowLogs = Field(default_factory=FlowLogs.left_out)
    metrics: Metrics = Field(default_factory=Metrics.left_out)
    aws: Aws = Field(default_factory=Aws.left_out)

    @property
    def runtime_directory(self) -> Path:
        """Directory with the sockets, pid files and logs of this lab."""
        return Path(self.lab.runtime_directory) / self.lab.name

    @property
    def state_file(self) -> Path:
        """The file that the flow table is mapped from."""
        return Path(self.lab.state_directory) / f"hyperplane-nat-{self.lab.name}.map"

    def account_of(self, item: Vpc | Function) -> str:
        """
        Name of the account that a VPC or function of this configuration belongs to.

        KeyError if it names one that is not there.
        """
        if item.account is None and isinstance(item, Function) and item.networking != "none":
            return self.account_of(self.vpc_of(item))
        for account in self.account:
            if item.account in (None, account.name, account.id):
                return account.name
        raise KeyError(item.account)

    def vpc_of(self, function: Function) -> Vpc:
        """The VPC that a function of this configuration is in; KeyError if it is in none."""
        for vpc in self.vpc:
            if any(subnet.name in function.subnets for subnet in vpc.subnet):
                return vpc
        raise KeyError(function.name)

    def place(self, interface: NetworkInterface) -> tuple[Vpc, Subnet]:
        """The VPC and subnet that a network interface of this configuration is in."""
        for vpc in self.vpc:
            for subnet in vpc.subnet:
                if subnet.name == interface.subnet:
                    return vpc, subnet
        raise KeyError(interface.subnet)

    def interface_of(self, environment: int) -> NetworkInterface:
        """The network interface of environment `environment`, counted from 1: round-robin."""
        return self.network_interface[(environment - 1) % len(self.network_interface)]

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, document: object, make: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(document, dict):
            return make(document)
        filled = with_profile(document)
        defaults = [("pool", "size", POOL_SIZE)] if filled.get("function") else []
        vpcs = filled.get("vpc")
        bare = filled.get("function") or _without_subnets(vpcs) or _with_hosts(vpcs)
        if bare and not filled.get("network_interface"):
            filled = filled | {"network_interface": []}
            defaults.append(("lab", "environments", 0))
        for section, field, value in defaults:
            table = filled.get(section, {})
            if isinstance(table, dict):
                filled = filled | {section: {field: value} | table}
        result = make(filled)
        # Nobody has said what was filled in.
        for section in filled:
            if section not in document:
                result.model_fields_set.discard(section)
            elif isinstance(document[section], dict):
                fields = getattr(result, section).model_fields_set
                fields.difference_update(filled[section].keys() - document[section].keys())
        return result
