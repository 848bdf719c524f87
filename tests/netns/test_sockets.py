# SPDX-License-Identifier: Apache-2.0
"""Sockets of all kinds live in the namespace they were opened in."""

from __future__ import annotations

import resource
import socket
import time

import pytest

from netns import NetnsError, sockets, topology
from tests.netns.conftest import lab_spec


def test_echo_request_has_a_right_checksum() -> None:
    request = sockets.echo_request(0x1234, 7, b"odd")
    assert request[:2] == b"\x08\x00"
    assert request[4:] == b"\x12\x34\x00\x07odd"
    # RFC 1071: the sum over everything, checksum included, is all ones.
    padded = request + b"\0"
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_no_room_for_files_is_one_line() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 40
    with pytest.raises(NetnsError, match="open files are needed") as caught:
        sockets.ensure_files(max(hard, 1 << 31) + 1)
    assert "\n" not in str(caught.value)


@pytest.mark.live
def test_sockets_of_all_kinds_live_in_their_namespaces(lab: str) -> None:
    spec = lab_spec(lab, 3)
    built = topology.build(spec)
    names = [slot.namespace for slot in built.slots]
    kinds: tuple[sockets.Kind, ...] = ("tcp", "udp", "icmp", "ping")
    for kind in kinds:
        opened = sockets.open_each(names, kind)
        assert len(opened) == 3
        for each in opened:
            with each:
                assert not each.getblocking()
                # Only inside an environment is there this address to bind to.
                each.bind((spec.inside_address, 0))


@pytest.mark.live
def test_the_same_port_in_every_namespace(lab: str) -> None:
    built = topology.build(lab_spec(lab, 3))
    opened = sockets.open_each([slot.namespace for slot in built.slots], "udp", port=4000)
    assert [each.getsockname() for each in opened] == [("0.0.0.0", 4000)] * 3
    # Taken in each of them: none is opened twice, and none of a failed set stays open.
    with pytest.raises(NetnsError, match="Address already in use"):
        sockets.open_each([slot.namespace for slot in built.slots], "udp", port=4000)
    for each in opened:
        each.close()


@pytest.mark.live
def test_ping_within_a_vpc(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    name = topology.vpc_namespace(lab, "customer")
    with sockets.open_one(name, "icmp") as raw:
        raw.settimeout(30)
        raw.sendto(sockets.echo_request(77, 1, b"payload"), ("10.0.1.80", 0))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            packet = raw.recv(2048)
            # The raw socket sees our own request as well: the answer has type 0.
            if packet[20] == 0:
                assert packet[24:] == b"\x00\x4d\x00\x01payload"
                return
    pytest.fail("no answer")


@pytest.mark.live
def test_a_missing_namespace_opens_nothing(lab: str) -> None:
    with pytest.raises(NetnsError, match="create it first"):
        sockets.open_one(f"hp-{lab}-env-1", "tcp")
    with socket.socket() as probe:
        assert probe.fileno() >= 0
