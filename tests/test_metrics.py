# SPDX-License-Identifier: Apache-2.0
"""Every counter is exported once, under the names that are promised."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from hyperplane_nat.engine.state.constants import DropReason, counter_names
from hyperplane_nat.metrics import METRICS, Distribution, LabSnapshot, registry
from hyperplane_nat.metrics.cloudwatch import (
    CLOUDWATCH,
    AddressPorts,
    RemoteCount,
    RemotePortsTaken,
)
from hyperplane_nat.metrics.page import markdown
from tests.cli.test_hosts import HOST

ROOT = Path(__file__).parent.parent


def cold_starts(*seconds: float) -> Distribution:
    result = Distribution()
    for each in seconds:
        result.observe(each)
    return result


def snapshot(**counters: int) -> LabSnapshot:
    values = dict.fromkeys(counter_names(), 0) | counters
    return LabSnapshot(
        lab="test",
        counters=values,
        flows_max=1000,
        state_file_bytes=4096,
        forwarder_up=True,
        forwarder_restarts=2,
        forwarder_hangs=1,
        forwarder_resident_bytes=1 << 20,
        forwarder_failover_seconds=0.05,
        environments_by_interface={"eni-a": 3, "eni-b": 2},
        hosts={
            ("customer", "db"): HOST,
            ("customer", "web"): HOST | {"drops": 0},
            ("other", "db"): HOST,
        },
        services={"customer/web": (True, 1)},
        interfaces={"eni-a": {each.aws: n for n, each in enumerate(CLOUDWATCH)}},
        remote_errors=[RemoteCount("eni-a", "tcp", "10.0.1.80:443", 9)],
        ports=[AddressPorts("eni-a", "10.0.1.10", 60_000), AddressPorts("eni-a", "10.0.1.11", 5)],
        ports_limit=65_000,
        remote_ports=[
            RemotePortsTaken("eni-a", "10.0.1.10", "tcp", "10.0.1.80:443", 54_000),
            RemotePortsTaken("eni-a", "10.0.1.11", "tcp", "10.0.1.80:443", 3_000),
        ],
        remote_ports_limit=55_000,
        forwarder_cpu_seconds=1.5,
        pool_ready=7,
        pool_size=8,
        function_states={"checkout": "Active"},
        invocations={("checkout", "cold"): 3, ("checkout", "warm"): 4},
        cold_starts=cold_starts(0.0004, 0.003, 99.0),
        events={"port-exhaustion": 5},
    )


def test_hosts_are_told_apart_by_their_vpc() -> None:
    found = samples()
    expected = {
        "hyperplane_nat_hosts{vpc=customer}": 2,
        "hyperplane_nat_hosts{vpc=other}": 1,
        "hyperplane_nat_host_packets_total{direction=out}{host=db}{vpc=customer}": 17,
        "hyperplane_nat_host_packets_total{direction=in}{host=db}{vpc=other}": 16,
        "hyperplane_nat_host_bytes_total{direction=in}{host=web}{vpc=customer}": 1600,
        "hyperplane_nat_host_drops_total{host=db}{vpc=customer}": 3,
        "hyperplane_nat_host_drops_total{host=web}{vpc=customer}": 0,
        "hyperplane_nat_host_flows{host=db}{vpc=other}": 1,
    }
    assert {name: found[name] for name in expected} == expected


def samples(**counters: int) -> dict[str, float]:
    text = generate_latest(registry(lambda: snapshot(**counters))).decode()
    return {
        sample.name
        + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("counter", sorted(counter_names()))
def test_every_counter_of_the_engine_is_exported_once(counter: str) -> None:
    matching = [
        spec.name
        for spec in METRICS
        if spec.pattern is not None and re.fullmatch(spec.pattern, counter)
    ]
    assert len(matching) == 1, f"{counter} is exported by {matching}"
    if counter == "batches":
        # Implied by the buckets.
        return
    before, after = samples(), samples(**{counter: 12345})
    changed = [name for name in after if before[name] != after[name] and "process" not in name]
    assert changed, counter
    assert all(after[name] - before[name] == 12345 for name in changed)


def test_names_of_the_contract() -> None:
    found = samples(
        packets_in_from_source=1,
        bytes_out_to_destination=2,
        flows_active_tcp=3,
        flows_created_udp=4,
        flows_ended_icmp_timeout=5,
        drop_source_spoofed=6,
        flows_entries_used=7,
        ring_dropped=8,
        ring_slots_used=9,
        ring_slots_peak=10,
        ring_slots=11,
    )
    expected = {
        "hyperplane_nat_packets_total{direction=in_from_source}": 1,
        "hyperplane_nat_bytes_total{direction=out_to_destination}": 2,
        "hyperplane_nat_flows_active{protocol=tcp}": 3,
        "hyperplane_nat_flows_created_total{protocol=udp}": 4,
        "hyperplane_nat_flows_ended_total{cause=timeout}{protocol=icmp}": 5,
        "hyperplane_nat_drops_total{reason=source_spoofed}": 6,
        "hyperplane_nat_flow_table_entries": 7,
        "hyperplane_nat_flow_table_entries_limit": 1000,
        "hyperplane_nat_ring_dropped_frames_total": 8,
        "hyperplane_nat_forwarder_restarts_total": 2,
        "hyperplane_nat_forwarder_hangs_total": 1,
        "hyperplane_nat_forwarder_up": 1,
        "hyperplane_nat_forwarder_cpu_seconds_total": 1.5,
        "hyperplane_nat_ring_used_slots": 9,
        "hyperplane_nat_ring_used_slots_peak": 10,
        "hyperplane_nat_ring_slots_limit": 11,
        "hyperplane_nat_natgateway_ports{address=10.0.1.10}{interface=eni-a}": 60_000,
        "hyperplane_nat_natgateway_ports{address=10.0.1.11}{interface=eni-a}": 5,
        "hyperplane_nat_natgateway_ports_limit": 65_000,
        "hyperplane_nat_natgateway_remote_ports"
        "{address=10.0.1.10}{interface=eni-a}{protocol=tcp}{remote=10.0.1.80:443}": 54_000,
        "hyperplane_nat_natgateway_remote_ports"
        "{address=10.0.1.11}{interface=eni-a}{protocol=tcp}{remote=10.0.1.80:443}": 3_000,
        "hyperplane_nat_natgateway_remote_ports_limit": 55_000,
        "hyperplane_nat_pool_environments": 7,
        "hyperplane_nat_pool_environments_limit": 8,
        "hyperplane_nat_function_state{function=checkout}{state=Active}": 1,
        "hyperplane_nat_invocations_total{function=checkout}{start=cold}": 3,
        "hyperplane_nat_invocations_total{function=checkout}{start=warm}": 4,
        "hyperplane_nat_cold_start_seconds_bucket{le=0.0005}": 1,
        "hyperplane_nat_cold_start_seconds_bucket{le=0.0025}": 1,
        "hyperplane_nat_cold_start_seconds_bucket{le=0.005}": 2,
        "hyperplane_nat_cold_start_seconds_bucket{le=10.0}": 2,
        "hyperplane_nat_cold_start_seconds_count": 3,
        "hyperplane_nat_events_total{kind=port-exhaustion}": 5,
        "hyperplane_nat_environments": 5,
        "hyperplane_nat_network_interface_environments{interface=eni-b}": 2,
        "hyperplane_nat_service_up{service=customer/web}": 1,
        "hyperplane_nat_service_restarts_total{service=customer/web}": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


AWS_NAMES = {
    "ActiveConnectionCount": "active_connection",
    "BytesInFromDestination": "bytes_in_from_destination_total",
    "BytesInFromSource": "bytes_in_from_source_total",
    "BytesOutToDestination": "bytes_out_to_destination_total",
    "BytesOutToSource": "bytes_out_to_source_total",
    "ConnectionAttemptCount": "connection_attempt_total",
    "ConnectionEstablishedCount": "connection_established_total",
    "ErrorPortAllocation": "error_port_allocation_total",
    "IdleTimeoutCount": "idle_timeout_total",
    "PacketsDropCount": "packets_drop_total",
    "PacketsInFromDestination": "packets_in_from_destination_total",
    "PacketsInFromSource": "packets_in_from_source_total",
    "PacketsOutToDestination": "packets_out_to_destination_total",
    "PacketsOutToSource": "packets_out_to_source_total",
    "PeakBytesPerSecond": "peak_bytes_per_second",
    "PeakPacketsPerSecond": "peak_packets_per_second",
}
"""Amazon VPC User Guide, "Monitor NAT gateways with Amazon CloudWatch"."""


@pytest.mark.requirement("AWS-cloudwatch-metrics", profile="both")
def test_cloudwatch_metrics_one_to_one() -> None:
    assert [each.aws for each in CLOUDWATCH] == list(AWS_NAMES)
    found = samples()
    for value, (aws, name) in enumerate(AWS_NAMES.items()):
        exported = f"hyperplane_nat_natgateway_{name}"
        assert found[f"{exported}{{interface=eni-a}}"] == value, aws
        assert f"| `{aws}` | `{exported}` |" in markdown()


def test_errors_by_remote_endpoint() -> None:
    name = "hyperplane_nat_natgateway_remote_error_port_allocation_total"
    labels = "{interface=eni-a}{protocol=tcp}{remote=10.0.1.80:443}"
    assert samples()[name + labels] == 9


def test_every_reason_is_there_from_the_start() -> None:
    found = samples()
    for reason in DropReason:
        if reason:
            name = f"hyperplane_nat_drops_total{{reason={reason.name.lower()}}}"
            assert found[name] == 0


def test_batch_histogram_accumulates() -> None:
    found = samples(
        batches=10,
        batch_frames=300,
        batch_size_bucket_1=4,
        batch_size_bucket_64=5,
        batch_size_bucket_inf=1,
    )
    name = "hyperplane_nat_batch_frames"
    assert [found[f"{name}_bucket{{le={le}}}"] for le in ("1.0", "32.0", "64.0", "512.0")] == [
        4,
        4,
        9,
        9,
    ]
    assert found[f"{name}_bucket{{le=+Inf}}"] == found[f"{name}_count"] == 10
    assert found[f"{name}_sum"] == 300


def test_registering_takes_no_snapshot() -> None:
    def never() -> LabSnapshot:
        raise AssertionError("too early")

    registry(never)


def test_openmetrics() -> None:
    text = generate_openmetrics(registry(snapshot)).decode()  # type: ignore[no-untyped-call]
    assert text.endswith("# EOF\n")
    assert "hyperplane_nat_forwarder_restarts_total 2.0" in text


def test_promtool_has_no_complaint() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus, or make deps"
    text = generate_latest(registry(lambda: snapshot(batches=3, batch_size_bucket_2=3)))
    result = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_documentation_is_current() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown(), (
        "run: python -m hyperplane_nat.metrics > docs/metrics.md"
    )
