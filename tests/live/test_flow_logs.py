# SPDX-License-Identifier: Apache-2.0
"""Flow logs of real traffic: what they tell, what happens to them, and what they never do."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netns import syscalls
from tests.conftest import in_ci
from tests.flow_logs.records import DEFAULT, Record, parse, read
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    require_program,
    tcp_socket,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

FIELDS = (
    *DEFAULT,
    "vpc-id",
    "subnet-id",
    "tcp-flags",
    "pkt-srcaddr",
    "pkt-dstaddr",
    "flow-direction",
    "instance-id",
    "environment",
)
SCALE = 60
"""An interval of 60 seconds takes one."""


def toml(directory: Path, *lines: str) -> str:
    return "\n".join(
        (
            "[timeouts]",
            f"time_scale = {SCALE}",
            "[flow_logs]",
            "enabled = true",
            f'directory = "{directory}"',
            "aggregation_seconds = 60",
            f"fields = {json.dumps(FIELDS)}",
            *lines,
        )
    )


class Logs:
    """A lab and the files of its flow logs."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory / lab.name

    def records(self, **wanted: str) -> list[Record]:
        """Every line there is that has these values; `_` stands for `-` in names."""
        found = read(sorted(self.directory.glob("AWSLogs/*/vpcflowlogs/local/*/*/*/*.log")))
        return [
            record
            for record in found
            if all(record[name.replace("_", "-")] == value for name, value in wanted.items())
        ]

    def packets(self, **wanted: str) -> int:
        return sum(int(record["packets"]) for record in self.records(**wanted))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        wait_until(condition, lambda: f"{what}; there are {self.records()[-12:]}")

    def intervals(self, count: int) -> None:
        """Wait until so many intervals more are over."""
        before = len(self.ends())
        self.wait(lambda: len(self.ends()) >= before + count, f"{count} intervals more")

    def ends(self) -> set[str]:
        """The intervals that there are files of, with a line: each interface has one of each.

        A file is made, and then its lines are appended.
        """
        files = [path for path in self.directory.rglob("*.log") if path.stat().st_size]
        return {path.name.split("_")[-2] for path in files}

    def metric(self, name: str) -> float:
        url = self.lab.status()["metrics_url"]
        with urllib.request.urlopen(url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def writer(self) -> int:
        text = (self.lab.runtime_directory / "service-Gateway.flow-logs.pid").read_text()
        return int(text.split()[0])


def exchange(lab: Lab, count: int, *, number: int = 1) -> int:
    """So many echoes of one socket; the port they came from."""
    with udp_socket(lab.environment(number)) as client:
        for index in range(count):
            payload = f"{index}".encode().rjust(100)
            client.sendto(payload, ECHO)
            assert client.recv(2048) == payload
        port: int = client.getsockname()[1]
    return port


@pytest.fixture
def logs(launch: Launch, tmp_path: Path) -> Logs:
    return Logs(launch(environments=2, toml=toml(tmp_path / "logs")), tmp_path / "logs")


@pytest.mark.requirement("AWS-flow-logs-v2", profile="both")
@pytest.mark.requirement("AWS-flow-logs-nat-rows", profile="both")
@pytest.mark.requirement("AWS-flow-logs-fields", profile="both")
def test_every_packet_is_in_the_four_rows_of_its_conversation(logs: Logs) -> None:
    port = exchange(logs.lab, 20)
    leaving = {"srcaddr": INTERFACE_ADDRESS, "dstaddr": ECHO[0], "protocol": "17"}
    logs.wait(lambda: logs.packets(**leaving) == 20, "20 packets")
    (row, *more) = logs.records(**leaving)
    assert sum(int(each["bytes"]) for each in (row, *more)) == 20 * 128
    nat_port = row["srcport"]
    entering = {"srcaddr": INSIDE_ADDRESS, "srcport": str(port), "dstaddr": INTERFACE_ADDRESS}
    back = {"srcaddr": ECHO[0], "dstaddr": INTERFACE_ADDRESS, "dstport": nat_port}
    last = {"srcaddr": INTERFACE_ADDRESS, "dstaddr": INSIDE_ADDRESS, "dstport": str(port)}
    for each in (entering, back, last):
        # An answer may be of the interval after that of its question.
        wanted = functools.partial(logs.packets, **each)
        logs.wait(lambda w=wanted: w() == 20, f"20 packets of {each}")  # type: ignore[misc]
    assert logs.records(**entering)[0]["pkt-dstaddr"] == ECHO[0]
    assert logs.records(**last)[0]["pkt-srcaddr"] == ECHO[0]
    for record in logs.records(**leaving):
        assert (record["vpc-id"], record["subnet-id"]) == ("customer", "private-a")
        assert (record["interface-id"], record["action"]) == (INTERFACE, "ACCEPT")
        assert record["account-id"] == "111122223333"
    assert {record["environment"] for record in logs.records(**entering)} == {"env-1"}


def test_environments_with_one_address_and_port_are_told_apart(logs: Logs) -> None:
    with (
        udp_socket(logs.lab.environment(1), port=4000) as first,
        udp_socket(logs.lab.environment(2), port=4000) as second,
    ):
        for client in (first, second, second):
            client.sendto(b"hello", ECHO)
            client.recv(100)
    wanted = {"srcport": "4000", "flow_direction": "ingress"}
    logs.wait(lambda: logs.packets(**wanted) == 3, "3 packets")
    assert logs.packets(environment="env-1", **wanted) == 1
    assert logs.packets(environment="env-2", **wanted) == 2


def test_connections_shorter_than_an_interval_are_all_there(logs: Logs) -> None:
    count = 30
    for _ in range(count):
        with tcp_socket(logs.lab.environment(1)) as client:
            client.connect(WEB)
    leaving = {"srcaddr": INTERFACE_ADDRESS, "dstaddr": WEB[0], "protocol": "6"}

    def ports() -> set[str]:
        return {record["srcport"] for record in logs.records(**leaving)}

    logs.wait(lambda: len(ports()) == count, f"{count} connections")
    flags = 0
    for record in logs.records(**leaving):
        flags |= int(record["tcp-flags"])
    assert flags & 2, "no SYN"


@pytest.mark.requirement("AWS-flow-logs-v2", profile="both")
def test_what_is_refused_is_told_as_reject(logs: Logs) -> None:
    with udp_socket(logs.lab.vpc) as stranger:
        for _ in range(7):
            stranger.sendto(b"unasked", (INTERFACE_ADDRESS, 33333))
        source = stranger.getsockname()[1]
    wanted = {"action": "REJECT", "dstport": "33333", "srcport": str(source)}
    logs.wait(lambda: logs.packets(**wanted) == 7, "7 packets refused")
    assert {record["dstaddr"] for record in logs.records(**wanted)} == {INTERFACE_ADDRESS}


OPEN, CLOSED = ("10.0.1.80", 80), ("10.0.1.54", 5432)
GROUPS = f"""
[lifecycle]
time_scale = 60

[pool]
size = 1

[[account]]
name = "payments"
id = "111122223333"

[[vpc]]
name = "payments"
account = "payments"
cidr = "10.0.0.0/16"

[[vpc.subnet]]
name = "a"
cidr = "10.0.1.0/24"

[[vpc.security_group]]
name = "functions"
egress = [{{ protocol = "tcp", ports = "{OPEN[1]}-{CLOSED[1]}", cidr = "10.0.1.0/24" }}]

[[vpc.security_group]]
name = "database"

[[vpc.service]]
name = "web"
kind = "http"
address = "{OPEN[0]}"
port = {OPEN[1]}

[[vpc.service]]
name = "db"
kind = "http"
address = "{CLOSED[0]}"
port = {CLOSED[1]}
security_groups = ["database"]

[[function]]
name = "checkout"
subnets = ["a"]
security_groups = ["functions"]
"""


@pytest.mark.requirement("AWS-flow-logs-v2", profile="both")
def test_who_refused_a_connection_can_be_told_from_the_rows(launch: Launch, tmp_path: Path) -> None:
    """The function's own group: REJECT. The server's: it had passed the function's interface."""
    lab = launch(environments=0, toml=toml(tmp_path / "logs", GROUPS))
    logs = Logs(lab, tmp_path / "logs")
    active = {"State": "Active"}.items()
    wait_until(
        lambda: all(active <= row.items() for row in lab.rows("functions")),
        "the function is Active",
    )
    answer: Any = lab.client.post("/v1/functions/checkout/invocations", {"command": ["/bin/true"]})
    environment: str = answer["environment"]
    where = lab.environment(int(environment.removeprefix("env-")))
    (interface,) = lab.rows("interfaces")
    address = interface["address"]
    for remote in ((OPEN[0], 26), CLOSED):
        with tcp_socket(where, seconds=0.1) as client, pytest.raises(TimeoutError):
            client.connect(remote)
    syn = {"interface_id": interface["id"], "protocol": "6", "tcp_flags": "2"}
    leaving = {"srcaddr": address, "flow_direction": "egress", "environment": environment, **syn}
    own = {"dstaddr": OPEN[0], "dstport": "26", "action": "REJECT"}
    others = {"dstaddr": CLOSED[0], "dstport": str(CLOSED[1]), "action": "ACCEPT"}
    for expected in (own, others):
        wanted = {**leaving, **expected}
        logs.wait(functools.partial(logs.records, **wanted), f"a row with {wanted}")
        row, *_ = logs.records(**wanted)
        assert (row["pkt-srcaddr"], row["pkt-dstaddr"]) == (INSIDE_ADDRESS, expected["dstaddr"])
    assert logs.records(srcaddr=INSIDE_ADDRESS, pkt_dstaddr=CLOSED[0], action="ACCEPT", **syn)
    assert not logs.records(srcaddr=INSIDE_ADDRESS, pkt_dstaddr=OPEN[0])
    assert logs.records(action="REJECT") == logs.records(**leaving, **own)


@pytest.mark.requirement("AWS-flow-logs-aggregation", profile="both")
@pytest.mark.requirement("AWS-flow-logs-skipdata", profile="both")
def test_an_interval_without_traffic_is_nodata_once(launch: Launch, tmp_path: Path) -> None:
    """Of three seconds: who is held up for longer than an interval makes one of two."""
    directory, seconds = tmp_path / "logs", 3
    text = toml(directory).replace(f"time_scale = {SCALE}", f"time_scale = {60 // seconds}")
    logs = Logs(launch(environments=2, toml=text), directory)
    logs.intervals(3)
    found = logs.records(log_status="NODATA")
    assert len(found) >= 3
    starts = [record["start"] for record in found]
    assert len(set(starts)) == len(starts)
    assert all(int(record["end"]) - int(record["start"]) <= seconds for record in found)
    assert not logs.records(log_status="SKIPDATA")


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of 64 KiB on the directory."""
    directory.mkdir(parents=True)
    mount, umount = require_program("mount", "mount"), require_program("umount", "mount")
    options = ("-t", "tmpfs", "-o", "size=64k", "flow-logs-test", str(directory))
    subprocess.run([mount, *options], check=True)
    try:
        yield
    finally:
        subprocess.run([umount, "-l", str(directory)], check=True)


@pytest.mark.requirement("AWS-flow-logs-skipdata", profile="both")
def test_a_full_disk_loses_lines_and_no_packet(launch: Launch, tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    with small_disk(directory):
        logs = Logs(launch(environments=1, toml=toml(directory)), directory)
        (directory / "ballast").write_bytes(b"")
        with contextlib.suppress(OSError), (directory / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        lost = "hyperplane_nat_flow_log_lines_lost_total"

        def sees_losses() -> bool:
            exchange(logs.lab, 2)
            return logs.metric(lost) > 0

        logs.wait(sees_losses, "lines lost")
        assert exchange(logs.lab, 20)
        (directory / "ballast").unlink()
        logs.wait(lambda: logs.records(log_status="SKIPDATA"), "SKIPDATA")
        counted = logs.metric(lost)
        port = exchange(logs.lab, 5)
        logs.wait(lambda: logs.packets(srcport=str(port)) == 5, "lines again")
        assert logs.metric(lost) == counted
        logs.lab.down()


def test_a_writer_makes_nothing_outside_of_its_directory(logs: Logs) -> None:
    if not syscalls.landlock_version():
        assert not in_ci(), "this kernel has no Landlock"
        pytest.skip("this kernel has no Landlock")
    exchange(logs.lab, 1)
    logs.wait(logs.records, "lines")
    logs.directory.rename(logs.directory.with_name("moved"))
    lost = "hyperplane_nat_flow_log_lines_lost_total"
    logs.wait(lambda: exchange(logs.lab, 2) and logs.metric(lost) > 0, "lines lost")
    assert not logs.directory.exists()
    os.kill(logs.writer(), signal.SIGTERM)
    logs.wait(logs.records, "lines of another writer")


def test_a_writer_that_dies_holds_nothing_up_and_tells_nothing_twice(logs: Logs) -> None:
    with udp_socket(logs.lab.environment(1)) as client:

        def echo(count: int) -> None:
            for _ in range(count):
                client.sendto(b"hello", ECHO)
                client.recv(100)

        echo(10)
        leaving = {"srcaddr": INTERFACE_ADDRESS, "dstaddr": ECHO[0]}
        logs.wait(lambda: logs.packets(**leaving) == 10, "10 packets")
        old = logs.writer()
        os.kill(old, signal.SIGKILL)
        logs.wait(lambda: logs.writer() != old, "another writer")
        logs.wait(lambda: logs.records(log_status="SKIPDATA"), "SKIPDATA")
        echo(5)
        logs.wait(lambda: logs.packets(**leaving) == 15, "5 packets more")
        logs.intervals(2)
        assert logs.packets(**leaving) == 15


def test_a_forwarder_that_dies_is_not_noticed(logs: Logs) -> None:
    with udp_socket(logs.lab.environment(1)) as client:
        client.sendto(b"hello", ECHO)
        client.recv(100)
        leaving = {"srcaddr": INTERFACE_ADDRESS, "dstaddr": ECHO[0]}
        logs.wait(lambda: logs.packets(**leaving) == 1, "a packet")
        forwarder = logs.lab.status()["forwarder"]["pid"]
        os.kill(forwarder, signal.SIGKILL)

        def again() -> bool:
            status = logs.lab.status()["forwarder"]
            return bool(status["up"]) and status["pid"] != forwarder

        logs.wait(again, "another forwarder")
        client.sendto(b"hello", ECHO)
        client.recv(100)
        logs.wait(lambda: logs.packets(**leaving) == 2, "another packet")
        logs.intervals(1)
        assert logs.packets(**leaving) == 2
    assert not logs.records(log_status="SKIPDATA")


def test_the_command_prints_the_lines(logs: Logs) -> None:
    port = exchange(logs.lab, 3)
    logs.wait(lambda: logs.packets(srcport=str(port)) == 3, "3 packets")
    header, *lines = logs.lab.cli("flow-logs", "--interface", INTERFACE).stdout.splitlines()
    assert header == " ".join(FIELDS)
    records = [parse(line, FIELDS) for line in lines]
    assert str(port) in {record["srcport"] for record in records}
    assert logs.metric("hyperplane_nat_flow_log_lines_total") >= len(lines)
    logs.lab.down()
    # What was written stays.
    assert logs.records(srcport=str(port))


def test_without_flow_logs_there_is_nothing_of_them(launch: Launch) -> None:
    lab = launch(environments=1)
    assert not lab.state_file.with_suffix(".records").exists()
    assert not list(lab.runtime_directory.glob("service-Gateway*"))
    done = lab.cli("flow-logs", check=False)
    assert done.returncode == 2
    assert "writes no flow logs" in done.stderr
