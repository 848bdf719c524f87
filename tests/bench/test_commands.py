# SPDX-License-Identifier: Apache-2.0
"""Command lines, jobs, configurations and messages that go to other programs."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import addresses, black_hole, gateways, jobs, kernel_lab, processes, workloads
from bench.application import app, choose, estimate
from bench.errors import BenchError, MissingToolError
from bench.gateways import hyperplane, nft, user_mode
from bench.gateways.base import Options
from bench.session import FULL, QUICK
from bench.workloads import tcp
from hyperplane_nat.config import lab as configuration


def test_a_job_survives_the_command_line() -> None:
    job = jobs.Ping(
        namespaces=["/run/netns/a b", "/proc/1/ns/net"],
        address="10.0.1.80",
        port=7,
        protocol="udp",
        seconds=0.5,
    )
    interpreter, *rest = processes.worker_command(job)
    assert interpreter == sys.executable
    assert rest[:3] == ["-m", "bench.worker", "ping"]
    assert jobs.from_json(rest[2], rest[3]) == job


@pytest.mark.parametrize(
    ("kind", "text"), [("juggle", "{}"), ("ping", '{"balls": 3}'), ("ping", "no JSON")]
)
def test_a_job_that_is_none_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"juggle|ping|Expecting"):
        jobs.from_json(kind, text)


def test_a_worker_reports_what_is_wrong_as_json() -> None:
    command = [sys.executable, "-m", "bench.worker", "juggle", "{}"]
    with processes.Process(command, "worker") as process:
        report = json.loads(process.output(20))
    assert "'juggle' is no job" in report["error"]


def test_iperf3_runs_one_way_and_the_other() -> None:
    outwards = tcp.client_command(streams=8, seconds=1)
    assert outwards[:3] == ["iperf3", "--client", addresses.SERVER]
    assert outwards[outwards.index("--parallel") + 1] == "8"
    assert "--reverse" not in outwards
    assert "--bitrate" not in outwards
    paced = tcp.client_command(seconds=3, reverse=True, bits_per_second=1000)
    assert "--reverse" in paced
    assert paced[paced.index("--bitrate") + 1] == "1000"


def test_iperf3s_own_words_are_passed_on() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        tcp.parse('{"error": "unable to connect"}')
    with pytest.raises(BenchError, match="instead of a report"):
        tcp.parse("Segmentation fault")


def test_slirp4netns_and_pasta_get_the_same_mtu() -> None:
    assert f"--mtu={user_mode.MTU_BYTES}" in user_mode.slirp4netns_command("/run/netns/x")
    pasta = user_mode.pasta_command()
    assert pasta[pasta.index("--mtu") + 1] == str(user_mode.MTU_BYTES)
    assert pasta[-3:] == ["--", "sleep", "infinity"]


def test_our_configuration_is_one_that_is_accepted(tmp_path: Path) -> None:
    options = Options(environments=7, udp_seconds=2, hold_seconds=0)
    file = tmp_path / "lab.toml"
    file.write_text(hyperplane.configuration("bench-x", tmp_path / "run", options))
    config = configuration.load(file, {})
    assert config.lab.environments == 7
    assert config.timeouts.udp_seconds == 2
    assert config.ports.hold_seconds == 0
    assert config.vpc[0].service == []
    assert tomllib.loads(file.read_text())["flows"]["max"] == 1 << 20


def test_addresses_of_environments_do_not_overlap() -> None:
    first, second = kernel_lab.Link.number(1), kernel_lab.Link.number(2)
    assert (first.gateway, first.environment) == ("100.64.0.5", "100.64.0.6")
    assert (second.gateway, second.environment) == ("100.64.0.9", "100.64.0.10")
    assert kernel_lab.Link.number(16384).environment == "100.65.0.2"


def test_flush_request_is_a_netlink_message() -> None:
    message = nft.flush_request()
    length, kind, flags, _number, _port = struct.unpack_from("=IHHII", message)
    assert (length, kind, flags) == (len(message), 0x0102, 5)


def test_the_black_holes_program_compares_the_address() -> None:
    text = black_hole.program("10.0.1.82")
    assert len(text) == 7 * 8
    assert struct.unpack_from("=BBhi", text, 16)[3] == 0x0A000152
    assert struct.unpack_from("=BBhi", black_hole.program("203.0.113.1"), 16)[3] < 0


def test_payload_of_a_frame() -> None:
    assert addresses.payload_bytes(64) == 22
    with pytest.raises(ValueError, match="at least 42"):
        addresses.payload_bytes(41)


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "pasta" else tool)
    processes.require("nft", "iperf3")
    with pytest.raises(MissingToolError, match=r"pasta is not installed \(apt-get install passt\)"):
        processes.require("nft", "pasta")


def test_every_tool_has_a_package() -> None:
    wanted = {tool for each in gateways.ALL.values() for tool in each.tools} | {"iperf3"}
    assert wanted <= processes.PACKAGES.keys()


def test_ours_always_takes_part_and_comes_first() -> None:
    assert choose(["direct", "nft"], ()) == ["hyperplane-nat", "nft", "direct"]
    with pytest.raises(BenchError, match="no contender 'ntf'"):
        choose(["ntf"], ())
    assert choose(["cache off", "cache on"], ()) == ["hyperplane-nat", "cache on"]


def test_the_estimates_keep_to_the_time_allowed() -> None:
    assert estimate(FULL, workloads.FULL, tuple(gateways.ALL)) <= 17 * 60
    assert estimate(QUICK, workloads.QUICK, ("hyperplane-nat", "nft")) <= 90


@pytest.mark.parametrize(
    "name", ["all", "quick", "new-flows", "new_flows", "udp", "flow-table", "against"]
)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert "--rounds" in result.output
