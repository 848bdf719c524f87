# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a configuration, all of it, in the user's terms.

Theory of operation
-------------------
Pydantic collects what is wrong with single fields. What only several fields show together is asked
of a configuration whose fields are right (`Section.problems`, the checks of the whole). So that one
mistake does not hide the others, a field that is wrong is left out and the rest checked with its
default; what is then found in the entry of that field may come of leaving it out, and is not told.
Where a field that is required is wrong, there is nothing to check the rest with.

A place is told by the name of its entry, for people, and by its line, for editors.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from hyperplane_nat.config.checks import suggestion
from hyperplane_nat.config.values import FieldError, Section, nested_section
from hyperplane_nat.errors import Problem

Path = tuple[str | int, ...]

REMEDIES = {
    "int_type": "write a whole number without quotes",
    "float_type": "write a number without quotes",
    "string_type": "put it in quotes",
    "model_type": "write it as a table, [name]",
    "list_type": "write it as a list, [...], and one of tables as [[name]]",
}
"""What to do, by pydantic's type of error."""

_STEP = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")


class ProblemsError(ValueError):
    """What only several fields show together."""

    def __init__(self, problems: Iterable[FieldError]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


def inside(section: Section, prefix: str = "") -> Iterator[FieldError]:
    """What the sections of a section, and it itself, find wrong with themselves."""
    for problem in section.problems():
        yield FieldError(prefix + problem.location, problem.what, problem.remedy)
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from inside(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, Section):
                    yield from inside(item, f"{prefix}{name}[{number}].")


def explain(
    error: ValidationError,
    model: type[Section],
    document: object,
    source: str,
    applied: Collection[str] = (),
    text: str | None = None,
) -> list[Problem]:
    """
    The problems of a document that is no `model`, in the order of the file.

    `source` is where the document came from, `text` its TOML; fields named in `applied` came from
    the command line instead.
    """
    said = document if isinstance(document, Mapping) else {}
    found = list(_found(error, model))
    if not _of_the_whole(error):
        wrong = [path for path, _, _ in found if path]
        spoiled = {_entry(path) for path in wrong}
        found += [
            each
            for each in _rest(model, document, wrong)
            if _entry(each[0]) not in spoiled and each[0][0] in said
        ]
    lines = _lines(text)
    problems = []
    for path, what, remedy in found:
        if ".".join(map(str, path)) in applied:
            entry, field = _described(path, model, document)
            problems.append(Problem("command line", None, entry, field, what, remedy))
        elif len(path) > 1 and isinstance(path[1], int) and path[0] not in said:
            section = str(path[0])
            entry, field = _described(path, model, {section: _default(model, section)})
            remedy = f"it is the default lab's: write [[{section}]] in the file"
            problems.append(Problem(source, None, entry, field, what, remedy))
        else:
            entry, field = _described(path, model, document)
            problems.append(Problem(source, lines(path), entry, field, what, remedy))
    return sorted(problems, key=lambda problem: problem.line or sys.maxsize)


def _default(model: type[Section], section: str) -> list[Any]:
    value = model.model_fields[section].get_default(call_default_factory=True)
    return [item.model_dump() for item in value]


def _found(error: ValidationError, model: type[Section]) -> Iterator[tuple[Path, str, str]]:
    for item in error.errors():
        path = item["loc"]
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ProblemsError):
            for problem in cause.problems:
                yield _steps(problem.location), problem.what, problem.remedy
        elif isinstance(cause, FieldError):
            yield path, cause.what, cause.remedy
        elif item["type"] == "extra_forbidden":
            known = _fields_at(path[:-1], model)
            yield path, "unknown field", suggestion(str(path[-1]), known)
        elif item["type"] == "missing":
            yield path, "required, but missing", "add it"
        else:
            message = item["msg"]
            what = f"{_excerpt(item['input'])}: {message[0].lower()}{message[1:]}"
            yield path, what, REMEDIES.get(item["type"], "see docs/configuration.md")


def _of_the_whole(error: ValidationError) -> bool:
    return isinstance(error.errors()[0].get("ctx", {}).get("error"), ProblemsError)


def _rest(
    model: type[Section], document: object, wrong: Iterable[Path]
) -> Iterator[tuple[Path, str, str]]:
    """What else is wrong, these fields left out."""
    rest = copy.deepcopy(document)
    for path in wrong:
        *above, last = path
        parent = _at(rest, above)
        if isinstance(parent, dict):
            parent.pop(last, None)
    try:
        model.model_validate(rest)
    except ValidationError as error:
        if _of_the_whole(error):
            yield from _found(error, model)


def _at(document: object, path: Iterable[str | int]) -> object:
    """What is there; None when nothing is."""
    for part in path:
        if isinstance(document, Mapping):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document


def _entry(path: Path) -> Path:
    """The table that a field is in: up to the last place in a list, or else the section."""
    places = [number for number, part in enumerate(path) if isinstance(part, int)]
    return path[: places[-1] + 1] if places else path[:1]


def _steps(location: str) -> Path:
    return tuple(
        name or int(number) for name, number in (step.groups() for step in _STEP.finditer(location))
    )


def _described(path: Path, model: type[BaseModel], document: object) -> tuple[str, str]:
    """The entry by its name, and the field in it."""
    entry = ""
    rest = path
    while len(rest) > 1 and isinstance(rest[1], int):
        field = model.model_fields.get(str(rest[0]))
        nested = None if field is None else nested_section(field)
        if nested is None:
            break
        item = _at(document, path[: len(path) - len(rest) + 2])
        name = item.get("name") if isinstance(item, Mapping) else None
        if isinstance(name, str):
            called = f'"{_line(name)}"'
        elif not entry:
            called = f"number {rest[1] + 1}"
        else:
            break
        entry += f", {rest[0]} {called}" if entry else f"[[{rest[0]}]] {called}"
        model, rest = nested, rest[2:]
    return entry, _joined(rest)


def _joined(path: Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{_line(part)}" if text else _line(part)
    return text


def _line(name: str) -> str:
    """A name that stays on its line."""
    return name if name.isprintable() else repr(name)[1:-1]


def _lines(text: str | None) -> Any:
    if text is None:
        return lambda _path: None
    # Not from every start: it is needed for a file with a mistake only.
    from hyperplane_nat.config.lines import Lines

    return Lines(text).of


def _excerpt(value: object, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _fields_at(path: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    for part in path:
        if isinstance(part, str):
            nested = nested_section(model.model_fields[part])
            if nested is not None:
                model = nested
    return sorted(model.model_fields)
