# SPDX-License-Identifier: Apache-2.0
"""The control socket and the metrics of a real lab: who may use them, who occupies them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from netns import sockets
from tests.live.conftest import Launch
from tests.live.lab import WEB, Lab, run, wait_until

pytestmark = pytest.mark.live

GROUP = 47110
"""Nobody's."""

HALF_OPEN = 5000

VPC = """
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"

[[vpc.subnet]]
name = "private-a"
cidr = "10.0.1.0/24"

[[network_interface]]
name = "eni-a"
subnet = "private-a"
address = "10.0.1.10"
"""

SERVER = """
[[vpc.service]]
name = "second"
kind = "http"
address = "10.0.1.82"
port = 80
"""

AS_MEMBER = """
import os, sys
import importlib.metadata, pydantic
from hyperplane_nat.cli import app, flows, inspection, lifecycle, resources, ports, events
pydantic.TypeAdapter(int)
os.setgroups([int(sys.argv[1])]), os.setgid(65534), os.setuid(65534)
app(sys.argv[2:])
"""
"""The command line as a user without rights. The modules come first: he may not read them."""


def as_member(lab: Lab, group: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_MEMBER, str(group), "--lab", lab.name, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_members_of_the_group_use_the_socket(launch: Launch) -> None:
    lab = launch(environments=1)
    assert "no permission" in as_member(lab, GROUP, "status").stderr
    lab.down()
    lab.cli("up", "-c", str(lab.config_file), "--set", f"lab.socket_group={GROUP}")
    for verb in ("status", "environments", "interfaces", "flows", "functions", "ports", "events"):
        done = as_member(lab, GROUP, verb, "--json")
        assert (done.returncode, done.stderr) == (0, ""), verb
        json.loads(done.stdout)
    assert as_member(lab, GROUP, "verify").returncode == 0
    refused = as_member(lab, GROUP + 1, "status")
    assert refused.returncode == 2
    assert "have root set lab.socket_group" in refused.stderr
    (row,) = (
        row
        for row in json.loads(as_member(lab, GROUP + 1, "labs", "--json").stdout)
        if row["lab"] == lab.name
    )
    assert row["state"] == "no permission"
    refused = as_member(lab, GROUP, "down")
    down = f"hyperplane-nat --lab {lab.name} down"
    assert refused.stderr == f"hyperplane-nat: down needs root (run: sudo {down})\n"


def test_an_unknown_group_is_one_line_and_leaves_nothing(launch: Launch) -> None:
    lab = launch(environments=1)
    lab.down()
    refused = lab.cli(
        "up", "-c", str(lab.config_file), "--set", "lab.socket_group=no-such-group", check=False
    )
    assert refused.returncode == 2
    assert refused.stderr == (
        "hyperplane-nat: command line: lab.socket_group: there is no group 'no-such-group' on this "
        "host (groupadd --system no-such-group, or choose another)\n"
    )
    assert not lab.runtime_directory.exists()


def test_half_open_connections_do_not_keep_others_out(launch: Launch) -> None:
    lab = launch(environments=1)
    status = lab.status()
    url = urlsplit(status["metrics_url"])
    assert url.hostname is not None
    assert url.port is not None
    metrics = (url.hostname, url.port)
    sockets.ensure_files(2 * HALF_OPEN)

    def to_metrics() -> socket.socket:
        return socket.create_connection(metrics, timeout=20)

    def to_control() -> socket.socket:
        result = socket.socket(socket.AF_UNIX)
        result.connect(str(lab.runtime_directory / "control.sock"))
        return result

    def open_files() -> int:
        return len(os.listdir(f"/proc/{status['pid']}/fd"))

    def check(connect: Callable[[], socket.socket], most: int) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(HALF_OPEN):
                half = stack.enter_context(connect())
                with contextlib.suppress(ConnectionError):
                    half.sendall(b"GET /metrics HTTP/1.1\r\n")
            # Each answers while all of them are there.
            assert lab.status()["state"] == "running"
            lab.cli("status")
            with urllib.request.urlopen(status["metrics_url"], timeout=30) as answer:
                assert b"hyperplane_nat_" in answer.read()
            wait_until(lambda: open_files() <= before + most, lambda: f"{open_files()} are open")
        wait_until(lambda: open_files() <= before, lambda: f"{open_files()} are left")

    # What a connection or two of others has open.
    before = open_files() + 16
    check(to_metrics, 64)
    check(to_control, 4096)


def test_health(launch: Launch) -> None:
    lab = launch(environments=1)
    url = lab.status()["metrics_url"].replace("/metrics", "/healthz")
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert json.load(answer) == {"status": "ok", "controller": "ok", "forwarder": "ok"}


def test_another_runtime_directory_leaves_a_living_lab_alone(
    launch: Launch, tmp_path: Path
) -> None:
    lab = launch(environments=1)
    other = str(tmp_path)
    for command in (("up", "-c", str(lab.config_file)), ("up", "--foreground"), ("down",)):
        refused = lab.cli("--runtime-directory", other, *command, check=False)
        assert refused.returncode == 2
        assert f"lives in {lab.runtime_directory.parent} (pid {lab.status()['pid']})" in (
            refused.stderr
        )
        assert len(refused.stderr.splitlines()) == 1
    run(lab.environment(1), "ping", "-c", "1", "-W", "5", WEB[0])
    assert [path.name for path in tmp_path.iterdir()] == [lab.config_file.name]
    # And the other way round.
    lab.down()
    try:
        lab.cli("--runtime-directory", other, "up", "-c", str(lab.config_file))
        refused = lab.cli("up", "-c", str(lab.config_file), check=False)
        assert f"lives in {other} (pid " in refused.stderr
        run(lab.environment(1), "ping", "-c", "1", "-W", "5", WEB[0])
    finally:
        lab.cli("--runtime-directory", other, "down")
    assert not (lab.runtime_directory.parent / f"{lab.name}.claim").is_symlink()


def test_hangup_reads_the_file_again_or_is_ignored(launch: Launch) -> None:
    lab = launch(environments=1, toml=VPC)
    pid = lab.status()["pid"]

    def told() -> list[dict[str, Any]]:
        return [row for row in lab.rows("events") if row["kind"].startswith("reload")]

    lab.config_file.write_text(lab.config_file.read_text() + SERVER)
    os.kill(pid, signal.SIGHUP)
    wait_until(told, "the file is read again")
    assert [row["kind"] for row in told()] == ["reloaded"]
    run(lab.environment(1), "ping", "-c", "1", "-W", "5", "10.0.1.82")
    lab.down()
    lab.cli("up", "-n", "1", "--set", "metrics.port=0")
    pid = lab.status()["pid"]
    os.kill(pid, signal.SIGHUP)
    log = lab.runtime_directory / "controller.log"
    wait_until(lambda: "the lab was started without a file" in log.read_text(), "a line about it")
    assert lab.status()["pid"] == pid
