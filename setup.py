# SPDX-License-Identifier: Apache-2.0
"""Builds the extension modules; everything else is in pyproject.toml.

Every .pyx below hyperplane_nat/ becomes an extension of the same dotted name, and so does every
one below bench/ when they are built in place: the bench belongs to the source tree and is not
installed. CFLAGS and LDFLAGS are honoured (setuptools puts them around the flags given here).
HYPERPLANE_SANITIZE=1 builds with the address and undefined-behaviour sanitizers: `make asan` does
so in a tree of its own, and the interpreter then needs libasan preloaded. HYPERPLANE_EXTENSIONS=0
leaves the modules to a later `build_ext`. The one program in C, `netns/init`, is built beside them.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SANITIZE = os.environ.get("HYPERPLANE_SANITIZE") == "1"
IN_PLACE = "--inplace" in sys.argv

COMPILE_OPTIONS = ["-std=gnu11", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-function"]
# Cython's own code: unused parameters of slots, and the comparison of signs in its helpers.
COMPILE_OPTIONS += ["-Wno-unused-parameter", "-Wno-sign-compare", "-Wno-missing-field-initializers"]
LINK_OPTIONS: list[str] = []
if SANITIZE:
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    # Their reports name lines, and no variables.
    COMPILE_OPTIONS += [*SANITIZERS, "-fno-omit-frame-pointer", "-g1", "-O1"]
    LINK_OPTIONS += SANITIZERS
else:
    COMPILE_OPTIONS += ["-O3"]
    # Python's own options ask for debugging information, which takes as long as the rest.
    if not any(option.startswith("-g") for option in os.environ.get("CFLAGS", "").split()):
        COMPILE_OPTIONS.append("-g0")


def extensions() -> list[Extension]:
    """One extension per .pyx; each is built again when any .pxd or header has changed."""
    # Under the sanitizers the engine is tested by itself: it is what reads hostile bytes.
    rooms = ["hyperplane_nat/engine"] if SANITIZE else ["hyperplane_nat"]
    if IN_PLACE and not SANITIZE:
        rooms.append("bench")
    sources = sorted(path for room in rooms for path in (ROOT / room).rglob("*.pyx"))
    if not sources:
        # An installation without them would be found out by its first user.
        raise SystemExit("setup.py: the .pyx sources are missing: this tree is incomplete")
    depends = sorted(
        str(path.relative_to(ROOT))
        for room in ("hyperplane_nat", "bench")
        for pattern in ("*.pxd", "*.h")
        for path in (ROOT / room).rglob(pattern)
    )
    return [
        Extension(
            ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [str(path.relative_to(ROOT))],
            depends=depends,
            include_dirs=["."],
            extra_compile_args=COMPILE_OPTIONS,
            extra_link_args=LINK_OPTIONS,
        )
        for path in sources
    ]


def write_constants() -> None:
    """Turn the numbers of constants.py into the .pxd that the compiled modules read."""
    room = ROOT / "hyperplane_nat" / "engine" / "state"
    text: str = runpy.run_path(str(room / "constants.py"))["pxd"]()
    target = room / "_constants.pxd"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def cythonized() -> list[Extension]:
    """The extensions as C; an empty list needs no Cython."""
    write_constants()
    modules = [] if os.environ.get("HYPERPLANE_EXTENSIONS") == "0" else extensions()
    if not modules:
        return []
    from Cython.Build import cythonize

    result: list[Extension] = cythonize(
        modules,
        language_level=3,
        build_dir="build/cython",
        nthreads=os.cpu_count() or 1,
        compiler_directives={"embedsignature": True, "warn.undeclared": False},
    )
    return result


def build_init(directory: Path) -> None:
    """Build the first process of process namespaces, `netns/init`, in the directory of `netns`."""
    source = ROOT / "netns" / "init.c"
    target = directory / "init"
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return
    compiler = [*os.environ.get("CC", "gcc").split(), "-std=gnu11", "-O2", "-Wall", "-Wextra"]
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run([*compiler, "-static", "-s", "-o", str(target), str(source)], check=True)


class BuildExtensions(build_ext):
    """Builds the program beside the extensions when they are built in place."""

    def run(self) -> None:
        """See `build_ext`."""
        super().run()
        if self.inplace:
            build_init(ROOT / "netns")


class BuildPackages(build_py):
    """Puts the program into what is installed."""

    def run(self) -> None:
        """See `build_py`."""
        super().run()
        if not self.editable_mode:
            build_init(Path(self.build_lib) / "netns")


setup(
    ext_modules=cythonized(),
    cmdclass={"build_ext": BuildExtensions, "build_py": BuildPackages},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
