# SPDX-License-Identifier: Apache-2.0
"""Namespaces are made, entered and removed without a fork."""

from __future__ import annotations

import operator
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netns import NetnsError, namespace, syscalls, sysctl
from tests.netns.conftest import wait_for


@pytest.fixture
def names(lab_name: str) -> Iterator[list[str]]:
    """Three names nobody has, removed at the end."""
    wanted = [f"hp-{lab_name}-ns-{number}" for number in range(3)]
    yield wanted
    namespace.delete(wanted)


def nothing(_name: str) -> None:
    return None


def inode(_name: str = "") -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "x" * 129, "a\n"])
def test_impossible_names(name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: namespace.exists(name),
        lambda: namespace.delete([name]),
        lambda: namespace.enter(name),
    ]
    for call in calls:
        with pytest.raises(NetnsError, match="invalid namespace name") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_names_where_there_is_no_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(namespace, "DIRECTORY", tmp_path / "absent")
    assert namespace.names() == []
    assert not namespace.exists("a")
    assert not namespace.is_complete("a")
    namespace.delete(["a"])


def test_missing_privilege_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(namespace, "DIRECTORY", tmp_path)
    monkeypatch.setattr(syscalls, "mount", refuse)
    with pytest.raises(NetnsError, match="run as root") as caught:
        namespace.create(["a"], nothing)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.races
def test_run_in_thread_passes_results_and_exceptions_on() -> None:
    assert namespace.run_in_thread(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        namespace.run_in_thread(lambda: 1 // 0)


@pytest.mark.live
def test_create_enter_delete(names: list[str]) -> None:
    here = inode()
    inodes = namespace.create(names, inode)
    assert len({here, *inodes}) == 4
    assert [name for name in namespace.names() if name in names] == names
    assert all(map(namespace.is_complete, names))
    assert namespace.call_each(names, inode) == inodes
    assert [namespace.call(name, inode) for name in names] == inodes
    assert inode() == here
    namespace.delete(names)
    assert not any(map(namespace.exists, names))
    namespace.delete(names)


@pytest.mark.live
def test_ip_netns_sees_and_enters_it(names: list[str]) -> None:
    namespace.create(names[:1], nothing)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert names[0] in listed.stdout.split()
    subprocess.run(["ip", "netns", "exec", names[0], "true"], check=True)
    subprocess.run(["ip", "netns", "delete", names[0]], check=True)
    assert not namespace.exists(names[0])


@pytest.mark.live
def test_a_taken_name_takes_back_the_others(names: list[str]) -> None:
    (taken,) = namespace.create(names[1:2], inode)
    with pytest.raises(NetnsError, match=f"cannot create namespace {names[1]}: File exists"):
        namespace.create(names, nothing)
    assert namespace.names(names[0][:-1]) == [names[1]]
    assert namespace.call(names[1], inode) == taken


@pytest.mark.live
def test_a_failing_preparation_leaves_nothing(names: list[str]) -> None:
    def fail_on_last(name: str) -> None:
        if name == names[-1]:
            raise KeyError(name)

    with pytest.raises(KeyError):
        namespace.create(names, fail_on_last)
    assert not any(map(namespace.exists, names))


@pytest.mark.live
def test_the_rest_of_a_broken_creation(names: list[str]) -> None:
    namespace.create(names[1:2], nothing)
    namespace.path(names[0]).touch()
    assert namespace.exists(names[0])
    assert not namespace.is_complete(names[0])
    with pytest.raises(NetnsError, match="delete it"):
        namespace.call(names[0], inode)
    namespace.delete([names[0]])
    assert not namespace.exists(names[0])


@pytest.mark.live
def test_stacked_mounts_are_deleted(names: list[str]) -> None:
    namespace.create(names[:1], nothing)
    syscalls.mount("/proc/self/ns/net", namespace.path(names[0]), None, syscalls.MS_BIND)
    namespace.delete(names[:1])
    mounts = Path("/proc/self/mountinfo").read_text()
    assert names[0] not in mounts


@pytest.mark.live
def test_a_socket_stays_where_it_was_created(names: list[str]) -> None:
    namespace.create(names[:1], nothing)
    # The loopback link of a new namespace is down: no route to it.
    with (
        namespace.call(names[0], socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as inside,
        pytest.raises(OSError, match="unreachable"),
    ):
        inside.connect(("127.0.0.1", 9))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.connect(("127.0.0.1", 9))


@pytest.mark.live
def test_enter_moves_a_process_and_its_sysfs(names: list[str]) -> None:
    (expected,) = namespace.create(names[:1], inode)
    code = (
        "import os, sys; from netns import namespace; namespace.enter(sys.argv[1], sysfs=True);"
        "print(os.stat('/proc/self/ns/net').st_ino, *os.listdir('/sys/class/net'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, names[0]], capture_output=True, text=True, check=True
    )
    found, *links = result.stdout.split()
    assert int(found) == expected
    assert "lo" in links
    assert not [link for link in links if link.startswith(("eth", "en"))]


@pytest.mark.live
def test_settings_are_those_of_the_namespace(names: list[str]) -> None:
    setting = Path("/proc/sys/net/ipv4/ip_default_ttl")
    before = setting.read_text()
    with sysctl.Writer() as writer:
        namespace.create(names, lambda name: writer.write({"ipv4/ip_default_ttl": name[-1] + "7"}))
    # "07" is octal for the kernel.
    values = namespace.call_each(names, lambda _name: setting.read_text().strip())
    assert values == ["7", "17", "27"]
    assert setting.read_text() == before


@pytest.mark.live
def test_an_unknown_setting_is_one_line(names: list[str]) -> None:
    with sysctl.Writer() as writer, pytest.raises(NetnsError, match="cannot set net/ipv4/nope"):
        namespace.create(names, lambda _name: writer.write({"ipv4/nope": "1"}))
    assert not any(map(namespace.exists, names))


@pytest.mark.live
def test_a_thousand_rounds_leak_no_descriptor_and_no_thread(names: list[str]) -> None:
    def state() -> tuple[int, int, int]:
        mounts = Path("/proc/self/mountinfo").read_text().count(names[0])
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path("/proc/self/task").iterdir())),
            mounts,
        )

    namespace.create(names[:1], nothing)
    namespace.delete(names[:1])
    before = state()
    for _ in range(1000):
        namespace.create(names[:1], nothing)
        namespace.delete(names[:1])
    # A thread that was waited for may need a moment to leave /proc.
    wait_for(lambda: all(map(operator.le, state(), before)))
