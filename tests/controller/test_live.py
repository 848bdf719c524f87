# SPDX-License-Identifier: Apache-2.0
"""The controller with the real netns, forwarder and services."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hyperplane_nat.client import Client
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import cleanup
from hyperplane_nat.controller.paths import lock_holder
from hyperplane_nat.controller.processes import resident_bytes
from netns import namespace, topology
from tests.controller.support import ControllerProcess, config_in, gone, paths_of
from tests.netns.conftest import wait_for

pytestmark = pytest.mark.live

RSS_MAX_BYTES = 80 << 20


PATIENCE_SECONDS = 120
"""How long a download may take on a loaded machine before the test gives up."""


class Controller(ControllerProcess):
    """`python -m hyperplane_nat.controller`, and who asks it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, "hyperplane_nat.controller", "--ready-fd")
        assert self.ready, self.reports[-1]
        self.client = Client(config.lab.name, runtime_directory=Path(config.lab.runtime_directory))

    def status(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.client.get("/v1/status"))


@pytest.fixture
def config(directory: Path, lab_name: str) -> Iterator[Config]:
    wanted = config_in(directory, lab={"name": lab_name, "environments": 20})
    yield wanted
    # Of a test that failed.
    if (left := lock_holder(paths_of(wanted))) is not None:
        os.kill(left, signal.SIGKILL)
        wait_for(lambda: gone(left))
    removed = cleanup.clean(lab_name, wanted.lab.runtime_directory, wanted.lab.state_directory)
    assert removed == []
    assert topology.strays(lab_name) == []
    assert [path.name for path in directory.iterdir()] == ["fake"]


def fetch(config: Config, environment: int, path: str) -> subprocess.Popen[bytes]:
    name = topology.environment_namespace(config.lab.name, environment)
    options = ("--silent", "--show-error", "--max-time", str(PATIENCE_SECONDS))
    command = ["curl", *options, f"http://10.0.1.80{path}"]
    return namespace.call(name, lambda: subprocess.Popen(command, stdout=subprocess.PIPE))


@pytest.mark.races
def test_download_outlives_controller_and_forwarder(config: Config) -> None:
    first = Controller(config)
    before = first.status()["forwarder"]["pid"]
    download = fetch(config, 3, "/slow?bytes=3000000&seconds=10")
    assert download.stdout is not None
    assert select.select([download.stdout], [], [], PATIENCE_SECONDS)[0]
    first.end(signal.SIGKILL)

    second = Controller(config)
    status = second.status()
    assert (status["forwarder"]["pid"], status["forwarder"]["restarts"]) == (before, 0)
    assert status["flows"]["tcp"] >= 1
    assert resident_bytes(second.process.pid) <= RSS_MAX_BYTES

    os.kill(before, signal.SIGKILL)
    content = download.communicate(timeout=PATIENCE_SECONDS)[0]
    assert download.returncode == 0
    # It may have been over before: then nobody has waited for the successor yet.
    wait_for(lambda: gone(before) and second.status()["forwarder"]["up"])
    status = second.status()
    assert status["forwarder"]["restarts"] == 1
    assert second.client.verify() == {
        "problems": [],
        "entries": status["flows"]["entries"],
    }

    reference = fetch(config, 4, "/file?bytes=3000000").communicate(timeout=PATIENCE_SECONDS)[0]
    assert content == reference
    assert second.end(signal.SIGTERM)[0] == 0


def test_flows_and_interfaces_of_real_traffic(config: Config) -> None:
    controller = Controller(config)
    assert (
        fetch(config, 7, "/peer").communicate(timeout=PATIENCE_SECONDS)[0].startswith(b'{"address"')
    )
    flows = cast(list[dict[str, Any]], controller.client.get("/v1/flows", {"environment": "env-7"}))
    (flow,) = flows
    assert (flow["protocol"], flow["environment"], flow["interface"]) == ("tcp", "env-7", "eni-a")
    assert (flow["remote_address"], flow["remote_port"]) == ("10.0.1.80", 80)
    assert 0 <= flow["idle_seconds"] <= flow["age_seconds"] < 60
    environments = cast(list[dict[str, Any]], controller.client.get("/v1/environments"))
    busy = [each["name"] for each in environments if each["packets_out"]]
    assert busy == ["env-7"]
    assert controller.end(signal.SIGTERM)[0] == 0
