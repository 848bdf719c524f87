# SPDX-License-Identifier: Apache-2.0
"""Handlers from the command line: invoked, their logs, and what an SDK needs to invoke them.

Invocations and logs are the matter of the process that runs handlers; the controller has no part in
this and may be away.
"""

from __future__ import annotations

import base64
import http.client
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hyperplane_nat import unix_socket
from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.client import ApiError, Client, UnixConnection
from hyperplane_nat.runtime.logs import log_path
from hyperplane_nat.runtime.places import Endpoint

EXIT_FUNCTION_ERROR = 1

POLL_SECONDS = 0.2


def payload_of(text: str) -> bytes:
    """What `--payload` means; UserError when it is no JSON, or a file that cannot be read."""
    payload = common.text_or_file("--payload", text)
    try:
        json.loads(payload)
    except ValueError as error:
        raise UserError(f"--payload: not JSON: {error} (quote it for the shell)") from None
    return payload.encode(errors="surrogateescape")


def invoke(
    connection: Client, function: str, payload: bytes, *, event: bool, log: bool, as_json: bool
) -> None:
    """Invoke a handler and show its answer; exits with 1 when that is an error."""
    headers = {
        "X-Amz-Invocation-Type": "Event" if event else "RequestResponse",
        "X-Amz-Log-Type": "Tail" if log else "None",
    }
    path = f"/2015-03-31/functions/{quote(function, safe='')}/invocations"
    status, told, body = _post(connection, path, payload, headers)
    if status >= 400:
        message = json.loads(body).get("Message", "")
        raise ApiError(status, told.get("x-amzn-ErrorType", "http"), message)
    failure = told.get("X-Amz-Function-Error")
    tail = base64.b64decode(told.get("X-Amz-Log-Result", "")).decode(errors="replace")
    if as_json:
        answer = {
            "status_code": status,
            "function_error": failure,
            "payload": _decoded(body),
            "log": tail if log else None,
            "request_id": told.get("x-amzn-RequestId"),
            "environment": told.get("X-Hyperplane-Environment"),
            "cold": told.get("X-Hyperplane-Start") == "cold",
        }
        common.print_json(answer)
    else:
        if not event:
            sys.stdout.buffer.write(body + b"\n")
            sys.stdout.buffer.flush()
        typer.echo(tail, err=True, nl=False)
        typer.echo(f"hyperplane-nat: {_report(told, event=event)}", err=True)
    if failure is not None:
        raise typer.Exit(EXIT_FUNCTION_ERROR)


def _report(told: dict[str, str], *, event: bool) -> str:
    if event:
        return f"accepted as {told.get('x-amzn-RequestId')}"
    text = f"{told['X-Hyperplane-Start']} start in {told['X-Hyperplane-Environment']}"
    failure = told.get("X-Amz-Function-Error")
    return text if failure is None else f"{text}, function error {failure}"


def _decoded(body: bytes) -> Any:
    """JSON, or what a runtime of its own has answered instead."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")


def _post(
    client: Client, path: str, payload: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    connection = UnixConnection(client.path.with_name(unix_socket.LAMBDA), None)
    try:
        connection.request("POST", path, payload, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except ConnectionRefusedError:
        client.get("/v1/status")
        raise UserError(
            f"nothing runs the handlers of lab {client.lab!r} just now (try again; if there are "
            "none, give a function code in the lab file)"
        ) from None
    except FileNotFoundError:
        # Says so where there is no lab at all.
        client.get("/v1/status")
        raise UserError(
            f"no function of lab {client.lab!r} has a handler (give one code in the lab file)"
        ) from None
    except PermissionError:
        raise UserError(
            "only root may invoke handlers from here (sudo hyperplane-nat ...)"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"the invocation was broken off: {reason} (see: hyperplane-nat logs FUNCTION)"
        ) from None
    finally:
        connection.close()


def logs(
    ctx: typer.Context,
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="Name of the function.")],
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes, until interrupted.")
    ] = False,
    lab: LabOption = None,
) -> None:
    """Show what a function's handler has written, with START, END and REPORT lines."""
    # Here, not above: `invoke` needs neither.
    from hyperplane_nat.cli import watching
    from hyperplane_nat.config.values import FUNCTION_NAME

    connection = common.client(ctx, lab)
    path = log_path(connection.path.parent, function)
    if FUNCTION_NAME.fullmatch(function) is None or not path.is_file():
        common.require_root(ctx, "logs")
        known = {row["FunctionName"] for row in common.rows(connection.get("/v1/functions"))}
        if function not in known:
            raise UserError(f"there is no function {function!r} (see: hyperplane-nat functions)")
        if not follow:
            return
    with watching.until_interrupted():
        for text in _lines(path, watching.pause, follow=follow):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()


def _lines(path: Path, pause: Callable[[float], None], *, follow: bool) -> Iterator[bytes]:
    """The former log, this one and, following, what is added; a log that is new is read anew."""
    former = path.with_name(f"{path.name}.1")
    if former.is_file():
        yield former.read_bytes()
    inode, offset = 0, 0
    while True:
        if path.is_file():
            with path.open("rb") as file:
                found = path.stat().st_ino
                if found != inode:
                    inode, offset = found, 0
                file.seek(offset)
                text = file.read()
                offset += len(text)
            if text:
                yield text
        if not follow:
            return
        pause(POLL_SECONDS)


def credentials(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Print what SDKs need to invoke the lab's functions, for `eval` in a shell."""
    connection = common.client(ctx, lab)
    endpoint = Endpoint.read(connection.path.parent)
    if endpoint is None:
        common.require_root(ctx, "credentials")
        connection.get("/v1/status")
        raise UserError(
            f"no function of lab {connection.lab!r} has a handler (give one code in the lab file)"
        )
    values = {
        "AWS_ENDPOINT_URL_LAMBDA": endpoint.url,
        "AWS_ACCESS_KEY_ID": endpoint.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_access_key,
        "AWS_REGION": endpoint.region,
        "AWS_DEFAULT_REGION": endpoint.region,
    }
    if as_json:
        common.print_json(values)
        return
    for name, value in values.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
