# SPDX-License-Identifier: Apache-2.0
"""Files of /etc that programs in a namespace see in place of the host's.

Theory of operation
-------------------
They are written once, beside the other files of whoever has made the namespaces, and mounted over
the host's in the mounts of one program: its resolver is that of its VPC, and the host's own files
are never touched. A program with a user of its own reads them like any file of /etc. nsswitch.conf
is the host's with one line changed: a host that asks systemd-resolved, or whoever else, would be
asked for names in place of the resolver.

As under `ip netns exec`, a file in /etc/netns/NAME goes before. A file that the host does not have
is nowhere to be mounted on, and stays missing.
"""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

from netns import syscalls
from netns.errors import from_errno

ETC = Path("/etc")
BY_NAME = ETC / "netns"
"""Where files for namespaces of a name are (ip-netns(8))."""

PREFIX = "etc."
"""What the names of our files begin with; the rest is their name in /etc."""

_HOSTNAME = "hostname"
_HOSTS = """\
127.0.0.1 localhost localhost.localdomain
::1 localhost6 localhost6.localdomain6
"""
_SWITCH = re.compile(r"^hosts:.*$", re.MULTILINE)


def write(directory: Path, *, nameserver: str, hostname: str) -> None:
    """Make the files: of environments called `hostname`, and of hosts; OSError."""
    texts = {
        "resolv.conf": f"nameserver {nameserver}\n",
        # Programs on hosts, which are called what this machine is, look themselves up.
        "hosts": f"{_HOSTS}127.0.1.1 {socket.gethostname()}\n",
        _HOSTNAME: f"{hostname}\n",
    }
    with contextlib.suppress(FileNotFoundError):
        texts["nsswitch.conf"] = _SWITCH.sub(
            "hosts: files dns", (ETC / "nsswitch.conf").read_text(encoding="utf-8")
        )
    for name, text in texts.items():
        path = directory / f"{PREFIX}{name}"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        # In place: what is mounted somewhere is this very file.
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)


def show(directory: Path, *, hostname: bool = True, name: str | None = None) -> None:
    """
    Show the calling thread, which has mounts of its own, the files of `directory`.

    Without `hostname` the host's own stays. Those of namespace `name` in /etc/netns go before.
    NetnsError.
    """
    own = {
        path.name.removeprefix(PREFIX): path
        for path in directory.glob(f"{PREFIX}*")
        if hostname or path.name != f"{PREFIX}{_HOSTNAME}"
    }
    if name is not None and (BY_NAME / name).is_dir():
        own |= {path.name: path for path in (BY_NAME / name).iterdir()}
    try:
        for file, path in sorted(own.items()):
            if (ETC / file).exists():
                syscalls.mount(path, ETC / file, None, syscalls.MS_BIND)
    except OSError as error:
        raise from_errno("cannot mount files over those of /etc", error.errno or 0) from None


def be_called(directory: Path) -> None:
    """Give the calling thread the host name of `directory`, in a place of its own for that.

    Nothing where there is none, of a lab of a former version. NetnsError.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            hostname = (directory / f"{PREFIX}{_HOSTNAME}").read_text(encoding="utf-8").strip()
            syscalls.unshare(syscalls.CLONE_NEWUTS)
            socket.sethostname(hostname)
    except OSError as error:
        raise from_errno("cannot take a host name", error.errno or 0) from None
