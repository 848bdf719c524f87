# SPDX-License-Identifier: Apache-2.0
"""`up`: the controller as a process of its own, or in the foreground.

Theory of operation
-------------------
`up` starts `python -m hyperplane_nat.controller` in a session of its own, hands it the
configuration on standard input and the write end of a pipe. The controller reports on the pipe in
lines of JSON: progress, then ready or an error. The end of the pipe without either means that it
died, and its log tells why.

`up` that is told of no configuration takes over what a dead controller left, as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperplane_nat import private_files
from hyperplane_nat.cli import common, waiting
from hyperplane_nat.cli.common import (
    ConfigOption,
    EnvironmentsOption,
    LabOption,
    SetOption,
    UserError,
)
from hyperplane_nat.cli.removal import LOG_NAME
from hyperplane_nat.cli.waiting import TimeoutOption
from hyperplane_nat.client import Client, NotRunningError
from hyperplane_nat.config import lab as configuration
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import record
from hyperplane_nat.controller.processes import WITHOUT_CERTIFICATES
from hyperplane_nat.controller.source import Source
from hyperplane_nat.controller.standing import standing
from hyperplane_nat.private_files import NotPrivateError

if TYPE_CHECKING:
    from rich.progress import Progress


def up(
    ctx: typer.Context,
    config: ConfigOption = None,
    environments: EnvironmentsOption = None,
    lab: LabOption = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay here, for a service manager.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove what a dead controller left, flows included.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the functions are Active, too.")
    ] = False,
    timeout: TimeoutOption = None,
    assignments: SetOption = None,
) -> None:
    """Start a lab; return when traffic can flow."""
    waiting.check_options(wait, timeout)
    if wait and foreground:
        raise UserError("--foreground stays here (leave out --wait; hyperplane-nat wait)")
    limit = waiting.Limit(timeout)
    overrides = common.overrides(ctx, lab, environments, assignments)
    effective = configuration.load(config, overrides)
    if config is None and environments is None and not assignments:
        effective = standing(effective.lab.name, common.runtime_root(ctx)).config or effective
    common.acts_on(ctx, effective.lab.name, named="name" in effective.lab.model_fields_set)
    common.require_root(ctx, "up")
    refuse_running(effective)
    source = None if config is None else Source(config.absolute(), overrides)
    if foreground:
        # Imported here: the other commands need not wait for the controller's libraries.
        from hyperplane_nat.controller import daemon

        raise typer.Exit(daemon.main(effective, replace=replace, source=source))
    with progress_shown() as show:
        status = start(effective, show, replace=replace, source=source)
    typer.echo(summary(effective, status))
    if wait and effective.function:
        root = Path(effective.lab.runtime_directory)
        connection = Client(effective.lab.name, runtime_directory=root)
        waiting.until_active(connection, [each.name for each in effective.function], limit)


@contextlib.contextmanager
def progress_shown() -> Iterator[Callable[[str, int, int], None]]:
    """A callback for `start`, which shows something on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=common.console(stderr=True),
        transient=True,
    ) as bars:
        yield progress_bars(bars)


def progress_bars(bars: Progress) -> Callable[[str, int, int], None]:
    """A callback for `start` that shows one bar per kind of work."""
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    return show


def summary(config: Config, status: dict[str, Any]) -> str:
    """What `up` says in the end."""
    lab = config.lab.name
    if config.function:
        count = len(config.function)
        what = (
            f"{count} function{'s' * (count != 1)}, {config.lab.environments + config.pool.size} "
            "environments"
        )
        # A program that needs no network: security groups may leave nothing to be reached.
        example = f"invoke {config.function[0].name} -- ip address"
    else:
        count = status.get("environments", config.lab.environments)
        interfaces = status.get("interfaces", len(config.network_interface))
        what = (
            f"{count} environment{'s' * (count != 1)}, "
            f"{interfaces} network interface{'s' * (interfaces != 1)}"
        )
        example = "apply LAB.toml"
        if config.lab.environments:
            example = "exec env-1 -- ping -c 3 " + next(
                (
                    service.address
                    for vpc in config.vpc
                    for service in vpc.service
                    if service.address is not None
                ),
                config.place(config.network_interface[0])[1].router,
            )
    return "\n".join(
        (
            f"lab {lab} is up: {what}",
            *([f"AWS: {endpoint}"] if (endpoint := status.get("aws_endpoint")) else []),
            f"metrics: {common.metrics(status)}",
            common.with_lab(f"try: hyperplane-nat {example}", lab),
        )
    )


def refuse_running(config: Config) -> None:
    """Raise UserError if a controller of this lab answers."""
    lab = config.lab.name
    connection = Client(lab, runtime_directory=Path(config.lab.runtime_directory), timeout=10)
    try:
        status = common.mapping(connection.get("/v1/status"))
    except NotRunningError:
        return
    raise UserError(
        f"lab {lab!r} is already running, pid {status.get('pid')} "
        f"(stop it with: hyperplane-nat down; or choose another name with --lab)"
    )


def start(
    config: Config,
    progress: Callable[[str, int, int], None],
    *,
    replace: bool = False,
    source: Source | None = None,
) -> dict[str, Any]:
    """
    Start the controller and wait until it is ready; its status.

    `progress(what, done, total)` is called as the lab grows. Raises UserError with the controller's
    own line if it cannot start; what it made is removed then. An interrupt ends the controller as
    well. With `replace`, what stands of the lab is removed first. `source` is what SIGHUP reads
    again.
    """
    directory = config.runtime_directory
    log = directory / LOG_NAME
    try:
        private_files.make_private(directory)
        log_file = log.open("ab")
    except NotPrivateError as error:
        raise UserError(
            f"lab.runtime_directory: {error} (remove it, or choose another directory)"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {log}: {error.strerror} (see lab.runtime_directory in "
            "docs/configuration.md)"
        ) from None
    earlier = log_file.tell()
    ready, ready_write = os.pipe()
    command = [sys.executable, "-m", "hyperplane_nat.controller", "--ready-fd", str(ready_write)]
    if replace:
        command.append("--replace")
    if source is not None:
        command += ["--source", source.encode()]
    with os.fdopen(ready, encoding="utf-8") as pipe, log_file:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                pass_fds=(ready_write,),
                env={**os.environ, **WITHOUT_CERTIFICATES},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(ready_write)
        try:
            hand_over(process, config)
            return wait_ready(pipe, progress)
        except BaseException as error:
            # Interrupted: it has to end. Otherwise it ends by itself, after tidying up.
            if not isinstance(error, (UserError, _EarlyEndError)):
                process.terminate()
            process.wait()
            last_words = log_tail(log, earlier)
            discard_log(log, earlier)
            if not isinstance(error, _EarlyEndError):
                raise
            reason = last_words or f"exit status {process.returncode}, nothing in its log"
            raise UserError(
                f"the controller died while starting: {reason} (run it with --foreground to watch)"
            ) from None


class _EarlyEndError(Exception):
    pass


def hand_over(process: subprocess.Popen[bytes], config: Config) -> None:
    """Write what was said of the configuration to the controller's standard input."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(json.dumps(record.said(config)).encode())


def wait_ready(lines: Iterator[str], progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Read the controller's reports up to the one that decides."""
    for line in lines:
        report = json.loads(line)
        if "error" in report:
            raise UserError(report["error"])
        if report.get("ready"):
            return common.mapping(report.get("status") or {})
        if "progress" in report:
            progress(report["progress"], report["done"], report["total"])
    raise _EarlyEndError


def log_tail(log: Path, start: int) -> str:
    """The last line of a log from byte `start` on, where an exception's message is."""
    try:
        text = log.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def discard_log(log: Path, start: int) -> None:
    """Cut a failed start's part from a log; remove it and its directories if they are empty."""
    with contextlib.suppress(OSError):
        if start:
            os.truncate(log, start)
            return
        log.unlink()
        log.parent.rmdir()
        log.parent.parent.rmdir()
