# SPDX-License-Identifier: Apache-2.0
"""`make test-repeat`: tests again and again on a loaded machine, to find those that fail by chance.

`python -m tools.repeat_tests --rounds 50 --busy 4 PYTEST-ARGUMENTS...` runs pytest so many times
beside so many processes that do nothing but compute, and stops at the first round that fails, with
all that pytest printed. Exit status: 0 when every round passed, otherwise pytest's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"
"""It ends with who started it, however that ends."""


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many busy processes while the context lasts."""
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())])
            )
            stack.callback(process.kill)
        yield


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(
        description="tests again and again beside a load", allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--busy", type=int, default=4, help="busy processes beside the tests")
    arguments, pytest = parser.parse_known_args()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *pytest]
    begun = time.monotonic()
    with load(arguments.busy):
        for number in range(1, arguments.rounds + 1):
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                print(f"{done.stdout}\nround {number} of {arguments.rounds} failed", flush=True)
                return done.returncode
            verdict = done.stdout.splitlines()[-1]
            print(f"round {number} of {arguments.rounds}: {verdict}", flush=True)
    minutes = (time.monotonic() - begun) / 60
    print(f"{arguments.rounds} rounds without a failure in {minutes:.0f} minutes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
