# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.metrics` writes docs/metrics.md to standard output."""

import sys

from hyperplane_nat.metrics.page import markdown

sys.stdout.write(markdown())
