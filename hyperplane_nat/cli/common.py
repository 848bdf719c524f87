# SPDX-License-Identifier: Apache-2.0
"""What the commands share: which lab is meant, options, and how results are printed."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperplane_nat.client import Client
from hyperplane_nat.unix_socket import RUNTIME_DIRECTORY
from netns import NetnsError, names

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_LAB = "default"

PIPE_WIDTH = 1 << 20
"""Columns where the output is no terminal: rich would otherwise cut lines at 80."""


_JSON = "hyperplane_nat.json"
_ARGUMENTS = "hyperplane_nat.arguments"

OF_ALL_LABS = ("config", "coldstart", "doctor", "labs")
"""Commands that a hint names without a lab."""

_HINT = re.compile(rf"(?<![\w/])hyperplane-nat (?!(?:{'|'.join(OF_ALL_LABS)})\b)(?=[a-z][a-z-]*\b)")
_NAMED = re.compile(r"[a-z-]+ --lab\b")
_LAB = "hyperplane_nat.lab"


class UserError(Exception):
    """Something the user can mend; the text is one line with the remedy."""


@dataclass(frozen=True)
class Settings:
    """The global options, before a command's own."""

    lab: str | None = None
    runtime_directory: Path | None = None
    umask: int | None = None
    """What it was when the command was called; None if it is still the same."""


def path(what: str) -> Callable[[str], Path]:
    """
    A parser of paths for option or argument `what`.

    It refuses the empty one: that is what a shell makes of a variable that is not set, and for
    Python it would be the working directory.
    """

    def parse(text: str) -> Path:
        if not text:
            raise UserError(f"{what} is empty (is a variable of the shell not set?)")
        return Path(text)

    return parse


LabOption = Annotated[
    str | None,
    typer.Option("--lab", "--name", metavar="NAME", help="Lab to act on, here or before the verb."),
]


def text_or_file(option: str, text: str) -> str:
    """An option's text, or what is in the file that `@FILE` names; UserError without one."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise UserError(f"{option}: {text[1:]}: {why} (name a file with JSON)") from None


def _note_json(ctx: typer.Context, wanted: bool) -> bool:
    ctx.meta[_JSON] = wanted
    return wanted


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_note_json, help="Print JSON for programs.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        parser=path("--config"),
        metavar="LAB.toml",
        help="Configuration; default lab if absent.",
    ),
]
EnvironmentsOption = Annotated[
    int | None,
    typer.Option("-n", "--environments", metavar="N", help="Overrides lab.environments."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.FIELD=VALUE", help="Overrides any other value; repeatable."
    ),
]


def lab_name(ctx: typer.Context, lab: str | None) -> str:
    """The lab that is meant: the command's option, the global one, the environment's, default."""
    settings: Settings = ctx.obj
    named = lab if lab is not None else settings.lab
    name = DEFAULT_LAB if named is None else named
    try:
        names.gateway_namespace(name)
    except NetnsError as error:
        raise UserError(f"{name!r} is not a lab name ({error.remedy})") from None
    acts_on(ctx, name, named=named is not None)
    return name


def named_lab(ctx: typer.Context, lab: str | None) -> str | None:
    """The lab that is meant if one is named, by the command's option, before it or outside."""
    settings: Settings = ctx.obj
    return None if lab is None and settings.lab is None else lab_name(ctx, lab)


def acts_on(ctx: typer.Context, lab: str, *, named: bool) -> None:
    """Note which lab it is about, for the errors; whether somebody named it."""
    ctx.meta[_LAB] = (lab, named)


def acted_on(ctx: typer.Context) -> tuple[str, bool]:
    """The lab that the command is about, as far as that is known, and whether somebody named it."""
    settings: Settings | None = ctx.obj
    named = None if settings is None else settings.lab
    found: tuple[str, bool] = ctx.meta.get(_LAB, (named or DEFAULT_LAB, named is not None))
    return found


def wants_json(ctx: typer.Context) -> bool:
    """Whether the command was told `--json`."""
    return bool(ctx.meta.get(_JSON))


def with_lab(text: str, lab: str) -> str:
    """A text whose hints are commands for this lab."""
    if lab == DEFAULT_LAB:
        return text

    def complete(found: re.Match[str]) -> str:
        named = _NAMED.match(text, found.end())
        return found[0] if named else f"{found[0]}--lab {lab} "

    return _HINT.sub(complete, text)


def note_arguments(ctx: typer.Context, arguments: list[str]) -> None:
    """Keep the command line as it was typed."""
    ctx.meta[_ARGUMENTS] = list(arguments)


def arguments(ctx: typer.Context) -> list[str]:
    """The command line as it was typed."""
    typed: list[str] = ctx.meta[_ARGUMENTS]
    return typed


def runtime_root(ctx: typer.Context) -> Path:
    """The directory that holds each lab's runtime directory."""
    settings: Settings = ctx.obj
    return settings.runtime_directory or RUNTIME_DIRECTORY


def client(ctx: typer.Context, lab: str | None) -> Client:
    """The control API of the lab that is meant."""
    return Client(lab_name(ctx, lab), runtime_directory=runtime_root(ctx))


def overrides(
    ctx: typer.Context, lab: str | None, environments: int | None, assignments: list[str] | None
) -> dict[str, object]:
    """The command line's say on the configuration, as `config.load` takes it."""
    settings: Settings = ctx.obj
    result: dict[str, object] = {}
    for assignment in assignments or []:
        name, separator, text = assignment.partition("=")
        if not separator or "." not in name:
            raise UserError(f"--set {assignment}: not an assignment (write section.field=value)")
        result[name.strip()] = _toml_value(text.strip())
    named = (lab, settings.lab, result.get("lab.name"))
    result["lab.name"] = next((each for each in named if each is not None), None)
    result["lab.environments"] = (
        environments if environments is not None else result.get("lab.environments")
    )
    if settings.runtime_directory is not None:
        result["lab.runtime_directory"] = str(settings.runtime_directory.absolute())
    return result


def _toml_value(text: str) -> object:
    """A value as in TOML; what is none is text, so that a shell's quotes need no quotes inside."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def require_root(ctx: typer.Context, what: str) -> None:
    """Raise UserError unless we may make namespaces; the remedy is the command as typed."""
    if os.geteuid() != 0:
        lab, named = acted_on(ctx)
        typed = arguments(ctx)
        # One that the environment names is lost to sudo.
        select = ["--lab", lab] if named and lab not in typed else []
        command = shlex.join(["sudo", "hyperplane-nat", *select, *typed])
        raise UserError(f"{what} needs root (run: {command})")


def console(*, stderr: bool = False) -> Console:
    """A console that does not cut lines when the output is a pipe."""
    # Here, not above: most commands draw nothing.
    from rich.console import Console

    result = Console(stderr=stderr, highlight=False)
    if not result.is_terminal:
        result.width = PIPE_WIDTH
    return result


def print_json(document: object) -> None:
    """The document as JSON, for programs and readable."""
    typer.echo(json.dumps(document, indent=2))


def rows(document: object) -> list[dict[str, Any]]:
    """A list of objects, as the API answers for environments, interfaces and flows."""
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise UserError(
            "the controller answered something unexpected (is its version another one?)"
        )
    return document


def mapping(document: object) -> dict[str, Any]:
    """One object, as the API answers for status and verify."""
    if not isinstance(document, dict):
        raise UserError(
            "the controller answered something unexpected (is its version another one?)"
        )
    return document


def metrics(status: Mapping[str, Any]) -> str:
    """Where the metrics are, and why not where they are usually."""
    passed_over = status.get("metrics_port_passed_over")
    note = "" if passed_over is None else f" (the default port, {passed_over}, was taken)"
    return f"{status['metrics_url']}{note}"


def byte_count(value: float) -> str:
    """A number of bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """A span of time for people: 42 s, 3 min 20 s, 5 h 10 min, 3 d 4 h."""
    whole = int(seconds)
    for unit, lower, size, lower_size in (
        ("d", "h", 86400, 3600),
        ("h", "min", 3600, 60),
        ("min", "s", 60, 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower_size} {lower}"
    return f"{whole} s"


def latency(seconds: float) -> str:
    """A short span of time for people: 0.08 ms, 4.25 ms, 350 ms, 12.0 s."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.{2 if seconds < 0.1 else 0}f} ms"


def percentile(values: Sequence[float], percent: float) -> float:
    """
    The smallest of the values that `percent` of them do not exceed (nearest rank): always one that
    was measured. ValueError if there are none.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]
