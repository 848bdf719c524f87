# SPDX-License-Identifier: Apache-2.0
"""What `capture` is asked and asks; captures themselves are in the live tests."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.cli import capture
from hyperplane_nat.cli.capture import Names
from hyperplane_nat.cli.common import UserError
from hyperplane_nat.client import Client
from tests.cli.conftest import ENVIRONMENT, INTERFACE, SHARED_INTERFACE, Run
from tests.cli.fake_api import FakeApi

FUNCTION_ENVIRONMENT = ENVIRONMENT | {
    "name": "env-4",
    "number": 4,
    "interface": SHARED_INTERFACE["id"],
    "function": "checkout",
}


@pytest.fixture
def connection(api: FakeApi, runtime: Path) -> Client:
    api.answers["/v1/environments"].append(FUNCTION_ENVIRONMENT)
    return Client("default", runtime_directory=runtime)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "either --environment or --interface"),
        (("--environment", "1", "--interface", "eni-a"), "either --environment or --interface"),
        (("--environment", "1", "--filter", "tcp prt"), "filter 'tcp prt': "),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(
    run: Run, api: FakeApi, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = run("capture", "-w", str(tmp_path / "x.pcapng"), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x.pcapng").exists()


def test_without_root_there_is_a_remedy(
    run: Run, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = run("capture", "-w", str(tmp_path / "x"), "--environment", "1")
    assert result.exit_code == 2
    command = f"sudo hyperplane-nat capture -w {tmp_path / 'x'} --environment 1"
    assert f"capture needs root (run: {command})" in result.stderr


def links(connection: Client, **wanted: str | None) -> list[tuple[str, int | None]]:
    given: dict[str, Any] = {"environment": None, "interface": None} | wanted
    return [(link.name, link.only_slot) for link in capture._links(connection, **given)]


@pytest.mark.parametrize("name", ["env-1", "1"])
def test_an_environment_has_two_links(connection: Client, name: str) -> None:
    assert links(connection, environment=name) == [("env1", None), ("eni-a", 1)]


def test_one_of_a_function_has_the_link_of_its_shared_interface(connection: Client) -> None:
    assert links(connection, environment="4") == [("env4", None), (SHARED_INTERFACE["name"], 4)]


def test_one_that_waits_in_the_pool_has_one(connection: Client) -> None:
    assert links(connection, environment="env-3") == [("env3", None)]


@pytest.mark.parametrize("name", [SHARED_INTERFACE["name"], SHARED_INTERFACE["id"]])
def test_an_interface_by_name_or_id(connection: Client, name: str) -> None:
    assert links(connection, interface=name) == [(SHARED_INTERFACE["name"], None)]


def test_every_address_of_a_link_is_known(connection: Client, api: FakeApi) -> None:
    more = {"secondary_addresses": ["10.0.1.11"], "secondary_numbers": [5]}
    api.answers["/v1/interfaces"] = [INTERFACE | more]
    (link,) = capture._links(connection, None, "eni-a")
    assert link.identifier._interfaces == {
        socket.inet_aton(str(INTERFACE["address"])): 0,
        socket.inet_aton("10.0.1.11"): 5,
    }


@pytest.mark.parametrize("name", ["env-9", "x", ""])
def test_unknown_environments(connection: Client, name: str) -> None:
    with pytest.raises(UserError, match="unknown environment"):
        links(connection, environment=name)


def test_unknown_interfaces(connection: Client) -> None:
    with pytest.raises(UserError, match="unknown interface 'eni-z'"):
        links(connection, interface="eni-z")


def test_names_are_asked_for_now_and_then(connection: Client, api: FakeApi) -> None:
    now = 100.0
    names = Names(connection, lambda: now)
    assert names(4) == "env-4 of checkout"
    assert names(1) == "env-1"
    assert names(77) == "env-77"
    assert len(api.requests) == 1
    api.answers["/v1/environments"] = [FUNCTION_ENVIRONMENT | {"function": "refund"}]
    assert names(4) == "env-4 of checkout"
    now += capture.NAMES_SECONDS
    assert names(4) == "env-4 of refund"


def test_without_a_controller_names_stay(connection: Client, api: FakeApi) -> None:
    now = 100.0
    names = Names(connection, lambda: now)
    assert names(4) == "env-4 of checkout"
    api.cut_short = True
    now += capture.NAMES_SECONDS
    assert names(4) == "env-4 of checkout"
