# SPDX-License-Identifier: Apache-2.0
"""`capture`: frames of an environment, an interface or hosts, with their flows, into a pcapng file.

The controller is asked what links and names there are; everything else is done by a process in a
session of its own at low priority, so that neither controller nor forwarder works for a
capture.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

import hyperplane_nat
from hyperplane_nat import private_files
from hyperplane_nat.capture import filters
from hyperplane_nat.capture.errors import CaptureError
from hyperplane_nat.capture.flows import AnyFlow, FlowFinder
from hyperplane_nat.capture.identity import Identifier
from hyperplane_nat.capture.session import Limits, Session, Source
from hyperplane_nat.capture.tap import Tap
from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.cli.hosts import find
from hyperplane_nat.client import Client, ClientError
from hyperplane_nat.engine import Flow, HostFlow, Side, StateMap, StateMapError
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.shortcuts import leave_by_near_ends
from hyperplane_nat.model.identifiers import environment_name, environment_number
from hyperplane_nat.scheduling import in_own_session
from netns import privileges
from netns.names import gateway_namespace, host_link, slot_link

NAMES_SECONDS = 10.0
"""How old the names of functions in comments may be."""

BUFFER_BYTES = 1 << 18

STANDARD_OUTPUT = Path("-")

WITHOUT_LINK = {
    "nat-gateway": ("NAT gateway", "the internet gateway"),
    "load-balancer": ("load balancer", "a target"),
    "vpc-endpoint": ("endpoint", "a client or a target"),
}
"""Whose interface it is by its kind, and whose is captured on instead."""

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
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Its link, and its flows on its VPC's router's; repeatable, beside others too.",
        ),
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
    hosts = host or []
    if environment is not None and interface is not None:
        raise UserError("capture which? (give either --environment or --interface)")
    if environment is None and interface is None and not hosts:
        raise UserError("capture what? (give --environment, --interface or --host)")
    if output == STANDARD_OUTPUT and sys.stdout.isatty():
        raise UserError("a capture is no text for a terminal (-w FILE.pcapng, or pipe it on)")
    with _one_line_errors():
        program = None if expression is None else filters.compiled(expression)
        common.require_root(ctx, "capture")
        connection = common.client(ctx, lab)
        gateway = gateway_namespace(connection.lab)
        names = Names(connection)
        links = _links(connection, environment, interface, hosts)
        in_own_session(_leave)
        with contextlib.ExitStack() as stack:
            sources = _tapped(stack, gateway, links, program)
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


def _tapped(
    stack: contextlib.ExitStack, gateway: str, links: Sequence[Link], program: bytes | None
) -> list[Source]:
    """Taps on links, which see all that leaves there from their first frame on.

    What the kernel forwards leaves by a near end where there is a tap; so there is one before that
    sees nothing.
    """
    with contextlib.ExitStack() as before:
        for link in links:
            before.enter_context(contextlib.closing(Tap(gateway, link.name, filters.NOTHING)))
        leave_by_near_ends(gateway, [link.name for link in links])
        return [
            Source(
                stack.enter_context(contextlib.closing(Tap(gateway, link.name, program))),
                link.identifier,
                link.description,
                link.only,
            )
            for link in links
        ]


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (CaptureError, FlowCacheError, StateMapError) as error:
        raise UserError(str(error)) from None


def _leave(status: int) -> None:
    raise typer.Exit(status)


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the gateway that is to be tapped."""

    name: str
    description: str
    identifier: Identifier
    only: Callable[[AnyFlow], bool] | None = None
    """The flows whose frames are wanted; None: all frames."""


def _links(
    connection: Client, environment: str | None, interface: str | None, hosts: Sequence[str]
) -> list[Link]:
    """What to tap; UserError when there is no such environment, interface or host."""
    interfaces = common.rows(connection.get("/v1/interfaces"))
    links = []
    if environment is not None:
        links = _environment_links(connection, interfaces, environment)
    elif interface is not None:
        links = [_interface_link(connection, interfaces, interface)]
    if hosts:
        found = {row["Number"]: row for row in (find(connection, named) for named in hosts)}
        tapped = {link.name for link in links}
        links += [
            link for link in _host_links(interfaces, found.values()) if link.name not in tapped
        ]
    return links


def _environment_links(connection: Client, interfaces: list[Row], environment: str) -> list[Link]:
    number = environment_number(environment)
    for row in common.rows(connection.get("/v1/environments")):
        if row["number"] == number:
            break
    else:
        raise UserError(f"unknown environment {environment!r} (see: hyperplane-nat environments)")
    slot = int(row["number"])
    text = f"{row['name']}: the environment's side"
    links = [Link(slot_link(slot), text, Identifier(slot=slot))]
    # One that waits in the pool has none.
    if row["interface"] is not None:
        links.append(_interface_link(connection, interfaces, row["interface"], slot))
    return links


def _interface_link(
    connection: Client, interfaces: list[Row], wanted: str, only_slot: int | None = None
) -> Link:
    for row in interfaces:
        if wanted in (row["name"], row.get("id")):
            break
    else:
        raise UserError(f"unknown interface {wanted!r} (see: hyperplane-nat interfaces)")
    link = str(row["name"])
    if row["kind"] in WITHOUT_LINK:
        whose, place = WITHOUT_LINK[row["kind"]]
        raise UserError(
            f"{row['id']} is a {whose}'s interface, which has no link (capture on {place}'s: "
            "hyperplane-nat interfaces)"
        )
    text = f"{row.get('id') or link}: the VPC's side"
    if only_slot is not None:
        text += f", flows of {environment_name(only_slot)}"
        return Link(
            link,
            text,
            Identifier(interfaces=_numbers(row)),
            lambda flow: isinstance(flow, Flow) and flow.slot == only_slot,
        )
    hosts = []
    if row["kind"] == "router":
        every = common.rows(connection.get("/v1/hosts"))
        hosts = [host for host in every if host["VpcName"] == row["vpc"]]
    return Link(link, text, Identifier(interfaces=_numbers(row), hosts=_host_numbers(hosts)))


def _host_links(interfaces: list[Row], hosts: Collection[Row]) -> list[Link]:
    """Those of hosts, and what they exchange with the routers of their VPCs."""
    links = []
    for host in hosts:
        around = [row for row in interfaces if row["vpc"] == host["VpcName"]]
        identifier = Identifier(
            interfaces={address: n for row in around for address, n in _numbers(row).items()},
            hosts=_host_numbers([host]),
        )
        text = f"{_host_name(host)}: the host's side"
        links.append(Link(host_link(host["Number"]), text, identifier))
    for row in interfaces:
        meant = [host for host in hosts if host["VpcName"] == row["vpc"]]
        if row["kind"] == "router" and meant:
            names = ", ".join(_host_name(host) for host in meant)
            text = f"{row.get('id') or row['name']}: the VPC's side, flows of {names}"
            numbers = _host_numbers(meant)
            only = functools.partial(_is_of, frozenset(numbers.values()))
            links.append(Link(str(row["name"]), text, Identifier(hosts=numbers), only))
    return links


def _is_of(hosts: AbstractSet[int], flow: AnyFlow) -> bool:
    return isinstance(flow, HostFlow) and any(
        side == Side.HOST and number in hosts
        for side, number in (
            (flow.originator_side, flow.originator),
            (flow.responder_side, flow.responder),
        )
    )


def _numbers(row: Row) -> dict[bytes, int]:
    """Numbers of an interface by address."""
    addresses = (row["address"], *row["secondary_addresses"])
    numbers = (row["number"], *row["secondary_numbers"])
    return {
        socket.inet_aton(address): int(number)
        for address, number in zip(addresses, numbers, strict=True)
    }


def _host_numbers(hosts: Iterable[Row]) -> dict[bytes, int]:
    """The same of hosts."""
    return {socket.inet_aton(host["PrivateIpAddress"]): int(host["Number"]) for host in hosts}


def _host_name(row: Row) -> str:
    return f"{row['VpcName']}/{row['HostName']}"


class Names:
    """What comments call who has begun a flow.

    That is an environment, and the function that has it; or a host, or the router of its VPC.
    """

    def __init__(self, connection: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._names: dict[int, str] = {}
        self._hosts: dict[int, Row] = {}
        self._due = 0.0

    def __call__(self, flow: AnyFlow) -> str:
        """The name, asked for again now and then."""
        now = self._clock()
        if now >= self._due:
            self._due = now + NAMES_SECONDS
            # Without a controller comments have the last names known.
            with contextlib.suppress(ClientError):
                rows = common.rows(self._connection.get("/v1/environments"))
                self._names = {row["number"]: _name(row) for row in rows}
                rows = common.rows(self._connection.get("/v1/hosts"))
                self._hosts = {row["Number"]: row for row in rows}
        if isinstance(flow, HostFlow):
            return self._of_host(flow)
        return self._names.get(flow.slot) or environment_name(flow.slot)

    def _of_host(self, flow: HostFlow) -> str:
        begun = flow.originator_side == Side.HOST
        number = flow.originator if begun else flow.responder
        row = self._hosts.get(number)
        if begun:
            return f"host-{number}" if row is None else _host_name(row)
        if flow.to_public_address:
            return "internet"
        return "router" if row is None else f"router of {row['VpcName']}"


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
