# SPDX-License-Identifier: Apache-2.0
"""What goes on until somebody ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import FLOW
from tests.cli.fake_api import FakeApi
from tests.cli.test_events import EVENT
from tests.cli.test_flow_logs import NOON, A, write


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("events", "--follow"), "port-exhaustion"),
        (("flow-logs", "--follow", "--directory", "."), "version"),
        (("flows", "--watch"), "protocol"),
        (("ports", "--watch"), "# connections"),
    ],
)
def test_an_interrupt_is_how_it_ends_and_no_error(
    api: FakeApi, runtime: Path, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    api.answers |= {"/v1/events": [EVENT], "/v1/flows": [FLOW]}
    write(tmp_path, NOON, A, "1")
    with subprocess.Popen(
        [sys.executable, "-m", "hyperplane_nat.cli", *arguments],
        env=os.environ | {"HYPERPLANE_NAT_RUNTIME_DIRECTORY": str(runtime)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert word in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
