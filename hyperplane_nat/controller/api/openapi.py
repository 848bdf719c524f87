# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the control API (OpenAPI Specification 3.1.0), GET /v1/openapi.json.

Theory of operation
-------------------
`OPERATIONS` lists every path with the models of `requests`, `answers` and `descriptions`, and the
errors it can answer; pydantic turns the models into schemas. A test holds the list against the
routes that are served, and requests made from the document against the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

import hyperplane_nat
from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.values import FUNCTION_NAME
from hyperplane_nat.controller.api import answers, descriptions, requests
from hyperplane_nat.controller.api.commands import COMMANDS, LISTS
from hyperplane_nat.runtime.uploads import REQUEST_BYTES_MAX

_REF = "#/components/schemas/"

_BODY = (400, 408, 413, 415)
_STATUSES = {
    400: "The request is wrong, or what it asks for cannot be: the code says which.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "ResourceConflictException: it is not in a state to do so.",
    413: f"RequestTooLargeException: the body has more than {requests.BODY_BYTES_MAX} bytes; "
    f"RequestEntityTooLargeException: one with code has more than {REQUEST_BYTES_MAX}.",
    415: "UnsupportedMediaTypeException: the body is not application/json.",
    422: "ProgramNotFound or ProgramNotExecutable: the program cannot be run.",
    429: "TooManyRequestsException: no environment is free.",
    500: "The controller failed.",
    502: "ResourceNotReadyException: the function's network interfaces are being made again.",
    503: "The forwarder does not answer; it is being restarted.",
}
_EVERYWHERE = (500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None
    """None: a JSON object without a description of its own."""
    rows: bool = False
    """Whether it answers an array of `answer`."""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    framed: bool = False
    """Whether `answer` is the last frame of a stream; see `hyperplane_nat.output_frames`."""
    errors: tuple[int, ...] = field(default=())
    """Statuses of its errors, besides those that every operation has."""

    @property
    def name(self) -> str:
        """Its `operationId`."""
        words = self.path.replace("{name}", "").removeprefix("/v1").replace(".", "-").split("/")
        return "-".join([self.method, *filter(None, words)])


OPERATIONS = (
    Operation("get", "/v1/status", "The lab in a few figures", answers.Status),
    Operation(
        "get",
        "/v1/environments",
        "Environments with their traffic",
        answers.EnvironmentRow,
        True,
        query=requests.EnvironmentQuery,
        errors=(400, 404),
    ),
    Operation(
        "get",
        "/v1/environment-sums",
        "Environments in sums, by function and interface",
        answers.EnvironmentSums,
        True,
    ),
    Operation("get", "/v1/interfaces", "Network interfaces", answers.InterfaceRow, True),
    Operation("get", "/v1/hosts", "Hosts of VPCs with their traffic", descriptions.HostRow, True),
    Operation(
        "get",
        "/v1/flows",
        "Flows as they are translated",
        answers.FlowRow,
        True,
        query=requests.FlowQuery,
        errors=(400, 404),
    ),
    Operation(
        "get",
        "/v1/ports",
        "Source ports: towards what, and whose",
        answers.PortUsage,
        query=requests.PortsQuery,
        errors=(400, 404),
    ),
    Operation(
        "get",
        "/v1/trace",
        "What a packet from somebody to somebody would meet, and whether it arrives",
        answers.Trace,
        query=requests.TraceQuery,
        errors=(400, 404),
    ),
    Operation(
        "get",
        "/v1/events",
        "What happened lately, told once and counted",
        answers.EventRow,
        True,
        query=requests.EventQuery,
        errors=(400,),
    ),
    Operation(
        "get",
        "/v1/cold-starts",
        "The latest cold starts",
        answers.ColdStartRow,
        True,
        query=requests.ColdStartQuery,
        errors=(400,),
    ),
    Operation("get", "/v1/tcp-states", "The states of a TCP flow", answers.TcpDiagram),
    Operation(
        "get", "/v1/verify", "Walk the flow table and prove that it is sound", answers.Verification
    ),
    Operation("get", "/v1/config", "The configuration in effect", Config),
    *(Operation("get", each.path, each.summary, each.answer, True) for each in LISTS),
    *(
        Operation(
            each.method,
            each.path,
            each.summary,
            each.answer,
            body=each.body,
            errors=(400, 404, 409) if each.body is None else (*_BODY, 404, 409),
        )
        for each in COMMANDS
    ),
    Operation("get", "/v1/openapi.json", "This document", None),
    Operation(
        "post",
        "/v1/apply",
        "Make the lab what a configuration says",
        answers.Applied,
        body=requests.ApplyRequest,
        errors=(*_BODY, 409),
    ),
    Operation(
        "post",
        "/v1/advance",
        "Have time pass at once: what ends in it has ended with the answer",
        answers.Advanced,
        body=requests.AdvanceRequest,
        errors=_BODY,
    ),
    Operation(
        "post",
        "/v1/functions/{name}/invocations",
        "Run a program in an environment of a function",
        answers.Invocation,
        body=requests.InvocationRequest,
        errors=(*_BODY, 404, 409, 422, 429, 502),
    ),
    Operation(
        "post",
        "/v1/functions/{name}/response-streaming-invocations",
        "The same, with output as it comes; who leaves ends the program",
        answers.InvocationEnd,
        body=requests.StreamedInvocationRequest,
        framed=True,
        errors=(*_BODY, 404, 409, 422, 429, 502),
    ),
    Operation(
        "post",
        "/v1/functions/{name}/provision",
        "Start environments ahead",
        answers.Provisioned,
        body=requests.ProvisionRequest,
        errors=(*_BODY, 404, 409, 429, 502),
    ),
    Operation(
        "post",
        "/v1/holds",
        "Let an environment go on for as long as a process lives",
        answers.Held,
        body=requests.HoldRequest,
        errors=(*_BODY, 404),
    ),
    Operation("post", "/v1/shutdown", "Remove the lab and all that it made", answers.Down),
)


class _Schemas(GenerateJsonSchema):
    """Schemas without a title for every field: it would be its name once more."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def document() -> dict[str, Any]:
    """The document, ready for JSON."""
    models = {model: None for operation in OPERATIONS for model in _models(operation)}
    _, definitions = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=f"{_REF}{{model}}",
        schema_generator=_Schemas,
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hyperplane-nat control API",
            "version": hyperplane_nat.__version__,
            "summary": "One lab, over HTTP on its unix socket.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The socket control.sock of the lab"}],
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _models(operation: Operation) -> Iterator[type[BaseModel]]:
    yield answers.Error
    for model in (operation.answer, operation.body):
        if model is not None:
            yield model


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": _framed(operation)
            if operation.framed
            else _response("Done.", _answer(operation)),
            **{
                str(status): _response(_STATUSES[status], _reference(answers.Error))
                for status in sorted({*operation.errors, *_EVERYWHERE})
            },
        },
    }
    if parameters := [*_path_parameters(operation), *_query_parameters(operation)]:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    return described


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.answer is None:
        return {"type": "object"}
    schema = _reference(operation.answer)
    return {"type": "array", "items": schema} if operation.rows else schema


def _framed(operation: Operation) -> dict[str, Any]:
    assert operation.answer is not None
    description = (
        "The program runs. Frames: a byte, the number of bytes that follow as an unsigned integer "
        "of 32 bits in network order, and these. After 1 it is standard output, after 2 standard "
        "error; after 0 it is the last one, a JSON object: "
        f"{_REF}{operation.answer.__name__}. Without that the answer was broken off."
    )
    return {"description": description, "content": {"application/octet-stream": {}}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"{_REF}{model.__name__}"}


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if "{name}" in operation.path:
        function = operation.path.startswith("/v1/functions/")
        yield {
            "name": "name",
            "in": "path",
            "required": True,
            "description": "Name of the function."
            if function
            else "Id or name; VPC/name, with %2F for the slash, where several VPCs have one.",
            "schema": {
                "type": "string",
                "pattern": f"^{FUNCTION_NAME.pattern}$" if function else "^[ -~]+$",
            },
        }


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    described = operation.query.model_json_schema()
    for name, schema in described["properties"].items():
        # Null is what a query leaves out.
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        yield {
            "name": name,
            "in": "query",
            "required": name in described.get("required", ()),
            "description": schema["description"],
            "schema": {
                key: value
                for key, value in kinds[0].items()
                if key not in ("default", "description", "title")
            },
        }
