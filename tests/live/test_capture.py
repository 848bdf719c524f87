# SPDX-License-Identifier: Apache-2.0
"""Captures of a running lab, read by tshark: no complaint, and each frame with its flow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import (
    COMMAND,
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE,
    INTERFACE_ADDRESS,
    UP_SECONDS,
    WEB,
    Lab,
    live_connection,
    require_program,
    run,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

# Chatter of tshark itself about who runs it.
ROOT_WARNING = "Running as user"


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=2)


class Running:
    """A capture that has begun."""

    def __init__(self, process: subprocess.Popen[str], file: Path) -> None:
        self.process = process
        self.file = file

    def end(self) -> dict[str, Any]:
        """Its summary, after it has ended by itself or by Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """Its summary, once it has ended by itself."""
        output, errors = self.process.communicate(timeout=UP_SECONDS)
        assert self.process.returncode == 0, errors
        summary: dict[str, Any] = json.loads(output)
        return summary


@contextlib.contextmanager
def capturing(lab: Lab, file: Path, *options: str) -> Iterator[Running]:
    """`hyperplane-nat capture` into `file` while the context lasts."""
    command = [str(COMMAND), "--lab", lab.name, "capture", "-w", str(file), "--json", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert first.startswith("capturing on "), first + process.stderr.read()
            yield Running(process, file)
        finally:
            process.kill()


def tshark(file: Path, *options: str) -> str:
    """What tshark prints of a file; a warning fails the test."""
    program = require_program("tshark", "tshark")
    done = subprocess.run(
        [program, "-n", "-r", str(file), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=UP_SECONDS,
    )
    complaints = [line for line in done.stderr.splitlines() if ROOT_WARNING not in line]
    assert (done.returncode, complaints) == (0, [])
    return done.stdout


def fields(file: Path, *names: str, wanted: str = "") -> list[dict[str, str]]:
    """The named fields of each frame."""
    options = [option for name in names for option in ("-e", name)]
    checks = [
        option
        for protocol in ("ip", "tcp", "udp")
        for option in ("-o", f"{protocol}.check_checksum:TRUE")
    ]
    text = tshark(file, "-T", "fields", "-E", "separator=|", *options, *checks, "-Y", wanted)
    return [dict(zip(names, line.split("|"), strict=True)) for line in text.splitlines()]


def echo(lab: Lab, number: int, count: int = 1) -> int:
    """Datagrams to the echo server and back, of one flow; its source port."""
    with udp_socket(lab.environment(number)) as endpoint:
        for _ in range(count):
            endpoint.sendto(b"captured", ECHO)
            assert endpoint.recv(64) == b"captured"
        port: int = endpoint.getsockname()[1]
        return port


def test_both_sides_of_a_flow_are_seen_once_and_named(lab: Lab, tmp_path: Path) -> None:
    # Whoever is next is known by then.
    echo(lab, 1)
    with capturing(lab, tmp_path / "both.pcapng", "--environment", "env-1") as running:
        port = echo(lab, 1, count=3)
        echo(lab, 2, count=3)
        (flow,) = [row for row in lab.rows("flows") if row["inside_port"] == port]
        summary = running.end()
    assert summary["ended"] == "interrupted"
    assert summary["dropped"] == 0
    frames = fields(
        running.file, "frame.interface_name", "ip.src", "ip.dst", "frame.comment", wanted="udp"
    )
    remote = ECHO[0]
    assert Counter((each["frame.interface_name"], each["ip.src"]) for each in frames) == {
        ("env1", INSIDE_ADDRESS): 3,
        ("env1", remote): 3,
        (INTERFACE, INTERFACE_ADDRESS): 3,
        (INTERFACE, remote): 3,
    }
    assert {each["frame.comment"] for each in frames} == {
        f"env-1: udp {INSIDE_ADDRESS}:{port} -> {INTERFACE_ADDRESS}:{flow['nat_port']}"
        f" -> {remote}:{ECHO[1]} {flow['state']}"
    }
    order = [each["frame.interface_name"] for each in frames[:4]]
    assert order == ["env1", INTERFACE, INTERFACE, "env1"]


def test_an_interface_shows_the_frames_of_all(lab: Lab, tmp_path: Path) -> None:
    with capturing(lab, tmp_path / "all.pcapng", "--interface", INTERFACE) as running:
        echo(lab, 1)
        echo(lab, 2)
        running.end()
    frames = fields(running.file, "frame.comment", wanted="udp")
    assert Counter(each["frame.comment"].partition(":")[0] for each in frames) == {
        "env-1": 2,
        "env-2": 2,
    }


def test_super_frames_have_complete_checksums(lab: Lab, tmp_path: Path) -> None:
    curl = require_program("curl", "curl")
    file = tmp_path / "tcp.pcapng"
    with capturing(lab, file, "--environment", "1", "--filter", "tcp") as running:
        run(lab.environment(1), curl, "-sSf", "-o", os.devnull, f"http://{WEB[0]}/file")
        summary = running.end()
    frames = fields(file, "frame.len", "tcp.checksum.status", "ip.checksum.status")
    assert {each["tcp.checksum.status"] for each in frames} == {"1"}
    assert {each["ip.checksum.status"] for each in frames} == {"1"}
    assert max(int(each["frame.len"]) for each in frames) > 3000
    assert len(frames) == summary["frames"]
    assert tshark(file, "-q", "-z", "expert,error").strip() == ""


def test_a_filter_and_a_count(lab: Lab, tmp_path: Path) -> None:
    options = ("--environment", "env-1", "--filter", "icmp", "-c", "2")
    ping = require_program("ping", "iputils-ping")
    with capturing(lab, tmp_path / "count.pcapng", *options) as running:
        echo(lab, 1)
        run(lab.environment(1), ping, "-n", "-c", "2", "-i", "0.05", ECHO[0])
        summary = running.wait()
    assert (summary["ended"], summary["frames"]) == ("count", 2)
    frames = fields(running.file, "_ws.col.Protocol", "frame.comment")
    assert [each["_ws.col.Protocol"] for each in frames] == ["ICMP"] * 2
    assert all(each["frame.comment"].startswith("env-1: icmp") for each in frames)


def test_seconds_and_standard_output(lab: Lab, tmp_path: Path) -> None:
    options = ("--interface", INTERFACE, "--seconds", "0.2")
    done = subprocess.run(
        [str(COMMAND), "--lab", lab.name, "capture", "-w", "-", "--json", *options],
        capture_output=True,
        check=True,
        timeout=UP_SECONDS,
    )
    assert json.loads(done.stderr.splitlines()[-1])["ended"] == "seconds"
    file = tmp_path / "stdout.pcapng"
    file.write_bytes(done.stdout)
    tshark(file)


def test_what_is_dropped_has_no_flow(lab: Lab, tmp_path: Path) -> None:
    """A frame from outside that nobody asked for: on the interface, but not with an environment."""
    options = ("--filter", "udp port 4444")
    with (
        capturing(lab, tmp_path / "one.pcapng", "--environment", "1", *options) as one,
        capturing(lab, tmp_path / "all.pcapng", "--interface", INTERFACE, *options) as everything,
    ):
        before = lab.drops().get("no_flow", 0)
        with udp_socket(lab.vpc) as stranger:
            stranger.sendto(b"nobody asked", (INTERFACE_ADDRESS, 4444))
        wait_until(lambda: lab.drops().get("no_flow", 0) > before, "the drop")
        assert one.end()["frames"] == 0
        assert everything.end()["frames"] == 1
    assert fields(everything.file, "frame.comment") == [{"frame.comment": "no flow"}]


def test_fragments_belong_to_the_flow_of_their_datagram(lab: Lab, tmp_path: Path) -> None:
    payload = bytes(4000)
    with (
        capturing(lab, tmp_path / "fragments.pcapng", "--environment", "1") as running,
        udp_socket(lab.environment(1)) as endpoint,
    ):
        endpoint.sendto(payload, ECHO)
        assert endpoint.recv(8192) == payload
        running.end()
    wanted = "ip.flags.mf == 1 || ip.frag_offset > 0"
    frames = fields(running.file, "frame.interface_name", "frame.comment", wanted=wanted)
    # Three pieces of the question and of the answer.
    assert Counter(each["frame.interface_name"] for each in frames) == {"env1": 6, INTERFACE: 6}
    assert len({each["frame.comment"] for each in frames}) == 1
    assert frames[0]["frame.comment"].startswith("env-1: udp")


def test_what_a_mapping_lets_in_belongs_to_it(launch: Launch, tmp_path: Path) -> None:
    own = launch(environments=1, toml='[nat]\nprofile = "rfc"')
    with (
        capturing(own, tmp_path / "rfc.pcapng", "--environment", "1") as running,
        udp_socket(own.environment(1)) as endpoint,
        udp_socket(own.vpc) as other,
    ):
        endpoint.sendto(b"question", ECHO)
        endpoint.recv(64)
        (flow,) = own.rows("flows")
        other.bind((ECHO[0], 0))
        other.sendto(b"from another port", (INTERFACE_ADDRESS, flow["nat_port"]))
        assert endpoint.recvfrom(64) == (b"from another port", other.getsockname())
        running.end()
        wanted = f"udp.srcport == {other.getsockname()[1]}"
    frames = fields(running.file, "frame.interface_name", "frame.comment", wanted=wanted)
    assert [each["frame.interface_name"] for each in frames] == [INTERFACE, "env1"]
    assert all(each["frame.comment"].endswith("-> any MAPPING") for each in frames)


def test_a_capture_ends_with_its_lab(launch: Launch, tmp_path: Path) -> None:
    own = launch(environments=1)
    with capturing(own, tmp_path / "gone.pcapng", "--environment", "1") as running:
        echo(own, 1)
        own.down()
        summary = running.wait()
    assert summary["ended"] == "link-gone"
    assert len(fields(running.file, "frame.number", wanted="udp")) == 4


def test_a_reader_that_leaves_ends_it(lab: Lab) -> None:
    with subprocess.Popen(
        [str(COMMAND), "--lab", lab.name, "capture", "--interface", INTERFACE, "-w", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(4)
            process.stdout.close()
            assert b"capturing" in process.stderr.readline()

            def ended() -> bool:
                echo(lab, 1)
                return process.poll() is not None

            wait_until(ended, "the end of the capture")
            errors = process.stderr.read()
        finally:
            process.kill()
    assert process.returncode == 0
    assert b"reader-gone" in errors
    assert b"Traceback" not in errors


def test_live_connections_do_not_notice(lab: Lab, tmp_path: Path) -> None:
    before = lab.drops()
    with live_connection(lab, 2, 7002) as exchange:
        with capturing(lab, tmp_path / "live.pcapng", "--interface", INTERFACE) as running:
            for _ in range(50):
                exchange()
            running.end()
        # There may be ARP among the frames, which has none.
        comments = {each["frame.comment"] for each in fields(running.file, "frame.comment")}
        assert any("tcp" in comment for comment in comments)
    assert lab.drops() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--environment", "env-99"), "unknown environment 'env-99'"),
        (("--interface", "eni-z"), "unknown interface 'eni-z'"),
        (("--environment", "1", "--filter", "tcp prt 80"), "filter 'tcp prt 80': "),
        ((), "give --environment, --interface or --host"),
        (("--environment", "1", "-w", "/nonexistent/x"), "cannot write /nonexistent/x"),
    ],
)
def test_what_cannot_be_is_one_line(
    lab: Lab, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = lab.cli("capture", "-w", str(tmp_path / "x.pcapng"), *options, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if "capturing on" not in line]) == 1


def test_a_full_disk_is_one_line(lab: Lab) -> None:
    command = ("capture", "-w", "/dev/full", "--interface", INTERFACE, "--seconds", "0.1")
    done = lab.cli(*command, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
