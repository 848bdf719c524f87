# SPDX-License-Identifier: Apache-2.0
"""Checks of a running lab that need none; the others are tests/live/test_doctor.py."""

from __future__ import annotations

import secrets
import socket
import struct
import subprocess

import pytest
from pyroute2.netlink.rtnl import RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hyperplane_nat.cli import lab_checks
from hyperplane_nat.cli.checks import Outcome
from netns import namespace
from netns.names import environment_namespace
from netns.netlink import RouteSocket, encode


@pytest.mark.live
def test_a_link_that_sends_more_than_64_kib() -> None:
    """The lab's links are looked at, and the remedy is a command."""
    lab = f"t{secrets.token_hex(4)}"
    where = environment_namespace(lab, 1)
    assert lab_checks.big_tcp(lab).outcome is Outcome.OK
    namespace.create([where], lambda _name: None)
    try:
        assert lab_checks.big_tcp(lab).outcome is Outcome.OK
        namespace.call(where, raise_ipv4_limit, "lo", 200_000)
        check = lab_checks.big_tcp(lab)
        assert check.outcome is Outcome.NOTED
        assert f"lo of {where} may send 200000 bytes" in check.found
        subprocess.run(check.remedy.split(), check=True)
        assert lab_checks.big_tcp(lab).outcome is Outcome.OK
    finally:
        namespace.delete([where])


def raise_ipv4_limit(link: str, size: int) -> None:
    """What `ip link set dev LINK gso_ipv4_max_size SIZE` does."""
    message = ifinfmsg()
    message["index"] = socket.if_nametoindex(link)
    # struct nlattr, and IFLA_GSO_IPV4_MAX_SIZE of linux/if_link.h.
    attribute = struct.pack("=HHI", 8, 63, size)
    request = bytearray(encode(message, RTM_NEWLINK)) + attribute
    struct.pack_into("=I", request, 0, len(request))
    with RouteSocket() as route:
        route.request([bytes(request)], "cannot set the limit")
