# SPDX-License-Identifier: Apache-2.0
"""Control groups: where they are, what is written into them, and what is killed by them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from netns import launch, namespace
from netns.cgroups import ROOT, Family, Group, Mounts, OpenGroup
from netns.errors import NetnsError

MIXED = """\
22 1 0:20 / /sys/fs/cgroup rw,relatime shared:1 - tmpfs tmpfs rw,mode=755
23 22 0:21 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
24 22 0:22 / /sys/fs/cgroup/cpu,memory rw - cgroup cgroup rw,cpu,memory
25 22 0:23 / /sys/fs/cgroup/a\\040b rw,relatime shared:9 - cgroup2 cgroup2 rw
26 22 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
"""
UNIFIED = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
LEAVES = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        libc.unshare(0x40000000)
        time.sleep(600)
    os._exit(0)
print(flush=True)
while sys.argv[1] == "forks":
    try:
        os.fork()
    except OSError:
        pass
time.sleep(600)
"""


class Tree:
    """Directories that look like those of a host's control groups."""

    def __init__(self, root: Path, *, offered: str | None, legacy: tuple[str, ...]) -> None:
        self.unified = root / "unified"
        if offered is not None:
            self.unified.mkdir()
            (self.unified / "cgroup.controllers").write_text(offered)
        for name in legacy:
            (root / name).mkdir()
        self.mounts = Mounts(
            None if offered is None else self.unified, {name: root / name for name in legacy}
        )
        self.family = Family(self.mounts, "lab")

    def made(self) -> Group:
        self.family.make()
        group = self.family.group("env")
        group.make(memory_bytes=128 << 20, processes=7)
        return group

    def text(self, path: str) -> str:
        return (self.unified.parent / path).read_text()


def test_mounts_are_found() -> None:
    names = {"pids": Path("/sys/fs/cgroup/pids"), "memory": Path("/sys/fs/cgroup/cpu,memory")}
    assert Mounts.find(MIXED) == Mounts(Path("/sys/fs/cgroup/a b"), names)
    assert Mounts.find(UNIFIED) == Mounts(Path("/sys/fs/cgroup"), {})
    assert Mounts.find("") == Mounts()


def test_limits_of_version_1_beside_version_2(tmp_path: Path) -> None:
    tree = Tree(tmp_path, offered="", legacy=("memory", "pids"))
    group = tree.made()
    assert tree.family.missing == []
    assert tree.text(f"memory/{ROOT}/lab/env/memory.limit_in_bytes") == str(128 << 20)
    # With the program's init.
    assert tree.text(f"pids/{ROOT}/lab/env/pids.max") == "8"
    group.freeze()
    assert tree.text(f"unified/{ROOT}/lab/env/cgroup.freeze") == "1"
    group.thaw()
    assert tree.text(f"unified/{ROOT}/lab/env/cgroup.freeze") == "0"
    control = tmp_path / "memory" / ROOT / "lab" / "env" / "memory.oom_control"
    assert group.out_of_memory() == 0
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert group.out_of_memory() == 2


@pytest.mark.parametrize("version", [1, 2])
def test_another_process_has_it_stand_still(tmp_path: Path, version: int) -> None:
    offered, legacy = ("memory pids", ()) if version == 2 else ("", ("memory", "pids"))
    tree = Tree(tmp_path, offered=offered, legacy=legacy)
    group = tree.made()
    place = f"{ROOT}/lab/env"
    (tmp_path / "unified" / place / "cgroup.freeze").touch()
    where, name = ("unified", "events") if version == 2 else ("memory", "oom_control")
    (tmp_path / where / place / f"memory.{name}").write_text("oom 5\noom_kill 2\n")
    handed = OpenGroup(group.opened())
    can_freeze = [handed.freezes]
    for step, expected in ((handed.freeze, "1"), (handed.thaw, "0"), (handed.freeze, "1")):
        step()
        assert tree.text(f"unified/{place}/cgroup.freeze") == expected
    assert handed.out_of_memory() == 2
    files = list(handed.opened().values())
    handed.remove()
    can_freeze.append(handed.freezes)
    assert can_freeze == [True, False]
    assert handed.out_of_memory() == 0
    for file in files:
        os.close(file)


def test_limits_of_version_2(tmp_path: Path) -> None:
    tree = Tree(tmp_path, offered="cpu memory pids", legacy=())
    group = tree.made()
    assert tree.family.missing == []
    for directory in ("", f"{ROOT}/", f"{ROOT}/lab/"):
        # The file takes one at a time; of this one the last is left.
        assert tree.text(f"unified/{directory}cgroup.subtree_control") == "+pids"
    assert tree.text(f"unified/{ROOT}/lab/env/memory.max") == str(128 << 20)
    assert tree.text(f"unified/{ROOT}/lab/env/memory.swap.max") == "0"
    assert tree.text(f"unified/{ROOT}/lab/env/pids.max") == "7"
    (tmp_path / "unified" / ROOT / "lab" / "env" / "memory.events").write_text(
        "oom 3\noom_kill 1\noom_group_kill 0\n"
    )
    assert group.out_of_memory() == 1


@pytest.mark.parametrize(
    ("offered", "legacy", "missing"),
    [
        (None, (), ["freezing: no cgroup", "limit of memory: its", "limit of pids: its"]),
        (None, ("memory", "pids"), ["freezing: no cgroup of version 2 is mounted"]),
        ("memory", (), ["limit of pids: its controller is not there"]),
    ],
)
def test_what_the_host_lacks_is_told(
    tmp_path: Path, offered: str | None, legacy: tuple[str, ...], missing: list[str]
) -> None:
    tree = Tree(tmp_path, offered=offered, legacy=legacy)
    group = tree.made()
    assert len(tree.family.missing) == len(missing)
    for text, expected in zip(tree.family.missing, missing, strict=True):
        assert text.startswith(expected)
    assert group.freezes == (offered is not None)


def test_directories_that_cannot_be_made(tmp_path: Path) -> None:
    tree = Tree(tmp_path, offered="", legacy=("memory", "pids"))
    (tmp_path / "pids").rmdir()
    (tmp_path / "pids").touch()
    tree.made()
    assert [text.partition(" ")[0] for text in tree.family.missing] == ["limit"]
    assert "cannot be made" in tree.family.missing[0]


@pytest.fixture
def family(lab_name: str) -> Iterator[Family]:
    made = Family(Mounts.find(), lab_name)
    made.make()
    if made.missing:
        pytest.skip("; ".join(made.missing))
    yield made
    made.remove()


@dataclass
class Started:
    process: launch.Program
    stdout: BinaryIO


def started(group: Group, *command: str, before: Callable[[], object] = lambda: None) -> Started:
    """A program in a group; `before` is called in the thread that starts it."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)

    def work() -> launch.Program:
        before()
        with group.members() as groups:
            return launch.start(
                command,
                env=None,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.DEVNULL,
                groups=groups,
            )

    with contextlib.ExitStack() as stack:
        stack.callback(os.close, theirs)
        output = os.fdopen(ours, "rb")
        stack.callback(output.close)
        made = Started(namespace.run_in_thread(work), output)
        stack.pop_all()
        os.close(theirs)
        return made


@pytest.mark.live
@pytest.mark.parametrize("how", ["sleeps", "forks"])
def test_whatever_it_does_a_kill_leaves_nothing(family: Family, how: str) -> None:
    group = family.group("env")
    group.make(memory_bytes=1 << 30, processes=300)
    process = started(group, sys.executable, "-c", LEAVES, how)
    process.stdout.readline()
    assert len(group.processes()) >= 2
    group.kill()
    assert group.processes() == []
    assert process.process.wait(60) == -signal.SIGKILL
    # An empty one is no failure, nor is one that is gone.
    group.kill()
    group.remove()
    group.kill()
    group.remove()
    process.stdout.close()


def without_clone3() -> None:
    """Have the thread on a kernel before Linux 5.3, as far as this system call goes."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(0x7FFF0000))
    number = library.seccomp_syscall_resolve_name(b"clone3")
    assert library.seccomp_rule_add(context, 0x00050000 | errno.ENOSYS, number, 0) == 0
    assert library.seccomp_load(context) == 0


@pytest.mark.live
@pytest.mark.parametrize("old", [False, True])
def test_a_program_begins_in_its_group(family: Family, *, old: bool) -> None:
    """`init` is in it only where it cannot begin there."""
    group = family.group("env")
    group.make(memory_bytes=1 << 30, processes=10)
    before = without_clone3 if old else (lambda: None)
    process = started(group, "/bin/sh", "-c", "echo begun; exec sleep 600", before=before)
    assert process.stdout.readline() == b"begun\n"
    found = set(group.processes())
    assert process.process.own_pid() in found
    assert (process.process.pid in found) is old
    group.remove()
    assert process.process.wait(60) == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.live
def test_what_stands_still_is_killed_all_the_same(family: Family) -> None:
    group = family.group("env")
    group.make(memory_bytes=1 << 30, processes=10)
    process = started(group, "/bin/sleep", "600")
    group.freeze()
    group.remove()
    assert process.process.wait(60) == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.live
def test_a_family_goes_with_what_runs_in_it(family: Family, lab_name: str) -> None:
    group = family.group("env")
    group.make(memory_bytes=1 << 30, processes=10)
    process = started(group, "/bin/sleep", "600")
    assert Family(Mounts.find(), lab_name).remove() == ["env"]
    assert process.process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    assert family.remove() == []


@pytest.mark.live
def test_a_thread_that_is_gone_with_its_group(family: Family) -> None:
    group = family.group("env")
    with pytest.raises(NetnsError, match="cannot"):
        started(group, "/bin/true")
    assert group.processes() == []
    assert os.getpid() not in group.processes()
