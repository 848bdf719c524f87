# SPDX-License-Identifier: Apache-2.0
"""What one command, and one list, of the control API is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field

from hyperplane_nat.controller.api.requests import ClientToken, Request
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.region import Region

Named = Annotated[str, Field(pattern="^[ -~]{1,272}$", description="An id or a name.")]


class CommandRequest(Request):
    """What all bodies of commands have in common."""

    client_token: ClientToken | None = Field(
        default=None,
        description="A name for this request: sent again, it is answered again and not done again.",
    )


R = TypeVar("R", bound=CommandRequest)


@dataclass(frozen=True, slots=True)
class Command(Generic[R]):
    """One method of one path."""

    method: str
    path: str
    summary: str
    body: type[R] | None
    answer: type[BaseModel] | None
    work: Callable[[Commands, str, R], Resource | None]
    """With the name in the path, empty if there is none."""


@dataclass(frozen=True, slots=True)
class Listing:
    """GET of one path."""

    path: str
    summary: str
    describe: Callable[[Region], list[dict[str, Any]]]
    answer: type[BaseModel]


def delete_command(path: str, what: str, work: Callable[[Commands, str], None]) -> Command[Any]:
    """DELETE of one resource."""
    return Command(
        "delete",
        f"{path}/{{name}}",
        f"Delete {what}",
        None,
        None,
        lambda commands, name, _asked: work(commands, name),
    )
