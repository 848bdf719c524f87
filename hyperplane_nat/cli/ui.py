# SPDX-License-Identifier: Apache-2.0
"""`ui`: a page of the labs that run, for a browser on this host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from typing import Annotated

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import LabOption, UserError
from hyperplane_nat.ui.labs import Labs
from hyperplane_nat.ui.server import ADDRESS, listen, serve
from netns import privileges


def ui(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Where to listen; 0: any.")
    ] = 0,
    lab: LabOption = None,
) -> None:
    """Serve a page of the labs that run, or of one; Ctrl-C ends it."""
    only, root = common.named_lab(ctx, lab), common.runtime_root(ctx)
    try:
        listener = listen(port)
    except OSError as error:
        raise UserError(
            f"cannot listen on {ADDRESS}:{port}: {error.strerror} (choose another --port)"
        ) from None
    token = secrets.token_urlsafe(32)
    with listener:
        if os.geteuid() == 0:
            # It stays root, who alone may use the control sockets.
            privileges.drop(privileges.UI, uid=0)
        typer.echo(f"http://{ADDRESS}:{listener.getsockname()[1]}/?token={token}")
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(_serve(listener, Labs(root, only), token))


async def _serve(listener: socket.socket, labs: Labs, token: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await serve(listener, labs, token)
