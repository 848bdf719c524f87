# SPDX-License-Identifier: Apache-2.0
"""Functions through the control API: what is asked reaches the model, what it says comes back."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.config.lab import ConfigError
from hyperplane_nat.controller.api.requests import BODY_BYTES_MAX
from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.model.errors import ModelError
from tests.controller.region_lab import FUNCTIONS, POOL, RegionLab, document_of, talk

ORDERS = "/v1/functions/orders/invocations"

Answer = tuple[int, Any]


async def get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.json()


async def post(client: aiohttp.ClientSession, path: str, body: object) -> Answer:
    async with client.post(path, json=body) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


def error_of(answer: Answer) -> tuple[int, str]:
    """Status and code of an error, whose form is checked."""
    status, document = answer
    assert set(document) == {"error", "message"}
    assert document["message"].isprintable()
    assert document["message"].rstrip("s").endswith((")", "more problem"))
    return status, document["error"]


def test_functions_and_groups(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        functions = {row["FunctionName"]: row for row in await get(client, "/v1/functions")}
        assert set(functions) == {"orders", "reports", "hook"}
        assert functions["orders"]["State"] == "Active"
        assert functions["hook"]["VpcConfig"] is None
        groups = {row["GroupName"]: row for row in await get(client, "/v1/security-groups")}
        assert functions["orders"]["NetworkInterfaceIds"] == groups["app"]["NetworkInterfaceIds"]
        assert groups["db"]["IpPermissions"][0]["FromPort"] == 5432

    talk(directory, RegionLab(), work)


def test_interfaces_and_environments_of_all_kinds(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        await post(client, ORDERS, {"command": ["true"]})
        await post(client, "/v1/functions/reports/invocations", {"command": ["true"]})
        interfaces = await get(client, "/v1/interfaces")
        assert [row["kind"] for row in interfaces] == [
            "static",
            "hyperplane",
            "internet",
            "per-environment",
        ]
        environments = await get(client, "/v1/environments")
        assert {row["state"] for row in environments} == {"static", "pooled", "idle"}
        assert [row["function"] for row in environments if row["state"] == "idle"] == [
            "orders",
            "reports",
        ]
        assert all((row["interface"] is None) == (row["state"] == "pooled") for row in environments)
        (own,) = await get(client, "/v1/environments?function=orders")
        assert own["function"] == "orders"

    talk(directory, RegionLab(), work)


def test_invocation_cold_and_warm(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        asked = {
            "command": ["cat", "-"],
            "stdin": base64.b64encode(b"\x00\xff").decode(),
            "timeout_seconds": 3,
        }
        status, first = await post(client, ORDERS, asked)
        assert status == 200
        assert base64.b64decode(first["stdout"]) == b"\x00\xff"
        assert (first["status"], first["stderr"], first["cold"]) == (0, "", True)
        _, second = await post(client, ORDERS, asked)
        assert (second["cold"], second["modelled_seconds"]) == (False, 0)
        assert first["environment"] == second["environment"]
        _, own = await post(client, "/v1/functions/reports/invocations", asked)
        assert own["interface_created"]
        assert own["modelled_seconds"] == 12

    talk(directory, RegionLab(), work)


def test_program_that_a_signal_ends(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        _, document = await post(client, ORDERS, {"command": ["sleep"], "timeout_seconds": 0.5})
        assert (document["status"], document["timed_out"]) == (-9, True)

    talk(directory, RegionLab(), work)


def test_client_token_is_passed_on(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"command": ["true"], "client_token": "once"}
        first = await post(client, ORDERS, asked)
        assert await post(client, ORDERS, asked) == first
        assert first[1]["cold"]

    talk(directory, RegionLab(), work)


@pytest.mark.parametrize(
    ("program", "code"),
    [("/missing", "ProgramNotFound"), ("/etc/passwd", "ProgramNotExecutable")],
)
def test_program_that_cannot_be_run(directory: Path, program: str, code: str) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        assert error_of(await post(client, ORDERS, {"command": [program]})) == (422, code)

    talk(directory, RegionLab(), work)


def test_provision(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        status, document = await post(client, "/v1/functions/orders/provision", {"count": 5})
        assert (status, document["started"], document["error"]) == (200, 5, None)
        assert len(document["network_ready_seconds"]) == 5
        assert document["addresses"] == len(document["interfaces"]) == 1

    talk(directory, RegionLab(), work)


def test_provision_more_than_a_subnet_or_the_pool_holds(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        _, document = await post(client, "/v1/functions/reports/provision", {"count": POOL})
        assert document["error"]["code"] == "SubnetIPAddressLimitReachedException"
        assert document["started"] == document["addresses"] == 11
        left = {"count": POOL}
        status, document = await post(client, "/v1/functions/orders/provision", left)
        assert (status, document["started"]) == (200, POOL - 11)
        assert document["error"]["code"] == "TooManyRequestsException"
        answer = await post(client, "/v1/functions/hook/provision", left)
        assert error_of(answer) == (429, "TooManyRequestsException")

    talk(directory, RegionLab(), work)


def test_apply_tells_does_and_then_has_nothing_to_do(directory: Path) -> None:
    wanted = document_of(function=FUNCTIONS[:2])

    async def work(client: aiohttp.ClientSession) -> None:
        status, document = await post(client, "/v1/apply", {"config": wanted, "dry_run": True})
        (step,) = document["plan"]
        assert status == 200
        assert (step["action"], step["kind"], step["name"]) == ("delete", "function", "hook")
        assert not document["applied"]
        assert len(await get(client, "/v1/functions")) == 3
        _, document = await post(client, "/v1/apply", {"config": wanted})
        assert document == {"plan": [step], "applied": True}
        assert await get(client, "/v1/config") == wanted
        _, document = await post(client, "/v1/apply", {"config": wanted, "client_token": "b"})
        assert document == {"plan": [], "applied": True}

    talk(directory, RegionLab(), work)


def test_configuration_that_cannot_be_applied_changes_nothing(directory: Path) -> None:
    used = document_of(function=FUNCTIONS[1:])
    used["vpc"][0]["security_group"] = [{"name": "db"}]
    used["function"][0]["security_groups"] = ["db"]

    async def work(client: aiohttp.ClientSession) -> None:
        before = await get(client, "/v1/functions")
        answer = await post(client, "/v1/apply", {"config": used})
        assert error_of(answer) == (400, "DependencyViolation")
        answer = await post(client, "/v1/apply", {"config": {"labs": {}}})
        assert error_of(answer) == (400, "InvalidParameterValueException")
        assert await get(client, "/v1/functions") == before

    talk(directory, RegionLab(), work)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ModelError("ResourceNotFoundException", "none", "make it"), 404, None),
        (ModelError("ResourceConflictException", "Pending", "wait"), 409, None),
        (ModelError("ResourceNotReadyException", "Inactive", "wait"), 502, None),
        (ModelError("TooManyRequestsException", "empty", "wait"), 429, None),
        (ModelError("ENILimitReachedException", "500", "raise it"), 502, None),
        (ModelError("IdempotentParameterMismatch", "token\nused", "another"), 400, None),
        (ConfigError("lab.toml: x (y)"), 400, "InvalidParameterValueException"),
        (ForwarderError("away (wait)"), 503, "forwarder_unavailable"),
        (RuntimeError("a\nbug"), 500, "internal"),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/apply", {"config": {}}),
        (ORDERS, {"command": ["true"]}),
        ("/v1/functions/orders/provision", {"count": 1}),
        ("/v1/advance", {"seconds": 1}),
    ],
)
def test_failures(
    directory: Path, failure: Exception, status: int, code: str | None, path: str, body: object
) -> None:
    lab = RegionLab()
    lab.fail = failure
    expected = code or getattr(failure, "code", None)

    async def work(client: aiohttp.ClientSession) -> None:
        assert error_of(await post(client, path, body)) == (status, expected)

    talk(directory, lab, work)


def test_time_passes_at_once(directory: Path) -> None:
    lab = RegionLab()
    begin = lab.clock()

    async def work(client: aiohttp.ClientSession) -> None:
        body = {"seconds": 350.5, "client_token": "t"}
        for _ in range(2):
            status, _document = await post(client, "/v1/advance", body)
            assert status == 200
        for seconds in ("-1", "NaN", "Infinity", "1e10", '"1"', "null"):
            text = f'{{"seconds": {seconds}}}'
            headers = {"Content-Type": "application/json"}
            async with client.post("/v1/advance", data=text, headers=headers) as response:
                answer = response.status, await response.json()
            assert error_of(answer)[0] == 400

    talk(directory, lab, work)
    assert lab.clock() == begin + 350.5


def test_unknown_function(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        for last, body in (("invocations", {"command": ["true"]}), ("provision", {"count": 1})):
            answer = await post(client, f"/v1/functions/other/{last}", body)
            assert error_of(answer) == (404, "ResourceNotFoundException")
            answer = await post(client, f"/v1/functions/a%0ab/{last}", body)
            assert error_of(answer) == (400, "InvalidParameterValueException")

    talk(directory, RegionLab(), work)


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"", 400, "InvalidRequestContentException", "not JSON"),
        (b"{", 400, "InvalidRequestContentException", "not JSON"),
        (b"\xff", 400, "InvalidRequestContentException", "not JSON"),
        (b"[" * 100_000, 400, "InvalidRequestContentException", "not JSON"),
        (b'{"command": ["\\ud800"]}', 400, "InvalidRequestContentException", "not JSON"),
        (b"[]", 400, "InvalidParameterValueException", "the body"),
        (b"{}", 400, "InvalidParameterValueException", "command: required"),
        (b'{"command": []}', 400, "InvalidParameterValueException", "command: []"),
        (b'{"command": "true"}', 400, "InvalidParameterValueException", "command: 'true'"),
        (b'{"command": [1]}', 400, "InvalidParameterValueException", "command[0]: 1"),
        (b'{"command": ["a\\u0000"]}', 400, "InvalidParameterValueException", "null byte"),
        (b'{"command": ["a"], "comand": 1}', 400, "InvalidParameterValueException", "'comand'"),
        (b'{"command": ["a"], "stdin": "?"}', 400, "InvalidParameterValueException", "base64"),
        (b'{"command": ["a"], "timeout_seconds": 0}', 400, "InvalidParameterValueException", "0"),
        (b'{"command": ["a"], "timeout_seconds": NaN}', 400, None, "timeout_seconds"),
        (b'{"command": ["a"], "timeout_seconds": 1e999}', 400, None, "timeout_seconds"),
        (b'{"command": ["a"], "client_token": "a b"}', 400, None, "client_token"),
        (b'{"command": ["a"]}' + b" " * BODY_BYTES_MAX, 413, "RequestTooLargeException", "bytes"),
    ],
    ids=range(18),
)
def test_bodies_that_are_refused(
    directory: Path, body: bytes, status: int, code: str | None, words: str
) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        headers = {"Content-Type": "application/json"}
        async with client.post(ORDERS, data=body, headers=headers) as response:
            document = await response.json()
        expected = code or "InvalidParameterValueException"
        assert error_of((response.status, document)) == (status, expected)
        assert words in document["message"]

    talk(directory, RegionLab(), work)


def test_body_that_is_not_sent_as_json(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        async with client.post(ORDERS, data={"command": "true"}) as response:
            answer = response.status, await response.json()
        assert error_of(answer) == (415, "UnsupportedMediaTypeException")

    talk(directory, RegionLab(), work)


@pytest.mark.races
def test_client_that_leaves_in_the_middle_of_its_body(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        _, writer = await asyncio.open_unix_connection(directory / "control.sock")
        writer.write(
            f"POST {ORDERS} HTTP/1.1\r\nHost: lab\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert len(await get(client, "/v1/functions")) == 3

    talk(directory, RegionLab(), work)


def test_an_interface_is_named_by_its_name_or_id(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        for row in await get(client, "/v1/interfaces"):
            known = row["id"] or row["name"]
            for named in (row["name"], known):
                await get(client, f"/v1/flows?limit=1&interface={named}")
                assert lab.wanted[-1].interface == known
                await get(client, f"/v1/ports?interface={named}")
                assert lab.wanted_ports[-1].interface == known

    talk(directory, lab, work)
