# SPDX-License-Identifier: Apache-2.0
"""What is bundled from npm is what npm has: the page's charts, and what judges the page."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "hyperplane_nat" / "ui" / "page"
AXE = ROOT / "tests" / "live" / "axe"


class Bundle(NamedTuple):
    """A package of npm and where its files lie here, by their names there."""

    package: str
    version: str
    files: dict[str, Path]


BUNDLES = [
    Bundle(
        "uplot",
        "1.6.32",
        {
            "dist/uPlot.iife.min.js": PAGE / "uPlot.iife.min.js",
            "dist/uPlot.min.css": PAGE / "uPlot.min.css",
            "LICENSE": PAGE / "uPlot.LICENSE.txt",
        },
    ),
    Bundle(
        "axe-core",
        "4.14.1",
        {name: AXE / name for name in ("axe.min.js", "LICENSE", "LICENSE-3RD-PARTY.txt")},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.package)
def test_it_is_what_npm_has(bundle: Bundle, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm")
    done = subprocess.run(
        [npm, "pack", "--silent", f"{bundle.package}@{bundle.version}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm: {done.stderr.strip()[-200:]}")
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        for name, here in bundle.files.items():
            member = archive.extractfile(f"package/{name}")
            assert member is not None
            assert member.read() == here.read_bytes(), name
