# SPDX-License-Identifier: Apache-2.0
"""What clients may ask of the control API: bodies, queries and names, and what is said if not.

Theory of operation
-------------------
Each model below is at once the check of a request and its description in the OpenAPI document
(`openapi`). Models are strict and take no unknown field: what a client misspells is refused and not
overlooked. The parser is pydantic's, which bounds depth and takes valid UTF-8 only; the size of a
body is bounded before, by the server.

A refusal is a `RequestError` of one line: what is wrong, where, and what to do. Its codes are the
Lambda API's ("Invoke", errors): InvalidRequestContentException for what is no JSON,
InvalidParameterValueException for JSON that does not fit; and `invalid_parameter` in a query.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.sections import SLOTS_MAX
from hyperplane_nat.config.values import QUALIFIED_NAME, FieldError
from hyperplane_nat.flow_query import FlowField, FlowState, Protocol
from hyperplane_nat.model.clock import AHEAD_SECONDS_MAX
from hyperplane_nat.model.identifiers import environment_number

BODY_BYTES_MAX = 4 * 1024 * 1024

PROTOCOLS = ("tcp", "udp", "icmp")

ENVIRONMENTS_MAX = SLOTS_MAX - 1
"""Environments of a lab: slot 0 is none."""

REMOTES_MAX = 1000
"""Remote endpoints in an answer."""

_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})"
_REMOTE = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}(?::{_PORT})?", re.ASCII)

TIMEOUT_SECONDS_MAX = 86_400.0

_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

_EXCERPT = 40

M = TypeVar("M", bound=BaseModel)


class RequestError(Exception):
    """A request that cannot be understood; `code` and `status` are those of the answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def _bytes_of(value: object) -> bytes:
    # The decoder takes more padding than there may be.
    if isinstance(value, str) and re.fullmatch(_BASE64, value):
        return base64.b64decode(value)
    raise PydanticCustomError("base64", "not base64 (encode it as RFC 4648 section 4 has it)")


def _whole_number(value: object) -> int:
    # str.isdigit accepts digits that int() does not; huge numbers cost time to convert.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        return int(value)
    raise PydanticCustomError("whole_number", "not a whole number (write digits)")


def _environment(value: object) -> int:
    number = environment_number(value) if isinstance(value, str) else None
    if number is None:
        raise PydanticCustomError("environment", "not an environment (write it like env-1)")
    return number


def _remote(value: object) -> tuple[str, int | None]:
    if isinstance(value, str) and _REMOTE.fullmatch(value):
        address, _, port = value.partition(":")
        return address, int(port) if port else None
    raise PydanticCustomError("remote", "not a remote endpoint (write it like 10.0.1.80:443)")


def _flag(value: object) -> bool:
    if value in ("true", "false"):
        return value == "true"
    raise PydanticCustomError("flag", "neither true nor false (write one of them)")


def _integer(value: object) -> object:
    # JSON has one kind of number: 3.0 is an integer to JSON Schema (draft 2020-12, section 6.1.1).
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _argument(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("argument", "contains a null byte (no argument can)")
    return value


Base64 = Annotated[
    bytes,
    PlainValidator(_bytes_of),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": f"^{_BASE64}$",
        }
    ),
]
"""Bytes, in JSON as base64."""

NUMBER_MAX = 9_999_999_999

# The bounds come first: pydantic describes those of the number, not those of a validator's result.
Positive = Annotated[int, Field(ge=1, le=NUMBER_MAX), BeforeValidator(_whole_number)]
Natural = Annotated[int, Field(ge=0, le=NUMBER_MAX), BeforeValidator(_whole_number)]
"""Numbers in a query, where everything is text."""

RemoteEndpoint = Annotated[
    tuple[str, int | None],
    PlainValidator(_remote),
    WithJsonSchema({"type": "string", "pattern": f"^{_BYTE}(?:\\.{_BYTE}){{3}}(?::{_PORT})?$"}),
]
"""An IPv4 address, and a port or None."""

InterfaceName = Annotated[str, Field(pattern="^[!-~]{1,64}$")]

Argument = Annotated[
    str,
    AfterValidator(_argument),
    WithJsonSchema({"type": "string", "pattern": "^[^\\x00]*$"}),
]

TimeoutSeconds = Annotated[float, Field(gt=0, le=TIMEOUT_SECONDS_MAX, allow_inf_nan=False)]

ClientToken = Annotated[str, Field(pattern="^[!-~]{1,64}$")]


class _AsConfig:
    """Described as a configuration, but looked at by whoever applies it: it knows better words."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(Config.__pydantic_core_schema__)


class Request(BaseModel):
    """What all requests have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class ApplyRequest(Request):
    """POST /v1/apply."""

    config: Annotated[dict[str, Any], _AsConfig] = Field(
        description="The whole configuration: what a lab file may say."
    )
    dry_run: bool = Field(default=False, description="Only tell what would be done.")
    keep_used: bool = Field(
        default=False,
        description="Leave what is to be deleted and has a user, such as the interface of a "
        "function that is gone, instead of refusing it all; sent again once `waits_for` of the "
        "plan is gone, it is deleted.",
    )
    client_token: ClientToken | None = Field(
        default=None,
        description="A name for this request: sent again, it is answered again and not done again.",
    )


class AdvanceRequest(Request):
    """POST /v1/advance."""

    seconds: Annotated[float, Field(ge=0, le=AHEAD_SECONDS_MAX, allow_inf_nan=False)] = Field(
        description="How much time is to pass; in all ten years at most."
    )
    client_token: ClientToken | None = Field(
        default=None,
        description="A name for this request: sent again, it is answered again and not done again.",
    )


class StreamedInvocationRequest(Request):
    """POST /v1/functions/{name}/response-streaming-invocations."""

    command: list[Argument] = Field(
        min_length=1, description="Program to run in the environment, and its arguments."
    )
    timeout_seconds: TimeoutSeconds | None = Field(
        default=None,
        description="After so long the program is killed, with all it started; null: never.",
    )
    stdin: Base64 | None = Field(default=None, description="What the program reads.")


class InvocationRequest(StreamedInvocationRequest):
    """POST /v1/functions/{name}/invocations."""

    client_token: ClientToken | None = Field(
        default=None,
        description="A name for this request: sent again, it is answered again and not run again.",
    )


class ProvisionRequest(Request):
    """POST /v1/functions/{name}/provision."""

    count: Annotated[int, Field(ge=1, le=ENVIRONMENTS_MAX), BeforeValidator(_integer)] = Field(
        description="Environments to start ahead (AWS: provisioned concurrency).",
    )


class HoldRequest(Request):
    """POST /v1/holds."""

    environment: Annotated[int, Field(ge=1, le=ENVIRONMENTS_MAX), BeforeValidator(_integer)] = (
        Field(description="Number of the environment.")
    )
    pid: Annotated[int, Field(ge=1, le=1 << 22), BeforeValidator(_integer)] = Field(
        description="Process that it goes on for; the client's own, for one."
    )


class FlowQuery(Request):
    """The query of GET /v1/flows."""

    limit: Positive | None = Field(default=None, description="Flows at most.")
    after: Natural | None = Field(
        default=None,
        description="Only entries with a higher number: to go on where a former answer ended.",
    )
    environment: Annotated[
        int | None,
        BeforeValidator(_environment),
        WithJsonSchema({"type": "string", "pattern": "^(?:env-?)?[1-9][0-9]{0,5}$"}),
    ] = Field(default=None, description="Only flows of this environment, such as env-1.")
    protocol: Protocol | None = Field(default=None, description="Only flows of this protocol.")
    function: Annotated[str, Field(pattern=f"^{QUALIFIED_NAME.pattern}$")] | None = Field(
        default=None, description="Only flows of environments of this function."
    )
    interface: InterfaceName | None = Field(
        default=None, description="Only flows by this network interface: its name or id."
    )
    state: FlowState | None = Field(default=None, description="Only flows in this state.")
    remote: RemoteEndpoint | None = Field(
        default=None, description="Only flows to this IPv4 address, or address:port."
    )
    min_age: Natural | None = Field(default=None, description="Seconds since they began, at least.")
    max_age: Natural | None = Field(default=None, description="Seconds since they began, at most.")
    sort: FlowField | None = Field(
        default=None,
        description="Order: the largest first. A sorted list has 65,536 flows at most.",
    )
    reverse: Annotated[bool, BeforeValidator(_flag)] = Field(
        default=False, description="With `sort`: the smallest first."
    )


class EnvironmentQuery(Request):
    """The query of GET /v1/environments."""

    limit: Positive | None = Field(default=None, description="Environments at most.")
    after: Natural | None = Field(
        default=None,
        description="Only environments with a higher number: to go on where a former answer ended.",
    )
    function: Annotated[str, Field(pattern=f"^{QUALIFIED_NAME.pattern}$")] | None = Field(
        default=None, description="Only environments of this function."
    )
    interface: InterfaceName | None = Field(
        default=None, description="Only environments attached to this one: its name or id."
    )


class PortsQuery(Request):
    """The query of GET /v1/ports."""

    top: Annotated[int, Field(ge=1, le=REMOTES_MAX), BeforeValidator(_whole_number)] = Field(
        default=20, description="Remote endpoints at most, those with the most ports."
    )
    interface: InterfaceName | None = Field(
        default=None, description="Only ports of this network interface: its name or id."
    )
    remote: RemoteEndpoint | None = Field(
        default=None, description="Only ports towards this IPv4 address, or address:port."
    )


class TraceQuery(Request):
    """The query of GET /v1/trace."""

    source: Annotated[str, Field(pattern="^[!-~]{1,272}$")] = Field(
        description="An environment such as env-1, a host by name, VPC/name or id, or a function."
    )
    target: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,253}$")] = Field(
        description="An IPv4 address, or a name that the resolver of the source is asked for."
    )
    port: Annotated[int | None, Field(ge=1, le=65535), BeforeValidator(_whole_number)] = Field(
        default=None, description="Of TCP and UDP; ICMP has none."
    )
    protocol: Protocol | None = Field(
        default=None, description="tcp where there is a port, else icmp."
    )

    @property
    def chosen(self) -> Protocol:
        """The protocol. RequestError where it does not go with the port."""
        protocol = self.protocol or ("icmp" if self.port is None else "tcp")
        if (protocol == "icmp") != (self.port is None):
            what = "icmp has no port" if protocol == "icmp" else f"{protocol} needs a port"
            raise RequestError(400, "invalid_parameter", f"{what} (write ADDRESS:PORT or ADDRESS)")
        return protocol


class EventQuery(Request):
    """The query of GET /v1/events."""

    limit: Positive | None = Field(default=None, description="Events at most: the newest.")
    after: Natural | None = Field(
        default=None, description="Only events with a higher number: those since a former answer."
    )


class ColdStartQuery(Request):
    """The query of GET /v1/cold-starts."""

    limit: Positive | None = Field(default=None, description="Cold starts at most: the newest.")
    after: Natural | None = Field(
        default=None, description="Only those with a higher number: those since a former answer."
    )


def body_of(model: type[M], body: bytes) -> M:
    """The request in `body`. Errors: RequestError."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["ctx"]["error"]
            raise RequestError(
                400,
                "InvalidRequestContentException",
                f"the body is not JSON: {reason} (send an object)",
            ) from None
        raise RequestError(
            400, "InvalidParameterValueException", _explain(model, error, "the body")
        ) from None


def query_of(model: type[M], query: Mapping[str, str]) -> M:
    """The request in a URL's query. Errors: RequestError."""
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        raise RequestError(400, "invalid_parameter", _explain(model, error, "query")) from None


def function_name(name: str) -> str:
    """The name of a function in a path, with a qualifier or without.

    Errors: RequestError for what cannot be one.
    """
    if QUALIFIED_NAME.fullmatch(name) is None:
        raise RequestError(
            400,
            "InvalidParameterValueException",
            f"{_excerpt(name)} is not a function's name "
            "(hyperplane-nat functions lists those there are)",
        )
    return name


def one_line(text: str) -> str:
    """`text` without line breaks and other characters that a terminal would act upon."""
    return "".join(each if each.isprintable() else " " for each in " ".join(text.split()))


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 3]}..."


def _explain(model: type[BaseModel], error: ValidationError, whole: str) -> str:
    """The first problem in a line; more are counted."""
    first = error.errors(include_url=False)[0]
    location = _location(first["loc"]) or whole
    known = ", ".join(model.model_fields)
    if first["type"] == "extra_forbidden":
        text = f"{_excerpt(first['loc'][-1])} is no parameter ({known} are)"
    elif isinstance(cause := first.get("ctx", {}).get("error"), FieldError):
        text = f"{location}: {cause.what} ({cause.remedy})"
    elif first["type"] == "missing":
        text = f"{location}: required, but missing (add it)"
    else:
        message = first["msg"]
        text = f"{location}: {_excerpt(first['input'])}: {message[0].lower()}{message[1:]}"
        if re.search(r"\(.*\)$", message) is None:
            text += " (GET /v1/openapi.json describes it)"
    more = error.error_count() - 1
    if more:
        text += f"; and {more} more problem{'s' if more > 1 else ''}"
    return text


def _location(parts: tuple[int | str, ...]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
