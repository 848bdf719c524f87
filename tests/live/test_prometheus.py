# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the lab, and its query language returns the counters of the map."""

from __future__ import annotations

import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    WEB,
    Lab,
    require_program,
    ring_unread,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.test_observability import queries
from tools.panels import resolved
from tools.prometheus import Prometheus, scraping

pytestmark = pytest.mark.live

ENVIRONMENTS = 3
"""<linux/udp.h>."""


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
    with urllib.request.urlopen(lab.status()["metrics_url"], timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        body: bytes = answer.read()
    return body.decode()


@pytest.fixture(scope="module")
def prometheus(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with its data in a temporary directory."""
    require_program("prometheus", "prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    url = lab.status()["metrics_url"]
    with scraping(url, directory, milliseconds=200, instance=lab.name) as server:
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

    wait_until(lambda: not differing(), lambda: f"Prometheus and the map differ: {differing()}")
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

    wait_until(agree, lambda: f"{prometheus.values(query)}, {lab.counters()}")
    (usage,) = lab.json("ports")["interfaces"]
    # The labels in alphabetical order: address, interface.
    assert {key[:2] for key in prometheus.values(query)} == {(usage["address"], usage["interface"])}
    limit = prometheus.values("hyperplane_nat_natgateway_ports_limit")
    assert limit == {(): usage["limit"]}


def test_a_ring_of_super_frames_is_as_full_as_its_slots(lab: Lab, prometheus: Prometheus) -> None:
    """Of large frames only some are looked at before they leave: the others fill the ring, too."""
    count = 60
    peak = "hyperplane_nat_ring_used_slots_peak"
    with udp_socket(lab.vpc) as sink, udp_socket(lab.environment(1)) as endpoint:
        # It reads nothing and answers nothing.
        sink.bind((WEB[0], 9000))
        endpoint.connect((WEB[0], 9000))
        endpoint.setsockopt(socket.IPPROTO_UDP, wire.UDP_SEGMENT, 1400)
        assert max(prometheus.values(peak).values()) < count
        with ring_unread(lab):
            for _ in range(count):
                # Five datagrams, which leave as one frame.
                endpoint.send(bytes(7000))
        wait_until(
            lambda: max(prometheus.values(peak).values()) >= count,
            lambda: f"{prometheus.values(peak)}",
        )


def test_the_ring_was_as_full_as_it_was(lab: Lab, prometheus: Prometheus) -> None:
    """A forwarder that does not look for a moment finds everything in the ring."""
    count = 700
    with udp_socket(lab.environment(1)) as endpoint, ring_unread(lab):
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
        "function_state",
        "drops_total",
    }

    def unanswered() -> list[str]:
        found = []
        for query in queries():
            samples = prometheus.query(resolved(query, rate_seconds=5))
            name = re.findall(r"hyperplane_nat_(\w+)", query)[0]
            if name not in quiet and not samples:
                found.append(query)
        return found

    wait_until(lambda: not unanswered(), lambda: f"no data for {unanswered()}")
