# SPDX-License-Identifier: Apache-2.0
"""Handlers from the command line, where there is none to invoke; tests/live has those there are."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from hyperplane_nat import unix_socket
from hyperplane_nat.cli import handlers
from hyperplane_nat.cli.common import UserError
from hyperplane_nat.runtime.logs import log_path
from hyperplane_nat.runtime.places import Endpoint, endpoint_path
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi


def test_a_payload_is_json_or_a_file_of_it(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text('{"a": 1}')
    assert handlers.payload_of(f"@{file}") == b'{"a": 1}'
    assert handlers.payload_of("[]") == b"[]"
    for wrong in ("{", f"@{tmp_path / 'none'}", ""):
        with pytest.raises(UserError, match=r"^--payload: "):
            handlers.payload_of(wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--payload", "{}", "--", "true"),
        ("--payload", "{}", "--count", "2"),
        ("--payload", "{}", "--timeout", "1"),
    ],
)
def test_a_handler_or_a_program(run: Run, api: FakeApi, arguments: tuple[str, ...]) -> None:
    result = run("invoke", "f", *arguments)
    assert result.exit_code == 2
    assert api.bodies == []


def test_a_lab_without_handlers(run: Run, api: FakeApi) -> None:
    for command in (("invoke", "f", "--payload", "{}"), ("credentials",)):
        result = run(*command)
        assert result.exit_code == 2
        assert "has a handler" in result.stderr


def test_handlers_whose_process_has_ended(run: Run, api: FakeApi, runtime: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(runtime / "default" / unix_socket.LAMBDA))
    left.close()
    result = run("invoke", "f", "--payload", "{}")
    assert result.exit_code == 2
    assert "nothing runs the handlers of lab 'default' just now" in result.stderr


def test_what_an_sdk_has_to_know(run: Run, api: FakeApi, runtime: Path) -> None:
    endpoint = Endpoint(4711, "eu-west-1", "AKIA1", "it's")
    endpoint_path(runtime / "default").write_text(json.dumps(endpoint.document()))
    lines = run("credentials").stdout.splitlines()
    assert "export AWS_ENDPOINT_URL_LAMBDA=http://127.0.0.1:4711" in lines
    assert "export AWS_ACCESS_KEY_ID=AKIA1" in lines
    assert "export AWS_SECRET_ACCESS_KEY='it'\"'\"'s'" in lines
    assert json.loads(run("credentials", "--json").stdout)["AWS_REGION"] == "eu-west-1"


def test_logs_are_shown_with_the_former_ones_first(run: Run, api: FakeApi, runtime: Path) -> None:
    path = log_path(runtime / "default", "checkout")
    path.write_text("new\n")
    path.with_name(f"{path.name}.1").write_text("old\n")
    assert run("logs", "checkout").stdout == "old\nnew\n"
    for name in ("nobody", "../default/function-checkout"):
        unknown = run("logs", name)
        assert unknown.exit_code == 2
        assert f"no function {name!r}" in unknown.stderr
