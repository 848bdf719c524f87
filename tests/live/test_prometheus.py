# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the lab, and its query language returns the counters of the map."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    WEB,
    Lab,
    program,
    require_program,
    run,
    stopped,
    tcp_socket,
    udp_socket,
    wait_listening,
    wait_until,
)
from tests.test_observability import queries

pytestmark = pytest.mark.live

CONFIG = """\
global:
  scrape_interval: 200ms
  scrape_timeout: 200ms
scrape_configs:
  - job_name: hyperplane-nat
    static_configs:
      - targets: ["{target}"]
"""

ENVIRONMENTS = 3
SILENT = "10.0.1.200"


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """A lab that has seen some traffic of every kind and is now quiet."""
    found = launch_shared(environments=ENVIRONMENTS)
    for where in found.environments():
        with udp_socket(where) as endpoint:
            endpoint.sendto(b"question", ECHO)
            assert endpoint.recv(64) == b"question"
            # Not in the VPC: dropped.
            endpoint.sendto(b"question", ("192.0.2.1", 53))
        run(where, require_program("ping", "iputils-ping"), "-n", "-c", "1", WEB[0])
        with tcp_socket(where) as connection:
            connection.connect(WEB)
            connection.sendall(b"GET /sha256?bytes=1 HTTP/1.0\r\n\r\n")
            while connection.recv(4096):
                pass
    wait_until(lambda: found.drops().get("no_route") == ENVIRONMENTS, "the drops are counted")
    return found


@pytest.fixture(scope="module")
def text(lab: Lab) -> str:
    """What the endpoint answers."""
    with urllib.request.urlopen(lab.status()["metrics_url"], timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        body: bytes = answer.read()
    return body.decode()


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._base = f"http://{address[0]}:{address[1]}/api/v1"

    def ready(self) -> bool:
        """Whether queries are served, and the lab has been scraped."""
        try:
            return self.values("up") == {(): 1.0}
        except urllib.error.HTTPError as error:
            # 503 while it starts.
            if error.code != 503:
                raise
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self._base}/query?{query}", timeout=10) as answer:
            document = json.load(answer)
        assert document["status"] == "success"
        result: list[dict[str, Any]] = document["data"]["result"]
        return result

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric by its own labels' values, in the order of the labels' names."""
        return {
            tuple(
                value
                for label, value in sorted(sample["metric"].items())
                if label not in ("__name__", "instance", "job")
            ): float(sample["value"][1])
            for sample in self.query(name)
        }


@pytest.fixture(scope="module")
def prometheus(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with its data in a temporary directory, on a loopback port that was free."""
    binary = require_program("prometheus", "prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    target = urllib.parse.urlsplit(lab.status()["metrics_url"]).netloc
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(target=target), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address: tuple[str, int] = probe.getsockname()
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address[0]}:{address[1]}",
        "--log.level=warn",
    ]
    log = directory / "prometheus.log"
    with program(None, binary, *options, log=log) as process:
        wait_listening(None, address, process, log)
        server = Prometheus(address)
        wait_until(server.ready, lambda: f"a scrape: {log.read_text()}", 30)
        yield server


def test_promtool_has_nothing_to_say(text: str) -> None:
    promtool = require_program("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def expected(lab: Lab) -> dict[str, dict[tuple[str, ...], float]]:
    """What the metrics must be, from the map: by name, and by label values in label order."""
    counters = lab.counters()
    directions = ("in_from_source", "out_to_destination", "in_from_destination", "out_to_source")
    protocols = ("tcp", "udp", "icmp")
    causes = ("fin", "rst", "timeout", "removed", "replaced")
    return {
        "packets_total": {(each,): counters[f"packets_{each}"] for each in directions},
        "bytes_total": {(each,): counters[f"bytes_{each}"] for each in directions},
        "flows_active": {(each,): counters[f"flows_active_{each}"] for each in protocols},
        "flows_created_total": {(each,): counters[f"flows_created_{each}"] for each in protocols},
        # The labels in alphabetical order: cause, protocol.
        "flows_ended_total": {
            (cause, each): counters[f"flows_ended_{each}_{cause}"]
            for each in protocols
            for cause in causes
        },
        "drops_total": {
            (name.removeprefix("drop_"),): value
            for name, value in counters.items()
            if name.startswith("drop_")
        },
        "port_allocation_errors_total": {(): counters["port_allocation_errors"]},
        "neighbour_failures_total": {(): counters["neighbour_failures"]},
        "ring_dropped_frames_total": {(): counters["ring_dropped"]},
        "batch_frames_sum": {(): counters["batch_frames"]},
        "batch_frames_count": {(): counters["batches"]},
        "forwarder_restarts_total": {(): 0},
        "forwarder_hangs_total": {(): 0},
        "environments": {(): ENVIRONMENTS},
    }


@pytest.mark.requirement("RFC6888-10", profile="both")
def test_queries_return_the_counters_of_the_map(lab: Lab, prometheus: Prometheus) -> None:
    """All of them, those that are 0 included."""

    def differing() -> dict[str, Any]:
        wanted = expected(lab)
        found = {name: prometheus.values(f"hyperplane_nat_{name}") for name in wanted}
        return {
            name: (found[name], value) for name, value in wanted.items() if found[name] != value
        }

    wait_until(lambda: not differing(), lambda: f"Prometheus and the map differ: {differing()}", 30)
    drops = prometheus.values("hyperplane_nat_drops_total")
    assert drops["no_route",] == ENVIRONMENTS
    assert prometheus.values("hyperplane_nat_flows_created_total") == {
        (protocol,): ENVIRONMENTS for protocol in ("tcp", "udp", "icmp")
    }


def test_counters_move_between_scrapes(lab: Lab, prometheus: Prometheus) -> None:
    """What is sent now is in a query soon after."""
    query = 'hyperplane_nat_packets_total{direction="out_to_source"}'
    (before,) = prometheus.values(query).values()
    with udp_socket(lab.environment(1)) as endpoint:
        for _ in range(100):
            endpoint.sendto(b"question", ECHO)
            assert endpoint.recv(64) == b"question"
    wait_until(lambda: list(prometheus.values(query).values()) == [before + 100], "the next scrape")


def test_counts_of_the_socket_and_the_process(text: str, prometheus: Prometheus) -> None:
    """Names that dashboards lean on are there, with values that make sense."""
    assert "hyperplane_nat_build_info{" in text
    (seconds,) = prometheus.values("process_cpu_seconds_total").values()
    assert seconds > 0
    (resident,) = prometheus.values("hyperplane_nat_forwarder_resident_memory_bytes").values()
    assert resident > 1 << 20


def test_ports_by_address(lab: Lab, prometheus: Prometheus) -> None:
    """What an address has taken is what the flow table holds of it: here all."""
    query = "hyperplane_nat_natgateway_ports"

    def agree() -> bool:
        return sum(prometheus.values(query).values()) == lab.counters()["flows_entries_used"] > 0

    wait_until(agree, lambda: f"{prometheus.values(query)}, {lab.counters()}", 30)
    (usage,) = lab.json("ports")["interfaces"]
    # The labels in alphabetical order: address, interface.
    assert {key[:2] for key in prometheus.values(query)} == {(usage["address"], usage["interface"])}
    limit = prometheus.values("hyperplane_nat_natgateway_ports_limit")
    assert limit == {(): usage["limit"]}


def test_the_ring_was_as_full_as_it_was(lab: Lab, prometheus: Prometheus) -> None:
    """A forwarder that does not look for a moment finds everything in the ring."""
    count = 700
    forwarder = lab.status()["forwarder"]["pid"]
    with udp_socket(lab.environment(1)) as endpoint, stopped(forwarder):
        for _ in range(count):
            endpoint.sendto(b"question", ECHO)
    peak, limit = (f"hyperplane_nat_ring_{word}" for word in ("used_slots_peak", "slots_limit"))
    wait_until(
        lambda: max(prometheus.values(peak).values()) >= count,
        lambda: f"{prometheus.values(peak)} of {prometheus.values(limit)}",
    )
    assert max(prometheus.values(peak).values()) <= max(prometheus.values(limit).values())
    wait_until(
        lambda: prometheus.values("hyperplane_nat_ring_used_slots") == {(): 0}, "an empty ring"
    )


def test_every_query_of_the_dashboard_is_answered(lab: Lab, prometheus: Prometheus) -> None:
    """A panel without data says nothing; those of what did not happen here may be empty."""
    quiet = {
        # No function, no crowded remote endpoint, and nothing dropped lately.
        "invocations_total",
        "cold_start_seconds_bucket",
        "natgateway_remote_ports",
        "drops_total",
    }

    def unanswered() -> list[str]:
        found = []
        for query in queries():
            expression = query.replace("$__rate_interval", "5s").replace("$instance", ".*")
            samples = prometheus.query(expression)
            name = re.findall(r"hyperplane_nat_(\w+)", query)[0]
            if name not in quiet and not samples:
                found.append(query)
        return found

    wait_until(lambda: not unanswered(), lambda: f"no data for {unanswered()}", 30)
