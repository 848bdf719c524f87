# SPDX-License-Identifier: Apache-2.0
"""Lists in AWS's field names."""

from __future__ import annotations

import json

from hyperplane_nat.model.description import (
    describe_environments,
    describe_functions,
    describe_interfaces,
    describe_security_groups,
)
from hyperplane_nat.model.resources import SecurityGroupResource
from tests.model.support import NONE, OWN, Scene, function, lab, rule, vpc


def test_everything_is_told_in_json() -> None:
    scene = Scene()
    db = SecurityGroupResource(
        "db", ingress=(rule("tcp", 5432, 5432, group="app"), rule("icmp", cidr="10.0.0.0/8"))
    )
    scene.apply(
        lab(
            function("orders"),
            function("own", OWN),
            function("public", NONE),
            vpcs=(vpc(groups=("app", db)),),
        )
    )
    slot = scene.run("own").environment
    functions = describe_functions(scene.region)
    assert [(item["FunctionName"], item["State"]) for item in functions] == [
        ("orders", "Pending"),
        ("own", "Active"),
        ("public", "Active"),
    ]
    assert functions[2]["VpcConfig"] is None
    interfaces = describe_interfaces(scene.region)
    assert [(item["Kind"], item["Status"], item["References"]) for item in interfaces] == [
        ("hyperplane", "pending", 1),
        ("internet", "in-use", 1),
        ("per-environment", "in-use", 1),
    ]
    assert all(item["InterfaceType"] == "lambda" for item in interfaces)
    assert all(item["RequesterManaged"] is True for item in interfaces)
    app, described = describe_security_groups(scene.region)
    assert len(app["NetworkInterfaceIds"]) == 2
    assert described["IpPermissions"] == [
        {
            "IpProtocol": "tcp",
            "FromPort": 5432,
            "ToPort": 5432,
            "UserIdGroupPairs": [{"GroupId": app["GroupId"]}],
        },
        {"IpProtocol": "icmp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
    ]
    assert described["IpPermissionsEgress"][0]["IpProtocol"] == "-1"
    (environment,) = describe_environments(scene.region)
    assert (environment["Slot"], environment["State"]) == (slot, "busy")
    json.dumps([functions, interfaces, app, described, environment])
