# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel can cut up UDP frames: tried, with what follows where it cannot."""

from __future__ import annotations

import errno
import os
import platform
import re
import socket
from pathlib import Path
from typing import Any, Self

import pytest

from hyperplane_nat.forwarder import __main__ as program
from hyperplane_nat.forwarder import udp_segmentation

pytestmark = pytest.mark.live

SINCE = (6, 2)


class _Sender:
    """A packet socket on which sending fails."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def sendto(self, _frame: bytes, _address: Any) -> None:
        raise OSError(self._code, os.strerror(self._code))


def test_this_kernel_does_what_its_version_says() -> None:
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    assert version is not None
    assert udp_segmentation.available() is ((int(version[1]), int(version[2])) >= SINCE)


def test_trying_changes_nothing_here() -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino, socket.if_nameindex()
    udp_segmentation.available()
    assert (Path("/proc/thread-self/ns/net").stat().st_ino, socket.if_nameindex()) == before


def test_a_refused_frame_is_a_kernel_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_segmentation, "open_sender", lambda: _Sender(errno.EINVAL))
    assert udp_segmentation.available() is False


def test_any_other_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_segmentation, "open_sender", lambda: _Sender(errno.ENOBUFS))
    with pytest.raises(OSError, match="buffer"):
        udp_segmentation.available()


def test_without_permission_the_forwarder_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused() -> bool:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "unshare")

    monkeypatch.setattr(udp_segmentation, "available", refused)
    with socket.socket() as parent:
        monkeypatch.setattr(program, "_parent", lambda: parent)
        assert program.main(["--state-file", str(tmp_path / "map")]) == 2
    assert capsys.readouterr().err == (
        "forwarder: no permission to make a network namespace: "
        "run as root (CAP_SYS_ADMIN, CAP_NET_RAW)\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_started_by_hand_the_forwarder_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert program.main(["--state-file", str(tmp_path / "map")]) == 2
    assert capsys.readouterr().err == (
        "forwarder: standard input is no socket: it is started by the controller "
        "(hyperplane-nat up)\n"
    )
