# SPDX-License-Identifier: Apache-2.0
"""The table of operations: true to botocore and moto, and what docs/aws-api.md says."""

from __future__ import annotations

import re
import tomllib
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
from moto.core.utils import get_service_model

from hyperplane_nat.aws.call import ALWAYS
from hyperplane_nat.aws.operations import (
    INVOKE,
    NOTED,
    REAL,
    RECORDED_SERVICES,
    Treatment,
    treatment,
)
from tests.aws.support import ACCOUNT, Endpoint
from tools.aws_operations import SERVICES, TESTS, markdown, operations, shown

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_of_the_table() -> None:
    assert (ROOT / "docs" / "aws-api.md").read_text(encoding="utf-8") == markdown(), (
        "run: make docs"
    )


def test_the_page_has_every_operation_once() -> None:
    text = re.sub(r" \| \[.*\n", "\n", markdown())
    for service in SERVICES:
        section = text.partition(f"\n## {service}\n")[2].partition("\n## ")[0]
        heads = ("**", "| operation", "| ---")
        lines = section.splitlines(keepends=True)
        named = re.findall(r"\w+", "".join(line for line in lines if not line.startswith(heads)))
        assert sorted(named) == sorted(get_service_model(service).operation_names)


def test_what_is_done_is_shown_by_a_test_that_there_is() -> None:
    """That the test shows it, is looked at when it runs (conftest.py)."""
    done = {(service, name) for service, table in REAL.items() for name in table}
    assert set(shown()) == done | {("lambda", INVOKE)}
    for test in shown().values():
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (TESTS / file).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("service", ["ec2", "elbv2"])
def test_every_operation_that_is_not_done_is_refused_when_it_is_asked_for(
    endpoint: Endpoint, service: str
) -> None:
    """Whatever its parameters are."""
    scope = f"{ACCOUNT}/20260101/us-east-1/{service}/aws4_request"
    known = set()
    for name in operations(service)[Treatment.REFUSED]:
        request = urllib.request.Request(
            endpoint.url,
            f"Action={name}&Version=1".encode(),
            {
                "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        with caught.value as answer:
            known.add((answer.code, b"<Code>UnsupportedOperation</Code>" in answer.read()))
    assert known == {(400, True)}


def test_what_is_done_is_an_operation_of_the_service_with_its_parameters() -> None:
    for service, table in REAL.items():
        model = get_service_model(service)
        for name, found in table.items():
            members = set(model.operation_model(name).input_shape.members)
            if service != "lambda":
                assert found.takes <= members, name
            else:
                # All of Lambda's may have what says which function and which page.
                common = {"FunctionName", "Qualifier", "Marker", "MaxItems"}
                assert found.takes - common <= members, name
            assert not found.takes & ALWAYS


@pytest.mark.parametrize(
    ("service", "name", "what"),
    [
        ("ec2", "CreateNatGateway", Treatment.REAL),
        ("ec2", "CreateTransitGateway", Treatment.REFUSED),
        ("lambda", "Invoke", Treatment.REAL),
        ("lambda", "CreateAlias", Treatment.REFUSED),
        ("lambda", "AddPermission", Treatment.RECORDED),
        ("ec2", "CreateFlowLogs", Treatment.REAL),
        ("ec2", "DescribeImages", Treatment.RECORDED),
        ("elbv2", "CreateLoadBalancer", Treatment.REAL),
        ("elbv2", "CreateRule", Treatment.REFUSED),
        ("sts", "GetCallerIdentity", Treatment.REAL),
        ("sts", "AssumeRole", Treatment.RECORDED),
        ("cloudwatch", "GetMetricData", Treatment.REAL),
        ("cloudwatch", "PutMetricData", Treatment.RECORDED),
        ("logs", "CreateLogGroup", Treatment.RECORDED),
        ("cloudformation", "CreateStack", Treatment.REAL),
        ("cloudformation", "CreateStackSet", Treatment.REFUSED),
        ("rds", "CreateDBInstance", Treatment.REFUSED),
    ],
)
def test_what_becomes_of_operations(service: str, name: str, what: Treatment) -> None:
    assert treatment(service, name) is what


def test_nothing_of_these_is_motos() -> None:
    for service in ("ec2", "lambda", "elbv2"):
        assert set(operations(service)[Treatment.RECORDED]) == NOTED.get(service, set())
        assert service not in RECORDED_SERVICES


def test_moto_is_the_version_that_is_pinned() -> None:
    """Its inner modules are used: another version has to be looked at."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nmoto=={version('moto')}\n" in pins


def test_the_plain_installation_has_nothing_of_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plain = {re.split("[>=\\[]", each)[0].lower() for each in project["dependencies"]}
    extra = {
        re.split("[>=\\[]", each)[0].lower() for each in project["optional-dependencies"]["aws"]
    }
    assert "moto" in extra
    assert not extra & plain
