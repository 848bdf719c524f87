# SPDX-License-Identifier: Apache-2.0
"""The control API: HTTP with JSON on a unix socket, what the command line uses and nothing else.

Errors are ``{"error": code, "message": one line}`` with a 4xx or 5xx status. Handlers only wait;
what reads the state map or turns thousands of rows into text does so in a thread. A list of flows
is sent while it is read, as fast as the client takes it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from hyperplane_nat.controller.errors import ControllerError, ForwarderError
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.controller.views import FlowFilter, FlowReader
from hyperplane_nat.model.environment import environment_number

PROTOCOLS = ("tcp", "udp", "icmp")

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class LabService(Protocol):
    """What the API needs of the controller."""

    async def status(self) -> Mapping[str, Any]:
        """GET /v1/status."""

    async def environments(self) -> bytes:
        """GET /v1/environments, encoded."""

    async def interfaces(self) -> bytes:
        """GET /v1/interfaces, encoded."""

    async def verify(self) -> Mapping[str, Any]:
        """GET /v1/verify; ForwarderError."""

    def config(self) -> Mapping[str, Any]:
        """GET /v1/config."""

    def open_flows(self, wanted: FlowFilter) -> FlowReader:
        """A reader of the flow table; called in a thread."""

    def has_environment(self, number: int) -> bool:
        """Whether there is an environment with that number."""

    async def shut_down(self) -> None:
        """Remove the lab; returns when everything is gone. ControllerError if something is left."""


def application(lab: LabService) -> web.Application:
    """The control API of `lab`."""
    handlers = _Handlers(lab)
    result = web.Application(middlewares=[_errors])
    result.router.add_get("/v1/status", handlers.status)
    result.router.add_get("/v1/environments", handlers.environments)
    result.router.add_get("/v1/interfaces", handlers.interfaces)
    result.router.add_get("/v1/flows", handlers.flows, allow_head=False)
    result.router.add_get("/v1/verify", handlers.verify)
    result.router.add_get("/v1/config", handlers.config)
    result.router.add_post("/v1/shutdown", handlers.shutdown)
    return result


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": code, "message": message}, status=status)


@web.middleware
async def _errors(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _error(error.status, error.code, str(error))
    except ForwarderError as error:
        return _error(503, "forwarder_unavailable", str(error))
    except ControllerError as error:
        return _error(500, "failed", str(error))
    except web.HTTPException as error:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "bad_request")
        message = f"{request.method} {request.path}: {error.reason.lower()}"
        return _error(error.status, code, f"{message} (GET /v1/status is one that exists)")
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return _error(500, "internal", f"{type(error).__name__}: {error} (see controller.log)")


def _integer(request: web.Request, name: str, least: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    # str.isdigit accepts digits that int() does not; huge numbers cost time to convert.
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) < least:
        raise ApiError(
            400, "invalid_parameter", f"{name}: {text[:40]!r} is not a number (from {least} on)"
        )
    return int(text)


class _Handlers:
    def __init__(self, lab: LabService) -> None:
        self._lab = lab

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._lab.status())

    async def environments(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._lab.environments(), content_type="application/json")

    async def interfaces(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._lab.interfaces(), content_type="application/json")

    async def verify(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._lab.verify())

    async def config(self, _request: web.Request) -> web.Response:
        return web.json_response(self._lab.config())

    async def shutdown(self, _request: web.Request) -> web.Response:
        await self._lab.shut_down()
        return web.json_response({"state": "down"})

    async def flows(self, request: web.Request) -> web.StreamResponse:
        wanted = self._flow_filter(request)
        with await in_thread(self._lab.open_flows, wanted) as reader:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                await response.write(b"[")
                # `in_thread`: the map must not be closed while it is read.
                while (text := await in_thread(reader.read)) is not None:
                    if text:
                        await response.write(text)
                await response.write(b"]\n")
                await response.write_eof()
            except ConnectionError:
                log.debug("a client left in the middle of a list of flows")
            except Exception:
                # The status is out: only a broken connection still says that this is no answer.
                log.exception("list of flows")
                if request.transport is not None:
                    request.transport.close()
        return response

    def _flow_filter(self, request: web.Request) -> FlowFilter:
        unknown = sorted(set(request.query) - {"limit", "after", "environment", "protocol"})
        if unknown:
            raise ApiError(
                400,
                "invalid_parameter",
                f"{unknown[0][:40]!r} is no parameter (limit, after, environment, protocol are)",
            )
        protocol = request.query.get("protocol")
        if protocol is not None and protocol not in PROTOCOLS:
            raise ApiError(
                400,
                "invalid_parameter",
                f"protocol: {protocol[:40]!r} is unknown (one of {', '.join(PROTOCOLS)})",
            )
        after = _integer(request, "after", 0)
        return FlowFilter(
            after=-1 if after is None else after,
            limit=_integer(request, "limit", 1),
            environment=self._environment(request.query.get("environment")),
            protocol=protocol,
        )

    def _environment(self, name: str | None) -> int | None:
        if name is None:
            return None
        number = environment_number(name)
        if number is None:
            raise ApiError(
                400,
                "invalid_parameter",
                f"environment: {name[:40]!r} is not a name (write it like env-1)",
            )
        if not self._lab.has_environment(number):
            raise ApiError(
                404,
                "no_such_environment",
                f"there is no environment env-{number} (hyperplane-nat environments lists them)",
            )
        return number
