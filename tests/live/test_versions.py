# SPDX-License-Identifier: Apache-2.0
"""Versions, aliases and layers of handlers in a lab, in Python and in Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.live.configurations import FUNCTIONS_VPC
from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until
from tests.live.test_handlers import client

pytestmark = [pytest.mark.live, pytest.mark.slow]

TOML = (
    """
[lifecycle]
time_scale = 100
warm_idle_seconds = 60000

[pool]
size = 6

"""
    + FUNCTIONS_VPC
    + """
[[function]]
name = "orders"
subnets = ["a"]
security_groups = ["functions"]
code = "{directory}/code"
handler = "app.handler"
layers = ["{directory}/layer"]

[[function.alias]]
name = "live"
provisioned_concurrency = 2

[[function]]
name = "broken"
networking = "none"
code = "{directory}/code"
handler = "missing.handler"

[[function.alias]]
name = "live"
provisioned_concurrency = 1
"""
)
NODE = """
[[function]]
name = "nodes"
subnets = ["a"]
security_groups = ["functions"]
code = "{directory}/node"
handler = "index.handler"
runtime = "nodejs{major}.x"
layers = ["{directory}/layer"]
"""
PYTHON_HANDLER = """
import layered, os

def handler(event, context):
    if event.get("do") == "exit":
        os._exit(3)
    return [
        "first",
        layered.VALUE,
        context.function_version,
        context.invoked_function_arn.split(":", 6)[6],
        os.access("/opt", os.W_OK),
    ]
"""
NODE_HANDLER = """
const http = require("node:http");
const layered = require("layered");
exports.handler = (event, context, callback) => {
    http.get(event.url, (answer) => {
        let bytes = 0;
        answer.on("data", (part) => { bytes += part.length; });
        answer.on("end", () => callback(null, { layered, bytes, status: answer.statusCode }));
    }).on("error", callback);
};
"""


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("versions")
    written(directory / "code" / "app.py", PYTHON_HANDLER)
    written(directory / "layer" / "python" / "layered.py", "VALUE = 'of the layer'")
    written(directory / "layer" / "nodejs" / "node_modules" / "layered.js", "exports.value = 7;")
    written(directory / "node" / "index.js", NODE_HANDLER)
    return directory


def node_major() -> str | None:
    if (node := shutil.which("node")) is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return said.removeprefix("v").partition(".")[0]


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, code: Path) -> Lab:
    text = TOML.format(directory=code)
    if (major := node_major()) is not None:
        text += NODE.format(directory=code, major=major)
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait")
    return lab


def answer(lab: Lab, **asked: Any) -> Any:
    told = client(lab).invoke(**asked)
    payload = json.loads(told["Payload"].read())
    assert "FunctionError" not in told, payload
    return told["ExecutedVersion"], payload


def provisioned(lab: Lab, name: str) -> tuple[int, str]:
    row = next(each for each in lab.rows("functions") if each["FunctionName"] == name)
    found = row["Aliases"][0]["ProvisionedConcurrency"]
    return found["AvailableProvisionedConcurrentExecutions"], found["Status"]


@pytest.mark.requirement("AWS-provisioned-concurrency", profile="both")
def test_environments_are_initialized_before_they_are_invoked(lab: Lab) -> None:
    wait_until(lambda: provisioned(lab, "orders") == (2, "READY"), "two are initialized")
    told = lab.json("invoke", "orders:live", "--payload", "{}", "--log")
    assert not told["cold"]
    assert "Init Duration" not in told["log"]
    # Whoever kills one finds another in its place.
    former = {row["name"] for row in lab.rows("environments") if row["function"] == "orders:1"}
    assert told["environment"] in former
    crash = lab.cli("invoke", "orders:live", "--payload", '{"do": "exit"}', check=False)
    assert crash.returncode == 1
    wait_until(
        lambda: (
            provisioned(lab, "orders") == (2, "READY")
            and {row["name"] for row in lab.rows("environments") if row["function"] == "orders:1"}
            != former
        ),
        "another one is initialized",
    )


def test_an_initialization_ahead_that_fails(lab: Lab) -> None:
    wait_until(lambda: provisioned(lab, "broken") == (0, "FAILED"), "it has failed")
    row = next(each for each in lab.rows("functions") if each["FunctionName"] == "broken")
    reason = row["Aliases"][0]["ProvisionedConcurrency"]["StatusReason"]
    assert reason.startswith("Runtime.ImportModuleError: ")


@pytest.mark.requirement("AWS-versions", profile="both")
def test_a_version_goes_on_when_the_function_has_changed(lab: Lab, code: Path) -> None:
    first = ["first", "of the layer", "1", "orders:live", False]
    assert answer(lab, FunctionName="orders", Qualifier="live") == ("1", first)
    unqualified = ["first", "of the layer", "$LATEST", "orders", False]
    assert answer(lab, FunctionName="orders") == ("$LATEST", unqualified)

    changed = PYTHON_HANDLER.replace('"first"', '"second"')
    written(code / "changed" / "app.py", changed)
    # What is in the place of the first code does not matter to the version of it.
    written(code / "code" / "app.py", changed)
    told = lab.json("update-function-code", "orders", str(code / "changed"), "--publish")
    assert told["Version"] == "2"
    lab.client.post("/v1/functions/orders:1/provision", {"count": 2})
    assert answer(lab, FunctionName="orders:live") == ("1", first)
    assert answer(lab, FunctionName="orders:2")[1][0] == "second"
    assert answer(lab, FunctionName="orders")[1][0] == "second"

    lab.cli("update-alias", "orders:live", "2")
    assert answer(lab, FunctionName="orders:live")[1][:3] == ["second", "of the layer", "2"]
    lines = lab.cli("invoke", "orders:live", "--", "env").stdout.splitlines()
    assert "AWS_LAMBDA_FUNCTION_VERSION=2" in lines
    assert "AWS_LAMBDA_FUNCTION_NAME=orders" in lines
    assert json.loads(lab.cli("invoke", "orders:1", "--payload", "{}").stdout)[0] == "first"
    with pytest.raises(client(lab).exceptions.ResourceNotFoundException):
        client(lab).invoke(FunctionName="orders:9")


@pytest.mark.skipif(node_major() is None, reason="this host has no Node.js (apt: nodejs)")
def test_a_handler_in_node_reaches_its_vpc(lab: Lab) -> None:
    asked = json.dumps({"url": "http://10.0.1.80/file"})
    _, told = answer(lab, FunctionName="nodes", Payload=asked)
    assert told == {"layered": {"value": 7}, "bytes": 12345, "status": 200}
