# SPDX-License-Identifier: Apache-2.0
"""Code that was sent to the lab: archives in a directory of it, each named by what is in it.

The region names them as it names any other code, by path. One goes when no function has it any more
and no environment either: what is being started still finds its own.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperplane_nat.runtime.code import FILES_MAX, CodeError, opened, refuse_too_large
from hyperplane_nat.runtime.places import uploads_path

REQUEST_BYTES_MAX = 69_905_067
"""Of a request with an archive, which is base64 in it: 50 MB ("Lambda quotas"), as Lambda's own
RequestEntityTooLargeException names it."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that is kept."""

    path: Path
    sha256: str
    """As of `code_sha256`."""


def keep(directory: Path, content: bytes) -> Archive:
    """
    Keep an archive in a lab's directory.

    CodeError when it is none, or larger than Lambda lets it be, unpacked; OSError. Blocks.
    """
    _check(content)
    digest = hashlib.sha256(content)
    uploads = uploads_path(directory)
    uploads.mkdir(mode=0o700, exist_ok=True)
    path = uploads / f"{digest.hexdigest()}.zip"
    if not path.exists():
        # Several may send the same at a time.
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return Archive(path, base64.b64encode(digest.digest()).decode())


def keep_state(directory: Path, path: Path) -> Archive:
    """The same of the code that is at `path` now."""
    return keep(directory, archive_of(path))


def drop(paths: Iterable[str]) -> None:
    """Drop archives."""
    for path in paths:
        Path(path).unlink(missing_ok=True)


def archive_of(path: Path) -> bytes:
    """The archive at `path`, or one of the directory or `.py` file there: CodeError, OSError."""
    if path.is_dir():
        return _zipped(path, _files(path))
    if path.suffix == ".py" and path.is_file():
        return _zipped(path.parent, [path])
    path.stat()
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise CodeError(f"{path}: neither a directory nor a zip archive nor a .py file")
    return path.read_bytes()


def _files(directory: Path) -> list[Path]:
    """All files, behind links too; links may lead in a circle, which has too many directories."""
    found: list[Path] = []
    for count, (parent, _, names) in enumerate(os.walk(directory, followlinks=True)):
        found += [file for name in names if (file := Path(parent, name)).is_file()]
        if count + len(found) > FILES_MAX:
            raise CodeError(f"{directory}: has more than {FILES_MAX} files")
    return sorted(found)


def _zipped(directory: Path, files: list[Path]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in files:
            try:
                archive.write(file, file.relative_to(directory))
            except UnicodeEncodeError:
                raise CodeError(f"{str(file)!r}: its name is not UTF-8") from None
    return content.getvalue()


def _check(content: bytes) -> None:
    with opened(io.BytesIO(content), "Could not unzip uploaded file") as archive:
        if not archive.infolist():
            raise CodeError("Uploaded file must be a non-empty zip")
        refuse_too_large(archive, "the archive")
