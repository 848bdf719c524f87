# SPDX-License-Identifier: Apache-2.0
"""Gateways and route tables as they are configured, in parts and as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine import Action, DropReason, Verdict
from tests.engine.scenario import INSIDE
from tests.forwarder.test_configuration import ENVIRONMENT, Gateway, host, interface, slot
from tests.forwarder.work import finish
from tests.reference import packet

FAR, FAR_MAC = "192.0.2.80", "02:00:00:00:0b:99"
PUBLIC, ELASTIC = "203.0.113.9", "203.0.113.10"


def gateway_item(**fields: Any) -> dict[str, Any]:
    return interface(
        2,
        name="igw-a",
        address="192.0.2.10",
        subnet="192.0.2.0/24",
        router="192.0.2.1",
        destinations=["0.0.0.0/0"],
        vpc=9,
        gateway_of=0,
        secondary=fields.pop(
            "secondary",
            [
                {"number": 3, "address": PUBLIC, "host": 0},
                {"number": 4, "address": ELASTIC, "nat_gateway": 6},
            ],
        ),
        **fields,
    )


def nat_item(**fields: Any) -> dict[str, Any]:
    return {
        "number": 6,
        "name": "nat-a",
        "address": "10.0.9.5",
        "vpc": 0,
        "route_table": 2,
        **fields,
    }


TABLES = [
    {"number": 1, "vpc": 0, "routes": [{"destination": "0.0.0.0/0", "nat_gateway": 6}]},
    {"number": 2, "vpc": 0, "routes": [{"destination": "0.0.0.0/0", "internet_gateway": 2}]},
]


def everything() -> dict[str, Any]:
    return {
        "everything": True,
        "interfaces": [interface(route_table=1), gateway_item()],
        "nat_gateways": [nat_item()],
        "slots": [slot(1)],
        "hosts": [host(0, route_table=2)],
        "route_tables": TABLES,
    }


class Served(Gateway):
    """A forwarder that is told all of it."""

    def tell(self, **arguments: Any) -> None:
        finish(self.configuration.configure(arguments, self.now))

    def begin(self) -> None:
        self.tell(**everything())
        self.engine.set_neighbour(2, FAR, FAR_MAC, self.now)

    def environment_sends(self, port: int = 5000) -> Verdict:
        content = packet.udp(ENVIRONMENT, FAR, port, 53)
        body = packet.ipv4(ENVIRONMENT, FAR, packet.UDP, content)
        item = slot(1)
        frame = packet.ethernet(item["gateway_mac"], item["environment_mac"], 0x0800, body)
        return self.engine.translate(frame, INSIDE, 1, self.now)

    def host_sends(self) -> Verdict:
        item = host(0)
        body = packet.ipv4(
            item["address"], FAR, packet.UDP, packet.udp(item["address"], FAR, 5000, 53)
        )
        frame = packet.ethernet(item["gateway_mac"], item["host_mac"], 0x0800, body)
        return self.engine.translate(frame, 2, 0, self.now)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    result = Served(tmp_path / "state.map")
    result.begin()
    yield result
    assert result.engine.verify() == []


def test_all_of_it_at_once(served: Served) -> None:
    assert served.environment_sends().frame[26:30] == packet.octets(ELASTIC)
    assert served.host_sends().frame[26:30] == packet.octets(PUBLIC)
    assert served.links.sent.count(2) == 3
    told = served.configuration.describe()
    assert (told["nat_gateways"], told["route_tables"]) == (1, 2)
    served.tell(**everything())
    assert served.links.sent.count(2) == 3


def test_another_forwarder_goes_on(served: Served) -> None:
    source = served.environment_sends().frame[26:36]
    served.host_sends()
    served.start()
    served.begin()
    assert served.environment_sends().frame[26:36] == source
    assert served.engine.counters()["flows_entries_used"] == 2


def test_public_addresses_come_and_go(served: Served) -> None:
    served.host_sends()
    elastic = {"number": 4, "address": ELASTIC, "nat_gateway": 6}
    served.tell(interfaces=[gateway_item(secondary=[elastic])])
    assert served.host_sends().reason is DropReason.NO_PUBLIC_ADDRESS
    again = gateway_item()
    with pytest.raises(ValueError, match="interface 3 is retiring"):
        served.tell(interfaces=[again])
    served.engine.sweep(0)
    served.tell(interfaces=[again])
    assert served.host_sends().action is Action.FORWARD
    other = gateway_item(secondary=[{"number": 3, "address": PUBLIC, "host": 1}, elastic])
    with pytest.raises(ValueError, match="interface 3 has flows of whom it stands for"):
        served.tell(interfaces=[other])


def test_addresses_of_a_nat_gateway_come_and_go(served: Served) -> None:
    second = nat_item(secondary=[{"number": 7, "address": "10.0.9.6"}], draining=[6])
    served.tell(nat_gateways=[second])
    assert served.environment_sends().reason is DropReason.PORT_ALLOCATION
    addresses = [*gateway_item()["secondary"], {"number": 5, "address": FAR, "nat_gateway": 7}]
    addresses[2]["address"] = "203.0.113.11"
    served.tell(interfaces=[gateway_item(secondary=addresses)])
    assert served.environment_sends().frame[26:30] == packet.octets("203.0.113.11")
    served.tell(nat_gateways=[nat_item()])
    served.engine.sweep(0)
    assert served.engine.counters()["flows_entries_used"] == 0
    assert served.environment_sends().frame[26:30] == packet.octets(ELASTIC)


def test_what_a_route_leads_to_may_go_first(served: Served) -> None:
    served.environment_sends()
    served.tell(remove_nat_gateways=[6])
    assert served.environment_sends().reason is DropReason.ROUTE_BLACKHOLE
    with pytest.raises(ValueError, match="interface 6 is retiring"):
        served.tell(nat_gateways=[nat_item()])
    served.engine.sweep(0)
    served.tell(nat_gateways=[nat_item()])
    assert served.environment_sends().action is Action.FORWARD
    served.tell(remove_interfaces=[2])
    assert served.host_sends().reason is DropReason.ROUTE_BLACKHOLE


def test_route_tables_come_and_go(served: Served) -> None:
    served.tell(remove_route_tables=[1])
    assert served.environment_sends().reason is DropReason.NO_ROUTE
    served.tell(route_tables=[{**TABLES[0], "routes": TABLES[1]["routes"]}])
    assert served.environment_sends().reason is DropReason.NO_PUBLIC_ADDRESS
    served.tell(**{**everything(), "route_tables": TABLES[1:]})
    assert served.environment_sends().reason is DropReason.NO_ROUTE


def test_numbers_are_not_shared(served: Served) -> None:
    with pytest.raises(ValueError, match="interface 6 is an address of nat gateway 6"):
        served.tell(interfaces=[interface(6)])
    with pytest.raises(ValueError, match="which is that of NAT gateway 6"):
        served.tell(hosts=[host(1, address="10.0.9.5")])
    with pytest.raises(ValueError, match="remove that first"):
        served.tell(nat_gateways=[nat_item(address="10.0.9.7")])
