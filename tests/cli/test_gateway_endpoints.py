# SPDX-License-Identifier: Apache-2.0
"""create-gateway-endpoint, modify-gateway-endpoint, delete-gateway-endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi, Refusal
from tests.cli.test_private_link import GATEWAY_ENDPOINT

PATH = "/v1/gateway-endpoints"
OF_STORE = f"{PATH}/bank%2Fstore"
TOLD = (
    "gateway endpoint bank/store (vpce-1123456789abcdef0) to com.amazonaws.us-east-1.s3; "
    "route tables: private, public\n"
)


def test_one_is_created(run: Run, api: FakeApi) -> None:
    api.answers[PATH] = GATEWAY_ENDPOINT
    tables = ("--route-table", "private", "--route-table", "public")
    done = run("create-gateway-endpoint", "bank", "s3", "store", *tables, "--policy", "{}")
    assert (done.exit_code, done.stdout) == (0, TOLD), done.stderr
    assert json.loads(run("create-gateway-endpoint", "bank", "s3", "--json").stdout) == (
        GATEWAY_ENDPOINT
    )
    assert api.requests == [f"POST {PATH}"] * 2
    assert api.bodies == [
        {
            "vpc": "bank",
            "service": "s3",
            "name": "store",
            "route_tables": ["private", "public"],
            "policy": "{}",
        },
        {"vpc": "bank", "service": "s3", "name": None, "route_tables": [], "policy": ""},
    ]


def test_one_without_route_tables_says_so(run: Run, api: FakeApi) -> None:
    api.answers[PATH] = GATEWAY_ENDPOINT | {"RouteTables": []}
    assert run("create-gateway-endpoint", "bank", "s3").stdout.endswith("; route tables: none\n")


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (("--add-route-table", "a", "--add-route-table", "b"), {"add_route_tables": ["a", "b"]}),
        (("--remove-route-table", "a"), {"remove_route_tables": ["a"]}),
        (("--policy", "{}"), {"policy": "{}"}),
        (("--reset-policy",), {"policy": ""}),
    ],
)
def test_one_is_changed(
    run: Run, api: FakeApi, arguments: tuple[str, ...], body: dict[str, object]
) -> None:
    api.answers[OF_STORE] = GATEWAY_ENDPOINT
    done = run("modify-gateway-endpoint", "bank/store", *arguments)
    assert (done.exit_code, done.stdout) == (0, TOLD), done.stderr
    assert api.requests == [f"PATCH {OF_STORE}"]
    same: dict[str, object] = {"add_route_tables": [], "remove_route_tables": [], "policy": None}
    assert api.bodies == [same | body]


def test_a_policy_is_read_from_a_file(run: Run, api: FakeApi, tmp_path: Path) -> None:
    api.answers[OF_STORE] = GATEWAY_ENDPOINT
    file = tmp_path / "policy.json"
    file.write_text('{"Statement": []}')
    assert run("modify-gateway-endpoint", "bank/store", "--policy", f"@{file}").exit_code == 0
    assert api.bodies[0]["policy"] == '{"Statement": []}'
    file.write_bytes(b"\xff")
    for name in (file, tmp_path / "none"):
        done = run("modify-gateway-endpoint", "bank/store", "--policy", f"@{name}")
        assert (done.exit_code, str(name) in done.stderr) == (2, True)
        assert "name a file with JSON" in done.stderr
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "what is to be changed? (give --add-route-table"),
        (("--policy", "{}", "--reset-policy"), "exclude each other (give one of them)"),
    ],
)
def test_a_change_of_nothing_or_of_both_is_refused(
    run: Run, api: FakeApi, arguments: tuple[str, ...], words: str
) -> None:
    done = run("modify-gateway-endpoint", "store", *arguments)
    assert (done.exit_code, words in done.stderr, api.requests) == (2, True, [])


def test_one_is_deleted(run: Run, api: FakeApi) -> None:
    api.answers[OF_STORE] = {}
    done = run("delete-gateway-endpoint", "bank/store")
    assert (done.exit_code, done.stdout) == (0, "gateway endpoint bank/store is deleted\n")
    assert run("delete-gateway-endpoint", "bank/store", "--json").stdout == "{}\n"
    assert api.requests == [f"DELETE {OF_STORE}"] * 2
    api.answers[OF_STORE] = Refusal(404, "InvalidVpcEndpointId.NotFound", "it does not exist")
    done = run("delete-gateway-endpoint", "bank/store")
    assert (done.exit_code, "NotFound: it does not exist" in done.stderr) == (2, True)
