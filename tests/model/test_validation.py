# SPDX-License-Identifier: Apache-2.0
"""Everything that is wrong with a wish by itself, and the name under which AWS refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.resources import (
    AccountResource,
    Code,
    Layer,
    Networking,
    Resources,
    RuleResource,
    SecurityGroupResource,
)
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.validation import validate
from tests.model.support import NONE, Scene, function, interface, lab, rule, service, vpc

SIX = tuple(f"g{number}" for number in range(6))
SEVENTEEN = tuple(f"s{number}" for number in range(17))


def group(*rules: RuleResource, direction: str = "ingress") -> Resources:
    empty = SecurityGroupResource("app")
    made = replace(empty, ingress=rules) if direction == "ingress" else replace(empty, egress=rules)
    return lab(vpcs=(vpc(groups=(made, "db")),))


def running(**changes: Any) -> Resources:
    code = replace(Code("/code", "", "app.handler", "python3.11"), **changes)
    return lab(replace(function("f"), code=code))


WRONG = {
    "two accounts of a name": (
        lab(accounts=(AccountResource("shop"), AccountResource("shop"))),
        "InvalidParameterValue",
    ),
    "account id": (lab(accounts=(AccountResource("shop", "12"),)), "InvalidParameterValue"),
    "the Lambda account": (
        lab(accounts=(AccountResource("shop", "999999999999"),)),
        "InvalidParameterValue",
    ),
    "unknown account of a VPC": (lab(vpcs=(vpc(account="no"),)), "InvalidParameterValue"),
    "unknown account of a function": (
        lab(function("f", NONE, account="no")),
        "InvalidParameterValueException",
    ),
    "two VPCs of a name": (lab(vpcs=(vpc(), vpc())), "InvalidParameterValue"),
    "the name of the internet": (lab(vpcs=(vpc("internet"),)), "InvalidParameterValue"),
    "two functions of a name": (lab(function("f"), function("f")), "InvalidParameterValue"),
    "overlapping subnets": (
        lab(vpcs=(vpc(subnets=(("a", "10.0.1.0/24"), ("b", "10.0.1.128/25"))),)),
        "InvalidSubnet.Conflict",
    ),
    "overlapping subnets, not side by side": (
        lab(
            vpcs=(vpc(subnets=(("a", "10.0.0.0/17"), ("b", "10.0.1.0/24"), ("c", "10.0.2.0/24"))),)
        ),
        "InvalidSubnet.Conflict",
    ),
    "subnet outside its VPC": (
        lab(vpcs=(vpc(subnets=(("a", "10.1.1.0/24"),)),)),
        "InvalidSubnet.Range",
    ),
    "tiny subnet": (lab(vpcs=(vpc(subnets=(("a", "10.0.1.0/29"),)),)), "InvalidSubnet.Range"),
    "reversed ports": (group(rule("tcp", 2048, 1024, cidr="0.0.0.0/0")), "InvalidParameterValue"),
    "a port too high": (group(rule("udp", 1, 65536, cidr="0.0.0.0/0")), "InvalidParameterValue"),
    "rule without peer": (group(rule("tcp", 1, 2)), "InvalidPermission.Malformed"),
    "rule with two peers": (
        group(rule("tcp", 1, 2, cidr="0.0.0.0/0", group="db")),
        "InvalidPermission.Malformed",
    ),
    "group of another VPC": (
        lab(
            vpcs=(
                vpc(groups=(SecurityGroupResource("app", ingress=(rule(group="far"),)),)),
                vpc("other", groups=("far",)),
            )
        ),
        "InvalidGroup.NotFound",
    ),
    "61 rules": (
        group(*(rule("tcp", n, n, cidr="10.0.0.0/8") for n in range(61)), direction="egress"),
        "RulesPerSecurityGroupLimitExceeded",
    ),
    "service in no subnet": (
        lab(vpcs=(vpc(services=(service("web", "10.0.9.9"),)),)),
        "InvalidParameterValue",
    ),
    "service at a reserved address": (
        lab(vpcs=(vpc(services=(service("web", "10.0.1.3"),)),)),
        "InvalidParameterValue",
    ),
    "service at the last address": (
        lab(vpcs=(vpc(services=(service("web", "10.0.1.255"),)),)),
        "InvalidParameterValue",
    ),
    "service at an interface's address": (
        lab(
            vpcs=(vpc(services=(service("web", "10.0.1.9"),)),),
            interfaces=(interface("eni-a", "10.0.1.8", "10.0.1.9"),),
        ),
        "InvalidIPAddress.InUse",
    ),
    "interface outside its subnet": (
        lab(interfaces=(interface("eni-a", "10.0.2.9"),)),
        "InvalidParameterValue",
    ),
    "interface in no subnet": (
        lab(interfaces=(interface("eni-a", "10.0.1.9", subnet="z"),)),
        "InvalidSubnetID.NotFound",
    ),
    "two interfaces of a name": (
        lab(interfaces=(interface("eni-a", "10.0.1.8"), interface("eni-a", "10.0.1.9"))),
        "InvalidParameterValue",
    ),
    "environments without an interface": (lab(environments=1), "InvalidParameterValue"),
    "service at another's endpoint": (
        lab(vpcs=(vpc(services=(service("web", "10.0.1.9"), service("web2", "10.0.1.9"))),)),
        "InvalidParameterValue",
    ),
    "service of an unknown kind": (
        lab(vpcs=(vpc(services=(service("web", "10.0.1.9", kind="ftp"),)),)),
        "InvalidParameterValue",
    ),
    "service at no port": (
        lab(vpcs=(vpc(services=(service("web", "10.0.1.9", port=0),)),)),
        "InvalidParameterValue",
    ),
    "service with a group of another VPC": (
        lab(vpcs=(vpc(services=(service("web", "10.0.1.9", groups=("far",)),)),)),
        "InvalidGroup.NotFound",
    ),
    "host with groups": (
        lab(internet=(service("host", "198.51.100.1", groups=("app",)),)),
        "InvalidParameterValue",
    ),
    "host at the Lambda service's addresses": (
        lab(internet=(service("host", "192.0.2.9"),)),
        "InvalidParameterValue",
    ),
    "function without a VPC": (
        lab(function("f", vpc=None)),
        "InvalidParameterValueException",
    ),
    "function in an unknown VPC": (
        lab(function("f", vpc="no")),
        "InvalidParameterValueException",
    ),
    "function in another account's VPC": (
        lab(function("f", account="bank")),
        "InvalidParameterValueException",
    ),
    "function without groups": (
        lab(function("f", groups=())),
        "InvalidParameterValueException",
    ),
    "function in an unknown subnet": (
        lab(function("f", subnets=("no",))),
        "InvalidParameterValueException",
    ),
    "function with an unknown group": (
        lab(function("f", groups=("no",))),
        "InvalidParameterValueException",
    ),
    "function with a subnet twice": (
        lab(function("f", subnets=("a", "a"))),
        "InvalidParameterValue",
    ),
    "no networking but a VPC": (
        lab(replace(function("f"), networking=Networking.NONE)),
        "InvalidParameterValueException",
    ),
    "six groups": (
        lab(function("f", groups=SIX), vpcs=(vpc(groups=SIX),)),
        "InvalidParameterValueException",
    ),
    "seventeen subnets": (
        lab(
            function("f", subnets=SEVENTEEN),
            vpcs=(vpc(subnets=[(name, f"10.0.{n}.0/24") for n, name in enumerate(SEVENTEEN)]),),
        ),
        "InvalidParameterValueException",
    ),
    "no memory": (lab(function("f", memory_mb=64)), "InvalidParameterValueException"),
    "no runtime of ours": (running(runtime="ruby3.3"), "InvalidParameterValueException"),
    "no module of Node.js": (
        running(runtime="nodejs20.x", handler="handler"),
        "InvalidParameterValueException",
    ),
    "six layers": (running(layers=(Layer("/l", ""),) * 6), "InvalidParameterValueException"),
    "handler without a module": (running(handler="handler"), "InvalidParameterValueException"),
    "handler with a space": (running(handler="app. handler"), "InvalidParameterValueException"),
    "handler with a zero": (running(handler="a\0b.c"), "InvalidParameterValueException"),
    "no room": (running(ephemeral_storage_mb=511), "InvalidParameterValueException"),
    "no time": (running(timeout_seconds=0), "InvalidParameterValueException"),
    "a reserved variable": (
        lab(replace(function("f"), environment=(("AWS_REGION", "x"),))),
        "InvalidParameterValueException",
    ),
    "no variable": (
        lab(replace(function("f"), environment=(("1A", "x"),))),
        "InvalidParameterValueException",
    ),
    "more than 4 KB of variables": (
        lab(replace(function("f"), environment=(("LONG", "x" * 4096),))),
        "InvalidParameterValueException",
    ),
}


@pytest.mark.parametrize(("wanted", "code"), WRONG.values(), ids=WRONG.keys())
def test_it_is_refused_in_one_line_with_aws_s_name(wanted: Resources, code: str) -> None:
    scene = Scene()
    scene.apply(lab(function("standing")))
    before = scene.region.document()
    with pytest.raises(ModelError) as refused:
        scene.region.plan(wanted)
    assert refused.value.code == code
    assert "\n" not in str(refused.value)
    assert refused.value.remedy
    assert scene.region.document() == before


@pytest.mark.requirement("AWS-vpc-config-limits", profile="both")
def test_limits_are_settings() -> None:
    wanted = lab(function("f", groups=SIX), vpcs=(vpc(groups=SIX),))
    validate(wanted, LifecycleSettings(groups_per_function=6))


def test_ports_mean_nothing_for_other_protocols() -> None:
    validate(group(rule("icmp", 9, 1, cidr="0.0.0.0/0")), LifecycleSettings())
