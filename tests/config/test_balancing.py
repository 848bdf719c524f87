# SPDX-License-Identifier: Apache-2.0
"""Load balancers and target groups in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.config.text import toml
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.model.balancer_resources import (
    BalancerProtocol,
    CheckProtocol,
    GroupAttributes,
    HealthCheck,
    ListenerResource,
    LoadBalancerResource,
    NodeResource,
    Scheme,
    TargetGroupResource,
    TargetResource,
)
from tests.config.test_lab import accepted, load_toml, refused
from tests.model.support import address

VPC = """
[[vpc]]
name = "shop"
cidr = "10.0.0.0/16"
subnet = [
  { name = "a", cidr = "10.0.1.0/24" },
  { name = "b", cidr = "10.0.2.0/24", availability_zone = "b" },
  { name = "b2", cidr = "10.0.3.0/24", availability_zone = "b" },
]
security_group = [{ name = "front" }]
host = [{ name = "one", subnet = "a" }]
"""
GROUP = """
[[vpc.target_group]]
name = "web"
port = 80
stickiness = true
proxy_protocol_v2 = true
target = [{ host = "one", port = 8080 }]
health_check = { protocol = "HTTP", path = "/ok", timeout_seconds = 3 }
"""
BALANCER = """
[[vpc.load_balancer]]
name = "front"
security_groups = ["front"]
node = [{ subnet = "a", address = "10.0.1.100" }, { subnet = "b" }]
listener = [{ port = 80, target_group = "web" }]
"""


def test_a_file_with_a_load_balancer(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + GROUP + BALANCER)
    (vpc,) = resources_of(config).vpcs
    assert vpc.target_groups == (
        TargetGroupResource(
            "web",
            BalancerProtocol.TCP,
            80,
            health_check=HealthCheck(CheckProtocol.HTTP, path="/ok", timeout_seconds=3),
            attributes=GroupAttributes(stickiness=True, proxy_protocol_v2=True),
            targets=(TargetResource(host="one", port=8080),),
        ),
    )
    assert vpc.load_balancers == (
        LoadBalancerResource(
            "front",
            (NodeResource("a", address("10.0.1.100")), NodeResource("b")),
            security_groups=("front",),
            listeners=(ListenerResource(BalancerProtocol.TCP, 80, "web"),),
        ),
    )
    # As it is written out it is read back.
    assert load_toml(toml(config)) == config


def test_the_region_is_that_of_lambda(tmp_path: Path) -> None:
    config = accepted(tmp_path, '[lambda]\nregion = "eu-west-1"\n')
    assert lifecycle_of(config).region == "eu-west-1"


WRONG = [
    (GROUP.replace('host = "one"', 'host = "two"'), BALANCER, "no host 'two'"),
    (GROUP.replace('host = "one", ', ""), BALANCER, "has a host, or an address"),
    (GROUP + GROUP, BALANCER, "2 target groups"),
    (GROUP.replace('"HTTP"', '"TLS"'), BALANCER, "'TCP', 'HTTP' or 'HTTPS'"),
    (GROUP, BALANCER.replace('subnet = "b"', 'subnet = "c"'), "no subnet 'c'"),
    (
        GROUP,
        BALANCER.replace('{ subnet = "b" }', '{ subnet = "b" }, { subnet = "b2" }'),
        "availability zone 'b' as well",
    ),
    (GROUP, BALANCER.replace('"front"]', '"other"]'), "no security group 'other'"),
    (GROUP, BALANCER.replace('"web"', '"net"'), "no target group 'net'"),
    (
        GROUP,
        BALANCER.replace('"web" }', '"web" }, { port = 80, target_group = "web" }'),
        "has a listener before it",
    ),
    (GROUP, BALANCER + BALANCER.replace('"front"\n', '"other"\n'), "forwards to 'web'"),
    (GROUP, BALANCER.replace("port = 80", 'protocol = "TLS", port = 80'), "'TCP_UDP'"),
    (
        GROUP,
        BALANCER.replace('name = "front"\n', 'name = "front"\nscheme = "public"\n'),
        "'internal' or 'internet-facing'",
    ),
]


def test_a_node_that_faces_the_internet(tmp_path: Path) -> None:
    text = BALANCER.replace('name = "front"\n', 'name = "front"\nscheme = "internet-facing"\n')
    text = text.replace('{ subnet = "b" }', '{ subnet = "b", elastic_address = "203.0.113.7" }')
    config = accepted(tmp_path, VPC + GROUP + text)
    (wanted,) = resources_of(config).vpcs[0].load_balancers
    assert wanted.scheme is Scheme.INTERNET_FACING
    assert load_toml(toml(config)) == config
    assert wanted.nodes[1] == NodeResource("b", elastic_address=address("203.0.113.7"))


@pytest.mark.parametrize(("group", "balancer", "told"), WRONG)
def test_what_does_not_fit_is_told(tmp_path: Path, group: str, balancer: str, told: str) -> None:
    assert told in refused(tmp_path, VPC + group + balancer)
