# SPDX-License-Identifier: Apache-2.0
"""`advance`: time passes at once in a lab."""

from __future__ import annotations

from typing import Annotated

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.model.clock import AHEAD_SECONDS_MAX


def advance(
    ctx: typer.Context,
    seconds: Annotated[
        float, typer.Argument(metavar="SECONDS", help="How much time is to pass in the lab.")
    ],
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Advance the lab's clock: idle flows, held ports and life cycles end as if one had waited."""
    # What is no number is in no order either.
    if not 0 <= seconds <= AHEAD_SECONDS_MAX:
        raise UserError(f"SECONDS is {seconds:g}: choose 0 to {AHEAD_SECONDS_MAX}, ten years")
    answer = common.mapping(common.client(ctx, lab).advance(seconds))
    if as_json:
        common.print_json(answer)
        return
    name = common.lab_name(ctx, lab)
    typer.echo(f"the clock of lab {name} is {answer['clock_offset_seconds']:.12g} s ahead")
