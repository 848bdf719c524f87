# SPDX-License-Identifier: Apache-2.0
"""The fields of a flow log line, and how a line is made of them.

Theory of operation
-------------------
A flow log has a list of fields, the default being those of version 2 (AWS, "Flow log records"). A
row is everything that is known of one direction of one flow on one interface; `LineFormat` picks
the fields asked for. What this gateway cannot know, such as an availability zone, is `-`, as AWS
writes it. `environment` is the one field AWS does not have: who is behind the interface.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from operator import itemgetter
from socket import inet_ntoa
from typing import NamedTuple

VERSION_2 = (
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
)
"""The default format (AWS, "Flow log records": default format)."""

FIELDS: dict[str, int] = {
    **dict.fromkeys(VERSION_2, 2),
    **dict.fromkeys(
        (
            "vpc-id",
            "subnet-id",
            "instance-id",
            "tcp-flags",
            "type",
            "pkt-srcaddr",
            "pkt-dstaddr",
        ),
        3,
    ),
    **dict.fromkeys(("region", "az-id", "sublocation-type", "sublocation-id"), 4),
    **dict.fromkeys(
        ("pkt-src-aws-service", "pkt-dst-aws-service", "flow-direction", "traffic-path"), 5
    ),
    "environment": 2,
}
"""The version that brought each field."""

UNKNOWN = "-"
NOBODY = 65535
"""The slot of a packet from outside that was refused."""


class View(IntEnum):
    """One of the four rows that a conversation makes on the interface of a NAT (AWS, "Traffic
    through a NAT gateway"), or of the two that it makes on a host's or an endpoint's.

    Those on the interface of a NAT gateway or of a load balancer's node are of its client and of
    its far end, which is in the internet or a target.
    """

    FROM_ENVIRONMENT = 0
    TO_REMOTE = 1
    FROM_REMOTE = 2
    TO_ENVIRONMENT = 3
    FROM_HOST = 4
    TO_HOST = 5
    FROM_HOST_TO_INTERNET = 6
    FROM_CLIENT = 7
    TO_TARGET = 8
    TO_INTERNET = 9
    FROM_FAR = 10
    TO_CLIENT = 11
    UNSENT = 12
    """What did not get away from whoever sent it to a function's interface: none of its rows."""


# A member costs a look-up each time, and there are millions of rows.
FROM_ENVIRONMENT, TO_REMOTE, FROM_REMOTE, TO_ENVIRONMENT = 0, 1, 2, 3
FROM_HOST, TO_HOST, FROM_HOST_TO_INTERNET = 4, 5, 6
FROM_CLIENT, TO_TARGET, TO_INTERNET, FROM_FAR, TO_CLIENT, UNSENT = 7, 8, 9, 10, 11, 12

_PATHS = {
    TO_REMOTE: "1",
    FROM_HOST: "1",
    FROM_HOST_TO_INTERNET: "8",
    TO_TARGET: "1",
    TO_INTERNET: "2",
    TO_CLIENT: "1",
}
"""Egress by its traffic-path: 1 is through a resource of the same VPC; 8 is through an internet
gateway, and 2 the same of who is no instance (AWS, "Flow log records")."""
_EGRESS = {*_PATHS, TO_ENVIRONMENT}


class Key(NamedTuple):
    """What tells rows of one interval apart; 0 for what does not matter to the view.

    What is inside and remote is source and destination on a host's interface, where nothing is
    translated; on a gateway's or node's far side the source is what its packets have there.
    """

    view: int
    place: int
    slot: int
    protocol: int
    inside_address: int
    inside_port: int
    remote_address: int
    remote_port: int
    nat_address: int
    nat_port: int
    refused: bool


@dataclass(slots=True)
class Sums:
    """What was counted for a key; the times are of the state map's clock."""

    packets: int
    bytes: int
    first_ms: int
    last_ms: int
    flags: int


@dataclass(frozen=True, slots=True)
class Place:
    """A network interface as flow logs call it."""

    interface_id: str
    account_id: str = UNKNOWN
    vpc_id: str = UNKNOWN
    subnet_id: str = UNKNOWN
    instance_id: str = UNKNOWN
    by_endpoint: frozenset[int] = dataclasses.field(default=frozenset(), compare=False)
    """Addresses, as the engine keeps them, to which gateway endpoints lead from its subnet."""


@lru_cache(maxsize=65536)
def dotted(address: int) -> str:
    """An address as the engine keeps it, in text."""
    return inet_ntoa(address.to_bytes(4, "little"))


def _path(view: int, place: Place, remote: int) -> str:
    """How what leaves gets there ("Flow log records", traffic-path): 7 is a gateway endpoint."""
    if view in (TO_REMOTE, FROM_HOST) and remote in place.by_endpoint:
        return "7"
    return _PATHS.get(view, UNKNOWN)


class LineFormat:
    """Turns rows into lines of the chosen fields; ValueError for one that does not exist."""

    def __init__(self, fields: Sequence[str] = VERSION_2) -> None:
        for field in fields:
            if field not in FIELDS:
                raise ValueError(f"{field!r} is no field of flow logs")
        self.fields = tuple(fields)
        # AWS: the highest version among the fields.
        self._version = str(max((FIELDS[field] for field in fields), default=2))
        names = list(_ROW)
        indices = [names.index(field) for field in fields]
        self._pick: Callable[[Sequence[str]], tuple[str, ...]] = (
            itemgetter(*indices) if len(indices) > 1 else lambda row: (row[indices[0]],)
        )

    @property
    def header(self) -> str:
        """The first line of a file."""
        return " ".join(self.fields)

    def line(self, place: Place, key: Key, sums: Sums, start: int, end: int) -> str:
        """A row that was counted; `start` and `end` in Unix seconds."""
        view, _, slot, protocol, inside_number, inside, remote_number, remote, *ours = key
        nat_number, nat, refused = ours
        inside_port, remote_port, nat_port = str(inside), str(remote), str(nat)
        if protocol == 1:
            # ICMP has no ports (AWS: 0).
            inside_port = remote_port = nat_port = "0"
        here, there, between = dotted(inside_number), dotted(remote_number), dotted(nat_number)
        # Source and destination on the interface, and of the packet itself.
        if view == FROM_ENVIRONMENT:
            ends = (here, between, inside_port, remote_port, here, there)
        elif view == TO_REMOTE and slot:
            ends = (between, there, inside_port, remote_port, here, there)
        elif view == TO_REMOTE:
            ends = (between, there, nat_port, remote_port, between, there)
        elif view == FROM_REMOTE:
            ends = (there, between, remote_port, nat_port, there, between)
        elif view in (FROM_HOST, TO_HOST, FROM_HOST_TO_INTERNET):
            ends = (here, there, inside_port, remote_port, here, there)
        elif view == FROM_CLIENT:
            ends = (here, between, inside_port, remote_port, here, there)
        elif view in (TO_TARGET, TO_INTERNET):
            ends = (between, there, inside_port, remote_port, here, there)
        elif view == FROM_FAR:
            ends = (there, between, remote_port, inside_port, there, here)
        else:
            ends = (between, here, remote_port, inside_port, there, here)
        return self._join(
            place,
            ends,
            (
                str(protocol),
                str(sums.packets),
                str(sums.bytes),
                str(start),
                str(end),
                "REJECT" if refused else "ACCEPT",
                "OK",
            ),
            (
                str(sums.flags),
                "egress" if view in _EGRESS else "ingress",
                _path(view, place, remote_number),
                UNKNOWN if slot in (0, NOBODY) else f"env-{slot}",
                "IPv4",
            ),
        )

    def without_data(self, place: Place, start: int, end: int, status: str) -> str:
        """The line of an interval of which there is nothing to tell: NODATA or SKIPDATA."""
        return self._join(
            place,
            (UNKNOWN,) * 6,
            (UNKNOWN, UNKNOWN, UNKNOWN, str(start), str(end), UNKNOWN, status),
            (UNKNOWN,) * 5,
        )

    def _join(
        self,
        place: Place,
        ends: tuple[str, ...],
        middle: tuple[str, ...],
        rest: tuple[str, ...],
    ) -> str:
        row = (
            self._version,
            place.account_id,
            place.interface_id,
            place.vpc_id,
            place.subnet_id,
            *ends,
            *middle,
            *rest,
            place.instance_id,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
            UNKNOWN,
        )
        return " ".join(self._pick(row))


_ROW = (
    "version",
    "account-id",
    "interface-id",
    "vpc-id",
    "subnet-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "pkt-srcaddr",
    "pkt-dstaddr",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
    "tcp-flags",
    "flow-direction",
    "traffic-path",
    "environment",
    "type",
    "instance-id",
    "region",
    "az-id",
    "sublocation-type",
    "sublocation-id",
    "pkt-src-aws-service",
    "pkt-dst-aws-service",
)
"""The order in which `LineFormat` has a row's values at hand."""
