# SPDX-License-Identifier: Apache-2.0
"""Who brings a lab up and takes it down: a shell that outlives the tests, whatever ends them.

Theory of operation
-------------------
The keeper is started with a pipe to its standard input. It runs `up`, says how that went, and then
waits for a line or for the end of the pipe, which comes with the end of the test process, be that
by SIGKILL. Then it runs `down` and removes the directory. It is a session of its own, so that
Ctrl-C at a terminal does not reach it.

When the keeper is killed too, the lab stands. Its directory, in the one for temporary files, is
then found by the next session: the tests' process and the keeper hold a flock(2) of it for as long
as one of them lives, the file `lab` in it has the lab's name, and was written under that lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

PREFIX = "hyperplane-pytest-"
NAME = re.compile(r"pt-[0-9a-f]{8}")

COMMAND = (sys.executable, "-P", "-m", "hyperplane_nat.cli")
"""`hyperplane-nat` of the interpreter that runs the tests, wherever its scripts are."""

_END_SECONDS = 120.0

# A trap, unlike an ignored signal, is not inherited by what the shell starts; of the tests that are
# gone, `echo` would tell by SIGPIPE.
_SCRIPT = """
trap : HUP TERM PIPE
directory=$1; shift
"$@" </dev/null >&2
echo $?
read -r _
"$0" -P -m hyperplane_nat.cli --lab "$(cat "$directory/lab")" --runtime-directory "$directory" \
    down </dev/null >&2 && rm -rf "$directory"
"""


class LabError(Exception):
    """The lab could not do what was asked of it; the text says why."""


def environment() -> dict[str, str]:
    """The variables of this process, but for those that say which lab is meant."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("HYPERPLANE_NAT_")
    }


def command(name: str, directory: Path, *arguments: str) -> list[str]:
    """A command line about a lab."""
    return [*COMMAND, "--lab", name, "--runtime-directory", str(directory), *arguments]


@contextlib.contextmanager
def place() -> Iterator[tuple[str, Path, int]]:
    """
    A lab's random name, its directory, and the descriptor with the directory's lock.

    Removing the directory is the keeper's business.
    """
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    name = f"pt-{secrets.token_hex(4)}"
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (directory / "lab").write_text(name, encoding="ascii")
        yield name, directory, descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def up(name: str, directory: Path, lock: int, arguments: Sequence[str]) -> Iterator[None]:
    """A lab that is up while the context lasts, by `hyperplane-nat up ARGUMENTS`; LabError."""
    words = command(name, directory, "up", *arguments)
    with (directory / "keeper.log").open("w+b") as output:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, sys.executable, directory, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment(),
            pass_fds=[lock],
            start_new_session=True,
        )
        try:
            assert keeper.stdout is not None
            status = keeper.stdout.readline().strip()
            if status != b"0":
                raise LabError(f"hyperplane-nat up: {_text(output) or f'status {status!r}'}")
            output.truncate(0)
            yield
        finally:
            # A line, not only the end of the pipe: a forked child of the tests may still hold it.
            keeper.communicate(b"\n", _END_SECONDS)
        if keeper.returncode != 0:
            raise LabError(f"hyperplane-nat down: {_text(output)} (see {directory})")


def _text(output: BinaryIO) -> str:
    output.seek(0)
    return output.read().decode(errors="replace").strip()


def sweep() -> list[str]:
    """Take down the labs whose tests and keeper were both killed; their names."""
    swept = []
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            descriptor = os.open(directory, flags)
            try:
                found = os.fstat(descriptor)
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
                    continue
                name = (directory / "lab").read_text(encoding="ascii")
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if NAME.fullmatch(name) and _taken_down(name, directory):
                    shutil.rmtree(directory)
                    swept.append(name)
            finally:
                os.close(descriptor)
    return swept


def _taken_down(name: str, directory: Path) -> bool:
    done = subprocess.run(
        command(name, directory, "down"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        check=False,
    )
    return done.returncode == 0
