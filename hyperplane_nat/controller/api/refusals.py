# SPDX-License-Identifier: Apache-2.0
"""How the controller's HTTP servers say no: `{"error": code, "message": one line}`.

The code is AWS's where it has one. What went wrong in the controller itself is told in its log, and
to the client only what it was.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from hyperplane_nat.controller.api.requests import RequestError, one_line
from hyperplane_nat.controller.errors import ControllerError, ForwarderError
from hyperplane_nat.errors import ConfigError, Problem
from hyperplane_nat.model.errors import ModelError, StateError
from netns.errors import NetnsError
from netns.execution import ProgramError

MODEL_STATUSES: Mapping[str, int] = {
    "ENILimitReachedException": 502,
    "ResourceNotFoundException": 404,
    "ResourceConflictException": 409,
    "ResourceNotReadyException": 502,
    "SubnetIPAddressLimitReachedException": 502,
    "TooManyRequestsException": 429,
}
"""HTTP statuses of the model's errors (Lambda API, "Invoke"); 400 for all others."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


def refusal(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
) -> web.Response:
    """The answer that says no; of a configuration with everything that is wrong in it."""
    document: dict[str, Any] = {"error": code, "message": one_line(message)}
    if problems:
        document["problems"] = [problem.document() for problem in problems]
    return web.json_response(document, status=status, headers=headers)


@web.middleware
async def refusing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever a handler raises becomes an answer."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _of_http(request, error)
    except Exception as error:
        status, code, message = _of(error)
        if code == "internal":
            log.exception("%s %s", request.method, request.path)
        problems = error.problems if isinstance(error, ConfigError) else ()
        answer = refusal(status, code, message, problems=problems)
        if status == 408:
            # RFC 9110, section 15.5.9: the rest of the request is not waited for.
            answer.force_close()
        return answer


def _of(error: Exception) -> tuple[int, str, str]:
    """Status, code and message of what a handler raised."""
    match error:
        case RequestError():
            return error.status, error.code, str(error)
        case ModelError():
            status = MODEL_STATUSES.get(error.code, 400)
            return status, error.code, error.text
        case ConfigError():
            return 400, "InvalidParameterValueException", error.line
        case ProgramError():
            missing = error.code in (errno.ENOENT, errno.ENOTDIR)
            return 422, "ProgramNotFound" if missing else "ProgramNotExecutable", str(error)
        case ForwarderError():
            return 503, "forwarder_unavailable", str(error)
        case ControllerError() | StateError() | NetnsError():
            return 500, "failed", str(error)
        case _:
            return 500, "internal", f"{type(error).__name__}: {error} (see controller.log)"


def _of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    """What the server itself refuses, in the form of all other errors."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(
            error.status,
            "RequestTooLargeException",
            f"the body has more than {request.client_max_size} bytes (send less)",
        )
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "bad_request")
    message = f"{request.method} {request.path}: {error.reason.lower()}"
    remedy = request.app.get(WHAT_THERE_IS)
    # RFC 9110, section 15.5.6: who answers 405 must say what is allowed.
    headers = {name: value for name, value in error.headers.items() if name == "Allow"}
    return refusal(error.status, code, f"{message} ({remedy})" if remedy else message, headers)


BODY_LIMITS: web.AppKey[Mapping[tuple[str, str], int]] = web.AppKey("body limits", Mapping)
"""Of an application: bytes of bodies by method and path, where more may be sent than elsewhere."""

WHAT_THERE_IS: web.AppKey[str] = web.AppKey("what there is", str)
"""Of an application: where a client finds what it serves, for who asks for something else."""
