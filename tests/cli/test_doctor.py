# SPDX-License-Identifier: Apache-2.0
"""doctor: each check, where the host is good and where it is not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import hyperplane_nat
from hyperplane_nat.cli import checks
from hyperplane_nat.cli.checks import Check, Outcome
from hyperplane_nat.config.lab import Config, load
from hyperplane_nat.flow_cache.probe import Missing
from hyperplane_nat.forwarder import udp_segmentation
from netns import NetnsError
from netns.privileges import Privileges
from tests.cli.conftest import Run

MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/root rw
25 21 0:23 / /dev rw,nosuid - devtmpfs devtmpfs rw
26 25 0:24 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw
27 21 0:25 / /mnt/a\\040b rw - tmpfs tmpfs rw
28 27 254:1 / /mnt/a\\040b rw - xfs /dev/b rw
"""


@pytest.mark.live
def test_this_host_can_run_the_gateway(run: Run) -> None:
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    failed = [check for check in document["checks"] if check["outcome"] == "failed"]
    assert failed == []
    assert (result.exit_code, document["ready"]) == (0, True)


def links_and_files() -> tuple[set[str], int]:
    """Links of this namespace, and how many files the process has open."""
    return (
        {path.name for path in Path("/sys/class/net").iterdir()},
        len(list(Path("/proc/self/fd").iterdir())),
    )


@pytest.mark.live
@pytest.mark.usefixtures("collected")
def test_trying_leaves_no_link_behind(run: Run) -> None:
    before = links_and_files()
    run("doctor")
    assert links_and_files() == before


@pytest.mark.parametrize(
    ("outcome", "code", "word"),
    [
        (Outcome.OK, 0, "can run here"),
        (Outcome.MISSING, 0, "can run here (1 optional parts are missing)"),
        (Outcome.FAILED, 1, "cannot run here: thing"),
    ],
)
def test_the_verdict(
    run: Run, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, code: int, word: str
) -> None:
    def found(_config: Config) -> Iterator[Check]:
        yield Check("thing", outcome, "a fact", "a remedy")

    monkeypatch.setattr(checks, "run", found)
    result = run("doctor")
    assert result.exit_code == code
    assert "a remedy" in result.stdout
    assert word in result.stdout


@pytest.mark.parametrize(
    ("release", "outcome"),
    [
        ("6.1.0-18-amd64", Outcome.OK),
        ("5.10.0", Outcome.OK),
        ("5.9.16", Outcome.FAILED),
        ("4.19.0", Outcome.FAILED),
        ("unknown", Outcome.FAILED),
    ],
)
def test_the_kernels_version(release: str, outcome: Outcome) -> None:
    assert checks.kernel(release).outcome is outcome


def test_capabilities_that_a_container_lacks() -> None:
    own = Privileges(0, 0, 0, ~(1 << 19 | 1 << 8) & (1 << 41) - 1, no_new_privs=False, seccomp=0)
    assert checks.capabilities(replace(own, effective=(1 << 41) - 1)).outcome is Outcome.OK
    found = checks.capabilities(own)
    assert (found.outcome, found.found) == (
        Outcome.FAILED,
        "missing: CAP_SETPCAP, CAP_SYS_PTRACE",
    )


def test_privileges_that_cannot_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.dropping(0).outcome is Outcome.OK
    error = "netns.errors.NetnsError: cannot become user 7: Invalid argument (keep root)\n"
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", f"Traceback\n{error}"),
    )
    found = checks.dropping(7)
    assert (found.outcome, found.found, found.remedy) == (
        Outcome.FAILED,
        "cannot become user 7: Invalid argument",
        "keep root",
    )


def test_a_kernel_without_landlock_is_no_failure() -> None:
    assert checks.landlock(7).outcome is Outcome.OK
    found = checks.landlock(0)
    assert (found.outcome, found.found) == (
        Outcome.MISSING,
        "the writer of flow logs could write what root can",
    )


def test_what_the_flow_cache_lacks_is_no_failure() -> None:
    assert checks.flow_cache([]).outcome is Outcome.OK
    lacking = [Missing("bpf_redirect_peer (Linux 5.10)", "Invalid argument"), "and more"]
    check = checks.flow_cache(lacking)
    assert check.outcome is Outcome.MISSING
    assert check.found == "bpf_redirect_peer (Linux 5.10): Invalid argument; and more"
    assert "forwarder.flow_cache" in check.remedy


def test_no_root() -> None:
    assert checks.root(0).outcome is Outcome.OK
    assert checks.root(1000).remedy == "run it as root: sudo hyperplane-nat doctor"


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/dev/shm", "tmpfs"),
        ("/dev", "devtmpfs"),
        ("/", "ext4"),
        ("/mnt/a b/c", "xfs"),
        ("/mnt", "ext4"),
    ],
)
def test_the_filesystem_of_a_directory(directory: str, kind: str) -> None:
    assert checks.filesystem(Path(directory), MOUNTS) == kind


def test_a_state_directory_on_a_disk() -> None:
    check = checks.state_directory(load(None, {"lab.state_directory": "/dev"}), MOUNTS)
    assert (check.outcome, check.found) == (Outcome.FAILED, "/dev is on devtmpfs")


def test_a_state_directory_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    small = os.statvfs_result((4096, 4096, 1000, 1000, 1000, 9, 9, 9, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: small)
    assert checks.state_directory(Config(), MOUNTS).outcome is Outcome.FAILED
    few = load(None, {"flows.max": 1024})
    assert checks.state_directory(few, MOUNTS).outcome is Outcome.OK


def test_an_extension_that_is_not_built(tmp_path: Path) -> None:
    package = tmp_path / "hyperplane_nat"
    (package / "room").mkdir(parents=True)
    (package / "room" / "absent.pyi").touch()
    (package / "room" / "plain.pyi").touch()
    (package / "room" / "plain.py").touch()
    (check,) = checks.extensions(package)
    assert (check.outcome, check.found) == (
        Outcome.FAILED,
        "not built: hyperplane_nat.room.absent",
    )
    assert check.remedy == "run: make build"


def test_a_python_module_is_no_extension() -> None:
    assert not checks.compiled("hyperplane_nat.config.lab")
    (check,) = checks.extensions(Path(hyperplane_nat.__file__).parent)
    assert check.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("error", "found", "remedy"),
    [
        (NetnsError("no veth", "load it"), "no veth", "load it"),
        (PermissionError(1, "Operation not permitted"), "not permitted", "run as root"),
        (OSError(95, "Operation not supported"), "Operation not supported", "use a kernel"),
    ],
)
def test_a_trial_that_fails(error: Exception, found: str, remedy: str) -> None:
    def trial() -> None:
        raise error

    check = checks.attempt("thing", trial, "works")
    assert check.outcome is Outcome.FAILED
    assert found in check.found
    assert remedy in check.remedy


def test_a_kernel_that_cannot_cut_up_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_segmentation, "available", lambda: False)
    check = checks.attempt("thing", checks.segmentation, "works")
    assert check.outcome is Outcome.MISSING
    assert "one by one" in check.found
    assert "6.2" in check.remedy


def test_a_lab_without_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that is told is about the same lab."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("default", "other"):
        result = run("--lab", name, "doctor")
        assert result.exit_code == 2
        assert f"(run: sudo hyperplane-nat --lab {name} doctor)" in result.stderr
    monkeypatch.setenv("HYPERPLANE_NAT_LAB", "other")
    assert "(run: sudo hyperplane-nat --lab other doctor)" in run("doctor").stderr


def test_a_lab_that_does_not_run_is_one_line(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for arguments in (("doctor", "--lab", "nolab"), ("--lab", "nolab", "doctor", "--json")):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "lab 'nolab' is not running (" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = run("doctor", "--lab", "nolab", "-c", "lab.toml")
    assert result.exit_code == 2
    assert "a running lab has its configuration" in result.stderr


def test_a_program_that_is_not_installed() -> None:
    check = checks.optional(checks.Peer("no-such-program", "its-package", "nothing"))
    assert check == Check(
        "no-such-program", Outcome.MISSING, "for: nothing", "apt-get install its-package"
    )
