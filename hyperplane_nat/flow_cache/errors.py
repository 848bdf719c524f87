# SPDX-License-Identifier: Apache-2.0
"""The one error of this room."""

from __future__ import annotations


class FlowCacheError(Exception):
    """The flow cache cannot be had; a line says why, further ones are the kernel's words."""
