# SPDX-License-Identifier: Apache-2.0
"""
The command line, `hyperplane-nat`.

One module per group of commands: `lifecycle` (up, down), `inspection` (what the control API tells),
`flows`, `ports` (who takes the source ports), with `watching` for what is drawn again, `events`,
`applying` (apply), `resources` (functions, security-groups), `configuration` (config), `invocation`
(invoke), `execution` (exec), `coldstart` with its `coldstart_report`, `doctor` with its `checks`.
`application` imports the one that is called, and turns every expected error into one line on
standard error and exit status 2.
"""

from hyperplane_nat.cli.application import app


def main() -> None:
    """Entry point of the console script."""
    app()


__all__ = ["app", "main"]
