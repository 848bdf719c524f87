# SPDX-License-Identifier: Apache-2.0
"""The configuration written out: as TOML that `config.load` reads back, and as documentation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hyperplane_nat.config import Config, Section, nested_section


def toml(config: Config, *, comments: bool = False) -> str:
    """The configuration as TOML; `load` reads it back as the same. Comments describe each field."""
    lines: list[str] = []
    _toml_table(config, "", lines, comments)
    return "\n".join(lines).strip() + "\n"


def _toml_table(section: Section, prefix: str, lines: list[str], comments: bool) -> None:
    fields = type(section).model_fields
    for name, field in fields.items():
        if nested_section(field) is None:
            if comments:
                lines.extend(_comment(field.description or ""))
            lines.append(f"{name} = {_toml_value(getattr(section, name))}")
    for name, field in fields.items():
        nested = nested_section(field)
        if nested is None:
            continue
        value = getattr(section, name)
        for item in value if _repeated(field) else [value]:
            lines.append("")
            if comments:
                lines.extend(_comment(_summary(nested)))
            lines.append(_header(prefix + name, field))
            _toml_table(item, f"{prefix}{name}.", lines, comments)


def _comment(text: str, width: int = 98) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, width))


def _toml_value(value: object) -> str:
    if isinstance(value, str):
        # A basic string of TOML is escaped as one of JSON, DEL apart.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _header(name: str, field: FieldInfo) -> str:
    return f"[[{name}]]" if _repeated(field) else f"[{name}]"


def _repeated(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _type_name(annotation: object) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    names: dict[object, str] = {str: "text", int: "integer", float: "number"}
    return names[annotation]


def _limits(field: FieldInfo) -> str:
    bounds = {
        name: getattr(item, name)
        for item in field.metadata
        for name in ("ge", "gt", "le")
        if hasattr(item, name)
    }
    if "ge" in bounds:
        return f", {bounds['ge']} to {bounds['le']}"
    if "gt" in bounds:
        return f", above {bounds['gt']}, to {bounds['le']}"
    return ""


_PREAMBLE = """\
<!-- Written by `python -m hyperplane_nat.config --markdown`: change hyperplane_nat/config.py. -->

# Configuration

`hyperplane-nat up -c LAB.toml` reads a TOML file. Every value has a default: an empty file is the
default lab. `hyperplane-nat config` prints the whole configuration in effect with a comment on
every field, a good file to start from; `hyperplane-nat config -c LAB.toml` checks a file without
starting anything.

Units are part of the names. An unknown field, or a value that cannot work, is refused with one line
that says which it is and what to do, before anything is created.

A file with a `[[vpc]]` or a `[[network_interface]]` of its own replaces the default lab's list of
them; what is marked *required* must then be said.
"""


def markdown() -> str:
    """The text of docs/configuration.md."""
    lines: list[str] = []
    _markdown_tables(Config, Config(), "", lines)
    return _PREAMBLE + "\n".join(lines) + "\n"


def _markdown_tables(
    model: type[BaseModel], example: BaseModel, prefix: str, lines: list[str]
) -> None:
    for name, field in model.model_fields.items():
        nested = nested_section(field)
        if nested is None:
            continue
        value = getattr(example, name)
        first: Section = value[0] if _repeated(field) else value
        lines += ["", f"## `{_header(prefix + name, field)}`", "", _summary(nested), ""]
        lines += ["| field | type | default | |", "| --- | --- | --- | --- |"]
        for key, item in nested.model_fields.items():
            if nested_section(item) is not None:
                continue
            default = f"`{_toml_value(getattr(first, key))}`"
            if item.is_required():
                default = f"*required*; default lab: {default}"
            kind = _type_name(item.annotation) + _limits(item)
            lines.append(f"| `{key}` | {kind} | {default} | {item.description} |")
        _markdown_tables(nested, first, f"{prefix}{name}.", lines)
