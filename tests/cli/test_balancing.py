# SPDX-License-Identifier: Apache-2.0
"""load-balancers, target-health."""

from __future__ import annotations

import json

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

BALANCER = {
    "VpcName": "shop",
    "LoadBalancerName": "front",
    "State": "active",
    "DNSName": "front-0123456789abcdef.elb.us-east-1.amazonaws.com",
    "AvailabilityZones": [
        {"ZoneName": "a", "PrivateIPv4Address": "10.0.1.100", "IpAddress": "203.0.113.20"},
        {"ZoneName": "b", "PrivateIPv4Address": "10.0.2.100", "IpAddress": None},
    ],
    "Attributes": {"load_balancing.cross_zone.enabled": "false"},
    "Listeners": [
        {"Protocol": "UDP", "Port": 53, "TargetGroupName": "names"},
        {"Protocol": "TCP", "Port": 80, "TargetGroupName": "web"},
    ],
}
TARGET = {
    "VpcName": "shop",
    "TargetGroupName": "web",
    "LoadBalancerName": "front",
    "Id": "i-1",
    "HostName": "web-a",
    "Address": "10.0.1.11",
    "Port": 80,
    "AvailabilityZone": "a",
    "State": "unhealthy",
    "Reason": "Target.Timeout",
    "Description": "Request timed out",
}


def test_load_balancers_show_nodes_and_listeners(run: Run, api: FakeApi) -> None:
    bare = BALANCER | {"LoadBalancerName": "bare", "Listeners": [], "State": "provisioning"}
    api.answers["/v1/load-balancers"] = [BALANCER, bare]
    _, first, second = run("load-balancers").stdout.splitlines()
    assert first.split("\t") == [
        "shop",
        "front",
        "active",
        "a; b",
        "10.0.1.100; 10.0.2.100",
        "203.0.113.20; -",
        "UDP 53; TCP 80",
        "names; web",
        "false",
        BALANCER["DNSName"],
    ]
    assert second.split("\t")[1:3] == ["bare", "provisioning"]
    assert second.split("\t")[6:8] == ["-", "-"]
    assert json.loads(run("load-balancers", "--json").stdout) == [BALANCER, bare]


def test_targets_show_their_health_and_why(run: Run, api: FakeApi) -> None:
    address = TARGET | {
        "HostName": None,
        "Id": "10.0.9.9",
        "State": "healthy",
        "Reason": None,
        "Description": None,
        "LoadBalancerName": None,
    }
    api.answers["/v1/target-health"] = [TARGET, address]
    _, first, second = run("target-health").stdout.splitlines()
    assert first.split("\t") == [
        *("shop", "web", "front", "web-a", "10.0.1.11", "80", "a"),
        *("unhealthy", "Target.Timeout", "Request timed out"),
    ]
    assert second.split("\t")[2:4] == ["-", "10.0.9.9"]
    assert second.split("\t")[7:] == ["healthy", "-", "-"]
    assert json.loads(run("target-health", "--json").stdout) == [TARGET, address]
