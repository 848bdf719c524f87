# SPDX-License-Identifier: Apache-2.0
"""Files and directories that are ours alone.

Theory of operation
-------------------
What a lab keeps tells of its traffic, and whoever can replace a file of it or hold its lock has
power over it. So its directory is 0700, or 0710 where a group may use the control socket in it, and
`UMASK`, which the command line and the controller set once, makes whatever is written 0600. A
directory that is there already is believed only when it is ours, nobody else can write in it, and
nobody else can put another one in its place.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

UMASK = 0o077

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_PRIVATE = (0o700, 0o710)


class NotPrivateError(Exception):
    """Somebody else has a say in a path; the text is the cause, without the remedy."""


def make_private(path: Path) -> None:
    """A directory that nobody else can look into; see `make_directory`."""
    make_directory(path, 0o700)
    descriptor = _opened(path)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) not in _PRIVATE:
            # A former version made it so that others could read.
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int) -> None:
    """Make a directory, its parents 0755, or make sure that the one that is there is ours.

    NotPrivateError when somebody else has it, can write in it or can replace it; OSError.
    """
    make_passable(path.parent)
    refuse_replaceable(path)
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
        path.chmod(mode)
    os.close(_opened(path))


def refuse_replaceable(path: Path) -> None:
    """NotPrivateError when somebody else can put something else at this path; OSError."""
    if _others_write(path.parent):
        raise NotPrivateError(f"others can replace what is in {path.parent}")


def refuse_closed(path: Path) -> None:
    """NotPrivateError when our user can reach a path by its privileges only; OSError."""
    groups = {os.getegid(), *os.getgroups()}
    for parent in path.parents:
        found = parent.stat()
        if found.st_uid == os.geteuid():
            bit = stat.S_IXUSR
        else:
            bit = stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH
        if not found.st_mode & bit:
            raise NotPrivateError(f"{parent} lets only user {found.st_uid} pass")


def open_to_write(path: Path, buffer_bytes: int) -> BinaryIO:
    """A file, emptied or new, that only its owner can read; OSError.

    A symbolic link is followed only when it is ours or root's.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    trusted = path.is_symlink() and path.lstat().st_uid in _trusted()
    descriptor = os.open(path, flags if trusted else flags | os.O_NOFOLLOW, 0o600)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "wb", buffer_bytes)
    except BaseException:
        os.close(descriptor)
        raise


def _opened(path: Path) -> int:
    """A descriptor of a directory that is ours and that nobody else can write."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except NotADirectoryError:
        raise NotPrivateError(f"{path} is no directory") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise NotPrivateError(f"{path} belongs to user {found.st_uid}")
        if found.st_mode & _OTHERS_WRITE:
            mode = stat.S_IMODE(found.st_mode)
            raise NotPrivateError(f"others can write in {path} (mode {mode:04o})")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_passable(path: Path) -> None:
    """Directories that others may pass, whatever the umask."""
    if path.exists():
        return
    make_passable(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o755)


def _others_write(directory: Path) -> bool:
    """Whether somebody else can remove or rename our files in a directory."""
    found = directory.stat()
    if found.st_uid not in _trusted():
        return True
    return bool(found.st_mode & _OTHERS_WRITE) and not found.st_mode & stat.S_ISVTX


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()
