# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in a bench, as one line with the remedy in it."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement could not be made; the text is one line."""


class MissingToolError(BenchError):
    """A program of somebody else's is not installed; names the Debian package that has it."""

    def __init__(self, tool: str, package: str) -> None:
        super().__init__(f"{tool} is not installed (apt-get install {package})")
        self.tool = tool
        self.package = package
