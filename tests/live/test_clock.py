# SPDX-License-Identifier: Apache-2.0
"""A lab's clock that is advanced, with nothing scaled: what takes minutes or days is over at once,
and stays so whoever is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperplane_nat.client import ClientError
from hyperplane_nat.engine import StateMap
from tests.live.conftest import Launch
from tests.live.lab import ECHO, Lab, receive, udp_socket, wait_until
from tests.live.test_crash import kill_controller, kill_forwarder
from tests.live.test_flow_logs import Logs
from tests.live.test_idle import connection, exchange, state_of

pytestmark = pytest.mark.live

PORT = 7200
IDLE = 350
DAY = 86_400.0
YEAR = 365 * DAY


FUNCTION = """
[pool]
size = 2

[[vpc]]
name = "v"
cidr = "10.0.0.0/16"
subnet = [{ name = "a", cidr = "10.0.1.0/24" }]
security_group = [{ name = "g" }]

[[function]]
name = "f"
subnets = ["a"]
security_groups = ["g"]
"""


def advance(lab: Lab, seconds: float) -> float:
    """What the lab's clock is ahead by then."""
    offset: float = lab.json("advance", str(seconds))["clock_offset_seconds"]
    return offset


def udp_exchange(client: socket.socket) -> None:
    client.sendto(b"data", ECHO)
    assert client.recv(16) == b"data"


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """A lab of AWS's times."""
    return launch_shared(environments=2)


@pytest.mark.requirement("AWS-idle-350", profile="aws")
def test_350_seconds_idle_are_over_and_the_next_send_is_reset(lab: Lab) -> None:
    with connection(lab, 1, PORT) as (client, server):
        exchange(client, server)
        advance(lab, IDLE - 5)
        assert state_of(lab, PORT) == "ESTABLISHED"
        # That was no end, and what is sent counts from then.
        exchange(client, server)
        advance(lab, IDLE - 5)
        assert state_of(lab, PORT) == "ESTABLISHED"
        advance(lab, 5)
        assert state_of(lab, PORT) in ("HELD", "FREE")
        client.sendall(b"late")
        with pytest.raises(ConnectionResetError):
            receive(client, 1)
    assert lab.verify() == []


def test_a_port_is_held_from_when_its_flow_ended(lab: Lab) -> None:
    config = lab.client.get("/v1/config")
    assert isinstance(config, dict)
    udp, hold = config["timeouts"]["udp_seconds"], config["ports"]["hold_seconds"]
    with udp_socket(lab.environment(1)) as client:
        udp_exchange(client)
    advance(lab, udp)
    assert state_of(lab, ECHO[1], "udp") == "HELD"
    advance(lab, hold)
    assert state_of(lab, ECHO[1], "udp") == "FREE"
    with udp_socket(lab.environment(1)) as client:
        udp_exchange(client)
    # At one go, and the hold has begun within it.
    advance(lab, udp + hold + 1)
    assert state_of(lab, ECHO[1], "udp") == "FREE"


def test_years_are_no_matter(lab: Lab) -> None:
    with connection(lab, 1, PORT + 1) as (client, server):
        exchange(client, server)
        # The 32 bits of a flow's last packet have turned over many times.
        before = lab.status()["clock_offset_seconds"]
        assert advance(lab, 2 * YEAR) == before + 2 * YEAR
        assert state_of(lab, PORT + 1) == "FREE"
    with connection(lab, 2, PORT + 2) as (client, server):
        exchange(client, server)
        (row,) = [each for each in lab.rows("flows") if each["remote_port"] == PORT + 2]
        assert 0 <= row["age_seconds"] < IDLE
    assert lab.verify() == []


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "315360001", "1e99", "x"])
def test_what_is_no_time_is_refused(lab: Lab, seconds: str) -> None:
    before = lab.status()["clock_offset_seconds"]
    refused = lab.cli("advance", seconds, check=False)
    assert refused.returncode == 2
    assert "SECONDS" in refused.stderr
    assert lab.status()["clock_offset_seconds"] == before


def test_ten_years_in_all_are_the_most(lab: Lab) -> None:
    before = lab.status()["clock_offset_seconds"]
    advance(lab, 1)
    refused = lab.cli("advance", str(10 * YEAR), check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "ahead" in refused.stderr
    assert lab.status()["clock_offset_seconds"] == before + 1


def test_it_outlives_forwarder_and_controller(launch: Launch) -> None:
    lab = launch(environments=2)
    # More than all of it takes, kills and starts included.
    left = 150
    assert advance(lab, DAY) == DAY
    with connection(lab, 1, PORT) as (client, server), connection(lab, 2, PORT + 1) as others:
        exchange(client, server)
        advance(lab, IDLE - left)
        exchange(*others)
        kill_forwarder(lab)
        assert lab.status()["clock_offset_seconds"] == DAY + IDLE - left
        # Neither has the clock gone back, nor has it been advanced twice.
        assert state_of(lab, PORT) == "ESTABLISHED"
        kill_controller(lab)
        lab.cli("up")
        assert lab.status()["clock_offset_seconds"] == DAY + IDLE - left
        kill_forwarder(lab)
        assert state_of(lab, PORT) == "ESTABLISHED"
        advance(lab, left)
        assert state_of(lab, PORT) in ("HELD", "FREE")
        exchange(*others)
    (event,) = [row for row in lab.rows("events") if row["kind"] == "clock-advanced"]
    assert f"{left} s" in event["message"]
    assert lab.verify() == []


@pytest.mark.races
def test_it_comes_true_when_the_forwarder_is_killed_meanwhile(launch: Launch) -> None:
    lab = launch(environments=2)
    with connection(lab, 1, PORT) as (client, server):
        exchange(client, server)
        os.kill(lab.status()["forwarder"]["pid"], signal.SIGKILL)
        assert advance(lab, IDLE) == IDLE
        assert state_of(lab, PORT) in ("HELD", "FREE")
    assert lab.status()["clock_offset_seconds"] == IDLE


@pytest.mark.races
def test_a_controller_that_is_killed_meanwhile_has_advanced_both_or_none(launch: Launch) -> None:
    lab = launch(environments=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lab.client.advance, DAY)
        kill_controller(lab)
        with contextlib.suppress(ClientError):
            asked.result()
    lab.cli("up")
    offset = lab.status()["clock_offset_seconds"]
    assert offset in (0, DAY)
    state = StateMap.open(lab.state_file)
    assert state.clock_offset_ms == offset * 1000
    state.close()
    assert advance(lab, 1) == offset + 1


def test_it_outlives_a_damaged_map(launch: Launch) -> None:
    lab = launch(environments=1)
    advance(lab, DAY)
    with lab.state_file.open("r+b") as file:
        file.write(b"damaged!")
    kill_forwarder(lab)
    assert "state-map-discarded" in {row["kind"] for row in lab.rows("events")}
    with udp_socket(lab.environment(1)) as client:
        udp_exchange(client)
    state = StateMap.open(lab.state_file)
    assert state.clock_offset_ms == DAY * 1000
    state.close()
    assert lab.status()["clock_offset_seconds"] == DAY


def test_a_function_is_inactive_after_14_days_and_its_interface_gone(launch: Launch) -> None:
    lab = launch(environments=0, toml=FUNCTION)
    advance(lab, 90)
    lab.cli("wait")
    lab.cli("invoke", "f", "--", "true")
    assert [row["environments"] for row in lab.rows("interfaces")] == [1]

    def function() -> dict[str, object]:
        (row,) = lab.rows("functions")
        return row

    advance(lab, 14 * DAY - 60)
    assert (function()["State"], function()["Environments"]) == ("Active", 0)
    advance(lab, 60)
    assert function()["State"] == "Inactive"
    assert [row["status"] for row in lab.rows("interfaces")] == ["available"]
    advance(lab, 20 * 60)
    wait_until(lambda: not lab.rows("interfaces"), "the end of the interface")


def test_flow_logs_are_of_the_labs_clock(launch: Launch, tmp_path: Path) -> None:
    lab = launch(
        environments=1,
        toml=f'[flow_logs]\nenabled = true\ndirectory = "{tmp_path}"\naggregation_seconds = 60\n',
    )
    advance(lab, YEAR)
    with udp_socket(lab.environment(1)) as client:
        udp_exchange(client)
    now = time.time() + YEAR
    advance(lab, 60)
    logs = Logs(lab, tmp_path)
    records = wait_until(lambda: logs.records(dstport=str(ECHO[1])), "lines of the exchange")
    for record in records:
        assert now - 60 < int(record["start"]) <= int(record["end"]) <= now + 60
