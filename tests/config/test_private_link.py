# SPDX-License-Identifier: Apache-2.0
"""Endpoint services and endpoints in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.config.text import toml
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.model.balancer_resources import NodeResource
from hyperplane_nat.model.private_link_resources import (
    EndpointResource,
    EndpointServiceResource,
    GatewayEndpointResource,
)
from tests.config.test_lab import accepted, load_toml, refused
from tests.model.support import address

VPCS = """
[[account]]
name = "shop"
[[account]]
name = "bank"
id = "222222222222"
[[vpc]]
name = "shop"
cidr = "10.0.0.0/16"
subnet = [{ name = "a", cidr = "10.0.1.0/24" }]
host = [{ name = "web", subnet = "a" }]
load_balancer = [{ name = "front", node = [{ subnet = "a" }] }]
endpoint_service = [{ name = "orders", load_balancer = "front", principals = ["bank"], \
private_dns_name = "orders.example.com" }]
[[vpc]]
name = "bank"
account = "bank"
cidr = "10.0.0.0/16"
enable_dns_hostnames = true
subnet = [{ name = "a2", cidr = "10.0.1.0/24" }]
security_group = [{ name = "orders" }]
endpoint = [{ name = "orders", service = "shop/orders", security_groups = ["orders"], \
private_dns = true, node = [{ subnet = "a2", address = "10.0.1.9" }] }]
"""


def test_a_file_with_an_endpoint(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPCS)
    shop, bank = resources_of(config).vpcs
    assert shop.endpoint_services == (
        EndpointServiceResource("orders", "front", True, ("bank",), "orders.example.com"),
    )
    assert bank.endpoints == (
        EndpointResource(
            "orders", "shop/orders", (NodeResource("a2", address("10.0.1.9")),), ("orders",), True
        ),
    )
    assert load_toml(toml(config)) == config


def test_quotas_and_durations(tmp_path: Path) -> None:
    text = "\n[lifecycle]\nendpoints_per_vpc = 7\nendpoint_creation_seconds = 3\n"
    settings = lifecycle_of(accepted(tmp_path, VPCS + text))
    assert (settings.endpoints_per_vpc, settings.endpoint_creation_seconds) == (7, 3)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('load_balancer = "front"', 'load_balancer = "fronts"', "there is no load balancer"),
        ('principals = ["bank"]', 'principals = ["banc"]', "there is no account 'banc'"),
        ('service = "shop/orders"', 'service = "shop/order"', "no endpoint service 'shop/order'"),
        ('subnet = "a2", address', 'subnet = "a", address', "there is no subnet 'a' in VPC 'bank'"),
        ('security_groups = ["orders"]', 'security_groups = ["x"]', "there is no security group"),
        ('node = [{ subnet = "a2", address = "10.0.1.9" }]', "node = []", "is in no subnet"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in VPCS
    assert words in refused(tmp_path, VPCS.replace(old, new))


def test_everybody_and_names_of_aws(tmp_path: Path) -> None:
    text = VPCS.replace('principals = ["bank"]', 'principals = ["*", "222222222222"]')
    name = "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0"
    config = accepted(tmp_path, text.replace("shop/orders", name))
    assert config.vpc[1].endpoint[0].service == name


def test_a_name_is_there_once(tmp_path: Path) -> None:
    again = 'endpoint_service = [{ name = "orders", load_balancer = "front" }, { name = "orders"'
    text = VPCS.replace('endpoint_service = [{ name = "orders"', again)
    assert "2 endpoint services are called 'orders'" in refused(tmp_path, text)


GATEWAYS = """
[[internet]]
name = "buckets"
kind = "http"
address = "198.51.100.80"
port = 80
aws_service = "s3"
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
subnet = [{ name = "a", cidr = "10.0.1.0/24" }]
host = [{ name = "web", subnet = "a" }]
route_table = [{ name = "private", subnets = ["a"] }]
"""
STORE = """gateway_endpoint = [{ name = "store", service = "com.amazonaws.us-east-1.s3", \
route_tables = ["private"], policy = "{}" }]
"""


def test_a_file_with_a_gateway_endpoint(tmp_path: Path) -> None:
    config = accepted(tmp_path, GATEWAYS + STORE)
    resources = resources_of(config)
    (vpc,), (host,) = resources.vpcs, resources.internet
    assert host.aws_service == "s3"
    assert vpc.gateway_endpoints == (
        GatewayEndpointResource("store", "com.amazonaws.us-east-1.s3", ("private",), "{}"),
    )
    assert load_toml(toml(config)) == config
    limited = GATEWAYS + STORE + "\n[lifecycle]\ngateway_endpoints = 7\n"
    assert lifecycle_of(accepted(tmp_path, limited)).gateway_endpoints == 7


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("us-east-1.s3", "eu-west-1.s3"), "no internet host stands for"),
        (("us-east-1.s3", "us-east-1.dynamodb"), "known: com.amazonaws.us-east-1.s3"),
        (('["private"]', '["privat"]'), "there is no route table 'privat' in VPC 'customer'"),
        (
            (
                ', policy = "{}" }]',
                ' }, { name = "other", service = "s3", route_tables = ["private"] }]',
            ),
            "leads to endpoint 'store' of the same service",
        ),
        ((', policy = "{}" }]', ' }, { name = "store", service = "s3" }]'), "rename all but one"),
        (('aws_service = "s3"', 'aws_service = "sqs"'), "aws_service"),
    ],
)
def test_a_gateway_endpoint_that_is_refused(
    tmp_path: Path, wrong: tuple[str, str], said: str
) -> None:
    assert said in refused(tmp_path, (GATEWAYS + STORE).replace(*wrong))
