# SPDX-License-Identifier: Apache-2.0
"""Modules of a package that are loaded when they are first used, or when there is time.

Most of a controller's start is loading modules, and somebody waits for it. What it takes only to
answer has time until the lab is up; then all of it is loaded (`load`), because another version of
the program may be installed while this one runs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

_promised: list[str] = []


def of(package: str, *modules: str) -> Callable[[str], object]:
    """The `__getattr__` of a package that loads these of its modules (PEP 562)."""
    _promised.extend(f"{package}.{name}" for name in modules)

    def find(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return find


def load() -> None:
    """Load what nobody has used yet."""
    for name in _promised:
        import_module(name)
