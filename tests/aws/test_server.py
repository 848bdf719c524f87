# SPDX-License-Identifier: Apache-2.0
"""Whom the endpoint answers, in which form, and what is recorded or refused."""

from __future__ import annotations

import http.client
import json
import logging
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from hyperplane_nat.aws import operations, server
from hyperplane_nat.aws.call import operation
from hyperplane_nat.aws.recorder import Recorder
from tests.aws.support import (
    ACCOUNT,
    OTHER,
    Endpoint,
    client_of,
    lab_in,
    refusal,
    running,
)
from tests.controller.region_lab import RegionLab, served

SCOPE = (
    f"AWS4-HMAC-SHA256 Credential={ACCOUNT}/20260101/us-east-1/{{}}/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def ask(
    endpoint: Endpoint,
    body: bytes,
    headers: dict[str, str],
    method: str = "POST",
    path: str = "/",
) -> tuple[int, str]:
    """Status and body of a request as it stands."""
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def signed(service: str, **headers: str) -> dict[str, str]:
    return {"Authorization": SCOPE.format(service), **headers}


DESCRIBE = b"Action=DescribeVpcs&Version=2016-11-15"


def test_who_has_no_credentials_or_comes_from_a_page_is_not_answered(endpoint: Endpoint) -> None:
    status, body = ask(endpoint, DESCRIBE, FORM)
    assert (status, "MissingAuthenticationToken" in body) == (403, True)
    assert ask(endpoint, DESCRIBE, signed("ec2") | FORM)[0] == 200
    for wrong in ({"Origin": "https://example.org"}, {"Host": "example.org"}):
        status, body = ask(endpoint, DESCRIBE, signed("ec2") | FORM | wrong)
        assert (status, "Vpc" in body) == (403, False)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"\xff\xfe", FORM),
        (b"Action=" + b"x" * 10_000, FORM),
        (b"Action=DescribeVpcs&MaxResults=many", FORM),
        (b"Action=DescribeVpcs&Filter.1.Name=", FORM),
        (b"Action=Describe%00Vpcs", FORM),
        (b"{", {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "x.y"}),
        (b"Action=CreateVpc&CidrBlock.1=x", FORM),
        (b"Action=AuthorizeSecurityGroupIngress&GroupId=x&IpPermissions.x=1", FORM),
    ],
)
def test_what_is_no_request_is_refused(
    endpoint: Endpoint, body: bytes, headers: dict[str, str]
) -> None:
    status, said = ask(endpoint, body, signed("ec2") | headers)
    assert (status, "<Code>" in said) == (400, True), said
    assert ask(endpoint, DESCRIBE, signed("ec2") | FORM)[0] == 200


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b'{"Timeout": "long"}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_json_is_refused(endpoint: Endpoint, body: bytes) -> None:
    status, said = ask(endpoint, body, signed("lambda"), path="/2015-03-31/functions")
    assert status == 400, said
    assert "message" in said.lower()


def test_a_request_that_is_too_large_is_not_read(endpoint: Endpoint) -> None:
    size = str(server.BODY_BYTES_MAX + 1)
    status, _ = ask(endpoint, b"", signed("ec2") | FORM | {"Content-Length": size})
    assert status == 413


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("ec2", "create_transit_gateway"),
        ("ec2", "describe_local_gateways"),
        ("ec2", "create_vpc_peering_connection"),
        ("elbv2", "describe_rules"),
        ("lambda", "list_event_source_mappings"),
        ("rds", "describe_db_instances"),
        ("stepfunctions", "list_state_machines"),
        ("dynamodb", "list_tables"),
        ("sns", "list_topics"),
        ("efs", "describe_file_systems"),
    ],
)
def test_what_is_not_emulated_says_so_in_the_services_form(
    endpoint: Endpoint, service: str, operation: str
) -> None:
    code, text, status = refusal(getattr(endpoint.client(service), operation))
    assert (code, status) == ("UnsupportedOperation", 400)
    assert text.endswith("is not emulated.")


def groups(endpoint: Endpoint) -> set[str]:
    """Log groups. moto's memory is the process's, so other tests' are there, too."""
    found = endpoint.client("logs").describe_log_groups()["logGroups"]
    return {each["logGroupName"] for each in found}


def test_what_moves_no_packets_is_recorded(endpoint: Endpoint) -> None:
    name = secrets.token_hex(8)
    trust = {"Version": "2012-10-17", "Statement": []}
    iam = endpoint.client("iam")
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    assert role["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/{name}"
    others = endpoint.client("iam", OTHER).list_roles()["Roles"]
    assert name not in {each["RoleName"] for each in others}
    endpoint.client("logs").create_log_group(logGroupName=name)
    assert name in groups(endpoint)
    s3 = endpoint.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"content")
    assert s3.get_object(Bucket=name, Key="k")["Body"].read() == b"content"
    metrics = endpoint.client("cloudwatch")
    metrics.put_metric_data(Namespace=name, MetricData=[{"MetricName": "m", "Value": 1.0}])
    found = metrics.list_metrics(Namespace=name)["Metrics"]
    assert [each["MetricName"] for each in found] == ["m"]
    assert endpoint.client("sts").get_session_token()["Credentials"]["AccessKeyId"]
    for service, listing in (
        ("kms", "list_keys"),
        ("secretsmanager", "list_secrets"),
        ("sqs", "list_queues"),
        ("ssm", "describe_parameters"),
    ):
        getattr(endpoint.client(service), listing)()


@pytest.mark.parametrize("path", ["/moto-api/data.json", "/latest/meta-data/iam"])
def test_motos_own_paths_are_nobodys_buckets(endpoint: Endpoint, path: str) -> None:
    for method in ("GET", "PUT"):
        status, said = ask(endpoint, b"", signed("s3"), method, path)
        assert (status, "<Code>UnsupportedOperation</Code>" in said) == (400, True)


def test_a_fault_is_answered_and_told(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setitem(operations.REAL["ec2"], "DescribeVpcs", operation(fail))
    with caplog.at_level(logging.ERROR):
        assert refusal(endpoint.client("ec2").describe_vpcs)[::2] == ("InternalError", 500)
    assert "a fault" in caplog.text


def test_another_endpoint_describes_the_same(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "x"}]}]
    made = ec2.create_vpc(CidrBlock="10.7.0.0/16", TagSpecifications=tags)["Vpc"]

    def described(client: Any) -> list[object]:
        return [client.describe_vpcs()["Vpcs"], client.describe_tags()["Tags"]]

    before = described(ec2)
    with running(lab_in(endpoint.directory)) as url:
        later = client_of("ec2", url)
        assert described(later) == before
        later.create_tags(Resources=[made["VpcId"]], Tags=[{"Key": "b"}])
    assert len(ec2.describe_tags()["Tags"]) == 2


def test_a_controller_that_is_away_is_told_and_its_successor_found() -> None:
    with tempfile.TemporaryDirectory(prefix="hp", dir="/dev/shm") as name:
        directory = Path(name)
        with running(lab_in(directory)) as url:
            ec2, functions = client_of("ec2", url), client_of("lambda", url)
            for _ in range(2):
                assert refusal(ec2.describe_vpcs)[::2] == ("Unavailable", 503)
                assert refusal(functions.list_functions)[::2] == ("ServiceException", 503)
                with served(directory / "control.sock", RegionLab()):
                    assert len(ec2.describe_vpcs()["Vpcs"]) == 1
                    assert len(functions.list_functions()["Functions"]) == 3


def test_what_is_recorded_fits_into_the_memory_that_it_may_take() -> None:
    script = """
import importlib, re
from hyperplane_nat.aws import server
from hyperplane_nat.aws.operations import RECORDED_SERVICES
for module, _ in RECORDED_SERVICES.values():
    importlib.import_module(module)
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ssm.models import ssm_backends
backend = ssm_backends["111122223333"]["us-east-1"]
path = "/aws/service/global-infrastructure/regions"
print(len(INSTANCE_TYPES), len(backend.get_parameters_by_path(path, False, None)[0]))
print(int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    tables, mebibytes = done.stdout.splitlines()
    sold, regions = map(int, tables.split())
    assert (sold, regions > 0) == (0, True)
    assert int(mebibytes) < 200


def posted(url: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
    """Status and body of a request that carries its credentials in its address or form."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc, timeout=30)
    headers = {"Content-Type": kind} if kind else {}
    try:
        path = f"{where.path}?{where.query}"
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_what_is_signed_beforehand_is_answered(endpoint: Endpoint, version: str) -> None:
    s3 = endpoint.client("s3", OTHER)
    signing = boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        region_name="us-east-1",
        aws_access_key_id=OTHER,
        aws_secret_access_key="any",
        config=Config(signature_version=version),
    )
    name = secrets.token_hex(8)
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"content")
    url = signing.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "k"})
    assert posted(url) == (200, b"content")
    form = signing.generate_presigned_post(name, "p")
    fields = [
        f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in form["fields"].items()
    ]
    file = (
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nsent\r\n--b--\r\n'
    )
    body = "".join([*fields, file]).encode()
    assert posted(form["url"], body, "multipart/form-data; boundary=b")[0] in (200, 204)
    assert s3.get_object(Bucket=name, Key="p")["Body"].read() == b"sent"


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"null", b'{"a":' * 100_000])
def test_what_is_recorded_takes_objects_alone(endpoint: Endpoint, body: bytes) -> None:
    kind = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.CreateKey"}
    status, said = ask(endpoint, body, signed("kms") | kind)
    assert (status, "SerializationException" in said) == (400, True), said


@pytest.mark.parametrize(
    ("service", "target", "body", "what"),
    [
        ("ssm", "AmazonSSM.GetParameter", b"{}", "Name"),
        ("kms", "TrentService.Encrypt", b"{}", "Plaintext"),
        ("logs", "Logs_20140328.CreateLogGroup", b'{"logGroupName": null}', "logGroupName"),
        ("secretsmanager", "secretsmanager.CreateSecret", b'{"Tags": []}', "Name"),
    ],
)
def test_what_a_request_lacks_is_told_and_is_no_failure_of_the_endpoint(
    endpoint: Endpoint, service: str, target: str, body: bytes, what: str
) -> None:
    """SDKs that do not look themselves would ask again and again for a failure."""
    form = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    status, said = ask(endpoint, body, signed(service) | form)
    assert (status, json.loads(said)["__type"]) == (400, "ValidationException")
    assert what in said


def test_what_a_query_lacks_is_told_too(endpoint: Endpoint) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, said = ask(endpoint, b"Action=AssumeRole&Version=2011-06-15", signed("sts") | form)
    assert (status, "<Code>ValidationError</Code>" in said, "RoleArn" in said) == (400, True, True)


@pytest.mark.parametrize("where", ["/k?partNumber=x&uploadId=y", "?lifecycle"])
def test_what_a_request_to_s3_says_wrongly_is_told_too(endpoint: Endpoint, where: str) -> None:
    name = secrets.token_hex(8)
    endpoint.client("s3").create_bucket(Bucket=name)
    status, said = ask(endpoint, b"<x>", signed("s3"), "PUT", f"/{name}{where}")
    assert (status, "cannot be read" in said) == (400, True), said


def test_what_fails_in_what_is_recorded_is_told_in_the_services_form(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> NoReturn:
        raise KeyError("something")

    monkeypatch.setattr(Recorder, "answer", fails)
    form = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.GetParameter"}
    status, said = ask(endpoint, b'{"Name": "n"}', signed("ssm") | form)
    assert (status, json.loads(said)["__type"]) == (500, "InternalError")
    status, said = ask(endpoint, b"", signed("s3"), "PUT", "/b/k?partNumber=1&uploadId=y")
    assert (status, "<Code>InternalError</Code>" in said) == (500, True)


def test_aws_managed_policies_can_be_attached(endpoint: Endpoint) -> None:
    iam, name = endpoint.client("iam"), secrets.token_hex(8)
    iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    iam.attach_role_policy(RoleName=name, PolicyArn=arn)
    (found,) = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    assert found["PolicyArn"] == arn
