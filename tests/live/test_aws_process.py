# SPDX-License-Identifier: Apache-2.0
"""AWS's endpoint as a process of the lab: from `up` to `down`, whoever dies in between."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from hyperplane_nat.controller.processes import start_ticks
from netns import privileges
from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until, write_config
from tests.live.test_crash import kill_controller

pytestmark = pytest.mark.live


def free_port() -> int:
    """One that no connection of anybody gets meanwhile: below those that kernels give out."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def client_of(lab: Lab) -> Any:
    return boto3.client(
        "ec2",
        endpoint_url=lab.status()["aws_endpoint"],
        region_name="us-east-1",
        aws_access_key_id="111122223333",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 0}),
    )


def pid_of(lab: Lab) -> int:
    return int((lab.runtime_directory / "service-AWS.endpoint.pid").read_text().split()[0])


@pytest.mark.races
def test_it_is_there_from_up_to_down(launch: Launch) -> None:
    lab = launch(environments=0, toml=f"[aws]\nport = {free_port()}\n")
    ec2 = client_of(lab)
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "a", "Value": "b"}]}]
    ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=tags)

    def described() -> Any:
        return sorted(ec2.describe_vpcs()["Vpcs"], key=lambda each: str(each["VpcId"]))

    def answers() -> bool:
        try:
            return bool(described() == before)
        except BotoCoreError:
            return False

    before = described()
    # Root's files and socket are its own, and nothing else of root's.
    had = privileges.of(pid_of(lab))
    assert had is not None
    assert had.dropped
    assert had.uid == 0
    assert f"AWS\t{lab.status()['aws_endpoint']}, restarts 0" in lab.cli("status").stdout
    # Killed, it is started again.
    former = pid_of(lab)
    os.kill(former, signal.SIGKILL)
    wait_until(answers, "the endpoint answers again")
    again = {"up": True, "restarts": 1}
    wait_until(lambda: lab.status()["services"]["AWS/endpoint"] == again, "it is told")
    # It outlives a controller, and says that there is none.
    pid = pid_of(lab)
    assert pid != former
    kill_controller(lab)
    with pytest.raises(ClientError) as caught:
        ec2.describe_vpcs()
    answer: Any = caught.value.response
    assert answer["Error"]["Code"] == "Unavailable"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 503
    lab.up()
    assert described() == before
    assert pid_of(lab) == pid
    lab.down()
    assert start_ticks(pid) is None
    with pytest.raises(EndpointConnectionError):
        ec2.describe_vpcs()


def test_a_port_that_is_taken_is_one_line_and_no_lab(tmp_path: Path) -> None:
    name = f"t-{secrets.token_hex(4)}"
    lab = Lab(name, tmp_path / "lab.toml", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        write_config(lab.config_file, name, 0, f"[aws]\nport = {port}\n")
        done = lab.cli("up", "-c", str(lab.config_file), check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"aws.port: port {port}: Address already in use" in done.stderr
    assert not lab.runtime_directory.exists()
