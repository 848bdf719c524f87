# SPDX-License-Identifier: Apache-2.0
"""functions, security-groups."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import FUNCTION, SECURITY_GROUP, Run
from tests.cli.fake_api import FakeApi


def test_functions_show_state_and_interfaces(run: Run, api: FakeApi) -> None:
    pending = FUNCTION | {
        "FunctionName": "webhook",
        "State": "Pending",
        "StateReasonCode": "Creating",
        "VpcConfig": None,
        "NetworkInterfaceIds": [],
    }
    api.answers["/v1/functions"] = [FUNCTION, pending]
    output = run("functions").stdout
    words = ["checkout", "Active", "payments", "eni-0a1b2c3d4e5f60718", "Pending (Creating)"]
    assert [word for word in words if word not in output] == []


def test_security_groups_show_their_rules_as_words(run: Run, api: FakeApi) -> None:
    output = run("security-groups").stdout
    words = [
        "tcp 5432 from group a[1]",
        "udp 1024-2048 from 10.0.0.0/16",
        "tcp from 10.1.0.0/16",
        "icmp from 10.2.0.0/16",
        "everything to 0.0.0.0/0",
    ]
    assert [word for word in words if word not in output] == []


def test_a_group_without_rules_lets_nothing_through(run: Run, api: FakeApi) -> None:
    api.answers["/v1/security-groups"] = [SECURITY_GROUP | {"IpPermissions": []}]
    assert "nothing" in run("security-groups").stdout


@pytest.mark.parametrize(
    ("command", "answer"), [("functions", [FUNCTION]), ("security-groups", [SECURITY_GROUP])]
)
def test_json_is_the_apis_answer(run: Run, api: FakeApi, command: str, answer: object) -> None:
    result = run(command, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == answer
