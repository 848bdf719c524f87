# SPDX-License-Identifier: Apache-2.0
"""The command line, `hyperplane-nat`.

One module per group of commands: `lifecycle` (up), `removal` (down), `inspection` (what the control
API tells), `flows`, `ports` (who takes the source ports), with `watching` for what is drawn again,
`events`, `applying` (apply), `resources` (functions, security-groups), `configuration` (config),
`invocation` (invoke), `execution` (exec), `coldstart` with its `coldstart_report`, `doctor` with
its `checks` of the host and `lab_checks` of a lab that runs; `tables` is how they all draw.
`application` imports the one that is called, and turns every expected error into one line on
standard error and exit status 2.
"""

import contextlib
import errno
import os
import sys
from typing import NoReturn

from hyperplane_nat import private_files
from hyperplane_nat.cli.application import app
from hyperplane_nat.cli.common import Settings
from netns.ending import leave

_UNWRITTEN = 2
"""Exit status when the output could not be written."""


def main() -> NoReturn:
    """Entry point of the console script."""
    status: int | str | None = 0
    _open_streams()
    try:
        try:
            app(obj=Settings(umask=os.umask(private_files.UMASK)))
        except SystemExit as end:
            # click and rich make 1 of it, which is an answer of `trace`, `verify` and `doctor`.
            broken = isinstance(end.__context__, BrokenPipeError)
            status = _UNWRITTEN if broken else end.code
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EPIPE):
            raise
        if error.errno != errno.EPIPE:
            with contextlib.suppress(OSError):
                print(f"hyperplane-nat: cannot write the output: {error.strerror}", file=sys.stderr)
        # What is still in the buffer would be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _UNWRITTEN
    if isinstance(status, str):
        sys.exit(status)
    leave(status or 0)


def _open_streams() -> None:
    """What was closed by who called us leads nowhere: the next file would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))


__all__ = ["app", "main"]
