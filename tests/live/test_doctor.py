# SPDX-License-Identifier: Apache-2.0
"""`doctor --lab` of a lab that somebody has been at."""

from __future__ import annotations

import json
import os
import signal

import pytest

from hyperplane_nat.cli import lab_checks
from hyperplane_nat.cli.checks import Outcome
from hyperplane_nat.unix_socket import RUNTIME_DIRECTORY
from netns import namespace
from netns.names import environment_namespace
from netns.survey import Survey, survey
from tests.live.configurations import functions
from tests.live.conftest import Launch
from tests.live.lab import WEB, Lab, run, wait_until
from tests.live.test_crash import forwarder_pid, kill_controller

pytestmark = [pytest.mark.live, pytest.mark.alone]


def unwell(lab: Lab) -> dict[str, tuple[str, str]]:
    """Outcome and finding of the checks that are not in order, by name."""
    found = lab_checks.run(lab.name, RUNTIME_DIRECTORY)
    return {
        each.name: (each.outcome.value, each.found)
        for each in found
        if each.outcome is not Outcome.OK
    }


def test_what_is_not_as_it_should_be_is_named(launch: Launch) -> None:
    lab = launch(environments=4)
    wait_until(lambda: unwell(lab) == {}, "a lab in order")
    features = ("tx-udp_tnl-segmentation", "on", "tx-udp_tnl-csum-segmentation", "on")
    run(lab.environment(1), "ethtool", "-K", "eth0", *features)
    run(lab.environment(2), "ip", "address", "add", "192.0.2.2/32", "dev", "eth0")
    namespace.delete([lab.environment(3)])
    run(lab.gateway, "ip", "link", "set", "env4", "mtu", "1400")
    run(lab.environment(4), "ip", "link", "set", "eth0", "mtu", "1400")
    run(lab.gateway, "ip", "link", "add", "mine", "type", "veth", "peer", "yours")
    run(lab.vpc, "ip", "address", "delete", f"{WEB[0]}/32", "dev", "lo")
    stray = environment_namespace(lab.name, 99)
    namespace.create([stray], lambda _name: None)
    done = lab.cli("doctor", "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["ready"]) == (1, False)
    pid = forwarder_pid(lab)
    expected = {
        "environments": ("failed", "without namespace or link: env-3"),
        "VPCs": ("failed", f"missing or broken: address {WEB[0]} of VPC customer"),
        "MTUs": ("noted", "not as configured: env-4 1400"),
        "offloads": (
            "noted",
            f"super-frames inside tunnels are dropped: eth0 of {lab.environment(1)}",
        ),
        "leftovers": ("noted", f"no part of the lab: link mine, link yours, namespace {stray}"),
    }
    wait_until(lambda: unwell(lab) == expected, lambda: f"{unwell(lab)}")
    kill_controller(lab)
    os.kill(pid, signal.SIGSTOP)

    def hangs() -> bool:
        found = unwell(lab)
        return "heartbeat" in found and "forwarder is dead or hangs" in found["heartbeat"][1]

    wait_until(hangs, "the silence")
    outcome, words = unwell(lab)["controller"]
    assert outcome == "failed"
    assert f"its forwarder (pid {pid}) goes on" in words
    lab.cli("up")
    assert set(unwell(lab)) <= {"environments", "offloads", "leftovers"}


def test_what_ends_while_it_is_looked_at_is_not_missed(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = launch(environments=0, toml=functions("orders", pool=2))
    lab.cli("wait")

    def used() -> list[int]:
        return [row["number"] for row in lab.rows("environments") if row["function"]]

    looks: list[int] = []

    def later(name: str) -> Survey:
        """Time passes at the first look, and warm environments end."""
        looks.append(len(used()))
        if len(looks) == 1:
            lab.client.advance(86_400)
            wait_until(lambda: not used(), "the environments end")
        return survey(name)

    lab.client.post("/v1/functions/orders/provision", {"count": 2})
    monkeypatch.setattr(lab_checks, "survey", later)
    assert unwell(lab) == {}
    assert looks[:2] == [2, 0]
