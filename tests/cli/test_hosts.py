# SPDX-License-Identifier: Apache-2.0
"""hosts, attach, detach, and exec on a host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.cli.common import UserError
from hyperplane_nat.cli.execution import find_namespace
from netns.names import host_namespace
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi, Refusal, serving

HOST: dict[str, Any] = {
    "InstanceId": "i-0a1b2c3d4e5f60718",
    "NetworkInterfaceId": "eni-0a1b2c3d4e5f60718",
    "HostName": "db",
    "Description": "the store",
    "OwnerId": "111122223333",
    "VpcId": "vpc-1",
    "VpcName": "customer",
    "SubnetId": "subnet-1",
    "SubnetName": "private-a",
    "PrivateIpAddress": "10.0.1.50",
    "PublicIpAddress": "203.0.113.9",
    "Groups": [{"GroupId": "sg-1", "GroupName": "app"}],
    "Services": ["web"],
    "Number": 7,
    "Attached": None,
    "Declared": True,
    "packets_out": 17,
    "bytes_out": 1700,
    "packets_in": 16,
    "bytes_in": 1600,
    "drops": 3,
    "flows": 1,
}
ATTACHED = HOST | {
    "InstanceId": "i-2",
    "HostName": "blue",
    "VpcName": "other",
    "Number": 8,
    "Attached": "/run/netns/blue",
}


def test_hosts_are_shown(run: Run, api: FakeApi) -> None:
    api.answers["/v1/hosts"] = [HOST, ATTACHED]
    output = run("hosts").stdout
    words = ["customer", "db", "10.0.1.50", "203.0.113.9", "private-a", "app", "/run/netns/blue"]
    assert [word for word in words if word not in output] == []
    assert json.loads(run("hosts", "--json").stdout) == [HOST, ATTACHED]


def test_what_is_attached_is_said_to_the_controller(run: Run, api: FakeApi) -> None:
    api.answers["/v1/hosts"] = ATTACHED
    place = ("--vpc", "other", "--subnet", "private-a")
    result = run("attach", "--namespace", "blue", *place, "--group", "a", "--group", "b")
    assert result.stdout == "/run/netns/blue is host other/blue with 10.0.1.50\n"
    run("attach", "--pid", "41", *place, "--address", "10.0.1.50", "name")
    assert api.requests == ["POST /v1/hosts", "POST /v1/hosts"]
    assert api.bodies == [
        {
            "name": "blue",
            "vpc": "other",
            "subnet": "private-a",
            "address": None,
            "security_groups": ["a", "b"],
            "namespace": "blue",
            "pid": None,
        },
        {
            "name": "name",
            "vpc": "other",
            "subnet": "private-a",
            "address": "10.0.1.50",
            "security_groups": [],
            "namespace": None,
            "pid": 41,
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "which namespace is meant"),
        (("--namespace", "a", "--pid", "1"), "which namespace is meant"),
        (("--namespace", "Not_a.name"), "'Not_a.name' cannot be the name of a host"),
        (("--namespace", "a", "Name"), "'Name' cannot be the name of a host"),
    ],
)
def test_what_cannot_be_attached_is_exit_2(
    run: Run, api: FakeApi, arguments: tuple[str, ...], words: str
) -> None:
    result = run("attach", "--vpc", "v", "--subnet", "s", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert api.requests == []


def test_a_refusal_is_told_by_its_name(run: Run, api: FakeApi) -> None:
    api.answers["/v1/hosts"] = Refusal(400, "InvalidIPAddress.InUse", "it is in use (another)")
    result = run("attach", "--vpc", "v", "--subnet", "s", "--namespace", "a")
    assert result.exit_code == 2
    assert result.stderr.endswith("InvalidIPAddress.InUse: it is in use (another)\n")


def test_only_what_was_attached_is_given_back(run: Run, api: FakeApi) -> None:
    api.answers |= {"/v1/hosts": [HOST, ATTACHED], "/v1/hosts/i-2": {}}
    for named in ("blue", "other/blue", "i-2"):
        assert run("detach", named).stdout == "/run/netns/blue is given back\n"
    assert api.requests.count("DELETE /v1/hosts/i-2") == 3
    result = run("detach", "db")
    assert (result.exit_code, "is the lab's own" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "has none"),
        ([HOST], "has customer/db; see"),
        ([HOST, ATTACHED], "has customer/db and 1 more"),
    ],
)
def test_an_unknown_host_is_exit_2(
    run: Run, api: FakeApi, rows: list[dict[str, Any]], words: str
) -> None:
    api.answers["/v1/hosts"] = rows
    result = run("detach", "nobody")
    assert (result.exit_code, words in result.stderr) == (2, True)


def test_a_program_finds_its_host(lab_name: str, tmp_path: Path) -> None:
    twice = HOST | {"VpcName": "third", "Number": 9, "InstanceId": "i-3"}
    api = FakeApi({"/v1/hosts": [HOST, ATTACHED, twice]})
    with serving(tmp_path / lab_name / "control.sock", api):
        assert find_namespace(lab_name, tmp_path, "blue") == host_namespace(lab_name, 8)
        assert find_namespace(lab_name, tmp_path, "third/db") == host_namespace(lab_name, 9)
        assert find_namespace(lab_name, tmp_path, "i-3") == host_namespace(lab_name, 9)
        with pytest.raises(UserError, match="there are 2 hosts 'db'"):
            find_namespace(lab_name, tmp_path, "db")
        with pytest.raises(UserError, match="unknown host 'red'"):
            find_namespace(lab_name, tmp_path, "red")
