# SPDX-License-Identifier: Apache-2.0
"""The API that invokes functions: Lambda's `Invoke`, as its SDKs send it.

`POST /2015-03-31/functions/NAME/invocations`, with the headers that the Lambda API documents for
Invoke. A loopback port can be reached by every user of the host, and a web page in a browser of one
can send to it, so a request must name the lab's access key, as the credentials of an SDK do; the
signature is not looked at, for nothing but this host lies between. The unix socket that the command
line uses asks for no key: its directory is the lab's.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from hyperplane_nat.runtime.errors import LambdaError
from hyperplane_nat.runtime.handlers import Handlers, request_id
from hyperplane_nat.runtime.invocation import (
    EVENT_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Outcome,
    trace_id,
)

PATH = "/2015-03-31/functions/{function}/invocations"

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([A-Za-z0-9]+)/")
_NAME = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:[a-z0-9-]+:)?(?:[0-9]{12}:)?(?:function:)?"
    r"([A-Za-z0-9_-]{1,64})(?::(\$LATEST|[A-Za-z0-9_-]+))?"
)
_TYPES = ("RequestResponse", "Event", "DryRun")
_LOGS = ("None", "Tail")

_ID = web.RequestKey("id", str)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(handlers: Handlers, key: str | None) -> web.Application:
    """The API; with a `key` whoever asks must have it as access key."""

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
        except web.HTTPNotFound:
            unknown = LambdaError(
                "ResourceNotFoundException", f"{request.path}: only Invoke is here"
            )
            return _refusal(unknown, identifier)

    result = web.Application(middlewares=[refusing], client_max_size=PAYLOAD_BYTES_MAX)
    api = _Api(handlers)
    result.router.add_post(PATH, api.invoke)
    return result


def _check_key(request: web.Request, key: str) -> None:
    given = _CREDENTIAL.match(request.headers.get("Authorization", ""))
    if given is None or not hmac.compare_digest(given[1].encode(), key.encode()):
        raise LambdaError(
            "UnrecognizedClientException",
            "The security token included in the request is invalid. "
            "(use the lab's: hyperplane-nat credentials)",
        )


def _refusal(error: LambdaError, identifier: str) -> web.Response:
    kind = "User" if error.status < 500 else "Service"
    body = {"Type": kind, "Message": error.message, "message": error.message}
    if error.code == "TooManyRequestsException":
        body["Reason"] = error.reason or "ConcurrentInvocationLimitExceeded"
    return web.json_response(
        body,
        status=error.status,
        headers={"x-amzn-ErrorType": error.code, "x-amzn-RequestId": identifier},
    )


class _Api:
    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def invoke(self, request: web.Request) -> web.Response:
        """Invoke."""
        kind = _choice(request, "X-Amz-Invocation-Type", _TYPES)
        logs = _choice(request, "X-Amz-Log-Type", _LOGS)
        function = _function(request)
        if kind == "DryRun":
            await self._handlers.check(function)
            return self._answer(request, 204, b"")
        payload = await _payload(request, kind)
        identifier = request[_ID]
        asked = {
            "request_id": identifier,
            "payload": payload,
            "trace": request.headers.get("X-Amzn-Trace-Id") or trace_id(),
            "client_context": _client_context(request),
        }
        if kind == "Event":
            await self._handlers.send(function, asked)
            return self._answer(request, 202, b"")
        outcome = await self._handlers.invoke(function, asked)
        return self._answer(request, 200, outcome.payload, _told(outcome, logs))

    def _answer(
        self, request: web.Request, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> web.Response:
        known = {"x-amzn-RequestId": request[_ID], "X-Amz-Executed-Version": "$LATEST"}
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
    }
    if outcome.error is not None:
        headers["X-Amz-Function-Error"] = outcome.error
    if logs == "Tail":
        headers["X-Amz-Log-Result"] = base64.b64encode(outcome.tail).decode()
    return headers


def _choice(request: web.Request, header: str, choices: tuple[str, ...]) -> str:
    value = request.headers.get(header, choices[0])
    if value not in choices:
        raise LambdaError(
            "InvalidParameterValueException",
            f"Value '{value[:100]}' at '{header}' failed to satisfy constraint: Member must "
            f"satisfy enum value set: [{', '.join(choices)}]",
        )
    return value


def _function(request: web.Request) -> str:
    named = unquote(request.match_info["function"])
    match = _NAME.fullmatch(named)
    if match is None:
        raise LambdaError(
            "InvalidParameterValueException", f"{named[:200]!r} is not the name of a function"
        )
    qualifier = request.query.get("Qualifier") or match[2] or "$LATEST"
    if qualifier != "$LATEST":
        raise LambdaError(
            "ResourceNotFoundException",
            f"Function not found: {match[1]}:{qualifier[:128]} (there is $LATEST alone)",
        )
    return match[1]


async def _payload(request: web.Request, kind: str) -> bytes:
    limit = EVENT_BYTES_MAX if kind == "Event" else PAYLOAD_BYTES_MAX
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        body = None
    if body is None or len(body) > limit:
        raise LambdaError(
            "RequestTooLargeException",
            f"Request must be smaller than {limit} bytes for the InvokeFunction operation",
        )
    if not body.strip():
        return b"{}"
    try:
        json.loads(body)
    except ValueError as error:
        raise LambdaError(
            "InvalidRequestContentException", f"Could not parse request body into json: {error}"
        ) from None
    return body


def _client_context(request: web.Request) -> str | None:
    given = request.headers.get("X-Amz-Client-Context")
    if given is None:
        return None
    try:
        context: Any = json.loads(base64.b64decode(given, validate=True))
    except (ValueError, binascii.Error):
        raise LambdaError(
            "InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON."
        ) from None
    return json.dumps(context)
