# SPDX-License-Identifier: Apache-2.0
"""`lab.json`: the configuration of a lab, kept for the controller that comes next.

Theory of operation
-------------------
Kept is what the user said, and nothing that was filled in, so that a version with another field or
another default fills in its own. Compared is what two configurations mean, field by field, with the
defaults of the version that compares (`differences`).

The document has a version. `_FORMER` turns a document of a former version into the one after it, a
step at a time, so that what a killed controller of any former version left can be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperplane_nat.config.lab import Config, ConfigError, validated
from hyperplane_nat.config.values import Section
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import json_beside

VERSION = 2

RESOURCES = ("account", "vpc", "internet", "function", "pool")
"""The sections of a configuration that `apply` may change."""


class RecordError(ControllerError):
    """The file cannot be understood or written; the text says why."""


def said(config: Config) -> dict[str, Any]:
    """What the user said of a configuration, as JSON; `Config` makes the same of it again."""
    return config.model_dump(mode="json", exclude_unset=True)


def prepare(path: Path, config: Config) -> Path:
    """Write all of it beside the file; renaming the result, which cannot fail for want of room,
    replaces the file. RecordError.
    """
    try:
        return json_beside(path, {"version": VERSION, "said": said(config)})
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror} (see whether its file system is full)"
        ) from None


def write(path: Path, config: Config) -> None:
    """Replace the file as a whole. RecordError."""
    prepare(path, config).replace(path)


def read(path: Path) -> Config | None:
    """The configuration kept in the file; None when there is no file. RecordError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise RecordError(f"{path} is not the record of a lab")
    version = document.get("version", 1)
    while isinstance(version, int) and (former := _FORMER.get(version)):
        document = former(document)
        version = document["version"]
    if version != VERSION:
        raise RecordError(f"{path} is of version {version!r}, this program reads {VERSION}")
    try:
        return validated(document["said"], str(path))
    except KeyError:
        raise RecordError(f"{path} is not the record of a lab") from None
    except ConfigError as error:
        raise RecordError(error.line) from None


def _from_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 was the whole configuration, defaults included, and nothing else.

    What had a default that is another one today was most likely not said.
    """
    said = {name: dict(fields) for name, fields in document.items() if isinstance(fields, Mapping)}
    for section, defaults in _DEFAULTS_OF_1.items():
        for name, default in defaults.items():
            if said.get(section, {}).get(name) == default:
                del said[section][name]
    return {"version": 2, "said": {**document, **said}}


_DEFAULTS_OF_1: Mapping[str, Mapping[str, object]] = {"lifecycle": {"interfaces_per_vpc": 250}}


_FORMER: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}


def differences(now: Config, wanted: Config) -> list[str]:
    """The fields in which two configurations differ in meaning, as `section.field`; a list as a
    whole.
    """
    return list(_differences(now, wanted, ""))


def _differences(now: Section, wanted: Section, prefix: str) -> Iterator[str]:
    for name in type(now).model_fields:
        one, other = getattr(now, name), getattr(wanted, name)
        if isinstance(one, Section) and isinstance(other, Section):
            yield from _differences(one, other, f"{prefix}{name}.")
        elif one != other:
            yield prefix + name


def section_of(field: str) -> str:
    """The section that a field of `differences` is in."""
    return field.partition(".")[0]


def as_it_is(document: Mapping[str, Any], running: Config) -> dict[str, Any]:
    """The document with the environments and interfaces of the running lab where it says none.

    Defaults would change them, with a first function or subnet.
    """
    result = dict(document)
    lab = result.get("lab", {})
    if not isinstance(lab, Mapping):
        return result
    result["lab"] = {"environments": running.lab.environments, **lab}
    if "network_interface" not in result:
        result["network_interface"] = [
            interface.model_dump(mode="json") for interface in running.network_interface
        ]
    return result
