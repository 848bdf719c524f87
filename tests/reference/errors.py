# SPDX-License-Identifier: Apache-2.0
"""Errors of the reference model."""


class IllegalChoiceError(AssertionError):
    """The engine chose a port, or a flow to expire, that the rules do not allow."""


class DroppedError(Exception):
    """Carries the reason of a drop out of the rules."""


class RefusedError(DroppedError):
    """The drop of a packet for which something has run out; it may be answered."""
