# SPDX-License-Identifier: Apache-2.0
"""What the model refuses, under the name that AWS gives it."""

from __future__ import annotations


class ModelError(Exception):
    """
    A request that cannot be done; nothing of it was done.

    The text is one line: `<code>: <message> (<remedy>)`. `code` is the error name of AWS (Lambda
    API reference, "Invoke" and "CreateFunction"; EC2 API reference, "Error codes").
    """

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(f"{code}: {message} ({remedy})")
        self.code = code
        self.message = message
        self.remedy = remedy


class StateError(Exception):
    """A saved state that cannot be used; the text is one line with the remedy."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} ({remedy})")
        self.message = message
        self.remedy = remedy
