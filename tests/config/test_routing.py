# SPDX-License-Identifier: Apache-2.0
"""Route tables, internet gateways and public addresses in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.config.text import toml
from hyperplane_nat.controller.resources import resources_of
from tests.config.test_lab import accepted, load_toml, refused
from tests.config.test_resources import VPC

HOSTS = """
[[vpc.host]]
name = "bastion"
subnet = "a"
public_address = "203.0.113.9"
[[vpc.host]]
name = "any"
subnet = "b"
public_address = true
"""
TABLES = """
[[vpc.route_table]]
name = "public"
main = true
routes = [{ destination = "0.0.0.0/0", internet_gateway = true }]
[[vpc.route_table]]
name = "private"
subnets = ["b"]
routes = [{ destination = "192.0.2.0/24", host = "bastion" }]
"""
NAT = """
[[vpc.nat_gateway]]
name = "out"
subnet = "a"
elastic_addresses = ["203.0.113.7"]
[[vpc.nat_gateway]]
name = "inside"
subnet = "b"
connectivity = "private"
addresses = 3
[[vpc.route_table]]
name = "t"
subnets = ["b"]
routes = [{ destination = "0.0.0.0/0", nat_gateway = "out" }]
"""
GATEWAY = VPC.replace('name = "orders"', 'name = "orders"\ninternet_gateway = true', 1)


def test_a_file_with_ways_out(tmp_path: Path) -> None:
    config = accepted(tmp_path, GATEWAY + HOSTS + TABLES)
    (vpc,) = (each for each in resources_of(config).vpcs if each.name == "orders")
    assert vpc.internet_gateway
    assert [(each.public, str(each.public_address)) for each in vpc.hosts] == [
        (True, "203.0.113.9"),
        (True, "None"),
    ]
    assert [(each.name, each.main, each.subnets) for each in vpc.route_tables] == [
        ("public", True, ()),
        ("private", False, ("b",)),
    ]
    assert [str(route.destination) for table in vpc.route_tables for route in table.routes] == [
        "0.0.0.0/0",
        "192.0.2.0/24",
    ]
    assert load_toml(toml(config)) == config


def test_a_file_with_nat_gateways(tmp_path: Path) -> None:
    config = accepted(tmp_path, GATEWAY + HOSTS + NAT)
    (vpc,) = (each for each in resources_of(config).vpcs if each.name == "orders")
    found = [(each.name, each.public, each.addresses) for each in vpc.nat_gateways]
    assert found == [("out", True, 1), ("inside", False, 3)]
    assert [str(each) for each in vpc.nat_gateways[0].elastic_addresses] == ["203.0.113.7"]
    assert vpc.route_tables[0].routes[0].nat_gateway == "out"
    assert load_toml(toml(config)) == config


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (VPC + HOSTS + NAT, "connectivity: VPC 'orders' has no internet gateway"),
        (GATEWAY + HOSTS + NAT.replace('subnet = "a"', 'subnet = "z"'), "no subnet 'z' in VPC"),
        (GATEWAY + HOSTS + NAT.replace("203.0.113.7", "203.0.113.9"), "the address of NAT gateway"),
        (GATEWAY + HOSTS + NAT.replace("203.0.113.7", "10.0.0.7"), "not one of the lab's public"),
        (GATEWAY + HOSTS + NAT.replace('gateway = "out"', 'gateway = "x"'), "no NAT gateway 'x'"),
        (GATEWAY + HOSTS + NAT.replace('"inside"', '"out"'), "2 NAT gateways are called 'out'"),
        (
            GATEWAY + HOSTS + NAT.replace('connectivity = "private"', ""),
            "3 public addresses are more than a NAT gateway has",
        ),
        (
            GATEWAY + HOSTS + NAT.replace("addresses = 3", 'elastic_addresses = ["203.0.113.8"]'),
            "a private NAT gateway has no public address",
        ),
        (
            GATEWAY + HOSTS + NAT.replace('subnet = "a"', 'subnet = "a"\naddresses = 2'),
            "2 is not how many elastic_addresses there are",
        ),
        (GATEWAY + HOSTS.replace("203.0.113.9", "10.0.0.1"), "not one of the lab's public"),
        (GATEWAY + HOSTS.replace("203.0.113.9", "203.0.113.0"), "the network or broadcast"),
        (GATEWAY + HOSTS.replace("= true", "= 7"), "7 is neither true nor an address"),
        (GATEWAY + HOSTS.replace("= true", '= "203.0.113.9"'), "is the address of host 'bastion'"),
        (VPC + HOSTS, "VPC 'orders' has no internet gateway to have public addresses"),
        (VPC + HOSTS + TABLES, "internet_gateway: VPC 'orders' has no internet gateway"),
        (GATEWAY + HOSTS + TABLES.replace('"bastion"', '"x"'), "there is no host 'x'"),
        (GATEWAY + HOSTS + TABLES.replace('["b"]', '["z"]'), "there is no subnet 'z'"),
        (GATEWAY + HOSTS + TABLES + "main = true", "route table 'public' is the main one"),
        (GATEWAY + HOSTS + TABLES.replace('"private"', '"main"'), "what the main table"),
        (GATEWAY + HOSTS + TABLES.replace('"private"', '"public"'), "2 route tables are called"),
        (
            GATEWAY + HOSTS + TABLES.replace("main = true", 'subnets = ["b"]'),
            "subnet 'b' has route table 'public'",
        ),
        (GATEWAY + HOSTS + TABLES.replace(', host = "bastion"', ""), "leads nowhere"),
        (
            GATEWAY
            + HOSTS
            + TABLES.replace(', host = "bastion"', ', host = "any", internet_gateway = true'),
            "has internet_gateway as well",
        ),
        (
            GATEWAY + HOSTS + TABLES.replace("192.0.2.0/24", "10.0.1.0/24"),
            "the local route reaches",
        ),
        (
            GATEWAY
            + HOSTS
            + TABLES.replace(
                '"bastion" }', '"bastion" }, { destination = "192.0.2.0/24", host = "any" }'
            ),
            "has a route before it",
        ),
        (
            GATEWAY.replace(
                'cidr = "10.0.1.0/24"', 'cidr = "10.0.1.0/24"\navailability_zone = "A1"'
            )
            + HOSTS,
            "'A1' is not an availability zone",
        ),
    ],
)
def test_what_does_not_fit_is_a_line(tmp_path: Path, section: str, words: str) -> None:
    assert words in refused(tmp_path, section)
