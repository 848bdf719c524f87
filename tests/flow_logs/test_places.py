# SPDX-License-Identifier: Apache-2.0
"""Names of interfaces and hosts, as the control API tells them."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.client import NotRunningError
from hyperplane_nat.flow_logs.fields import Place
from hyperplane_nat.flow_logs.places import KNOWN_SECONDS, Places

STATIC = {"number": 0, "name": "eni-a", "id": None, "owner": "111122223333", "kind": "static"}
FUNCTION = {
    "number": 1,
    "name": "link",
    "id": "eni-0123",
    "owner": "444455556666",
    "kind": "function",
}
ROUTER = {"number": 2, "name": "eni-r", "id": "eni-r", "owner": "111122223333", "kind": "router"}
WHERE = {"vpc": "customer", "subnet": "private-a"}
HOST = {
    "Number": 3,
    "InstanceId": "i-0a1b",
    "NetworkInterfaceId": "eni-0a1b",
    "OwnerId": "111122223333",
    "VpcName": "customer",
    "SubnetName": "private-a",
    "PrivateIpAddress": "10.0.1.54",
}
INTERFACES_MAX = 100
HOST_PLACE = Place("eni-0a1b", "111122223333", "customer", "private-a", "i-0a1b")


class Api:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = [STATIC | WHERE]
        self.hosts: list[dict[str, Any]] = []
        self.balancers: list[dict[str, Any]] = []
        self.lists: list[dict[str, Any]] = []
        self.tables: list[dict[str, Any]] = []
        self.asked = 0
        self.up = True

    def get(self, path: str) -> Any:
        if not self.up:
            raise NotRunningError("test", Path("/nowhere"))
        if path == "/v1/hosts":
            return self.hosts
        if path == "/v1/load-balancers":
            return self.balancers
        if path == "/v1/prefix-lists":
            return self.lists
        if path == "/v1/route-tables":
            return self.tables
        assert path == "/v1/interfaces"
        self.asked += 1
        return self.rows


def places_of(api: Api, clock: Callable[[], float] = lambda: 10.0) -> Places:
    return Places(api.get, clock, interfaces_max=INTERFACES_MAX)


def test_interfaces_of_the_file_and_of_functions() -> None:
    api = Api()
    api.rows.append(FUNCTION | WHERE)
    places = places_of(api)
    assert places.of(0) == Place("eni-a", "111122223333", "customer", "private-a")
    assert places.of(1) == Place("eni-0123", "444455556666", "customer", "private-a")
    assert set(places.present) == {0, 1}
    assert api.asked == 1


@pytest.mark.parametrize("kind", ["router", "internet-gateway", "gateway-endpoint"])
def test_gateways_have_no_lines(kind: str) -> None:
    api = Api()
    api.rows.append(ROUTER | WHERE | {"kind": kind, "secondary_numbers": [5]})
    places = places_of(api)
    assert [places.of(number) for number in (2, 5)] == [None, None]
    assert set(places.present) == {0}


@pytest.mark.parametrize(("main", "subnets"), [(False, ["private-a"]), (True, []), (True, ["b"])])
def test_gateway_endpoints_lead_to_addresses_from_their_subnets(
    main: bool, subnets: list[str]
) -> None:
    """But where the table has a route of its own to one of them."""
    api = Api()
    api.hosts = [HOST]
    api.lists = [{"PrefixListId": "pl-1", "Entries": ["198.51.100.80/32", "198.51.100.81/32"]}]
    api.tables = [
        {
            "VpcName": "customer",
            "Main": main,
            "Associations": [{"SubnetName": each} for each in subnets],
            "Routes": [
                {"DestinationCidrBlock": "198.51.100.81/32", "DestinationPrefixListId": None},
                {"DestinationCidrBlock": None, "DestinationPrefixListId": "pl-1"},
            ],
        }
    ]
    places = places_of(api)
    for found in (places.of(0), places.of(INTERFACES_MAX + 3)):
        assert found is not None
        assert found.by_endpoint == {number("198.51.100.80")}
    api.tables[0] |= {"Main": False, "Associations": [{"SubnetName": "elsewhere"}]}
    places.refresh()
    found = places.of(0)
    assert found is not None
    assert found.by_endpoint == frozenset()


@pytest.mark.parametrize("kind", ["nat-gateway", "load-balancer", "vpc-endpoint"])
def test_interfaces_of_services_have_lines_of_their_own(kind: str) -> None:
    """What is lost there was nobody else's: hosts on a flow's way are counted themselves."""
    api = Api()
    api.hosts = [HOST]
    api.rows.append(ROUTER | WHERE | {"kind": kind, "secondary_numbers": [5]})
    places = places_of(api)
    own = Place("eni-r", "111122223333", "customer", "private-a")
    assert [places.of(number) for number in (2, 5)] == [own, own]
    assert [places.around(number) for number in (2, 5)] == [{own}, {own}]
    assert HOST_PLACE in places.around(0)


def test_health_checks_have_no_lines() -> None:
    api = Api()
    api.balancers = [{"HealthCheckerNumber": 4}]
    places = places_of(api)
    assert places.of(INTERFACES_MAX + 4) is None
    # Unless a host has the number by now.
    api.balancers, api.hosts = [], [HOST | {"Number": 4}]
    places.refresh()
    assert places.of(INTERFACES_MAX + 4) == HOST_PLACE


def test_a_number_that_a_gateway_has_now_has_no_lines() -> None:
    api = Api()
    api.rows.append(FUNCTION | WHERE)
    places = places_of(api)
    places.refresh()
    api.rows[1] = ROUTER | WHERE | {"number": 1, "kind": "internet-gateway"}
    places.refresh()
    assert places.of(1) is None


def test_further_addresses_are_the_same_interface() -> None:
    api = Api()
    api.rows[0] = api.rows[0] | {"secondary_numbers": [1, 2]}
    places = places_of(api)
    assert places.of(2) == places.of(0)
    assert set(places.present) == {0}
    assert api.asked == 1


def test_a_number_nobody_names_is_asked_for_once_a_second() -> None:
    api, now = Api(), 10.0
    places = places_of(api, lambda: now)
    for _ in range(5):
        assert places.of(7) == Place("7")
    assert api.asked == 1
    now = 12.0
    places.of(7)
    assert api.asked == 2


def test_what_comes_and_goes_within_an_interval_is_known() -> None:
    """And what a lab has that is taken down before its first interval is over."""
    api, now = Api(), 10.0
    places = places_of(api, lambda: now)
    places.keep_known()
    api.rows.append(FUNCTION | WHERE)
    api.hosts = [HOST]
    places.keep_known()
    assert api.asked == 1
    now += KNOWN_SECONDS + 0.1
    places.keep_known()
    api.rows.pop()
    api.hosts = []
    places.refresh()
    api.up = False
    assert places.of(1) == Place("eni-0123", "444455556666", "customer", "private-a")
    assert places.of(INTERFACES_MAX + 3) == HOST_PLACE
    assert places.host_at(HOST_PLACE, number("10.0.1.54")) == INTERFACES_MAX + 3


def test_an_interface_that_went_keeps_its_name() -> None:
    api = Api()
    api.rows.append(FUNCTION | WHERE)
    places = places_of(api)
    places.refresh()
    api.rows.pop()
    places.refresh()
    assert set(places.present) == {0}
    assert places.of(1) == Place("eni-0123", "444455556666", "customer", "private-a")


def test_without_a_controller_what_is_known_stays() -> None:
    api = Api()
    places = places_of(api)
    places.refresh()
    api.up = False
    places.refresh()
    assert places.of(0) == Place("eni-a", "111122223333", "customer", "private-a")
    assert set(places.present) == {0}


def number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


def test_a_host_is_a_place_behind_those_of_interfaces() -> None:
    api = Api()
    api.hosts = [HOST]
    places = places_of(api)
    assert places.of(INTERFACES_MAX + 3) == HOST_PLACE
    assert set(places.present) == {0, INTERFACES_MAX + 3}


def test_a_router_s_interface_is_none() -> None:
    api = Api()
    api.rows.append(ROUTER | WHERE)
    places = places_of(api)
    assert places.of(2) is None
    assert set(places.present) == {0}
    assert places.around(2) == set()


def test_a_host_is_known_by_its_address_in_its_vpc() -> None:
    api = Api()
    api.hosts = [HOST, HOST | {"Number": 4, "VpcName": "same"}]
    places = places_of(api)
    places.refresh()
    there, address = Place("eni-a", vpc_id="customer"), number("10.0.1.54")
    assert places.host_at(there, address) == INTERFACES_MAX + 3
    assert places.host_at(Place("eni-b", vpc_id="same"), address) == INTERFACES_MAX + 4
    assert places.host_at(Place("eni-c", vpc_id="third"), address) is None
    assert places.host_at(there, number("10.0.1.55")) is None


def test_a_host_that_went_has_its_address_until_the_interval_is_over() -> None:
    api = Api()
    api.hosts = [HOST]
    places = places_of(api)
    places.refresh()
    places.next_interval()
    there, address = Place("eni-a", vpc_id="customer"), number("10.0.1.54")
    api.hosts = [HOST | {"Number": 9, "PrivateIpAddress": "10.0.1.60"}]
    places.refresh()
    assert places.host_at(there, address) == INTERFACES_MAX + 3
    assert places.of(INTERFACES_MAX + 3) == HOST_PLACE
    api.hosts.append(HOST | {"Number": 10})
    places.refresh()
    assert places.host_at(there, address) == INTERFACES_MAX + 10
    api.hosts = []
    for _ in range(2):
        places.next_interval()
        places.refresh()
    assert places.host_at(there, address) is None


def test_what_an_interface_lost_may_have_been_of_its_vpc_s_hosts() -> None:
    api = Api()
    api.hosts = [HOST, HOST | {"Number": 4, "VpcName": "same"}]
    places = places_of(api)
    assert places.around(0) == {places.of(0), HOST_PLACE}
    assert places.around(INTERFACES_MAX + 3) == {HOST_PLACE}
