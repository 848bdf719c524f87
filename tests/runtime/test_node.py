# SPDX-License-Identifier: Apache-2.0
"""Handlers in Node.js: what Lambda's runtime does with them, and how it tells of errors."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.runtime.environment import Environment
from hyperplane_nat.runtime.invocation import Invocation, Outcome
from hyperplane_nat.runtime.logs import FunctionLog
from hyperplane_nat.runtime.sandbox import BOOTSTRAP
from tests.runtime.box import PlainBox, PlainLog, settings

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="this host has no Node.js (apt: nodejs)")


class NodeBox(PlainBox):
    """The bootstrap, with a directory for `/var/task`."""

    command = (NODE or "node", str(BOOTSTRAP))

    def __init__(self, task: Path) -> None:
        super().__init__()
        self.directory = task
        self.variables = {"LAMBDA_TASK_ROOT": str(task)}


def major() -> str:
    assert NODE is not None
    said = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    return said.removeprefix("v").partition(".")[0]


def played(
    directory: Path, handler: str, *events: Any, runtime: str | None = None
) -> list[Outcome]:
    """The outcomes of invocations, one after the other, until the runtime is gone."""
    wanted = settings(handler)
    wanted = replace(wanted, runtime=runtime or f"nodejs{major()}.x")

    async def body() -> list[Outcome]:
        log = FunctionLog(PlainLog(directory / "f.log"), lambda: 0.0)
        environment = Environment(
            7, "nowhere", wanted, NodeBox(directory), log, on_gone=lambda _number: None
        )
        outcomes: list[Outcome] = []
        try:
            async with asyncio.timeout(240):
                for event in events:
                    context = '{"custom": {"a": 1}}'
                    asked = Invocation("id-1", json.dumps(event).encode(), "arn", "trace", context)
                    outcomes.append(await environment.invoke(asked))
                    if outcomes[-1].gone:
                        break
        finally:
            await environment.close()
        return outcomes

    return asyncio.run(body())


def answer(outcome: Outcome) -> Any:
    assert outcome.error is None, outcome.payload
    return json.loads(outcome.payload)


def error(outcome: Outcome) -> dict[str, Any]:
    assert outcome.error == "Unhandled"
    told: dict[str, Any] = json.loads(outcome.payload)
    return told


HANDLERS = """
let calls = 0;
class Odd extends Error { constructor(text) { super(text); this.name = "Odd"; } }
exports.nested = { deep: async () => "deep" };
exports.handler = (event, context, callback) => {
    calls += 1;
    console.log("call", calls, { event });
    switch (event.do) {
        case "promise": return Promise.resolve({ calls });
        case "nothing": return Promise.resolve();
        case "callback": setTimeout(() => callback(null, "called"), 5); return;
        case "late":
            callback(null, "first");
            callback(null, "second");
            setTimeout(() => console.log("after the callback"), 20);
            return;
        case "at once":
            context.callbackWaitsForEmptyEventLoop = false;
            setTimeout(() => {}, 600000);
            callback(null, "at once");
            return;
        case "neither": setTimeout(() => console.log("some work"), 5); return;
        case "refuse": callback(new Odd("refused")); return;
        case "text": callback("only text"); return;
        case "throw": throw new Odd("thrown");
        case "reject": return Promise.reject(new Odd("rejected"));
        case "circle": { const a = {}; a.a = a; return Promise.resolve(a); }
        case "stray":
            setTimeout(() => { throw new Odd("stray"); }, 5);
            return new Promise(() => {});
        case "unhandled": Promise.reject(new Odd("nobody")); return new Promise(() => {});
        case "flood":
            for (let line = 0; line < 1500; line += 1) console.log("flood", "x".repeat(200));
            process.stderr.write("the end\\n");
            return Promise.resolve();
        case "exit": process.exit(3);
        case "context": return Promise.resolve({
            ...context,
            left: context.getRemainingTimeInMillis(),
            trace: process.env._X_AMZN_TRACE_ID,
        });
    }
};
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "index.js").write_text(HANDLERS)
    return tmp_path


def test_promises_callbacks_and_neither(task: Path) -> None:
    asked = ("promise", "nothing", "callback", "late", "neither", "at once", "promise")
    outcomes = played(task, "index.handler", *({"do": each} for each in asked))
    answers = [answer(each) for each in outcomes]
    assert answers == [{"calls": 1}, None, "called", "first", None, "at once", {"calls": 7}]
    assert b"after the callback" in outcomes[3].tail
    assert b"some work" in outcomes[4].tail
    assert b"\tid-1\tINFO\tcall 1 { event: { do: 'promise' } }" in outcomes[0].tail


def test_what_an_invocation_writes_is_written_when_it_is_answered(task: Path) -> None:
    answer(played(task, "index.handler", {"do": "flood"})[0])
    text = (task / "f.log").read_text()
    assert text.count("flood xxx") == 1500
    assert text.index("the end") < text.index("END RequestId")


def test_the_context(task: Path) -> None:
    (told,) = (answer(each) for each in played(task, "index.handler", {"do": "context"}))
    assert 0 < told.pop("left") <= 20_000
    assert told == {
        "callbackWaitsForEmptyEventLoop": True,
        "functionName": "f",
        "functionVersion": "$LATEST",
        "memoryLimitInMB": "128",
        "logGroupName": "/aws/lambda/f",
        "logStreamName": told["logStreamName"],
        "invokedFunctionArn": "arn",
        "awsRequestId": "id-1",
        "clientContext": {"custom": {"a": 1}},
        "trace": "trace",
    }


def test_errors_have_the_shape_that_lambda_gives_them(task: Path) -> None:
    asked = ("refuse", "text", "throw", "reject", "circle", "promise")
    *failed, last = played(task, "index.handler", *({"do": each} for each in asked))
    told = [error(each) for each in failed]
    assert [(each["errorType"], each["errorMessage"]) for each in told] == [
        ("Odd", "refused"),
        ("string", "only text"),
        ("Odd", "thrown"),
        ("Odd", "rejected"),
        ("Error", "Unable to stringify response body"),
    ]
    assert told[2]["trace"][0] == "Odd: thrown"
    assert "index.js" in told[2]["trace"][1]
    assert told[1]["trace"] == []
    assert b'ERROR\tInvoke Error \t{"errorType":"Odd"' in failed[2].tail
    assert answer(last) == {"calls": 6}, "the runtime goes on"


@pytest.mark.parametrize(
    ("do", "kind", "text"),
    [
        ("stray", "Odd", "stray"),
        ("unhandled", "Runtime.UnhandledPromiseRejection", "Odd: nobody"),
        ("exit", "Runtime.ExitError", "RequestId: id-1 Error: Runtime exited with error: "),
    ],
)
def test_what_nobody_catches(task: Path, do: str, kind: str, text: str) -> None:
    told = error(played(task, "index.handler", {"do": do})[0])
    assert told["errorType"] == kind
    assert told["errorMessage"].startswith(text)


FILES = {
    "plain.mjs": "export const handler = async () => 'mjs';",
    "sub/inner.js": "exports.handler = async () => 'inner';",
    "common.cjs": "exports.handler = async () => 'cjs';",
    "module/package.json": '{"type": "module"}',
    "module/index.js": "await 1;\nexport const handler = async () => 'module';",
    "syntax.js": "exports.handler = async (",
    "needs.js": "require('missing-package'); exports.handler = async () => 1;",
    "asks.mjs": "import 'missing-package'; export const handler = async () => 1;",
    "throws.js": "throw new TypeError('at the top');",
    "value.js": "exports.handler = 1;",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        ("plain.handler", "mjs"),
        ("sub/inner.handler", "inner"),
        ("common.handler", "cjs"),
        ("module/index.handler", "module"),
    ],
)
def test_where_a_handler_is(files: Path, handler: str, result: str) -> None:
    assert answer(played(files, handler, {})[0]) == result


def test_a_handler_inside_of_what_is_exported(task: Path) -> None:
    assert answer(played(task, "index.nested.deep", {})[0]) == "deep"


@pytest.mark.parametrize(
    ("handler", "kind", "says"),
    [
        ("none.handler", "Runtime.ImportModuleError", "Error: Cannot find module"),
        ("needs.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'missing-pack"),
        ("asks.handler", "Runtime.ImportModuleError", "Error [ERR_MODULE_NOT_FOUND]: Cannot find"),
        ("syntax.handler", "Runtime.UserCodeSyntaxError", "SyntaxError: "),
        ("throws.handler", "TypeError", "at the top"),
        ("plain.other", "Runtime.HandlerNotFound", "plain.other is undefined or not exported"),
        ("value.handler", "Runtime.HandlerNotFound", "value.handler is not a function"),
        ("../index.handler", "Runtime.MalformedHandlerName", "Bad handler"),
    ],
)
def test_initializations_that_fail(files: Path, handler: str, kind: str, says: str) -> None:
    (outcome,) = played(files, handler, {})
    told = error(outcome)
    assert told["errorType"] == kind
    assert told["errorMessage"].startswith(says)
    assert outcome.gone


def test_another_node_than_the_host_has(task: Path) -> None:
    told = error(played(task, "index.handler", {}, runtime="nodejs99.x")[0])
    assert told["errorType"] == "Runtime.InvalidEntrypoint"
    assert told["errorMessage"].endswith("and not 99")
