# SPDX-License-Identifier: Apache-2.0
"""Runtimes without namespaces: a box that starts a small one, on a port of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperplane_nat.runtime.logs import open_log
from hyperplane_nat.runtime.sandbox import EntrypointError, Started
from hyperplane_nat.runtime.settings import Settings
from hyperplane_nat.runtime.variables import Identity

RUNTIME = """
import http.client, json, os, socket, sys, time
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
if how in ("odd", "deep"):
    odd = b'{"errorType": null, "errorMessage": 5}'
    post("init/error", odd if how == "odd" else b"[" * 200000)
    time.sleep(60)
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
    elif do == "wait": time.sleep(0.2) ; post(path + "/response", b"1")
    elif do == "late": post(path + "/response", json.dumps(post("init/error", b"")[0]).encode())
    elif do == "connect":
        kept = [socket.create_connection((api.host, api.port)) for _ in range(event["count"])]
        open_ = 0
        for each in kept:
            each.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            try: open_ += bool(each.recv(1))
            except OSError: pass
        post(path + "/response", json.dumps(open_).encode())
    elif do == "leave":
        post(path + "/response", b"1")
        time.sleep(event.get("after", 0))
        sys.exit(0)
    elif do == "lost": post("nothing/here", b"") ; post(path + "/response", b"2")
    else: post(path + "/response", json.dumps(dict(head) | {"event": event}).encode())
"""


class PlainBox:
    """See `environment.Box`."""

    command: Sequence[str] = (sys.executable, "-c", RUNTIME)

    def __init__(self) -> None:
        self.address = ""
        self.variables: dict[str, str] = {}
        """Of its own, besides those that a program is given."""
        self.directory: Path | None = None
        self.started: list[Started] = []
        self.refusal: str | None = None
        self.group: Any = None

    def listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        host, port = listener.getsockname()
        self.address = f"{host}:{port}"
        return listener

    def start(self, name: str, number: int, settings: Settings, *, listen: bool) -> Started:
        if self.refusal is not None:
            raise EntrypointError(self.refusal)
        listener = self.listen() if listen else None
        output, theirs = os.pipe2(os.O_CLOEXEC)
        process = subprocess.Popen(
            self.command,
            env={
                **settings.variables(number),
                **self.variables,
                "AWS_LAMBDA_RUNTIME_API": self.address,
            },
            cwd=self.directory,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.set_blocking(output, False)
        started = Started(process, output, process.pid, self.group, listener=listener)
        self.started.append(started)
        return self.started[-1]

    def kill(self, started: Started) -> None:
        started.process.kill()


class PlainLog:
    """A `logs.LogFile` by its path, of any length."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, text: bytes) -> None:
        descriptor = open_log(self._path)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)


def settings(handler: str = "app.handler", *, timeout_seconds: float = 20.0) -> Settings:
    return Settings(
        identity=Identity("f", 128, "us-east-1"),
        account="111122223333",
        code=Path("/code"),
        handler=handler,
        runtime="python3.11",
        environment={"TABLE": "t"},
        timeout_seconds=timeout_seconds,
        ephemeral_storage_mb=512,
    )
