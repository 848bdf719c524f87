# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.aws` writes docs/aws-api.md to standard output."""

from __future__ import annotations

from hyperplane_nat.aws.page import markdown

print(markdown(), end="")
