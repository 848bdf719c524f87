# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a capture, in a line with its remedy."""

from __future__ import annotations


class CaptureError(Exception):
    """A capture cannot be made or cannot go on; the text is one line with the remedy."""
