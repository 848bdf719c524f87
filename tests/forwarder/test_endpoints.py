# SPDX-License-Identifier: Apache-2.0
"""Endpoints as they are configured, in parts and as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine import Action, DropReason, Verdict
from tests.forwarder.test_balancers import NODE, Served, everything
from tests.forwarder.test_configuration import host
from tests.forwarder.work import finish
from tests.reference import packet

ENDPOINT = "10.0.1.30"


def endpoint_item(**fields: Any) -> dict[str, Any]:
    return {
        "number": 8,
        "name": "endpoint-a",
        "endpoint_id": "vpce-0123456789abcdef0",
        "address": ENDPOINT,
        "vpc": 0,
        "interface": 0,
        "node": 6,
        **fields,
    }


def all_of_it(**fields: Any) -> dict[str, Any]:
    return {**everything(), "endpoints": [endpoint_item(**fields)]}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    result = Served(tmp_path / "state.map")
    result.tell(**all_of_it())
    yield result
    assert result.engine.verify() == []


def sends(served: Served, port: int = 5000) -> Verdict:
    item = host(0)
    content = packet.udp(item["address"], ENDPOINT, port, 53)
    body = packet.ipv4(item["address"], ENDPOINT, packet.UDP, content)
    frame = packet.ethernet(item["gateway_mac"], item["host_mac"], 0x0800, body)
    return served.engine.translate(frame, 2, 0, served.now)


def test_all_of_it_at_once(served: Served) -> None:
    out = sends(served)
    assert (out.action, out.port) == (Action.FORWARD, 1)
    assert out.frame[26:30] == packet.octets(NODE)
    announced = list(served.links.sent)
    assert served.configuration.describe()["endpoints"] == 1
    served.tell(**all_of_it())
    assert served.links.sent == announced


def test_another_forwarder_goes_on(served: Served) -> None:
    sends(served)
    served.start()
    served.tell(**all_of_it())
    assert sends(served).port == 1
    assert served.engine.counters()["flows_entries_used"] == 1


def test_it_leads_nowhere_until_it_is_told(served: Served) -> None:
    nowhere = {name: value for name, value in endpoint_item().items() if name != "node"}
    served.tell(endpoints=[nowhere])
    assert sends(served).reason is DropReason.ENDPOINT_UNAVAILABLE
    served.tell(endpoints=[endpoint_item()])
    assert sends(served).action is Action.FORWARD


@pytest.mark.parametrize("which", ["ingress", "admission"])
def test_who_may_come(served: Served, which: str) -> None:
    own = {"protocol": "udp", "cidr": f"{host(0)['address']}/32"}
    served.tell(endpoints=[endpoint_item(**{which: []})])
    assert sends(served).reason is DropReason.SECURITY_GROUP_INGRESS
    served.tell(endpoints=[endpoint_item(**{which: [own]})])
    assert sends(served).action is Action.FORWARD


def test_it_goes_with_its_flows(served: Served) -> None:
    sends(served)
    served.tell(remove_endpoints=[8])
    assert served.configuration.describe()["retiring"]["interfaces"] == [8]
    served.engine.sweep(0)
    assert served.engine.counters()["flows_entries_used"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"endpoint_id": "vpce-1"}, "no id of an endpoint"),
        ({"interface": 1}, "names interface 1: there is none"),
        ({"vpc": 1}, "is in VPC 1, its interface 0 in VPC 0"),
        ({"address": NODE}, "which is that of load balancer node 6"),
        ({"node": -1}, "node of endpoint 8: -1 is out of range"),
        ({"number": 6}, "interface 6 is given twice"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    served = Served(tmp_path / "state.map")
    with pytest.raises(ValueError, match=words):
        finish(served.configuration.configure(all_of_it(**fields), served.now))
