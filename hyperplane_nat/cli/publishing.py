# SPDX-License-Identifier: Apache-2.0
"""The code of a function, its versions and its aliases, under the names of the AWS command line."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.client import Client
from hyperplane_nat.runtime.code import CodeError
from hyperplane_nat.runtime.uploads import archive_of

FunctionArgument = Annotated[
    str, typer.Argument(metavar="FUNCTION", help="Name of the function.", show_default=False)
]


def update_function_code(
    ctx: typer.Context,
    function: FunctionArgument,
    code: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A zip archive, or a directory or .py file to make one of."
        ),
    ],
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish a version of it, too.")
    ] = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a function other code; environments that are begun from now on have it."""
    connection = common.client(ctx, lab)
    try:
        archive = archive_of(code)
    except CodeError as error:
        raise UserError(f"{error} (name one of these)") from None
    except OSError as error:
        raise UserError(f"{code}: {error.strerror} (name a zip archive or a directory)") from None
    body = {"zip_file": base64.b64encode(archive).decode("ascii")}
    answer = common.mapping(connection.put(f"{_path(function)}/code", body))
    if publish:
        answer = _published(connection, function)
    _tell(answer, as_json=as_json)


def publish_version(
    ctx: typer.Context,
    function: FunctionArgument,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a version of a function: itself as it is now, under a number."""
    _tell(_published(common.client(ctx, lab), function), as_json=as_json)


def update_alias(
    ctx: typer.Context,
    alias: Annotated[
        str,
        typer.Argument(metavar="FUNCTION:ALIAS", help="An alias, new or not.", show_default=False),
    ],
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION", help="Number of a published version, or $LATEST.", show_default=False
        ),
    ],
    provisioned_concurrency: Annotated[
        int | None,
        typer.Option(
            "--provisioned-concurrency",
            metavar="N",
            min=0,
            help="Environments of it that are kept initialized; as before if left out.",
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            "--weight",
            metavar="VERSION=SHARE",
            help="Another version and the share of the invocations that it serves, 2=0.1; none if "
            "empty, as before if left out.",
        ),
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have an alias name a version."""
    connection = common.client(ctx, lab)
    if ":" not in alias:
        raise UserError(f"{alias!r} names no alias (write it like orders:live)")
    body = {
        "version": version,
        "provisioned_concurrency": provisioned_concurrency,
        "additional_version_weights": None if weight is None else _weights(weight),
    }
    answer = connection.put(f"/v1/aliases/{quote(alias, safe=':')}", body)
    if as_json:
        common.print_json(answer)
        return
    typer.echo(f"{alias} is version {version}")


def _weights(text: str) -> dict[str, float]:
    if not text:
        return {}
    version, _, share = text.partition("=")
    try:
        return {version: float(share)}
    except ValueError:
        raise UserError(f"--weight {text!r}: write it like 2=0.1") from None


def _published(connection: Client, function: str) -> dict[str, object]:
    return common.mapping(connection.post(f"{_path(function)}/versions", {}))


def _path(function: str) -> str:
    return f"/v1/functions/{quote(function, safe=':')}"


def _tell(answer: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        common.print_json(answer)
        return
    code = answer["Code"]
    sha256 = code["CodeSha256"] if isinstance(code, dict) else "none"
    typer.echo(f"function {answer['FunctionName']}, version {answer['Version']}, code {sha256}")
