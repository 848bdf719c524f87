# SPDX-License-Identifier: Apache-2.0
"""The layers of a function: directories and archives that are its `/opt`, one over the other.

A single directory is used where it is, as code is. Everything else is put together once for each
state of its parts: what a later layer has is there instead of what an earlier one has under the
same name ("Working with Lambda layers").
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from hyperplane_nat.runtime.code import (
    UNPACKED_BYTES_MAX,
    CodeError,
    code_sha256,
    make,
    opened,
    unpack,
)

OPT = "/opt"


def directory_of(layers: Sequence[Path], code: Path, beneath: Path) -> Path:
    """
    The directory that is to be `/opt`, made below `beneath` where there is none; `code` is the
    directory of the function's own code, which counts for the limit.

    CodeError when a layer cannot be read, is none, or all of it is larger than Lambda lets it be.
    Blocks.
    """
    try:
        if len(layers) == 1 and layers[0].is_dir():
            return layers[0]
        digest = hashlib.sha256()
        for layer in layers:
            state = code_sha256(layer)
            if not state or not layer.exists():
                raise CodeError(f"{layer}: cannot be read")
            digest.update(f"{layer}\0{state}\0".encode())
        result = beneath / f"opt-{digest.hexdigest()[:32]}"
        if not result.is_dir():
            _refuse_too_large(layers, code)
            make(result, lambda directory: _put_together(layers, directory))
    except OSError as error:
        raise CodeError(f"{error.filename or OPT}: {error.strerror or error}") from None
    return result


def _refuse_too_large(layers: Sequence[Path], code: Path) -> None:
    size = _bytes_of(code) + sum(map(_bytes_of, layers))
    if size > UNPACKED_BYTES_MAX:
        raise CodeError(
            "Function code combined with layers exceeds the maximum allowed size of "
            f"{UNPACKED_BYTES_MAX} bytes. The actual size is {size} bytes."
        )


def _bytes_of(path: Path) -> int:
    """Unpacked; what is neither a directory nor an archive is refused when its turn comes."""
    if path.is_dir():
        return sum(
            Path(parent, name).lstat().st_size
            for parent, _, files in os.walk(path)
            for name in files
        )
    if not zipfile.is_zipfile(path):
        return 0
    with opened(path, f"{path}: could not unzip it") as archive:
        return sum(member.file_size for member in archive.infolist())


def _put_together(layers: Sequence[Path], directory: Path) -> None:
    for layer in layers:
        if layer.is_dir():
            _lay(layer, directory)
        elif zipfile.is_zipfile(layer):
            unpacked = directory.with_name(f"{directory.name}.layer")
            try:
                unpacked.mkdir(mode=0o700)
                unpack(layer, unpacked)
                _lay(unpacked, directory)
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
        else:
            raise CodeError(f"{layer}: a layer is a directory or a zip archive")


def _lay(layer: Path, directory: Path) -> None:
    """Copy a layer over what is there; a link that is there is replaced and never followed."""
    for parent, directories, files in os.walk(layer):
        place = directory / Path(parent).relative_to(layer)
        if place.is_symlink() or place.is_file():
            place.unlink()
        place.mkdir(exist_ok=True)
        place.chmod(0o755)
        links = [name for name in directories if Path(parent, name).is_symlink()]
        for name in (*files, *links):
            target = place / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            target.unlink(missing_ok=True)
            _copy(Path(parent, name), target)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    if not target.is_symlink():
        target.chmod(0o755 if source.stat().st_mode & 0o111 else 0o644)
