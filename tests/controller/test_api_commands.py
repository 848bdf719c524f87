# SPDX-License-Identifier: Apache-2.0
"""One resource at a time through the control API."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.controller.api import service
from hyperplane_nat.runtime.code import OWN_RUNTIME
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


def zipped(**files: str) -> str:
    """An archive of these modules, as a request has it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return base64.b64encode(content.getvalue()).decode()


def test_a_function_with_code(directory: Path) -> None:
    lab = RegionLab()

    # It has the time in it.
    code = zipped(app="1")

    async def work(client: aiohttp.ClientSession) -> None:
        asked = {
            "name": "coded",
            "zip_file": code,
            "handler": "app.handler",
            "timeout_seconds": 5,
            "environment": {"TABLE": "t"},
            "client_token": "once",
        }
        made = await done(client, "POST", "/v1/functions", asked)
        assert made["Code"]["Handler"] == "app.handler"
        assert made["Code"]["Runtime"] == OWN_RUNTIME
        assert made["Code"]["Timeout"] == 5
        content = base64.b64decode(code)
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert made["Code"]["CodeSha256"] == digest
        assert made["Environment"] == {"Variables": {"TABLE": "t"}}
        assert await done(client, "POST", "/v1/functions", asked) == made
        lab.settle()
        path = "/v1/functions/coded"
        other = await done(client, "PUT", f"{path}/code", {"zip_file": zipped(app="2")})
        assert other["Code"]["CodeSha256"] != digest
        assert other["Code"]["Handler"] == "app.handler"
        change = {"handler": "app.other", "timeout_seconds": 9, "environment": {}}
        changed = await done(client, "PATCH", path, change)
        assert changed["Code"] == {**other["Code"], "Handler": "app.other", "Timeout": 9}
        assert changed["Environment"] == {"Variables": {}}
        version = await done(client, "POST", f"{path}/versions", {"client_token": "publish"})
        assert (version["FunctionName"], version["Version"]) == ("coded", "1")
        again = await done(client, "POST", f"{path}/versions", {"client_token": "publish"})
        assert again == version
        named = await done(client, "PUT", "/v1/aliases/coded:live", {"version": "1"})
        assert [each["FunctionVersion"] for each in named["Aliases"]] == ["1"]
        assert [each["RoutingConfig"] for each in named["Aliases"]] == [
            {"AdditionalVersionWeights": {}}
        ]
        lab.settle()
        assert lab.region.function("coded:live").code == lab.region.function("coded").code
        async with client.get("http://lab/v1/function-versions") as answer:
            assert [row["Version"] for row in await answer.json()] == ["1"]
        await done(client, "DELETE", "/v1/aliases/coded:live")
        await done(client, "DELETE", f"{path}:1")

    talk(directory, lab, work)


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "", {"name": "f", "handler": "app.handler"}, "InvalidParameterValueException"),
        ("POST", "", {"name": "f", "zip_file": zipped(app="")}, "InvalidParameterValueException"),
        (
            "POST",
            "",
            {"name": "f", "zip_file": zipped(app=""), "handler": "a.b", "runtime": "cobol1"},
            "InvalidParameterValueException",
        ),
        (
            "POST",
            "",
            {"name": "f", "zip_file": "bm8gemlw", "handler": "a.b"},
            "InvalidParameterValueException",
        ),
        (
            "POST",
            "",
            {"name": "f", "zip_file": zipped(), "handler": "a.b"},
            "InvalidParameterValueException",
        ),
        ("PUT", "/hook/code", {"zip_file": zipped(app="")}, "InvalidParameterValueException"),
        ("PUT", "/hook/code", {}, "InvalidParameterValueException"),
        ("PATCH", "/hook", {"timeout_seconds": 5}, "InvalidParameterValueException"),
        ("PUT", "/nobody/code", {"zip_file": zipped(app="")}, "ResourceNotFoundException"),
        (
            "POST",
            "",
            {
                "name": "f",
                "zip_file": zipped(app=""),
                "handler": "a.b",
                "environment": {"AWS_REGION": "x"},
            },
            "InvalidParameterValueException",
        ),
    ],
)
def test_code_that_is_refused(
    directory: Path, method: str, path: str, body: dict[str, Any], code: str
) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        status = 404 if code == "ResourceNotFoundException" else 400
        assert await refused(client, method, f"/v1/functions{path}", body) == (status, code)

    talk(directory, RegionLab(), work)


def test_code_that_is_too_large(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        # More than other requests may have.
        body = {"zip_file": "A" * (5 << 20)}
        error = await refused(client, "PUT", "/v1/functions/hook/code", body)
        assert error == (400, "InvalidParameterValueException")
        assert (await refused(client, "POST", "/v1/vpcs", body))[0] == 413

    talk(directory, RegionLab(), work)

    async def more(client: aiohttp.ClientSession) -> None:
        body = {"zip_file": "A" * (5 << 20)}
        error = await refused(client, "PUT", "/v1/functions/hook/code", body)
        assert error == (413, "RequestEntityTooLargeException")

    monkeypatch.setattr(service, "REQUEST_BYTES_MAX", 4 << 20)
    talk(directory, RegionLab(), more)


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
