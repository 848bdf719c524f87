# SPDX-License-Identifier: Apache-2.0
"""
`top`: a running lab at a glance, again and again.

Theory of operation: a `Look` is what the control API answers at a moment. Two of them make the
document that `--json` prints, in which counters have become rates; the picture is drawn from the
document alone (`top_picture`). Who has which ports is found by a walk through all flows, so that is
asked for no more often than its answer costs `PORTS_SHARE` of the time.

A lab that does not answer any more keeps its last picture, which says so, and is asked again: its
counters go on where they were, or begin anew, which is a rate of zero and never a negative one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.live import Live

from hyperplane_nat.cli import common, watching
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.top_picture import Picture
from hyperplane_nat.client import Client, ClientError

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
    status: dict[str, Any]
    interfaces: list[dict[str, Any]]
    ports: dict[str, Any]
    events: list[dict[str, Any]]


class _Looker:
    """Asks a lab, and spares it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ports: dict[str, Any] = {}
        self._ports_due = 0.0

    def look(self) -> Look:
        """A look; ClientError."""
        get = self._client.get
        started = time.monotonic()
        if started >= self._ports_due:
            self._ports = common.mapping(get("/v1/ports", {"top": EVENTS}))
            now = time.monotonic()
            self._ports_due = now + (now - started) / PORTS_SHARE
        status = common.mapping(get("/v1/status"))
        return Look(
            time.monotonic(),
            status,
            common.rows(get("/v1/interfaces")),
            self._ports,
            common.rows(get("/v1/events", {"limit": EVENTS})),
        )


def top(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show it once, as in a pipe.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="From look to look.")
    ] = 1.0,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a lab: traffic, interfaces, ports, drops, events. q or Ctrl-C ends it."""
    name, root = common.lab_name(ctx, lab), common.runtime_root(ctx)
    looker = _Looker(Client(name, runtime_directory=root, timeout=ANSWER_SECONDS))
    console = common.console()
    with watching.until_interrupted():
        before = looker.look()
        if once or as_json or not console.is_terminal:
            watching.pause(interval)
            shown = document(before, looker.look())
            if as_json:
                common.print_json(shown)
            else:
                console.print(Picture(shown))
            return
        shown, away = document(before, before), None
        with (
            Live(Picture(shown), console=console, screen=True, auto_refresh=False) as live,
            watching.keyboard() as wait,
        ):
            while b"q" not in wait(interval):
                try:
                    now = looker.look()
                except ClientError as error:
                    away = away or time.time()
                    live.update(Picture(shown, away, str(error)), refresh=True)
                    continue
                shown, before, away = document(before, now), now, None
                live.update(Picture(shown), refresh=True)


def document(before: Look, now: Look) -> dict[str, Any]:
    """What is shown: rates per second are those between the two looks."""
    seconds = max(now.moment - before.moment, 0.001)
    status, counters = now.status, now.status["counters"]
    flows, forwarder = status["flows"], status["forwarder"]
    same = before.status["forwarder"].get("pid") == forwarder.get("pid")
    used = _rate(before.status["forwarder"], forwarder, "cpu_seconds", seconds)
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
        **_traffic(before.status["traffic"], status["traffic"], seconds),
        "forwarder": {
            "pid": forwarder.get("pid"),
            "restarts": forwarder["restarts"],
            "problem": forwarder.get("problem"),
            "cpu_percent": round(100 * used, 1) if same else None,
            "ring_percent": round(100 * filled / slots, 1) if slots else None,
        },
        "interfaces": _interfaces(before, now, seconds),
        "remotes": now.ports["remotes"],
        "drops_per_second": {
            reason: rate
            for reason in status["drops"]
            if (rate := _rate(before.status["drops"], status["drops"], reason, seconds))
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
                **_traffic(former.get(row["name"], row), row, seconds),
                "ports": taken,
                "limit": limit,
                "used_percent": round(100 * taken / limit, 1) if limit else None,
            }
        )
    return sorted(result, key=lambda row: (-(row["used_percent"] or 0), -row["ports"]))


def _traffic(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Packets and bits per second."""
    return {
        f"{name.replace('bytes', 'bits')}_per_second": _rate(before, now, name, seconds)
        * (8 if name.startswith("bytes") else 1)
        for name in _TRAFFIC
    }


def _rate(before: Mapping[str, Any], now: Mapping[str, Any], name: str, seconds: float) -> float:
    return round(float(max(now.get(name, 0) - before.get(name, 0), 0)) / seconds, 3)
