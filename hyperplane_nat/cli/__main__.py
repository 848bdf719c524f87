# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.cli` is `hyperplane-nat`."""

from hyperplane_nat.cli import main

if __name__ == "__main__":
    main()
