# SPDX-License-Identifier: Apache-2.0
"""What the forwarder accepts as its desired state."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hyperplane_nat.engine import NeighbourSettings, Ports, Timeouts
from hyperplane_nat.forwarder import desired
from hyperplane_nat.forwarder.desired import Desired, InterfaceState, SlotState
from tests.forwarder.work import finish


def parse(arguments: dict[str, Any]) -> Desired:
    return finish(desired.parse(arguments))


GOOD: dict[str, Any] = {
    "everything": True,
    "interfaces": [
        {
            "number": 0,
            "name": "eni-a",
            "ifindex": 5,
            "address": "10.0.1.10",
            "mac": "02:00:00:00:01:01",
            "subnet": "10.0.1.0/24",
            "router": "10.0.1.1",
            "destinations": ["10.0.0.0/16"],
        }
    ],
    "slots": [
        {
            "number": 1,
            "ifindex": 7,
            "address": "169.254.100.2",
            "gateway": "169.254.100.1",
            "subnet": "169.254.100.0/30",
            "environment_mac": "02:00:00:00:00:02",
            "gateway_mac": "02:00:00:00:00:01",
            "interface": 0,
        }
    ],
}


def test_defaults_are_the_engine_s() -> None:
    wanted = parse(GOOD)
    assert wanted.settings["timeouts_ms"] == Timeouts()
    assert wanted.settings["ports"] == Ports()
    assert wanted.settings["neighbours"] == NeighbourSettings()
    interface, slot = wanted.attachments["interface", 0], wanted.attachments["slot", 1]
    assert isinstance(interface, InterfaceState)
    assert isinstance(slot, SlotState)
    assert interface.destinations == ("10.0.0.0/16",)
    assert slot.interface == 0


def test_values_are_taken() -> None:
    wanted = parse(
        {
            **GOOD,
            "timeouts_ms": {"udp": 1},
            "ports": {"first": 2000},
            "neighbours": {"attempts": 9},
        }
    )
    assert wanted.settings["timeouts_ms"].udp == 1
    assert wanted.settings["ports"].first == 2000
    assert wanted.settings["neighbours"].attempts == 9


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("interfaces", "subnet", "10.0.1.0/33", "not a valid netmask"),
        ("interfaces", "subnet", "10.0.1.7/24", "has host bits set"),
        ("interfaces", "address", "ten", "Expected 4 octets"),
        ("interfaces", "destinations", ["10.0.0.0/99"], "not a valid netmask"),
        ("slots", "subnet", "", "Address cannot be empty"),
    ],
)
def test_wrong_values_are_refused(kind: str, field: str, value: object, message: str) -> None:
    broken = copy.deepcopy(GOOD)
    broken[kind][0][field] = value
    with pytest.raises(ValueError, match=message):
        parse(broken)


@pytest.mark.parametrize("kind", ["interfaces", "slots"])
def test_a_number_given_twice_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        parse({**GOOD, kind: GOOD[kind] * 2})


def test_missing_and_unknown_fields_are_refused() -> None:
    with pytest.raises(KeyError):
        parse({"everything": True, "slots": []})
    broken = copy.deepcopy(GOOD)
    broken["slots"][0]["colour"] = "red"
    with pytest.raises(TypeError, match="colour"):
        parse(broken)
