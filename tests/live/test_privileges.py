# SPDX-License-Identifier: Apache-2.0
"""What moves packets has no privilege, and memory that others use up is no matter to it."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import StateMap
from netns import privileges, topology
from tests.live.conftest import Launch
from tests.live.lab import ECHO, Lab, live_connection, run, switched, udp_socket, wait_until

pytestmark = pytest.mark.live

FLOWS_MAX = 2048


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def moving_and_standing_by(lab: Lab) -> dict[str, int]:
    """The pids of forwarder and standby, as soon as there is one that stands by."""

    def found() -> dict[str, int]:
        told = lab.status()["privileges"]
        standby = told.get("standby")
        # It begins like its parent and drops everything when it has loaded its modules.
        if standby is None or not standby["dropped"] or "forwarder" not in told:
            return {}
        return {name: int(told[name]["pid"]) for name in ("forwarder", "standby")}

    return wait_until(found, "a forwarder and a standby")


def check(pid: int) -> None:
    """The process has nothing, by the kernel's account, and no file but those it was given."""
    status = status_of(pid)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == status["Gid"].split() == [str(privileges.UID)] * 4
    assert status["Groups"] == ""
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino


def writable(pid: int) -> set[str]:
    """The names of files, other than pipes and sockets, that the process may write to."""
    names = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        flags = next(
            line.split()[1] for line in entry.read_text().splitlines() if line.startswith("flags:")
        )
        target = str(Path(f"/proc/{pid}/fd/{entry.name}").readlink())
        if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY and target.startswith("/"):
            names.add(target)
    return names


def serves(lab: Lab, pid: int) -> bool:
    """Whether this forwarder does."""
    told = lab.status()["forwarder"]
    return bool(told["pid"] == pid and told["up"])


def test_forwarder_and_standby_have_none(launch: Launch) -> None:
    lab = launch()
    with live_connection(lab, 1, 7001) as exchange:
        for _ in range(2):
            pids = moving_and_standing_by(lab)
            for pid in pids.values():
                check(pid)
            log = str(lab.runtime_directory / "forwarder.log")
            assert writable(pids["forwarder"]) == {log, str(lab.state_file)}
            assert writable(pids["standby"]) == {log}
            # The standby serves as its predecessor did, with traffic on the way.
            os.kill(pids["forwarder"], signal.SIGKILL)
            heir = pids["standby"]
            wait_until(functools.partial(serves, lab, heir), "the successor")
            exchange()
    assert lab.verify() == []
    pids = moving_and_standing_by(lab)
    told = lab.json("status")["privileges"]["forwarder"]
    assert told == {
        "pid": pids["forwarder"],
        "uid": privileges.UID,
        "gid": privileges.UID,
        "capabilities": "0" * 16,
        "no_new_privs": True,
        "seccomp": 2,
        "dropped": True,
    }
    assert f"none (user {privileges.UID}): forwarder, standby" in lab.cli("status").stdout
    checks = {each["name"]: each for each in lab.json("doctor")["checks"]}
    assert checks["privileges"]["outcome"] == "ok"


@contextlib.contextmanager
def small_tmpfs(path: Path, size: int) -> Iterator[Path]:
    path.mkdir()
    options = f"size={size},mode=1777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    """A file that takes all the room there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def lab_in(directory: Path, name: str, state_directory: Path) -> Lab:
    lab = Lab(name, directory / "lab.toml", 2)
    lab.config_file.write_text(
        switched(
            f'[lab]\nname = "{name}"\nenvironments = 2\nstate_directory = "{state_directory}"\n'
            f"[flows]\nmax = {FLOWS_MAX}\n[metrics]\nport = 0\n"
        )
    )
    lab.state_file = state_directory / lab.state_file.name
    return lab


def refused(lab: Lab) -> str:
    """What `up` says in its one line; nothing of the lab is left."""
    done = lab.cli("up", "-c", str(lab.config_file), check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert topology.strays(lab.name) == []
    assert not lab.runtime_directory.exists()
    assert not lab.state_file.exists()
    (line,) = done.stderr.splitlines()
    return line


def map_bytes() -> int:
    with contextlib.suppress(FileNotFoundError):
        Path("/dev/shm/hyperplane-nat-size").unlink()
    state = StateMap.create("/dev/shm/hyperplane-nat-size", flows_max=FLOWS_MAX)
    size = state.bytes
    state.close()
    state.path.unlink()
    return size


def test_a_map_that_does_not_fit_is_one_line(tmp_path: Path, lab_name: str) -> None:
    with small_tmpfs(tmp_path / "small", 1 << 20) as small:
        line = refused(lab_in(tmp_path, lab_name, small))
        assert f"{small}/hyperplane-nat-{lab_name}.map: no room for {map_bytes()} bytes" in line
        assert list(small.iterdir()) == []


def test_a_map_on_a_disk_is_one_line(tmp_path: Path, lab_name: str) -> None:
    line = refused(lab_in(tmp_path, lab_name, Path("/proc")))
    assert "lab.state_directory: /proc is not on a tmpfs: choose a directory" in line


def test_a_tmpfs_that_others_fill_is_no_matter(tmp_path: Path, lab_name: str) -> None:
    """All that a running lab ever touches it has: new flows, and a successor, meanwhile."""
    with small_tmpfs(tmp_path / "small", map_bytes() + (1 << 20)) as small:
        lab = lab_in(tmp_path, lab_name, small)
        lab.up()
        try:
            with live_connection(lab, 1, 7001) as exchange:
                fill(small / "others")
                assert os.statvfs(small).f_bavail == 0
                exchange()
                before = lab.status()["flows"]["entries"]
                with udp_socket(lab.environment(2)) as sender:
                    for port in range(1024, 1024 + FLOWS_MAX // 2):
                        sender.sendto(b"x", (ECHO[0], port))
                wait_until(
                    lambda: lab.status()["flows"]["entries"] >= before + FLOWS_MAX // 2, "the flows"
                )
                pids = moving_and_standing_by(lab)
                os.kill(pids["forwarder"], signal.SIGKILL)
                wait_until(lambda: lab.status()["forwarder"]["restarts"] == 1, "the successor")
                exchange()
                assert run(lab.environment(2), "curl", "-sf", "http://10.0.1.80/").stdout
            assert lab.status()["forwarder"]["restarts"] == 1
            assert lab.verify() == []
        finally:
            lab.down()
