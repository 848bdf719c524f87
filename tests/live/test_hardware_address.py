# SPDX-License-Identifier: Apache-2.0
"""An environment that gives its link another MAC address, which it may: the link is its own."""

from __future__ import annotations

import pytest

from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import ECHO, require_program, run, udp_socket, wait_until

pytestmark = pytest.mark.live


def test_another_hardware_address_cuts_off_its_own_environment_only(launch: Launch) -> None:
    """Its ARP requests count as spoofed, and the old address makes everything well again."""
    lab = launch(environments=2)
    ip = require_program("ip", "iproute2")
    where = lab.environment(1)
    old = wire.mac_of(where, "eth0")

    def echo(number: int) -> None:
        with udp_socket(lab.environment(number)) as client:
            client.sendto(b"hello", ECHO)
            assert client.recvfrom(64) == (b"hello", ECHO)

    echo(1)
    run(where, ip, "link", "set", "dev", "eth0", "address", "02:00:00:00:00:01")
    with udp_socket(where) as client:
        client.sendto(b"hello", ECHO)
        wait_until(lambda: lab.drops().get("arp_spoofed"), "an ARP request that is not answered")
    echo(2)
    run(where, ip, "link", "set", "dev", "eth0", "address", old)
    echo(1)
