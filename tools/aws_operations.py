# SPDX-License-Identifier: Apache-2.0
"""docs/aws-api.md, written from the table of operations: `python -m tools.aws_operations`."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from moto.core.utils import get_service_model

from hyperplane_nat.aws.operations import RECORDED_SERVICES, Treatment, treatment

SERVICES = ("ec2", "lambda", "elbv2", "logs", "cloudwatch", "cloudformation")
"""Those whose operations are all listed."""

TESTS = Path(__file__).resolve().parents[1] / "tests" / "aws"

_COLUMNS = 100
"""Of a line of the page."""

_HEAD = """\
# Operations of AWS's APIs

Made by `make docs` of the table that the endpoint goes by ([aws.md](aws.md)); botocore says which
operations there are. **Real**: done in the region, packets follow. **Recorded**: moves no packets
and is answered by moto or from a table, and noted where something is to be kept. **Refused**:
`UnsupportedOperation`, because packets would have to follow, or because moto has no answer either.

Beside what is not moto's answer stands the test that shows it, which fails unless the operation is
answered in it (`tests/aws/shown.toml`). Of moto's and of what is refused,
`tests/aws/test_recorder.py`, `tests/aws/test_server.py` and `tests/aws/test_operations.py` have
tests.

{recorded}
"""

_TITLES = {
    Treatment.REAL: "Real",
    Treatment.RECORDED: "Recorded",
    Treatment.REFUSED: "Refused",
}


def operations(service: str) -> dict[Treatment, list[str]]:
    """All operations of a service, by what becomes of them."""
    found: dict[Treatment, list[str]] = {kind: [] for kind in Treatment}
    for name in sorted(get_service_model(service).operation_names):
        found[treatment(service, name)].append(name)
    return found


def markdown() -> str:
    """The page."""
    services = ", ".join(f"`{name}`" for name in sorted(RECORDED_SERVICES))
    recorded = textwrap.fill(
        f"Recorded are, as far as moto has them: {services}. `sts` has GetCallerIdentity for real. "
        "Every service that is not named on this page is refused.",
        _COLUMNS,
    )
    return "\n".join([_HEAD.format(recorded=recorded), *_sections()]) + "\n"


@cache
def shown() -> Mapping[tuple[str, str], str]:
    """By service and operation the test that shows it, as FILE::TEST."""
    found = tomllib.loads((TESTS / "shown.toml").read_text(encoding="utf-8"))
    return {
        (service, operation): test
        for service, tests in found.items()
        for operation, test in tests.items()
    }


def _sections() -> Iterator[str]:
    yield _table()
    for service in SERVICES:
        yield f"\n## {service}"
        for kind, names in operations(service).items():
            if names and set(names) <= {name for of, name in shown() if of == service}:
                yield f"\n**{_TITLES[kind]}** ({len(names)})\n\n{_tests(service, names)}"
            elif names:
                yield f"\n**{_TITLES[kind]}** ({len(names)})\n\n{_list(names)}"


def _table() -> str:
    lines = ["| service | real | recorded | refused |", "| --- | --- | --- | --- |"]
    for service in SERVICES:
        counts = " | ".join(str(len(names)) for names in operations(service).values())
        lines.append(f"| {service} | {counts} |")
    return "\n".join(lines)


def _tests(service: str, names: Iterable[str]) -> str:
    lines = ["| operation | shown by |", "| --- | --- |"]
    for name in names:
        file, _, test = shown().get((service, name), "").partition("::")
        lines.append(f"| {name} | [{test}](../tests/aws/{file}) |")
    return "\n".join(lines)


def _list(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), _COLUMNS, break_long_words=False)


if __name__ == "__main__":
    print(markdown(), end="")
