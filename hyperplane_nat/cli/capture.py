# SPDX-License-Identifier: Apache-2.0
"""`capture`: frames of an environment or an interface, with their flows, into a pcapng file.

The controller is asked what links and names there are; everything else is done by a process in a
session of its own at low priority, so that neither controller nor forwarder works for a
capture.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

import hyperplane_nat
from hyperplane_nat import private_files
from hyperplane_nat.capture import filters
from hyperplane_nat.capture.errors import CaptureError
from hyperplane_nat.capture.flows import FlowFinder
from hyperplane_nat.capture.identity import Identifier
from hyperplane_nat.capture.session import Limits, Session, Source
from hyperplane_nat.capture.tap import Tap
from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.client import Client, ClientError
from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.model.identifiers import environment_name, environment_number
from hyperplane_nat.scheduling import in_own_session
from netns import privileges
from netns.names import gateway_namespace, slot_link

NAMES_SECONDS = 10.0
"""How old the names of functions in comments may be."""

BUFFER_BYTES = 1 << 18

STANDARD_OUTPUT = Path("-")

Row = dict[str, Any]


def capture(
    ctx: typer.Context,
    output: Annotated[
        Path,
        typer.Option(
            "-w",
            parser=common.path("-w"),
            metavar="FILE.pcapng",
            help="The file; - is standard output.",
        ),
    ],
    environment: Annotated[
        str | None,
        typer.Option(metavar="ENVIRONMENT", help="Its link, and its flows on its interface."),
    ] = None,
    interface: Annotated[
        str | None, typer.Option(metavar="INTERFACE", help="All of an interface's link.")
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option("--filter", metavar="EXPR", help="Only these frames: see pcap-filter(7)."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", min=1, metavar="N", help="End after N frames.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, metavar="S", help="End after S seconds.")
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Capture frames on both sides of the translation, each with its flow, as pcapng."""
    if (environment is None) == (interface is None):
        raise UserError("capture what? (give either --environment or --interface)")
    if output == STANDARD_OUTPUT and sys.stdout.isatty():
        raise UserError("a capture is no text for a terminal (-w FILE.pcapng, or pipe it on)")
    with _one_line_errors():
        program = None if expression is None else filters.compiled(expression)
        common.require_root(ctx, "capture")
        connection = common.client(ctx, lab)
        gateway = gateway_namespace(connection.lab)
        names = Names(connection)
        links = _links(connection, environment, interface)
        in_own_session(_leave)
        with contextlib.ExitStack() as stack:
            sources = [
                Source(
                    stack.enter_context(contextlib.closing(Tap(gateway, link.name, program))),
                    link.identifier,
                    link.description,
                    link.only_slot,
                )
                for link in links
            ]
            status = common.mapping(connection.get("/v1/status"))
            state_map = StateMap.open(status["state_file"]["path"])
            stack.callback(state_map.close)
            session = Session(
                sources,
                FlowFinder(state_map),
                stack.enter_context(_opened(output)),
                application=f"hyperplane-nat {hyperplane_nat.__version__}",
                name_of=names,
                filter_text=expression,
                limits=Limits(count, seconds),
                progress=_progress if sys.stderr.isatty() else None,
            )
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.getsignal(number))
                signal.signal(number, lambda *_: session.stop())
            tapped = ", ".join(source.tap.link for source in sources)
            typer.echo(f"capturing on {tapped}", err=True)
            # It stays root, who alone may use the control socket.
            privileges.drop(privileges.CAPTURE, uid=0)
            summary = session.run()
    _tell(summary, output, as_json)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (CaptureError, StateMapError) as error:
        raise UserError(str(error)) from None


def _leave(status: int) -> None:
    raise typer.Exit(status)


class Link:
    """A link of the gateway that is to be tapped."""

    def __init__(
        self, name: str, description: str, identifier: Identifier, only_slot: int | None = None
    ) -> None:
        self.name = name
        self.description = description
        self.identifier = identifier
        self.only_slot = only_slot


def _links(connection: Client, environment: str | None, interface: str | None) -> list[Link]:
    """What to tap; UserError when there is no such environment or interface."""
    interfaces = common.rows(connection.get("/v1/interfaces"))
    if environment is None:
        assert interface is not None
        return [_interface_link(connection.lab, interfaces, interface)]
    number = environment_number(environment)
    for row in common.rows(connection.get("/v1/environments")):
        if row["number"] == number:
            break
    else:
        raise UserError(f"unknown environment {environment!r} (see: hyperplane-nat environments)")
    slot = int(row["number"])
    text = f"{row['name']}: the environment's side"
    links = [Link(slot_link(slot), text, Identifier(slot=slot, interfaces={}))]
    # One that waits in the pool has none.
    if row["interface"] is not None:
        links.append(_interface_link(connection.lab, interfaces, row["interface"], slot))
    return links


def _interface_link(
    lab: str, interfaces: list[Row], wanted: str, only_slot: int | None = None
) -> Link:
    for row in interfaces:
        if wanted in (row["name"], row.get("id")):
            break
    else:
        raise UserError(f"unknown interface {wanted!r} (see: hyperplane-nat interfaces)")
    link = str(row["name"])
    numbers = {
        socket.inet_aton(address): int(number)
        for address, number in zip(
            (row["address"], *row["secondary_addresses"]),
            (row["number"], *row["secondary_numbers"]),
            strict=True,
        )
    }
    whose = "" if only_slot is None else f", flows of {environment_name(only_slot)}"
    text = f"{row.get('id') or link}: the VPC's side{whose}"
    return Link(link, text, Identifier(interfaces=numbers), only_slot)


class Names:
    """What comments call a slot: its environment, and the function that has it."""

    def __init__(self, connection: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._names: dict[int, str] = {}
        self._due = 0.0

    def __call__(self, slot: int) -> str:
        """The name, asked for again now and then."""
        now = self._clock()
        if now >= self._due:
            self._due = now + NAMES_SECONDS
            # Without a controller comments have the last names known.
            with contextlib.suppress(ClientError):
                rows = common.rows(self._connection.get("/v1/environments"))
                self._names = {row["number"]: _name(row) for row in rows}
        return self._names.get(slot) or environment_name(slot)


def _name(row: Row) -> str:
    function = row.get("function")
    return str(row["name"]) if function is None else f"{row['name']} of {function}"


@contextlib.contextmanager
def _opened(output: Path) -> Iterator[BinaryIO]:
    try:
        if output == STANDARD_OUTPUT:
            # Python's own may be unbuffered, and then takes a part of what it is given.
            file = open(sys.stdout.fileno(), "wb", BUFFER_BYTES, closefd=False)  # noqa: SIM115
        else:
            file = private_files.open_to_write(output, BUFFER_BYTES)
    except OSError as error:
        raise CaptureError(
            f"cannot write {output}: {error.strerror} (choose another file)"
        ) from None
    try:
        yield file
    finally:
        # What could not be written has been told by then.
        with contextlib.suppress(OSError):
            file.close()


def _progress(summary: Row) -> None:
    sys.stderr.write(f"\r{_figures(summary)}\x1b[K")
    sys.stderr.flush()


def _figures(summary: Row) -> str:
    size = common.byte_count(summary["bytes"])
    return f"{summary['frames']} frames, {size}, {summary['dropped']} not captured"


def _tell(summary: Row, output: Path, as_json: bool) -> None:
    end = "\r" if sys.stderr.isatty() else ""
    if as_json:
        # On standard output there may be the capture itself.
        typer.echo(json.dumps(summary | {"file": str(output)}), err=output == STANDARD_OUTPUT)
    else:
        typer.echo(f"{end}{_figures(summary)}, ended: {summary['ended']}", err=True)
