# SPDX-License-Identifier: Apache-2.0
"""The small servers: HTTP and UDP echo."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from netns import content, namespace, privileges, sockets, topology
from tests.conftest import free_port
from tests.controller.support import gone
from tests.netns.conftest import lab_spec

MEBIBYTE = 1 << 20


@contextlib.contextmanager
def service(
    kind: str, address: str, port: int, *more: str, stderr: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A service that listens; it must end well on SIGTERM."""
    command = [sys.executable, "-m", "netns.services", kind]
    command += ["--address", address, "--port", str(port), "--die-with-parent"]
    if os.geteuid() == 0:
        # As in a lab.
        command += ["--uid", str(privileges.UID)]
    command += more
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.terminate()
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


async def fetch(
    connection: socket.socket, address: tuple[str, int], path: str
) -> tuple[int, bytes]:
    """Status and SHA-256 of the body."""
    loop = asyncio.get_running_loop()
    with connection:
        await loop.sock_connect(connection, address)
        request = f"GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(connection, request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = await loop.sock_recv(connection, 1 << 16)
            assert data, head
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        digest = hashlib.sha256(body)
        buffer = bytearray(1 << 16)
        while size := await loop.sock_recv_into(connection, buffer):
            digest.update(memoryview(buffer)[:size])
        return int(head.split()[1]), digest.digest()


def get(port: int, path: str) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_http() -> None:
    port = free_port()
    with service("http", "127.0.0.1", port, "--size-bytes", str(MEBIBYTE)):
        assert get(port, "/file") == (200, content.read(MEBIBYTE))
        assert get(port, "/file?bytes=0") == (200, b"")
        longer = content.PERIOD_BYTES + 12345
        assert get(port, f"/file?bytes={longer}") == (200, content.read(longer))
        assert get(port, "/sha256") == (200, content.sha256(MEBIBYTE).encode())
        assert get(port, "/sha256?bytes=10") == (200, content.sha256(10).encode())
        begin = time.monotonic()
        assert get(port, "/slow?bytes=100001&seconds=0.5") == (200, content.read(100001))
        assert time.monotonic() - begin >= 0.49
        assert get(port, "/slow?bytes=5&seconds=0") == (200, content.read(5))
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            mine = connection.getsockname()
            connection.sendall(b"GET /peer HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.read().partition(b"\r\n\r\n")[2])
        assert answer == {"address": mine[0], "port": mine[1]}


def test_http_root_tells_whom_it_sees() -> None:
    port = free_port()
    with service("http", "127.0.0.1", port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            mine = connection.getsockname()
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as file:
                head, _, body = file.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 ")
        assert f"you are {mine[0]} port {mine[1]};" in body.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/file?bytes=-1",
        "/file?bytes=x",
        "/file?bytes=%C2%B2",
        "/file?bytes=99999999999999",
        "/slow?seconds=x",
        "/slow?seconds=-1",
        "/slow?seconds=nan",
        "/sha256?bytes=1.5",
    ],
)
def test_http_bad_requests(path: str) -> None:
    port = free_port()
    with service("http", "127.0.0.1", port):
        status, body = get(port, path)
    assert status == 400
    assert b"is possible" in body


@pytest.mark.races
def test_http_outlives_clients_that_go_away() -> None:
    port = free_port()
    with service("http", "127.0.0.1", port):
        for path in ("/file?bytes=100000000", "/slow?bytes=100000000&seconds=100"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                assert connection.recv(1000)
        assert get(port, "/file?bytes=7") == (200, content.read(7))


def test_what_clients_do_wrong_is_not_logged_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends it decides how often; and what another user may not read cannot be loaded."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    port = free_port()
    with (tmp_path / "stderr").open("wb") as stderr:
        with service("http", "127.0.0.1", port, stderr=stderr):
            before = os.fstat(stderr.fileno()).st_size
            for request in (
                b"\x00 garbage\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
                b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
            ):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    connection.sendall(request)
                    assert connection.recv(1000).startswith(b"HTTP/1.")
            for path in ("/file?bytes=100000000", "/slow?bytes=100000000&seconds=9", "/sha256"):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert get(port, "/nothing")[0] == 404
            assert get(port, "/sha256?bytes=9")[0] == 200
        text = (tmp_path / "stderr").read_bytes()
    assert before > 1000
    assert text[before:].decode() == ""


@pytest.mark.live
@pytest.mark.parametrize("kind", ["http", "udp-echo"])
@pytest.mark.parametrize("uid", [0, privileges.UID])
def test_nothing_is_left_to_it_when_it_is_ready(kind: str, uid: int) -> None:
    form = socket.SOCK_STREAM if kind == "http" else socket.SOCK_DGRAM
    with service(kind, "127.0.0.1", free_port(form), "--uid", str(uid)) as child:
        found = privileges.of(child.pid)
        assert found is not None
        assert (found.dropped, found.uid) == (True, uid)


@pytest.mark.races
def test_http_ends_at_once_with_downloads_under_way() -> None:
    port = free_port()
    with (
        service("http", "127.0.0.1", port),
        socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
    ):
        connection.sendall(b"GET /slow?bytes=1000000&seconds=1000 HTTP/1.0\r\n\r\n")
        assert connection.recv(1000)
        # Leaving `service` asserts how it ends.


def test_udp_echo() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with (
        service("udp-echo", "127.0.0.1", port),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(30)
        client.connect(("127.0.0.1", port))
        for payload in (b"", b"hello", bytes(65000)):
            client.send(payload)
            assert client.recv(65535) == payload


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http", "--address", "192.0.2.1", "--port", "80"], "Cannot assign requested address"),
        (["http", "--address", "127.0.0.1", "--port", "70000"], "port 70000 is impossible"),
        (["udp-echo", "--address", "127.0.0.1", "--port", "0"], "port 0 is impossible"),
        (["udp-echo", "--address", "nowhere", "--port", "7"], "not an IPv4 address"),
        (
            ["http", "--address", "127.0.0.1", "--port", "80", "--namespace", "hp-nobody-gw"],
            "create it first",
        ),
    ],
)
def test_what_cannot_start_says_so_in_one_line(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "netns.services", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        command = [sys.executable, "-m", "netns.services", "http", "--address", "127.0.0.1"]
        command += ["--port", str(other.getsockname()[1])]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert "Address already in use" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.races
def test_dies_with_its_parent() -> None:
    port = free_port()
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'netns.services',"
        f"'http', '--address', '127.0.0.1', '--port', '{port}', '--die-with-parent'],"
        "stdout=subprocess.PIPE, text=True); child.stdout.readline(); print(child.pid)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    pid = int(result.stdout)
    deadline = time.monotonic() + 60
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.live
@pytest.mark.slow
def test_a_thousand_downloads_at_once_in_little_memory(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    vpc = topology.vpc_namespace(lab, "customer")
    address = ("10.0.1.80", 80)

    async def fetch_all() -> list[tuple[int, bytes]]:
        opened = sockets.open_each([vpc] * 1000, "tcp")
        return await asyncio.gather(*(fetch(each, address, "/file") for each in opened))

    with service("http", *address[:1], address[1], "--namespace", vpc) as child:
        results = asyncio.run(fetch_all())
        status = Path(f"/proc/{child.pid}/status").read_text()
    assert set(results) == {(200, bytes.fromhex(content.sha256(4 * MEBIBYTE)))}
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak) < 100 * 1024, peak


@pytest.mark.live
def test_a_thousand_datagrams_at_once(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    vpc = topology.vpc_namespace(lab, "customer")
    with service("udp-echo", "10.0.1.81", 7, "--namespace", vpc):
        opened = sockets.open_each([vpc] * 1000, "udp")
        for number, each in enumerate(opened):
            each.sendto(b"%d" % number, ("10.0.1.81", 7))
        for number, each in enumerate(opened):
            with each:
                each.settimeout(30)
                assert each.recv(100) == b"%d" % number


@pytest.mark.live
def test_a_service_is_in_its_namespace(lab: str) -> None:
    topology.build(lab_spec(lab, 1))
    vpc = topology.vpc_namespace(lab, "customer")
    with service("http", "10.0.1.80", 80, "--namespace", vpc) as child:
        inside = Path(f"/proc/{child.pid}/ns/net").stat().st_ino
        assert namespace.path(vpc).stat().st_ino == inside
