# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from netns import privileges, syscalls
from tests.conftest import in_ci

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up what only root has")

TRY = """
import json, mmap, os, socket, threading
from netns import NetnsError, privileges, syscalls

def outcome(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0

def say(**said):
    print(json.dumps(said), flush=True)
"""
PROGRAMS = ("FORWARDER", "SERVICE", "FLOW_LOGS", "HEALTH_CHECKS", "CAPTURE")
ENOENT = 2
EACCES = 13
EFAULT = 14
ENOSYS = 38


def run(script: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", TRY + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "program", ["FORWARDER", "SERVICE", "FLOW_LOGS", "HEALTH_CHECKS", "CAPTURE"]
)
@pytest.mark.parametrize("uid", [0, privileges.UID])
def test_nothing_is_left(program: str, uid: int) -> None:
    told = run(f"""
privileges.drop(privileges.{program}, uid={uid})
found = privileges.of(os.getpid())
say(uid=found.uid, gid=found.gid, capabilities=found.capabilities, dropped=found.dropped,
    groups=os.getgroups() if {uid} else [], ids=[*os.getresuid(), *os.getresgid()])
""")
    assert told == {
        "uid": uid,
        "gid": uid,
        "capabilities": 0,
        "dropped": True,
        "groups": [],
        "ids": [uid] * 6,
    }


def test_other_processes_are_read() -> None:
    found = privileges.of(os.getpid())
    assert found is not None
    assert found.uid == 0
    assert found.effective
    assert not found.dropped
    assert privileges.of(1 << 22) is None


@pytest.mark.parametrize(
    "program", ["FORWARDER", "SERVICE", "FLOW_LOGS", "HEALTH_CHECKS", "CAPTURE"]
)
def test_system_calls_off_the_list_are_refused(program: str) -> None:
    told = run(f"""
privileges.drop(privileges.{program}, uid=0)
say(execute=outcome(lambda: os.execv("/bin/true", ["true"])),
    fork=outcome(os.fork),
    kill=outcome(lambda: os.kill(os.getppid(), 0)),
    chown=outcome(lambda: os.chown("/", 0, 0)),
    unshare=outcome(lambda: syscalls.unshare()),
    packet=outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    code=outcome(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)))
""")
    assert told == dict.fromkeys(
        ("execute", "fork", "kill", "chown", "unshare", "packet", "code"), ENOSYS
    )


def test_what_a_program_needs_is_allowed_to_it_alone() -> None:
    told = run("""
import ctypes
def write():
    os.close(os.open("/dev/null", os.O_WRONLY))
def start():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
def look_up():
    # BPF_MAP_LOOKUP_ELEM of no map.
    buffer = ctypes.create_string_buffer(32)
    if syscalls._syscall(321, ctypes.c_int(1), ctypes.byref(buffer), ctypes.c_uint(32)) < 0:
        raise OSError(ctypes.get_errno(), "bpf")
def family(number):
    return lambda: socket.socket(number, socket.SOCK_DGRAM).close()

answers = {}
for name in ("FORWARDER", "SERVICE", "FLOW_LOGS", "HEALTH_CHECKS", "CAPTURE"):
    reader, writer = os.pipe()
    if os.fork() == 0:
        privileges.drop(getattr(privileges, name), uid=0)
        try:
            start()
            threads = True
        except RuntimeError:
            threads = False
        os.write(writer, json.dumps({
            "files": outcome(write) == 0,
            "threads": threads,
            "inet": outcome(family(socket.AF_INET)) == 0,
            "unix": outcome(family(socket.AF_UNIX)) == 0,
            "maps": outcome(look_up) == 38,
            "pair": outcome(lambda: [each.close() for each in socket.socketpair()]) == 0,
            "read": outcome(lambda: os.close(os.open("/dev/null", os.O_RDONLY))) == 0,
        }).encode())
        os._exit(0)
    os.wait()
    answers[name] = json.loads(os.read(reader, 4096))
say(**answers)
""")
    common = {"pair": True, "read": True}
    assert told == {
        "FORWARDER": common
        | {"files": False, "threads": False, "inet": False, "unix": False, "maps": False},
        "SERVICE": common
        | {"files": False, "threads": True, "inet": False, "unix": False, "maps": True},
        "FLOW_LOGS": common
        | {"files": True, "threads": True, "inet": False, "unix": True, "maps": True},
        "HEALTH_CHECKS": common
        | {"files": False, "threads": True, "inet": True, "unix": False, "maps": True},
        "CAPTURE": common
        | {"files": False, "threads": False, "inet": False, "unix": True, "maps": True},
    }


def test_who_writes_files_changes_them_below_one_directory_only(tmp_path: Path) -> None:
    if not syscalls.landlock_version():
        assert not in_ci(), "this kernel has no Landlock"
        pytest.skip("this kernel has no Landlock")
    mine, others = tmp_path / "mine", tmp_path / "others"
    for directory in (mine, others):
        directory.mkdir()
        (directory / "file").write_text("old")
    told = run(f"""
mine, others = {str(mine)!r}, {str(others)!r}
already = open(others + "/open", "w")
privileges.drop(privileges.FLOW_LOGS, uid=0, writes=privileges.Path(mine))

def change(where):
    def write(name, flags):
        os.close(os.open(where + name, os.O_WRONLY | flags, 0o600))
    return [
        outcome(work)
        for work in (
            lambda: write("/file", 0),
            lambda: write("/file", os.O_TRUNC),
            lambda: write("/new", os.O_CREAT),
            lambda: os.mkdir(where + "/directory"),
            lambda: os.rename(where + "/file", where + "/renamed"),
            lambda: os.unlink(where + "/renamed"),
            lambda: os.rmdir(where + "/directory"),
        )
    ]

say(mine=change(mine), others=change(others), read=open(others + "/file").read(),
    open=already.write("more"))
""")
    assert told["mine"] == [0] * 7
    # Of what could not be made nothing can be removed.
    assert told["others"] == [EACCES] * 5 + [ENOENT] * 2
    assert (told["read"], told["open"]) == ("old", 4)


def test_what_a_library_always_asks_for_is_refused_without_a_line_in_the_audit_log() -> None:
    """By a list that notes nothing, while the one that notes lets it through."""
    told = run("""
import pyseccomp

def ask():
    # io_uring_setup(2) with nowhere to answer.
    if syscalls._syscall(425, 1, None) < 0:
        raise OSError(syscalls.ctypes.get_errno(), "io_uring_setup")

answers = {}
for name, indices in (("quiet", [0]), ("noting", [1]), ("both", [0, 1])):
    reader, writer = os.pipe()
    if os.fork() == 0:
        lists = privileges._lists(privileges.FORWARDER)
        for index in indices:
            lists[index].load()
        os.write(writer, json.dumps([outcome(ask), outcome(os.fork)]).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        answers[name] = json.loads(answer.readline().partition("]")[0] + "]")
say(**answers, notes=[
    bool(each.get_attr(pyseccomp.Attr.CTL_LOG)) for each in privileges._lists(privileges.FORWARDER)
])
""")
    assert told == {
        "quiet": [ENOSYS, 0],
        "noting": [EFAULT, ENOSYS],
        "both": [ENOSYS, ENOSYS],
        "notes": [False, True],
    }


def test_an_event_loop_asks_for_that_and_nothing_else_that_would_be_noted() -> None:
    """Whoever asks for more than is allowed is killed here, and the forwarder's loop is not."""
    told = run("""
import pyseccomp, uvloop

async def nothing():
    pass

quiet, _ = privileges._lists(privileges.FORWARDER)
pyseccomp.ERRNO = lambda _code: pyseccomp.KILL_PROCESS
without, noting = privileges._lists(privileges.FORWARDER)
ends = []
for lists in ([quiet, noting], [without]):
    if (child := os.fork()) == 0:
        for each in lists:
            each.load()
        uvloop.run(nothing())
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say(ends=ends)
""")
    assert told == {"ends": [0, -signal.SIGSYS]}


def test_frames_are_read_without_a_line_in_the_audit_log() -> None:
    """The interpreter asks for the name of the link with each frame."""
    told = run("""
taps = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
taps.bind(("lo", 0))
privileges.drop(privileges.CAPTURE, uid=0)
say(link=taps.getsockname()[0])
""")
    assert told == {"link": "lo"}


@pytest.mark.parametrize("uid", [0, privileges.UID])
def test_a_thread_that_keeps_capabilities_is_an_error(uid: int) -> None:
    told = run(f"""
ready, go = threading.Event(), threading.Event()
answers = []
def work():
    ready.set()
    go.wait()
    answers.append(outcome(lambda: os.kill(os.getppid(), 0)))
thread = threading.Thread(target=work)
thread.start()
ready.wait()
try:
    privileges.drop(privileges.SERVICE, uid={uid})
except NetnsError as error:
    go.set()
    thread.join()
    say(error=str(error), kill=answers)
""")
    assert "of service has kept privileges" in told["error"]
    assert "while there is one thread" in told["error"]
    assert told["kill"] == [ENOSYS]


@pytest.mark.races
def test_a_thread_that_is_just_ending_is_waited_for() -> None:
    told = run("""
for _ in range(50):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
privileges.drop(privileges.SERVICE, uid=0)
say(dropped=privileges.of(os.getpid()).dropped)
""")
    assert told == {"dropped": True}


def test_a_user_that_cannot_be_is_named() -> None:
    told = run("""
os.setresuid(1, 1, 1)
try:
    privileges._become(privileges.UID)
except NetnsError as error:
    say(error=str(error))
""")
    assert "cannot become user 65530: Operation not permitted" in told["error"]
    assert "lab.process_uid = 0" in told["error"]
