# SPDX-License-Identifier: Apache-2.0
"""What tells the installed program from any other version of it.

A release has a number, but what runs may have been built from anything. The files tell: it is part
of the command line of the processes that are replaced when the program is another one.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import hyperplane_nat
import netns

PACKAGES = (Path(hyperplane_nat.__file__).parent, Path(netns.__file__).parent)


@functools.cache
def identity() -> str:
    """A word for the files of the packages as they are when it is first asked for."""
    return identity_of(PACKAGES)


def identity_of(packages: Iterable[Path]) -> str:
    """A word that is another one when a file has come, gone, or been written."""
    digest = hashlib.blake2b(digest_size=8)
    for package in packages:
        for directory, directories, files in os.walk(package):
            directories[:] = sorted(set(directories) - {"__pycache__"})
            for file in sorted(files):
                if file.endswith((".py", ".so", ".mjs")):
                    path = Path(directory, file)
                    found = path.stat()
                    digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
