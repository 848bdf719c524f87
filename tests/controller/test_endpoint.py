# SPDX-License-Identifier: Apache-2.0
"""The control socket and the metrics port."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from hyperplane_nat.controller import endpoint
from hyperplane_nat.controller.errors import ControllerError
from tests.controller.support import run


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_mode_of_the_control_socket(
    directory: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "control.sock"
    modes = []
    chmod = Path.chmod

    def spy(target: Path, mode: int) -> None:
        modes.append(stat.S_IMODE(target.stat().st_mode))
        chmod(target, mode)

    monkeypatch.setattr(Path, "chmod", spy)
    before = os.umask(umask)
    try:
        endpoint.control_socket(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    # Between bind and chmod it allowed nothing more.
    assert modes == [0o660 & ~umask]


def test_stale_control_socket_is_replaced(directory: Path) -> None:
    path = directory / "control.sock"
    endpoint.control_socket(path).close()
    endpoint.control_socket(path).close()


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ControllerError) as failure:
            endpoint.metrics_socket("127.0.0.1", port)
    assert str(failure.value) == (
        f"metrics: cannot listen on 127.0.0.1:{port}: Address already in use "
        "(choose another metrics.port, 0 for any)"
    )


def test_address_that_is_not_ours() -> None:
    with pytest.raises(ControllerError, match=r"choose another metrics\.address"):
        endpoint.metrics_socket("192.0.2.1", 0)


class _Where:
    """Collects nothing and remembers in which thread."""

    threads: list[threading.Thread]

    def __init__(self) -> None:
        self.threads = []

    def collect(self) -> list[object]:
        self.threads.append(threading.current_thread())
        return []


def test_scrape_in_a_thread_and_formats() -> None:
    async def work() -> None:
        registry = CollectorRegistry()
        where = _Where()
        registry.register(where)  # type: ignore[arg-type]
        where.threads.clear()
        listener = endpoint.metrics_socket("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        runner = await endpoint.serve(endpoint.metrics_application(registry), listener)
        try:
            async with aiohttp.ClientSession() as client:
                async with client.get(f"{url}/metrics") as response:
                    assert response.headers["Content-Type"].startswith("text/plain")
                accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
                async with client.get(f"{url}/metrics", headers=accept) as response:
                    assert (await response.text()) == "# EOF\n"
                async with client.get(f"{url}/nothing") as response:
                    assert response.status == 404
        finally:
            await runner.cleanup()
        assert len(where.threads) == 2
        assert threading.main_thread() not in where.threads

    run(work())
