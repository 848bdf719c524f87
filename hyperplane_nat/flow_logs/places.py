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

WITHOUT_ROWS = frozenset({"router", "internet-gateway", "nat-gateway", "load-balancer"})
"""Kinds of network interfaces that no line is of."""

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
        if number >= self._interfaces_max:
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
        except ClientError:
            return
        for row in rows:
            if row["kind"] in WITHOUT_ROWS:
                self._without_rows |= {row["number"], *row.get("secondary_numbers", ())}
        # Whose health checks they are has no interface on AWS either.
        checkers = {self._interfaces_max + row["HealthCheckerNumber"] for row in balancers}
        self._without_rows |= checkers
        rows = [row for row in rows if row["kind"] not in WITHOUT_ROWS]
        self.present = {row["number"]: _place(row) for row in rows}
        self._hosts = {}
        for host in hosts:
            number = self._interfaces_max + host["Number"]
            self.present[number] = _host_place(host)
            address = int.from_bytes(inet_aton(host["PrivateIpAddress"]), "little")
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


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["id"] or row["name"], row["owner"], row["vpc"], row["subnet"])


def _host_place(row: Mapping[str, Any]) -> Place:
    return Place(
        row["NetworkInterfaceId"],
        row["OwnerId"],
        row["VpcName"],
        row["SubnetName"],
        row["InstanceId"],
    )
