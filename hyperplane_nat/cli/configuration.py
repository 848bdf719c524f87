# SPDX-License-Identifier: Apache-2.0
"""`config`: what a lab would be, or is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import (
    ConfigOption,
    EnvironmentsOption,
    JsonOption,
    LabOption,
    SetOption,
    UserError,
)
from hyperplane_nat.config import lab as model
from hyperplane_nat.config.text import toml


def configuration(
    ctx: typer.Context,
    config: ConfigOption = None,
    environments: EnvironmentsOption = None,
    assignments: SetOption = None,
    lab: LabOption = None,
    running: Annotated[
        bool, typer.Option("--running", help="Ask the running lab instead of the file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the configuration in effect as TOML."""
    if running:
        if config is not None or environments is not None or assignments:
            raise UserError(
                "--running asks the lab that runs (leave it out, or -c, --environments and --set)"
            )
        answer = common.client(ctx, lab).get("/v1/config")
        effective = model.Config.model_validate(answer)
    else:
        effective = model.load(config, common.overrides(ctx, lab, environments, assignments))
    if as_json:
        typer.echo(json.dumps(effective.model_dump(mode="json"), indent=2))
    else:
        typer.echo(toml(effective, comments=True), nl=False)
