# SPDX-License-Identifier: Apache-2.0
"""One lab, looked at for all pages: what they show, and what has changed of it.

Theory of operation
-------------------
A reader asks its lab once every `INTERVAL_SECONDS`, in a thread, however many pages there are. An
answer becomes the page's document: sums and rates, thousands of environments in a few rows, never a
flow. Pages are sent what differs from the document before, key by key, and a page that comes, or
that does not keep up, is sent everything with the last 15 minutes.

A lab that does not answer keeps its document, which then says since when and why, and is asked
again; when it is back, the rest goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

from hyperplane_nat.client import ClientError, NotRunningError
from hyperplane_nat.ui.balancing import Balancing
from hyperplane_nat.ui.history import HISTORY_SECONDS, History, Trends, sample_of
from hyperplane_nat.ui.look import Look, Looker, Row, document, rate, traffic

INTERVAL_SECONDS = 1.0

BEHIND_MAX = 30
"""Messages that may wait for a page; with one more it is sent everything again."""

STARTS = 300
"""The latest cold starts that are shown."""

ONE_EACH = "one each: "
"""What the name begins with that stands for all interfaces of a function with one for each."""

HOSTS_APART = 32
"""Hosts of a subnet that are shown one by one; more are one row."""

ADDRESSES = 3
"""Of those the fullest ones that are shown."""

Message = dict[str, Any]

_BUCKET = "batch_size_bucket_"


class Around:
    """What is asked besides a look."""

    def __init__(self, looker: Looker) -> None:
        """Ask; ClientError."""
        self.groups = looker.rows("/v1/environment-sums")
        self.functions = looker.rows("/v1/functions")
        self.accounts = looker.rows("/v1/accounts")
        self.vpcs = looker.rows("/v1/vpcs")
        self.subnets = looker.rows("/v1/subnets")
        self.starts = looker.rows("/v1/cold-starts", {"limit": STARTS})
        self.balancing = Balancing(looker)


Seen = tuple[Look, Around]


class Subscription:
    """What waits for one page."""

    def __init__(self, everything: Callable[[], Message]) -> None:
        self._everything = everything
        self._waiting: list[Message] = [everything()]
        self._there = asyncio.Event()
        self._there.set()
        self._ended = False

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._there.set()

    def put(self, message: Message) -> None:
        """One more; to who does not keep up, everything instead."""
        self._waiting.append(message)
        if len(self._waiting) > BEHIND_MAX:
            self._waiting = [self._everything()]
        self._there.set()

    async def get(self) -> list[Message]:
        """All that wait, once there are some; none when nothing more will come."""
        await self._there.wait()
        if not self._ended:
            self._there.clear()
        found, self._waiting = self._waiting, []
        return found


class Reader:
    """The reader of one lab; used from the event loop."""

    def __init__(
        self,
        name: str,
        looker: Looker,
        threads: Executor,
        *,
        interval: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is in seconds since the epoch; `threads` run what blocks."""
        self.name = name
        self.away_since: float | None = None
        """When it was found not to answer."""
        self._looker = looker
        self._threads = threads
        self._interval = interval
        self._clock = clock
        self._history = History()
        self._trends = Trends()
        self._before: Seen | None = None
        self._document: Message = {"lab": name, "away_since": None, "why": ""}
        self._pages: set[Subscription] = set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                seen = await loop.run_in_executor(self._threads, self._look)
            except NotRunningError:
                # Its own words come from a survey of what stands: nothing to do once a second.
                self.heed_absence(
                    f"its controller does not run (hyperplane-nat --lab {self.name} up)"
                )
            except ClientError as error:
                self.heed_absence(str(error))
            else:
                self.heed(seen)
            spent = loop.time() - started
            # Who answers slowly is asked less often.
            await asyncio.sleep(max(self._interval - spent, self._interval / 2))

    def _look(self) -> Seen:
        return self._looker.look(), Around(self._looker)

    def heed(self, seen: Seen) -> None:
        """The lab has answered."""
        before = self._before or seen
        self._before, self.away_since = seen, None
        shown = page_document(before, seen, self._trends)
        sample = sample_of(shown, self._clock())
        self._history.add(sample)
        self._publish(shown | {"away_since": None, "why": ""}, sample)

    def heed_absence(self, why: str) -> None:
        """The lab has not answered."""
        if self.away_since is None:
            self.away_since = self._clock()
        self._publish(self._document | {"away_since": self.away_since, "why": why}, None)

    @property
    def forgotten(self) -> bool:
        """Whether nothing of it is worth showing any more."""
        since = self.away_since
        return since is not None and self._clock() - since > HISTORY_SECONDS

    def subscribe(self) -> Subscription:
        """A page begins with everything."""
        page = Subscription(self.everything)
        self._pages.add(page)
        return page

    def unsubscribe(self, page: Subscription) -> None:
        """The page has gone."""
        self._pages.discard(page)

    def end(self) -> None:
        """Nothing more will be told to the pages."""
        for page in self._pages:
            page.end()

    def tell(self, message: Message) -> None:
        """Send something to all pages."""
        for page in self._pages:
            page.put(message)

    def everything(self) -> Message:
        """The whole document and the last minutes."""
        return {"all": self._document, "history": self._history.document()}

    def _publish(self, shown: Message, sample: Mapping[str, Any] | None) -> None:
        changed = {
            name: value
            for name, value in shown.items()
            if name not in self._document or self._document[name] != value
        }
        self._document = shown
        if changed or sample is not None:
            self.tell({"changed": changed, "sample": sample})


def page_document(before: Seen, now: Seen, trends: Trends) -> Message:
    """What the page shows: the document of `top`, and what is around it."""
    (former, former_around), (look, around) = before, now
    seconds = max(look.moment - former.moment, 0.001)
    shown = document(former, look)
    shown["up_since"] = round(shown["up_since"])
    shown["forwarder"] |= _batches(former.status["counters"], look.status["counters"], seconds)
    shown["forwarder"] |= {
        name: look.status["forwarder"].get(name)
        for name in ("up", "hangs", "standby_pid", "failover_seconds", "rss_bytes")
    }
    rows = {row.get("id") or row["name"]: row for row in look.interfaces}
    old = {row["name"]: row for row in former.interfaces}
    for each in shown["interfaces"]:
        row = rows[each["interface"]]
        errors = rate(old.get(row["name"], row), row, "port_allocation_errors", seconds)
        each |= {name: row[name] for name in ("subnet", "kind", "status", "owner", "mac", "groups")}
        each["port_errors"] = row["port_allocation_errors"]
        each["port_errors_per_second"] = errors
        each["addresses"] = [
            {
                "interface": each["interface"],
                "address": address,
                "ports": ports,
                "limit": row["ports_limit"],
                "seconds_left": trends.seconds_left(
                    (row["name"], address), look.moment, ports, row["ports_limit"]
                ),
            }
            for address, ports in zip(
                (row["address"], *row["secondary_addresses"]), row["ports"], strict=True
            )
        ]
    groups = _groups(former_around.groups, around.groups, seconds)
    shown["interfaces"], groups = _merged(shown["interfaces"], groups)
    shown["hosts"] = _merged_hosts(shown["hosts"])
    shown["remotes"] = [_remote(row, look.moment, trends) for row in shown["remotes"]]
    shown["port_holders"] = [
        {name: row[name] for name in ("interface", "address", "functions", "environments")}
        for row in look.ports["interfaces"]
    ]
    trends.forget(look.moment)
    return shown | {
        "drops": look.status["drops"],
        "groups": groups,
        "functions": [
            {
                "name": row["FunctionName"],
                "account": row["Account"],
                "networking": row["Networking"],
                "state": row["State"],
                "vpc": (row["VpcConfig"] or {}).get("VpcName"),
                "interfaces": row["NetworkInterfaceIds"],
            }
            for row in around.functions
        ],
        "accounts": [{"id": row["Id"], "name": row["Name"]} for row in around.accounts],
        "vpcs": [
            {"name": row["VpcName"], "owner": row["OwnerId"], "cidr": row["CidrBlock"]}
            for row in around.vpcs
        ],
        "subnets": [
            {
                "name": row["SubnetName"],
                "vpc": row["VpcName"],
                "owner": row["OwnerId"],
                "cidr": row["CidrBlock"],
            }
            for row in around.subnets
        ],
        "cold_starts": around.starts[::-1],
        **around.balancing.document(),
    }


_SUMS = (
    *("environments", "flows", "ports", "port_errors", "port_errors_per_second"),
    *("drops", "drops_per_second", "packets_out_per_second", "bits_out_per_second"),
    *("packets_in_per_second", "bits_in_per_second"),
)


def _merged(interfaces: list[Row], groups: list[Row]) -> tuple[list[Row], list[Row]]:
    """
    Interfaces in an order that stays, those with one environment each as one for each function and
    subnet: there may be thousands. `count` is how many it stands for, 0 for an interface itself.
    """
    function_of = {row["interface"]: row["function"] for row in groups}
    names: dict[str, str] = {}
    found: dict[str, Row] = {}
    for row in interfaces:
        name = row["interface"]
        if row["kind"] != "per-environment":
            found[name] = row | {"count": 0}
            continue
        user = function_of.get(name) or "no function"
        names[name] = together = f"{ONE_EACH}{user} in {row['vpc']}/{row['subnet']}"
        if together not in found:
            found[together] = row | {"interface": together, "count": 1, "mac": None}
            continue
        whole = found[together]
        _add(whole, row)
        whole["count"] += 1
        most = sorted((*whole["addresses"], *row["addresses"]), key=lambda each: -each["ports"])
        whole["addresses"] = most[:ADDRESSES]
    members: dict[tuple[str | None, str | None], Row] = {}
    for row in groups:
        on = names.get(row["interface"], row["interface"])
        key = row["function"], on
        if key not in members:
            members[key] = row | {"interface": on, "states": Counter(row["states"])}
        else:
            _add(members[key], row)
            members[key]["states"].update(row["states"])
    return sorted(found.values(), key=lambda row: str(row["interface"])), list(members.values())


def _merged_hosts(hosts: list[Row]) -> list[Row]:
    """
    Hosts in an order that stays, those of a subnet with many as one, whose `count` is how many it
    stands for; 0 for a host itself.
    """
    crowds = Counter((row["vpc"], row["subnet"]) for row in hosts)
    found: dict[str, Row] = {}
    for row in sorted(hosts, key=lambda row: (str(row["vpc"]), str(row["host"]))):
        place = row["vpc"], row["subnet"]
        if crowds[place] <= HOSTS_APART:
            found[row["id"]] = row | {"count": 0}
            continue
        together = f"hosts in {row['vpc']}/{row['subnet']}"
        if together not in found:
            one = {"id": together, "host": together, "address": None, "attached": None}
            found[together] = row | one | {"groups": [], "services": [], "count": 1}
            continue
        _add(found[together], row)
        found[together]["count"] += 1
    return list(found.values())


def _add(whole: Row, part: Row) -> None:
    for name in _SUMS:
        if name in part:
            whole[name] = round(whole[name] + part[name], 3)


def _remote(row: Row, moment: float, trends: Trends) -> Row:
    key = tuple(row[name] for name in ("protocol", "address", "remote_address", "remote_port"))
    ports = row["in_use"] + row["held"]
    # An age would make every answer another one.
    shown = {name: value for name, value in row.items() if name != "last_error_seconds"}
    left = trends.seconds_left(key, moment, ports, row["limit"])
    return shown | {"ports": ports, "seconds_left": left}


def _groups(before: Iterable[Row], now: Iterable[Row], seconds: float) -> list[Row]:
    def key(row: Row) -> tuple[str, str]:
        return row["function"] or "", row["interface"] or ""

    former = {key(row): row for row in before}
    return [
        {
            **{name: row[name] for name in ("function", "interface", "environments", "states")},
            "flows": row["flows"],
            "drops": row["drops"],
            "drops_per_second": rate(former.get(key(row), row), row, "drops", seconds),
            **traffic(former.get(key(row), row), row, seconds),
        }
        for row in sorted(now, key=key)
    ]


def _batches(before: Mapping[str, int], now: Mapping[str, int], seconds: float) -> Row:
    """Batches per second by size, and the mean; each size up to its bound."""
    frames = rate(before, now, "batch_frames", seconds)
    batches = rate(before, now, "batches", seconds)
    return {
        "batch_frames": round(frames / batches, 2) if batches else None,
        "batch_sizes": {
            name.removeprefix(_BUCKET): rate(before, now, name, seconds)
            for name in now
            if name.startswith(_BUCKET)
        },
    }
