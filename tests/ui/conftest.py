# SPDX-License-Identifier: Apache-2.0
"""A lab that answers what a test says, as the page's server asks it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import conftest as cli
from tests.cli.fake_api import FakeApi, serving
from tests.cli.test_events import EVENT

SUMS = {
    "function": "checkout",
    "interface": cli.SHARED_INTERFACE["id"],
    "environments": 4000,
    "states": {"busy": 1000, "idle": 3000},
    "packets_out": 5,
    "bytes_out": 500,
    "packets_in": 6,
    "bytes_in": 600,
    "drops": 2,
    "flows": 7,
    "tcp_flows": 7,
}
COLD_START = {
    "number": 1,
    "time": 1000.0,
    "function": "checkout",
    "networking": "hyperplane",
    "network_ready_seconds": 0.001,
    "modelled_seconds": 0.2,
}
FORWARDER = {
    "pid": 4712,
    "up": True,
    "restarts": 1,
    "hangs": 0,
    "rss_bytes": 50 << 20,
    "cpu_seconds": 1.0,
    "standby_pid": 4713,
    "failover_seconds": None,
}
ANSWERS: dict[str, Any] = {
    "/v1/status": cli.STATUS | {"forwarder": FORWARDER},
    "/v1/interfaces": [cli.INTERFACE, cli.SHARED_INTERFACE],
    "/v1/ports": cli.PORTS,
    "/v1/events": [EVENT],
    "/v1/hosts": [],
    "/v1/environment-sums": [SUMS],
    "/v1/functions": [cli.FUNCTION],
    "/v1/accounts": [{"Id": "111122223333", "Name": "payments", "Declared": True}],
    "/v1/vpcs": [{"VpcName": "payments", "OwnerId": "111122223333", "CidrBlock": "10.0.0.0/16"}],
    "/v1/subnets": [
        {
            "SubnetName": "private-a",
            "VpcName": "payments",
            "OwnerId": "111122223333",
            "CidrBlock": "10.0.1.0/24",
        }
    ],
    "/v1/cold-starts": [COLD_START],
    "/v1/load-balancers": [],
    "/v1/target-groups": [],
    "/v1/endpoint-services": [],
    "/v1/endpoints": [],
    "/v1/gateway-endpoints": [],
    "/v1/flows": [cli.FLOW],
    "/v1/environments": [cli.ENVIRONMENT],
}


@pytest.fixture
def root() -> Iterator[Path]:
    """A runtime directory; short, because the path of a unix socket holds 107 characters."""
    with tempfile.TemporaryDirectory(prefix="hp-") as directory:
        yield Path(directory)


@pytest.fixture
def api() -> FakeApi:
    """The control API of a lab with one of everything; `serving` lets it answer."""
    return FakeApi(copy.deepcopy(ANSWERS))


@pytest.fixture
def lab(root: Path, api: FakeApi) -> Iterator[FakeApi]:
    """The lab called default, which answers."""
    with serving(root / "default" / "control.sock", api):
        yield api
