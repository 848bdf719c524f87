# SPDX-License-Identifier: Apache-2.0
"""The code of a function: what it is known by, and how it comes to be a directory.

A directory is used where it is, so that a change of it is seen by the next environment; an archive
is unpacked, and a single file copied, once for each state that it has.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import lzma
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

OWN_RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
"""The Python that runs this program."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs of a function are, unless its variables say otherwise."""

UNPACKED_BYTES_MAX = 250 << 20
"""Of an archive, unpacked ("Lambda quotas": 250 MB with layers)."""

FILES_MAX = 100_000
"""Files of an archive."""

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises at damaged archives and at what it does not know, beside OSError."""


class CodeError(Exception):
    """The code cannot be used; the text says why."""


def program_of(runtime: str, path: str) -> str:
    """The program of a runtime of Python or Node.js on this host. CodeError where there is none."""
    if runtime.startswith("nodejs"):
        found = shutil.which("node", path=path)
        if found is None:
            raise CodeError(f"this host has no Node.js for {runtime}: install nodejs")
        return found
    found = shutil.which(runtime, path=path)
    if found is None:
        raise CodeError(f"this host has no {runtime}: it has {OWN_RUNTIME} for sure")
    return found


def refuse_missing(runtime: str, path: str = PATH) -> None:
    """CodeError for a runtime that no function can have on this host."""
    if runtime != OWN_RUNTIME and runtime.startswith(("python", "nodejs")):
        program_of(runtime, path)


def code_sha256(path: Path) -> str:
    """
    What tells one state of the code from another, as Lambda's `CodeSha256`; empty when there is
    none, or a device or a pipe. Of a directory it is that of names, sizes and times, not of what is
    in the files.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for directory, directories, files in os.walk(path):
                directories.sort()
                for name in sorted(files):
                    file = Path(directory, name)
                    status = file.lstat()
                    line = f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
                    digest.update(os.fsencode(line))
        elif path.is_file():
            with path.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
        else:
            return ""
    except OSError:
        return ""
    return base64.b64encode(digest.digest()).decode()


def directory_of(path: Path, beneath: Path) -> Path:
    """
    The directory with the code that is at `path`, made below `beneath` where it is a file.

    CodeError when it cannot be read, is no code, or is larger than Lambda lets it be. Blocks.
    """
    try:
        if path.is_dir():
            return path
        digest = code_sha256(path)
        if not digest:
            raise CodeError(f"{path}: cannot be read")
        result = beneath / hashlib.sha256(f"{path.name}\0{digest}".encode()).hexdigest()[:32]
        if not result.is_dir():
            make(result, lambda directory: _fill(path, directory))
    except OSError as error:
        raise CodeError(f"{path}: {error.strerror or error}") from None
    return result


@contextlib.contextmanager
def opened(archive: Path | IO[bytes], called: str) -> Iterator[zipfile.ZipFile]:
    """An archive to be read; CodeError that begins `called` when it is damaged; OSError."""
    try:
        with zipfile.ZipFile(archive) as found:
            yield found
    except _DAMAGE as error:
        raise CodeError(f"{called}: {str(error) or 'it is cut short'}") from None


def refuse_too_large(archive: zipfile.ZipFile, called: str) -> None:
    """CodeError when Lambda would not unpack it."""
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > UNPACKED_BYTES_MAX or len(members) > FILES_MAX:
        raise CodeError(f"{called}: unzipped size must be smaller than {UNPACKED_BYTES_MAX} bytes")


def make(result: Path, fill: Callable[[Path], None]) -> None:
    """Make a directory at once as `fill` fills it; OSError, and what `fill` raises."""
    beneath = result.parent
    beneath.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = beneath / f"{result.name}.{os.getpid()}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    # Whoever runs it reads it; nobody else comes as far as here.
    temporary.mkdir()
    temporary.chmod(0o755)
    try:
        fill(temporary)
        temporary.rename(result)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if not result.is_dir():
            raise


def _fill(path: Path, directory: Path) -> None:
    if zipfile.is_zipfile(path):
        unpack(path, directory)
    elif path.suffix == ".py":
        shutil.copyfile(path, directory / path.name)
        (directory / path.name).chmod(0o644)
    else:
        raise CodeError(f"{path}: neither a directory nor a zip archive nor a .py file")


def unpack(path: Path, directory: Path) -> None:
    """Unpack an archive; CodeError when it is damaged or larger than Lambda lets it be."""
    with opened(path, f"{path}: could not unzip it") as archive:
        refuse_too_large(archive, str(path))
        for member in archive.infolist():
            # It keeps names inside the directory; the mode is in the high half (Unix).
            made = Path(archive.extract(member, directory))
            mode = member.external_attr >> 16
            made.chmod(0o755 if made.is_dir() or mode & 0o111 else 0o644)
    for parent, _, _ in os.walk(directory):
        Path(parent).chmod(0o755)
