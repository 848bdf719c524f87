# SPDX-License-Identifier: Apache-2.0
"""The control API: HTTP with JSON on a unix socket, what the command line uses and nothing else.

What may be asked is in `requests`, what is answered in `answers`, both together in `openapi`.

Errors have the form that `refusals` gives them. Handlers only wait; what reads the state map or
turns thousands of rows into text does so in a thread. A list of flows is sent while it is read, and
a program's output while it is written, as fast as the client takes it. A client that leaves ends
its program; one that does not read makes it wait, as a pipe does, at most until its timeout, and
what is kept for it is bounded: what the pipes, the socket and one frame of each kind hold.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel

from hyperplane_nat.controller.api.command import Command, Listing
from hyperplane_nat.controller.api.commands import COMMANDS, LISTS, request_of
from hyperplane_nat.controller.api.function_commands import CodeRequest
from hyperplane_nat.controller.api.refusals import BODY_LIMITS, WHAT_THERE_IS, Handler, refusing
from hyperplane_nat.controller.api.requests import (
    BODY_BYTES_MAX,
    PROTOCOLS,
    AdvanceRequest,
    ApplyRequest,
    ColdStartQuery,
    EnvironmentQuery,
    EventQuery,
    FlowQuery,
    HoldRequest,
    InvocationRequest,
    PortsQuery,
    ProvisionRequest,
    RequestError,
    StreamedInvocationRequest,
    TraceQuery,
    body_of,
    function_name,
    query_of,
)
from hyperplane_nat.controller.cold_starts import ColdStarts
from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.listings import Describe
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.controller.trace.question import Question
from hyperplane_nat.controller.views.lab import (
    EnvironmentFilter,
    FlowFilter,
    FlowReader,
    encode_rows,
)
from hyperplane_nat.controller.views.port_usage import PortQuery
from hyperplane_nat.controller.views.states import tcp_diagram
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.identifiers import environment_name
from hyperplane_nat.output_frames import END, frame
from hyperplane_nat.runtime.uploads import REQUEST_BYTES_MAX, Archive
from netns.execution import Output

__all__ = ["PROTOCOLS", "LabService", "application"]

M = TypeVar("M", bound=BaseModel)

_OUTPUT = ("stdout", "stderr", "truncated")
"""What an answer says of the program's output."""

log = logging.getLogger(__name__)


class LabService(Protocol):
    """What the API needs of the controller."""

    events: EventLog
    """GET /v1/events."""

    cold_starts: ColdStarts
    """GET /v1/cold-starts."""

    async def status(self) -> Mapping[str, Any]:
        """GET /v1/status."""

    async def environments(self, wanted: EnvironmentFilter) -> bytes:
        """GET /v1/environments, encoded."""

    def environment_sums(self) -> list[dict[str, Any]]:
        """GET /v1/environment-sums."""

    async def interfaces(self) -> bytes:
        """GET /v1/interfaces, encoded."""

    async def hosts(self) -> bytes:
        """GET /v1/hosts, encoded."""

    async def verify(self) -> Mapping[str, Any]:
        """GET /v1/verify; ForwarderError."""

    def config(self) -> Mapping[str, Any]:
        """GET /v1/config."""

    def open_flows(self, wanted: FlowFilter) -> FlowReader:
        """A reader of the flow table; called in a thread."""

    async def ports(self, wanted: PortQuery) -> Mapping[str, Any]:
        """GET /v1/ports."""

    async def trace(self, question: Question) -> Mapping[str, Any]:
        """GET /v1/trace. Errors: ModelError, ControllerError."""

    def interface_id(self, named: str) -> str | None:
        """The id of the network interface with that id or name."""

    def has_environment(self, number: int) -> bool:
        """Whether there is an environment with that number."""

    def slots_of(self, function: str) -> frozenset[int] | None:
        """Numbers of a function's environments; None when there is no such function."""

    def keeping(self, content: bytes) -> AbstractAsyncContextManager[Archive]:
        """Keep an archive, for good if a function has it in the end; ModelError."""

    async def listing(self, describe: Describe) -> bytes:
        """A list of what the region holds, encoded."""

    async def command(
        self, work: Callable[[Commands], Resource | None], *, token: str | None, request: object
    ) -> Mapping[str, Any]:
        """
        `api.commands`: describes what `work` returns. `request` is what belongs to the token.

        Errors: ModelError, StateError, ControllerError.
        """

    async def apply(
        self,
        document: Mapping[str, Any],
        *,
        dry_run: bool,
        keep_used: bool,
        token: str | None,
    ) -> Mapping[str, Any]:
        """
        POST /v1/apply. `document` is a configuration that nobody has looked at. With `keep_used`,
        what is to be deleted and has a user stays for now.

        Errors: ConfigError, ModelError, ControllerError.
        """

    async def advance(self, seconds: float, *, token: str | None) -> Mapping[str, Any]:
        """POST /v1/advance. Errors: ModelError, StateError, ForwarderError, ControllerError."""

    async def invoke(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_seconds: float | None,
        stdin: bytes | None,
        token: str | None = None,
        output: Output | None = None,
    ) -> Mapping[str, Any]:
        """
        POST /v1/functions/{name}/invocations; `stdout` and `stderr` of the result are bytes.

        With `output` they are empty, and come there: response-streaming-invocations.

        Errors: ModelError, ProgramError, ControllerError.
        """

    async def provision(self, name: str, count: int) -> Mapping[str, Any]:
        """POST /v1/functions/{name}/provision. Errors: ModelError, ControllerError."""

    async def hold(self, number: int, pid: int) -> None:
        """POST /v1/holds. Errors: ProcessLookupError, ControllerError."""

    async def shut_down(self) -> None:
        """Remove the lab; returns when everything is gone. ControllerError if something is left."""


def application(lab: LabService) -> web.Application:
    """The control API of `lab`."""
    handlers = _Handlers(lab)
    result = web.Application(middlewares=[refusing], client_max_size=BODY_BYTES_MAX)
    result[BODY_LIMITS] = {
        (each.method.upper(), each.path): REQUEST_BYTES_MAX
        for each in COMMANDS
        if each.body is not None and issubclass(each.body, CodeRequest)
    }
    result[WHAT_THERE_IS] = "GET /v1/openapi.json lists what there is"
    result.router.add_get("/v1/status", handlers.status)
    result.router.add_get("/v1/environments", handlers.environments)
    result.router.add_get("/v1/environment-sums", handlers.environment_sums)
    result.router.add_get("/v1/interfaces", handlers.interfaces)
    result.router.add_get("/v1/hosts", handlers.hosts)
    result.router.add_get("/v1/flows", handlers.flows, allow_head=False)
    result.router.add_get("/v1/events", handlers.events)
    result.router.add_get("/v1/cold-starts", handlers.cold_starts)
    result.router.add_get("/v1/ports", handlers.ports)
    result.router.add_get("/v1/trace", handlers.trace)
    result.router.add_get("/v1/tcp-states", handlers.tcp_states)
    result.router.add_get("/v1/verify", handlers.verify)
    result.router.add_get("/v1/config", handlers.config)
    for listing in LISTS:
        result.router.add_get(listing.path, handlers.listing(listing))
    for command in COMMANDS:
        result.router.add_route(command.method, command.path, handlers.command(command))
    result.router.add_get("/v1/openapi.json", handlers.openapi)
    result.router.add_post("/v1/apply", handlers.apply)
    result.router.add_post("/v1/advance", handlers.advance)
    result.router.add_post("/v1/functions/{name}/invocations", handlers.invoke)
    result.router.add_post(
        "/v1/functions/{name}/response-streaming-invocations", handlers.invoke_streaming
    )
    result.router.add_post("/v1/functions/{name}/provision", handlers.provision)
    result.router.add_post("/v1/holds", handlers.hold)
    result.router.add_post("/v1/shutdown", handlers.shutdown)
    return result


async def _body(request: web.Request, model: type[M]) -> M:
    if request.headers.get("Content-Type") and request.content_type != "application/json":
        raise RequestError(
            415,
            "UnsupportedMediaTypeException",
            f"the body is {request.content_type} (send application/json)",
        )
    body = await request.read()
    # Decoding an archive takes a while.
    return (
        await in_thread(body_of, model, body)
        if len(body) > BODY_BYTES_MAX
        else body_of(model, body)
    )


def _document() -> bytes:
    # Making the models of all answers takes tens of milliseconds: not from every start.
    from hyperplane_nat.controller.api import openapi

    return json.dumps(openapi.document()).encode()


@contextlib.contextmanager
def _breaking_off(request: web.Request, what: str) -> Iterator[None]:
    """The status is out: only a broken connection still says that this is no answer."""
    try:
        yield
    except ConnectionError:
        log.debug("a client left in the middle of %s", what)
    except Exception:
        log.exception("%s", what)
        if request.transport is not None:
            request.transport.close()


async def _stream(
    request: web.Request, output: Output, running: asyncio.Future[Mapping[str, Any]]
) -> web.StreamResponse:
    """Output as fast as the client takes it, and how the invocation went."""
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.enable_chunked_encoding()
    with _breaking_off(request, "an invocation"):
        await response.prepare(request)
        while pieces := await output.read(running):
            for number, data in pieces:
                await response.write(frame(number, data))
            # Neither waits where program and client are fast, and others have their turn.
            await asyncio.sleep(0)
        end = {name: value for name, value in (await running).items() if name not in _OUTPUT}
        await response.write(frame(END, json.dumps(end).encode()))
        await response.write_eof()
    return response


class _Handlers:
    def __init__(self, lab: LabService) -> None:
        self._lab = lab
        self._document: bytes | None = None

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._lab.status())

    async def environments(self, request: web.Request) -> web.Response:
        asked = query_of(EnvironmentQuery, request.query)
        self._slots_of(asked.function)
        interface = self._interface_of(asked.interface)
        wanted = EnvironmentFilter(asked.after or 0, asked.limit, asked.function, interface)
        body = await self._lab.environments(wanted)
        return web.Response(body=body, content_type="application/json")

    async def environment_sums(self, _request: web.Request) -> web.Response:
        return await self._rows(self._lab.environment_sums())

    async def interfaces(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._lab.interfaces(), content_type="application/json")

    async def hosts(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._lab.hosts(), content_type="application/json")

    async def ports(self, request: web.Request) -> web.Response:
        asked = query_of(PortsQuery, request.query)
        address, port = asked.remote or (None, None)
        wanted = PortQuery(asked.top, self._interface_of(asked.interface), address, port)
        return web.json_response(await self._lab.ports(wanted))

    async def trace(self, request: web.Request) -> web.Response:
        asked = query_of(TraceQuery, request.query)
        question = Question(asked.source, asked.target, asked.port, asked.chosen)
        return web.json_response(await self._lab.trace(question))

    async def verify(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._lab.verify())

    async def config(self, _request: web.Request) -> web.Response:
        return web.json_response(self._lab.config())

    def listing(self, listing: Listing) -> Handler:
        """The handler of a list."""

        async def handle(_request: web.Request) -> web.Response:
            body = await self._lab.listing(listing.describe)
            return web.Response(body=body, content_type="application/json")

        return handle

    def command(self, command: Command[Any]) -> Handler:
        """The handler of a command."""

        async def handle(request: web.Request) -> web.Response:
            name = request.match_info.get("name", "")
            if name and command.path.startswith("/v1/functions/"):
                function_name(name)
            asked = None if command.body is None else await _body(request, command.body)
            async with contextlib.AsyncExitStack() as stack:
                if isinstance(asked, CodeRequest) and asked.zip_file is not None:
                    kept = self._lab.keeping(asked.zip_file)
                    asked.kept(await stack.enter_async_context(kept))
                result = await self._lab.command(
                    lambda commands: command.work(commands, name, asked),
                    token=None if asked is None else asked.client_token,
                    request=request_of(command, name, asked),
                )
            return web.json_response(result)

        return handle

    async def events(self, request: web.Request) -> web.Response:
        asked = query_of(EventQuery, request.query)
        return await self._rows(self._lab.events.rows(asked.after or 0, asked.limit))

    async def cold_starts(self, request: web.Request) -> web.Response:
        asked = query_of(ColdStartQuery, request.query)
        return await self._rows(self._lab.cold_starts.rows(asked.after or 0, asked.limit))

    async def tcp_states(self, _request: web.Request) -> web.Response:
        return web.json_response(tcp_diagram())

    async def openapi(self, _request: web.Request) -> web.Response:
        if self._document is None:
            self._document = await in_thread(_document)
        return web.Response(body=self._document, content_type="application/json")

    async def apply(self, request: web.Request) -> web.Response:
        asked = await _body(request, ApplyRequest)
        result = await self._lab.apply(
            asked.config,
            dry_run=asked.dry_run,
            keep_used=asked.keep_used,
            token=asked.client_token,
        )
        return web.json_response(result)

    async def advance(self, request: web.Request) -> web.Response:
        asked = await _body(request, AdvanceRequest)
        return web.json_response(await self._lab.advance(asked.seconds, token=asked.client_token))

    async def invoke(self, request: web.Request) -> web.Response:
        name = function_name(request.match_info["name"])
        asked = await _body(request, InvocationRequest)
        result = await self._lab.invoke(
            name,
            asked.command,
            timeout_seconds=asked.timeout_seconds,
            stdin=asked.stdin,
            token=asked.client_token,
        )
        output = {
            stream: base64.b64encode(result[stream]).decode() for stream in ("stdout", "stderr")
        }
        return web.json_response({**result, **output})

    async def invoke_streaming(self, request: web.Request) -> web.StreamResponse:
        name = function_name(request.match_info["name"])
        asked = await _body(request, StreamedInvocationRequest)
        with Output() as output:
            running = asyncio.ensure_future(
                self._lab.invoke(
                    name,
                    asked.command,
                    timeout_seconds=asked.timeout_seconds,
                    stdin=asked.stdin,
                    output=output,
                )
            )
            either: tuple[asyncio.Future[Any], ...] = (running, output.started)
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    # What was refused still has a status of its own.
                    running.result()
                return await _stream(request, output, running)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def provision(self, request: web.Request) -> web.Response:
        name = function_name(request.match_info["name"])
        asked = await _body(request, ProvisionRequest)
        return web.json_response(await self._lab.provision(name, asked.count))

    async def hold(self, request: web.Request) -> web.Response:
        asked = await _body(request, HoldRequest)
        self._require_environment(asked.environment)
        try:
            await self._lab.hold(asked.environment, asked.pid)
        except ProcessLookupError:
            raise RequestError(
                404, "no_such_process", f"there is no process {asked.pid} (name one that runs)"
            ) from None
        return web.json_response({"environment": environment_name(asked.environment)})

    async def shutdown(self, _request: web.Request) -> web.Response:
        await self._lab.shut_down()
        return web.json_response({"state": "down"})

    async def flows(self, request: web.Request) -> web.StreamResponse:
        wanted = self._flow_filter(request)
        with await in_thread(self._lab.open_flows, wanted) as reader:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            with _breaking_off(request, "a list of flows"):
                await response.write(b"[")
                # `in_thread`: the map must not be closed while it is read.
                while (text := await in_thread(reader.read)) is not None:
                    if text:
                        await response.write(text)
                await response.write(b"]\n")
                await response.write_eof()
        return response

    async def _rows(self, rows: list[dict[str, Any]]) -> web.Response:
        body = await in_thread(encode_rows, rows)
        return web.Response(body=body, content_type="application/json")

    def _interface_of(self, named: str | None) -> str | None:
        if named is None:
            return None
        found = self._lab.interface_id(named)
        if found is None:
            raise RequestError(
                404,
                "no_such_interface",
                f"there is no network interface {named} (hyperplane-nat interfaces lists them)",
            )
        return found

    def _slots_of(self, function: str | None) -> frozenset[int] | None:
        if function is None:
            return None
        slots = self._lab.slots_of(function)
        if slots is None:
            raise RequestError(
                404,
                "ResourceNotFoundException",
                f"there is no function {function} (hyperplane-nat functions lists them)",
            )
        return slots

    def _require_environment(self, number: int) -> None:
        if not self._lab.has_environment(number):
            raise RequestError(
                404,
                "no_such_environment",
                f"there is no environment {environment_name(number)} "
                "(hyperplane-nat environments lists them)",
            )

    def _flow_filter(self, request: web.Request) -> FlowFilter:
        asked = query_of(FlowQuery, request.query)
        number = asked.environment
        if number is not None:
            self._require_environment(number)
        address, port = asked.remote or (None, None)
        return FlowFilter(
            after=-1 if asked.after is None else asked.after,
            limit=asked.limit,
            environment=number,
            protocol=asked.protocol,
            slots=self._slots_of(asked.function),
            interface=self._interface_of(asked.interface),
            state=asked.state,
            address=address,
            port=port,
            min_age_seconds=asked.min_age or 0,
            max_age_seconds=asked.max_age,
            sort=asked.sort,
            reverse=asked.reverse,
        )
