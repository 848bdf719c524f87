# SPDX-License-Identifier: Apache-2.0
"""`make docs-panels`: a picture of every panel of the dashboard, from a lab under traffic.

A lab of a random name is brought up, a Prometheus scrapes it, two minutes of traffic of every kind
go through it, and each panel's queries are asked for that time. A query without an answer is an
error: its picture would be empty. Whatever happens, lab and Prometheus are gone afterwards. Needs
root, `prometheus`, and the extra `plots`. Exit status: 0, or 1 with what failed.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hyperplane_nat.client import Client, ClientError
from netns import namespace, sockets, topology
from tools import panels
from tools.panels import Curve, Panel
from tools.prometheus import Prometheus, PrometheusError, scraping

SECONDS = 120.0
RATE_SECONDS = 5
"""What Grafana would take for rates at a scrape a second."""

FLOWS = 1500
"""More than there will be at a time."""

WEB, ECHO = ("10.0.1.80", 80), ("10.0.1.81", 7)
NOBODY = ("192.0.2.1", 53)
"""Not in the VPC: what goes there is dropped."""

CONFIG = """\
[lab]
name = "{lab}"
environments = 4
runtime_directory = "{runtime}"

[metrics]
port = 0

[pool]
size = 8

[ports]
limit_per_remote = 350
limit_per_interface = 1500
hold_seconds = 10

[lifecycle]
time_scale = 30
warm_idle_seconds = 30

[[account]]
name = "payments"
id = "111122223333"

[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"

[[vpc.subnet]]
name = "private-a"
cidr = "10.0.1.0/24"

[[vpc.security_group]]
name = "functions"

[[vpc.service]]
name = "web"
kind = "http"
address = "10.0.1.80"
port = 80
size_bytes = 200000

[[vpc.service]]
name = "echo"
kind = "udp-echo"
address = "10.0.1.81"
port = 7

[[network_interface]]
name = "eni-a"
subnet = "private-a"
address = "10.0.1.10"
secondary_addresses = ["10.0.1.11"]

[[function]]
name = "checkout"
networking = "hyperplane"
vpc = "customer"
subnets = ["private-a"]
security_groups = ["functions"]
"""


class DrawError(Exception):
    """A step that failed; the text says which and why."""


def hyperplane_nat(*arguments: str) -> None:
    """A command of the command line; DrawError with what it printed."""
    command = [sys.executable, "-m", "hyperplane_nat.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise DrawError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def lab(directory: Path) -> Iterator[Client]:
    """A lab that is up, by the client of its control API."""
    name, runtime = f"panels-{secrets.token_hex(4)}", directory / "run"
    file = directory / "lab.toml"
    file.write_text(CONFIG.format(lab=name, runtime=runtime), encoding="utf-8")
    where = ("--lab", name, "--runtime-directory", str(runtime))
    try:
        hyperplane_nat(*where, "up", "--config", str(file))
        yield Client(name, runtime_directory=runtime)
    finally:
        hyperplane_nat(*where, "down")


class Traffic:
    """What goes on in the lab, each kind in a thread of its own, until it is stopped."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._start = time.monotonic()
        sockets.ensure_files(FLOWS)
        self._over = threading.Event()
        works: list[Callable[[], None]] = [
            *(partial(self._pages, number) for number in (1, 1, 1, 2, 2)),
            self._echoes,
            self._strays,
            self._crowd,
            self._bursts,
            self._invocations,
        ]
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _pause(self, seconds: float) -> bool:
        """Whether it goes on after so long."""
        return not self._over.wait(seconds)

    def _socket(self, number: int, kind: socket.SocketKind) -> socket.socket:
        where = topology.environment_namespace(self._client.lab, number)
        found = namespace.call(where, socket.socket, socket.AF_INET, kind)
        found.settimeout(5)
        return found

    def _wave(self, seconds: float) -> float:
        """From 0 to 1 and back again and again."""
        return (1 - math.cos(2 * math.pi * self._elapsed / seconds)) / 2

    def _pages(self, number: int) -> None:
        while self._pause(0.02 + 0.15 * self._wave(50)):
            with (
                self._socket(number, socket.SOCK_STREAM) as connection,
                contextlib.suppress(OSError),
            ):
                connection.connect(WEB)
                connection.sendall(b"GET /file HTTP/1.0\r\n\r\n")
                while connection.recv(65536):
                    pass
                self._pause(0.1 + 0.6 * self._wave(35))

    def _echoes(self) -> None:
        with self._socket(3, socket.SOCK_DGRAM) as endpoint:
            while self._pause(0.004 + 0.02 * self._wave(40)):
                with contextlib.suppress(OSError):
                    endpoint.sendto(b"question", ECHO)
                    endpoint.recv(64)

    def _strays(self) -> None:
        with self._socket(2, socket.SOCK_DGRAM) as endpoint:
            while self._pause(0.1 + 0.4 * self._wave(30)):
                with contextlib.suppress(OSError):
                    endpoint.sendto(b"question", NOBODY)

    def _crowd(self) -> None:
        """Flow after flow towards one remote endpoint, more than there are ports."""
        with contextlib.ExitStack() as stack:
            while self._pause(0.1):
                endpoint = stack.enter_context(self._socket(4, socket.SOCK_DGRAM))
                with contextlib.suppress(OSError):
                    endpoint.sendto(b"question", ECHO)

    def _bursts(self) -> None:
        with self._socket(1, socket.SOCK_DGRAM) as endpoint:
            while self._pause(8):
                for _ in range(int(500 + 1500 * self._wave(60))):
                    with contextlib.suppress(OSError):
                        endpoint.sendto(b"question", ECHO)

    def _invocations(self) -> None:
        """Ever more at a time: those that find nobody ready are cold."""

        def invoke() -> None:
            with contextlib.suppress(ClientError):
                self._client.post(
                    "/v1/functions/checkout/invocations", {"command": ["sleep", "0.3"]}
                )

        while self._pause(0.2 + 2 * self._wave(25)):
            together = 1 + int(self._elapsed // 15)
            threads = [threading.Thread(target=invoke) for _ in range(together)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def curves(server: Prometheus, panel: Panel, start: float, end: float) -> list[Curve]:
    """What the panel's queries say of that time; DrawError when one says nothing."""
    found = []
    for expression, form in panel.targets:
        asked = panels.resolved(expression, rate_seconds=RATE_SECONDS)
        series = server.query_range(asked, start, end, 1)
        if not any(not math.isnan(float(v)) for each in series for _, v in each["values"]):
            raise DrawError(f"{panel.title}: no data for {asked}")
        times = range(int(end - start) + 1)
        for each in series:
            known = {round(moment - start): float(value) for moment, value in each["values"]}
            values = [known.get(second, math.nan) for second in times]
            found.append(Curve(panels.legend(form, each["metric"]), times, values))
    return found


def draw_all(say: Callable[[str], None]) -> None:
    """Everything."""
    with (
        tempfile.TemporaryDirectory(prefix="hyperplane-nat-panels-") as name,
        lab(Path(name)) as client,
    ):
        status = client.get("/v1/status")
        assert isinstance(status, dict)
        url = status["metrics_url"]
        with scraping(url, Path(name), milliseconds=1000, instance="lab") as server:
            say(f"{SECONDS:.0f} seconds of traffic")
            start = round(time.time())
            with Traffic(client):
                time.sleep(SECONDS)
            found = [
                (panel, curves(server, panel, start, start + SECONDS))
                for row in panels.rows().values()
                for panel in row
            ]
    for old in panels.PICTURES.glob("*.png"):
        old.unlink()
    for number, (panel, each) in enumerate(found, 1):
        panels.draw(panel, each)
        say(f"{number} of {len(found)}: {panel.picture.name}")
    panels.PAGE.write_text(panels.page(), encoding="utf-8")


def main() -> int:
    """Draw; the exit status."""
    try:
        draw_all(print)
    except (DrawError, ClientError, PrometheusError) as error:
        print(f"draw_panels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
