# SPDX-License-Identifier: Apache-2.0
"""What a health checker is told to check and what it tells, and when a verdict changes.

Theory of operation
-------------------
The controller writes down the checks, the checker its verdicts, each in a file (`whole_file`). The
checks of a node are a line: what changes is mostly one of many, and the others need not be read
again.

A check is of one target by one node. Its verdict is none until the first good check, or the first
row of bad ones; then it changes when a row is long enough. A check that is told otherwise begins
anew.

Source: "Health checks for Network Load Balancer target groups". A new target needs one good check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

TIMEOUT = "Target.Timeout"
FAILED = "Target.FailedHealthChecks"
MISMATCH = "Target.ResponseCodeMismatch"
"""`TargetHealthReasonEnum` of the Elastic Load Balancing API."""


@dataclass(frozen=True, slots=True)
class Check:
    """Checks of one target by one node."""

    name: str
    """What tells it from others."""
    source: str
    """The node's address."""
    address: str
    port: int
    protocol: str
    """"TCP", "HTTP" or "HTTPS"."""
    path: str
    codes: str
    """Of good answers: numbers and ranges, between commas."""
    host: str
    """The Host header."""
    interval_seconds: float
    timeout_seconds: float
    healthy_count: int
    unhealthy_count: int
    proxy_protocol: bool = False
    """Whether a header of the PROXY protocol (version 2) comes first, which names nobody."""

    def good(self, code: int) -> bool:
        """Whether an answer with that code is one."""
        for part in self.codes.split(","):
            first, _, last = part.partition("-")
            if int(first) <= code <= int(last or first):
                return True
        return False


@dataclass(slots=True)
class Verdict:
    """What checks have found so far."""

    check: Check
    reason: str | None = None
    """None: nothing yet. Empty: healthy. Else why it is not."""
    good: int = field(default=0, init=False)
    bad: int = field(default=0, init=False)

    def note(self, reason: str) -> bool:
        """One more check was good (empty), or bad for that reason; whether the verdict changes."""
        before = self.reason
        if reason:
            self.good, self.bad = 0, self.bad + 1
            if self.bad >= self.check.unhealthy_count or before:
                self.reason = reason
        else:
            self.good, self.bad = self.good + 1, 0
            if before is None or self.good >= self.check.healthy_count:
                self.reason = ""
        return self.reason != before


_FIELDS = tuple(each.name for each in fields(Check))


def encode_check(check: Check) -> bytes:
    """One check, as it is written down."""
    # Not `asdict`, which copies deeply: there may be thousands.
    return json.dumps([getattr(check, name) for name in _FIELDS]).encode()


def line_of(checks: Iterable[bytes]) -> bytes:
    """Checks that come and go together, written down."""
    return b"[" + b",".join(checks) + b"]"


def body_of(lines: Iterable[bytes]) -> bytes:
    """The body of the file of checks."""
    return b"\n".join(lines)


class Decoder:
    """Reads one body after the other; a line that was in the former one is not read again."""

    def __init__(self) -> None:
        self._lines: dict[bytes, list[Check]] = {}

    def decode(self, body: bytes) -> list[Check]:
        """What was encoded; ValueError for what is not of this version."""
        before, self._lines = self._lines, {}
        try:
            for line in body.splitlines():
                known = before.get(line)
                if known is None:
                    known = [Check(*each) for each in json.loads(line)]
                self._lines[line] = known
        except TypeError as error:
            raise ValueError(f"the checks are not of this version: {error}") from None
        return [check for line in self._lines.values() for check in line]


def decode_checks(body: bytes) -> list[Check]:
    """What was encoded; ValueError for what is not of this version."""
    return Decoder().decode(body)


def encode_verdicts(verdicts: Mapping[str, str]) -> bytes:
    """The body of the file of verdicts: reasons by the checks' names."""
    return json.dumps(dict(verdicts)).encode()


def decode_verdicts(body: bytes) -> dict[str, str]:
    """What was encoded; ValueError."""
    found: Any = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("the verdicts are none")
    return {str(name): str(reason) for name, reason in found.items()}
