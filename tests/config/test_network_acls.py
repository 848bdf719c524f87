# SPDX-License-Identifier: Apache-2.0
"""Network ACLs in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.config.text import toml
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from tests.config.test_lab import accepted, load_toml, refused
from tests.config.test_resources import VPC

WITH_HOST = (
    VPC
    + """
[[vpc.host]]
name = "bastion"
subnet = "a"
"""
)
ACLS = """
[[vpc.network_acl]]
name = "edge"
subnets = ["b"]
ingress = [
    { rule = 100, action = "allow", protocol = "tcp", ports = "443", cidr = "0.0.0.0/0" },
    { rule = 90, action = "deny", cidr = "192.0.2.0/24" },
    { rule = 110, action = "allow", protocol = "icmp", icmp_type = 8, cidr = "10.0.0.0/8" },
    { rule = 120, action = "allow", protocol = "47", cidr = "10.0.0.0/8" },
]
[[vpc.network_acl.egress]]
rule = 1
action = "allow"
protocol = "tcp"
ports = "1024-65535"
cidr = "0.0.0.0/0"
[[vpc.network_acl]]
name = "rest"
default = true
"""


def test_a_file_with_network_acls(tmp_path: Path) -> None:
    config = accepted(tmp_path, WITH_HOST + ACLS)
    (vpc,) = (each for each in resources_of(config).vpcs if each.name == "orders")
    edge, rest = vpc.network_acls
    assert [(each.rule_number, each.allow, each.protocol) for each in edge.ingress] == [
        (100, True, 6),
        (90, False, -1),
        (110, True, 1),
        (120, True, 47),
    ]
    assert (edge.egress[0].first, edge.egress[0].last) == (1024, 65535)
    assert (edge.ingress[2].icmp_type, edge.ingress[2].icmp_code) == (8, -1)
    assert (edge.default, edge.subnets) == (False, ("b",))
    assert (rest.default, rest.ingress, rest.egress) == (True, (), ())
    assert load_toml(toml(config)) == config


def test_quotas(tmp_path: Path) -> None:
    config = accepted(tmp_path, WITH_HOST + "[lifecycle]\nnetwork_acl_rules_per_direction = 40\n")
    assert lifecycle_of(config).network_acl_rules_per_direction == 40
    assert lifecycle_of(config).network_acls_per_vpc == 200


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["b"]', '["bb"]', "there is no subnet 'bb' in VPC 'orders'"),
        ("rule = 90", "rule = 100", "rule 100 is there before"),
        ("rule = 90", "rule = 0", "rule"),
        ("rule = 90", "rule = 32767", "rule"),
        ('action = "deny"', 'action = "refuse"', "action"),
        ('protocol = "47"', 'protocol = "gre"', "'gre' is no protocol"),
        ('protocol = "47"', 'protocol = "47", ports = "1"', "has no ports to choose from"),
        ('protocol = "47"', 'protocol = "47", icmp_type = 1', "has no ICMP types"),
        ("icmp_type = 8", "icmp_code = 8", "a code is one of a type"),
        ('name = "rest"', 'name = "edge"', "2 network ACLs are called 'edge'"),
        ('name = "edge"', 'name = "default"', "is what the default network ACL"),
        ('subnets = ["b"]', 'subnets = ["b"]\ndefault = true', "is the default one"),
        ("default = true", 'default = true\nsubnets = ["b"]', "subnet 'b' has network ACL 'edge'"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in ACLS
    assert words in refused(tmp_path, WITH_HOST + ACLS.replace(old, new, 1))
