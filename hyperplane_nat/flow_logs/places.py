# SPDX-License-Identifier: Apache-2.0
"""What the places of the state map are called, asked of the control API.

A place is a network interface that has rows: by its number that of a function or of the file, and
behind the numbers that interfaces can have that of a host. Those of kinds in `WITHOUT_ROWS` are
none. The writer of flow logs is a client like any other: it asks every `KNOWN_SECONDS`, at the end
of an interval, and for a number it does not know. While no controller answers, what is known stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from socket import inet_aton
from typing import Any

from hyperplane_nat.client import ClientError
from hyperplane_nat.flow_logs.fields import Place

KNOWN_SECONDS = 5.0
"""What is made and gone again within one interval is known if it was there for that long, and so is
what a lab has that is taken down, when nobody can be asked."""

WITHOUT_ROWS = frozenset({"router", "internet-gateway", "gateway-endpoint"})
"""Kinds of network interfaces that no line is of."""

_OF_SERVICES = frozenset({"nat-gateway", "load-balancer", "vpc-endpoint"})
"""Kinds whose flows are told of whoever is at their ends by themselves."""

_Addresses = dict[str, dict[int, int]]


class Places:
    """Interfaces and hosts by number. `get(path)` is the control API's; `clock` in seconds."""

    def __init__(
        self, get: Callable[[str], Any], clock: Callable[[], float], *, interfaces_max: int
    ) -> None:
        """`interfaces_max` is the map's: the place of its host 0."""
        self._get = get
        self._clock = clock
        self._interfaces_max = interfaces_max
        self._asked = float("-inf")
        self._known: dict[int, Place] = {}
        self._without_rows: set[int] = set()
        self._of_services: set[int] = set()
        self._hosts: _Addresses = {}
        self._meant: _Addresses = {}
        self.present: dict[int, Place] = {}
        """The places that were there when last asked."""

    def of(self, number: int) -> Place | None:
        """A place; its number stands for one that nobody names, None for one without rows."""
        place = self._known.get(number)
        if place is None and self._clock() - self._asked > 1.0:
            self.refresh()
            place = self._known.get(number)
        if place is None and number not in self._without_rows:
            return Place(str(number))
        return place

    def host_at(self, place: Place, address: int) -> int | None:
        """The number of the host with an address, as the engine keeps it, in the place's VPC."""
        # Asked for each row.
        hosts = self._meant.get(place.vpc_id)
        return None if hosts is None else hosts.get(address)

    def around(self, number: int) -> set[Place]:
        """Whose rows a record that was lost at a place may have made.

        An interface's flows may have had hosts of its VPC at their other end.
        """
        place = self.of(number)
        if place is None:
            return set()
        if number >= self._interfaces_max or number in self._of_services:
            return {place}
        return {place} | {self._known[host] for host in self._hosts.get(place.vpc_id, {}).values()}

    def next_interval(self) -> None:
        """An interval begins: hosts that went before it are not meant any more."""
        self._meant = self._hosts

    def keep_known(self) -> None:
        """Ask when it is time to."""
        if self._clock() - self._asked > KNOWN_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Ask which interfaces and hosts there are now."""
        self._asked = self._clock()
        try:
            rows = self._get("/v1/interfaces")
            hosts = self._get("/v1/hosts")
            balancers = self._get("/v1/load-balancers")
            lists = {each["PrefixListId"]: each for each in self._get("/v1/prefix-lists")}
            tables = self._get("/v1/route-tables") if lists else []
        except ClientError:
            return
        self._of_services = set()
        for row in rows:
            numbers = {row["number"], *row.get("secondary_numbers", ())}
            if row["kind"] in WITHOUT_ROWS:
                self._without_rows |= numbers
            elif row["kind"] in _OF_SERVICES:
                self._of_services |= numbers
        # Whose health checks they are has no interface on AWS either.
        checkers = {self._interfaces_max + row["HealthCheckerNumber"] for row in balancers}
        self._without_rows |= checkers
        rows = [row for row in rows if row["kind"] not in WITHOUT_ROWS]
        listed = _by_endpoint(tables, lists)
        self.present = {
            row["number"]: _place(row, _of_subnet(listed, row["vpc"], row["subnet"]))
            for row in rows
        }
        self._hosts = {}
        for host in hosts:
            number = self._interfaces_max + host["Number"]
            reached = _of_subnet(listed, host["VpcName"], host["SubnetName"])
            self.present[number] = _host_place(host, reached)
            address = _number(host["PrivateIpAddress"])
            self._hosts.setdefault(host["VpcName"], {})[address] = number
        self._meant = {
            vpc: self._meant.get(vpc, {}) | self._hosts.get(vpc, {})
            for vpc in self._meant | self._hosts
        }
        for number in self._without_rows:
            self._known.pop(number, None)
        self._known |= self.present
        # Further addresses are numbers of their own, and the same interface.
        for row in rows:
            place = self.present[row["number"]]
            self._known |= dict.fromkeys(row.get("secondary_numbers", ()), place)


_Listed = dict[tuple[str, str | None], frozenset[int]]
"""Addresses to which gateway endpoints lead, by VPC and subnet; None are all others."""


def _by_endpoint(tables: Any, lists: Mapping[str, Mapping[str, Any]]) -> _Listed:
    found: _Listed = {}
    for table in tables:
        own = {each.get("DestinationCidrBlock") for each in table["Routes"]}
        addresses = frozenset(
            _number(entry.removesuffix("/32"))
            for route in table["Routes"]
            if (listed := route.get("DestinationPrefixListId")) in lists
            for entry in lists[listed]["Entries"]
            if entry not in own
        )
        for subnet in table["Associations"]:
            found[table["VpcName"], subnet["SubnetName"]] = addresses
        if table["Main"]:
            found[table["VpcName"], None] = addresses
    return found


def _of_subnet(listed: _Listed, vpc: str, subnet: str) -> frozenset[int]:
    own = listed.get((vpc, subnet))
    return listed.get((vpc, None), frozenset()) if own is None else own


def _number(address: str) -> int:
    """As the engine keeps it."""
    return int.from_bytes(inet_aton(address), "little")


def _place(row: Mapping[str, Any], by_endpoint: frozenset[int]) -> Place:
    return Place(
        row["id"] or row["name"],
        row["owner"],
        row["vpc"],
        row["subnet"],
        by_endpoint=by_endpoint,
    )


def _host_place(row: Mapping[str, Any], by_endpoint: frozenset[int]) -> Place:
    return Place(
        row["NetworkInterfaceId"],
        row["OwnerId"],
        row["VpcName"],
        row["SubnetName"],
        row["InstanceId"],
        by_endpoint=by_endpoint,
    )
