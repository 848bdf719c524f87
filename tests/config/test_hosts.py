# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs in the configuration, and servers on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.config.text import toml
from tests.config.test_lab import accepted, load_toml, refused
from tests.config.test_resources import VPC

HOST = """
[[vpc.host]]
name = "db"
subnet = "a"
address = "10.0.1.50"
security_groups = ["functions"]
description = "the store"
[[vpc.host]]
name = "any"
subnet = "b"
"""
SERVICE = """
[[vpc.service]]
name = "web"
kind = "http"
host = "db"
port = 80
"""


def test_a_lab_of_hosts_asks_for_nothing_else(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + HOST + SERVICE)
    assert [host.name for host in config.vpc[0].host] == ["db", "any"]
    assert config.vpc[0].host[1].address is None
    assert config.vpc[0].service[0].place == "host db"
    assert (config.lab.environments, config.network_interface, config.pool.size) == (0, [], 0)
    assert load_toml(toml(config)) == config


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (HOST.replace('"a"', '"z"'), "host \"db\": subnet: there is no subnet 'z' in VPC 'orders'"),
        (HOST.replace("10.0.1.50", "10.0.2.50"), 'host "db": address: 10.0.2.50 is outside subnet'),
        (HOST.replace("10.0.1.50", "10.0.1.3"), "one of the five reserved addresses"),
        (HOST.replace('"any"', '"db"'), "2 hosts are called 'db'"),
        (HOST.replace('["functions"]', '["none"]'), "no security group of VPC 'orders' called"),
        (
            HOST.replace('["functions"]', '["functions", "functions"]'),
            "'functions' is named twice",
        ),
        (HOST + 'address = "10.0.1.50"\n', "outside subnet 'b'"),
        (
            HOST + SERVICE.replace('"db"', '"none"'),
            "service \"web\": host: there is no host 'none'",
        ),
        (HOST + SERVICE + 'address = "10.0.1.80"', "leave one of them out"),
        (HOST + SERVICE + 'security_groups = ["functions"]', "give them to the host"),
        (HOST + SERVICE.replace('host = "db"', ""), "service 'web' has no address"),
        (
            HOST + SERVICE.replace('host = "db"', 'address = "10.0.1.50"'),
            "10.0.1.50 is the address of service 'web' too",
        ),
        (
            HOST + SERVICE + SERVICE.replace('"web"', '"web2"'),
            "service 'web' already listens on host db:80",
        ),
        (
            HOST + '[[network_interface]]\nname = "e"\nsubnet = "a"\naddress = "10.0.1.50"',
            "host 'db'",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, section: str, words: str) -> None:
    assert words in refused(tmp_path, VPC + section)
