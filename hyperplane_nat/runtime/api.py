# SPDX-License-Identifier: Apache-2.0
"""The API that invokes functions: Lambda's `Invoke`, as its SDKs send it.

`POST /2015-03-31/functions/NAME/invocations`, with the headers that the Lambda API documents for
Invoke. A loopback port can be reached by every user of the host, and a web page in a browser of one
can send to it, so a request must name the lab's access key, as the credentials of an SDK do; the
signature is not looked at, for nothing but this host lies between. The unix socket that the command
line uses asks for no key: its directory is the lab's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from hyperplane_nat.connections import Connections
from hyperplane_nat.open_files import file_limit
from hyperplane_nat.runtime.errors import LambdaError
from hyperplane_nat.runtime.handlers import Handlers, request_id
from hyperplane_nat.runtime.invocation import (
    EVENT_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Outcome,
    Target,
    trace_id,
)

PATH = "/2015-03-31/functions/{function}/invocations"

CONNECTIONS_MAX = 4096
"""Of a listener. Each invocation has one for as long as it runs."""

IDLE_SECONDS = 600.0
"""How long a connection is kept that asks for nothing: SDKs have pools of them."""

BACKLOG = 4096
"""Connections that may wait to be accepted, as many as Linux lets by itself (net.core.somaxconn).
One more at the unix socket is refused with EAGAIN, which asyncio's clients take for a connection.
"""

BODY_SECONDS = 20.0
"""How long a body may take to come."""

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([A-Za-z0-9]+)/")
_NAME = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>[0-9]{12}):)?(?:function:)?"
    r"(?P<name>[A-Za-z0-9_-]{1,64})(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]+))?"
)
_QUALIFIER = re.compile(r"\$LATEST|[A-Za-z0-9_-]{1,128}")
_NAME_AS_TOLD = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
    r"(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?"
)
_QUALIFIER_AS_TOLD = "(|[a-zA-Z0-9$_-]+)"
"""The Lambda API reference's, Invoke, which the errors name."""
_TYPES = ("RequestResponse", "Event", "DryRun")
_LOGS = ("None", "Tail")

_ID = web.RequestKey("id", str)

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(
    handlers: Handlers,
    key: str | None,
    listener: socket.socket,
    connections_max: int = CONNECTIONS_MAX,
) -> AsyncIterator[None]:
    """
    Serve the API on a socket that is bound; with a `key` whoever asks must have it as access key.

    A connection is being served from when the whole request is there.
    """
    connections = Connections(min(connections_max, file_limit() // 4), refuse, IDLE_SECONDS)
    runner = web.AppRunner(_application(handlers, key, connections), shutdown_timeout=0.2)
    await runner.setup()
    try:
        assert runner.server is not None
        connections.serve_with(runner.server)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(connections, sock=listener)
        # What asyncio listens with is also how many it accepts before others have their turn.
        listener.listen(BACKLOG)
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _application(handlers: Handlers, key: str | None, connections: Connections) -> web.Application:
    @web.middleware
    async def refusing(request: web.Request, handler: Handler) -> web.StreamResponse:
        identifier = request_id()
        request[_ID] = identifier
        try:
            if key is not None:
                _check_key(request, key)
            return await handler(request)
        except LambdaError as error:
            return _refusal(error, identifier)
        except (web.RequestPayloadError, ConnectionError) as error:
            cut = LambdaError("InvalidRequestContentException", f"the body is cut short: {error}")
            return _refusal(cut, identifier)
        except web.HTTPNotFound:
            unknown = LambdaError(
                "ResourceNotFoundException", f"{request.path}: only Invoke is here"
            )
            return _refusal(unknown, identifier)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("request %s", identifier)
            failed = LambdaError("ServiceException", "see service-Lambda.runtime.log")
            return _refusal(failed, identifier)

    result = web.Application(middlewares=[refusing], client_max_size=PAYLOAD_BYTES_MAX)
    api = _Api(handlers, connections)
    result.router.add_post(PATH, api.invoke)
    return result


def refuse(status: int, _code: str, text: str) -> web.Response:
    """The answer to what does not come as far as Invoke."""
    code = {400: "InvalidRequestContentException", 503: "ServiceUnavailableException"}
    return _refusal(LambdaError(code.get(status, "ServiceException"), text), request_id(), status)


def _check_key(request: web.Request, key: str) -> None:
    given = _CREDENTIAL.match(request.headers.get("Authorization", ""))
    if given is None or not hmac.compare_digest(given[1].encode(), key.encode()):
        raise LambdaError(
            "UnrecognizedClientException",
            "The security token included in the request is invalid. "
            "(use the lab's: hyperplane-nat credentials)",
        )


def _refusal(error: LambdaError, identifier: str, status: int | None = None) -> web.Response:
    status = status or error.status
    kind = "User" if status < 500 else "Service"
    body = {"Type": kind, "Message": error.message, "message": error.message}
    if error.code == "TooManyRequestsException":
        body["Reason"] = error.reason or "ConcurrentInvocationLimitExceeded"
    return web.json_response(
        body,
        status=status,
        headers={"x-amzn-ErrorType": error.code, "x-amzn-RequestId": identifier},
    )


class _Api:
    def __init__(self, handlers: Handlers, connections: Connections) -> None:
        self._handlers = handlers
        self._connections = connections

    async def invoke(self, request: web.Request) -> web.Response:
        """Invoke."""
        kind = _choice(request, "X-Amz-Invocation-Type", _TYPES)
        logs = _choice(request, "X-Amz-Log-Type", _LOGS)
        target = _target(request, self._handlers.region)
        payload = await _payload(request, kind)
        with self._connections.serving(request.protocol):
            return await self._invoke(request, target, kind, logs, payload)

    async def _invoke(
        self, request: web.Request, target: Target, kind: str, logs: str, payload: bytes
    ) -> web.Response:
        if kind == "DryRun":
            await self._handlers.check(target)
            return self._answer(request, 204, b"")
        asked = {
            "request_id": request[_ID],
            "payload": payload,
            "trace": _trace(request),
            "client_context": _client_context(request),
        }
        if kind == "Event":
            await self._handlers.send(target, asked)
            return self._answer(request, 202, b"")
        outcome = await self._handlers.invoke(target, asked)
        return self._answer(request, 200, outcome.payload, _told(outcome, logs))

    def _answer(
        self, request: web.Request, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> web.Response:
        known = {"x-amzn-RequestId": request[_ID]}
        return web.Response(
            body=body or None,
            status=status,
            headers=known | (headers or {}),
            content_type="application/json",
        )


def _told(outcome: Outcome, logs: str) -> dict[str, str]:
    headers = {
        "X-Hyperplane-Environment": outcome.environment,
        "X-Hyperplane-Start": "cold" if outcome.cold else "warm",
        "X-Amz-Executed-Version": outcome.version,
    }
    if outcome.error is not None:
        headers["X-Amz-Function-Error"] = outcome.error
    if logs == "Tail":
        headers["X-Amz-Log-Result"] = base64.b64encode(outcome.tail).decode()
    return headers


def _choice(request: web.Request, header: str, choices: tuple[str, ...]) -> str:
    value = request.headers.get(header, choices[0])
    if value not in choices:
        member = f"{header[6].lower()}{header[7:].replace('-', '')}"
        raise _invalid(value, member, f"enum value set: [{', '.join(choices)}]")
    return value


def _invalid(value: str, member: str, must_satisfy: str) -> LambdaError:
    """What AWS's front door says of a parameter that it does not let in."""
    return LambdaError(
        "ValidationException",
        f"1 validation error detected: Value '{value[:200]}' at '{member}' failed to satisfy "
        f"constraint: Member must satisfy {must_satisfy}",
    )


def _target(request: web.Request, region: str) -> Target:
    """What is invoked, by a name, a partial ARN or an ARN."""
    named = unquote(request.match_info["function"])
    match = _NAME.fullmatch(named)
    if match is None:
        raise _invalid(named, "functionName", f"regular expression pattern: {_NAME_AS_TOLD}")
    if match["region"] not in (None, region):
        raise LambdaError(
            "ResourceNotFoundException",
            f"Functions from '{match['region']}' are not reachable in this region ('{region}')",
        )
    qualifier = request.query.get("Qualifier") or match["qualifier"]
    if qualifier and match["qualifier"] not in (None, qualifier):
        raise LambdaError(
            "InvalidParameterValueException",
            "The derived qualifier from the function name does not match the specified qualifier.",
        )
    if qualifier and _QUALIFIER.fullmatch(qualifier) is None:
        raise _invalid(qualifier, "qualifier", f"regular expression pattern: {_QUALIFIER_AS_TOLD}")
    name = f"{match['name']}:{qualifier}" if qualifier else match["name"]
    return Target(name, match["account"])


async def _payload(request: web.Request, kind: str) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.HTTPRequestEntityTooLarge:
        raise LambdaError(
            "RequestEntityTooLargeException",
            f"Request must be smaller than {PAYLOAD_BYTES_MAX} bytes for the InvokeFunction "
            "operation",
        ) from None
    if kind == "Event" and len(body) > EVENT_BYTES_MAX:
        raise LambdaError(
            "RequestEntityTooLargeException",
            f"{len(body)} byte payload is too large for the Event invocation type "
            f"(limit {EVENT_BYTES_MAX} bytes)",
        )
    if not body.strip():
        return b"{}"
    try:
        json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise LambdaError(
            "InvalidRequestContentException", f"Could not parse request body into json: {error}"
        ) from None
    return body


def _no_constant(name: str) -> None:
    """What Python takes for JSON and nobody else."""
    raise ValueError(f"Non-standard token '{name}'")


def _trace(request: web.Request) -> str:
    given = request.headers.get("X-Amzn-Trace-Id", "")
    # It becomes a header again.
    return given if given and given.isascii() and given.isprintable() else trace_id()


def _client_context(request: web.Request) -> str | None:
    given = request.headers.get("X-Amz-Client-Context")
    if given is None:
        return None
    try:
        context: Any = json.loads(base64.b64decode(given, validate=True))
    except (ValueError, RecursionError, binascii.Error):
        raise LambdaError(
            "InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON."
        ) from None
    return json.dumps(context)
