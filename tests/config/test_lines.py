# SPDX-License-Identifier: Apache-2.0
"""Lines of a TOML file by what is on them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hyperplane_nat.config.lines import Lines

TEXT = """\
top = 1
[lab]
name = "x" # a comment
"a key".b = '''
two lines'''

[[vpc]]
name = "one"
[[vpc.subnet]]
name = "a"
[[vpc.subnet]]
name = "b"
[[function]]
name = "f"
groups = [
    "first",
    # another comment
    "second",
]
[[vpc]]
name = "two"
rules = [
    { protocol = "tcp", peer.cidr = "10.0.0.0/8" },
    { protocol = "udp" }, { protocol = "icmp" },
]
[[vpc.subnet]]
name = "c"
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("lab",), 2),
        (("lab", "name"), 3),
        (("lab", "a key"), 4),
        (("lab", "a key", "b"), 4),
        (("vpc",), 7),
        (("vpc", 0), 7),
        (("vpc", 0, "subnet", 0, "name"), 10),
        (("vpc", 0, "subnet", 1), 11),
        (("vpc", 0, "subnet", 1, "name"), 12),
        (("function", 0, "groups"), 15),
        (("function", 0, "groups", 0), 16),
        (("function", 0, "groups", 1), 18),
        (("vpc", 1), 20),
        (("vpc", 1, "rules", 0, "protocol"), 23),
        (("vpc", 1, "rules", 0, "peer", "cidr"), 23),
        (("vpc", 1, "rules", 2, "protocol"), 24),
        (("vpc", 1, "subnet", 0, "name"), 27),
    ],
)
def test_the_line_of_what_is_there(path: tuple[str | int, ...], line: int) -> None:
    assert Lines(TEXT).of(path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [(("vpc", 1, "cidr"), 20), (("vpc", 0, "subnet", 1, "cidr"), 11), (("metrics", "port"), None)],
)
def test_what_is_missing_is_where_it_would_be(
    path: tuple[str | int, ...], line: int | None
) -> None:
    assert Lines(TEXT).of(path) == line


EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "lambda.toml"


def test_every_value_of_an_example_is_where_it_is_written() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    lines, found = Lines(text), 0
    written = text.splitlines()

    def walk(value: object, path: tuple[str | int, ...]) -> None:
        nonlocal found
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, (*path, key))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                walk(item, (*path, number))
        else:
            line = lines.of(path)
            assert line is not None
            assert str(value) in written[line - 1]
            found += 1

    walk(tomllib.loads(text), ())
    assert found > 100
