# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the controller. Each text is one line: the cause, then the remedy."""

from __future__ import annotations


class ControllerError(Exception):
    """The lab cannot be started, kept or removed."""


class ForwarderError(ControllerError):
    """The forwarder refused a command, did not answer or is gone."""


def first_failure(failures: ExceptionGroup[Exception]) -> Exception:
    """The first failure that is not itself a group."""
    first = failures.exceptions[0]
    return first_failure(first) if isinstance(first, ExceptionGroup) else first
