# SPDX-License-Identifier: Apache-2.0
"""`down`: a lab is removed by its controller, or without it.

Theory of operation
-------------------
`down` asks the controller to tear down, ends one that only starts and kills one that does not
answer; it clears away what a dead one has left behind. What is only of use without a controller is
imported then: where there is one, it takes longer to import than to ask.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

import typer

from hyperplane_nat.cli import common, failures
from hyperplane_nat.cli.common import LabOption, UserError
from hyperplane_nat.client import AwayError, Client, SilentError

LOG_NAME = "controller.log"

SHUTDOWN_SECONDS = 120.0
"""How long `down` waits: a thousand namespaces take a few seconds, a loaded machine more."""

ANSWER_SECONDS = 10.0
"""A controller that has not told its pid by then is stopped or hangs, and will not tear down. On a
loaded machine the first answer takes some seconds, for which it loads what it needs."""


def down(ctx: typer.Context, lab: LabOption = None) -> None:
    """Stop a lab and remove everything it made."""
    name = common.lab_name(ctx, lab)
    root = common.runtime_root(ctx)
    common.require_root(ctx, "down")
    if stop(name, root) or end(name, root, signal.SIGTERM):
        typer.echo(f"lab {name} is down")
        return
    removed = clean(name, root)
    if not removed:
        typer.echo(f"lab {name}: nothing is running{failures.others(ctx, name, root)}")
        return
    typer.echo(f"lab {name} was not running; removed what was left:")
    for line in removed:
        typer.echo(f"  {line}")


def stop(lab: str, root: Path) -> bool:
    """
    Have the controller tear its lab down and wait until it is gone; False if there is none.

    One that does not answer is killed, and its lab removed without it.
    """
    connection = Client(lab, runtime_directory=root, timeout=SHUTDOWN_SECONDS)
    asked = Client(lab, runtime_directory=root, timeout=ANSWER_SECONDS)
    try:
        process = open_process(int(common.mapping(asked.get("/v1/status"))["pid"]))
    except AwayError:
        # It is not there, or just going: whoever is left is found without it.
        return False
    except SilentError:
        if not end(lab, root, signal.SIGKILL):
            raise
        return True
    try:
        # The controller may be gone before the last byte of its answer is here.
        with contextlib.suppress(AwayError):
            connection.post("/v1/shutdown")
        wait_gone(process, lab, root)
    finally:
        if process is not None:
            os.close(process)
    return True


def end(lab: str, root: Path, number: signal.Signals) -> bool:
    """End a controller that does not serve, and remove its lab; False if there is none."""
    from hyperplane_nat.controller.standing import standing

    pid = standing(lab, root).controller()
    process = None if pid is None else open_process(pid)
    if process is None:
        return False
    if number is signal.SIGKILL:
        typer.echo(
            f"the controller of lab {lab} (pid {pid}) has not answered for {ANSWER_SECONDS:g} "
            "seconds and is killed",
            err=True,
        )
    try:
        signal.pidfd_send_signal(process, number)
        # It heeds nothing while it is stopped.
        signal.pidfd_send_signal(process, signal.SIGCONT)
        wait_gone(process, lab, root)
    finally:
        os.close(process)
    # It leaves alone what stood before it.
    clean(lab, root)
    return True


def open_process(pid: int) -> int | None:
    """A descriptor of a process, immune to reuse of its number; None if it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def wait_gone(process: int | None, lab: str, root: Path) -> None:
    """Wait for the process to end; UserError when it does not."""
    if process is None:
        return
    readable, _, _ = select.select([process], [], [], SHUTDOWN_SECONDS)
    if not readable:
        raise UserError(
            f"the controller of lab {lab!r} has not stopped within {SHUTDOWN_SECONDS:g} seconds "
            f"(see {root / lab / LOG_NAME}; after ending it by hand, run down again)"
        )
    # Started by this very process, it is a child to be waited for.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG)


def clean(lab: str, root: Path) -> list[str]:
    """Remove what a dead controller has left; what was removed."""
    from hyperplane_nat.controller import cleanup

    return cleanup.clean(lab, str(root), state_directory(lab, root))


def state_directory(lab: str, root: Path) -> str:
    """Where the lab kept its state file, by the configuration that it applied; else the default."""
    from hyperplane_nat.config.lab import Config
    from hyperplane_nat.controller.standing import standing

    return (standing(lab, root).config or Config()).lab.state_directory
