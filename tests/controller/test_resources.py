# SPDX-License-Identifier: Apache-2.0
"""From the configuration to the model's wanted resources: nothing is lost, the unsaid is said."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from hyperplane_nat.config.lab import Config, load
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.model.resources import (
    ALLOW_ALL,
    AccountResource,
    FunctionResource,
    InterfaceResource,
    Networking,
    Protocol,
    Resources,
    RuleResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.settings import LifecycleSettings

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "lambda.toml"

VPC: dict[str, Any] = {
    "name": "orders",
    "cidr": "10.0.0.0/16",
    "subnet": [{"name": "a", "cidr": "10.0.1.0/24"}],
    "security_group": [
        {"name": "functions", "description": "All of them"},
        {
            "name": "db",
            "ingress": [
                {"protocol": "tcp", "ports": "5432", "group": "functions"},
                {"protocol": "udp", "ports": "1024-2048", "cidr": "10.0.0.0/8"},
                {"protocol": "tcp", "cidr": "10.1.0.0/16"},
                {"protocol": "icmp", "cidr": "0.0.0.0/0"},
            ],
            "egress": [],
        },
    ],
    "service": [
        {
            "name": "db",
            "kind": "udp-echo",
            "address": "10.0.1.54",
            "port": 5432,
            "security_groups": ["db"],
        }
    ],
}


def test_the_default_lab_wants_no_function_but_an_interface_with_environments() -> None:
    web, echo = (
        ServiceResource("web", "http", IPv4Address("10.0.1.80"), 80),
        ServiceResource("echo", "udp-echo", IPv4Address("10.0.1.81"), 7),
    )
    assert resources_of(Config()) == Resources(
        vpcs=(
            VpcResource(
                "customer",
                IPv4Network("10.0.0.0/16"),
                subnets=(SubnetResource("private-a", IPv4Network("10.0.1.0/24")),),
                services=(web, echo),
            ),
        ),
        interfaces=(
            InterfaceResource("eni-a", "customer", "private-a", (IPv4Address("10.0.1.10"),), 8500),
        ),
        environments=100,
    )


def test_everything_is_carried_over_and_what_is_left_out_is_filled_in() -> None:
    config = Config.model_validate(
        {
            "account": [{"name": "first"}, {"name": "second", "id": "444455556666"}],
            "vpc": [VPC | {"account": "second"}],
            "internet": [
                {"name": "site", "kind": "http", "address": "203.0.113.7", "port": 8080}
                | {"size_bytes": 3}
            ],
            "network_interface": [{"name": "eni-a", "subnet": "a", "address": "10.0.1.10"}],
            "function": [
                {"name": "f", "subnets": ["a"], "security_groups": ["functions"]},
                {"name": "g", "networking": "none", "memory_mb": 512},
            ],
        }
    )
    assert resources_of(config) == Resources(
        accounts=(AccountResource("first"), AccountResource("second", "444455556666")),
        vpcs=(
            VpcResource(
                "orders",
                IPv4Network("10.0.0.0/16"),
                account="second",
                subnets=(SubnetResource("a", IPv4Network("10.0.1.0/24")),),
                security_groups=(
                    SecurityGroupResource("functions", "All of them", egress=ALLOW_ALL),
                    SecurityGroupResource(
                        "db",
                        ingress=(
                            RuleResource(Protocol.TCP, 5432, 5432, group="functions"),
                            RuleResource(Protocol.UDP, 1024, 2048, cidr=IPv4Network("10.0.0.0/8")),
                            RuleResource(Protocol.TCP, 0, 65535, cidr=IPv4Network("10.1.0.0/16")),
                            RuleResource(Protocol.ICMP, cidr=IPv4Network("0.0.0.0/0")),
                        ),
                        egress=(),
                    ),
                ),
                services=(
                    ServiceResource(
                        "db",
                        "udp-echo",
                        IPv4Address("10.0.1.54"),
                        5432,
                        security_groups=("db",),
                    ),
                ),
            ),
        ),
        internet=(ServiceResource("site", "http", IPv4Address("203.0.113.7"), 8080, 3),),
        functions=(
            FunctionResource(
                "f",
                account="second",
                vpc="orders",
                subnets=("a",),
                security_groups=("functions",),
            ),
            FunctionResource("g", Networking.NONE, account="first", memory_mb=512),
        ),
        interfaces=(InterfaceResource("eni-a", "orders", "a", (IPv4Address("10.0.1.10"),), 8500),),
        environments=100,
    )


def test_the_example_shares_one_interface_between_two_functions_of_an_account() -> None:
    wanted = resources_of(load(EXAMPLE))
    assert len(wanted.accounts) == 2
    first, second = wanted.vpcs
    assert first.cidr.overlaps(second.cidr)
    assert first.account != second.account
    assert {function.networking for function in wanted.functions} == set(Networking)
    shared = [
        (item.account, item.subnets, frozenset(item.security_groups))
        for item in wanted.functions
        if item.networking is Networking.HYPERPLANE
    ]
    assert len(shared) == 2
    assert len(set(shared)) == 1


def test_life_cycle_defaults_are_the_models() -> None:
    assert lifecycle_of(Config()) == LifecycleSettings()


def test_life_cycle_settings_are_carried_over() -> None:
    config = load(
        None, {"lifecycle.time_scale": 60, "lifecycle.interfaces_per_vpc": 250, "lambda.icmp": True}
    )
    assert lifecycle_of(config) == LifecycleSettings(
        time_scale=60.0, interfaces_per_vpc=250, icmp=True
    )
