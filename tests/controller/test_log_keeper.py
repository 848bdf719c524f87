# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperplane_nat.controller import log_keeper, logs
from hyperplane_nat.controller.paths import LabPaths


@pytest.fixture
def paths(tmp_path: Path) -> LabPaths:
    found = LabPaths.of("test", tmp_path, tmp_path)
    found.directory.mkdir()
    return found


def test_the_logs_of_a_lab_are_looked_at(paths: LabPaths) -> None:
    service = paths.service_log("customer", "web")
    for path in (paths.log, paths.forwarder_log, service):
        path.write_bytes(bytes(logs.BYTES_MAX + 1))
    log_keeper.LogKeeper(paths).look()
    for path in (paths.log, paths.forwarder_log, service):
        assert path.stat().st_size == 0
        assert logs.numbered(path, 1).exists()


@pytest.mark.parametrize("seconds", [0.0, log_keeper.SETTLED_SECONDS + 5])
def test_not_while_somebody_waits_for_what_is_said_there(paths: LabPaths, seconds: float) -> None:
    started = paths.standby_pid
    started.write_text("")
    then = started.stat().st_mtime - seconds
    os.utime(started, (then, then))
    paths.forwarder_log.write_bytes(bytes(logs.BYTES_MAX + 1))
    log_keeper.LogKeeper(paths).look()
    assert bool(paths.forwarder_log.stat().st_size) == (seconds == 0.0)
