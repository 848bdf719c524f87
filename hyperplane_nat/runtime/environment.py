# SPDX-License-Identifier: Apache-2.0
"""An execution environment at work: its runtime, the Runtime API, one invocation after the other.

Theory of operation
-------------------
A runtime is started with the first invocation and asks for the next one (`GET …/invocation/next`)
when it has initialized; that request waits until there is one, for ever if need be. The environment
serves one invocation at a time, which whoever places invocations sees to. Whatever ends the runtime
(time, a crash, its own exit) ends the environment too: the outcome says `gone`, and nobody invokes
it again.

Between invocations the processes stand still ("Lambda execution environment": frozen once the
runtime has asked for the next invocation). They go on before that is handed out.

The Runtime API is HTTP on 127.0.0.1:9001 inside the environment's network namespace ("Using the
Lambda runtime API for custom runtimes"). A runtime that has ended may have left a request that
still waits; it belongs to its `_Runtime` and can take nothing from the one after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from hyperplane_nat.runtime import invocation as outcomes
from hyperplane_nat.runtime.invocation import ANSWER_BYTES_MAX, UNHANDLED, Invocation, Outcome
from hyperplane_nat.runtime.logs import PIPE_BYTES, TURN_BYTES, FunctionLog, Output, drain
from hyperplane_nat.runtime.sandbox import EntrypointError, Started
from hyperplane_nat.runtime.settings import Settings
from netns.errors import NetnsError

INIT_SECONDS = 10.0
"""How long an initialization may take before it is begun anew ("Lambda execution environment")."""

REST_SECONDS = 0.01
"""How long nothing is to be done before an environment stands still: one that is invoked again and
again is not frozen and thawed each time."""

_API = "/2018-06-01/runtime/"
_SHUTDOWN_SECONDS = 0.5

CONNECTIONS_MAX = 64
"""To the Runtime API of an environment. A runtime has one, some one for each request; each is an
open file of this process, which serves others too."""

_ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"

log = logging.getLogger(__name__)


class Box(Protocol):
    """Where runtimes are started; see `sandbox.Sandbox`. All of it blocks."""

    def start(self, name: str, number: int, settings: Settings, *, listen: bool) -> Started:
        """Start a runtime of environment `number`, in network namespace `name`; with `listen` the
        socket of the Runtime API is made before that.
        """

    def kill(self, started: Started) -> None:
        """Kill it with whatever it has started."""


class _Runtime:
    """A runtime's life, as far as the Runtime API sees it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: Started
        """From when it runs; in an environment that had one before, it may have asked for an
        invocation by then.
        """
        self.ready: asyncio.Future[None] = loop.create_future()
        """It has asked for an invocation."""
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status."""
        self.is_over = False
        """It has ended, and its status may not be known yet."""
        self.ending: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[bytes] = loop.create_future()
        """What it has told of an initialization that has failed."""
        self.asks = asyncio.Event()
        """It waits for an invocation."""
        self.next: asyncio.Queue[Invocation | None] = asyncio.Queue()
        """None: it has ended, and what it has asked need not wait any longer."""
        self.answer: asyncio.Future[Outcome] | None = None
        self.request_id = ""


class Environment:
    """One environment. `close` it in the end, also when it is gone."""

    def __init__(
        self,
        number: int,
        namespace: str,
        settings: Settings,
        box: Box,
        function_log: FunctionLog,
        *,
        on_gone: Callable[[int], None],
        on_still: Callable[[int], None] = lambda _number: None,
        init_seconds: float = INIT_SECONDS,
    ) -> None:
        """`on_gone` is told the number when the runtime ends while nobody waits for it, `on_still`
        when it stands still.
        """
        self.number = number
        self.settings = settings
        self.busy = False
        self.still = False
        """It is frozen."""
        self._on_still = on_still
        self._resting: asyncio.Task[None] | None = None
        self._namespace = namespace
        self._box = box
        self._output = Output(function_log, f"env-{number}")
        self._on_gone = on_gone
        self._init_seconds = init_seconds
        self._runtime: _Runtime | None = None
        self._server: asyncio.Server | None = None
        self._http = web.Server(self._serve)
        self._closed = False

    # --- invocations ---

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Have an invocation done; everything that may go wrong is an outcome."""
        self.busy = True
        self._output.begin()
        try:
            self._thaw()
            outcome = await self._invoke(invocation)
        except (NetnsError, OSError) as error:
            log.error("environment %d: %s", self.number, error)
            outcome = outcomes.failed("Runtime.Unknown", f"{error}")
        finally:
            self.busy = False
        if self._runtime is not None and self._runtime.is_over:
            # It has answered and ended before anybody took note of either.
            outcome.gone = True
        outcome.tail = self._output.tail
        outcome.environment = f"env-{self.number}"
        outcome.version = self.settings.identity.version
        if outcome.gone:
            await self.close()
        else:
            self._rest_soon()
        return outcome

    async def initialize(self) -> str | None:
        """Initialize before anybody invokes it; why it is gone again when that has failed."""
        self.busy = True
        self._output.begin()
        try:
            _, outcome = await self._initialize(Invocation(str(uuid.uuid4()), b"", ""))
        except (NetnsError, OSError) as error:
            log.error("environment %d: %s", self.number, error)
            outcome = outcomes.failed("Runtime.Unknown", f"{error}")
        finally:
            self.busy = False
        if outcome is None:
            self._rest_soon()
            return None
        await self.close()
        told = json.loads(outcome.payload)
        return f"{told['errorType']}: {told['errorMessage']}"

    def _rest_soon(self) -> None:
        if self._runtime is not None and self._runtime.started.freezes and self.settings.freeze:
            self._resting = asyncio.create_task(self._rest(self._runtime), name="rest")

    async def _rest(self, runtime: _Runtime) -> None:
        """Stand still when nothing has been left to be done for a moment."""
        await runtime.asks.wait()
        await asyncio.sleep(REST_SECONDS)
        try:
            runtime.started.freeze()
        except NetnsError as error:
            log.error("environment %d does not stand still: %s", self.number, error)
            return
        self.still = True
        self._on_still(self.number)

    def _thaw(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self.still and self._runtime is not None:
            self._runtime.started.thaw()
        self.still = False

    async def _invoke(self, invocation: Invocation) -> Outcome:
        outcome: Outcome | None = None
        init_seconds = None
        if self._runtime is None:
            init_seconds, outcome = await self._initialize(invocation)
        request_id, version = invocation.request_id, self.settings.identity.version
        self._output.line(f"START RequestId: {request_id} Version: {version}")
        if outcome is None:
            assert self._runtime is not None
            outcome = await self._run(self._runtime, invocation)
        outcome.init_seconds = init_seconds
        self._read_output(PIPE_BYTES)
        if outcome.gone:
            self._output.line(str(json.loads(outcome.payload).get("errorMessage", "")))
        self._output.line(f"END RequestId: {request_id}")
        status = None
        if outcome.gone:
            is_late = b"Sandbox.Timedout" in outcome.payload
            status = "timeout" if is_late else "error"
        used = self._memory_used_mb()
        memory = self.settings.identity.memory_mb
        self._output.line(outcomes.report_line(request_id, outcome, memory, used, status))
        return outcome

    async def _initialize(self, invocation: Invocation) -> tuple[float | None, Outcome | None]:
        """How long it took in seconds, and the outcome of an invocation that it has failed."""
        self._output.line(f"INIT_START Runtime Version: {self.settings.runtime}")
        begin = asyncio.get_running_loop().time()
        # Too slow once, it is begun anew, and then has the time of an invocation (Lambda: a
        # suppressed init).
        for limit in (self._init_seconds, self.settings.timeout_seconds):
            try:
                runtime = await self._start()
            except EntrypointError as error:
                text = f"RequestId: {invocation.request_id} Error: {error}"
                self._report_init(begin, "error\tError Type: Runtime.InvalidEntrypoint")
                return None, outcomes.failed("Runtime.InvalidEntrypoint", text)
            waiting: set[asyncio.Future[Any]] = {runtime.ready, runtime.failed, runtime.ended}
            await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if runtime.ready.done():
                return asyncio.get_running_loop().time() - begin, None
            if runtime.failed.done() or runtime.ended.done():
                self._read_output(PIPE_BYTES)
                if runtime.failed.done():
                    outcome = Outcome(runtime.failed.result(), UNHANDLED, gone=True)
                else:
                    outcome = _exited(runtime, invocation)
                kind = json.loads(outcome.payload)["errorType"]
                self._report_init(begin, f"error\tError Type: {kind}")
                return None, outcome
            self._report_init(begin, "timeout")
            await self._kill()
        outcome = outcomes.timed_out(invocation.request_id, self.settings.timeout_seconds)
        outcome.duration_seconds = self.settings.timeout_seconds
        return None, outcome

    def _report_init(self, begin: float, status: str) -> None:
        milliseconds = (asyncio.get_running_loop().time() - begin) * 1000
        self._output.line(
            f"INIT_REPORT Init Duration: {milliseconds:.2f} ms\tPhase: init\tStatus: {status}"
        )

    async def _run(self, runtime: _Runtime, invocation: Invocation) -> Outcome:
        loop = asyncio.get_running_loop()
        runtime.request_id = invocation.request_id
        runtime.answer = loop.create_future()
        begin = loop.time()
        runtime.next.put_nowait(invocation)
        waiting: set[asyncio.Future[Any]] = {runtime.answer, runtime.ended}
        limit = self.settings.timeout_seconds
        await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        duration = loop.time() - begin
        if runtime.answer.done():
            outcome = runtime.answer.result()
        elif runtime.ended.done():
            outcome = _exited(runtime, invocation)
        else:
            outcome = outcomes.timed_out(invocation.request_id, limit)
            await self._kill()
        outcome.duration_seconds = duration
        runtime.answer, runtime.request_id = None, ""
        return outcome

    # --- the runtime's process ---

    async def _start(self) -> _Runtime:
        self._runtime = runtime = _Runtime()
        loop = asyncio.get_running_loop()
        try:
            started = await asyncio.to_thread(
                self._box.start,
                self._namespace,
                self.number,
                self.settings,
                listen=self._server is None,
            )
        except BaseException:
            self._runtime = None
            raise
        runtime.started = started
        if started.listener is not None:
            # What it has asked by now waits to be accepted.
            self._server = await loop.create_server(
                lambda: _Connection(self._http, loop), sock=started.listener
            )
        loop.add_reader(started.output, self._read_output)
        watched = started.watched()
        loop.add_reader(watched, self._note_end, runtime, watched)
        return runtime

    def _read_output(self, count: int = TURN_BYTES) -> None:
        if self._runtime is None or self._runtime.started.output < 0:
            return
        started = self._runtime.started
        if not drain(started.output, self._output, count):
            self._close_output(started)

    def _close_output(self, started: Started) -> None:
        if started.output >= 0:
            asyncio.get_running_loop().remove_reader(started.output)
            os.close(started.output)
            started.output = -1

    def _note_end(self, runtime: _Runtime, watched: int) -> None:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        runtime.is_over = True
        runtime.ending = asyncio.create_task(self._learn_end(runtime), name="end")

    async def _learn_end(self, runtime: _Runtime) -> None:
        try:
            runtime.ended.set_result(await asyncio.to_thread(runtime.started.process.wait))
        except NetnsError as error:
            runtime.ended.set_exception(error)
        if not self.busy and not self._closed:
            self._on_gone(self.number)

    async def _kill(self) -> None:
        """End the runtime and whatever it has started."""
        runtime, self._runtime = self._runtime, None
        if runtime is None:
            return
        runtime.next.put_nowait(None)
        try:
            await asyncio.to_thread(self._box.kill, runtime.started)
            # Whoever closes an environment may end the event loop next.
            await runtime.ended
        finally:
            with contextlib.suppress(OSError):
                if runtime.started.output >= 0:
                    drain(runtime.started.output, self._output, PIPE_BYTES)
            self._output.flush()
            self._close_output(runtime.started)

    def _memory_used_mb(self) -> int:
        """The most that the runtime's own process has had, in MB; 0 when it is gone."""
        if self._runtime is None:
            return 0
        try:
            path = Path(f"/proc/{self._runtime.started.runs}/status")
            text = path.read_text(encoding="utf-8")
        except OSError:
            return 0
        _, found, rest = text.partition("VmHWM:")
        return -(-int(rest.split()[0]) // 1024) if found else 0

    async def close(self) -> None:
        """End the runtime, and leave the namespace."""
        self._closed = True
        if self._resting is not None:
            self._resting.cancel()
        try:
            await self._kill()
        except NetnsError as error:
            log.error("environment %d: %s", self.number, error)
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._http.shutdown(timeout=_SHUTDOWN_SECONDS)

    # --- the Runtime API ---

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        runtime = self._runtime
        if runtime is None or not request.path.startswith(_API):
            return _refused(404, "InvalidRequest", "there is nothing here")
        words = request.path.removeprefix(_API).split("/")
        match request.method, words:
            case "GET", ["invocation", "next"]:
                return await self._next(runtime)
            case "POST", ["init", "error"]:
                return await self._fail(runtime, request)
            case "POST", ["invocation", request_id, ("response" | "error") as what]:
                return await self._answer(runtime, request, request_id, what)
        return _refused(404, "InvalidRequest", "there is nothing here")

    async def _next(self, runtime: _Runtime) -> web.Response:
        if not runtime.ready.done():
            runtime.ready.set_result(None)
        runtime.asks.set()
        invocation = await runtime.next.get()
        runtime.asks.clear()
        if invocation is None:
            runtime.next.put_nowait(None)
            return _refused(410, "Gone", "the runtime has ended")
        deadline = time.time() + self.settings.timeout_seconds
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
            "Lambda-Runtime-Trace-Id": invocation.trace,
        }
        if invocation.client_context is not None:
            headers["Lambda-Runtime-Client-Context"] = invocation.client_context
        return web.Response(
            body=invocation.payload, headers=headers, content_type="application/json"
        )

    async def _fail(self, runtime: _Runtime, request: web.BaseRequest) -> web.Response:
        error = _error_of(await _body(request) or b"", request)
        if runtime.ready.done() or runtime.failed.done():
            return _refused(403, "InvalidStateTransition", "the runtime has initialized")
        runtime.failed.set_result(error)
        return _accepted()

    async def _answer(
        self, runtime: _Runtime, request: web.BaseRequest, request_id: str, what: str
    ) -> web.Response:
        body = await _body(request)
        answer = runtime.answer
        if answer is None or answer.done() or request_id != runtime.request_id:
            return _refused(400, "InvalidRequestID", "Invalid request ID")
        if body is None:
            answer.set_result(outcomes.too_large())
            return _refused(413, "Function.ResponseSizeTooLarge", "the payload is too large")
        if what == "error":
            answer.set_result(Outcome(_error_of(body, request), UNHANDLED))
        else:
            answer.set_result(Outcome(body))
        return _accepted()


def _exited(runtime: _Runtime, invocation: Invocation) -> Outcome:
    return outcomes.exited(
        invocation.request_id,
        runtime.ended.result(),
        out_of_memory=runtime.started.out_of_memory(),
    )


async def _body(request: web.BaseRequest) -> bytes | None:
    """The body; None when it is larger than an answer may be, and read to its end all the same."""
    body = bytearray()
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= ANSWER_BYTES_MAX:
            body += chunk
    return bytes(body) if size <= ANSWER_BYTES_MAX else None


def _error_of(body: bytes, request: web.BaseRequest) -> bytes:
    """What a runtime has told of an error, with the type that is in the header if in the body is
    none.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and "errorType" in told:
        return body
    kind = request.headers.get(_ERROR_TYPE, "Runtime.Unknown")
    text = told if isinstance(told, dict) else {"errorMessage": body.decode(errors="replace")}
    return json.dumps({"errorType": kind, **text}).encode()


class _Connection(web.RequestHandler):
    """One to the Runtime API; one too many is ended at once."""

    __slots__ = ("_all",)

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, access_log=None)  # type: ignore[arg-type]
        self._all = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._all.connections) > CONNECTIONS_MAX:
            assert isinstance(transport, asyncio.WriteTransport)
            transport.abort()


def _accepted() -> web.Response:
    return web.json_response({"status": "OK"}, status=202)


def _refused(status: int, kind: str, text: str) -> web.Response:
    return web.json_response({"errorType": kind, "errorMessage": text}, status=status)
