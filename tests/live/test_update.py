# SPDX-License-Identifier: Apache-2.0
"""Environments that come and go while the forwarder runs, told on its own socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INSIDE_GATEWAY,
    require_program,
    run,
    udp_socket,
    wait_until,
)
from tests.live.scene import TOML, tell_forwarder

pytestmark = pytest.mark.live


def test_the_next_environment_in_a_slot(launch: Launch) -> None:
    """A number that comes again: nothing of its last owner, not even towards the same server."""
    lab = launch(environments=2, toml=TOML)
    where = lab.environment(1)
    ip = require_program("ip", "iproute2")
    (link,) = json.loads(run(lab.gateway, ip, "-json", "link", "show", "env1").stdout)
    item = {
        "number": 1,
        "ifindex": link["ifindex"],
        "address": INSIDE_ADDRESS,
        "gateway": INSIDE_GATEWAY,
        "subnet": "169.254.100.0/30",
        "environment_mac": wire.mac_of(where, "eth0"),
        "gateway_mac": link["address"],
        "interface": None,
    }

    def retiring() -> Any:
        return tell_forwarder(lab, "status")["retiring"]

    with udp_socket(where) as endpoint:
        endpoint.sendto(b"first", ECHO)
        assert endpoint.recvfrom(2048) == (b"first", ECHO)
        (before,) = lab.rows("flows", environment="env-1")
        tell_forwarder(lab, "configure", remove_slots=[1])
        wait_until(lambda: not any(retiring().values()), "the slot is free")
        assert lab.rows("flows", environment="env-1") == []
        assert tell_forwarder(lab, "configure", slots=[item])["retiring"]["slots"] == []
        endpoint.sendto(b"from the pool", ECHO)
        wait_until(lambda: lab.drops().get("environment_unattached", 0) > 0, "it is counted")
        tell_forwarder(lab, "configure", slots=[item | {"interface": 0}])
        endpoint.sendto(b"second", ECHO)
        assert endpoint.recvfrom(2048) == (b"second", ECHO)
        (after,) = lab.rows("flows", environment="env-1")
    assert after["inside_port"] == before["inside_port"]
    assert after["nat_port"] != before["nat_port"]
    assert lab.verify() == []
