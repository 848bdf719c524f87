# SPDX-License-Identifier: Apache-2.0
"""The client of the control API: whether and for how long it keeps its connections."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hyperplane_nat import client as module
from hyperplane_nat.client import ApiError, Client, ClientError
from hyperplane_nat.unix_socket import CONTROL


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        status, body = 200, b'{"answer": 1}'
        if self.path == "/refused":
            status, body = 404, b'{"error": "NotFound", "message": "there is none"}'
        self.send_response(status)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            body = b'd\r\n{"answer": 1}\r\n0\r\n\r\n'
        else:
            self.send_header("Content-Length", str(len(body)))
        self.close_connection = self.path == "/last"
        if self.path == "/told":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.connections = 0
        super().__init__(str(path), _Handler)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[_Server]:
    """A control API."""
    path = directory / "lab" / CONTROL
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    with _Server(path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def client_of(directory: Path, *, keeping: bool) -> Iterator[Client]:
    found = Client("lab", runtime_directory=directory, keeping=keeping)
    with contextlib.closing(found):
        yield found


@pytest.mark.parametrize(("keeping", "connections"), [(True, 1), (False, 4)])
def test_one_connection_serves_many_requests_if_it_is_kept(
    tmp_path: Path, keeping: bool, connections: int
) -> None:
    with serving(tmp_path) as server, client_of(tmp_path, keeping=keeping) as client:
        for path in ("/", "/chunks", "/"):
            assert client.get(path) == {"answer": 1}
        with pytest.raises(ApiError, match="there is none"):
            client.get("/refused")
    assert server.connections == connections


def test_a_connection_is_kept_after_a_refusal(tmp_path: Path) -> None:
    with serving(tmp_path) as server, client_of(tmp_path, keeping=True) as client:
        with pytest.raises(ApiError, match="there is none"):
            client.get("/refused")
        assert client.get("/") == {"answer": 1}
    assert server.connections == 1


@pytest.mark.parametrize("path", ["/last", "/told"])
def test_a_connection_that_has_ended_is_replaced(tmp_path: Path, path: str) -> None:
    with serving(tmp_path) as server, client_of(tmp_path, keeping=True) as client:
        assert client.get(path) == {"answer": 1}
        for connection in [each for _, each in client._kept]:
            # The end may be on its way.
            assert connection.sock.recv(1) == b""
        assert client.get("/") == {"answer": 1}
    assert server.connections == 2


def test_another_controller_is_asked_after_the_first(tmp_path: Path) -> None:
    with client_of(tmp_path, keeping=True) as client:
        with serving(tmp_path):
            assert client.get("/last") == {"answer": 1}
        with serving(tmp_path) as other:
            assert client.get("/") == {"answer": 1}
        assert other.connections == 1


def test_a_connection_that_was_kept_for_long_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT_SECONDS", 0.0)
    with serving(tmp_path) as server, client_of(tmp_path, keeping=True) as client:
        for _ in range(2):
            assert client.get("/") == {"answer": 1}
    assert server.connections == 2


def test_an_answer_that_was_not_read_to_its_end_ends_its_connection(tmp_path: Path) -> None:
    with serving(tmp_path) as server, client_of(tmp_path, keeping=True) as client:
        answer = client.stream("GET", "/chunks")
        next(answer)
        answer.close()  # type: ignore[attr-defined]
        assert client.get("/") == {"answer": 1}
    assert server.connections == 2


def test_what_is_kept_ends_with_the_client(tmp_path: Path) -> None:
    with serving(tmp_path) as server, client_of(tmp_path, keeping=True) as client:
        client.get("/")
        client.close()
        client.get("/")
    assert server.connections == 2
    with client_of(tmp_path, keeping=True) as late, pytest.raises(ClientError):
        late.get("/")
