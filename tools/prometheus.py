# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus for as long as it is needed, on a loopback port that was free."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG = """\
global:
  scrape_interval: {milliseconds}ms
  scrape_timeout: {milliseconds}ms
scrape_configs:
  - job_name: hyperplane-nat
    static_configs:
      - targets: ["{target}"]
        labels: {{instance: {instance}}}
"""
START_SECONDS = 30.0
POLL_SECONDS = 0.05
END_SECONDS = 10.0

Sample = dict[str, Any]
"""`metric`, the labels, and `value`; `values` of a range: pairs of time and text."""


class PrometheusError(Exception):
    """It is not installed, or does not start; the text is what to do, or its log."""


class Prometheus:
    """The query API of a server that scrapes one target."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._base = f"http://{address[0]}:{address[1]}/api/v1"

    def ready(self) -> bool:
        """Whether queries are served, and the target has been scraped."""
        try:
            return self.values("up") == {(): 1.0}
        except (urllib.error.URLError, ConnectionError) as error:
            # Refused, then 503, while it starts.
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:
                raise
            return False

    def query(self, expression: str) -> list[Sample]:
        """The samples of an instant query."""
        return self._ask("query", query=expression)

    def query_range(
        self, expression: str, start: float, end: float, step_seconds: float
    ) -> list[Sample]:
        """The samples of a range query; times are seconds since the epoch."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step_seconds)

    def values(self, expression: str) -> dict[tuple[str, ...], float]:
        """Of an instant query by its own labels' values, in the order of the labels' names."""
        return {
            tuple(
                value
                for label, value in sorted(sample["metric"].items())
                if label not in ("__name__", "instance", "job")
            ): float(sample["value"][1])
            for sample in self.query(expression)
        }

    def _ask(self, what: str, **parameters: object) -> list[Sample]:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._base}/{what}?{query}", timeout=10) as answer:
            document = json.load(answer)
        result: list[Sample] = document["data"]["result"]
        return result


@contextlib.contextmanager
def scraping(
    metrics_url: str, directory: Path, *, milliseconds: int, instance: str
) -> Iterator[Prometheus]:
    """One that has scraped `metrics_url`, and does so every so many milliseconds.

    `directory` exists and gets its files; `instance` is what the label says. Raises
    PrometheusError.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise PrometheusError("prometheus is not installed: apt-get install prometheus")
    config, log = directory / "prometheus.yml", directory / "prometheus.log"
    target = urllib.parse.urlsplit(metrics_url).netloc
    text = CONFIG.format(target=target, milliseconds=milliseconds, instance=instance)
    config.write_text(text, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address: tuple[str, int] = probe.getsockname()
    command = [
        *(binary, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"),
        *(f"--web.listen-address={address[0]}:{address[1]}", "--log.level=warn"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        server, deadline = Prometheus(address), time.monotonic() + START_SECONDS
        while not server.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PrometheusError(f"no Prometheus: {log.read_text(errors='replace')}")
            time.sleep(POLL_SECONDS)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
