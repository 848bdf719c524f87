# SPDX-License-Identifier: Apache-2.0
"""The scripts in `examples/` print what they promise, and leave nothing, also when interrupted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.unix_socket import RUNTIME_DIRECTORY

pytestmark = pytest.mark.live

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 270
NUMBER = r"[\d.]+"


@contextlib.contextmanager
def started(name: str) -> Iterator[subprocess.Popen[str]]:
    """An example in a process group of its own, which ends with the context at the latest."""
    with subprocess.Popen(
        [EXAMPLES / f"{name}.sh"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                # By its own trap it takes the lab along.
                process.terminate()


def left_of(lab: str) -> list[Path]:
    """What there is of a lab: namespaces, state file, runtime directory."""
    return [
        *Path("/run/netns").glob(f"hp-{lab}-*"),
        *Path("/dev/shm").glob(f"*{lab}*"),
        *RUNTIME_DIRECTORY.glob(lab),
    ]


def lab_in(output: str) -> str:
    found = re.match(r"lab (ex-[0-9a-f]{8}) is up\n", output)
    assert found is not None, output
    return found[1]


def shown_by(name: str) -> str:
    """What an example prints; it succeeds, complains of nothing and leaves nothing."""
    with started(name) as process:
        output, complaints = process.communicate(timeout=SECONDS)
    assert (process.returncode, complaints) == (0, ""), output
    assert left_of(lab_in(output)) == []
    return output


def assert_lines(output: str, *patterns: str) -> None:
    """Each pattern is a whole line of the output, and they come in this order."""
    lines = iter(output.splitlines())
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern}\n{output}"


def test_port_exhaustion() -> None:
    assert_lines(
        shown_by("port-exhaustion"),
        "env-1 has sent from 30,000 ports: 30000 flows, 0 refused",
        "env-2 has sent from 30,000 ports: 55000 flows, 5000 refused",
        "to another server.*: 1 packets transmitted, 1 received, .*",
        "eni-a\t10.0.1.10\tudp\t10.0.1.80:9\t55000\t0\t55000\t100.0\t55000\t5000\t.*"
        "\tenv-1 30000, env-2 25000",
    )


def test_idle_reset() -> None:
    output = shown_by("idle-reset")
    answer = r'\{"address": "10.0.1.10", "port": (\d+)\}'
    assert_lines(
        output,
        f"used again after 0 seconds: {answer}",
        f"used again after 60 seconds: {answer}",
        r"used again after 360 seconds: \[Errno 104\] Connection reset by peer",
        "connections ended for being idle: 1",
        "resets sent by the gateway: 1",
    )
    assert len(set(re.findall(answer, output))) == 1


def test_cold_start() -> None:
    assert_lines(
        shown_by("cold-start"),
        r"AWS would add \(modelled\)\t+12.0 s",
        "# before: 10 invocations, 10 cold, .*; interfaces used: 10, 10 of them made for it",
        r"AWS would add \(modelled\)\t+0.20 ms",
        "# after: 10 invocations, 10 cold, .*; interfaces used: 1",
        " +1 hyperplane",
        " +10 per-environment",
    )


def test_isolation() -> None:
    output = shown_by("isolation")
    inside = r"169.254.100.2:5000 is 10.0.1.10:(\d+) in the VPC"
    assert_lines(
        output,
        f"env-1: {inside}",
        f"env-2: {inside}",
        "env-1 to the VPC's echo server: +answer: hello",
        "the same with another source address: +no answer",
        "env-1 to the gateway itself: +no answer",
        "env-1 to what is not in the VPC: +no answer",
        "from the VPC to the interface: +no answer",
        "dropped, by reason: "
        r"\{'source_spoofed': 1, 'destination_gateway': 1, 'no_route': 1, 'no_flow': 1\}",
    )
    assert len(set(re.findall(inside, output))) == 2


def test_killed_forwarder() -> None:
    killed = rf"forwarder (\d+) killed; the next moved packets {NUMBER} s later"
    output = shown_by("killed-forwarder")
    assert_lines(
        output,
        *[killed] * 3,
        rf"one connection: \d+ requests answered, the longest took {NUMBER} s",
        # One answer, the same each time: it is the same flow with the same port.
        r'to the server it came from \{"address": "10.0.1.10", "port": \d+\}',
    )
    assert len(set(re.findall(killed, output))) == 3


def test_scrape() -> None:
    natgateway = "hyperplane_nat_natgateway_"
    output = shown_by("scrape")
    assert_lines(
        output,
        r"\d+ metrics, among them:",
        rf'{natgateway}connection_attempt_total\{{interface="eni-a"\}} 3.0',
        rf'{natgateway}connection_established_total\{{interface="eni-a"\}} 3.0',
        r'hyperplane_nat_flows_created_total\{protocol="tcp"\} 3.0',
    )
    received = re.search(rf"{natgateway}bytes_out_to_source_total\S+ (\S+)", output)
    assert received is not None
    assert 3_000_000 < float(received[1]) < 3_300_000


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
def test_interrupted(number: signal.Signals, status: int) -> None:
    """With a program in the lab that would go on, and one of the script's that waits for it."""
    with started("killed-forwarder") as process:
        assert process.stdout is not None
        lab = lab_in(process.stdout.readline())
        # As a terminal does it: everything in the foreground is told.
        os.killpg(process.pid, number)
        process.communicate(timeout=SECONDS)
    assert process.returncode == status
    assert left_of(lab) == []


def test_every_example_is_run_and_listed() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in EXAMPLES.glob("*.sh")} - {"lab"}
    assert {name for name in scripts if f"[{name}.sh]({name}.sh)" not in page} == set()
    assert {name for name in scripts if f"test_{name.replace('-', '_')}" not in globals()} == set()
