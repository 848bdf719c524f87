# SPDX-License-Identifier: Apache-2.0
"""status, environments, interfaces, flows, verify."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from hyperplane_nat import client
from tests.cli.conftest import (
    ENVIRONMENT,
    FLOW,
    INTERFACE,
    POOLED,
    SHARED_INTERFACE,
    STATUS,
    Run,
)
from tests.cli.fake_api import FakeApi, serving


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("status", STATUS),
        ("environments", [ENVIRONMENT, POOLED]),
        ("interfaces", [INTERFACE, SHARED_INTERFACE]),
        ("flows", [FLOW]),
        ("verify", {"problems": [], "entries": 6}),
    ],
)
def test_json_is_the_apis_answer(run: Run, api: FakeApi, command: str, answer: object) -> None:
    result = run(command, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == answer


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("status", ["1 h 1 min", "6 of 1048576", "restarts 1", "50.0 MiB", "128.0 MiB", ":9109"]),
        ("environments", ["env-1", "hp-default-env-1", "169.254.100.2/30", "eni-a", "13"]),
        ("interfaces", ["eni-a", "customer", "private-a", "10.0.1.10", "02:00:00:00:00:01"]),
        ("environments", ["env-3", "pooled", "static"]),
        ("interfaces", ["eni-0a1b2c3d4e5f60718", "hyperplane", "in-use", "functions, a[1]"]),
        ("flows", ["tcp", "ESTABLISHED", "169.254.100.2:40000", "10.0.1.10:1024", "10.0.1.80:80"]),
        ("verify", ["6 entries, no problem found"]),
    ],
)
def test_tables_show_what_matters(run: Run, api: FakeApi, command: str, words: list[str]) -> None:
    result = run(command)
    assert result.exit_code == 0, result.stderr
    assert [word for word in words if word not in result.stdout] == []


def test_an_interface_without_a_link_has_no_hardware_address(run: Run, api: FakeApi) -> None:
    api.answers["/v1/interfaces"] = [INTERFACE | {"kind": "nat-gateway", "mac": None}]
    result = run("interfaces")
    assert result.exit_code == 0, result.exception
    assert "10.0.1.10\t-\t" in result.stdout


def test_drops_come_the_most_frequent_first(run: Run, api: FakeApi) -> None:
    output = run("status").stdout
    assert output.index("no_flow") < output.index("source_spoofed")


def test_status_while_the_forwarder_is_away(run: Run, api: FakeApi) -> None:
    api.answers["/v1/status"] = STATUS | {
        "forwarder": {"pid": None, "restarts": 3, "rss_bytes": None, "uptime_seconds": None}
    }
    assert "not running, restarts 3" in run("status").stdout


def test_status_tells_of_a_clock_that_is_ahead(run: Run, api: FakeApi) -> None:
    api.answers["/v1/status"] = STATUS | {"clock_offset_seconds": 90_000.5}
    assert "1 d 1 h ahead of the host's" in run("status").stdout
    api.answers["/v1/status"] = STATUS | {"clock_offset_seconds": 0.0}
    assert "ahead" not in run("status").stdout


def test_status_tells_where_aws_is(run: Run, api: FakeApi) -> None:
    assert "AWS" not in run("status").stdout
    url = "http://127.0.0.1:4566"
    for service, said in (({"up": True, "restarts": 2}, "restarts 2"), (None, "not running")):
        services = {} if service is None else {"AWS/endpoint": service}
        api.answers["/v1/status"] = STATUS | {"aws_endpoint": url, "services": services}
        assert f"AWS\t{url}, {said}" in run("status").stdout


def test_status_tells_who_has_privileges(run: Run, api: FakeApi) -> None:
    none = {"uid": 65530, "capabilities": "0" * 16, "dropped": True}
    root = {"uid": 0, "capabilities": "1ff", "dropped": False}
    api.answers["/v1/status"] = STATUS | {
        "privileges": {"customer/web": root, "forwarder": none, "standby": none}
    }
    assert (
        "privileges\tnone (user 65530): forwarder, standby; capabilities 1ff (user 0): customer/web"
        in run("status").stdout
    )


def test_status_tells_of_a_forwarder_that_hangs(run: Run, api: FakeApi) -> None:
    problem = "it hangs: no sign of life for 2.0 s"
    api.answers["/v1/status"] = STATUS | {
        "forwarder": {"pid": 9, "restarts": 0, "rss_bytes": None, "problem": problem}
    }
    assert f"pid 9, restarts 0, not up: {problem}" in run("status").stdout


def test_a_broken_flow_table_is_exit_1(run: Run, api: FakeApi) -> None:
    api.answers["/v1/verify"] = {"problems": ["entry 3: not in the index"], "entries": 6}
    result = run("verify")
    assert (result.exit_code, result.stdout) == (1, "entry 3: not in the index\n")


COMMANDS = ["status", "environments", "interfaces", "flows", "verify"]


def test_verify_waits_longer_than_the_controller_does(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(client, "VERIFY_SECONDS", 0.2)
    given_up = threading.Event()

    def answer(_: object) -> object:
        given_up.wait(30)
        return {}

    api.answers["/v1/verify"] = answer
    result = run("verify")
    given_up.set()
    assert result.exit_code == 2
    assert "has not answered for 0.3 seconds" in result.stderr
    assert (
        "controller.pid), and take its lab over with: hyperplane-nat up --lab default)"
        in result.stderr
    )


@pytest.mark.parametrize("command", ["status", "down"])
def test_a_runtime_directory_that_is_too_deep_for_sockets(
    run: Run, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    deep = tmp_path / ("x" * 107)
    result = run("--runtime-directory", str(deep), command)
    assert result.exit_code == 2
    assert "the path of a unix socket at most 107 (choose a shorter runtime" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not deep.exists()


@pytest.mark.parametrize("command", [*COMMANDS, "up", "down"])
@pytest.mark.parametrize("before", [True, False])
def test_an_empty_lab_name_is_no_lab(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, before: bool
) -> None:
    """It is what a shell makes of a variable that is not set, and means no default."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    arguments = ["--lab", "", command] if before else [command, "--lab", ""]
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'' is not a lab name" in result.stderr
    assert result.stderr.count("\n") == 1


def test_status_says_why_the_metrics_are_elsewhere(run: Run, api: FakeApi) -> None:
    api.answers["/v1/status"] = STATUS | {"metrics_port_passed_over": 9108}
    assert (
        "metrics\thttp://127.0.0.1:9109/metrics (the default port, 9108, was taken)\n"
        in run("status").stdout
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_no_daemon_is_one_line_and_exit_2(run: Run, command: str) -> None:
    text = "lab 'default' is not running (start it with: hyperplane-nat up)"
    result = run(command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"hyperplane-nat: {text}\n"
    result = run(command, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert json.loads(result.stderr) == {"error": "not_running", "message": text}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_socket_without_a_listener_is_no_daemon(run: Run, runtime: Path, command: str) -> None:
    (runtime / "default").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / "default" / "control.sock"))
    result = run(command)
    assert result.exit_code == 2
    assert "is not running" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_controllers_refusal_is_passed_on(run: Run, api: FakeApi, command: str) -> None:
    api.status = 503
    refusal = {"error": "starting", "message": "not ready yet (try again in a moment)"}
    api.answers = dict.fromkeys(api.answers, refusal)
    result = run(command)
    assert result.exit_code == 2
    assert result.stderr == "hyperplane-nat: not ready yet (try again in a moment)\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_cut_short_is_an_error(run: Run, api: FakeApi, command: str) -> None:
    api.cut_short = True
    result = run(command)
    assert result.exit_code == 2
    assert "broke off its answer" in result.stderr


def test_an_answer_that_is_no_json(run: Run, api: FakeApi) -> None:
    api.answers["/v1/status"] = b"<html>"
    result = run("status")
    assert result.exit_code == 2
    assert "not JSON" in result.stderr


def test_the_lab_is_chosen_by_option_or_environment(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeApi({"/v1/environments": []})
    with serving(runtime / "other" / "control.sock", fake):
        assert run("environments", "--lab", "other").exit_code == 0
        assert run("--lab", "other", "environments").exit_code == 0
        monkeypatch.setenv("HYPERPLANE_NAT_LAB", "other")
        assert run("environments").exit_code == 0
        assert run("environments", "--lab", "default").exit_code == 2
        assert run("--lab", "default", "environments").exit_code == 2


def test_tables_in_a_pipe_can_be_told_apart(run: Run, api: FakeApi) -> None:
    lines = run("status").stdout.splitlines()
    assert lines[0] == "# lab default: running"
    assert lines[lines.index("# drops") + 1 :][:2] == ["reason\tpackets", "no_flow\t7"]


@pytest.mark.parametrize("name", ["../etc", "UP", "a" * 16, "", "a-vpc"])
def test_an_impossible_lab_name(run: Run, name: str) -> None:
    result = run("--lab", name or " ", "status")
    assert result.exit_code == 2
    assert "is not a lab name" in result.stderr


def test_an_unknown_protocol(run: Run) -> None:
    result = run("flows", "--protocol", "sctp")
    assert result.exit_code == 2
    assert result.stderr == ("hyperplane-nat: unknown protocol 'sctp' (one of: tcp, udp, icmp)\n")
