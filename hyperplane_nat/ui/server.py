# SPDX-License-Identifier: Apache-2.0
"""The page and its streams, over HTTP on a loopback address. It only reads.

Theory of operation
-------------------
Whoever knows the token, which is in the URL that `ui` prints, may look; other users of the host do
not know it, and pages of other sites neither: there is no cookie that a browser would add. Only a
request that was meant for a loopback name is answered (`hosts`). The page's own files hold no
secret and are given to anybody.

Nothing on the page is executed but its own files: the policy that goes with every answer names no
other source, forbids inline scripts and styles, and with `require-trusted-types-for` a browser
refuses any text that is to become markup. Names reach the page as JSON and become text nodes.

`/api/stream` is a stream of server-sent events (HTML standard, section 9.2): everything, then what
changes, at most once a second. The other questions are passed on to the lab's control API.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import json
import socket
from collections.abc import Mapping
from importlib import resources
from typing import Any

from aiohttp import web

from hyperplane_nat.client import ApiError, ClientError, NotRunningError
from hyperplane_nat.hosts import meant_for
from hyperplane_nat.ui.labs import Labs

ADDRESS = "127.0.0.1"

STREAMS_MAX = 64

ROWS_MAX = 200
"""Flows or environments in an answer."""

SILENCE_SECONDS = 15.0
"""Without anything to tell a stream says that it is there."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "environments": ("function", "interface", "after", "limit"),
    "flows": (
        *("environment", "function", "interface", "remote", "protocol", "state"),
        *("min_age", "max_age", "sort", "reverse", "after", "limit"),
    ),
    "tcp-states": (),
}
"""What a page may ask of a lab's control API, and the parameters that are passed on."""

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}
_INDEX = "index.html"


def page_files() -> dict[str, tuple[bytes, str]]:
    """The page's files by name, each with its type."""
    return {
        file.name: (file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
        for file in resources.files("hyperplane_nat.ui").joinpath("page").iterdir()
    }


def listen(port: int) -> socket.socket:
    """A socket on the loopback address; OSError when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def application(labs: Labs, token: str) -> web.Application:
    """The page of these labs, for who knows the token."""
    handlers = _Handlers(labs, token)
    result = web.Application(middlewares=[_refusing, _known_host], client_max_size=1024)
    result.on_response_prepare.append(_secure)
    result.router.add_get("/", handlers.index)
    result.router.add_get("/page/{file}", handlers.file)
    result.router.add_get("/api/labs", handlers.labs)
    result.router.add_get("/api/stream", handlers.stream, allow_head=False)
    result.router.add_get("/api/{question}", handlers.ask)
    return result


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _refusal(status: int, error: str, message: str) -> web.Response:
    return web.json_response({"error": error, "message": message}, status=status)


@web.middleware
async def _refusing(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        own = error.reason != http.HTTPStatus(error.status).phrase
        message = error.reason if own else f"{request.path}: {error.reason}"
        return _refusal(error.status, "refused", message)
    except ApiError as error:
        return _refusal(error.status, error.code, str(error))
    except NotRunningError:
        return _refusal(503, "no_answer", "the controller of the lab does not run")
    except ClientError as error:
        return _refusal(503, "no_answer", str(error))
    return answer


@web.middleware
async def _known_host(request: web.Request, handler: Any) -> web.StreamResponse:
    if not meant_for(request.headers.get("Host", "")):
        return _refusal(421, "misdirected_request", f"ask for http://{ADDRESS}")
    answer: web.StreamResponse = await handler(request)
    return answer


class _Handlers:
    def __init__(self, labs: Labs, token: str) -> None:
        self._labs = labs
        self._token = token.encode()
        self._files = page_files()
        self._streams = 0

    def _check(self, request: web.Request) -> None:
        # Surrogates are what aiohttp makes of bytes that are no UTF-8.
        given = request.query.get("token", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, self._token):
            raise web.HTTPForbidden(reason="use the whole URL that hyperplane-nat ui has printed")

    async def index(self, request: web.Request) -> web.Response:
        self._check(request)
        return self._answer(_INDEX)

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in self._files or name == _INDEX:
            raise web.HTTPNotFound
        return self._answer(name)

    def _answer(self, name: str) -> web.Response:
        body, content_type = self._files[name]
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    async def labs(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response(self._labs.listed())

    async def ask(self, request: web.Request) -> web.Response:
        self._check(request)
        question = request.match_info["question"]
        if question not in QUESTIONS:
            raise web.HTTPNotFound
        query: dict[str, object] = {
            name: value for name in QUESTIONS[question] if (value := request.query.get(name))
        }
        if "limit" in QUESTIONS[question]:
            given = str(query.get("limit", ROWS_MAX))
            if not (given.isascii() and given.isdigit() and 0 < int(given[:9]) <= ROWS_MAX):
                raise web.HTTPBadRequest(reason=f"limit: 1 to {ROWS_MAX}")
            query["limit"] = given
        lab = self._lab(request)
        return web.json_response(await self._labs.ask(lab, f"/v1/{question}", query))

    def _lab(self, request: web.Request) -> str:
        name = request.query.get("lab", "")
        if self._labs.reader(name) is None:
            raise web.HTTPNotFound(reason="there is no such lab")
        return name

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        reader = self._labs.reader(self._lab(request))
        assert reader is not None
        if self._streams >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable(reason=f"{STREAMS_MAX} pages are open (close one)")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        page = reader.subscribe()
        self._streams += 1
        try:
            await response.prepare(request)
            await response.write(_event({"labs": self._labs.listed()}))
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        messages = await page.get()
                except TimeoutError:
                    await response.write(b":\n\n")
                    continue
                if not messages:
                    break
                await response.write(b"".join(map(_event, messages)))
        except ConnectionError:
            pass
        finally:
            self._streams -= 1
            reader.unsubscribe(page)
        return response


def _event(message: object) -> bytes:
    # JSON in one line: a line break within would end the field.
    return b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"


async def serve(listener: socket.socket, labs: Labs, token: str) -> None:
    """Serve until cancelled."""
    runner = web.AppRunner(application(labs, token), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await labs.run()
    finally:
        await runner.cleanup()
