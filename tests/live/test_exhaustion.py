# SPDX-License-Identifier: Apache-2.0
"""No port is left in the profile `rfc`: the sender is told, and nobody else notices.

The profile `aws` drops in silence: see test_floods.py and test_ports.py.
"""

from __future__ import annotations

import contextlib
import errno

import pytest

from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    WEB,
    difference,
    live_connection,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

FIRST = 40000
PORTS = 10
SERVICE = (WEB[0], 7400)


@pytest.mark.requirement("RFC6888-11", profile="rfc")
@pytest.mark.requirement("RFC5508-8", profile="rfc")
@pytest.mark.requirement("RFC4787-1", profile="rfc")
@pytest.mark.requirement("RFC4787-3", profile="rfc")
@pytest.mark.requirement("AWS-ports-55000", profile="rfc")
@pytest.mark.requirement("AWS-port-reuse-per-destination", profile="rfc")
@pytest.mark.requirement("AWS-error-port-allocation", profile="rfc")
def test_the_sender_is_told(launch: Launch) -> None:
    """
    Each source port has a mapping of its own, for all remotes. The one too many gets "prohibited"
    (ICMP 3/13), is counted, and takes nothing from those there are, nor from another protocol.
    """
    lab = launch(
        environments=2,
        toml=f'[nat]\nprofile = "rfc"\n\n[ports]\nfirst = {FIRST}\nlast = {FIRST + PORTS - 1}\n',
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(live_connection(lab, 1, SERVICE[1]))
        server = stack.enter_context(udp_socket(lab.vpc))
        server.bind(SERVICE)
        endpoints = [stack.enter_context(udp_socket(lab.environment(1))) for _ in range(PORTS)]

        def echoes() -> None:
            for endpoint in endpoints:
                endpoint.sendto(b"question", ECHO)
                assert endpoint.recv(64) == b"question"

        echoes()
        before = lab.counters()
        for where in lab.environments():
            with udp_socket(where) as refused:
                refused.connect(ECHO)
                refused.send(b"one too many")
                with pytest.raises(OSError, match="No route to host") as raised:
                    refused.recv(64)
                assert raised.value.errno == errno.EHOSTUNREACH
        change = difference(before, lab.counters())
        assert change["replies_icmp"] == change["port_allocation_errors"] == 2
        assert change["drop_port_allocation"] == 2
        # The mappings there are serve another remote, each by its port.
        ports = set()
        for endpoint in endpoints:
            endpoint.sendto(b"to another", SERVICE)
            payload, peer = server.recvfrom(64)
            assert payload == b"to another"
            ports.add(peer[1])
        assert ports == set(range(FIRST, FIRST + PORTS))
        echoes()
        wait_until(lambda: lab.counters()["mappings_active"] == PORTS + 1, "the mappings' count")
    assert lab.verify() == []
