# SPDX-License-Identifier: Apache-2.0
"""`aws`: what it says when it cannot serve, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.region_lab import RegionLab, served

COMMAND = [sys.executable, "-m", "hyperplane_nat.cli"]


@pytest.fixture
def root() -> Iterator[Path]:
    """A runtime directory with the lab `known`, whose path a unix socket's has room for."""
    with tempfile.TemporaryDirectory(prefix="hp", dir="/dev/shm") as directory:
        lab = Path(directory) / "known"
        lab.mkdir()
        with served(lab / "control.sock", RegionLab()):
            yield Path(directory)


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "HYPERPLANE_NAT_RUNTIME_DIRECTORY": str(root)}


def run(root: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("package", ["moto", "flask", "botocore"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, package: str) -> None:
    """As where the plain package is installed alone: a lab is not even asked for."""
    script = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv = ['hyperplane-nat', 'aws']; "
        "from hyperplane_nat.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        r"hyperplane-nat: aws needs \S+, which is not installed "
        r'\(pip install "hyperplane-nat\[aws\]"\)\n',
        done.stderr,
    ), done.stderr


def test_the_command_line_imports_nothing_of_it() -> None:
    script = (
        "import sys; from hyperplane_nat.cli.application import app; "
        "print([name for name in ('moto', 'botocore', 'flask', 'werkzeug') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_without_a_lab_or_a_port_it_is_one_line(root: Path) -> None:
    status, said = run(root, "--lab", "nobody", "aws", "--port", "0")
    assert (status, said.count("\n")) == (2, 1)
    assert "nobody" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        status, said = run(root, "--lab", "known", "aws", "--port", str(port))
    assert (status, said) == (
        2,
        f"hyperplane-nat: port {port} is in use (choose another one, --port 0 for any)\n",
    )


@pytest.mark.races
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(root: Path, end: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "--lab", "known", "aws", "--port", "0"],
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = "".join(process.stdout.readline() for _ in range(4))
            url = re.search(r"AWS_ENDPOINT_URL=(http://127\.0\.0\.1:\d+)\n", said)
            assert url is not None, said
            assert "AWS_ACCESS_KEY_ID=111122223333 AWS_SECRET_ACCESS_KEY=any\n" in said
            assert said.endswith("export AWS_DEFAULT_REGION=us-east-1\n")
            request = urllib.request.Request(
                f"{url[1]}/2015-03-31/functions/",
                headers={
                    "Authorization": "AWS4-HMAC-SHA256 "
                    "Credential=any/20260101/us-east-1/lambda/aws4_request"
                },
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                assert len(json.load(answer)["Functions"]) == 3
        finally:
            process.send_signal(end)
        left = process.communicate(timeout=120)
    assert (process.returncode, *left) == (0, "", "")
