# SPDX-License-Identifier: Apache-2.0
"""`flow-logs`: the lines of a lab's flow logs, those that are there and those that come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hyperplane_nat.cli import common, hosts, watching
from hyperplane_nat.cli.common import LabOption
from hyperplane_nat.client import Client
from hyperplane_nat.config.lab import Config
from hyperplane_nat.flow_logs.files import log_files

_POLL_SECONDS = 0.5


def flow_logs(
    ctx: typer.Context,
    interface: Annotated[
        str | None, typer.Option(metavar="INTERFACE", help="Only this one's: its name or id.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Only this one's: its name, VPC/name or id.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the lines that come.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            parser=common.path("--directory"),
            metavar="DIRECTORY",
            help="Read the files below it instead of asking a running lab for them.",
        ),
    ] = None,
    lab: LabOption = None,
) -> None:
    """Print the lines of the flow logs, the oldest first."""
    if host is not None and (interface is not None or directory is not None):
        raise common.UserError(
            "--host is by itself (give its interface's id, of hosts --json, with --directory)"
        )
    if directory is None:
        connection = common.client(ctx, lab)
        if host is not None:
            interface = hosts.find(connection, host)["NetworkInterfaceId"]
        place, interface = _of_a_lab(connection, interface, known=host is not None)
    else:
        place = directory
        if not place.is_dir():
            raise common.UserError(f"{place}: no such directory")
        if labs := sorted(each.parent.name for each in place.glob("*/AWSLogs")):
            raise common.UserError(f"{place}: name a lab's directory in it ({', '.join(labs)})")
        if interface is not None and not log_files(place, interface):
            raise common.UserError(f"{place}: no flow logs of interface {interface!r} are below it")
    reading = FlowLogLines(place, interface)
    if not follow:
        _print(reading.take())
        return
    with watching.until_interrupted():
        while True:
            _print(reading.take())
            watching.pause(_POLL_SECONDS)


def _of_a_lab(connection: Client, interface: str | None, *, known: bool) -> tuple[Path, str | None]:
    """The directory of a running lab's flow logs, and the id that an interface has in them.

    `known` is whether that is the id already.
    """
    config = Config.model_validate(connection.get("/v1/config"))
    if not config.flow_logs.enabled:
        raise common.UserError(
            f"lab {config.lab.name!r} writes no flow logs (set flow_logs.enabled to true)"
        )
    place = Path(config.flow_logs.directory) / config.lab.name
    if interface is None or known:
        return place, interface
    ids = {}
    for row in common.rows(connection.get("/v1/interfaces")):
        ids[row["name"]] = ids[row.get("id")] = row.get("id") or row["name"]
    wanted = ids.get(interface, interface)
    # One that is gone may have left lines.
    if interface not in ids and not log_files(place, wanted):
        raise common.UserError(f"unknown interface {interface!r} (see: hyperplane-nat interfaces)")
    return place, wanted


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(line)
    sys.stdout.flush()


class FlowLogLines:
    """The lines of the files below a directory; each is given once, a header when it changes."""

    def __init__(self, directory: Path, interface: str | None = None) -> None:
        self._directory = directory
        self._interface = interface
        self._offsets: dict[Path, int] = {}
        self._header = ""

    def take(self) -> Iterator[str]:
        """The lines that came since the last time."""
        for path in log_files(self._directory, self._interface):
            try:
                with path.open("rb") as file:
                    offset = self._offsets.get(path, 0)
                    header = file.readline().decode()
                    file.seek(max(offset, len(header)))
                    # The writer may be in the middle of a line.
                    lines = [line for line in file if line.endswith(b"\n")]
            except FileNotFoundError:
                continue
            self._offsets[path] = max(offset, len(header)) + sum(map(len, lines))
            if lines and header != self._header:
                self._header = header
                yield header
            yield from (line.decode() for line in lines)
