# SPDX-License-Identifier: Apache-2.0
"""Runtimes without namespaces: a box that starts a small one, on a port of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hyperplane_nat.runtime.environment import Settings
from hyperplane_nat.runtime.sandbox import EntrypointError, Started
from hyperplane_nat.runtime.variables import Identity
from netns import processes

RUNTIME = """
import http.client, json, os, sys, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
base = "/2018-06-01/runtime/"
def post(path, body, **headers):
    api.request("POST", base + path, body, headers)
    answer = api.getresponse()
    return answer.status, answer.read()
how = os.environ["_HANDLER"]
print("initializing", flush=True)
if how == "hang": time.sleep(60)
if how == "exit": sys.exit(7)
if how == "error":
    post("init/error", b'{"errorType": "Runtime.ImportModuleError", "errorMessage": "no"}')
    sys.exit(1)
while True:
    api.request("GET", base + "invocation/next")
    answer = api.getresponse()
    event, head = json.loads(answer.read()), answer.headers
    path = "invocation/" + head["Lambda-Runtime-Aws-Request-Id"]
    do = event.get("do")
    print("doing", do)
    sys.stdout.flush()
    if do == "hang": time.sleep(60)
    elif do == "exit": sys.exit(event["status"])
    elif do == "kill": os.kill(os.getpid(), 9)
    elif do == "error": post(path + "/error", b"what?", **{
        "Lambda-Runtime-Function-Error-Type": "Function.Odd"})
    elif do == "large": post(path + "/response", b"x" * event["bytes"])
    elif do == "other":
        told = post("invocation/nobody/response", b"1")
        post(path + "/response", json.dumps([told[0], json.loads(told[1])]).encode())
    elif do == "leave":
        post(path + "/response", b"1")
        sys.exit(0)
    elif do == "lost": post("nothing/here", b"") ; post(path + "/response", b"2")
    else: post(path + "/response", json.dumps(dict(head) | {"event": event}).encode())
"""


class PlainBox:
    """See `environment.Box`."""

    def __init__(self) -> None:
        self.address = ""
        self.started: list[Started] = []
        self.refusal: str | None = None

    def listen(self, name: str) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        host, port = listener.getsockname()
        self.address = f"{host}:{port}"
        return listener

    def start(self, name: str, code: Path, runtime: str, variables: Mapping[str, str]) -> Started:
        if self.refusal is not None:
            raise EntrypointError(self.refusal)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        process = subprocess.Popen(
            [sys.executable, "-c", RUNTIME],
            env={**variables, "AWS_LAMBDA_RUNTIME_API": self.address},
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.set_blocking(output, False)
        self.started.append(Started(process, output, processes.now()))
        return self.started[-1]

    def kill(self, name: str, started: Started) -> None:
        if started.process.poll() is None:
            started.process.kill()


def settings(handler: str = "app.handler", *, timeout_seconds: float = 20.0) -> Settings:
    return Settings(
        identity=Identity("f", 128, "us-east-1"),
        account="111122223333",
        code=Path("/code"),
        handler=handler,
        runtime="python3.11",
        environment={"TABLE": "t"},
        timeout_seconds=timeout_seconds,
    )
