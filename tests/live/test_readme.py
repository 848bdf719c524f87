# SPDX-License-Identifier: Apache-2.0
"""What README.md shows: the session with functions when it is pasted, and three lines of boto3."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.live.conftest import Launch
from tests.live.lab import COMMAND, UP_SECONDS
from tests.live.test_aws import serving

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]


def test_the_session_with_functions() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Functions in a VPC\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ sudo hyperplane-nat (.+)$", section, re.MULTILINE)
    assert len(commands) == 4
    name = f"t-{secrets.token_hex(4)}"
    # A lab of its own: the one of the example may be there.
    options = f"--lab {name} "
    script = [f"{COMMAND} {options}{each.removeprefix('--lab lambda ')}" for each in commands]
    try:
        done = subprocess.run(
            ["bash", "-e"],
            input="\n".join(script),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=2 * UP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "4 functions, 16 environments" in done.stdout
        assert len(re.findall(r"\tActive\t[^\t]*\tSuccessful\t", done.stdout)) == 4
        assert "200 11000\n" in done.stdout
        assert done.stdout.endswith(f"lab {name} is down\n")
    finally:
        subprocess.run([str(COMMAND), "--lab", name, "down"], capture_output=True, check=True)


TOML = """
[lifecycle]
time_scale = 1000.0

[pool]
size = 2

[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
subnet = [{ name = "a", cidr = "10.0.1.0/24" }]
security_group = [{ name = "functions" }]

[[vpc.service]]
name = "echo"
kind = "udp-echo"
address = "10.0.1.81"
port = 7

[[function]]
name = "other"
networking = "none"
"""

HANDLER = """
import socket

ports = iter(range(1024, 65536))

def answered():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("", next(ports)))
        sender.connect(("10.0.1.81", 7))
        for patience in (0.5, 2, 5):
            sender.settimeout(patience)
            sender.send(b"x")
            try:
                return sender.recv(9) == b"x"
            except OSError:
                # A busy machine may lose a datagram; without a port there is never an answer.
                pass
    return False

def handler(connections, context):
    return sum(answered() for _ in range(connections))
"""


BEFORE = f"""
import boto3, pathlib
from botocore.config import Config

functions = boto3.client("lambda", config=Config(read_timeout=280, retries={{"max_attempts": 0}}))
ec2 = boto3.client("ec2")
subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
code = pathlib.Path("code.zip").read_bytes()
runtime = dict(
    Runtime="python3.{sys.version_info.minor}", Handler="app.handler", Timeout=270, Role="role"
)
"""


@pytest.mark.slow
def test_three_lines_to_a_connection_that_is_refused(launch: Launch, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## AWS's SDKs\n")[2].partition("\n## ")[0]
    (lines,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(lines.splitlines()) == 3
    (tmp_path / "script.py").write_text(BEFORE + lines, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as opened:
        opened.writestr("app.py", HANDLER)
    lab = launch(environments=0, toml=TOML)
    with serving(lab) as endpoint:
        done = subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env={**os.environ, **endpoint.variables},
            capture_output=True,
            text=True,
            timeout=290,
            check=False,
        )
    assert done.stdout == "[b'55000', b'0']\n", done.stderr
    assert "It prints `[b'55000', b'0']`" in section
    assert lab.counters()["port_allocation_errors"] > 0
