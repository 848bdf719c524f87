# SPDX-License-Identifier: Apache-2.0
"""The MTU that AWS documents between links that carry more: pings, and datagrams in pieces."""

from __future__ import annotations

import pytest

from netns import content
from tests.live.conftest import Launch
from tests.live.lab import ECHO, Lab, require_program, run, udp_socket

pytestmark = pytest.mark.live

LINK_MTU = 9001
MTU = 8500
HEADERS = 28

TOML = f"""
[environment]
mtu_bytes = {LINK_MTU}

[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
mtu_bytes = {LINK_MTU}
subnet = [{{ name = "private-a", cidr = "10.0.1.0/24" }}]
service = [
    {{ name = "echo", kind = "udp-echo", address = "{ECHO[0]}", port = {ECHO[1]} }},
]

[[network_interface]]
name = "eni-a"
subnet = "private-a"
address = "10.0.1.10"
"""


@pytest.fixture(scope="module", params=["aws", "rfc"])
def lab(request: pytest.FixtureRequest, launch_shared: Launch) -> Lab:
    """Jumbo links on both sides; the interface says nothing of its MTU."""
    return launch_shared(environments=1, toml=f'[nat]\nprofile = "{request.param}"\n{TOML}')


def ping(lab: Lab, size: int) -> tuple[int, str]:
    """Status and words of one ping that must not be fragmented, `size` bytes of IP in all."""
    program = require_program("ping", "iputils-ping")
    options = ("-n", "-c", "1", "-W", "5", "-M", "do", "-s", str(size - HEADERS))
    done = run(lab.environment(1), program, *options, ECHO[0], check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.requirement("AWS-mtu-8500", profile="both")
@pytest.mark.requirement("AWS-pmtud", profile="both")
@pytest.mark.requirement("RFC4787-13", profile="both")
def test_8500_bytes_and_no_more(lab: Lab) -> None:
    """A packet of 8500 bytes passes; one of 8501 is answered with that number, as a path's MTU."""
    assert ping(lab, MTU)[0] == 0
    status, words = ping(lab, MTU + 1)
    assert status == 1
    assert f"mtu = {MTU}" in words or f"mtu={MTU}" in words
    assert lab.drops()["mtu_exceeded"] == 1


@pytest.mark.requirement("AWS-udp-fragments", profile="both")
@pytest.mark.requirement("RFC4787-14", profile="both")
def test_a_datagram_in_pieces(lab: Lab) -> None:
    """The environment's kernel cuts it by its link, the gateway again, and so the answer back."""
    payload = content.read(60_000)
    with udp_socket(lab.environment(1)) as endpoint:
        endpoint.sendto(payload, ECHO)
        assert endpoint.recv(1 << 16) == payload
    assert lab.counters()["fragments_forwarded"] > 0
    assert lab.verify() == []
