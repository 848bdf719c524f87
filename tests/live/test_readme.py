# SPDX-License-Identifier: Apache-2.0
"""The session with functions in README.md does what it shows when it is pasted as a whole."""

from __future__ import annotations

import re
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.live.lab import COMMAND, UP_SECONDS

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]


def test_the_session_with_functions() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Functions in a VPC\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ sudo hyperplane-nat (.+)$", section, re.MULTILINE)
    assert len(commands) == 4
    name = f"t-{secrets.token_hex(4)}"
    # A lab of its own: the one of the example may be there.
    options = f"--lab {name} "
    script = [f"{COMMAND} {options}{each.removeprefix('--lab lambda ')}" for each in commands]
    try:
        done = subprocess.run(
            ["bash", "-e"],
            input="\n".join(script),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "4 functions, 16 environments" in done.stdout
        assert len(re.findall(r"\tActive\t[^\t]*\tSuccessful\t", done.stdout)) == 4
        assert "200 11000\n" in done.stdout
        assert done.stdout.endswith(f"lab {name} is down\n")
    finally:
        subprocess.run([str(COMMAND), "--lab", name, "down"], capture_output=True, check=True)
