# SPDX-License-Identifier: Apache-2.0
"""The control socket and the metrics port."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from hyperplane_nat.config.sections import Metrics
from hyperplane_nat.controller.api import endpoint, listeners
from hyperplane_nat.controller.errors import ControllerError
from tests.conftest import free_port
from tests.controller.support import run


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("group", [None, os.getegid()])
def test_mode_of_the_control_socket(
    directory: Path, umask: int, group: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "control.sock"
    modes = []
    bind = socket.socket.bind

    def spy(self: socket.socket, address: str) -> None:
        bind(self, address)
        modes.append(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", spy)
    directory.chmod(0o755)
    before = os.umask(umask)
    try:
        listeners.control_socket(path, group).close()
    finally:
        os.umask(before)
    assert modes == [0o600], "what it allows before anybody is admitted"
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if group is None else 0o660)
    assert stat.S_IMODE(directory.stat().st_mode) == (0o700 if group is None else 0o710)


def test_groups_of_the_host() -> None:
    root = grp.getgrgid(0).gr_name
    assert [listeners.group_id(name) for name in (None, root, "4711")] == [None, 0, 4711]
    with pytest.raises(ControllerError) as failure:
        listeners.group_id("no-such-group")
    assert str(failure.value) == (
        "lab.socket_group: there is no group 'no-such-group' on this host "
        "(groupadd --system no-such-group, or choose another)"
    )


def test_stale_control_socket_is_replaced(directory: Path) -> None:
    path = directory / "control.sock"
    listeners.control_socket(path).close()
    listeners.control_socket(path).close()


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ControllerError) as failure:
            listeners.metrics_socket("127.0.0.1", port)
    assert str(failure.value) == (
        f"metrics.port: cannot listen on 127.0.0.1:{port}: Address already in use "
        "(choose another one, 0 for any; or leave it out, and the first free one is taken)"
    )


def test_the_first_free_port_is_taken() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], port, 0]
        with listeners.free_metrics_socket("127.0.0.1", ports) as listener:
            assert listener.getsockname()[1] == port
            with listeners.free_metrics_socket("127.0.0.1", ports) as another:
                assert another.getsockname()[1] not in ports


@pytest.mark.parametrize(
    ("said", "former", "expected"),
    [
        ({}, None, [*range(9109, 9109 + listeners.NEIGHBOURS), 0]),
        ({}, 9110, [9110, *range(9109, 9109 + listeners.NEIGHBOURS), 0]),
        ({"port": 9109}, 9110, [9109]),
        ({"port": 0}, None, [0]),
        ({"port": 0}, 40000, [40000, 0]),
    ],
)
def test_ports_to_try(said: dict[str, int], former: int | None, expected: list[int]) -> None:
    assert listeners.metrics_ports(Metrics(**said), former) == expected  # type: ignore[arg-type]


def test_address_that_is_not_ours() -> None:
    with pytest.raises(ControllerError, match=r"choose another metrics\.address"):
        listeners.metrics_socket("192.0.2.1", 0)


class _Where:
    """Collects nothing and remembers in which thread."""

    threads: list[threading.Thread]

    def __init__(self) -> None:
        self.threads = []

    def collect(self) -> list[object]:
        self.threads.append(threading.current_thread())
        return []


Work = Callable[[aiohttp.ClientSession, int], Awaitable[None]]


def serving(
    work: Work,
    *,
    collector: object | None = None,
    health: Callable[[], dict[str, str]] = lambda: {"controller": "ok", "forwarder": "ok"},
    names: Collection[str] = (),
    connections_max: int = 16,
) -> None:
    """Let `work` ask a metrics endpoint; it is given the port too."""

    async def body() -> None:
        registry = CollectorRegistry()
        if collector is not None:
            registry.register(collector)  # type: ignore[arg-type]
        listener = listeners.metrics_socket("127.0.0.1", 0)
        port = listener.getsockname()[1]
        application = endpoint.metrics_application(lambda: registry, health, names)
        served = await endpoint.serve(application, listener, connections_max)
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                await work(client, port)
        finally:
            await served.close()

    run(body())


def test_scrape_in_a_thread_and_formats() -> None:
    where = _Where()

    async def work(client: aiohttp.ClientSession, _port: int) -> None:
        where.threads.clear()
        async with client.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain")
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with client.get("/metrics", headers=accept) as response:
            assert (await response.text()) == "# EOF\n"

    serving(work, collector=where)
    assert len(where.threads) == 2
    assert threading.main_thread() not in where.threads


async def refused(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """Status and code of an answer that must be one line of JSON."""
    assert response.content_type == "application/json"
    document = await response.json()
    assert set(document) == {"error", "message"}
    assert "\n" not in document["message"]
    assert "Traceback" not in document["message"]
    return response.status, document["error"]


class _Broken:
    def collect(self) -> list[object]:
        raise RuntimeError("a bug")


def test_errors_are_json(caplog: pytest.LogCaptureFixture) -> None:
    async def work(client: aiohttp.ClientSession, port: int) -> None:
        async with client.get("/nothing") as response:
            assert await refused(response) == (404, "not_found")
        async with client.post("/metrics") as response:
            assert await refused(response) == (405, "method_not_allowed")
        async with client.get("/metrics", data=bytes(2000)) as response:
            assert await refused(response) == (413, "RequestTooLargeException")
        async with client.get("/metrics") as response:
            assert await refused(response) == (500, "internal")
        caplog.clear()
        for nonsense in (b"\x16\x03\x01\r\n\r\n", b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 99999):
            answer = await raw(port, nonsense)
            assert answer.startswith(b"HTTP/1.0 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "bad_request"
        # Whoever sends nonsense does not write the log.
        assert caplog.records == []

    serving(work, collector=_Broken())


async def raw(port: int, request: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost.:9109", 200),
        ("127.0.0.1:9109", 200),
        ("127.8.8.8", 200),
        ("[::1]:9109", 200),
        ("gateway.example:9109", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.0.2.1", 421),
        ("[::1", 421),
        ("", 421),
        (None, 200),
    ],
)
def test_hosts(host: str | None, status: int) -> None:
    """A web page whose name resolves to this address (DNS rebinding) reads nothing."""

    async def work(_client: aiohttp.ClientSession, port: int) -> None:
        for path in ("metrics", "healthz", ""):
            # Only HTTP/1.0 may do without.
            said = "0\r\n" if host is None else f"1\r\nHost: {host}\r\n"
            request = f"GET /{path} HTTP/1.{said}Connection: close\r\n\r\n"
            assert int((await raw(port, request.encode())).split()[1]) == status

    serving(work, names=["gateway.example"])


@pytest.mark.parametrize(
    ("controller", "forwarder", "status", "word"),
    [
        ("ok", "ok", 200, "ok"),
        ("ok", "down", 503, "failing"),
        ("stopping", "ok", 503, "failing"),
    ],
)
def test_health(controller: str, forwarder: str, status: int, word: str) -> None:
    words = {"controller": controller, "forwarder": forwarder}

    async def work(client: aiohttp.ClientSession, _port: int) -> None:
        async with client.get("/healthz") as response:
            assert response.status == status
            assert await response.json() == {"status": word, **words}

    serving(work, health=lambda: words)


@pytest.mark.races
def test_scrapes_take_turns() -> None:
    """However many ask at once, and leave: one thread is busy with it."""
    running: list[int] = []
    most = 0

    class Slow:
        def collect(self) -> list[object]:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            time.sleep(0.01)
            running.pop()
            return []

    async def work(client: aiohttp.ClientSession, port: int) -> None:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await writer.drain()
            writer.close()

        async def scrape() -> None:
            async with client.get("/metrics") as response:
                assert response.status == 200

        await asyncio.gather(*(scrape() for _ in range(10)))

    serving(work, collector=Slow())
    assert most == 1
