# SPDX-License-Identifier: Apache-2.0
"""The error of whoever writes a configuration: apart from it, for who only has to recognize it."""

from __future__ import annotations


class ConfigError(Exception):
    """A configuration that cannot be used; the text is one line with the remedy."""
