# SPDX-License-Identifier: Apache-2.0
"""The configuration written out: as TOML that `config.load` reads back, and as documentation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.nat import RFC_VALUES
from hyperplane_nat.config.values import Section, nested_section


def toml(config: Config, *, comments: bool = False) -> str:
    """The configuration as TOML; `load` reads it back as the same. Comments describe each field."""
    lines: list[str] = []
    _toml_table(config, "", lines, comments)
    return "\n".join(lines).strip() + "\n"


def _toml_table(section: Section, prefix: str, lines: list[str], comments: bool) -> None:
    fields = type(section).model_fields
    for name, field in fields.items():
        value = getattr(section, name)
        # A list of tables that is empty, but would not be if it were left out, has to be said.
        missed = value == [] and field.get_default(call_default_factory=True)
        nested = nested_section(field)
        if nested is None or missed:
            if comments:
                about = _summary(nested, field) if nested else field.description
                lines.extend(_comment(about or ""))
            if value is not None:
                lines.append(f"{name} = {toml_value(value)}")
            elif comments:
                lines.append(f"# {name} is not set.")
    for name, field in fields.items():
        nested = nested_section(field)
        if nested is None:
            continue
        value = getattr(section, name)
        for item in value if _repeated(field) else [value]:
            lines.append("")
            if comments:
                lines.extend(_comment(_summary(nested, field)))
            lines.append(_header(prefix + name, field))
            _toml_table(item, f"{prefix}{name}.", lines, comments)


def _comment(text: str, width: int = 98) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, width))


def toml_value(value: object) -> str:
    """A value as in TOML; a dict is an inline table."""
    if isinstance(value, str):
        # A basic string of TOML is escaped as one of JSON, DEL apart.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {toml_value(item)}' for name, item in value.items())}}}"
    return repr(value)


def _header(name: str, field: FieldInfo) -> str:
    return f"[[{name}]]" if _repeated(field) else f"[{name}]"


def _repeated(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def _summary(model: type[BaseModel], field: FieldInfo) -> str:
    """What a table is, and what it is for where it is a part of another."""
    return " ".join(f"{model.__doc__ or ''} {field.description or ''}".split())


def _type_name(annotation: object) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        kinds = (item for item in get_args(annotation) if item is not NoneType)
        return " or ".join(_type_name(item) for item in kinds)
    if get_origin(annotation) is list:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"table of {_type_name(get_args(annotation)[1])}"
    names: dict[object, str] = {
        str: "text",
        bool: "`true` or `false`",
        int: "integer",
        float: "number",
    }
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
<!-- Written by `python -m hyperplane_nat.config --markdown`: change hyperplane_nat/config*.py. -->

# Configuration

`hyperplane-nat up -c LAB.toml` reads a TOML file. Every value has a default: an empty file is the
default lab. `hyperplane-nat config` prints the whole configuration in effect with a comment on
every field, a good file to start from; `hyperplane-nat config -c LAB.toml` checks a file without
starting anything.

Units are part of the names. Unknown fields, and values that cannot work, are refused before
anything is created, all of them at once: a line for each with the file's line, the entry by its
name, what is wrong and what to do.

```
lab.toml:41: [[function]] "web": subnets[1]: there is no subnet 'z' (known: a, b)
```

A file with a `[[vpc]]` or a `[[network_interface]]` of its own replaces the default lab's list of
them; what is marked *required* must then be said. A file with a `[[function]]` or a `[[vpc.host]]`,
and one whose VPCs have no subnet, has no environments and network interfaces but those it asks for.
A lab may be empty: `vpc = []` is a file. docs/examples/lambda.toml is a lab of functions, with
comments.
"""


def markdown() -> str:
    """The text of docs/configuration.md."""
    lines: list[str] = []
    _markdown_tables(Config, Config(), "", lines)
    return "\n".join([_PREAMBLE, *_profile_table(), *lines]) + "\n"


def _profile_table() -> list[str]:
    """Where the profiles differ."""
    example = Config()
    lines = [
        "## Profiles",
        "",
        "`nat.profile` sets the defaults below; a value given in the file stands in either "
        "profile. What each means in terms of the RFCs and of AWS's documentation, and which "
        "test shows it: docs/conformance.md.",
        "",
        "| field | `aws` | `rfc` |",
        "| --- | --- | --- |",
    ]
    for (section, field), value in RFC_VALUES.items():
        default = getattr(getattr(example, section), field)
        lines.append(f"| `{section}.{field}` | `{toml_value(default)}` | `{toml_value(value)}` |")
    return lines


def _markdown_tables(
    model: type[BaseModel], example: BaseModel | None, prefix: str, lines: list[str]
) -> None:
    for name, field in model.model_fields.items():
        nested = nested_section(field)
        if nested is None:
            continue
        first = _first(getattr(example, name, None))
        lines += ["", f"## `{_header(prefix + name, field)}`", "", _summary(nested, field), ""]
        if first is None:
            lines += ["The default lab has none.", ""]
        lines += ["| field | type | default | |", "| --- | --- | --- | --- |"]
        for key, item in nested.model_fields.items():
            if nested_section(item) is not None:
                continue
            kind = _type_name(item.annotation) + _limits(item)
            default = _markdown_default(item, key, first)
            lines.append(f"| `{key}` | {kind} | {default} | {item.description} |")
        _markdown_tables(nested, first, f"{prefix}{name}.", lines)


def _first(value: Section | list[Section] | None) -> Section | None:
    if isinstance(value, list):
        return value[0] if value else None
    return value


def _markdown_default(field: FieldInfo, name: str, example: Section | None) -> str:
    if not field.is_required():
        value = field.get_default(call_default_factory=True)
        said = value if example is None else getattr(example, name)
        default = "none" if value is None else f"`{toml_value(value)}`"
        return default if value == said else f"{default}; default lab: `{toml_value(said)}`"
    if example is None:
        return "*required*"
    return f"*required*; default lab: `{toml_value(getattr(example, name))}`"
