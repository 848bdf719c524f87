# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.config --markdown` writes docs/configuration.md."""

import sys

from hyperplane_nat.config.text import markdown

if sys.argv[1:] != ["--markdown"]:
    sys.exit("usage: python -m hyperplane_nat.config --markdown")
sys.stdout.write(markdown())
