# SPDX-License-Identifier: Apache-2.0
"""An invocation, what it comes to, and the texts that Lambda has for what goes wrong.

The error types are those of Lambda's own runtime interface client and of its service, as users see
them in a payload beside `FunctionError: Unhandled`.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from dataclasses import dataclass, field
from typing import NamedTuple

PAYLOAD_BYTES_MAX = 6 * 1024 * 1024
"""Of a synchronous invocation ("Lambda quotas": 6 MB)."""

ANSWER_BYTES_MAX = PAYLOAD_BYTES_MAX + 100
"""What Lambda really refuses: its error names 6291556 bytes."""

EVENT_BYTES_MAX = 1024 * 1024
"""Of an asynchronous invocation ("Lambda quotas": 1 MB)."""

UNHANDLED = "Unhandled"


def trace_id() -> str:
    """An X-Ray trace id that nobody samples."""
    root = f"1-{int(time.time()):08x}-{secrets.token_hex(12)}"
    return f"Root={root};Parent={secrets.token_hex(8)};Sampled=0"


class Target(NamedTuple):
    """What is to be invoked."""

    function: str
    """Its name, with a version or alias behind a colon where one is asked for."""
    account: str | None = None
    """The account id of its ARN, where it was named by one."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One invocation of a function."""

    request_id: str
    payload: bytes
    arn: str
    trace: str = field(default_factory=trace_id)
    client_context: str | None = None
    """JSON."""


@dataclass(slots=True)
class Outcome:
    """What an invocation came to."""

    payload: bytes
    error: str | None = None
    """`Unhandled`, or None when the handler has answered."""
    gone: bool = False
    """Whether its environment serves nobody any more."""
    duration_seconds: float = 0.0
    init_seconds: float | None = None
    """Of the initialization that it waited for."""
    tail: bytes = b""
    """The end of the log."""
    environment: str = ""
    version: str = ""
    """The one that was invoked."""
    cold: bool = False


def failed(kind: str, text: str) -> Outcome:
    """An outcome with an error that the service tells, not the handler; it ends the environment."""
    body = json.dumps({"errorType": kind, "errorMessage": text}).encode()
    return Outcome(body, UNHANDLED, gone=True)


def timed_out(request_id: str, seconds: float) -> Outcome:
    """The handler has not answered in time."""
    return failed(
        "Sandbox.Timedout",
        f"RequestId: {request_id} Error: Task timed out after {seconds:.2f} seconds",
    )


def exited(request_id: str, status: int, *, out_of_memory: bool = False) -> Outcome:
    """The runtime has ended without an answer; `status` as `subprocess` tells it.

    `out_of_memory`: something of the environment was killed for want of memory.
    """
    if status == 0:
        return failed(
            "Runtime.ExitError",
            f"RequestId: {request_id} Error: Runtime exited without providing a reason",
        )
    how = f"signal: {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    kind = "Runtime.OutOfMemory" if out_of_memory and status == -9 else "Runtime.ExitError"
    return failed(kind, f"RequestId: {request_id} Error: Runtime exited with error: {how}")


def too_large() -> Outcome:
    """The answer does not fit; a runtime that cannot give its answer gives up."""
    return failed(
        "Function.ResponseSizeTooLarge",
        f"Response payload size exceeded maximum allowed payload size ({ANSWER_BYTES_MAX} bytes).",
    )


def _signal_name(number: int) -> str:
    # As Go, which Lambda's service is written in, calls them.
    return {9: "killed", 11: "segmentation fault", 6: "aborted", 15: "terminated"}.get(
        number, str(number)
    )


def report_line(
    request_id: str, outcome: Outcome, memory_mb: int, used_mb: int, status: str | None = None
) -> str:
    """REPORT, as CloudWatch Logs has it; initialization is billed (AWS, August 2025)."""
    milliseconds = outcome.duration_seconds * 1000
    init = None if outcome.init_seconds is None else outcome.init_seconds * 1000
    parts = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {milliseconds:.2f} ms",
        f"Billed Duration: {max(1, math.ceil(milliseconds + (init or 0.0)))} ms",
        f"Memory Size: {memory_mb} MB",
        f"Max Memory Used: {used_mb} MB",
    ]
    if init is not None:
        parts.append(f"Init Duration: {init:.2f} ms")
    if status is not None:
        parts.append(f"Status: {status}")
    return "\t".join(parts)
