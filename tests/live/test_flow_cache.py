# SPDX-License-Identifier: Apache-2.0
"""A lab with `forwarder.flow_cache`: what leads to the punt link, and what changes the switch.

That nothing else differs is what the other modules here show: a share of them, drawn anew in each
run, has labs with it.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from hyperplane_nat.controller.network import punt
from hyperplane_nat.flow_cache.program import attached, detach
from netns import links, namespace, topology
from netns.interior import route_socket
from netns.names import PUNT_LINK
from tests.live.conftest import Launch, has_flow_cache
from tests.live.lab import ECHO, Lab, live_connection, run, udp_socket, wait_until
from tests.live.test_crash import forwarder_pid, kill_controller, kill_forwarder

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("flow_cache")]

ON = "[forwarder]\nflow_cache = true\n"


def numbers(lab: Lab) -> dict[str, int | None]:
    """The number of the attachment that each link of the gateway has by the program."""
    with route_socket(lab.gateway) as route:
        found = links.links(route)
        near = {name: attached(route, found[name].index) for name in found if name != "lo"}
    return {name: None if one is None else one.attachment for name, one in near.items()}


def punted(lab: Lab) -> int:
    """Frames that the far end of the punt link has received."""
    text = run(topology.punt_namespace(lab.name), "cat", "/proc/net/dev").stdout
    found = re.search(rf"{re.escape(PUNT_LINK)}:\s*\d+\s+(\d+)", text)
    assert found is not None
    return int(found[1])


def ask(lab: Lab, number: int) -> None:
    """One datagram and its answer."""
    with udp_socket(lab.environment(number)) as client:
        client.sendto(b"by the punt link", ECHO)
        assert client.recv(64) == b"by the punt link"


def test_all_links_lead_to_the_punt_link(launch: Launch) -> None:
    lab = launch(environments=2, toml=ON)
    (interface,) = punt.interfaces({0: lab.rows("interfaces")[0]["number"]}).values()
    assert numbers(lab) == {"env1": 1, "env2": 2, "eni-a": interface, PUNT_LINK: None}

    def all_came_there() -> bool:
        # Next hops ask, and are asked for, when they please: also between two looks.
        before, received = punted(lab), lab.counters()["ring_received"]
        ask(lab, 1)
        ask(lab, 2)
        return lab.counters()["ring_received"] - received == punted(lab) - before >= 4

    wait_until(all_came_there, "as many frames by the punt link as the forwarder had")
    assert lab.verify() == []


def test_a_killed_forwarder_s_successor_receives_there_too(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    with live_connection(lab, 1, 7007) as exchange:
        before = numbers(lab)
        for _ in range(2):
            kill_forwarder(lab)
            exchange()
        assert numbers(lab) == before


def test_what_is_taken_off_is_put_back_and_told(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    before = numbers(lab)
    with live_connection(lab, 1, 7007) as exchange, route_socket(lab.gateway) as route:
        detach(route, links.existing(route, "env1").index)
        assert numbers(lab)["env1"] is None
        wait_until(lambda: numbers(lab) == before, "the program on env1")
        exchange()
    (event,) = [each for each in lab.rows("events") if each["kind"] == "flow-cache-restored"]
    assert "had lost the flow cache's program: put back" in event["message"]


def test_the_switch_is_turned_by_who_takes_over(launch: Launch) -> None:
    """Off and on again, with a connection that stays."""
    lab = launch(environments=2, toml=ON)
    before = numbers(lab)
    with live_connection(lab, 1, 7007) as exchange:
        for value in ("false", "true"):
            pid = forwarder_pid(lab)
            kill_controller(lab)
            lab.cli("up", "-c", str(lab.config_file), "--set", f"forwarder.flow_cache={value}")
            assert forwarder_pid(lab) != pid
            exchange()
            ask(lab, 2)
            there = namespace.exists(topology.punt_namespace(lab.name))
            assert there == (value == "true")
            assert (PUNT_LINK in numbers(lab)) == there
            assert numbers(lab)["env1"] == (1 if there else None)
        pid = forwarder_pid(lab)
        kill_controller(lab)
        lab.cli("up")
        assert forwarder_pid(lab) == pid
        assert numbers(lab) == before
        exchange()


def test_what_a_dead_lab_leaves_is_removed(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    pid = forwarder_pid(lab)
    kill_controller(lab)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the forwarder")
    lab.down()
    assert topology.strays(lab.name) == []


def test_which_modules_have_it_is_repeated_by_the_seed() -> None:
    modules = [f"tests.live.test_{number}" for number in range(400)]
    drawn = {seed: [has_flow_cache(name, seed) for name in modules] for seed in ("1", "2")}
    assert drawn["1"] == [has_flow_cache(name, "1") for name in modules]
    assert drawn["1"] != drawn["2"]
    assert 60 < sum(drawn["1"]) < 140
    assert all(has_flow_cache(name, "on") for name in modules)
    assert not any(has_flow_cache(name, "off") for name in modules)
