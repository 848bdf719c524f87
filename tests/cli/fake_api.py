# SPDX-License-Identifier: Apache-2.0
"""A control API that gives prepared answers, on a unix socket where a lab's would be.

An answer is a document, bytes, a `Refusal`, or a function of the request's body that gives one.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True)
class Refusal:
    """An error of the API."""

    status: int
    code: str
    message: str


@dataclass
class FakeApi:
    """Answers by path; what was asked is kept."""

    answers: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    requests: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    """Of the requests that had one."""
    cut_short: bool = False
    """Close in the middle of the answer."""


class _Server(socketserver.ThreadingUnixStreamServer):
    """Ends when its answers have ended; what went wrong in one is raised in the test it was for."""

    daemon_threads = False
    api: FakeApi

    def __init__(self, path: str) -> None:
        super().__init__(path, _Handler)
        self.faults: list[BaseException] = []

    def handle_error(self, request: object, client_address: object) -> None:
        fault = sys.exc_info()[1]
        # Who leaves in the middle of an answer is one of the things that are tried.
        if fault is not None and not isinstance(fault, ConnectionError):
            self.faults.append(fault)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10.0

    def address_string(self) -> str:
        return "unix"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def do_GET(self) -> None:
        api = cast(_Server, self.server).api
        api.requests.append(f"{self.command} {self.path}")
        given = None
        if length := int(self.headers.get("Content-Length") or 0):
            assert self.headers["Content-Type"] == "application/json"
            given = json.loads(self.rfile.read(length))
            api.bodies.append(given)
        path = self.path.partition("?")[0]
        answer = api.answers.get(path, Refusal(404, "not_found", f"{path} does not exist"))
        if callable(answer):
            answer = answer(given)
        status = api.status
        if isinstance(answer, Refusal):
            status = answer.status
            answer = {"error": answer.code, "message": answer.message}
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(body) // 2
        for piece in (body[:half], body[half:]):
            if piece:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if api.cut_short:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815


@contextlib.contextmanager
def serving(socket: Path, api: FakeApi) -> Iterator[None]:
    """Serve while the context lasts."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    with _Server(str(socket)) as server:
        server.api = api
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
    socket.unlink()
    for fault in server.faults:
        raise fault
