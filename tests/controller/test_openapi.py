# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document against the server: the same routes, and answers as it describes them."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from hyperplane_nat.controller.api import service as api
from hyperplane_nat.controller.api.commands import COMMANDS
from hyperplane_nat.controller.api.openapi import OPERATIONS, document
from tests.controller.region_lab import FUNCTIONS, RegionLab, document_of, served
from tests.controller.support import FakeNetns, RunningDaemon, config_in, run

EXAMPLES = 12
"""Requests for each operation, besides those at the borders of what is allowed."""

EXPECTED_FAILURES = {502: "ResourceNotReadyException"}

KNOWN: dict[str, Any] = {"command": ["cat"], "config": document_of(function=FUNCTIONS[:2])}
"""What random requests never hit: a program and a configuration that are accepted."""

CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            # What fits the schema may still name a function or a program that there is not.
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", 404, 409, 422, 429, 502],
            }
        },
        "operations": [
            # References and address ranges of a configuration are beyond a schema.
            *(
                {
                    "include-path": path,
                    "checks": {"positive_data_acceptance": {"enabled": False}},
                }
                # Nor is it in one whether a port goes with a protocol.
                for path in {"/v1/apply", "/v1/trace", *(command.path for command in COMMANDS)}
            )
        ],
    }
)

schema = schemathesis.openapi.from_dict(document(), config=CONFIG)

APPLY = schema["/v1/apply"]["POST"]


class _UnixPool(HTTPConnectionPool):
    """Connections to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("lab")
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        path = self._path

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(30)
                connection.connect(str(path))
                return connection

        return Connection("lab")


class _UnixAdapter(HTTPAdapter):
    """Requests over a unix socket, whatever their host."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = _UnixPool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool


@pytest.fixture(scope="module")
def lab() -> RegionLab:
    return RegionLab()


@pytest.fixture(scope="module")
def session(lab: RegionLab) -> Iterator[requests.Session]:
    directory = Path(tempfile.mkdtemp(prefix="hp", dir="/tmp"))
    with served(directory / "control.sock", lab), requests.Session() as found:
        found.mount("http://", _UnixAdapter(directory / "control.sock"))
        yield found
    shutil.rmtree(directory)


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in api.application(RegionLab()).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert routes == {(operation.method, operation.path) for operation in OPERATIONS}


def test_names_of_operations_are_unique() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_references_lead_somewhere() -> None:
    described = document()

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    for reference in references(described):
        name = reference.removeprefix("#/components/schemas/")
        assert name in described["components"]["schemas"]


def test_document_is_served(session: requests.Session) -> None:
    response = session.get("http://lab/v1/openapi.json")
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.json() == json.loads(json.dumps(document()))
    assert response.json()["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/status",
        "/v1/environments",
        "/v1/interfaces",
        "/v1/functions",
        "/v1/security-groups",
        "/v1/accounts",
        "/v1/vpcs",
        "/v1/subnets",
        "/v1/hosts",
        "/v1/services",
        "/v1/flows",
        "/v1/ports",
        "/v1/events",
        "/v1/verify",
        "/v1/config",
    ],
)
def test_a_controller_answers_as_described(path: str, directory: Path, netns: FakeNetns) -> None:
    described = document()
    response = described["paths"][path]["get"]["responses"]["200"]
    expected = response["content"]["application/json"]["schema"]
    validator = jsonschema_rs.Draft202012Validator(
        expected | {"components": described["components"]}
    )

    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            connector = aiohttp.UnixConnector(str(running.paths.control_socket))
            async with (
                aiohttp.ClientSession("http://lab", connector=connector) as client,
                client.get(path) as answer,
            ):
                assert answer.status == 200
                validator.validate(await answer.json())

    run(work())


RANDOM = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@schema.exclude(path=["/v1/apply", "/v1/shutdown"]).parametrize()
@RANDOM
def test_answers_are_as_described(
    case: schemathesis.Case[Any], session: requests.Session, lab: RegionLab
) -> None:
    _try(case, session, lab)


# A thousand requests at the borders of a configuration's fields would all meet the same refusal.
@RANDOM
@given(
    case=strategies.one_of(*(APPLY.as_strategy(generation_mode=mode) for mode in GenerationMode))
)
def test_answers_to_an_apply_are_as_described(
    case: schemathesis.Case[Any], session: requests.Session, lab: RegionLab
) -> None:
    _try(case, session, lab)


def _try(case: schemathesis.Case[Any], session: requests.Session, lab: RegionLab) -> None:
    try:
        _ask(case, session)
        if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
            case.path_parameters |= dict.fromkeys(case.path_parameters, "orders")
            if isinstance(case.body, dict):
                case.body |= {name: KNOWN[name] for name in case.body if name in KNOWN}
            _ask(case, session)
    finally:
        if case.method != "GET":
            lab.reset()


def _ask(case: schemathesis.Case[Any], session: requests.Session) -> None:
    response = case.call(base_url="http://lab", session=session)
    if response.status_code >= 500:
        assert response.json()["error"] == EXPECTED_FAILURES.get(response.status_code)
    case.validate_response(response)
