# SPDX-License-Identifier: Apache-2.0
"""Open files go from one process to another, all of them or none."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from hyperplane_nat.io.handover import Handover

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def files(count: int) -> list[int]:
    """Files that hold their number."""
    made = [os.memfd_create("handed") for _ in range(count)]
    for number, descriptor in enumerate(made):
        os.pwrite(descriptor, str(number).encode(), 0)
    return made


@pytest.mark.parametrize("count", [4, 5])
def test_each_arrives_under_its_name(pair: Pair, count: int) -> None:
    given = Handover(*files(count))
    given.send(pair[0])
    given.close()
    found = Handover.receive(pair[1])
    assert found is not None
    names = ["commands", "state_map", "receiver", "sender", "records"][:count]
    for number, name in enumerate(names):
        descriptor = getattr(found, name)
        assert os.pread(descriptor, 9, 0) == str(number).encode()
        assert not os.get_inheritable(descriptor)
    assert (found.records is None) == (count == 4)
    found.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(found.sender)


def test_nobody_sends(pair: Pair) -> None:
    pair[0].close()
    assert Handover.receive(pair[1]) is None


def test_nobody_receives(pair: Pair) -> None:
    pair[1].close()
    given = Handover(*files(4))
    with pytest.raises(BrokenPipeError):
        given.send(pair[0])
    given.close()


def test_names_without_descriptors_are_refused(pair: Pair) -> None:
    pair[0].send(json.dumps(["commands", "state_map"]).encode())
    with pytest.raises(ValueError, match="0 descriptors came for commands, state_map"):
        Handover.receive(pair[1])
