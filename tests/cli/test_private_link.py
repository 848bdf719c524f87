# SPDX-License-Identifier: Apache-2.0
"""endpoints, endpoint-services."""

from __future__ import annotations

import json

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi

CONNECTION = {
    "VpcEndpointId": "vpce-0123456789abcdef0",
    "VpcEndpointName": "orders",
    "VpcEndpointOwner": "222222222222",
    "VpcEndpointState": "PendingAcceptance",
    "VpcName": "bank",
}
SERVICE = {
    "ServiceId": "vpce-svc-0123456789abcdef0",
    "ServiceName": "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0",
    "Name": "orders",
    "VpcName": "shop",
    "LoadBalancerName": "front",
    "AcceptanceRequired": True,
    "AllowedPrincipals": ["222222222222"],
    "Connections": [CONNECTION],
}
ENDPOINT = {
    "VpcEndpointId": "vpce-0123456789abcdef0",
    "Name": "orders",
    "VpcName": "bank",
    "VpcEndpointType": "Interface",
    "ServiceName": SERVICE["ServiceName"],
    "EndpointService": "shop/orders",
    "State": "Available",
    "Subnets": [
        {"ZoneName": "a", "PrivateIPv4Address": "10.0.1.100"},
        {"ZoneName": "b", "PrivateIPv4Address": "10.0.2.200"},
    ],
    "Groups": [{"GroupName": "orders"}],
    "PrivateDnsEnabled": True,
    "PrivateDnsName": "orders.example.com",
}
GATEWAY_ENDPOINT = {
    "VpcEndpointId": "vpce-1123456789abcdef0",
    "Name": "store",
    "VpcName": "bank",
    "VpcEndpointType": "Gateway",
    "ServiceName": "com.amazonaws.us-east-1.s3",
    "State": "Available",
    "RouteTables": [{"RouteTableName": "private"}, {"RouteTableName": "public"}],
}


def test_endpoints_show_where_they_lead(run: Run, api: FakeApi) -> None:
    gone = ENDPOINT | {"State": "Rejected", "EndpointService": None, "PrivateDnsEnabled": False}
    api.answers["/v1/endpoints"] = [ENDPOINT, gone]
    api.answers["/v1/gateway-endpoints"] = [GATEWAY_ENDPOINT]
    _, first, second, third = run("endpoints").stdout.splitlines()
    assert first.split("\t") == [
        "bank",
        "orders",
        "Interface",
        "Available",
        "shop/orders",
        "a; b",
        "10.0.1.100; 10.0.2.200",
        "orders",
        "orders.example.com",
        "vpce-0123456789abcdef0",
    ]
    assert second.split("\t")[3:5] == ["Rejected", SERVICE["ServiceName"]]
    assert second.split("\t")[8] == "-"
    assert third.split("\t") == [
        "bank",
        "store",
        "Gateway",
        "Available",
        "com.amazonaws.us-east-1.s3",
        "-",
        "private; public",
        "-",
        "-",
        "vpce-1123456789abcdef0",
    ]
    found = json.loads(run("endpoints", "--json").stdout)
    assert found == [ENDPOINT, gone, GATEWAY_ENDPOINT]


def test_services_show_their_endpoints(run: Run, api: FakeApi) -> None:
    api.answers["/v1/endpoint-services"] = [SERVICE, SERVICE | {"Connections": []}]
    _, first, second = run("endpoint-services").stdout.splitlines()
    assert first.split("\t") == [
        "shop",
        "orders",
        "front",
        "required",
        "222222222222",
        "bank/orders",
        "PendingAcceptance",
        SERVICE["ServiceName"],
    ]
    assert second.split("\t")[5:7] == ["-", "-"]
    assert json.loads(run("endpoint-services", "--json").stdout)[0] == SERVICE


def test_endpoints_are_accepted_and_rejected_by_their_service(run: Run, api: FakeApi) -> None:
    other = CONNECTION | {"VpcEndpointId": "vpce-1", "VpcName": "other"}
    api.answers["/v1/endpoint-services"] = [SERVICE | {"Connections": [CONNECTION, other]}]
    path = f"/v1/endpoint-services/{SERVICE['ServiceId']}"
    api.answers[path] = SERVICE
    run("endpoint-services", "--accept", "bank/orders", "--reject", "vpce-1")
    assert [each for each in api.requests if not each.startswith("GET")] == [f"PATCH {path}"] * 2
    assert api.bodies == [{"accept": [CONNECTION["VpcEndpointId"]]}, {"reject": ["vpce-1"]}]


def test_who_is_meant_must_be_clear(run: Run, api: FakeApi) -> None:
    other = CONNECTION | {"VpcEndpointId": "vpce-1", "VpcName": "other"}
    api.answers["/v1/endpoint-services"] = [SERVICE | {"Connections": [CONNECTION, other]}]
    for name, words in (("orders", "there are 2 endpoints 'orders'"), ("x", "no endpoint 'x'")):
        done = run("endpoint-services", "--accept", name)
        assert (done.exit_code, words in done.stderr) == (2, True)
