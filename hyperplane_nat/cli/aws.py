# SPDX-License-Identifier: Apache-2.0
"""`aws`: an AWS endpoint for a lab, for SDKs and the aws command line on this host."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
from typing import Annotated, Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import LabOption, UserError
from hyperplane_nat.model.resources import DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_ID

PORT = 4566
"""Where other local endpoints for AWS's clients are, too."""

EXTRA = 'pip install "hyperplane-nat[aws]"'


def aws(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Where to listen; 0: any.")
    ] = PORT,
    lab: LabOption = None,
) -> None:
    """Serve AWS's APIs for the lab, to SDKs on this host; Ctrl-C ends it."""
    try:
        from hyperplane_nat.aws import server
        from hyperplane_nat.aws.call import Lab
        from hyperplane_nat.aws.notes import Notes
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hyperplane_nat"):
            raise
        raise UserError(f"aws needs {error.name}, which is not installed ({EXTRA})") from None
    connection = common.client(ctx, lab)
    region = common.mapping(connection.get("/v1/config"))["lambda"]["region"]
    account = _first(common.rows(connection.get("/v1/accounts")))
    served = Lab(connection, Notes(connection.path.parent), region, account)
    listener = _listener(port)
    with listener:
        endpoint = server.listen(served, listener)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            url = f"http://{server.ADDRESS}:{listener.getsockname()[1]}"
            typer.echo(f"lab {connection.lab} is at {url}")
            typer.echo(f"export AWS_ENDPOINT_URL={url}")
            typer.echo(f"export AWS_ACCESS_KEY_ID={account} AWS_SECRET_ACCESS_KEY=any")
            typer.echo(f"export AWS_DEFAULT_REGION={region}")
            endpoint.serve_forever()


def _first(accounts: list[dict[str, Any]]) -> str:
    """The account of access keys that are none: the default one, or else the first."""
    known = {row["Name"]: row["Id"] for row in accounts}
    found: str = known.get(DEFAULT_ACCOUNT) or next(iter(known.values()), DEFAULT_ACCOUNT_ID)
    return found


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        said = "is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"port {port} {said} (choose another one, --port 0 for any)") from None
    return listener
