# SPDX-License-Identifier: Apache-2.0
"""Custom resources: what their functions are asked, and what becomes of each answer.

The lab's Lambda endpoint is played here, with handlers that answer at the real mailbox.
"""

from __future__ import annotations

import http.server
import io
import json
import socketserver
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from hyperplane_nat.aws import inline_code, responses
from hyperplane_nat.client import ApiError
from hyperplane_nat.unix_socket import LAMBDA, mailbox
from tests.aws.stack_support import LOG_GROUP, Stacks
from tests.conftest import free_port
from tests.netns.test_services import service

Request = dict[str, Any]
Handler = Callable[[Request], Any]

FUNCTION: dict[str, Any] = {
    "Type": "AWS::Lambda::Function",
    "Properties": {
        "FunctionName": "maker",
        "Runtime": "python3.11",
        "Handler": "index.handler",
        "Role": "arn:aws:iam::111122223333:role/r",
        "Code": {"ZipFile": "import cfnresponse"},
    },
}
TOKEN = {"Fn::GetAtt": ["Maker", "Arn"]}


def custom(kind: str = "Custom::Thing", **properties: Any) -> dict[str, Any]:
    return {"Type": kind, "Properties": {"ServiceToken": TOKEN, **properties}}


def answer(request: Request, **more: Any) -> Request:
    """What cfn-response sends."""
    said = {name: request[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    key = request.get("PhysicalResourceId", "thing-1")
    return {"Status": "SUCCESS", "Reason": "", "PhysicalResourceId": key, **said, **more}


class Functions:
    """The lab's Lambda endpoint: what functions were asked, and the handler of all of them."""

    def __init__(self, port: int) -> None:
        self.asked: list[Request] = []
        self.handler: Handler = answer
        self.address = "198.51.100.254"
        self.refused = False
        self._port = port

    def put(self, url: str, body: bytes) -> int:
        """PUT to a ResponseURL, whose address is this host's here: the status."""
        parts = urlsplit(url)
        assert (parts.scheme, parts.hostname) == ("http", self.address)
        there = f"http://127.0.0.1:{self._port}{parts.path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(there, body, method="PUT"), timeout=30
            ) as found:
                return int(found.status)
        except urllib.error.HTTPError as error:
            return error.code

    def invoke(self, request: Request) -> None:
        self.asked.append(request)
        said = self.handler(request)
        if said is not None:
            sent = said if isinstance(said, bytes) else json.dumps(said).encode()
            assert self.put(request["ResponseURL"], sent) == 200

    def told(self) -> list[tuple[str, str | None]]:
        """What they were asked, and of which physical id."""
        return [(each["RequestType"], each.get("PhysicalResourceId")) for each in self.asked]


@contextmanager
def lambda_endpoint(path: str, functions: Functions) -> Iterator[None]:
    class Invocations(http.server.BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            assert self.path == "/2015-03-31/functions/maker/invocations"
            assert self.headers["X-Amz-Invocation-Type"] == "Event"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if functions.refused:
                self.send_response(429)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"full")
                return
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()
            functions.invoke(request)

    with socketserver.ThreadingUnixStreamServer(path, Invocations) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def functions(stacks: Stacks) -> Iterator[Functions]:
    directory, port = stacks.endpoint.directory, free_port()
    found = Functions(port)
    reader = directory / mailbox(responses.VPC, responses.NAME)
    invocations = directory / LAMBDA
    try:
        with (
            service("mailbox", "127.0.0.1", port, "--reader", str(reader)),
            lambda_endpoint(str(invocations), found),
        ):
            yield found
    finally:
        invocations.unlink(missing_ok=True)
        reader.unlink(missing_ok=True)


def reasons(stacks: Stacks, name: str, status: str) -> list[str]:
    return [str(each[2]) for each in stacks.told(name) if each[1] == status]


def test_a_function_makes_changes_and_deletes_it(stacks: Stacks, functions: Functions) -> None:
    functions.handler = lambda request: answer(
        request, Data={"Name": f"n-{request['ResourceProperties']['Size']}", "Deep.Er": "d"}
    )
    outputs = {
        "Name": {"Value": {"Fn::GetAtt": ["Thing", "Name"]}},
        "Deeper": {"Value": {"Fn::GetAtt": "Thing.Deep.Er"}},
        "Ref": {"Value": {"Ref": "Thing"}},
    }
    thing = custom(Size=3, Flags=[True, {"a": 1.5}])
    resources = {"Maker": FUNCTION, "Thing": thing}
    made = stacks.create("net", Resources=resources, Outputs=outputs)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:6]
    (request,) = functions.asked
    arn = "arn:aws:lambda:us-east-1:111122223333:function:maker"
    properties = {"ServiceToken": arn, "Size": "3", "Flags": ["true", {"a": "1.5"}]}
    url, key = request.pop("ResponseURL"), request.pop("RequestId")
    assert (len(url) > 50, bool(key)) == (True, True)
    assert request == {
        "RequestType": "Create",
        "StackId": made["StackId"],
        "LogicalResourceId": "Thing",
        "ResourceType": "Custom::Thing",
        "ServiceToken": arn,
        "ResourceProperties": properties,
    }
    said = {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]}
    assert said == {"Name": "n-3", "Deeper": "d", "Ref": "thing-1"}
    # Nobody answers again at an address that has had its answer.
    assert functions.put(url, b"{}") == 403
    resources["Thing"] = custom(Size=4)
    changed = stacks.update("net", Resources=resources, Outputs=outputs)
    assert changed["StackStatus"] == "UPDATE_COMPLETE"
    request = functions.asked[1]
    assert (request["RequestType"], request["PhysicalResourceId"]) == ("Update", "thing-1")
    assert request["ResourceProperties"] == {"ServiceToken": arn, "Size": "4"}
    assert request["OldResourceProperties"] == properties
    assert {"OutputKey": "Name", "OutputValue": "n-4"} in changed["Outputs"]
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE"
    request = functions.asked[2]
    assert (request["RequestType"], request["PhysicalResourceId"]) == ("Delete", "thing-1")
    assert request["ResourceProperties"] == {"ServiceToken": arn, "Size": "4"}


def test_another_physical_id_is_another_resource(stacks: Stacks, functions: Functions) -> None:
    functions.handler = lambda request: answer(
        request, PhysicalResourceId=f"of-{request['ResourceProperties']['Size']}"
    )
    kind = "AWS::CloudFormation::CustomResource"
    resources = {"Maker": FUNCTION, "Thing": custom(kind, Size=1)}
    made = stacks.create("net", Resources=resources)
    resources["Thing"] = custom(kind, Size=2)
    assert stacks.update("net", Resources=resources)["StackStatus"] == "UPDATE_COMPLETE"
    assert functions.told() == [("Create", None), ("Update", "of-1"), ("Delete", "of-1")]
    assert stacks.resources("net")["Thing"] == "of-2"
    # A change that is taken back: it is changed back, and what was instead of it goes.
    functions.asked.clear()
    resources["Thing"] = custom(kind, Size=3)
    bad = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "x"}, "DependsOn": "Thing"}
    found = stacks.update("net", Resources={**resources, "Bad": bad})
    assert found["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert functions.told() == [("Update", "of-2"), ("Update", "of-3"), ("Delete", "of-3")]
    assert stacks.resources("net")["Thing"] == "of-2"
    stacks.delete(made)


def failed(request: Request) -> Request:
    if request["RequestType"] == "Create":
        return answer(request, Status="FAILED", Reason="no luck", PhysicalResourceId="half")
    return answer(request)


@pytest.mark.parametrize(
    ("handler", "reason", "deleted"),
    [
        (
            failed,
            "Received response status [FAILED] from custom resource. Message returned: no luck "
            "(RequestId: ",
            "half",
        ),
        (lambda each: answer(each, StackId="other"), "StackId is not that of the request", ""),
        (lambda each: answer(each, Status="MAYBE"), "Status is neither SUCCESS nor FAILED", ""),
        (lambda each: answer(each, PhysicalResourceId=""), "Invalid PhysicalResourceId", ""),
        (lambda each: answer(each, Data=[1]), "Data is no object", "thing-1"),
        (lambda _each: {"Status": "SUCCESS"}, "Vendor response doesn't contain StackId key", ""),
        (lambda _each: b"[]", "Invalid response: it is not an object in JSON", ""),
        (lambda _each: b"[" * 4000, "Invalid response: it is not an object in JSON", ""),
        (lambda each: answer(each, Reason="x" * 4096), "of at most 4096 bytes", ""),
    ],
)
def test_what_is_not_done_is_the_stacks_failure(
    stacks: Stacks, functions: Functions, handler: Handler, reason: str, deleted: str
) -> None:
    def handled(request: Request) -> Any:
        return handler(request) if request["RequestType"] == "Create" else answer(request)

    functions.handler = handled
    resources = {"Maker": FUNCTION, "Thing": custom(), "After": {**LOG_GROUP, "DependsOn": "Thing"}}
    made = stacks.create("net", Resources=resources)
    assert made["StackStatus"] == "ROLLBACK_COMPLETE", stacks.told("net")[:6]
    assert any(reason in each for each in reasons(stacks, "net", "CREATE_FAILED"))
    # There may be something of it.
    (_, (what, key)) = functions.told()
    assert (what, bool(key)) == ("Delete", True)
    assert not deleted or key == deleted
    assert "After" not in [each[0] for each in stacks.told("net")]


def test_no_answer_is_waited_for_as_long_as_it_is_said(
    stacks: Stacks, functions: Functions
) -> None:
    functions.handler = lambda each: None if each["RequestType"] == "Create" else answer(each)
    # As long for the answer to the deletion, which does come.
    resources = {"Maker": FUNCTION, "Thing": custom(ServiceTimeout=5)}
    made = stacks.create("net", Resources=resources)
    assert made["StackStatus"] == "ROLLBACK_COMPLETE"
    (reason,) = [each for each in reasons(stacks, "net", "CREATE_FAILED") if "receive" in each]
    assert reason.startswith("CloudFormation did not receive a response from your Custom Resource.")
    assert functions.asked[0]["RequestId"] in reason
    assert functions.asked[1]["PhysicalResourceId"].startswith("net-Thing-")


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"ServiceToken": "arn:aws:sns:us-east-1:111122223333:t"}, "is not the ARN of a function"),
        (
            {"ServiceToken": "arn:aws:lambda:us-east-1:111122223333:function:no"},
            "failed: Function not found",
        ),
        ({"ServiceToken": ""}, "must contain the parameter serviceToken"),
        ({"ServiceTimeout": 3601}, "ServiceTimeout is from 1 to 3600 seconds: 3601"),
        ({"ServiceTimeout": "99999999999"}, "ServiceTimeout is from 1 to 3600 seconds"),
    ],
)
def test_who_cannot_be_asked_is_a_failure(
    stacks: Stacks, functions: Functions, properties: dict[str, Any], reason: str
) -> None:
    resources = {"Maker": FUNCTION, "Thing": custom(**properties)}
    made = stacks.create("net", Resources=resources)
    assert made["StackStatus"] == "ROLLBACK_COMPLETE"
    assert any(reason in each for each in reasons(stacks, "net", "CREATE_FAILED"))
    assert functions.asked == []


def test_what_cannot_be_deleted_is_there_and_asked_for_again(
    stacks: Stacks, functions: Functions
) -> None:
    made = stacks.create("net", Resources={"Maker": FUNCTION, "Thing": custom()})
    functions.handler = lambda request: answer(request, Status="FAILED", Reason="in use")
    assert stacks.delete(made)["StackStatus"] == "DELETE_FAILED"
    said = reasons(stacks, "net", "DELETE_FAILED")
    assert any("Message returned: in use" in each for each in said)
    # What has made it is there, to delete it.
    assert stacks.resources("net").keys() == {"Maker", "Thing"}
    functions.refused = True
    assert stacks.delete(made)["StackStatus"] == "DELETE_FAILED"
    assert any("failed: full" in each for each in reasons(stacks, "net", "DELETE_FAILED"))
    functions.refused, functions.handler = False, answer
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE"


def test_its_function_is_not_another_one(stacks: Stacks, functions: Functions) -> None:
    stacks.create("net", Resources={"Maker": FUNCTION, "Thing": custom()})
    thing = custom()
    thing["Properties"]["ServiceToken"] = "arn:aws:lambda:us-east-1:111122223333:function:other"
    found = stacks.update("net", Resources={"Maker": FUNCTION, "Thing": thing})
    assert found["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert functions.told() == [("Create", None)]
    said = reasons(stacks, "net", "UPDATE_FAILED")
    assert said == ["Modifying service token is not allowed."]


def test_the_mailbox_has_an_address_that_nobody_has(stacks: Stacks, functions: Functions) -> None:
    made = stacks.create("net", Resources={"Maker": FUNCTION, "Thing": custom()})
    rows: Any = stacks.endpoint.lab.client.get("/v1/services")
    (found,) = [row for row in rows if row["ServiceName"] == responses.NAME]
    assert (found["VpcName"], found["Kind"], found["PrivateIpAddress"]) == (
        "internet",
        "mailbox",
        "198.51.100.254",
    )
    stacks.delete(made)


def test_an_address_that_is_refused_is_not_asked_for_again(
    stacks: Stacks, functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, asked = stacks.endpoint.lab.client, []
    post = client.post

    def picky(path: str, body: Any) -> Any:
        if path == "/v1/services":
            asked.append(body["address"])
            if body["address"] == "198.51.100.254":
                raise ApiError(400, "InvalidParameterValue", "It is a host's.")
        return post(path, body)

    monkeypatch.setattr(client, "post", picky)
    functions.address = "198.51.100.253"
    made = stacks.create("net", Resources={"Maker": FUNCTION, "Thing": custom()})
    assert made["StackStatus"] == "CREATE_COMPLETE", reasons(stacks, "net", "CREATE_FAILED")
    assert asked == ["198.51.100.254", functions.address]
    stacks.delete(made)


def test_code_in_a_template_has_what_it_names_beside_it() -> None:
    def names(runtime: str, text: str) -> list[str]:
        return zipfile.ZipFile(io.BytesIO(inline_code.archive(runtime, text))).namelist()

    assert names("python3.11", "x") == ["index.py"]
    assert names("python3.11", "import cfnresponse") == ["index.py", "cfnresponse.py"]
    assert names("nodejs20.x", "x") == ["index.js"]
    assert names("nodejs20.x", "require('cfn-response')")[1] == "node_modules/cfn-response/index.js"
