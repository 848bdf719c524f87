# SPDX-License-Identifier: Apache-2.0
"""Files of /etc that a program sees, and the host's, which nobody touches."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns import execution, files, namespace

TARGETS = ("resolv.conf", "hosts", "hostname", "nsswitch.conf")


@pytest.fixture
def room(lab_name: str) -> Iterator[str]:
    namespace.create([lab_name], lambda _name: None)
    yield lab_name
    namespace.delete([lab_name])


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    files.write(tmp_path, nameserver="192.0.2.53", hostname="an-environment")
    return tmp_path


def seen(room: str, etc: Path | None, *command: str) -> list[str]:
    environment = {"PATH": "/usr/bin:/bin"}
    outcome = asyncio.run(execution.run(room, command, env=environment, etc=etc))
    assert outcome.status == 0, outcome.stderr
    return outcome.stdout.decode().splitlines()


def host() -> list[bytes]:
    return [(files.ETC / name).read_bytes() for name in TARGETS if (files.ETC / name).exists()]


@pytest.mark.live
def test_a_program_sees_them_and_the_host_does_not(room: str, etc: Path) -> None:
    before, hostname = host(), socket.gethostname()
    told = seen(room, etc, "sh", "-c", "cat /etc/resolv.conf /etc/hostname; hostname")
    assert told == ["nameserver 192.0.2.53", "an-environment", "an-environment"]
    hosts = seen(room, etc, "cat", "/etc/hosts")
    assert hosts[0] == "127.0.0.1 localhost localhost.localdomain"
    assert hosts[-1] == f"127.0.1.1 {hostname}"
    assert (host(), socket.gethostname()) == (before, hostname)
    assert seen(room, None, "hostname") == [hostname]


@pytest.mark.live
def test_any_user_may_read_them(room: str, etc: Path) -> None:
    etc.chmod(0o700)
    assert all((etc / f"etc.{name}").stat().st_mode & 0o777 == 0o644 for name in TARGETS)
    command = ("setpriv", "--reuid=65530", "cat", "/etc/resolv.conf")
    assert seen(room, etc, *command) == ["nameserver 192.0.2.53"]


@pytest.mark.live
def test_files_for_a_namespace_of_a_name_go_before(room: str, etc: Path) -> None:
    made = not files.BY_NAME.exists()
    own = files.BY_NAME / room
    own.mkdir(parents=True)
    try:
        (own / "resolv.conf").write_text("nameserver 192.0.2.54\n")
        told = seen(room, etc, "cat", "/etc/resolv.conf", "/etc/hostname")
    finally:
        shutil.rmtree(own)
        if made:
            files.BY_NAME.rmdir()
    assert told == ["nameserver 192.0.2.54", "an-environment"]


def test_only_the_resolver_is_asked_for_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "nsswitch.conf").write_text(
        "passwd: files systemd\nhosts:  mymachines resolve [!UNAVAIL=return] files dns\nrpc: db\n"
    )
    monkeypatch.setattr(files, "ETC", host)
    files.write(tmp_path, nameserver="192.0.2.53", hostname="x")
    assert (tmp_path / "etc.nsswitch.conf").read_text() == (
        "passwd: files systemd\nhosts: files dns\nrpc: db\n"
    )


def test_written_again_they_are_the_same_files(etc: Path) -> None:
    path = etc / "etc.resolv.conf"
    before = (path.stat().st_ino, path.stat().st_mtime_ns)
    files.write(etc, nameserver="192.0.2.53", hostname="an-environment")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    os.umask(os.umask(0o077))
    files.write(etc, nameserver="192.0.2.99", hostname="an-environment")
    assert path.stat().st_ino == before[0]
    assert path.read_text() == "nameserver 192.0.2.99\n"
