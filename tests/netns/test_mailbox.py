# SPDX-License-Identifier: Apache-2.0
"""The mailbox: what strangers may put where, and who reads it."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.client import UnixConnection
from netns import mailbox
from tests.conftest import free_port
from tests.live.lab import wait_until
from tests.netns.test_services import service

Answer = tuple[int, bytes]


class Sides:
    """Both sides of one that runs."""

    def __init__(self, port: int, reader: Path) -> None:
        self._port, self.reader = port, reader

    def outside(self, method: str, path: str, body: bytes | None = None) -> Answer:
        return _asked(http.client.HTTPConnection("127.0.0.1", self._port, 60), method, path, body)

    def inside(self, method: str, path: str) -> Answer:
        return _asked(UnixConnection(self.reader, 60), method, path, None)


def _asked(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
) -> Answer:
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    port, reader = free_port(), tmp_path / "box.sock"
    # Of one that was killed.
    reader.touch()
    with service("mailbox", "127.0.0.1", port, "--reader", str(reader)):
        yield Sides(port, reader)


def test_a_letter_is_read_by_who_has_opened_the_box(sides: Sides) -> None:
    assert sides.inside("PUT", "/a")[0] == 200
    assert sides.inside("GET", "/a")[0] == 404
    assert sides.outside("PUT", "/a?Signature=x", b"first") == (200, b"")
    assert sides.outside("PUT", "/a", b"second")[0] == 200
    assert sides.inside("GET", "/a") == (200, b"first")
    # Opened again it is no other box.
    assert sides.inside("PUT", "/a")[0] == 200
    assert sides.inside("GET", "/a") == (200, b"first")
    assert sides.inside("DELETE", "/a")[0] == 200
    assert sides.inside("GET", "/a")[0] == 410


def test_strangers_put_into_boxes_and_do_nothing_else(sides: Sides) -> None:
    assert sides.outside("PUT", "/nobody's", b"x")[0] == 403
    sides.inside("PUT", "/a")
    sides.outside("PUT", "/a", b"x")
    assert sides.outside("GET", "/a")[0] == 405
    assert sides.outside("DELETE", "/a")[0] == 405
    assert sides.outside("PUT", "/a/b", b"x")[0] == 404


def test_letters_are_small_and_boxes_few(sides: Sides) -> None:
    sides.inside("PUT", "/large")
    assert sides.outside("PUT", "/large", bytes(mailbox.LETTER_BYTES_MAX + 1))[0] == 413
    assert sides.inside("GET", "/large")[0] == 404
    assert sides.outside("PUT", "/large", bytes(mailbox.LETTER_BYTES_MAX))[0] == 200
    opened = []
    with contextlib.closing(UnixConnection(sides.reader, 60)) as connection:
        for each in range(mailbox.BOXES_MAX):
            connection.request("PUT", f"/{each}")
            with connection.getresponse() as answer:
                opened.append(answer.status)
                answer.read()
    assert opened == [200] * (mailbox.BOXES_MAX - 1) + [503]


def test_strangers_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    port, reader = free_port(), tmp_path / "box.sock"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(service("mailbox", "127.0.0.1", port, "--reader", str(reader)))
        found = Sides(port, reader)
        for _ in range(mailbox.CONNECTIONS_MAX + 20):
            silent = socket.create_connection(("127.0.0.1", port), 60)
            stack.callback(silent.close)
        found.inside("PUT", "/a")
        assert found.outside("PUT", "/a", b"x")[0] == 200
        assert found.inside("GET", "/a") == (200, b"x")

        def files() -> int:
            return len(os.listdir(f"/proc/{server.pid}/fd"))

        wait_until(
            lambda: files() < mailbox.CONNECTIONS_MAX + 20, lambda: f"{files()} files are open"
        )


def test_only_its_owner_reads_it(sides: Sides) -> None:
    found = sides.reader.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.getuid())
