# SPDX-License-Identifier: Apache-2.0
"""A controller is killed and another one comes: what stands is taken over, and never destroyed."""

from __future__ import annotations

import pytest

from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import live_connection
from tests.live.test_crash import forwarder_pid, kill_controller

pytestmark = [pytest.mark.live, pytest.mark.alone]


def test_another_configuration_is_refused_and_none_takes_over(launch: Launch) -> None:
    lab = launch(environments=3, toml="[flows]\nmax = 4096\n")
    with live_connection(lab, 1, 7007) as exchange:
        pid = forwarder_pid(lab)
        kill_controller(lab)
        for verb in ("status", "flows", "events"):
            told = lab.cli(verb, check=False)
            assert told.returncode == 2
            assert f"its forwarder (pid {pid}) goes on" in told.stderr
            assert f"hyperplane-nat up --lab {lab.name};" in told.stderr
        refused = lab.cli("up", "-c", str(lab.config_file), "--set", "flows.max=8192", check=False)
        assert refused.returncode == 2
        assert "asked for: flows.max (" in refused.stderr
        exchange()
        lab.cli("up")
        assert forwarder_pid(lab) == pid
        assert len(lab.rows("environments")) == 3
        assert lab.status()["flows"]["max"] == 4096
        exchange()


def test_replace_removes_what_stands(launch: Launch) -> None:
    lab = launch(environments=2, toml="[flows]\nmax = 4096\n")
    pid = forwarder_pid(lab)
    kill_controller(lab)
    lab.cli("up", "-c", str(lab.config_file), "-n", "1", "--replace")
    assert forwarder_pid(lab) != pid
    assert len(namespace.names(f"hp-{lab.name}-env-")) == 1
