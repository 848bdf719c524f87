# SPDX-License-Identifier: Apache-2.0
"""Who imports whom: one way, as docs/architecture.md has it, and no file too long to be read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
LINES_MAX = 600
SPLIT = ("engine", "controller")
"""Packages whose packages are rooms of their own."""

IMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n#]*)", re.MULTILINE)
ROW = re.compile(r"^\| `([\w.]+)` \| [^|]* \| ([^|]*) \|$", re.MULTILINE)
SOURCES = (".py", ".pyx", ".pxd")


@cache
def modules() -> Mapping[str, tuple[Path, ...]]:
    """The product's files by the name of their module: a .pyx and its .pxd are one."""
    found = defaultdict(list)
    for top in ("hyperplane_nat", "netns"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in SOURCES:
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")].append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def imported(paths: tuple[Path, ...]) -> Iterator[str]:
    """The modules of the product that a module names, wherever in it."""
    for path in paths:
        for package, names in IMPORT.findall(path.read_text(encoding="utf-8")):
            if package not in modules():
                continue
            inner = {f"{package}.{name}" for name in re.findall(r"(\w+)(?: as \w+)?", names)}
            yield from (inner & modules().keys()) or {package}


def room(module: str) -> str:
    """The room that a module is in; one at the top is a room of its own."""
    first, *rest = module.split(".")
    if first == "netns" or not rest:
        return first
    if rest[0] in SPLIT and (ROOT / first / rest[0] / "".join(rest[1:2])).is_dir():
        return ".".join(rest[:2])
    return rest[0]


def test_rooms_import_what_the_architecture_says() -> None:
    said = {
        name: set(re.findall(r"`([\w.]+)`", row)) for name, row in ROW.findall(PAGE.read_text())
    }
    found: dict[str, set[str]] = defaultdict(set)
    for name, paths in modules().items():
        for other in imported(paths):
            if room(other) not in (room(name), "hyperplane_nat"):
                found[room(name)].add(room(other))
    assert len(found) > 10
    assert {name: sorted(rooms) for name, rooms in said.items() if rooms} == {
        name: sorted(rooms) for name, rooms in found.items()
    }


def test_the_product_needs_nothing_of_its_tests() -> None:
    pattern = re.compile(r"^\s*(?:from|c?import)\s+((?:bench|tests|tools)\b.*)", re.MULTILINE)
    wrong = {
        str(path): found
        for paths in modules().values()
        for path in paths
        if (found := pattern.findall(path.read_text(encoding="utf-8")))
    }
    assert not wrong


def test_no_import_goes_round_in_a_circle() -> None:
    """Not even one for the types alone: who is in it can only be understood together."""
    left = {name: set(imported(paths)) - {name} for name, paths in modules().items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    # Who only imports something of a circle is in none.
    while idle := left.keys() - set[str]().union(*left.values()):
        left = {name: others for name, others in left.items() if name not in idle}
    assert sorted(left) == []


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for top in ("hyperplane_nat", "netns", "bench", "tests", "tools", "examples")
        for path in (ROOT / top).rglob("*")
        if path.suffix in SOURCES and path.name != "_constants.pxd"
    }
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}
