# SPDX-License-Identifier: Apache-2.0
"""Regular expressions that clients give, and whether a text has their form.

Theory of operation
-------------------
AWS's are Java's, with lookaround and references back, so an engine that goes back is needed, and
one that goes back may not come to an end. `regex` gives up after a while (`timeout`) and lets other
threads go on meanwhile (`concurrent`); the standard library's engine does neither.

What it compiles can be as bad: it writes each repetition out as often as it has to be there, with
the interpreter's lock in its hands. So the size that a pattern has by then is bounded before. Of
what may stand behind "(?" there is what Java has, but for the flag x, and for nothing that Java
lacks: that size could be hidden in it.
"""

from __future__ import annotations

import re

import regex

from hyperplane_nat.aws.errors import AwsError

SECONDS = 1.0
"""How long one text is tried: what need not go back takes some microseconds."""

SIZE_MAX = 10_000
"""Characters, sets and groups of a pattern, each as often as it has to be there."""

_TOKEN = re.compile(
    r"""
    \\.?
    | \[\^?\]?(?:\\.?|[^\]\\])*(?:\]|\Z)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<times>[*+?]|\{(?P<least>[0-9]*)[^}]*\})
    | .
    """,
    re.DOTALL | re.VERBOSE,
)
_BEHIND_OPENING = re.compile(r"\?(?:[imsu-]*[:)]|[=!>]|<[=!]|<[A-Za-z][A-Za-z0-9]*>)")
_DIGITS_MAX = len(str(SIZE_MAX))


def matches(pattern: str, text: str) -> bool:
    """Whether a whole text has the form. ValidationError for a pattern that cannot tell."""
    if len(pattern) > SIZE_MAX or _size(pattern) > SIZE_MAX:
        raise _refused(pattern, "is too large")
    try:
        found = regex.fullmatch(pattern, text, timeout=SECONDS, concurrent=True)
    except TimeoutError:
        raise _refused(pattern, f"has not come to an end within {SECONDS:g} s") from None
    except (regex.error, RecursionError) as error:
        raise _refused(pattern, f"cannot be read: {error}") from None
    return found is not None


def _size(pattern: str) -> int:
    """How large a pattern is with its repetitions written out: rather too much than too little."""
    sums, last = [0], 0
    for found in _TOKEN.finditer(pattern):
        if found["open"]:
            begin = found.end()
            if pattern.startswith("?", begin) and not _BEHIND_OPENING.match(pattern, begin):
                raise _refused(pattern, f"has a group ({pattern[begin : begin + 2]}")
            sums.append(0)
            last = 0
        elif found["close"] and len(sums) > 1:
            last = 1 + sums.pop()
            sums[-1] += last
        elif found["times"]:
            least = (found["least"] or "").lstrip("0")
            if len(least) > _DIGITS_MAX:
                return SIZE_MAX + 1
            # What may be there more often is there once more.
            more = last * max(int(least or 0) - 1, 1)
            sums[-1] += more
            last += more
        else:
            last = 1
            sums[-1] += 1
    return sum(sums)


def _refused(pattern: str, why: str) -> AwsError:
    shown = pattern if len(pattern) <= 100 else f"{pattern[:100]}..."
    return AwsError("ValidationError", f"The pattern {shown} {why}")
