# SPDX-License-Identifier: Apache-2.0
"""The control API: answers, refusals and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.controller.errors import ControllerError, ForwarderError
from hyperplane_nat.controller.views.lab import FlowFilter, FlowReader
from hyperplane_nat.controller.views.port_usage import PortQuery
from hyperplane_nat.engine.flows.tcp_states import STEPS
from hyperplane_nat.engine.state.constants import Effect
from hyperplane_nat.model.errors import StateError
from netns.errors import NetnsError
from tests.controller.region_lab import RegionLab, document_of, talk
from tests.controller.support import eventually


def test_answers(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        answers: dict[str, Any] = {}
        for path in ("status", "environments", "interfaces", "verify", "config"):
            async with client.get(f"/v1/{path}") as response:
                assert response.status == 200
                assert response.content_type == "application/json"
                answers[path] = await response.json()
        assert answers["status"]["lab"] == "test"
        assert answers["environments"][0]["name"] == "env-1"
        assert answers["interfaces"][0]["name"] == "eni-a"
        assert answers["verify"] == {"problems": [], "entries": 3}
        assert answers["config"] == document_of()

    talk(directory, RegionLab(), work)


def test_the_states_of_tcp_are_those_of_the_table(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        async with client.get("/v1/tcp-states") as response:
            diagram = await response.json()
        assert diagram["states"][0] == {"state": "SYN_SENT", "timer": "tcp_opening"}
        arrows = {
            (arrow["before"], arrow["after"], arrow["segment"]) for arrow in diagram["arrows"]
        }
        assert arrows == {
            (state.name, step.state.name, segment.name)
            for (_, state, segment), step in STEPS.items()
            if step.state is not state and step.effect is not Effect.RESTART
        }
        names = {each["state"] for each in diagram["states"]}
        assert names == {name for before, after, _ in arrows for name in (before, after)}

    talk(directory, RegionLab(), work)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("GET", "/v2/status", 404, "not_found", "/v2/status"),
        ("GET", "/v1/shutdown", 405, "method_not_allowed", "GET /v1/shutdown"),
        ("POST", "/v1/flows", 405, "method_not_allowed", "POST /v1/flows"),
        ("GET", "/v1/flows?limit=0", 400, "invalid_parameter", "limit: 0"),
        ("GET", "/v1/flows?limit=-1", 400, "invalid_parameter", "limit: '-1'"),
        ("GET", "/v1/flows?limit=x", 400, "invalid_parameter", "limit: 'x'"),
        ("GET", "/v1/flows?limit=", 400, "invalid_parameter", "limit: ''"),
        ("GET", "/v1/flows?after=" + "9" * 5000, 400, "invalid_parameter", "after: '999"),
        ("GET", "/v1/flows?protocol=sctp", 400, "invalid_parameter", "protocol: 'sctp'"),
        ("GET", "/v1/flows?environment=x", 400, "invalid_parameter", "like env-1"),
        ("GET", "/v1/flows?environment=env-99", 404, "no_such_environment", "env-99"),
        ("GET", "/v1/flows?interface=eni-x", 404, "no_such_interface", "eni-x"),
        ("GET", "/v1/flows?function=none", 404, "ResourceNotFoundException", "no function none"),
        ("GET", "/v1/environments?limit=0", 400, "invalid_parameter", "limit: 0"),
        ("GET", "/v1/environments?interface=eni-x", 404, "no_such_interface", "eni-x"),
        ("GET", "/v1/environments?function=none", 404, "ResourceNotFoundException", "none"),
        ("GET", "/v1/flows?state=OPEN", 400, "invalid_parameter", "state: 'OPEN'"),
        ("GET", "/v1/flows?sort=colour", 400, "invalid_parameter", "sort: 'colour'"),
        ("GET", "/v1/flows?reverse=yes", 400, "invalid_parameter", "true nor false"),
        ("GET", "/v1/flows?remote=1.2.3.4:", 400, "invalid_parameter", "remote: '1.2.3.4:'"),
        ("GET", "/v1/ports?top=0", 400, "invalid_parameter", "top: 0"),
        ("GET", "/v1/ports?top=1001", 400, "invalid_parameter", "top: 1001"),
        ("GET", "/v1/ports?remote=10.0.1", 400, "invalid_parameter", "like 10.0.1.80:443"),
        ("GET", "/v1/ports?remote=10.0.1.80:65536", 400, "invalid_parameter", "remote: "),
        ("GET", "/v1/ports?interface=eni-x", 404, "no_such_interface", "eni-x"),
        ("GET", "/v1/%0anews", 404, "not_found", "/v1/ news"),
        ("GET", "/v1/flows?limt=3", 400, "invalid_parameter", "'limt' is no parameter"),
    ],
)
def test_errors(
    directory: Path, method: str, path: str, status: int, code: str, words: str
) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        async with client.request(method, path) as response:
            document = await response.json()
            assert (response.status, document["error"]) == (status, code)
            assert words in document["message"]
            assert "\n" not in document["message"]

    talk(directory, RegionLab(), work)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ForwarderError("the forwarder is being restarted"), 503, "forwarder_unavailable"),
        (ControllerError("something is left"), 500, "failed"),
        (StateError("the disk is full", "free some"), 500, "failed"),
        (NetnsError("no such namespace", "create it first"), 500, "failed"),
        (RuntimeError("a bug"), 500, "internal"),
    ],
)
def test_failures(directory: Path, failure: Exception, status: int, code: str) -> None:
    lab = RegionLab()
    lab.fail = failure

    async def work(client: aiohttp.ClientSession) -> None:
        async with client.get("/v1/status") as response:
            assert (response.status, (await response.json())["error"]) == (status, code)
        async with client.post("/v1/shutdown") as response:
            assert (response.status, (await response.json())["error"]) == (status, code)

    talk(directory, lab, work)


def test_method_that_is_not_allowed_says_which_are(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        async with client.delete("/v1/environments") as response:
            assert response.status == 405
            assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}

    talk(directory, RegionLab(), work)


def test_ports(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        async with client.get("/v1/ports") as response:
            assert (await response.json())["remotes"][0]["remote_port"] == 80
        query = {"top": "3", "interface": "eni-a", "remote": "10.0.1.81:7"}
        async with client.get("/v1/ports", params=query) as response:
            assert response.status == 200
        async with client.get("/v1/ports", params={"remote": "10.0.1.81"}) as response:
            assert response.status == 200

    talk(directory, lab, work)
    assert lab.wanted_ports == [
        PortQuery(),
        PortQuery(3, "eni-a", "10.0.1.81", 7),
        PortQuery(address="10.0.1.81"),
    ]


def test_flows(directory: Path) -> None:
    lab = RegionLab()
    lab.flows = 20_000

    async def work(client: aiohttp.ClientSession) -> None:
        async with client.get("/v1/flows") as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert [flow["entry"] for flow in await response.json()] == list(range(20_000))
        query = {"limit": "5", "after": "9", "environment": "env-3", "protocol": "udp"}
        async with client.get("/v1/flows", params=query) as response:
            assert [flow["entry"] for flow in await response.json()] == [16, 37, 58, 79, 100]
        assert lab.wanted[1] == FlowFilter(9, 5, 3, "udp")
        query = {"remote": "10.0.1.80:80", "interface": "eni-a", "state": "UDP", "min_age": "3"}
        query |= {"max_age": "3", "sort": "environment", "reverse": "true", "limit": "2"}
        async with client.get("/v1/flows", params=query) as response:
            assert [flow["entry"] for flow in await response.json()] == [28, 70]
        async with client.get("/v1/flows", params={"function": "orders"}) as response:
            assert await response.json() == []

    talk(directory, lab, work)
    assert all(each.closed for each in lab.readers)


def test_no_flows(directory: Path) -> None:
    lab = RegionLab()
    lab.flows = 0

    async def work(client: aiohttp.ClientSession) -> None:
        async with client.get("/v1/flows") as response:
            assert await response.json() == []

    talk(directory, lab, work)


@pytest.mark.races
def test_client_that_leaves_ends_the_walk(directory: Path) -> None:
    lab = RegionLab()
    lab.flows = 1 << 18

    async def work(client: aiohttp.ClientSession) -> None:
        response = await client.get("/v1/flows")
        await response.content.read(1000)
        response.close()
        await eventually(lambda: lab.readers[0].closed, "the walk's end")
        assert lab.readers[0].position < lab.flows // 2
        async with client.get("/v1/status") as answer:
            assert answer.status == 200

    talk(directory, lab, work)


@pytest.mark.races
def test_failure_in_the_middle_is_not_taken_for_an_end(directory: Path) -> None:
    lab = RegionLab()
    lab.flows = 50_000

    async def work(client: aiohttp.ClientSession) -> None:
        read = FlowReader.read

        def broken(self: FlowReader) -> bytes | None:
            if self.position > 20_000:
                raise RuntimeError("the map is gone")
            return read(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FlowReader, "read", broken)
            with pytest.raises(aiohttp.ClientPayloadError):
                async with client.get("/v1/flows") as response:
                    await response.read()

    talk(directory, lab, work)
    assert lab.readers[0].closed
