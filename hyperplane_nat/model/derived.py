# SPDX-License-Identifier: Apache-2.0
"""What follows from rows, remembered until one of them changes.

Theory of operation
-------------------
Rows are replaced and never changed, and each kind of them counts its changes. Whatever is made of
nothing but rows of some kinds, and of other things that are compared, is made anew when one of
these counts, or of these things, is another one. That costs a look at a few numbers where
comparing costs a look at everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Derived:
    """What was made of the rows of some tables, by name."""

    def __init__(self, revisions: Callable[[Iterable[str]], tuple[int, ...]]) -> None:
        """`revisions` tells how often something of each of some kinds has changed."""
        self._revisions = revisions
        self._made: dict[str, tuple[object, Any]] = {}

    def get(self, name: str, kinds: tuple[str, ...], make: Callable[[], T], of: object = None) -> T:
        """What has that name: `make()`, which looks at rows of these kinds, and at `of`."""
        now = (self._revisions(kinds), of)
        known = self._made.get(name)
        if known is None or known[0] != now:
            known = self._made[name] = now, make()
        made: T = known[1]
        return made
