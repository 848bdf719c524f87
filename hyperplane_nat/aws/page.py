# SPDX-License-Identifier: Apache-2.0
"""docs/aws-api.md, written from the table of operations: `python -m hyperplane_nat.aws.page`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from moto.core.utils import get_service_model

from hyperplane_nat.aws.operations import RECORDED_SERVICES, Treatment, treatment

SERVICES = ("ec2", "lambda", "elbv2", "logs", "cloudwatch", "cloudformation")
"""Those whose operations are all listed."""

_COLUMNS = 100
"""Of a line of the page."""

_HEAD = """\
# Operations of AWS's APIs

Made by `make docs` of the table that the endpoint goes by ([aws.md](aws.md)); botocore says which
operations there are. **Real**: done in the region, packets follow. **Recorded**: moves no packets
and is answered from the endpoint's memory, by moto. **Refused**: `UnsupportedOperation`, because
packets would have to follow, or because moto has no answer either.

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


def _sections() -> Iterator[str]:
    yield _table()
    for service in SERVICES:
        yield f"\n## {service}"
        for kind, names in operations(service).items():
            if names:
                yield f"\n**{_TITLES[kind]}** ({len(names)})\n\n{_list(names)}"


def _table() -> str:
    lines = ["| service | real | recorded | refused |", "| --- | --- | --- | --- |"]
    for service in SERVICES:
        counts = " | ".join(str(len(names)) for names in operations(service).values())
        lines.append(f"| {service} | {counts} |")
    return "\n".join(lines)


def _list(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), _COLUMNS, break_long_words=False)


if __name__ == "__main__":
    print(markdown(), end="")
