# SPDX-License-Identifier: Apache-2.0
"""Descriptions of a lab that are impossible are refused."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from netns import NetnsError, namespace, topology
from netns.topology import InterfaceSpec
from tests.netns.conftest import lab_spec

VPC = lab_spec("x").vpcs[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lab": "Upper"}, "invalid lab name"),
        ({"lab": "a" * 16}, "invalid lab name"),
        ({"lab": ""}, "invalid lab name"),
        ({"lab": "a-vpc-b"}, "invalid lab name"),
        ({"lab": "a-vpc"}, "invalid lab name"),
        ({"lab": "../a"}, "invalid lab name"),
        ({"environments": -1}, "environments are asked for"),
        ({"environments": 16385}, "environments are asked for"),
        ({"inside_address": "169.254.100"}, "Expected 4 octets"),
        ({"inside_gateway": "10.0.0.1"}, "no neighbour"),
        ({"inside_gateway": "169.254.100.2"}, "no neighbour"),
        ({"environment_mtu": 67}, "MTU"),
        ({"vpcs": (replace(VPC, mtu=65536),)}, "MTU"),
        ({"vpcs": (replace(VPC, name="A"),)}, "invalid VPC name"),
        ({"vpcs": (replace(VPC, addresses=("10.0.1.300",)),)}, "not permitted"),
        ({"vpcs": (VPC, replace(VPC, interfaces=()))}, "two VPCs are named 'customer'"),
        ({"vpcs": (VPC, replace(VPC, name="b"))}, "two network interfaces are named 'eni-a'"),
    ],
)
def test_impossible_specs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(NetnsError, match=message) as caught:
        topology.check(lab_spec(**({"lab": "x"} | changes)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eni-0123456789-a", "16 characters long"),
        ("", "invalid link name"),
        ("a/b", "invalid link name"),
        ("a b", "invalid link name"),
        ("lo", "cannot be named"),
        ("all", "cannot be named"),
        ("env7", "cannot be named"),
    ],
)
def test_impossible_interface_names(name: str, message: str) -> None:
    vpc = replace(VPC, interfaces=(InterfaceSpec(name, "10.0.1.10"),))
    with pytest.raises(NetnsError, match=message):
        topology.check(lab_spec("x", vpcs=(vpc,)))


def test_strays_are_those_of_one_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(namespace, "DIRECTORY", tmp_path)
    mine = {"hp-a-gw", "hp-a-vpc-b", "hp-a-vpc-b-c", "hp-a-env-1", "hp-a-env-1000"}
    others = {
        *("hp-a-b-gw", "hp-ab-gw", "hp-a-b-env-1", "hp-a-env-1-gw", "hp-a-env-1-env-2"),
        *("hp-a-gw-gw", "hp-a-env-", "hp-a-env-x", "hp-a-vpc-", "hp-a-gw2", "xhp-a-gw", "gw"),
    }
    for name in mine | others:
        (tmp_path / name).touch()
    assert set(topology.strays("a")) == mine


def test_no_name_belongs_to_two_labs() -> None:
    parts = ["a", "vpc", "env", "gw", "1", "b"]
    generator = random.Random(7)
    owners: dict[str, tuple[str, str]] = {}
    for _ in range(20000):
        lab = "-".join(generator.choices(parts, k=generator.randint(1, 3)))
        rest = "-".join(generator.choices(parts, k=generator.randint(1, 3)))
        try:
            names = {
                topology.gateway_namespace(lab),
                topology.vpc_namespace(lab, rest),
                topology.environment_namespace(lab, 1),
            }
        except NetnsError:
            continue
        for name in names:
            assert owners.setdefault(name, (name, lab)) == (name, lab)
