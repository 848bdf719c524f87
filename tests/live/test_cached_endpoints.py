# SPDX-License-Identifier: Apache-2.0
"""Flows by an endpoint that the kernel forwards: counted where they are counted without, and
dropped from the moment that the endpoint leads nowhere.
"""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.live.cached_world import BALANCED, ENDPOINT, WAYS, World, servers, world
from tests.live.conftest import Launch, flow_cache_offered
from tests.live.lab import Lab, difference, receive, tcp_socket, wait_until
from tests.live.test_cached_flows import EARNING, cached
from tests.live.test_cached_kinds import becomes_cached
from tests.live.test_flow_logs import Logs
from tests.live.test_flow_logs import toml as with_flow_logs

pytestmark = [pytest.mark.live, pytest.mark.slow]

BY_ENDPOINT = [name for name in WAYS if "endpoint" in name]
WORD = b"a word and its echo"


@pytest.fixture(scope="module")
def it(launch_shared: Launch) -> World:
    flow_cache_offered()
    return world(launch_shared)


def processed(lab: Lab) -> int:
    """Bytes that the endpoint has, as CloudWatch tells them."""
    with urllib.request.urlopen(lab.status()["metrics_url"]) as answer:
        text = answer.read().decode()
    name = r"hyperplane_nat_privatelinkendpoints_bytes_processed_total"
    (found,) = re.findall(rf'^{name}{{endpoint="office/front",zone="a"}} (\S+)$', text, re.M)
    return int(float(found))


def flows_of(lab: Lab) -> list[tuple[int, int]]:
    """Bytes out and in of each flow to the endpoint."""
    return [
        (row["bytes_out"], row["bytes_in"])
        for row in lab.rows("flows", limit=1000)
        if row["remote_address"] == ENDPOINT and row["state"] == "ESTABLISHED"
    ]


def states_of(lab: Lab) -> set[str]:
    """States that flows to the endpoint have."""
    rows = lab.rows("flows", limit=1000)
    return {row["state"] for row in rows if row["remote_address"] == ENDPOINT}


@pytest.mark.parametrize("kind", BY_ENDPOINT)
def test_they_are_cached_and_counted(it: World, kind: str) -> None:
    lab = it.lab
    with servers(it):
        # The ends of flows of before are counted then, and with no other.
        wait_until(lambda: states_of(lab) <= {"TIME_WAIT", "HELD"}, "nothing of before goes on")
        before = processed(lab)
        with it.connected(WAYS[kind]) as exchange:
            becomes_cached(lab, exchange, kind)

            def agree() -> bool:
                (flow,) = flows_of(lab)
                return processed(lab) - before == sum(flow) > 100 * EARNING

            wait_until(agree, "the endpoint has counted what the flow has")
    assert lab.verify() == []


def test_flow_logs_have_every_packet_of_them(launch: Launch, tmp_path: Path) -> None:
    """On the host's interface and on the endpoint's."""
    it = world(launch, f"{with_flow_logs(tmp_path)}\n")
    lab, logs, way = it.lab, Logs(it.lab, tmp_path), WAYS["host to endpoint"]
    with servers(it), tcp_socket(way.place(it), seconds=60) as client:
        client.connect(way.to)
        port = str(client.getsockname()[1])

        def exchange() -> None:
            client.sendall(WORD)
            assert receive(client, len(WORD)) == WORD

        becomes_cached(lab, exchange, "a flow by the endpoint")

    # Its end has been told to the engine, and with it all that the kernel had counted.
    def told() -> list[int]:
        (row,) = (row for row in lab.rows("flows") if str(row["inside_port"]) == port)
        return [row["packets_out"], row["packets_in"]] if row["state"] == "TIME_WAIT" else []

    def logged(**ends: str) -> set[int]:
        found = Counter[str]()
        for each in logs.records(**ends):
            found[each["interface-id"]] += int(each["packets"])
        return set(found.values()) if len(found) == 2 else set()

    packets = wait_until(told, "the end of the connection")
    for expected, ends in (
        (packets[0], {"dstaddr": ENDPOINT, "srcport": port}),
        (packets[1], {"srcaddr": ENDPOINT, "dstport": port}),
    ):
        logs.wait(lambda e=expected, w=ends: logged(**w) == {e}, f"{expected} of {ends}")  # type: ignore[misc]
    assert lab.verify() == []


def reject(lab: Lab, *, rejected: bool) -> None:
    verb = "--reject" if rejected else "--accept"
    lab.cli("endpoint-services", verb, "office/front")
    state = "Rejected" if rejected else "Available"
    wait_until(lambda: lab.rows("endpoints")[0]["State"] == state, state)


@pytest.mark.parametrize("kind", BY_ENDPOINT)
def test_a_rejected_endpoint_s_flow_goes_on_no_more(it: World, kind: str) -> None:
    lab, way = it.lab, WAYS[kind]
    with servers(it), tcp_socket(way.place(it)) as client:
        client.connect(way.to)

        def exchange() -> None:
            client.sendall(WORD)
            assert receive(client, len(WORD)) == WORD

        becomes_cached(lab, exchange, kind)
        reject(lab, rejected=True)
        before = lab.drops()
        client.sendall(WORD)
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        wait_until(
            lambda: difference(before, lab.drops()).get("endpoint_unavailable"), "it is dropped"
        )
        wait_until(lambda: cached(lab) == 0, "it is not cached")
        assert lab.verify() == []
        client.settimeout(60)
        reject(lab, rejected=False)
        # TCP repeats what was dropped.
        assert receive(client, len(WORD)) == WORD
        becomes_cached(lab, exchange, kind)
    assert lab.verify() == []


def test_what_takes_the_target_away_ends_its_flow(it: World) -> None:
    """Deregistered, it keeps the flow until the delay is over; then whoever sends is told."""
    lab, way = it.lab, WAYS["host to endpoint"]
    group = "/v1/target-groups/iperf3"
    ends = {"deregistration_terminates": True, "deregistration_delay_seconds": 300}
    lab.client.patch(group, {"attributes": ends})
    with servers(it), it.connected(way) as exchange:
        becomes_cached(lab, exchange, "a flow by the endpoint")
        lab.client.patch(group, {"deregister_targets": [{"host": "web-c"}]})
        exchange()

        def told() -> bool:
            try:
                exchange()
            except ConnectionError:
                return True
            return False

        wait_until(told, "the end of the connection")
        wait_until(lambda: cached(lab) == 0, "it is not cached")
        lab.client.patch(group, {"register_targets": [{"host": "web-c"}]})
        wait_until(
            lambda: {row["State"] for row in lab.rows("target-health")} == {"healthy"},
            "the target is back",
        )
    assert lab.verify() == []


def test_a_deleted_endpoint_takes_its_flows(it: World) -> None:
    """The last one: nobody makes it again."""
    lab, way = it.lab, WAYS["function to endpoint"]
    assert way.to == (ENDPOINT, BALANCED)
    with servers(it), tcp_socket(way.place(it)) as client:
        client.connect(way.to)

        def exchange() -> None:
            client.sendall(WORD)
            assert receive(client, len(WORD)) == WORD

        becomes_cached(lab, exchange, "a flow by the endpoint")
        lab.client.delete("/v1/endpoints/front")
        client.sendall(WORD)
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        wait_until(lambda: flows_of(lab) == [] and cached(lab) == 0, "its flows are gone")
    assert lab.verify() == []
