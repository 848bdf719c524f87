# SPDX-License-Identifier: Apache-2.0
"""The unit as systemd reads it."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperplane_nat.cli.application import COMMANDS
from tests.conftest import in_ci

UNIT = Path(__file__).parent.parent / "systemd" / "hyperplane-nat.service"
INSTALLED = "/opt/hyperplane-nat/bin/hyperplane-nat"


@pytest.mark.stand_in("a booted systemd", "systemd-analyze verify, with /bin/true as the program")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing = "systemd-analyze is missing (apt-get install systemd, or make deps)"
        if in_ci():
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    text = UNIT.read_text(encoding="utf-8")
    assert text.count(INSTALLED) == 2
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(INSTALLED, "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_programs_of_the_unit_are_commands() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    for line in (service["ExecStart"], service["ExecReload"]):
        program, verb, *options = shlex.split(line)
        assert program == INSTALLED
        assert verb in COMMANDS
        assert options[-1] == "/etc/hyperplane-nat/lab.toml"
