# SPDX-License-Identifier: Apache-2.0
"""A zip with a handler, invoked by boto3 in a lab: cold, warm, late, crashed, and beside a kill."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from hyperplane_nat.controller.processes import MARK
from hyperplane_nat.runtime.logs import log_path
from netns import namespace
from tests.live.configurations import FUNCTIONS_VPC
from tests.live.conftest import Launch
from tests.live.lab import Lab, run, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

HANDLER = """
import json, os, signal, subprocess, time, urllib.request
print("initialized in", os.readlink("/proc/self/ns/net"))
calls = 0

def handler(event, context):
    global calls
    calls += 1
    print("asked for", json.dumps(event))
    match event.get("do"):
        case "fetch":
            with urllib.request.urlopen(event["url"], timeout=5) as answer:
                return {"status": answer.status, "bytes": len(answer.read())}
        case "hang":
            subprocess.Popen(["sleep", "612"], start_new_session=True)
            time.sleep(600)
        case "wait":
            time.sleep(event["seconds"])
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise KeyError("nothing")
        case "set":
            return {1, 2}
        case "large":
            return "x" * event["bytes"]
        case "look":
            status = open("/proc/self/status").read()
            return {
                "variables": dict(os.environ),
                "uid": [os.getuid(), os.geteuid(), os.getgid(), os.getgroups()],
                "capabilities": [line for line in status.splitlines() if line.startswith("Cap")],
                "no_new_privs": "NoNewPrivs:\\t1" in status,
                "task": sorted(os.listdir("/var/task")),
                "labs": os.listdir("/run/hyperplane-nat"),
                "namespaces": os.listdir("/run/netns"),
                "umask": os.umask(0o22),
                "tmp": os.access("/tmp", os.W_OK),
                "writable": os.access("/var/task", os.W_OK),
            }
        case "write":
            with open("/tmp/file", "w") as file:
                file.write("kept")
        case "read":
            return os.listdir("/tmp")
    return {
        "calls": calls,
        "namespace": os.readlink("/proc/self/ns/net"),
        "left": context.get_remaining_time_in_millis(),
        "arn": context.invoked_function_arn,
        "name": context.function_name,
        "memory": context.memory_limit_in_mb,
        "trace": os.environ.get("_X_AMZN_TRACE_ID", ""),
    }
"""
BOOTSTRAP = """#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while :; do
    head="$(mktemp)"
    event="$(curl -sS -D "$head" "$api/next")"
    id="$(tr -d '\\r' < "$head" | sed -n 's/^Lambda-Runtime-Aws-Request-Id: //p')"
    curl -sS -o /dev/null "$api/$id/response" -d "Echoing request: '$event'"
done
"""
TOML = (
    """
[lifecycle]
time_scale = 100
warm_idle_seconds = 60000

[pool]
size = 6

[[account]]
name = "shop"
id = "123456789012"

"""
    + FUNCTIONS_VPC
    + """
[[function]]
name = "orders"
subnets = ["a"]
security_groups = ["functions"]
code = "code.zip"
handler = "app.handler"
memory_mb = 256
environment = {{ TABLE = "orders" }}

[[function]]
name = "echo"
networking = "none"
code = "{bootstrap}"
runtime = "provided"

[[function]]
name = "broken"
networking = "none"
code = "code.zip"
handler = "missing.handler"

[[function]]
name = "limited"
networking = "none"
code = "code.zip"
handler = "app.handler"
reserved_concurrency = 1

[[function]]
name = "plain"
networking = "none"
"""
)


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    os.environ["SECRET_OF_THE_SHELL"] = "leaked"
    try:
        return started(launch_shared, tmp_path_factory.mktemp("code"))
    finally:
        del os.environ["SECRET_OF_THE_SHELL"]


def started(launch: Launch, directory: Path) -> Lab:
    archive = directory / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("app.py", HANDLER)
    own = directory / "own"
    own.mkdir()
    own.chmod(0o755)
    (own / "bootstrap").write_text(BOOTSTRAP, encoding="utf-8")
    (own / "bootstrap").chmod(0o755)
    text = TOML.format(bootstrap=own).replace('"code.zip"', f'"{archive}"')
    lab = launch(environments=0, toml=text)
    lab.cli("wait")
    return lab


@functools.cache
def client(lab: Lab) -> Any:
    """boto3's, as somebody has it who has evaluated `credentials`."""
    told = lab.json("credentials")
    return boto3.client(
        "lambda",
        endpoint_url=told["AWS_ENDPOINT_URL_LAMBDA"],
        region_name=told["AWS_REGION"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"max_attempts": 0}, read_timeout=60),
    )


def invoke(lab: Lab, name: str = "orders", **event: Any) -> dict[str, Any]:
    """The answer of `Invoke`, with `payload` and `log` decoded."""
    payload = json.dumps(event)
    answer: dict[str, Any] = client(lab).invoke(FunctionName=name, Payload=payload, LogType="Tail")
    body = answer["Payload"].read()
    try:
        answer["payload"] = json.loads(body)
    except ValueError:
        answer["payload"] = body.decode()
    answer["log"] = base64.b64decode(answer["LogResult"]).decode()
    assert answer["StatusCode"] == 200
    return answer


def error(answer: dict[str, Any]) -> tuple[str, str]:
    assert answer["FunctionError"] == "Unhandled"
    return answer["payload"]["errorType"], answer["payload"]["errorMessage"]


def replaced(lab: Lab) -> dict[str, Any]:
    """An answer after the environment was given up: by another one."""
    answer = invoke(lab)
    assert "FunctionError" not in answer
    assert answer["payload"]["calls"] == 1
    assert "Init Duration" in answer["log"]
    return answer


def test_cold_and_warm(lab: Lab) -> None:
    assert lab.status()["lambda_endpoint"] == lab.json("credentials")["AWS_ENDPOINT_URL_LAMBDA"]
    first, second = invoke(lab, do="fetch", url="http://10.0.1.80/file"), invoke(lab)
    assert first["payload"] == {"status": 200, "bytes": 12345}
    assert "initialized in net:" in first["log"]
    assert re.search(r"Init Duration: [0-9.]+ ms$", first["log"], re.MULTILINE)
    assert "Init Duration" not in second["log"]
    told = second["payload"]
    assert told["calls"] == 2
    assert told["namespace"] in first["log"]
    assert told["namespace"] != os.readlink("/proc/self/ns/net")  # noqa: PTH115
    assert told["arn"] == "arn:aws:lambda:us-east-1:123456789012:function:orders"
    assert (told["name"], told["memory"]) == ("orders", "256")
    assert 0 < told["left"] <= 3000
    assert told["trace"].startswith("Root=1-")
    request_id = second["ResponseMetadata"]["RequestId"]
    words = [line.split("\t")[0] for line in second["log"].splitlines()]
    assert words == [
        f"START RequestId: {request_id} Version: $LATEST",
        "asked for {}",
        f"END RequestId: {request_id}",
        f"REPORT RequestId: {request_id}",
    ]


def test_what_a_handler_sees(lab: Lab) -> None:
    seen = invoke(lab, do="look")["payload"]
    assert seen["uid"] == [65529, 65529, 65529, []]
    assert {line.split()[1] for line in seen["capabilities"]} == {"0" * 16}
    assert seen["no_new_privs"]
    assert seen["task"] == ["app.py"]
    assert (seen["labs"], seen["namespaces"]) == ([], [])
    assert seen["tmp"]
    assert not seen["writable"]
    variables = seen["variables"]
    assert "SECRET_OF_THE_SHELL" not in variables
    assert variables["TABLE"] == "orders"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "orders"
    assert variables["_HANDLER"] == "app.handler"


def test_a_program_has_the_functions_variables_and_none_of_the_shells(lab: Lab) -> None:
    lines = lab.cli("invoke", "orders", "--", "env").stdout.splitlines()
    assert "TABLE=orders" in lines
    assert "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256" in lines
    assert not [line for line in lines if line.startswith("SECRET_OF_THE_SHELL")]


def test_no_process_of_the_lab_has_the_shells_variables(lab: Lab) -> None:
    mark = f"{MARK}={lab.runtime_directory}".encode()
    found = {path.parent.name: variables_of(path) for path in Path("/proc").glob("[0-9]*/environ")}
    found = {pid: variables for pid, variables in found.items() if mark in variables}
    status = lab.status()
    assert {str(status["pid"]), str(status["forwarder"]["pid"])} <= found.keys()
    names = {each.partition(b"=")[0] for variables in found.values() for each in variables}
    assert not names & {b"SECRET_OF_THE_SHELL", b"HOME", b"USER"}


def variables_of(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []


def test_the_memory_that_was_used_is_told(lab: Lab) -> None:
    told = re.search(r"Max Memory Used: ([0-9]+) MB", invoke(lab)["log"])
    assert told is not None
    assert int(told[1]) > 5


def test_a_tmp_of_its_own_lasts_as_long_as_the_environment(lab: Lab) -> None:
    invoke(lab, do="write")
    assert invoke(lab, do="read")["payload"] == ["file"]
    assert not Path("/tmp/file").exists()
    invoke(lab, do="crash")
    assert invoke(lab, do="read")["payload"] == []


def test_a_timeout_leaves_nothing(lab: Lab) -> None:
    answer = invoke(lab, do="hang")
    kind, text = error(answer)
    assert kind == "Sandbox.Timedout"
    assert text.endswith("Error: Task timed out after 3.00 seconds")
    assert "Status: timeout" in answer["log"]
    former = re.findall(r"net:\[[0-9]+\]", invoke_log(lab))
    replaced(lab)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and sleeps(pid, former)]


def invoke_log(lab: Lab) -> str:
    """The whole log of the function."""
    return log_path(lab.runtime_directory, "orders").read_text(encoding="utf-8")


def sleeps(pid: str, inside: Collection[str]) -> bool:
    """Whether a process is the handler's `sleep` in one of these namespaces."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        is_inside = os.readlink(f"/proc/{pid}/ns/net") in inside  # noqa: PTH115
        return is_inside and words[:2] == [b"sleep", b"612"]
    except OSError:
        return False


@pytest.mark.parametrize(
    ("event", "kind", "text", "ends"),
    [
        ({"do": "crash"}, "Runtime.ExitError", "signal: segmentation fault", True),
        ({"do": "raise"}, "KeyError", "'nothing'", False),
        ({"do": "set"}, "Runtime.MarshalError", "Unable to marshal response", False),
        (
            {"do": "large", "bytes": 6_300_000},
            "Function.ResponseSizeTooLarge",
            "(6291556 bytes)",
            True,
        ),
    ],
)
def test_what_goes_wrong(
    lab: Lab, event: dict[str, Any], kind: str, text: str, *, ends: bool
) -> None:
    invoke(lab)
    told = error(invoke(lab, **event))
    assert told[0] == kind
    assert text in told[1]
    after = replaced(lab) if ends else invoke(lab)
    assert (after["payload"]["calls"] == 1) == ends


def test_a_module_that_is_missing(lab: Lab) -> None:
    answer = invoke(lab, "broken")
    kind, text = error(answer)
    assert kind == "Runtime.ImportModuleError"
    assert "No module named 'missing'" in text
    assert "Status: error\tError Type: Runtime.ImportModuleError" in answer["log"]


def test_a_runtime_of_ones_own(lab: Lab) -> None:
    for number in range(2):
        answer = invoke(lab, "echo", number=number)
        assert answer["payload"] == f"Echoing request: '{json.dumps({'number': number})}'"


@pytest.mark.parametrize(
    ("name", "arguments", "code", "status"),
    [
        ("nobody", {}, "ResourceNotFoundException", 404),
        ("plain", {}, "InvalidParameterValueException", 400),
        ("orders", {"Payload": b"["}, "InvalidRequestContentException", 400),
        ("nobody", {"InvocationType": "Event"}, "ResourceNotFoundException", 404),
        ("nobody", {"InvocationType": "DryRun"}, "ResourceNotFoundException", 404),
    ],
)
def test_refusals(lab: Lab, name: str, arguments: dict[str, Any], code: str, status: int) -> None:
    with pytest.raises(ClientError) as raised:
        client(lab).invoke(FunctionName=name, **arguments)
    answer = raised.value.response
    assert answer["Error"]["Code"] == code
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status


AWS = Path(sys.prefix, "aws", "bin", "aws")
"""The AWS command line, which `make` installs."""


def aws(lab: Lab, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`aws lambda invoke --function-name … answer`, as after `eval "$(credentials)"`."""
    return subprocess.run(
        [AWS, "lambda", "invoke", *arguments, "answer"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory), **lab.json("credentials")},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_aws_command_line(lab: Lab, tmp_path: Path) -> None:
    event = '{"do": "fetch", "url": "http://10.0.1.80/file"}'
    done = aws(lab, tmp_path, "--function-name=orders", f"--payload={event}", "--log-type=Tail")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["StatusCode"], told["ExecutedVersion"]) == (200, "$LATEST")
    assert "REPORT RequestId" in base64.b64decode(told["LogResult"]).decode()
    answer = tmp_path / "answer"
    assert json.loads(answer.read_bytes()) == {"status": 200, "bytes": 12345}

    done = aws(lab, tmp_path, "--function-name=orders", '--payload={"do": "raise"}')
    assert json.loads(done.stdout)["FunctionError"] == "Unhandled"
    assert json.loads(answer.read_bytes())["errorType"] == "KeyError"


@pytest.mark.parametrize(("kind", "status"), [("Event", 202), ("DryRun", 204)])
def test_the_aws_command_line_without_an_answer(
    lab: Lab, tmp_path: Path, kind: str, status: int
) -> None:
    event = json.dumps({"mark": f"aws {kind}"})
    arguments = ("--function-name=orders", f"--payload={event}", f"--invocation-type={kind}")
    done = aws(lab, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["StatusCode"] == status
    if kind == "Event":
        wait_until(lambda: f"asked for {event}" in invoke_log(lab), "the event is handled")
    else:
        invoke(lab)
        assert event not in invoke_log(lab)


def test_the_aws_command_line_tells_what_is_refused(lab: Lab, tmp_path: Path) -> None:
    done = aws(lab, tmp_path, "--function-name=nobody")
    assert done.returncode != 0
    assert "(ResourceNotFoundException) when calling the Invoke operation" in done.stderr


@pytest.mark.parametrize(("kind", "status"), [("Event", 202), ("DryRun", 204)])
def test_without_an_answer(lab: Lab, kind: str, status: int) -> None:
    event = json.dumps({"mark": f"boto3 {kind}"})
    answer = client(lab).invoke(FunctionName="orders", Payload=event, InvocationType=kind)
    assert (answer["StatusCode"], answer["Payload"].read()) == (status, b"")
    if kind == "Event":
        wait_until(lambda: f"asked for {event}" in invoke_log(lab), "the event is handled")
    else:
        invoke(lab)
        assert event not in invoke_log(lab)


def test_the_command_line(lab: Lab, tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text('{"do": "fetch", "url": "http://10.0.1.80/file"}')
    done = lab.cli("invoke", "orders", "--payload", f"@{event}", "--log")
    assert json.loads(done.stdout) == {"status": 200, "bytes": 12345}
    assert "REPORT RequestId" in done.stderr
    failed = lab.cli("invoke", "orders", "--payload", '{"do": "raise"}', check=False)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["errorType"] == "KeyError"
    accepted = lab.cli("invoke", "orders", "--payload", '{"event": "later"}', "--async")
    assert accepted.stdout == ""
    wait_until(
        lambda: 'asked for {"event": "later"}' in lab.cli("logs", "orders").stdout,
        "the event is handled",
    )


def test_several_at_a_time_have_environments_of_their_own(lab: Lab) -> None:
    found: list[str] = []

    def call() -> None:
        found.append(invoke(lab, do="wait", seconds=1.5)["payload"]["namespace"])

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 3


def test_more_than_the_reserved_concurrency(lab: Lab) -> None:
    asking = client(lab)
    event = json.dumps({"do": "wait", "seconds": 2})
    arguments = {"FunctionName": "limited", "Payload": event}
    thread = threading.Thread(target=asking.invoke, kwargs=arguments)
    thread.start()
    log = log_path(lab.runtime_directory, "limited")
    wait_until(lambda: log.exists() and "START" in log.read_text(), "the first one has begun")
    with pytest.raises(ClientError) as raised:
        asking.invoke(**arguments)
    thread.join()
    answer = raised.value.response
    assert answer["Error"]["Code"] == "TooManyRequestsException"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert answer["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"


def test_other_users_of_the_host_are_refused(lab: Lab) -> None:
    for name in ("lambda.json", "lambda.sock", "runtime.sock"):
        mode = (lab.runtime_directory / name).stat().st_mode
        assert stat.S_IMODE(mode) & 0o077 == 0


def test_a_change_of_code_gets_new_environments(lab: Lab, tmp_path: Path) -> None:
    before = invoke(lab)["payload"]
    text = lab.config_file.read_text(encoding="utf-8")
    changed = tmp_path / "changed.toml"
    changed.write_text(text.replace('TABLE = "orders"', 'TABLE = "other"'), encoding="utf-8")
    lab.cli("apply", str(changed))
    assert invoke(lab, do="look")["payload"]["variables"]["TABLE"] == "other"
    assert invoke(lab)["payload"]["namespace"] != before["namespace"]
    lab.cli("apply", str(lab.config_file))


def curl(lab: Lab, method: str, path: str, body: object) -> Any:
    """The answer of the control API."""
    done = subprocess.run(
        [
            *("curl", "-sS", "--fail-with-body", "-X", method, "--json", "@-"),
            *("--unix-socket", str(lab.runtime_directory / "control.sock")),
            f"http://localhost{path}",
        ],
        input=json.dumps(body).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def test_code_by_the_control_api(lab: Lab) -> None:
    def zipped(text: str) -> str:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("sent.py", f"def handler(event, context): return {text!r}")
        return base64.b64encode(content.getvalue()).decode()

    asked = {"name": "sent", "handler": "sent.handler", "zip_file": zipped("first")}
    curl(lab, "POST", "/v1/functions", asked)
    lab.cli("wait", "sent")
    assert invoke(lab, "sent")["payload"] == "first"
    curl(lab, "PUT", "/v1/functions/sent/code", {"zip_file": zipped("second")})
    assert invoke(lab, "sent")["payload"] == "second"
    lab.cli("apply", str(lab.config_file))
    os.kill(lab.status()["pid"], signal.SIGKILL)
    lab.up()
    assert invoke(lab, "sent")["payload"] == "second"
    curl(lab, "PUT", "/v1/functions/sent/code", {"zip_file": zipped("third")})
    assert invoke(lab, "sent")["payload"] == "third"
    kept = lab.runtime_directory / "code"
    wait_until(lambda: len(list(kept.iterdir())) == 1, "the former ones are dropped")


def test_nothing_is_left(launch: Launch, tmp_path: Path) -> None:
    lab = started(launch, tmp_path)
    (lab.runtime_directory / "code" / "0.zip").touch()
    inside = invoke(lab)["payload"]["namespace"]
    environment = lab.environment(1)
    assert run(environment, "true").returncode == 0
    lab.down()
    assert not namespace.exists(environment)
    assert not lab.runtime_directory.exists()
    assert not [pid for pid in os.listdir("/proc") if is_in(pid, inside)]


def is_in(pid: str, inside: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == inside  # noqa: PTH115
    except OSError:
        return False
