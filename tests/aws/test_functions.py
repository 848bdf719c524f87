# SPDX-License-Identifier: Apache-2.0
"""Functions: made, changed, listed and invoked through the Lambda API."""

from __future__ import annotations

import base64
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hyperplane_nat.runtime.code import OWN_RUNTIME
from tests.aws.support import OTHER, ROLE, Endpoint, archive, refusal, scene

CODE = archive(app="def handler(event, context): return event")


def asked(name: str = "f", **more: object) -> dict[str, Any]:
    """A request for a function without a VPC."""
    request = {
        "FunctionName": name,
        "Runtime": OWN_RUNTIME,
        "Handler": "app.handler",
        "Role": ROLE,
    }
    return {**request, "Code": {"ZipFile": CODE}, **more}


def test_a_function_from_beginning_to_end(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    made = functions.create_function(
        **asked(
            Description="it",
            Timeout=7,
            MemorySize=256,
            Environment={"Variables": {"TABLE": "1"}},
            Tags={"team": "x"},
        )
    )
    arn = "arn:aws:lambda:us-east-1:111122223333:function:f"
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert (made["FunctionArn"], made["Role"], made["Description"]) == (arn, ROLE, "it")
    assert (made["Timeout"], made["MemorySize"], made["Version"]) == (7, 256, "$LATEST")
    assert made["Environment"] == {"Variables": {"TABLE": "1"}}
    for name in ("f", arn, "111122223333:function:f", "function:f"):
        assert functions.get_function_configuration(FunctionName=name)["FunctionArn"] == arn
    found = functions.get_function(FunctionName="f")
    assert found["Tags"] == {"team": "x"}
    assert found["Configuration"]["CodeSha256"] == made["CodeSha256"]
    changed = functions.update_function_configuration(
        FunctionName="f", Timeout=8, Environment={"Variables": {}}, Description="other"
    )
    assert (changed["Timeout"], changed["Description"]) == (8, "other")
    assert "Environment" not in changed
    coded = functions.update_function_code(FunctionName="f", ZipFile=archive(app="handler = print"))
    assert coded["CodeSha256"] != made["CodeSha256"]
    functions.tag_resource(Resource=arn, Tags={"a": "1"})
    functions.untag_resource(Resource=arn, TagKeys=["team"])
    assert functions.list_tags(Resource=arn)["Tags"] == {"a": "1"}
    functions.delete_function(FunctionName="f")
    assert refusal(functions.get_function, FunctionName="f")[0] == "ResourceNotFoundException"
    assert (endpoint.directory / "aws.json").read_text() == "{}"


def test_its_network_is_the_regions(endpoint: Endpoint) -> None:
    found = scene(endpoint)
    functions = endpoint.client("lambda")
    shown = functions.get_function_configuration(FunctionName="fetch")
    assert shown["VpcConfig"] == {
        "SubnetIds": [found.private],
        "SecurityGroupIds": [found.group],
        "VpcId": found.vpc,
        "Ipv6AllowedForDualStack": False,
    }
    assert shown["State"] == "Active"
    functions.get_waiter("function_active_v2").wait(FunctionName="fetch")
    outside = functions.update_function_configuration(
        FunctionName="fetch", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}
    )
    assert "VpcConfig" not in outside or not outside["VpcConfig"].get("SubnetIds")


def test_it_is_pending_until_its_interface_is_there(endpoint: Endpoint) -> None:
    ec2, functions = endpoint.client("ec2"), endpoint.client("lambda")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="d")["GroupId"]
    network = {"SubnetIds": [subnet], "SecurityGroupIds": [group]}
    made = functions.create_function(**asked(VpcConfig=network))
    assert (made["State"], made["StateReasonCode"]) == ("Pending", "Creating")
    code, _, status = refusal(functions.update_function_configuration, FunctionName="f", Timeout=9)
    assert (code, status) == ("ResourceConflictException", 409)
    endpoint.region.settle()
    assert functions.get_function_configuration(FunctionName="f")["State"] == "Active"


def test_lists_are_paged_and_have_the_own_ones_alone(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    for number in range(4):
        functions.create_function(**asked(f"f{number}"))
    pages = functions.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 3})
    names = [[row["FunctionName"] for row in page["Functions"]] for page in pages]
    assert names == [["f0", "f1", "f2"], ["f3", "hook", "orders"], ["reports"]]
    other = endpoint.client("lambda", OTHER)
    assert other.list_functions()["Functions"] == []
    assert refusal(other.get_function, FunctionName="f0")[0] == "ResourceNotFoundException"
    arn = functions.get_function(FunctionName="f0")["Configuration"]["FunctionArn"]
    assert refusal(other.delete_function, FunctionName=arn)[0] == "ResourceNotFoundException"
    # Names are a lab's, not an account's.
    assert refusal(other.create_function, **asked("f0"))[0] == "ResourceConflictException"


def test_code_may_come_from_the_endpoints_own_s3(endpoint: Endpoint) -> None:
    functions, s3 = endpoint.client("lambda"), endpoint.client("s3")
    s3.create_bucket(Bucket="code")
    s3.put_object(Bucket="code", Key="f.zip", Body=CODE)
    made = functions.create_function(**asked(Code={"S3Bucket": "code", "S3Key": "f.zip"}))
    direct = functions.create_function(**asked("g"))
    assert made["CodeSha256"] == direct["CodeSha256"]
    for bucket, key in (("code", "other"), ("nowhere", "f.zip")):
        code, text, _ = refusal(
            functions.create_function, **asked("h", Code={"S3Bucket": bucket, "S3Key": key})
        )
        assert code == "InvalidParameterValueException"
        assert text.startswith("Error occurred while GetObject. S3 Error Code: NoSuch")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"Handler": ""}, "InvalidParameterValueException"),
        ({"Code": {}}, "InvalidParameterValueException"),
        ({"Code": {"ZipFile": b"no archive"}}, "InvalidParameterValueException"),
        ({"Timeout": 901}, "InvalidParameterValueException"),
        ({"FunctionName": "a b"}, "ValidationException"),
        ({"PackageType": "Image"}, "UnsupportedOperation"),
        ({"Layers": ["arn:aws:lambda:us-east-1:1:layer:l:1"]}, "UnsupportedOperation"),
        ({"EphemeralStorage": {"Size": 1024}}, "UnsupportedOperation"),
        ({"Code": {"ImageUri": "x"}}, "InvalidParameterValueException"),
    ],
)
def test_functions_that_cannot_be_are_refused(
    endpoint: Endpoint, more: dict[str, Any], code: str
) -> None:
    functions = endpoint.client("lambda")
    assert refusal(functions.create_function, **asked(**more))[0] == code
    names = {row["FunctionName"] for row in functions.list_functions()["Functions"]}
    assert names == {"hook", "orders", "reports"}


@contextmanager
def invoking(endpoint: Endpoint) -> Iterator[list[tuple[str, bytes, dict[str, str]]]]:
    """What the lab's own endpoint is sent; it answers like one whose function has failed."""
    heard: list[tuple[str, bytes, dict[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, body, dict(self.headers)))
            answer = b'{"errorMessage": "no"}'
            self.send_response(200)
            self.send_header("X-Amz-Function-Error", "Unhandled")
            self.send_header("X-Amz-Log-Result", base64.b64encode(b"a line").decode())
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    path = endpoint.directory / "lambda.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield heard
        finally:
            server.shutdown()
            thread.join()
            path.unlink()


def test_the_labs_own_endpoint_invokes(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    functions.create_function(**asked())
    with invoking(endpoint) as heard:
        found = functions.invoke(
            FunctionName="f", Qualifier="live", Payload=json.dumps({"a": 1}), LogType="Tail"
        )
    ((path, body, headers),) = heard
    assert path == "/2015-03-31/functions/f/invocations?Qualifier=live"
    assert body == b'{"a": 1}'
    assert headers["X-Amz-Log-Type"] == "Tail"
    assert "Authorization" not in headers
    assert (found["FunctionError"], found["Payload"].read()) == (
        "Unhandled",
        b'{"errorMessage": "no"}',
    )
    assert base64.b64decode(found["LogResult"]) == b"a line"


def test_without_a_runtime_an_invocation_is_refused(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    functions.create_function(**asked())
    code, _, status = refusal(functions.invoke, FunctionName="f")
    assert (code, status) == ("ServiceException", 500)


def test_versions(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    functions.create_function(**asked())
    endpoint.region.settle()
    published = functions.publish_version(FunctionName="f")
    assert (published["Version"], published["FunctionArn"][-2:]) == ("1", ":1")
    functions.get_waiter("published_version_active").wait(FunctionName="f", Qualifier="1")
    rows = functions.list_versions_by_function(FunctionName="f")["Versions"]
    assert [row["Version"] for row in rows] == ["$LATEST", "1"]
    everything = functions.list_functions(FunctionVersion="ALL")["Functions"]
    assert sum(row["FunctionName"] == "f" for row in everything) == 2
    assert refusal(functions.get_function, FunctionName="f:2")[0] == "ResourceNotFoundException"
    functions.delete_function(FunctionName="f", Qualifier="1")
    assert len(functions.list_versions_by_function(FunctionName="f")["Versions"]) == 1
    assert functions.get_function(FunctionName="f")["Configuration"]["Version"] == "$LATEST"


def test_a_version_is_published_with_the_function(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    made = functions.create_function(**asked(Publish=True))
    assert made["Version"] == "1"
    coded = functions.update_function_code(
        FunctionName="f", ZipFile=archive(app="handler = 1"), Publish=True
    )
    assert coded["Version"] == "2"
    # In a VPC, too, where both are Pending meanwhile.
    found = scene(endpoint)
    network = {"SubnetIds": [found.private], "SecurityGroupIds": [found.default]}
    made = functions.create_function(**asked("g", Publish=True, VpcConfig=network))
    assert (made["Version"], made["State"]) == ("1", "Pending")
    endpoint.region.settle()
    functions.get_waiter("published_version_active").wait(FunctionName="g", Qualifier="1")
