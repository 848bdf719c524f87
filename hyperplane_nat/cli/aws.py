# SPDX-License-Identifier: Apache-2.0
"""`aws`: an AWS endpoint for a lab, for SDKs and the aws command line on this host."""

from __future__ import annotations

import contextlib
import errno
import signal
from typing import Annotated

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import LabOption, UserError

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
        from hyperplane_nat.aws import endpoint, server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hyperplane_nat"):
            raise
        raise UserError(f"aws needs {error.name}, which is not installed ({EXTRA})") from None
    connection = common.client(ctx, lab)
    served = endpoint.lab_of(connection)
    try:
        listener = endpoint.listener(port)
    except OSError as error:
        said = "is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"port {port} {said} (choose another one, --port 0 for any)") from None
    with listener:
        serving = endpoint.serving(served, listener)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            url = f"http://{server.ADDRESS}:{listener.getsockname()[1]}"
            typer.echo(f"lab {connection.lab} is at {url}")
            typer.echo(f"export AWS_ENDPOINT_URL={url}")
            typer.echo(f"export AWS_ACCESS_KEY_ID={served.account} AWS_SECRET_ACCESS_KEY=any")
            typer.echo(f"export AWS_DEFAULT_REGION={served.region}")
            serving.serve_forever()
