# SPDX-License-Identifier: Apache-2.0
"""`hyperplane-nat capture` beside a test."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hyperplane_nat.testing import keeper
from hyperplane_nat.testing.keeper import LabError
from hyperplane_nat.testing.running import RunningLab

_END_SECONDS = 60.0


@contextlib.contextmanager
def captured(
    lab: RunningLab, path: Path, *, environment: str | None = None, interface: str | None = None
) -> Iterator[None]:
    """Capture into a file what passes while the context lasts; LabError."""
    if environment is None and interface is None:
        rows = lab.environments()
        environment = next((row["name"] for row in rows if row["interface"]), rows[0]["name"])
    what = ["--interface", interface] if interface else ["--environment", str(environment)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        keeper.command(lab.name, lab.directory, "capture", *what, "-w", str(path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=keeper.environment(),
        # Ctrl-C is for the tests, who end it.
        start_new_session=True,
        text=True,
    ) as capture:
        assert capture.stderr is not None
        try:
            first = capture.stderr.readline()
            if not first.startswith("capturing on"):
                raise LabError(f"hyperplane-nat capture: {first.strip()}")
            yield
        finally:
            capture.terminate()
            capture.communicate(timeout=_END_SECONDS)
