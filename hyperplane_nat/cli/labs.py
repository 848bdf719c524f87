# SPDX-License-Identifier: Apache-2.0
"""`labs`: which labs there are on this host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, UserError
from hyperplane_nat.cli.tables import Column, Table
from hyperplane_nat.client import Client, ClientError, NoPermissionError, NotRunningError
from hyperplane_nat.controller.standing import standing
from netns import names

ANSWER_SECONDS = 5.0
"""How long a controller may take before its lab counts as one that does not answer."""

Row = dict[str, Any]


def labs(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the labs of this host."""
    root = common.runtime_root(ctx)
    found = [_row(name, root) for name in _names(root)]
    # One may have been taken down meanwhile.
    rows = [row for row in found if row["state"] != "dead" or (root / row["lab"]).exists()]
    if as_json:
        common.print_json(rows)
        return
    if not rows:
        typer.echo("there is no lab (start one with: hyperplane-nat up)")
        return
    columns = [
        Column("lab"),
        Column("state"),
        Column("controller", numeric=True, rank=2),
        Column("forwarder", numeric=True, rank=3),
        Column("since", rank=1),
        Column("environments", numeric=True, rank=1),
        Column("metrics", rank=4),
    ]
    table = Table(None, columns)
    for row in rows:
        table.add_row(
            row["lab"],
            row["state"],
            *(_or_dash(row["pids"][process]) for process in ("controller", "forwarder")),
            "-" if row["since"] is None else _local(row["since"]),
            _or_dash(row["environments"]),
            _or_dash(row["metrics_url"]),
        )
    common.console().print(table)


def _names(root: Path) -> list[str]:
    try:
        return sorted(
            path.name for path in root.iterdir() if path.is_dir() and names.LAB.fullmatch(path.name)
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror} (run it as root)") from None


def _row(name: str, root: Path) -> Row:
    try:
        client = Client(name, runtime_directory=root, timeout=ANSWER_SECONDS)
        status = common.mapping(client.get("/v1/status"))
    except NotRunningError:
        return _without_controller(name, root)
    except NoPermissionError:
        return _without_controller(name, root) | {"state": "no permission"}
    except ClientError:
        return _without_controller(name, root) | {"state": "not answering"}
    forwarder = status["forwarder"]
    return {
        "lab": name,
        "state": status["state"],
        "pids": {
            "controller": status["pid"],
            "forwarder": forwarder["pid"],
            "standby": forwarder.get("standby_pid"),
        },
        "since": round(time.time() - status["uptime_seconds"], 3),
        "environments": status["environments"],
        "metrics_url": status["metrics_url"],
    }


def _without_controller(name: str, root: Path) -> Row:
    """A lab that nobody tells about: what can be seen from outside."""
    found = standing(name, root)
    controller = found.controller()
    if controller is not None:
        state = "starting"
    elif found.forwarder is not None:
        state = "controller dead"
    else:
        state = "dead"
    return {
        "lab": name,
        "state": state,
        "pids": {"controller": controller, "forwarder": found.forwarder, "standby": None},
        "since": None,
        "environments": None if found.config is None else found.config.lab.environments,
        "metrics_url": None,
    }


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
