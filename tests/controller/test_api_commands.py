# SPDX-License-Identifier: Apache-2.0
"""One resource at a time through the control API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from tests.controller.region_lab import RegionLab, talk


async def ask(
    client: aiohttp.ClientSession, method: str, path: str, body: object = None
) -> tuple[int, Any]:
    async with client.request(method, path, json=body) as response:
        return response.status, await response.json()


async def done(
    client: aiohttp.ClientSession, method: str, path: str, body: object = None
) -> dict[str, Any]:
    status, answer = await ask(client, method, path, body)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def refused(
    client: aiohttp.ClientSession, method: str, path: str, body: object = None
) -> tuple[int, str]:
    status, answer = await ask(client, method, path, body)
    assert set(answer) == {"error", "message"}
    assert answer["message"].endswith(")")
    return status, answer["error"]


def test_from_a_vpc_to_a_function_and_back(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        vpc = await done(client, "POST", "/v1/vpcs", {"cidr": "10.0.0.0/16", "name": "shop"})
        subnet = await done(
            client, "POST", "/v1/subnets", {"vpc": vpc["VpcId"], "cidr": "10.0.1.0/24", "name": "a"}
        )
        group = await done(client, "POST", "/v1/security-groups", {"vpc": "shop", "name": "app"})
        assert group["IpPermissionsEgress"] == [
            {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        ]
        rows = (await ask(client, "GET", "/v1/subnets"))[1]
        assert subnet in rows
        function = await done(
            client,
            "POST",
            "/v1/functions",
            {"name": "f", "subnets": ["shop/a"], "security_groups": [group["GroupId"]]},
        )
        assert function["State"] == "Pending"
        assert function["VpcConfig"]["SubnetIds"] == [subnet["SubnetId"]]
        path = f"/v1/security-groups/{group['GroupId']}"
        changed = await done(
            client,
            "PATCH",
            path,
            {
                "revoke_egress": [{"protocol": "all", "cidr": "0.0.0.0/0"}],
                "authorize_egress": [{"protocol": "tcp", "ports": "443", "cidr": "10.0.0.0/16"}],
            },
        )
        (rule,) = changed["IpPermissionsEgress"]
        assert (rule["FromPort"], rule["ToPort"]) == (443, 443)
        asked = ("PATCH", "/v1/functions/f", {"memory_mb": 512})
        assert await refused(client, *asked) == (409, "ResourceConflictException")
        lab.clock.pass_seconds(90)
        changed = await done(client, *asked)
        assert changed["MemorySize"] == 512
        assert await refused(client, "DELETE", "/v1/vpcs/shop") == (400, "DependencyViolation")
        assert await refused(client, "DELETE", "/v1/subnets/shop%2Fa") == (
            400,
            "DependencyViolation",
        )
        await done(client, "DELETE", "/v1/functions/f")
        lab.clock.pass_seconds(3600)
        lab.region.advance()
        for interface in lab.region.deleting():
            lab.region.interface_removed(interface)
        await done(client, "DELETE", path)
        await done(client, "DELETE", "/v1/subnets/shop%2Fa")
        await done(client, "DELETE", "/v1/vpcs/shop")
        assert await refused(client, "DELETE", "/v1/vpcs/shop") == (400, "InvalidVpcID.NotFound")

    talk(directory, lab, work)


def test_a_service_and_an_account(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        account = await done(client, "POST", "/v1/accounts", {"name": "bank"})
        assert (await ask(client, "GET", "/v1/accounts"))[1][0] == account
        await done(client, "DELETE", f"/v1/accounts/{account['Id']}")
        asked = {
            "vpc": "customer",
            "name": "web",
            "kind": "http",
            "address": "10.0.1.80",
            "port": 80,
        }
        service = await done(client, "POST", "/v1/services", asked)
        path = f"/v1/services/{service['ServiceId']}"
        changed = await done(client, "PATCH", path, {"port": 8080, "security_groups": ["app"]})
        assert changed["Port"] == 8080
        assert changed["Groups"][0]["GroupName"] == "app"
        assert await refused(client, "PATCH", path, {"address": "10.0.1.2"}) == (
            400,
            "InvalidParameterValue",
        )
        await done(client, "DELETE", path)

    talk(directory, RegionLab(), work)


def test_a_client_token(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"cidr": "10.0.0.0/16", "client_token": "once"}
        first = await done(client, "POST", "/v1/vpcs", asked)
        assert await done(client, "POST", "/v1/vpcs", asked) == first
        again = {"cidr": "10.0.0.0/16", "client_token": "twice"}
        assert await done(client, "POST", "/v1/vpcs", again) != first

    talk(directory, RegionLab(), work)


def test_what_is_no_request(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        for path, body in (
            ("/v1/vpcs", {"cidr": "10.0.0.1/16"}),
            ("/v1/vpcs", {"cidr": "10.0.0.0/16", "colour": "blue"}),
            ("/v1/subnets", {"cidr": "10.0.0.0/16"}),
            ("/v1/functions", {"name": "a b"}),
        ):
            status, code = await refused(client, "POST", path, body)
            assert (status, code) == (400, "InvalidParameterValueException"), body

    talk(directory, RegionLab(), work)


def test_a_rule_names_a_group_by_its_name_or_id(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        groups = {
            row["GroupName"]: row["GroupId"]
            for row in (await ask(client, "GET", "/v1/security-groups"))[1]
        }
        for ports, named in (("1", "db"), ("2", groups["db"]), ("3", "customer/db")):
            rule = {"protocol": "tcp", "ports": ports, "group": named}
            changed = await done(
                client,
                "PATCH",
                f"/v1/security-groups/{groups['app']}",
                {"authorize_ingress": [rule]},
            )
            assert changed["IpPermissions"][-1]["UserIdGroupPairs"] == [{"GroupId": groups["db"]}]

    talk(directory, RegionLab(), work)
