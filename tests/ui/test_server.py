# SPDX-License-Identifier: Apache-2.0
"""Who is answered, with which headers; and that names are never more than data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.ui import reader
from hyperplane_nat.ui.labs import Labs
from hyperplane_nat.ui.server import HEADERS, POLICY, ROWS_MAX, listen, page_files, serve
from tests.cli.conftest import INTERFACE
from tests.cli.fake_api import FakeApi, Refusal, serving
from tests.controller.support import DEADLINE_SECONDS, eventually

TOKEN = "t0ken"
BUNDLED = "uPlot."
HOSTILE = "</script><script>alert(1)</script>\n\ndata: x\u2028<img src=x onerror=alert(1)>"

Work = Callable[[aiohttp.ClientSession], Awaitable[None]]


def talk(root: Path, work: Work, *, labs: int = 1) -> None:
    """Let `work` ask a server that knows so many labs."""

    async def body() -> None:
        listener = listen(0)
        known = Labs(root, interval=0.02)
        task = asyncio.create_task(serve(listener, known, TOKEN))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with (
                asyncio.timeout(2 * DEADLINE_SECONDS),
                aiohttp.ClientSession(address) as client,
            ):
                await eventually(lambda: len(known.listed()) >= labs, "the labs")
                await work(client)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(body())


async def messages(client: aiohttp.ClientSession, lab: str = "default") -> AsyncIterator[Any]:
    """What a stream tells."""
    query = {"token": TOKEN, "lab": lab}
    async with client.get("/api/stream", params=query) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


PATHS = ["/", "/page/main.js", "/api/labs", "/api/stream", "/api/flows", "/api/nothing", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "", "T0KEN", TOKEN + "x", "\udcff"])
def test_without_the_token_there_are_only_the_scripts(
    root: Path, path: str, token: str | None
) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        given = "" if token is None else "?token=%FF" if token == "\udcff" else f"?token={token}"
        async with client.get(path + given) as response:
            expected = {"/page/main.js": 200, "/nothing": 404}.get(path, 403)
            assert response.status == expected
            assert {name: response.headers[name] for name in HEADERS} == HEADERS
            assert "Set-Cookie" not in response.headers

    talk(root, work, labs=0)


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "10.0.0.1", ""])
def test_who_means_another_host_is_refused(root: Path, host: str) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        for path in ("/page/main.js", f"/?token={TOKEN}"):
            async with client.get(path, headers={"Host": host}) as response:
                assert response.status == 421
                assert response.headers["Content-Security-Policy"] == POLICY

    talk(root, work, labs=0)


def test_nothing_can_be_changed(root: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for path in ("/", "/api/labs", "/api/flows"):
                url = f"{path}?token={TOKEN}&lab=default"
                async with client.request(method, url) as response:
                    assert response.status == 405

    talk(root, work, labs=0)


def test_the_policy_lets_only_the_pages_own_files_be_executed() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in POLICY
    assert rules["require-trusted-types-for"] == "'script'"


def test_the_page_needs_no_network_and_makes_no_markup_of_text() -> None:
    files = page_files()
    assert {"index.html", "main.js", "style.css"} <= files.keys()
    for name, (body, _) in files.items():
        text = body.decode()
        assert (
            BUNDLED in name
            or name.endswith(".svg")
            or "SPDX-License-Identifier: Apache-2.0" in text
        )
        if BUNDLED in name:
            # Its name and licence are at the top; `test_bundled` tells where it is from.
            text = re.sub(r"^/\*!.*?\*/", "", text)
        if name.endswith(".txt"):
            continue
        elsewhere = set(re.findall(r"https?://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
        assert not elsewhere, name
        found = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert not found, name
    index = files["index.html"][0].decode()
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", index)


def test_a_stream_begins_with_everything_and_goes_on(root: Path, lab: FakeApi) -> None:
    lab.answers["/v1/interfaces"] = [INTERFACE | {"name": HOSTILE, "vpc": HOSTILE}]
    lab.answers["/v1/functions"] = []

    async def work(client: aiohttp.ClientSession) -> None:
        kinds: list[str] = []
        shown: dict[str, Any] = {}
        async for message in messages(client):
            kinds += message
            shown |= message.get("all", {}) | message.get("changed", {})
            if "sample" in message and "interfaces" in shown:
                break
        assert kinds[0] == "labs"
        assert kinds[1:3] == ["all", "history"]
        (interface,) = shown["interfaces"]
        assert interface["interface"] == interface["vpc"] == HOSTILE
        assert shown["groups"][0]["environments"] == 4000
        # Aggregates: neither flows nor environments are asked for.
        asked = {request.partition("?")[0] for request in lab.requests}
        assert not asked & {"GET /v1/flows", "GET /v1/environments"}

    talk(root, work)


def test_a_lab_that_goes_and_comes_back(root: Path, api: FakeApi) -> None:
    path = root / "default" / "control.sock"

    async def work(client: aiohttp.ClientSession) -> None:
        story: list[bool] = []
        shown: dict[str, Any] = {}
        async for message in messages(client):
            shown |= message.get("all", {}) | message.get("changed", {})
            away = shown.get("away_since") is not None
            if "state" not in shown or story[-1:] == [away]:
                continue
            if away and "broke off its answer" in shown["why"]:
                # A look was under way when the controller ended; the next one finds nobody.
                continue
            story.append(away)
            if story == [False]:
                stack.close()
            elif story == [False, True]:
                assert "controller does not run" in shown["why"]
                # What was last seen stays, to be looked at.
                assert shown["groups"]
                stack.enter_context(serving(path, api))
            else:
                break
        assert story == [False, True, False]

    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(path, api))
        talk(root, work)


def test_the_streams_of_a_lab_that_is_forgotten_end(
    root: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a page would wait on for what nobody tells, also when the lab runs again."""
    monkeypatch.setattr(reader, "HISTORY_SECONDS", 0.1)

    async def work(client: aiohttp.ClientSession) -> None:
        last: dict[str, Any] = {}
        async for message in messages(client):
            last |= message.get("all", {}) | message.get("changed", {})
            if "state" in last:
                stack.close()
        assert last["away_since"] is not None
        query = {"token": TOKEN, "lab": "default"}
        async with client.get("/api/stream", params=query) as response:
            assert response.status == 404
            assert (await response.json())["message"] == "there is no such lab"

    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(root / "default" / "control.sock", api))
        talk(root, work)


def test_questions_are_passed_on_and_bounded(root: Path, lab: FakeApi) -> None:
    async def ask(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
        async with client.get(f"/api/{path}&token={TOKEN}") as response:
            return response.status, await response.json()

    async def work(client: aiohttp.ClientSession) -> None:
        status, rows = await ask(client, "flows?lab=default&protocol=tcp&evil=1&limit=50")
        assert (status, rows[0]["environment"]) == (200, "env-1")
        assert "GET /v1/flows?protocol=tcp&limit=50" in lab.requests
        await ask(client, "environments?lab=default&function=checkout")
        assert f"GET /v1/environments?function=checkout&limit={ROWS_MAX}" in lab.requests
        for limit in ("0", "201", "-1", "x", "9" * 5000):
            assert (await ask(client, f"flows?lab=default&limit={limit}"))[0] == 400
        assert (await ask(client, "shutdown?lab=default"))[0] == 404
        assert (await ask(client, "flows?lab=../default"))[0] == 404
        lab.answers["/v1/flows"] = Refusal(404, "no_such_environment", "there is none")
        status, answer = await ask(client, "flows?lab=default&environment=env-9")
        assert (status, answer["message"]) == (404, "there is none")

    talk(root, work)


def test_labs_are_found_as_they_come(root: Path, lab: FakeApi, api: FakeApi) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        with serving(root / "other" / "control.sock", api):
            async for message in messages(client):
                if [each["lab"] for each in message.get("labs", [])] == ["default", "other"]:
                    break

    talk(root, work)
