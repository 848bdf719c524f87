# SPDX-License-Identifier: Apache-2.0
"""Load balancers, targets, endpoint services and endpoints as pages are sent them."""

from __future__ import annotations

import json
from typing import Any

from hyperplane_nat.ui.balancing import TARGETS_SHOWN
from hyperplane_nat.ui.history import Trends
from hyperplane_nat.ui.reader import page_document
from tests.cli import test_balancing, test_private_link
from tests.cli.fake_api import FakeApi
from tests.ui.test_reader import seen

NODES = [
    {
        "ZoneName": zone,
        "SubnetName": f"front-{zone}",
        "PrivateIPv4Address": f"10.0.{number}.100",
        "IpAddress": None,
        "NetworkInterfaceId": f"eni-front-{zone}",
    }
    for number, zone in enumerate("ab", 1)
]
LISTENER = {"Protocol": "TCP", "Port": 80, "TargetGroupId": "group-1"}
BALANCER = test_balancing.BALANCER | {
    "LoadBalancerId": "balancer-1",
    "Scheme": "internal",
    "SecurityGroups": [{"GroupName": "front"}],
    "AvailabilityZones": NODES,
    "Listeners": [LISTENER, LISTENER | {"Port": 443}],
}
GROUP = {
    "TargetGroupId": "group-1",
    "TargetGroupName": "web",
    "VpcName": "shop",
    "Protocol": "TCP",
    "Port": 80,
    "TargetType": "instance",
    "HealthCheckProtocol": "HTTP",
    "HealthCheckPort": "traffic-port",
    "HealthCheckPath": "/peer",
    "Targets": [],
}
SERVICE = test_private_link.SERVICE | {
    "LoadBalancerId": "balancer-1",
    "PrivateDnsName": "orders.example.com",
}
ENDPOINT = test_private_link.ENDPOINT | {
    "Subnets": [
        {
            "ZoneName": "a",
            "SubnetName": "desk-a",
            "PrivateIPv4Address": "10.0.1.100",
            "NetworkInterfaceId": "eni-orders-a",
        }
    ]
}


def targets(count: int, unhealthy: int = 0) -> list[dict[str, Any]]:
    """So many, the last of which are unhealthy."""
    return [
        test_balancing.TARGET
        | {"Id": f"i-{number}", "HostName": f"web-{number:04}", "Address": f"10.0.1.{number % 250}"}
        | (
            {}
            if number >= count - unhealthy
            else {"State": "healthy", "Reason": None, "Description": None}
        )
        for number in range(count)
    ]


def answers(**more: Any) -> dict[str, Any]:
    """What a control API says that has one of each."""
    return {
        "/v1/load-balancers": [BALANCER],
        "/v1/target-groups": [GROUP | {"Targets": targets(50, 2)}],
        "/v1/endpoint-services": [SERVICE],
        "/v1/endpoints": [ENDPOINT],
        "/v1/gateway-endpoints": [test_private_link.GATEWAY_ENDPOINT],
        **more,
    }


def document(api: FakeApi, **more: Any) -> dict[str, Any]:
    now = seen(api.answers | answers(**more), 0.0)
    return page_document(now, now, Trends())


def test_load_balancers_have_their_nodes_and_listeners(api: FakeApi) -> None:
    (found,) = document(api)["load_balancers"]
    assert (found["vpc"], found["name"], found["state"]) == ("shop", "front", "active")
    assert [(each["zone"], each["address"], each["interface"]) for each in found["nodes"]] == [
        ("a", "10.0.1.100", "eni-front-a"),
        ("b", "10.0.2.100", "eni-front-b"),
    ]
    assert [(each["port"], each["target_group"]) for each in found["listeners"]] == [
        (80, "group-1"),
        (443, "group-1"),
    ]
    assert found["groups"] == ["front"]


def test_targets_that_are_unhealthy_come_first(api: FakeApi) -> None:
    (found,) = document(api)["target_groups"]
    assert found["states"] == {"healthy": 48, "unhealthy": 2}
    assert [each["host"] for each in found["targets"][:3]] == ["web-0048", "web-0049", "web-0000"]
    assert found["targets"][0]["reason"] == "Target.Timeout"
    assert found["check"] == "HTTP traffic-port/peer"
    bare = GROUP | {"HealthCheckPath": None, "HealthCheckProtocol": "TCP"}
    (found,) = document(api, **{"/v1/target-groups": [bare]})["target_groups"]
    assert (found["states"], found["check"]) == ({}, "TCP traffic-port")


def test_of_many_targets_some_are_sent_and_all_counted(api: FakeApi) -> None:
    many = [GROUP | {"Targets": targets(5000, 3)}]
    (found,) = document(api, **{"/v1/target-groups": many})["target_groups"]
    assert len(found["targets"]) == TARGETS_SHOWN
    assert found["states"] == {"healthy": 4997, "unhealthy": 3}
    assert len(json.dumps(found)) < 20_000


def test_endpoints_name_their_services(api: FakeApi) -> None:
    shown = document(api)
    (service,) = shown["endpoint_services"]
    assert (service["load_balancer"], service["acceptance_required"]) == ("balancer-1", True)
    interface, gateway = shown["endpoints"]
    assert (interface["vpc"], interface["service"]) == ("bank", "shop/orders")
    assert interface["service_name"] == service["service_name"]
    assert interface["nodes"][0]["interface"] == "eni-orders-a"
    assert interface["private_dns_name"] == "orders.example.com"
    assert (gateway["type"], gateway["route_tables"]) == ("Gateway", ["private", "public"])
    assert gateway["nodes"] == []
    hidden = ENDPOINT | {"PrivateDnsEnabled": False}
    assert document(api, **{"/v1/endpoints": [hidden]})["endpoints"][0]["private_dns_name"] is None
