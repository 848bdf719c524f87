# SPDX-License-Identifier: Apache-2.0
"""What pages are sent: sums, what has changed, and everything for who comes or is behind."""

from __future__ import annotations

import asyncio
import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hyperplane_nat.client import Client
from hyperplane_nat.ui.history import SERIES, Trends, sample_of
from hyperplane_nat.ui.look import Look, Looker
from hyperplane_nat.ui.reader import (
    BEHIND_MAX,
    HOSTS_APART,
    Around,
    Reader,
    Seen,
    page_document,
)
from tests.cli import conftest as cli
from tests.cli.fake_api import FakeApi
from tests.cli.test_hosts import ATTACHED, HOST
from tests.ui.conftest import SUMS


class Answers:
    """Something to look at that is no server."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = copy.deepcopy(answers)

    def get(self, path: str, _query: object = None) -> object:
        return self.answers[path]


def seen(answers: dict[str, Any], moment: float) -> Seen:
    looker = Looker(Answers(answers))  # type: ignore[arg-type]
    look = looker.look()
    look = Look(moment, look.status, look.interfaces, look.ports, look.events, look.hosts)
    return look, Around(looker)


def with_rows(answers: dict[str, Any], path: str, **fields: Any) -> dict[str, Any]:
    return answers | {path: [answers[path][0] | fields, *answers[path][1:]]}


def test_environments_are_a_row_with_rates(api: FakeApi) -> None:
    later = with_rows(api.answers, "/v1/environment-sums", packets_out=105, bytes_in=1600, drops=22)
    shown = page_document(seen(api.answers, 0.0), seen(later, 2.0), Trends())
    (group,) = shown["groups"]
    assert (group["environments"], group["states"]) == (4000, {"busy": 1000, "idle": 3000})
    assert group["packets_out_per_second"] == 50.0
    assert group["bits_in_per_second"] == 4000.0
    assert group["drops_per_second"] == 10.0


def test_ports_of_addresses_and_errors(api: FakeApi) -> None:
    before = with_rows(api.answers, "/v1/interfaces", ports=[1000], port_allocation_errors=1)
    later = with_rows(api.answers, "/v1/interfaces", ports=[2000], port_allocation_errors=5)
    trends = Trends()
    page_document(seen(before, 0.0), seen(before, 0.0), trends)
    shown = page_document(seen(before, 0.0), seen(later, 2.0), trends)
    row = next(each for each in shown["interfaces"] if each["interface"] == "eni-a")
    assert row["port_errors_per_second"] == 2.0
    (address,) = row["addresses"]
    assert (address["interface"], address["address"]) == ("eni-a", "10.0.1.10")
    assert (address["ports"], address["limit"], address["seconds_left"]) == (2000, 55000, 106.0)
    assert shown["remotes"][0]["ports"] == 55_000
    assert shown["remotes"][0]["seconds_left"] == 0.0


def test_interfaces_of_one_environment_each_are_one_row(api: FakeApi) -> None:
    own = [
        cli.SHARED_INTERFACE
        | {
            "name": f"lm-{number}",
            "id": f"eni-{number}",
            "kind": "per-environment",
            "environments": 1,
            "ports": [number],
            "address": f"10.0.2.{number}",
        }
        for number in range(1, 200)
    ]
    of_one = SUMS | {"function": "report", "environments": 1, "states": {"idle": 1}}
    sums = [of_one | {"interface": row["id"]} for row in own]
    answers = api.answers | {
        "/v1/interfaces": [cli.INTERFACE, *own],
        "/v1/environment-sums": [SUMS, *sums],
    }
    shown = page_document(seen(answers, 0.0), seen(answers, 1.0), Trends())
    alone, together = shown["interfaces"]
    assert (alone["interface"], alone["count"]) == ("eni-a", 0)
    assert (
        together["interface"]
        == "one each: report in customer/private-a"[: len(together["interface"])]
    )
    assert (together["count"], together["environments"]) == (199, 199)
    assert together["ports"] == sum(range(1, 200))
    assert [each["ports"] for each in together["addresses"]] == [199, 198, 197]
    (report,) = [row for row in shown["groups"] if row["function"] == "report"]
    assert (report["interface"], report["environments"]) == (together["interface"], 199)
    assert (report["states"], report["flows"]) == ({"idle": 199}, 199 * SUMS["flows"])  # type: ignore[operator]
    assert len(json.dumps(shown)) < 20_000


def test_hosts_are_rows_with_rates_in_an_order_that_stays(api: FakeApi) -> None:
    before = api.answers | {"/v1/hosts": [HOST, ATTACHED]}
    later = api.answers | {
        "/v1/hosts": [
            HOST | {"packets_out": 27, "bytes_in": 2600, "drops": 13},
            ATTACHED | {"packets_in": 5016},
        ]
    }
    shown = page_document(seen(before, 0.0), seen(later, 2.0), Trends())
    store, blue = shown["hosts"]
    assert (store["host"], store["vpc"], store["groups"]) == ("db", "customer", ["app"])
    assert (store["packets_out_per_second"], store["bits_in_per_second"]) == (5.0, 4000.0)
    assert (store["drops"], store["drops_per_second"], store["count"]) == (13, 5.0, 0)
    assert (blue["host"], blue["packets_in_per_second"]) == ("blue", 2500.0)
    assert blue["attached"] == "/run/netns/blue"


def test_many_hosts_of_a_subnet_are_one_row(api: FakeApi) -> None:
    many = [
        HOST | {"InstanceId": f"i-{number}", "HostName": f"h{number}", "packets_in": 16 + number}
        for number in range(HOSTS_APART + 1)
    ]
    before = api.answers | {"/v1/hosts": many}
    later = api.answers | {
        "/v1/hosts": [ATTACHED, *(row | {"packets_in": row["packets_in"] + 2} for row in many)]
    }
    shown = page_document(seen(before, 0.0), seen(later, 1.0), Trends())
    together, alone = shown["hosts"]
    assert (together["host"], together["count"]) == ("hosts in customer/private-a", len(many))
    assert together["packets_in_per_second"] == 2.0 * len(many)
    assert (together["flows"], together["drops"]) == (len(many), 3 * len(many))
    assert together["address"] is None
    assert (alone["host"], alone["count"]) == ("blue", 0)


def test_samples_tell_of_the_fullest_remote_and_of_hosts(api: FakeApi) -> None:
    rows = api.answers | {"/v1/interfaces": [cli.INTERFACE | {"ports": [10]}]}
    before = rows | {"/v1/hosts": [HOST, ATTACHED]}
    later = rows | {"/v1/hosts": [HOST | {"packets_out": 27}, ATTACHED | {"packets_in": 5016}]}
    shown = page_document(seen(before, 0.0), seen(later, 2.0), Trends())
    sample = dict(zip(SERIES, sample_of(shown, 2.0)["values"], strict=True))
    assert shown["interfaces"][0]["used_percent"] < 1
    assert sample["used_percent"] == 100.0
    assert sample["hosts_packets_out_per_second"] == 5.0
    assert sample["hosts_packets_in_per_second"] == 2500.0
    assert sample["packets_out_per_second"] == 0.0


def reader(api: FakeApi, clock: list[float]) -> Reader:
    looker = Looker(Answers(api.answers))  # type: ignore[arg-type]
    return Reader("default", looker, ThreadPoolExecutor(1), clock=lambda: clock[0])


def test_pages_are_sent_what_changes(api: FakeApi) -> None:
    async def work() -> None:
        found = reader(api, [100.0])
        found.heed(seen(api.answers, 0.0))
        page = found.subscribe()
        (first,) = await page.get()
        assert first["all"]["lab"] == "default"
        assert len(first["history"]["samples"]) == 1
        later = api.answers | {"/v1/events": []}
        found.heed(seen(later, 1.0))
        (change,) = await page.get()
        assert change["changed"]["events"] == []
        assert not {"groups", "functions", "remotes"} & change["changed"].keys()
        assert change["sample"]["time"] == 100.0

    asyncio.run(work())


def test_who_is_behind_is_sent_everything(api: FakeApi) -> None:
    async def work() -> None:
        found = reader(api, [100.0])
        page = found.subscribe()
        for number in range(BEHIND_MAX + 5):
            found.heed(seen(api.answers, float(number)))
        messages = await page.get()
        assert len(messages) <= BEHIND_MAX
        assert len(messages[0]["history"]["samples"]) >= BEHIND_MAX

    asyncio.run(work())


def test_a_lab_that_is_away_says_since_when_and_comes_back(api: FakeApi) -> None:
    async def work() -> None:
        clock = [100.0]
        found = reader(api, clock)
        found.heed(seen(api.answers, 0.0))
        page = found.subscribe()
        await page.get()
        for clock[0] in (101.0, 102.0):
            found.heed_absence("gone")
        first, *more = await page.get()
        assert first["changed"] == {"away_since": 101.0, "why": "gone"}
        assert more == []
        clock[0] = 103.0
        found.heed(seen(api.answers, 3.0))
        (back,) = await page.get()
        assert (back["changed"]["away_since"], back["changed"]["why"]) == (None, "")
        assert not found.forgotten
        found.heed_absence("gone for good")
        clock[0] += 901.0
        assert found.forgotten

    asyncio.run(work())


def test_it_is_asked_the_same_however_many_pages_there_are(root: Path, lab: FakeApi) -> None:
    async def work(pages: int) -> int:
        looker = Looker(Client("default", runtime_directory=root))
        found = Reader("default", looker, ThreadPoolExecutor(1), interval=0.01)
        opened = [found.subscribe() for _ in range(pages)]
        lab.requests.clear()
        task = asyncio.create_task(found.run())
        try:
            async with asyncio.timeout(60):
                for page in opened:
                    messages: list[Any] = []
                    while not any(each.get("sample") for each in messages):
                        messages = await page.get()
        finally:
            task.cancel()
        return lab.requests.count("GET /v1/functions")

    assert asyncio.run(work(5)) <= 2
