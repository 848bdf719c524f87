# SPDX-License-Identifier: Apache-2.0
"""What a lab looks like at a moment, for `top` and for the page.

Theory of operation
-------------------
A `Look` is what the control API answers at a moment. Two of them make a `document`, in which
counters have become rates. Who has which ports is found by a walk through all flows, so that is
asked for no more often than its answer costs `PORTS_SHARE` of the time.

Counters of a lab that was away go on where they were, or begin anew, which is a rate of zero and
never a negative one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperplane_nat.client import Client, ClientError

Row = dict[str, Any]

PORTS_SHARE = 0.05
"""Of the time, that the controller may spend on who has which ports."""

EVENTS = 50
"""The latest, of which as many are drawn as there is room for."""

ANSWER_SECONDS = 5.0
"""Without an answer the lab counts as one that does not answer; a hung forwarder takes two."""

_TRAFFIC = ("packets_out", "bytes_out", "packets_in", "bytes_in")


@dataclass(frozen=True, slots=True)
class Look:
    """What the control API answers at a moment, in seconds of the monotonic clock."""

    moment: float
    status: Row
    interfaces: list[Row]
    ports: Row
    events: list[Row]
    hosts: list[Row]


class Looker:
    """Asks a lab, and spares it."""

    def __init__(self, client: Client, *, ports_share: float = PORTS_SHARE) -> None:
        """`ports_share` is of the time, that the controller may spend on who has which ports."""
        self._client = client
        self._ports_share = ports_share
        self._ports: Row = {}
        self._ports_due = 0.0

    def look(self) -> Look:
        """A look; ClientError."""
        started = time.monotonic()
        if started >= self._ports_due:
            self._ports = self.mapping("/v1/ports", {"top": EVENTS})
            now = time.monotonic()
            self._ports_due = now + (now - started) / self._ports_share
        status = self.mapping("/v1/status")
        if "traffic" not in status:
            raise _unexpected()
        return Look(
            time.monotonic(),
            status,
            self.rows("/v1/interfaces"),
            self._ports,
            self.rows("/v1/events", {"limit": EVENTS}),
            self.rows("/v1/hosts"),
        )

    def rows(self, path: str, query: Mapping[str, object] | None = None) -> list[Row]:
        """A list of objects; ClientError."""
        answer = self._client.get(path, query)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise _unexpected()
        return answer

    def mapping(self, path: str, query: Mapping[str, object] | None = None) -> Row:
        """One object; ClientError."""
        answer = self._client.get(path, query)
        if not isinstance(answer, dict):
            raise _unexpected()
        return answer


def _unexpected() -> ClientError:
    return ClientError("the controller answered something unexpected (is its version another one?)")


def document(before: Look, now: Look) -> dict[str, Any]:
    """What is shown: rates per second are those between the two looks."""
    seconds = max(now.moment - before.moment, 0.001)
    status, counters = now.status, now.status["counters"]
    flows, forwarder = status["flows"], status["forwarder"]
    same = before.status["forwarder"].get("pid") == forwarder.get("pid")
    used = rate(before.status["forwarder"], forwarder, "cpu_seconds", seconds)
    slots, filled = counters.get("ring_slots", 0), counters.get("ring_slots_used", 0)
    return {
        "lab": status["lab"],
        "state": status["state"],
        "up_since": time.time() - status["uptime_seconds"],
        "rates_over_seconds": round(seconds, 3),
        "environments": status["environments"],
        "flows": {
            "active": sum(flows[protocol] for protocol in ("tcp", "udp", "icmp")),
            "max": flows["max"],
        },
        **traffic(before.status["traffic"], status["traffic"], seconds),
        "forwarder": {
            "pid": forwarder.get("pid"),
            "restarts": forwarder["restarts"],
            "problem": forwarder.get("problem"),
            "cpu_percent": round(100 * used, 1) if same else None,
            "ring_percent": round(100 * filled / slots, 1) if slots else None,
        },
        "interfaces": _interfaces(before, now, seconds),
        "hosts": _hosts(before, now, seconds),
        "remotes": now.ports["remotes"],
        "drops_per_second": {
            reason: grown
            for reason in status["drops"]
            if (grown := rate(before.status["drops"], status["drops"], reason, seconds))
        },
        "events": now.events[::-1],
    }


def _interfaces(before: Look, now: Look, seconds: float) -> list[dict[str, Any]]:
    """Network interfaces, the fullest first."""
    former = {row["name"]: row for row in before.interfaces}
    result = []
    for row in now.interfaces:
        name = row.get("id") or row["name"]
        taken = sum(row["ports"])
        limit = (row["ports_limit"] or 0) * len(row["ports"]) or None
        result.append(
            {
                "interface": name,
                "address": row["address"],
                "vpc": row["vpc"],
                "environments": row["environments"],
                "flows": row["flows"],
                **traffic(former.get(row["name"], row), row, seconds),
                "ports": taken,
                "limit": limit,
                "used_percent": round(100 * taken / limit, 1) if limit else None,
            }
        )
    return sorted(result, key=lambda row: (-(row["used_percent"] or 0), -row["ports"]))


def _hosts(before: Look, now: Look, seconds: float) -> list[dict[str, Any]]:
    """Hosts of VPCs, those with most packets first."""
    former = {row["InstanceId"]: row for row in before.hosts}
    result = []
    for row in now.hosts:
        old = former.get(row["InstanceId"], row)
        result.append(
            {
                "id": row["InstanceId"],
                "host": row["HostName"],
                "vpc": row["VpcName"],
                "subnet": row["SubnetName"],
                "address": row["PrivateIpAddress"],
                "groups": [group["GroupName"] for group in row["Groups"]],
                "services": row["Services"],
                "attached": row["Attached"],
                "flows": row["flows"],
                "drops": row["drops"],
                "drops_per_second": rate(old, row, "drops", seconds),
                **traffic(old, row, seconds),
            }
        )
    return sorted(
        result, key=lambda row: -(row["packets_out_per_second"] + row["packets_in_per_second"])
    )


def traffic(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Packets and bits per second, of counters of packets and bytes."""
    return {
        f"{name.replace('bytes', 'bits')}_per_second": rate(before, now, name, seconds)
        * (8 if name.startswith("bytes") else 1)
        for name in _TRAFFIC
    }


def rate(before: Mapping[str, Any], now: Mapping[str, Any], name: str, seconds: float) -> float:
    """How fast a counter grew, per second."""
    return round(float(max(now.get(name, 0) - before.get(name, 0), 0)) / seconds, 3)
