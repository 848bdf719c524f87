# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.conformance` writes docs/conformance.md to standard output."""

from __future__ import annotations

import sys

from tests.conformance.page import load, markdown, problems
from tests.conformance.shown import collected


def main() -> int:
    """Print the page; 1 when a marker or a row is wrong."""
    documents = load()
    markers = collected()
    wrong = problems(documents, markers)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    print(markdown(documents, markers), end="")
    return 0


sys.exit(main())
